"""The protobuf wire format, as far as the store reads it without messages."""

from __future__ import annotations

from google.protobuf.message import DecodeError


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the varint at a position and the position behind it.

    Raises IndexError when the data end within it, DecodeError when it is longer than a varint can be.
    """
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    result, shift = byte & 0x7F, 7
    while True:
        position += 1
        byte = data[position]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position + 1
        shift += 7
        if shift > 63:
            raise DecodeError("A varint is too long.")
