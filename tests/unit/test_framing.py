"""Response streams, errors, deadlines and metadata on the HTTP wire."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.exceptions import HTTP_STATUS, http_status
from neptune_api.http import framing, headers
from neptune_api.http.errors import decode_error, encode_error, error_body, info_of
from neptune_api.http.framing import FrameDecoder, StreamFailed
from neptune_api.http.json_codec import TranscodeError
from neptune_api.http.rules import Format, all_rules
from neptune_api.http.transcode import MediaTypeError
from neptune_api.server.errors import StatusError
from tests.random_messages import messages

if TYPE_CHECKING:
    from google.protobuf.message import Message

(READ,) = all_rules()["/neptune_api.v1.SeriesService/ReadColumns"]
FAILURE = StatusError(
    grpc.StatusCode.ABORTED,
    "Änderung im Weg",
    reason="CONFLICT",
    metadata={"a": "b"},
    violations=[("x", "is wrong")],
    retry_seconds=1.5,
).status()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


def decode(data: list[bytes], written: Format, *, max_bytes: int = 1 << 20) -> list[Message]:
    decoder = FrameDecoder(READ, written.stream_content_type, max_bytes=max_bytes)
    found = [message for piece in data for message in decoder.feed(piece)]
    decoder.close()
    return found


@given(
    st.lists(messages(READ.method.output_type), max_size=4),
    st.lists(st.integers(0, 10_000)),
    st.sampled_from(Format),
    st.booleans(),
)
def test_streams_arrive_as_they_were(sent: list[Message], cuts: list[int], written: Format, failed: bool) -> None:
    data = b"".join(framing.encode_frame(READ, message, written) for message in sent)
    if failed:
        data += framing.encode_error_frame(FAILURE, written)
    decoder = FrameDecoder(READ, written.stream_content_type, max_bytes=1 << 20)
    found: list[Message] = []
    status = None
    for piece in pieces(data, cuts):
        try:
            found.extend(decoder.feed(piece))
        except StreamFailed as error:
            status = error.status
    assert [each.SerializeToString() for each in found] == [each.SerializeToString() for each in sent]
    assert status == (FAILURE if failed else None)
    decoder.close()


@pytest.mark.parametrize("written", list(Format))
def test_streams_that_break_off(written: Format) -> None:
    frame = framing.encode_frame(READ, READ_COLUMNS, written)
    assert decode([frame, frame], written) == [READ_COLUMNS, READ_COLUMNS]
    for cut in (1, len(frame) // 2, len(frame) - 1):
        with pytest.raises(TranscodeError, match="breaks off"):
            decode([frame[:cut]], written)


def columns() -> Any:
    from neptune_api.v1.series_service_pb2 import ReadColumnsResponse

    return ReadColumnsResponse(series_index=3, last=True)


READ_COLUMNS = columns()


@pytest.mark.parametrize(
    ("data", "written", "error"),
    [
        (b"[]\n", Format.JSON, "neither a result nor an error"),
        (b"{}\n", Format.JSON, "neither a result nor an error"),
        (b"x\n", Format.JSON, "malformed"),
        (b"x" * 2000, Format.JSON, "more than 1,000 bytes"),
        (b"x" * 2000 + b"\n", Format.JSON, "more than 1,000 bytes"),
        (b"\x07\0\0\0\0", Format.PROTOBUF, "unknown flag 7"),
        (b"\0\0\0\x10\0", Format.PROTOBUF, "more than 1,000 bytes"),
        (b"\0\0\0\0\1\xff", Format.PROTOBUF, r"is not a neptune_api\.v1\.ReadColumnsResponse"),
        (b"\x80\0\0\0\1\xff", Format.PROTOBUF, "cannot be read"),
    ],
)
def test_bytes_that_are_no_stream(data: bytes, written: Format, error: str) -> None:
    with pytest.raises(TranscodeError, match=error):
        decode([data], written, max_bytes=1000)


def test_other_media_types_are_no_stream() -> None:
    with pytest.raises(MediaTypeError):
        FrameDecoder(READ, "text/html", max_bytes=1)


@given(st.binary(max_size=60), st.sampled_from(Format))
def test_random_streams(data: bytes, written: Format) -> None:
    try:
        decode([data], written, max_bytes=50)
    except (TranscodeError, StreamFailed):
        return


# Errors


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_errors_arrive_as_they_were(code: grpc.StatusCode) -> None:
    for status in (
        StatusError(code, "what happened").status(),
        StatusError(code, "", reason="R", metadata={"k": "v"}, violations=[("f", "d")], retry_seconds=0.25).status(),
    ):
        body = error_body(status)
        assert decode_error(body["code"], encode_error(body)) == status
        assert body["code"] == http_status(status)


def test_error_object() -> None:
    body = json.loads(encode_error(error_body(FAILURE, error_type="CONFLICT")))
    assert {key: body[key] for key in ("code", "message", "errorType", "type", "title", "status")} == {
        "code": 409,
        "message": "Änderung im Weg",
        "errorType": "CONFLICT",
        "type": "CONFLICT",
        "title": "Aborted",
        "status": "ABORTED",
    }
    assert info_of(FAILURE).reason == "CONFLICT"
    assert info_of(status_pb2.Status(code=5)).reason == ""
    titled = StatusError(grpc.StatusCode.INVALID_ARGUMENT, "m", reason="R", metadata={"title": "Syntax error"})
    assert error_body(titled.status())["title"] == "Syntax error"
    assert error_body(status_pb2.Status(code=5))["title"] == "Not found"
    assert "errorType" not in error_body(FAILURE)


def test_too_large_is_not_too_many() -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert http_status(StatusError(code, "", retry_seconds=1).status()) == HTTP_STATUS[code] == 429
    assert http_status(StatusError(code, "", reason="REQUEST_TOO_LARGE").status()) == 413
    assert http_status(status_pb2.Status(code=999)) == 500


@pytest.mark.parametrize(
    ("http_code", "body", "content_type", "code", "message"),
    [
        (502, b"<html>Bad gateway</html>", "text/html", "UNAVAILABLE", "The server answered HTTP status 502."),
        (404, b"no such page", "text/plain", "NOT_FOUND", "no such page"),
        (404, b"", None, "NOT_FOUND", "The server answered HTTP status 404."),
        (500, b"x" * 5000, None, "INTERNAL", f"{'x' * 200}..."),
        (400, b'{"message": "m", "errorType": "ACCESS_DENIED"}', None, "INVALID_ARGUMENT", "m"),
        (400, b'{"message": 5, "status": "OK", "details": 3}', None, "INVALID_ARGUMENT", "The server answered HTTP"),
        (400, b'{"status": "ABORTED", "details": [{"@type": "x"}, 7, {}]}', None, "ABORTED", "The server answered"),
        (409, b"[1]", "application/json", "ALREADY_EXISTS", "[1]"),
        (418, b"\xff", None, "FAILED_PRECONDITION", "\ufffd"),
    ],
)
def test_errors_of_others(http_code: int, body: bytes, content_type: str | None, code: str, message: str) -> None:
    status = decode_error(http_code, body, content_type)
    assert status.code == grpc.StatusCode[code].value[0]
    assert status.message.startswith(message)


def test_reasons_of_others() -> None:
    status = decode_error(403, b'{"code": 403, "message": "no", "errorType": "ACCESS_DENIED"}')
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "ACCESS_DENIED"


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode), st.integers(100, 600))
def test_any_body_is_an_error(body: bytes, http_code: int) -> None:
    assert decode_error(http_code, body).message


# Headers


@given(st.floats(1e-6, 1e9))
def test_deadlines_arrive(seconds: float) -> None:
    text = headers.encode_timeout(seconds)
    assert len(text) <= 9
    assert seconds <= headers.decode_timeout(text) * (1 + 1e-9) <= seconds * 1.01 + 2e-6


def test_deadlines_at_the_ends() -> None:
    assert headers.decode_timeout(headers.encode_timeout(0)) == 0
    assert headers.decode_timeout(headers.encode_timeout(-5)) == 0
    assert headers.decode_timeout(headers.encode_timeout(math.inf)) > 1e9


@pytest.mark.parametrize("text", ["", "5", "S", "-1S", "1.5S", "123456789S", "1X", "\u0661S", "1S\n2S"])
def test_bad_deadlines(text: str) -> None:
    with pytest.raises(TranscodeError, match="grpc-timeout"):
        headers.decode_timeout(text)


KEYS = st.from_regex(r"x-[a-z0-9_.-]{1,10}", fullmatch=True)


@given(
    st.lists(
        st.tuples(KEYS, st.text(st.characters(min_codepoint=33, max_codepoint=126)))
        | st.tuples(KEYS.map(lambda key: f"{key}-bin"), st.binary())
    )
)
def test_metadata_arrives(metadata: list[tuple[str, str | bytes]]) -> None:
    metadata = [(key, value) for key, value in metadata if key.endswith("-bin") is isinstance(value, bytes)]
    assert headers.decode_metadata(headers.encode_metadata(metadata)) == metadata


@pytest.mark.parametrize(
    ("key", "value"),
    [("a", "x\r\ny: z"), ("a", "é"), ("a\r\n", "x"), ("content-length", "5"), ("Host", "x"), ("", "x")],
)
def test_metadata_that_no_header_carries(key: str, value: str) -> None:
    with pytest.raises(TranscodeError, match="metadata"):
        headers.encode_metadata([(key, value)])


def test_headers_that_are_no_metadata() -> None:
    assert headers.decode_metadata([("host", "x"), ("x-bin", "?"), ("x-bin", "YQ,Yg=="), ("a b", "c"), ("x", "y")]) == [
        ("x-bin", b"a"),
        ("x-bin", b"b"),
        ("x", "y"),
    ]
