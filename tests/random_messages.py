"""Random messages of any type of the API, for laws that hold for all of them."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory
from hypothesis import strategies as st

from neptune_api.http.json_codec import is_http_datetime, is_map
from neptune_api.http.rules import TIMESTAMP, FieldPath, is_repeated

if TYPE_CHECKING:
    from collections.abc import Collection

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

_DEPTH = 4

TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "a/b",
        "%2F",
        "a?b=c&d",
        "#",
        "+",
        " ",
        "ws/proj",
        "\x00",
        "null",
        "true",
        "\n\r",
        "é😀",
        "a:b",
        "\\",
    ]
)
HEADER_TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
# JSON knows one NaN.
_DOUBLES = st.floats(allow_nan=False) | st.just(math.nan) | st.integers(-5, 5).map(float)
_FLOATS = st.floats(width=32, allow_nan=False) | st.just(math.nan) | st.integers(-5, 5).map(float)
_SIZES = {
    "INT32": (-(2**31), 2**31 - 1),
    "SINT32": (-(2**31), 2**31 - 1),
    "SFIXED32": (-(2**31), 2**31 - 1),
    "UINT32": (0, 2**32 - 1),
    "FIXED32": (0, 2**32 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "SINT64": (-(2**63), 2**63 - 1),
    "SFIXED64": (-(2**63), 2**63 - 1),
    "UINT64": (0, 2**64 - 1),
    "FIXED64": (0, 2**64 - 1),
}


def messages(
    descriptor: Descriptor,
    *,
    headers: Collection[str] = (),
    filled: Collection[FieldPath] = (),
    depth: int = _DEPTH,
) -> st.SearchStrategy[Message]:
    """Return a strategy for messages of a type.

    `headers` are names of fields that hold what a header can carry, `filled` are paths of texts that are not empty.
    """
    cls = message_factory.GetMessageClass(descriptor)

    @st.composite
    def draw_message(draw: st.DrawFn) -> Message:
        message = cls()
        if descriptor.full_name == TIMESTAMP:
            return cls(
                seconds=draw(st.integers(-62_135_596_800, 253_402_300_799)),
                nanos=draw(st.integers(0, 999_999_999) | st.integers(0, 999).map(lambda each: each * 1_000_000)),
            )
        done: set[str] = set()
        for field in descriptor.fields:
            oneof = field.containing_oneof
            required = (field.name,) in filled
            if not required and (not draw(st.booleans()) or (oneof is not None and oneof.full_name in done)):
                continue
            if field.message_type is not None and depth == 0:
                continue
            if oneof is not None:
                done.add(oneof.full_name)
            if field.name in headers:
                setattr(message, field.name, draw(HEADER_TEXTS))
            elif required:
                setattr(message, field.name, draw(TEXTS.filter(bool)))
            else:
                _fill(message, field, draw, depth)
        return message

    return draw_message()


def _fill(message: Any, field: FieldDescriptor, draw: st.DrawFn, depth: int) -> None:
    if is_map(field):
        entry: Any = field.message_type
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for name in draw(st.lists(_values(key, depth), max_size=2)):
            if value.message_type is None:
                getattr(message, field.name)[name] = draw(_values(value, depth))
            else:
                getattr(message, field.name)[name].CopyFrom(draw(_values(value, depth)))
    elif is_repeated(field):
        getattr(message, field.name).extend(draw(st.lists(_values(field, depth), max_size=2)))
    elif field.message_type is not None:
        part = getattr(message, field.name)
        part.CopyFrom(draw(_values(field, depth)))
        part.SetInParent()
    else:
        setattr(message, field.name, draw(_values(field, depth)))


@cache
def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, depth=depth - 1)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    simple: dict[int, st.SearchStrategy[Any]] = {
        field.TYPE_STRING: TEXTS,
        field.TYPE_BYTES: st.binary(max_size=8),
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_DOUBLE: _DOUBLES,
        field.TYPE_FLOAT: _FLOATS,
    }
    if field.type in simple:
        return simple[field.type]
    if is_http_datetime(field):
        return st.integers(-62_135_596_800_000, 253_402_300_799_999)
    low, high = next(size for name, size in _SIZES.items() if getattr(field, f"TYPE_{name}") == field.type)
    return st.integers(low, high) | st.integers(0, 3)
