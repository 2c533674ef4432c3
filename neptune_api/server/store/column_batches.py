"""Batches of columns (neptune_api.v1.AppendColumnsRequest): arrays over their bytes, without an object per point.

What is wrong with points whatever their run holds (paths, steps, times, lengths) is found here. Accepting tells the
caller of it, applying leaves those points out: both ask this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from neptune_api._wire import LENGTH, fields, varint
from neptune_api.server.store import rules
from neptune_api.server.store.columns import FloatColumns
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.series_service_pb2 import AppendSeries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy.typing as npt

    from neptune_api.server.store.columns import FloatArray, Int64Array

# Tags: the fields of AppendColumnsRequest, of AppendSeries and of FloatColumns, whose columns have one field each.
_PROJECT: Final = 1 << 3 | LENGTH
_RUN_ID: Final = 2 << 3 | LENGTH
_BATCH_ID: Final = 3 << 3 | LENGTH
_SERIES: Final = 4 << 3 | LENGTH
_PATH: Final = 1 << 3 | LENGTH
_COLUMNS: Final = 2 << 3 | LENGTH
_STEPS: Final = 1 << 3 | LENGTH
_TIMESTAMPS: Final = 2 << 3 | LENGTH
_VALUES: Final = 3 << 3 | LENGTH
_RATIOS: Final = 4 << 3 | LENGTH
_ARRAY: Final = 1 << 3 | LENGTH

# Series with the same positions are read together: from so many on, as long as their columns are short, and so many.
_FEW_ALIKE: Final = 3
_ALIKE_BYTES: Final = 64 * 1024
_ALIKE_AT_ONCE: Final = 256
# The length of such a path is a single byte.
_SHORT_PATH: Final = 0x7F

_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """Points of one series of a batch that were refused for the same reason."""

    series_index: int
    """Which of the batch's series, from 0."""
    path: str
    point_index: int
    """Which of its points is the first of them, from 0."""
    count: int
    code: int
    """An IngestCode."""
    sentence: str


@dataclass(frozen=True, slots=True)
class ColumnSeries:
    """The points of one series of a batch that may be applied."""

    index: int
    path: str
    points: FloatColumns
    """In the order they were sent."""
    ratios: npt.NDArray[np.float32] | None
    """Completion ratios of previews, 0 to 1; None for committed points."""
    places: Int64Array | None
    """Which of the points sent they are; None: all."""


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """A batch: its bytes, what it names, the points that may be applied, and those that may not."""

    payload: bytes
    project: str
    run_id: str
    batch_id: str
    paths: list[str]
    """Of every series, in order."""
    series: list[ColumnSeries]
    faults: list[Fault]

    @property
    def accepted(self) -> int:
        """Number of points that may be applied."""
        return sum(len(item.points) for item in self.series)

    @property
    def size(self) -> int:
        """Number of points."""
        return self.accepted + sum(fault.count for fault in self.faults)

    @classmethod
    def parse(cls, payload: bytes) -> ColumnBatch:
        """Read a serialized AppendColumnsRequest; raises DecodeError for bytes that are none."""
        names = dict.fromkeys((_PROJECT, _RUN_ID, _BATCH_ID), "")
        spans: list[_Span] = []
        for tag, start, end in fields(payload):
            if tag in names:
                names[tag] = _text(payload, start, end)
            elif tag == _SERIES:
                spans.append((start, end))
        batch = cls(payload, names[_PROJECT], names[_RUN_ID], names[_BATCH_ID], [], [], [])
        while len(batch.paths) < len(spans):
            index = len(batch.paths)
            table = _alike(payload, spans[index : index + _ALIKE_AT_ONCE])
            if table is None:
                batch._add(*_read_series(payload, *spans[index]))
            else:
                batch._add_alike(*table)
        return batch

    def _add(self, path: str, data: bytes, spans: dict[int, _Span]) -> None:
        item, faults = _judge(len(self.paths), path, data, spans)
        self.paths.append(path)
        self.faults.extend(faults)
        if item is not None:
            self.series.append(item)

    def _add_alike(self, paths: list[str], steps: Int64Array, timestamps: Int64Array, values: FloatArray) -> None:
        for index, (path, row) in enumerate(zip(paths, values, strict=True), len(self.paths)):
            code = rules.path_fault(path)
            if code == pb.INGEST_CODE_OK:
                self.series.append(ColumnSeries(index, path, FloatColumns(steps, timestamps, row), None, None))
            else:
                self.faults.append(Fault(index, path, 0, len(steps), code, rules.SENTENCES[code]))
        self.paths.extend(paths)


def faults_of(series: ColumnSeries, codes: Int64Array, places: Int64Array | None) -> Iterator[Fault]:
    """Yield a fault for each code among those of points of a series; `places` tells which of those sent they are."""
    for code in np.unique(codes).tolist():
        if code != pb.INGEST_CODE_OK:
            found = np.flatnonzero(codes == code)
            first = int(found[0] if places is None else places[found[0]])
            yield Fault(series.index, series.path, first, len(found), code, rules.SENTENCES[code])


def _judge(index: int, path: str, data: bytes, spans: dict[int, _Span]) -> tuple[ColumnSeries | None, list[Fault]]:
    """Return the points of a series that may be applied, None when there are none, and those that may not."""
    steps: Int64Array = _array(data, spans, _STEPS, "<i8")
    timestamps: Int64Array = _array(data, spans, _TIMESTAMPS, "<i8")
    values: FloatArray = _array(data, spans, _VALUES, "<f8")
    ratios = _array(data, spans, _RATIOS, "<f4") if _RATIOS in spans else None
    sizes = [len(steps), len(timestamps), len(values)] + ([] if ratios is None else [len(ratios)])
    if not max(sizes):
        return None, []
    code = rules.path_fault(path)
    if code != pb.INGEST_CODE_OK:
        return None, [Fault(index, path, 0, max(sizes), code, rules.SENTENCES[code])]
    if len(set(sizes)) > 1:
        names = "steps, timestamps and values" if ratios is None else "steps, timestamps, values and ratios"
        sentence = f"The columns have {', '.join(map(str, sizes))} {names}: they have to be equally long."
        return None, [Fault(index, path, 0, max(sizes), pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED, sentence)]
    if ratios is not None:
        ratios = np.clip(np.nan_to_num(ratios, nan=0.0), 0.0, 1.0)
    points = FloatColumns(steps, timestamps, values)
    codes = rules.position_faults(steps, timestamps)
    if codes is None:
        return ColumnSeries(index, path, points, ratios, None), []
    places = np.flatnonzero(codes == pb.INGEST_CODE_OK)
    good = ColumnSeries(index, path, points[places], None if ratios is None else ratios[places], places)
    return (good if len(places) else None), list(faults_of(good, codes, None))


def _alike(payload: bytes, spans: Sequence[_Span]) -> tuple[list[str], Int64Array, Int64Array, FloatArray] | None:
    """Return the first series together with those behind it whose points are at the same steps and times.

    That is how the series of a model are mostly sent, and reading them one by one would take longer than all the rest.
    Returns their paths, steps, timestamps and values (series x steps); None when they are too few, or are points that
    need a closer look.
    """
    start, end = spans[0]
    if end - start < 2 or payload[start] != _PATH or payload[start + 1] > _SHORT_PATH:
        return None
    try:
        columns = _parts(payload, spans[0], (_PATH, _COLUMNS)).get(_COLUMNS)
        if columns is None or columns[1] != end or columns[1] - columns[0] > _ALIKE_BYTES:
            return None
        arrays = _read_canonical(payload, start, end)[2]
    except (_OddFormError, DecodeError):
        return None
    first = columns[0]
    size = end - first
    if len({stop - begin for begin, stop in arrays.values()}) != 1 or arrays.keys() != {_STEPS, _TIMESTAMPS, _VALUES}:
        return None
    # Between path and columns is a tag with a length, the same for all.
    head = payload[start + 2 + payload[start + 1] : first]
    paths: list[bytes] = []
    regions: list[bytes] = []
    for begin, stop in spans:
        if stop - begin < 2 or payload[begin] != _PATH or payload[begin + 1] > _SHORT_PATH:
            break
        at = begin + 2 + payload[begin + 1]
        if stop - at != len(head) + size or payload[at : at + len(head)] != head:
            break
        paths.append(payload[begin + 2 : at])
        regions.append(payload[at + len(head) : stop])
    rows = np.frombuffer(b"".join(regions), np.uint8).reshape(-1, size)
    places = {tag: slice(begin - first, stop - first) for tag, (begin, stop) in arrays.items()}
    shared = np.ones(size, np.bool_)
    shared[places[_VALUES]] = False
    differs = (rows[:, shared] != rows[0, shared]).any(axis=1)
    count = int(differs.argmax()) if bool(differs.any()) else len(rows)
    steps, timestamps = (rows[0, places[tag]].view("<i8").astype(np.int64) for tag in (_STEPS, _TIMESTAMPS))
    if count < _FEW_ALIKE or not len(steps) or rules.position_faults(steps, timestamps) is not None:
        return None
    values = np.ascontiguousarray(rows[:count, places[_VALUES]]).view("<f8").astype(np.float64, copy=False)
    return [_text(path, 0, len(path)) for path in paths[:count]], steps, timestamps, values


def _read_series(payload: bytes, start: int, end: int) -> tuple[str, bytes, dict[int, _Span]]:
    """Return the path of a serialized AppendSeries, and where in which bytes its arrays lie, by tag."""
    try:
        return _read_canonical(payload, start, end)
    except _OddFormError:
        # Fields twice, or arrays that are not packed: protobuf takes it, and writes what it took in one form only.
        series = AppendSeries.FromString(payload[start:end])
        series.DiscardUnknownFields()
        data = series.SerializeToString()
    return _read_canonical(data, 0, len(data))


class _OddFormError(Exception):
    """Report that a message does not have the form that protobuf writes."""


def _read_canonical(data: bytes, start: int, end: int) -> tuple[str, bytes, dict[int, _Span]]:
    parts = _parts(data, (start, end), (_PATH, _COLUMNS))
    columns = _parts(data, parts.get(_COLUMNS, (0, 0)), (_STEPS, _TIMESTAMPS, _VALUES, _RATIOS))
    arrays = {tag: _parts(data, span, (_ARRAY,)).get(_ARRAY, (0, 0)) for tag, span in columns.items()}
    return _text(data, *parts.get(_PATH, (0, 0))), data, arrays


def _parts(data: bytes, span: _Span, tags: Collection[int]) -> dict[int, _Span]:
    """Return where the fields with these tags lie in a message within other bytes."""
    found: dict[int, _Span] = {}
    position, end = span
    try:
        while position < end:
            tag = data[position]
            length, begin = varint(data, position + 1)
            position = begin + length
            if tag not in tags or tag in found or position > end:
                raise _OddFormError
            found[tag] = (begin, position)
    except IndexError:
        raise DecodeError("The message ends within a field.") from None
    return found


def _array(data: bytes, spans: dict[int, _Span], tag: int, kind: str) -> npt.NDArray[Any]:
    start, end = spans.get(tag, (0, 0))
    size = np.dtype(kind).itemsize
    if (end - start) % size:
        raise DecodeError("A column does not hold whole numbers of its width.")
    return np.frombuffer(data, kind, (end - start) // size, start).astype(kind[1:], copy=False)


def _text(data: bytes, start: int, end: int) -> str:
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as error:
        raise DecodeError("A text is not UTF-8.") from error
