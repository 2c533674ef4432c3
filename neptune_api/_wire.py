"""The protobuf wire format, as far as messages with many points are read and written without objects for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT: Final = 0
LENGTH: Final = 2
_FIXED_SIZES: Final = {1: 8, 5: 4}
_MAX_TAG: Final = 0xFFFF_FFFF


def varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
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


def encode_varint(number: int) -> bytes:
    """Return a number, 0 or more, as a varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield tag, start and end of the value of each field of a message, in their order.

    Raises DecodeError for bytes that are no message, and for groups, which no message here has.
    """
    position = 0
    try:
        while position < len(message):
            tag, position = varint(message, position)
            start, wire_type = position, tag & 7
            if wire_type == LENGTH:
                length, start = varint(message, position)
                position = start + length
            elif wire_type == VARINT:
                _, position = varint(message, position)
            elif wire_type in _FIXED_SIZES:
                position += _FIXED_SIZES[wire_type]
            else:
                raise DecodeError("A field has an unknown wire type.")
            if not 8 <= tag <= _MAX_TAG:
                raise DecodeError("A field has an impossible number.")
            if position > len(message):
                raise DecodeError("A field is longer than the message.")
            yield tag, start, position
    except IndexError as error:
        raise DecodeError("The message ends within a field.") from error
