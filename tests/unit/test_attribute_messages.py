"""Attributes written as bytes: the very bytes that protobuf writes of messages with the same content."""

from __future__ import annotations

import math
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.conformance import operations
from neptune_api.server import attribute_messages
from neptune_api.server.attribute_messages import TYPE_NAMES, encode_attributes, encode_column, encode_field
from neptune_api.server.point_messages import point_value
from neptune_api.server.store.rules import decode_set, encode_set
from neptune_api.server.store.series import SUMMARY_FIELDS, AttributeRow
from neptune_api.v1.attributes_pb2 import Attribute, Attributes
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Callable

TAG: Final = bytes([Attributes.ATTRIBUTES_FIELD_NUMBER << 3 | 2])
# What stands for a row in a column of its type.
COLUMN_VALUES: Final[dict[int, Callable[[AttributeRow], Any]]] = {
    T.ATTRIBUTE_TYPE_INT: attrgetter("int_value"),
    T.ATTRIBUTE_TYPE_FLOAT: attrgetter("float_value"),
    T.ATTRIBUTE_TYPE_STRING: attrgetter("text_value"),
    T.ATTRIBUTE_TYPE_BOOL: attrgetter("int_value"),
    T.ATTRIBUTE_TYPE_DATETIME: attrgetter("int_value"),
    T.ATTRIBUTE_TYPE_STRING_SET: attrgetter("text_value"),
    T.ATTRIBUTE_TYPE_FLOAT_SERIES: itemgetter(slice(SUMMARY_FIELDS)),
}
NOTHING: Final = AttributeRow(*[None] * len(AttributeRow._fields))  # type: ignore[arg-type]  # each test fills its part

texts = st.text(max_size=50) | st.sampled_from(["", "\0", "\U0001f40d" * 50, "x" * 127, "x" * 128, "x" * 20_000])
paths = st.text(min_size=1, max_size=20) | st.sampled_from(["ü" * 512, "x" * 127, "x" * 128, "metrics/" * 6])
# NaN is NULL.
doubles = st.none() | st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, math.inf, -math.inf])
integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-130, 130)
micros = st.integers(0, 10**18)
edges = st.lists(st.floats(allow_nan=False), min_size=2, max_size=5)
files = st.builds(operations.file, texts, st.integers(0, 2**63 - 1), texts)
points: dict[int, st.SearchStrategy[Any]] = {
    T.ATTRIBUTE_TYPE_STRING_SERIES: texts,
    T.ATTRIBUTE_TYPE_FILE_REF_SERIES: files,
    T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES: st.builds(operations.counts, edges, st.lists(st.integers(0, 2**64 - 1)))
    | st.builds(operations.densities, edges, st.lists(st.floats())),
}


@st.composite
def contents(draw: st.DrawFn, type_: T.ValueType) -> dict[str, Any]:
    """Give the columns that an attribute of a type has values in."""
    if type_ in points:
        last = draw(st.none() | st.tuples(micros, points[type_]))
        if last is None:
            return {"last_payload": b""}
        return {"last_step": last[0], "last_payload": operations.value(last[1]).SerializeToString()}
    if type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
        numbers = ("last_value", "minimum", "maximum")
        sums = {name: draw(st.floats(allow_nan=False)) for name in ("total", "deviations")}
        return {name: draw(doubles) for name in numbers} | {
            "last_step": draw(st.none() | micros),
            "finite_count": draw(st.integers(0, 2**40)),
            "has_preview": draw(st.sampled_from([None, 0, 1, False, True])),
            **sums,
        }
    if type_ == T.ATTRIBUTE_TYPE_FILE_REF:
        size = draw(st.integers(0, 2**63 - 1))
        return {"text_value": draw(texts), "int_value": size, "mime_type": draw(texts)}
    if type_ == T.ATTRIBUTE_TYPE_STRING_SET:
        return {"text_value": encode_set(draw(st.frozensets(texts, max_size=4)))}
    if type_ == T.ATTRIBUTE_TYPE_FLOAT:
        return {"float_value": draw(doubles)}
    if type_ == T.ATTRIBUTE_TYPE_STRING:
        return {"text_value": draw(texts)}
    if type_ == T.ATTRIBUTE_TYPE_BOOL:
        return {"int_value": draw(st.integers(0, 1))}
    return {"int_value": draw(integers)}


def message_of(row: AttributeRow, longest: int | None) -> Attribute:
    """Return the message of a row, field by field."""
    message = Attribute(name=row.name, type=TYPE_NAMES[row.type])
    field = {
        T.ATTRIBUTE_TYPE_INT: "int_properties",
        T.ATTRIBUTE_TYPE_FLOAT: "float_properties",
        T.ATTRIBUTE_TYPE_STRING: "string_properties",
        T.ATTRIBUTE_TYPE_BOOL: "bool_properties",
        T.ATTRIBUTE_TYPE_DATETIME: "datetime_properties",
        T.ATTRIBUTE_TYPE_STRING_SET: "string_set_properties",
        T.ATTRIBUTE_TYPE_FILE_REF: "file_ref_properties",
        T.ATTRIBUTE_TYPE_FLOAT_SERIES: "float_series_properties",
        T.ATTRIBUTE_TYPE_STRING_SERIES: "string_series_properties",
        T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES: "histogram_series_properties",
        T.ATTRIBUTE_TYPE_FILE_REF_SERIES: "file_ref_series_properties",
    }.get(row.type)  # type: ignore[call-overload]  # an integer at run time
    if field is None:
        return message
    properties = getattr(message, field)
    properties.attribute_name, properties.attribute_type = message.name, message.type
    if row.type in points:
        if row.last_step is not None and row.last_payload is not None:
            properties.last_step = row.last_step / 1e6
            value = point_value(row.last_payload)
            if row.type == T.ATTRIBUTE_TYPE_STRING_SERIES:
                properties.last = value.string_value[:longest]
            elif row.type == T.ATTRIBUTE_TYPE_FILE_REF_SERIES:
                properties.last.CopyFrom(value.file_ref)
            else:
                properties.last.CopyFrom(value.histogram)
    elif row.type == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
        properties.last_step = math.nan if row.last_step is None else row.last_step / 1e6
        properties.last = math.nan if row.last_value is None else row.last_value
        properties.min = math.nan if row.minimum is None else row.minimum
        properties.max = math.nan if row.maximum is None else row.maximum
        assert row.total is not None
        assert row.deviations is not None
        properties.average = row.total / row.finite_count if row.finite_count else math.nan
        properties.variance = row.deviations / row.finite_count if row.finite_count else math.nan
        properties.has_preview = bool(row.has_preview)
    elif row.type == T.ATTRIBUTE_TYPE_FILE_REF:
        properties.path, properties.size_bytes, properties.mime_type = row.text_value, row.int_value, row.mime_type
    elif row.type == T.ATTRIBUTE_TYPE_STRING_SET:
        properties.value.extend(decode_set(row.text_value or ""))
    elif row.type == T.ATTRIBUTE_TYPE_FLOAT:
        properties.value = math.nan if row.float_value is None else row.float_value
    elif row.type == T.ATTRIBUTE_TYPE_STRING:
        properties.value = (row.text_value or "")[:longest]
    else:
        properties.value = row.int_value
    return message


@pytest.mark.parametrize("type_", sorted(set(T.values()) - {T.ATTRIBUTE_TYPE_UNSPECIFIED}), ids=TYPE_NAMES.get)
@given(data=st.data(), names=st.lists(paths, max_size=3), longest=st.none() | st.integers(0, 40))
def test_bytes_are_those_of_messages(
    type_: T.ValueType, data: st.DataObject, names: list[str], longest: int | None
) -> None:
    rows = [NOTHING._replace(name=name, type=type_, **data.draw(contents(type_))) for name in names]
    messages = [message_of(row, longest) for row in rows]
    expected = Attributes(attributes=messages).SerializeToString(deterministic=True)
    assert b"".join(encode_attributes(rows, TAG, longest=longest)) == expected
    if type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
        beginnings: Any = [row[:SUMMARY_FIELDS] for row in rows]
        for fewest in (0, 1, 32):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attribute_messages, "_MANY_SUMMARIES", fewest)
                assert b"".join(encode_attributes(beginnings, TAG)) == expected
    if type_ in COLUMN_VALUES:
        value_of = COLUMN_VALUES[type_]
        fields = [encode_column(row.name, type_, [value_of(row)], TAG, longest=longest) for row in rows]
        assert b"".join(field for (field,) in fields) == expected


@given(name=st.text(max_size=200), type_=st.text(max_size=200))
def test_fields_in_a_field(name: str, type_: str) -> None:
    content = encode_field(b"\x0a", name.encode()) + encode_field(b"\x12", type_.encode())
    assert Attributes.FromString(encode_field(TAG, content)).attributes == [Attribute(name=name, type=type_)]
