"""Response streams as HTTP bodies: one frame after the other, the end of the body is the end of the stream.

In JSON a frame is a line, `{"result": <message>}`, or `{"error": <Error object>}` for the last one of a stream that
failed. In binary it is a flag, the length as four bytes, most significant first, and as many bytes of a message (flag
0) or of the google.rpc.Status with which the stream failed (flag 128). A body that breaks off inside of a frame, or
that its transport did not see end, is a broken stream.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from neptune_api.http import json_codec
from neptune_api.http.errors import error_body, status_of
from neptune_api.http.json_codec import TranscodeError
from neptune_api.http.rules import Format
from neptune_api.http.transcode import body_format, decode_response, encode_response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from neptune_api.http.rules import Rule

_HEAD: Final = struct.Struct(">BI")
_RESULT: Final = 0
_ERROR: Final = 128


def encode_frame(rule: Rule, message: Message, format: Format) -> bytes:  # noqa: A002 # what else
    """Return the frame of one message. Raises TranscodeError."""
    body = encode_response(rule, message, format)
    if format is Format.JSON:
        return b'{"result":%b}\n' % body
    return _HEAD.pack(_RESULT, len(body)) + body


def encode_error_frame(
    status: status_pb2.Status,
    format: Format,  # noqa: A002 # what else
    body: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the frame of a failure; `body` is its Error object, if it has to be another than error_body() makes."""
    if format is Format.JSON:
        return b'{"error":%b}\n' % json_codec.dump(error_body(status) if body is None else body)
    encoded = status.SerializeToString()
    return _HEAD.pack(_ERROR, len(encoded)) + encoded


class StreamFailed(Exception):  # noqa: N818 # it is the status that is the error
    """The stream ended with a status; never leaves a transport."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class FrameDecoder:
    """Cuts the body of a response stream into messages, from pieces of any size.

    `max_bytes` bounds the frames. Raises MediaTypeError for a body that is no stream.
    """

    def __init__(self, rule: Rule, content_type: str | None, *, max_bytes: int) -> None:
        self._rule = rule
        self._format = body_format(content_type, rule.response_format)
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that the next piece completes; exhaust it before the next call.

        Raises StreamFailed after the last message of a stream that failed, TranscodeError for bytes that are no frame
        and for a frame over the limit.
        """
        self._buffer += data
        take = self._line if self._format is Format.JSON else self._binary
        while (message := take()) is not None:
            yield message

    def close(self) -> None:
        """Take the end of the body. Raises TranscodeError when it lies inside of a frame."""
        if self._buffer.strip() if self._format is Format.JSON else self._buffer:
            raise TranscodeError("the response stream breaks off inside of a message")

    def _line(self) -> Message | None:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                self._check(self._searched)
                return None
            self._check(end)
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if line.strip():
                return self._from_line(line)

    def _from_line(self, line: bytes) -> Message:
        frame = json_codec.load(line)
        if not isinstance(frame, dict) or not frame.keys() & {"result", "error"}:
            raise TranscodeError("a line of the response stream has neither a result nor an error")
        error = frame.get("error")
        if error is not None:
            body = error if isinstance(error, dict) else {}
            code = body.get("code")
            raise StreamFailed(status_of(body, code if isinstance(code, int) else 500))
        return decode_response(self._rule, json_codec.dump(frame["result"]), Format.JSON.content_type)

    def _binary(self) -> Message | None:
        if len(self._buffer) < _HEAD.size:
            return None
        flag, length = _HEAD.unpack_from(self._buffer)
        self._check(length)
        if flag not in {_RESULT, _ERROR}:
            raise TranscodeError(f"a frame of the response stream has the unknown flag {flag}")
        if len(self._buffer) < _HEAD.size + length:
            return None
        body = bytes(memoryview(self._buffer)[_HEAD.size : _HEAD.size + length])
        del self._buffer[: _HEAD.size + length]
        if flag == _RESULT:
            return decode_response(self._rule, body, Format.PROTOBUF.content_type)
        try:
            raise StreamFailed(status_pb2.Status.FromString(body))
        except DecodeError:
            raise TranscodeError("the error of the response stream cannot be read") from None

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise TranscodeError(f"a message of the response stream has more than {self._max_bytes:,} bytes, the limit")
