"""Float points of the REST API's messages (FloatSeriesValuesResponse) as arrays, read from the bytes.

Each point is a message of its own. Those of a series are nearly always equally long, with their fields at the same
places: such a run of points is a table of bytes, and its columns are the fields. A field that is zero may be left out,
which makes a point shorter and ends the run. Where runs are too short to pay, protobuf parses the points instead.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from neptune_api._arrays import HAS_NUMPY, concatenate, from_iterable
from neptune_api._wire import LENGTH, VARINT, fields, varint
from neptune_api.v1.series_pb2 import FloatSeriesValues

if TYPE_CHECKING or HAS_NUMPY:
    import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Table = npt.NDArray[np.uint8]

# Tags: FloatSeriesValuesResponse.series and the fields of its items; those of FloatSeriesValues; those of FloatPoint.
_SERIES: Final = 1 << 3 | LENGTH
_REQUEST_ID: Final = 1 << 3 | LENGTH
_VALUES: Final = 2 << 3 | LENGTH
_TOTAL: Final = 1 << 3 | VARINT
_POINT: Final = 2 << 3 | LENGTH
_TIMESTAMP: Final = 1 << 3
_STEP: Final = 2 << 3 | 1
_VALUE: Final = 3 << 3 | 1
_IS_PREVIEW: Final = 4 << 3
_RATIO: Final = 5 << 3 | 5
_WIDTHS: Final = {_STEP: 8, _VALUE: 8, _RATIO: 4}
_MAX_VARINT: Final = 10
# So many points are compared with the first of a run at once; twice as many whenever all are alike.
_FIRST_LOOK: Final = 64
_LONGEST_LOOK: Final = 8192
# Runs shorter than this, on average over the first ones, are not worth their price.
_WORTHWHILE: Final = 32
_TRIAL_RUNS: Final = 16
_NAN: Final = float("nan")

Arrays = tuple[Any, Any, Any, Any]
"""Of points: steps (float64), milliseconds (int64), values (float64), completion ratios (float32) or None."""


class _Layout(NamedTuple):
    """Where the fields of a point lie: bytes that are the same in every point of a run, by mask; places by tag."""

    fixed: Table
    mask: Table
    places: dict[int, tuple[int, int]]


def split(message: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield request id and serialized FloatSeriesValues of each item of a serialized FloatSeriesValuesResponse.

    Raises DecodeError for bytes that are none.
    """
    for tag, start, end in fields(message):
        if tag != _SERIES:
            continue
        item = message[start:end]
        name, series = "", b""
        for inner, begin, stop in fields(item):
            if inner == _REQUEST_ID:
                name = _text(item[begin:stop])
            elif inner == _VALUES:
                series = item[begin:stop]
        yield name, series


def decode(message: bytes) -> tuple[int, Arrays]:
    """Return how many points there are in all, and the points, of a serialized FloatSeriesValues.

    Raises DecodeError for bytes that are none.
    """
    total = position = 0
    try:
        if message and message[0] == _TOTAL:
            total, position = varint(message, 1)
    except IndexError as error:
        raise DecodeError("The message ends within a number.") from error
    if not HAS_NUMPY:
        return _parsed(message)
    data = np.frombuffer(message, np.uint8)
    parts: list[Arrays] = []
    runs = points = 0
    while position < len(message):
        layout = _layout(message, position)
        if layout is None or (runs >= _TRIAL_RUNS and points < _WORTHWHILE * runs):
            # A repeated field may be parsed from any of its elements on.
            later, rest = _parsed(message[position:])
            return later or total, _joined([*parts, rest])
        table = _run(data[position:], layout)
        parts.append(_columns(table, layout))
        position += table.size
        runs, points = runs + 1, points + len(table)
    return total, _joined(parts or [_parsed(b"")[1]])


def _layout(message: bytes, start: int) -> _Layout | None:
    """Return the layout of the point at a place; None when there is something else or something unexpected."""
    if message[start] != _POINT or start + 1 >= len(message) or message[start + 1] > 0x7F:
        return None
    end = start + 2 + message[start + 1]
    if end > len(message):
        return None
    size = end - start
    mask = np.zeros(size, np.uint8)
    mask[:2] = 0xFF
    places: dict[int, tuple[int, int]] = {}
    position = start + 2
    while position < end:
        tag = message[position]
        begin = position + 1
        if tag in _WIDTHS:
            position = begin + _WIDTHS[tag]
        elif tag in {_TIMESTAMP, _IS_PREVIEW}:
            if not any(byte < 0x80 for byte in message[begin : min(end, begin + _MAX_VARINT)]):
                return None
            position = varint(message, begin)[1]
            # The bits that tell where the number ends.
            mask[begin - start : position - start] = 0x80
        else:
            return None
        if tag in places or position > end:
            return None
        mask[begin - start - 1] = 0xFF
        places[tag] = (begin - start, position - start)
    fixed = np.frombuffer(message, np.uint8, size, start) & mask
    return _Layout(fixed, mask, places)


def _run(data: Table, layout: _Layout) -> Table:
    """Return the points at the beginning that have a layout, as rows of bytes."""
    size = len(layout.fixed)
    table = data[: len(data) // size * size].reshape(-1, size)
    marks = [(place, layout.mask[place], layout.fixed[place]) for place in np.flatnonzero(layout.mask).tolist()]
    done, look = 0, _FIRST_LOOK
    while done < len(table):
        rows = table[done : done + look]
        alike = np.ones(len(rows), np.bool_)
        for place, mask, fixed in marks:
            alike &= (rows[:, place] & mask) == fixed
        if not alike.all():
            return table[: done + int(alike.argmin())]
        done += len(rows)
        look = min(2 * look, _LONGEST_LOOK)
    return table


def _columns(table: Table, layout: _Layout) -> Arrays:
    count = len(table)

    def numbers(tag: int, kind: str) -> Any:
        place = layout.places.get(tag)
        if place is None:
            return np.zeros(count, np.dtype(kind).newbyteorder("="))
        return table[:, place[0] : place[1]].view(kind)[:, 0].astype(kind[1:])

    def varints(tag: int) -> Any:
        total = np.zeros(count, np.uint64)
        for shift, column in enumerate(range(*layout.places.get(tag, (0, 0)))):
            total |= (table[:, column] & 0x7F).astype(np.uint64) << np.uint64(7 * shift)
        return total.view(np.int64)

    ratios = None
    if _IS_PREVIEW in layout.places:
        is_preview = varints(_IS_PREVIEW) != 0
        if is_preview.any():
            ratios = np.where(is_preview, numbers(_RATIO, "<f4"), np.float32("nan"))
    return numbers(_STEP, "<f8"), varints(_TIMESTAMP), numbers(_VALUE, "<f8"), ratios


def _parsed(message: bytes) -> tuple[int, Arrays]:
    parsed = FloatSeriesValues.FromString(message)
    points, size = parsed.values, len(parsed.values)
    ratios = None
    if any(map(attrgetter("is_preview"), points)):
        ratios = from_iterable((point.completion_ratio if point.is_preview else _NAN for point in points), size, "f")
    columns = (("step", "d"), ("timestamp_millis", "q"), ("value", "d"))
    steps, millis, values = (from_iterable(map(attrgetter(name), points), size, items) for name, items in columns)
    return parsed.total_item_count, (steps, millis, values, ratios)


def _joined(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    steps, millis, values, some_ratios = zip(*parts, strict=True)
    ratios = None
    if any(part is not None for part in some_ratios):
        ratios = np.concatenate(
            [
                np.full(len(column), np.nan, np.float32) if part is None else part
                for column, part in zip(values, some_ratios, strict=True)
            ]
        )
    return concatenate(list(steps), "d"), concatenate(list(millis), "q"), concatenate(list(values), "d"), ratios


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError("A text is not UTF-8.") from error
