"""Attributes as messages, written as bytes: a message made for each of ten thousand takes several times as long.

The bytes are those that protobuf itself writes: fields in their order, and zero only where a field has presence.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from itertools import islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neptune_api._wire import encode_varint
from neptune_api.server.point_messages import point_value
from neptune_api.server.store import rules, steps
from neptune_api.server.store.series import SUMMARY_FIELDS, AttributeRow
from neptune_api.server.store.summaries import mean
from neptune_api.v1 import annotations_pb2
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from neptune_api.server.store.attribute_columns import Part
    from neptune_api.server.store.definitions import Definition

    # From a row or a value, and how many characters of a text count, to what the message of its type has beside name
    # and type.
    Encode = Callable[[Any, int | None], bytes]

TYPE_NAMES: Final[dict[int, str]] = {
    value.number: value.GetOptions().Extensions[annotations_pb2.http_name] for value in T.DESCRIPTOR.values
}
"""Names of attribute types in answers."""

# Wire format: tags of name and type, which are the same in Attribute and in the messages of all types.
_NAME: Final = b"\x0a"
_TYPE: Final = b"\x12"
# Of the value of single attributes: as a varint, a double, or a text. Of the other fields of FileRefAttribute.
_INTEGER: Final = b"\x18"
_DOUBLE: Final = b"\x19"
_TEXT: Final = b"\x1a"
_SIZE_BYTES: Final = b"\x20"
_MIME_TYPE: Final = b"\x2a"
# Of the fields of FloatSeriesAttribute, the last one with its value, true; of the other series.
_SUMMARY: Final = (b"\x19", b"\x21", b"\x29", b"\x31", b"\x39", b"\x41")
_HAS_PREVIEW: Final = b"\x50\x01"
_LAST_STEP: Final = b"\x19"
_LAST: Final = b"\x22"


class _Varints(dict[int, bytes]):
    """Numbers as varints: small ones, as most lengths are, from a table."""

    def __missing__(self, number: int) -> bytes:
        return encode_varint(number)


_VARINTS: Final = _Varints((number, encode_varint(number)) for number in range(2048))
# Of fewer series, summaries are written one by one in less time.
_MANY_SUMMARIES: Final = 32
_NAN: Final = math.nan
_ZERO: Final = bytes(8)
_UINT64: Final = 0xFFFF_FFFF_FFFF_FFFF
_double: Final = struct.Struct("<d").pack
_summary: Final = struct.Struct("<cdcdcdcdcdcd").pack
# Rows as they come from the database look each name up again.
_LAST_STEP_PLACE: Final = AttributeRow._fields.index("last_step")
_NAME_PLACE: Final = AttributeRow._fields.index("name")
_name_and_type: Final = itemgetter(_NAME_PLACE, AttributeRow._fields.index("type"))
_last_step, _last_payload, _int_value, _float_value, _text_value, _mime_type = (
    itemgetter(AttributeRow._fields.index(name))
    for name in ("last_step", "last_payload", "int_value", "float_value", "text_value", "mime_type")
)


def encode_attributes(rows: Sequence[AttributeRow], tag: bytes, *, longest: int | None = None) -> list[bytes]:
    """Return a field with this tag for each row, which holds a serialized Attribute.

    Of texts of strings and string series it has the `longest` first characters.
    """
    if len(rows) >= _MANY_SUMMARIES and set(map(len, rows)) == {SUMMARY_FIELDS}:
        return _encode_summaries(rows, tag)
    fields = []
    for row in rows:
        name, type_ = _name_and_type(row)
        path = name.encode()
        type_field, message, encode = _ENCODINGS[type_]
        attribute = head = _NAME + _VARINTS[len(path)] + path + type_field
        if encode is not None:
            value = head + encode(row, longest)
            attribute = head + message + _VARINTS[len(value)] + value
        fields.append(tag + _VARINTS[len(attribute)] + attribute)
    return fields


def _encode_summaries(rows: Sequence[Any], tag: bytes) -> list[bytes]:
    """Return what encode_attributes does, for rows of SUMMARIES."""
    type_field, message, _ = _ENCODINGS[T.ATTRIBUTE_TYPE_FLOAT_SERIES]
    fields = []
    # What stands before the path, which comes twice, by its length and that of the summary.
    beginnings: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    for row, summary in zip(rows, _summaries(rows), strict=True):
        path = row[_NAME_PLACE].encode()
        found = beginnings.get((len(path), len(summary)))
        if found is None:
            begin = _NAME + _VARINTS[len(path)]
            head = len(begin) + len(path) + len(type_field)
            middle = message + _VARINTS[head + len(summary)]
            first = tag + _VARINTS[2 * head + len(middle) + len(summary)]
            found = beginnings[len(path), len(summary)] = first + begin, type_field + middle + begin
        fields.append(b"".join((found[0], path, found[1], path, type_field, summary)))
    return fields


def _summaries(rows: Sequence[Any]) -> list[bytes]:
    """Return what the messages of float series have beside name and type, of rows of SUMMARIES."""
    columns = list(zip(*rows, strict=True)) if len(rows) >= _MANY_SUMMARIES else []
    if not columns or None in columns[_LAST_STEP_PLACE]:
        return [_encode_float_series(row, None) for row in rows]
    _, _, _, last_steps, has_previews, *numbers = columns
    last, count, minimum, maximum, total, deviations = (np.array(column, np.float64) for column in numbers)
    means = np.full((2, len(rows)), _NAN)
    np.divide((total, deviations), count, out=means, where=count > 0)
    doubles = (steps.to_double(np.array(last_steps, np.int64)), last, minimum, maximum, *means)
    records = np.empty((len(rows), len(_SUMMARY)), [("tag", "S1"), ("value", "<f8")])
    records["tag"] = _SUMMARY
    records["value"] = np.stack(doubles, axis=1)
    summaries: list[bytes] = records.view(f"V{records[0].nbytes}")[:, 0].tolist()
    if any(has_previews):
        return [
            summary + _HAS_PREVIEW if has_preview else summary
            for summary, has_preview in zip(summaries, has_previews, strict=True)
        ]
    return summaries


def encode_by_run(part: Part, tag: bytes, *, longest: int | None = None) -> Iterable[tuple[int, Sequence[bytes]]]:
    """Return the keys of runs with fields as those of encode_attributes, ascending by the names of the attributes.

    Of what a run does not have there may be an empty field, and runs that have nothing may be left out.
    """
    if not part.columns:
        every = [row for _, rows in part.rows for row in rows]
        fields = iter(encode_attributes(every, tag, longest=longest))
        return ((run.key, list(islice(fields, len(rows)))) for run, rows in part.rows)
    cells: dict[str, dict[int, bytes]] = defaultdict(dict)
    for name, type_, keys, values in part.columns:
        cells[name].update(zip(keys, encode_column(name, type_, values, tag, longest=longest), strict=True))
    for run, rows in part.rows:
        for row, field in zip(rows, encode_attributes(rows, tag, longest=longest), strict=True):
            cells[_name_and_type(row)[0]][run.key] = field
    columns = [map(cells[name].get, part.keys, repeat(b"")) for name in sorted(cells)]
    return zip(part.keys, zip(*columns, strict=True), strict=True)


def encode_column(
    name: str, type_: int, values: Sequence[Any], tag: bytes, *, longest: int | None = None
) -> list[bytes]:
    """Return a field with this tag for each value of one attribute, which holds a serialized Attribute.

    Values are those of AttributeColumn. Of strings it has the `longest` first characters.
    """
    if type_ == T.ATTRIBUTE_TYPE_STRING:
        beginnings = _Beginnings(name, type_, tag, _TEXT)
        contents = [text[:longest].encode() for text in values]
    elif type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
        beginnings = _Beginnings(name, type_, tag)
        contents = _summaries(values)
    else:
        beginnings = _Beginnings(name, type_, tag)
        encode = _VALUE_ENCODERS[type_]
        contents = [encode(value, longest) for value in values]
    return [beginnings[len(content)] + content for content in contents]


class _Beginnings(dict[int, bytes]):
    """What stands before the content of an attribute, by the length of the content.

    That is a field and all, or what is in a field with a tag, which is left out when it is empty.
    """

    def __init__(self, name: str, type_: int, tag: bytes, content_tag: bytes = b"") -> None:
        super().__init__()
        path = name.encode()
        type_field, self._message, _ = _ENCODINGS[type_]
        self._tag = tag
        self._content_tag = content_tag
        self._head = _NAME + _VARINTS[len(path)] + path + type_field

    def __missing__(self, length: int) -> bytes:
        field = self._content_tag + _VARINTS[length] if self._content_tag and length else b""
        value = self._message + _VARINTS[len(self._head) + len(field) + length] + self._head + field
        found = self[length] = self._tag + _VARINTS[len(self._head) + len(value) + length] + self._head + value
        return found


def encode_definitions(found: Iterable[Definition], tag: bytes) -> bytes:
    """Return a field with this tag for each name and type, which holds a serialized AttributeDefinition."""
    fields: list[bytes] = []
    for name, type_ in found:
        path = name.encode()
        head, type_field = _VARINTS[len(path)], _TYPE_FIELDS[type_]
        fields += (tag, _VARINTS[len(path) + len(head) + len(type_field) + 1], _NAME, head, path, type_field)
    return b"".join(fields)


def encode_parts(tag: bytes, parts: Sequence[bytes]) -> list[bytes]:
    """Return a field that holds a serialized message given in parts, in parts as well."""
    return [tag + _VARINTS[sum(map(len, parts))], *parts]


def encode_field(tag: bytes, content: bytes) -> bytes:
    """Return a field that holds a text in UTF-8 or a serialized message."""
    return tag + _VARINTS[len(content)] + content


def _encode_integer(row: AttributeRow, longest: int | None) -> bytes:
    return _integer(_int_value(row), longest)


def _encode_float(row: AttributeRow, longest: int | None) -> bytes:
    return _float(_float_value(row), longest)


def _encode_string(row: AttributeRow, longest: int | None) -> bytes:
    return _encode_text(_TEXT, _text_value(row)[:longest])


def _encode_set(row: AttributeRow, longest: int | None) -> bytes:
    return _set(_text_value(row), longest)


def _encode_file(row: AttributeRow, longest: int | None) -> bytes:
    size = _integer(_int_value(row), longest, _SIZE_BYTES)
    return _encode_text(_TEXT, _text_value(row)) + size + _encode_text(_MIME_TYPE, _mime_type(row))


def _encode_float_series(row: Any, _: int | None) -> bytes:
    last_step, has_preview, last, count, minimum, maximum, total, deviations = row[3:SUMMARY_FIELDS]
    last_step_tag, last_tag, minimum_tag, maximum_tag, average_tag, variance_tag = _SUMMARY
    # All are always set: some clients take an absent number for 0.
    summary = _summary(
        last_step_tag,
        _NAN if last_step is None else steps.to_double(last_step),
        last_tag,
        _NAN if last is None else last,
        minimum_tag,
        _NAN if minimum is None else minimum,
        maximum_tag,
        _NAN if maximum is None else maximum,
        average_tag,
        mean(total, count),
        variance_tag,
        mean(deviations, count),
    )
    return summary + _HAS_PREVIEW if has_preview else summary


def _encode_string_series(row: AttributeRow, longest: int | None) -> bytes:
    return _encode_last(row, lambda payload: point_value(payload).string_value[:longest].encode())


def _encode_histogram_series(row: AttributeRow, _: int | None) -> bytes:
    return _encode_last(row, lambda payload: point_value(payload).histogram.SerializeToString())


def _encode_file_series(row: AttributeRow, _: int | None) -> bytes:
    return _encode_last(row, lambda payload: point_value(payload).file_ref.SerializeToString())


def _encode_last(row: AttributeRow, encode: Callable[[bytes], bytes]) -> bytes:
    step = _last_step(row)
    if step is None:
        return b""
    return _LAST_STEP + _double(steps.to_double(step)) + encode_field(_LAST, encode(_last_payload(row)))


def _integer(value: int, _: int | None, tag: bytes = _INTEGER) -> bytes:
    return tag + _VARINTS[value & _UINT64] if value else b""


def _float(value: float | None, _: int | None) -> bytes:
    packed = _double(_NAN if value is None else value)
    # Negative zero is not left out.
    return b"" if packed == _ZERO else _DOUBLE + packed


def _set(text: str, _: int | None) -> bytes:
    return b"".join([encode_field(_TEXT, member.encode()) for member in rules.decode_set(text)])


def _encode_text(tag: bytes, text: str) -> bytes:
    return encode_field(tag, text.encode()) if text else b""


# What encodes a value of a column, by type; strings are encoded together, and so are float series.
_VALUE_ENCODERS: Final[dict[int, Encode]] = {
    T.ATTRIBUTE_TYPE_INT: _integer,
    T.ATTRIBUTE_TYPE_FLOAT: _float,
    T.ATTRIBUTE_TYPE_BOOL: _integer,
    T.ATTRIBUTE_TYPE_DATETIME: _integer,
    T.ATTRIBUTE_TYPE_STRING_SET: _set,
}


# By type: the field that names it, the tag of its message in Attribute, and what encodes that.
_ENCODERS: Final[dict[int, tuple[bytes, Encode]]] = {
    T.ATTRIBUTE_TYPE_INT: (b"\x1a", _encode_integer),
    T.ATTRIBUTE_TYPE_FLOAT: (b"\x22", _encode_float),
    T.ATTRIBUTE_TYPE_STRING: (b"\x2a", _encode_string),
    T.ATTRIBUTE_TYPE_BOOL: (b"\x32", _encode_integer),
    T.ATTRIBUTE_TYPE_DATETIME: (b"\x3a", _encode_integer),
    T.ATTRIBUTE_TYPE_STRING_SET: (b"\x42", _encode_set),
    T.ATTRIBUTE_TYPE_FLOAT_SERIES: (b"\x4a", _encode_float_series),
    T.ATTRIBUTE_TYPE_FILE_REF: (b"\x52", _encode_file),
    T.ATTRIBUTE_TYPE_STRING_SERIES: (b"\x5a", _encode_string_series),
    T.ATTRIBUTE_TYPE_FILE_REF_SERIES: (b"\x62", _encode_file_series),
    T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES: (b"\x6a", _encode_histogram_series),
}
_TYPE_FIELDS: Final = {type_: _encode_text(_TYPE, name) for type_, name in TYPE_NAMES.items()}
_ENCODINGS: Final[dict[int, tuple[bytes, bytes, Encode | None]]] = {
    type_: (field, *_ENCODERS.get(type_, (b"", None))) for type_, field in _TYPE_FIELDS.items()
}
