"""Attributes as messages: one function from what the store found to what readers get."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from neptune_api.server.point_messages import point_value
from neptune_api.server.store import rules, steps
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.series import last_payloads, previews_after
from neptune_api.v1 import annotations_pb2
from neptune_api.v1.attributes_pb2 import (
    Attribute,
    FileRefSeriesAttribute,
    HistogramSeriesAttribute,
    StringSeriesAttribute,
)
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import sqlalchemy as sa

    from neptune_api.server.store.attributes import Cell
    from neptune_api.server.store.series import FloatSummaries
    from neptune_api.server.store.summaries import FloatSummary

# Looking up the names of an enum's values takes longer than filling a message.
_BOOL: Final[int] = T.ATTRIBUTE_TYPE_BOOL
_DATETIME: Final[int] = T.ATTRIBUTE_TYPE_DATETIME
_FILE_REF: Final[int] = T.ATTRIBUTE_TYPE_FILE_REF
_FLOAT: Final[int] = T.ATTRIBUTE_TYPE_FLOAT
_FLOAT_SERIES: Final[int] = T.ATTRIBUTE_TYPE_FLOAT_SERIES
_HISTOGRAM_SERIES: Final[int] = T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES
_INT: Final[int] = T.ATTRIBUTE_TYPE_INT
_STRING: Final[int] = T.ATTRIBUTE_TYPE_STRING
_STRING_SERIES: Final[int] = T.ATTRIBUTE_TYPE_STRING_SERIES
_STRING_SET: Final[int] = T.ATTRIBUTE_TYPE_STRING_SET
_OTHER_SERIES: Final = SERIES_TYPES - {_FLOAT_SERIES}

TYPE_NAMES: Final[dict[int, str]] = {
    value.number: value.GetOptions().Extensions[annotations_pb2.http_name] for value in T.DESCRIPTOR.values
}
"""Names of attribute types in answers."""


def fill_attributes(
    connection: sa.Connection, cells: Sequence[Cell], messages: Iterable[Attribute], summaries: FloatSummaries
) -> None:
    """Fill the message of each cell, with summaries over the whole lineage of its series."""
    types = [cell.type for cell in cells]
    floats = [cell.segments for cell, type_ in zip(cells, types, strict=True) if type_ == _FLOAT_SERIES]
    others = [cell.segments for cell, type_ in zip(cells, types, strict=True) if type_ in _OTHER_SERIES]
    float_series = zip(summaries.of(connection, floats), previews_after(connection, floats), strict=True)
    lasts = iter(last_payloads(connection, others))
    for cell, type_, message in zip(cells, types, messages, strict=True):
        message.name, message.type = cell.name, TYPE_NAMES[type_]
        if type_ == _FLOAT_SERIES:
            summary, previews = next(float_series)
            _fill_float_series(message, cell.name, summary, has_preview=bool(previews))
        elif type_ in _OTHER_SERIES:
            _fill_series(message, type_, next(lasts))
        else:
            _fill_value(message, type_, cell.segments[0].row)


def _fill_float_series(message: Attribute, name: str, summary: FloatSummary, *, has_preview: bool) -> None:
    properties = message.float_series_properties
    properties.attribute_name, properties.attribute_type = name, TYPE_NAMES[_FLOAT_SERIES]
    # All are always set: some clients take an absent number for 0.
    properties.last_step = math.nan if summary.last_step is None else steps.to_double(summary.last_step)
    properties.last = summary.last
    properties.min = summary.minimum
    properties.max = summary.maximum
    properties.average = summary.average
    properties.variance = summary.variance
    properties.has_preview = has_preview


def _fill_series(message: Attribute, type_: int, last: tuple[int, bytes] | None) -> None:
    if type_ == _STRING_SERIES:
        _fill_last(message, message.string_series_properties, last)
    elif type_ == _HISTOGRAM_SERIES:
        _fill_last(message, message.histogram_series_properties, last)
    else:
        _fill_last(message, message.file_ref_series_properties, last)


def _fill_last(
    message: Attribute,
    properties: StringSeriesAttribute | HistogramSeriesAttribute | FileRefSeriesAttribute,
    last: tuple[int, bytes] | None,
) -> None:
    properties.attribute_name, properties.attribute_type = message.name, message.type
    if last is None:
        return
    step, payload = last
    properties.last_step = steps.to_double(step)
    value = point_value(payload)
    if isinstance(properties, StringSeriesAttribute):
        properties.last = value.string_value
    elif isinstance(properties, HistogramSeriesAttribute):
        properties.last.CopyFrom(value.histogram)
    else:
        properties.last.CopyFrom(value.file_ref)


def _fill_value(message: Attribute, type_: int, row: Any) -> None:
    if type_ == _INT:
        integer = message.int_properties
        integer.attribute_name, integer.attribute_type, integer.value = message.name, message.type, row.int_value
    elif type_ == _FLOAT:
        number = message.float_properties
        number.attribute_name, number.attribute_type = message.name, message.type
        number.value = math.nan if row.float_value is None else row.float_value
    elif type_ == _STRING:
        text = message.string_properties
        text.attribute_name, text.attribute_type, text.value = message.name, message.type, row.text_value
    elif type_ == _BOOL:
        flag = message.bool_properties
        flag.attribute_name, flag.attribute_type, flag.value = message.name, message.type, bool(row.int_value)
    elif type_ == _DATETIME:
        instant = message.datetime_properties
        instant.attribute_name, instant.attribute_type, instant.value = message.name, message.type, row.int_value
    elif type_ == _STRING_SET:
        members = message.string_set_properties
        members.attribute_name, members.attribute_type = message.name, message.type
        members.value.extend(rules.decode_set(row.text_value))
    elif type_ == _FILE_REF:
        file = message.file_ref_properties
        file.attribute_name, file.attribute_type = message.name, message.type
        file.path, file.size_bytes, file.mime_type = row.text_value, row.int_value, row.mime_type
