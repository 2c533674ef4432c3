"""HTTP/1.1 from bytes: every way to cut a response into pieces is the same response, and nothing malformed passes."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.http.protocol import (
    MAX_HEAD_BYTES,
    FramingError,
    IncompleteError,
    Response,
    TooLargeError,
    request_head,
)

LIMIT = 10_000

names = st.text("abcdefgh-XYZ_", min_size=1, max_size=8).map(lambda name: f"x-{name}")
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)
bodies = st.binary(max_size=300)


def read(data: bytes, cuts: list[int] | None = None, *, end: bool = False, **arguments: Any) -> Response:
    """Return the response in some bytes that come in pieces."""
    response = Response(**{"max_bytes": LIMIT, **arguments})
    places = sorted({cut % (len(data) + 1) for cut in cuts or []})
    for begin, stop in zip([0, *places], [*places, len(data)], strict=True):
        if begin < stop:
            response.feed(data[begin:stop])
    if end:
        response.end()
    return response


def chunked(body: bytes, sizes: list[int]) -> bytes:
    parts: list[bytes] = []
    while body:
        size = sizes[len(parts) % len(sizes)]
        parts.append(body[:size])
        body = body[size:]
    return b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX-Trailer: t\r\n\r\n"


@given(bodies, st.dictionaries(names, values, max_size=4), st.sampled_from(["length", "chunked", "close"]), st.data())
def test_a_response_is_the_same_in_whatever_pieces_it_comes(
    body: bytes, headers: dict[str, str], framing: str, data: Any
) -> None:
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in headers.items())]
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
        sent = body
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        sent = chunked(body, data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    else:
        sent = body
    whole = "\r\n".join([*lines, "\r\n"]).encode() + sent
    response = read(whole, data.draw(st.lists(st.integers(0, 500), max_size=6)), end=framing == "close")
    assert response.done
    assert response.status == 200
    assert response.take() == body
    # The connection can be used again once it is known where the response ends.
    assert response.reusable == (framing != "close")

    # The standard library understands the same.
    class Socket:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(whole)

    reference = http.client.HTTPResponse(Socket())  # type: ignore[arg-type] # it asks for no more of a socket
    reference.begin()
    assert reference.read() == body
    for name in headers:
        assert response.headers[name.lower()] == reference.headers[name].strip() or len(
            {other.lower() for other in headers}
        ) < len(headers)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_an_error(data: bytes) -> None:
    for begin in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        try:
            response = read(begin + data, end=True)
        except (FramingError, TooLargeError):
            continue
        assert response.done


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/2 200\r\n",
        "HTTP/1.1 099 x\r\n",
        "HTTP/1.1 20 x\r\n",
        "ICY 200 OK\r\n",
        "\r\n",
        "HTTP/1.1 101 Switching\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n",
        "HTTP/1.1 200 OK\r\nspace : x\r\n",
        "HTTP/1.1 200 OK\r\n folded\r\n",
        "HTTP/1.1 200 OK\r\na: b\n c\r\n",
        "HTTP/1.1 200 OK\r\na: \x00\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
    ],
)
def test_a_malformed_head_is_no_response(head: str) -> None:
    with pytest.raises(FramingError):
        read(f"{head}\r\n".encode("latin-1"))


@pytest.mark.parametrize("body", [b"x\r\n", b"-1\r\n", b"1\r\nab\r\n", b"\r\n", b"1" * 5000, b"0x1\r\na\r\n"])
def test_a_malformed_chunk_is_no_body(body: bytes) -> None:
    with pytest.raises(FramingError):
        read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_a_response_cut_short_is_told_from_a_whole_one(data: bytes) -> None:
    with pytest.raises(IncompleteError):
        read(data, end=True)


def test_heads_and_bodies_have_limits() -> None:
    head = b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES
    with pytest.raises(FramingError, match="131,072 bytes"):
        read(head)
    fitting = b"HTTP/1.1 200 OK\r\nX: " + b"y" * (MAX_HEAD_BYTES - 30) + b"\r\nContent-Length: 0\r\n\r\n"
    assert not read(fitting[:-30]).done
    for size in (LIMIT, LIMIT + 1):
        length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        until_the_end = b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * size
        in_chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size + b"z" * size
        for data in (length, until_the_end, in_chunks):
            if size == LIMIT:
                read(data)
            else:
                with pytest.raises(TooLargeError, match="max_receive_bytes"):
                    read(data)


def test_interim_responses_are_skipped() -> None:
    response = read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n")
    assert (response.status, response.done, response.headers) == (204, True, {})


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        ("HTTP/1.1 200 OK\r\n", True),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", False),
        ("HTTP/1.0 200 OK\r\n", False),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_the_head_says_whether_the_connection_stays(head: str, reusable: bool) -> None:
    response = read(f"{head}Content-Length: 1\r\n\r\nx".encode())
    assert response.reusable == reusable
    # What nobody asked for spoils it.
    for rest in (b"y", b"HTTP/1.1 200 OK\r\n\r\n"):
        spoilt = read(f"{head}Content-Length: 1\r\n\r\nx".encode() + rest)
        assert (spoilt.take(), spoilt.reusable) == (b"x", False)
        response.feed(rest)
        assert not response.reusable


def test_several_fields_of_one_name_are_a_list() -> None:
    assert read(b"HTTP/1.1 200 OK\r\nA: 1\r\na:2 \r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n").headers == {
        "a": "1, 2",
        "content-length": "0, 0",
    }


@pytest.mark.parametrize(
    ("name", "value"), [("a\r\nb", "c"), ("a", "b\r\nc: d"), ("a", "b\x00"), ("", "b"), ("a b", "c")]
)
def test_no_header_becomes_two(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="HTTP cannot carry"):
        request_head("GET", "/", [(name, value)])
