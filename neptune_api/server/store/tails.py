"""Tails: the youngest float points of a run, as they came, before they are sorted into chunks.

Writing a chunk per series for every snapshot of ten thousand series would cost ten thousand rows; a tail is one row per
run and transaction. Its bytes are groups of points, each either a rectangle (n series at the same k steps) or loose
points (a series, a step, a time, a value each), all numbers little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.faults import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from neptune_api.server.store.columns import FloatArray, Int64Array

_GROUP: Final = struct.Struct("<BII")  # kind, number of series, number of steps or points
_RECTANGLE: Final = 0
_LOOSE: Final = 1
_CONSECUTIVE: Final = 2  # added to the kind: the series' keys are consecutive, only the first is written


@dataclass(frozen=True, slots=True, eq=False)
class Rectangle:
    """Points of n series (keys of `attributes`) at k ascending steps: values (k x n)."""

    attribute_ids: Int64Array
    steps: Int64Array
    timestamps: Int64Array
    values: FloatArray

    @property
    def count(self) -> int:
        """Number of points."""
        return int(self.values.size)


@dataclass(frozen=True, slots=True, eq=False)
class Loose:
    """Points of any series (keys of `attributes`), one after the other in the order they came."""

    attribute_ids: Int64Array
    steps: Int64Array
    timestamps: Int64Array
    values: FloatArray

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.steps)


Points = Rectangle | Loose


def stack(groups: Sequence[Points]) -> list[Points]:
    """Return the groups with rectangles of the same series put into one, steps still ascending."""
    rectangles, stacked = _apart(groups)
    return [*stacked, *(_join(same) for same in rectangles)]


def by_series(groups: Sequence[Points], wanted: Collection[int]) -> dict[int, FloatColumns]:
    """Return the points of each wanted series that has any, ascending by step."""
    parts: dict[int, list[FloatColumns]] = {}
    keys = np.fromiter(wanted, np.int64, len(wanted))
    rectangles, others = _apart(groups)
    for same in rectangles:
        mine = np.flatnonzero(np.isin(same[0].attribute_ids, keys))
        if len(mine):
            # Mostly few of many series are wanted: those are copied, not all.
            whole = _join(same, mine)
            columns = np.ascontiguousarray(whole.values.T)
            for key, values in zip(whole.attribute_ids.tolist(), columns, strict=True):
                parts.setdefault(key, []).append(FloatColumns(whole.steps, whole.timestamps, values))
    for group in others:
        mine = np.flatnonzero(np.isin(group.attribute_ids, keys))
        if len(mine):
            mine = mine[np.argsort(group.attribute_ids[mine], kind="stable")]
            found, starts = np.unique(group.attribute_ids[mine], return_index=True)
            for key, places in zip(found.tolist(), np.split(mine, starts[1:]), strict=True):
                part = FloatColumns(group.steps[places], group.timestamps[places], group.values[places])
                parts.setdefault(key, []).append(part)
    return {key: FloatColumns.concatenate(columns).ascending() for key, columns in parts.items()}


def _apart(groups: Sequence[Points]) -> tuple[list[list[Rectangle]], list[Points]]:
    """Return rectangles, those of the same series together, and the other groups."""
    alike: dict[bytes, list[Rectangle]] = {}
    others: list[Points] = []
    for group in groups:
        if isinstance(group, Rectangle):
            alike.setdefault(group.attribute_ids.tobytes(), []).append(group)
        else:
            others.append(group)
    return list(alike.values()), others


def _join(same: Sequence[Rectangle], places: npt.NDArray[np.intp] | None = None) -> Rectangle:
    """Return rectangles of the same series as one, of all series or of those at some places."""
    ids = same[0].attribute_ids
    steps, timestamps = (np.concatenate([getattr(item, name) for item in same]) for name in ("steps", "timestamps"))
    if places is None or len(places) == len(ids):
        return Rectangle(ids, steps, timestamps, np.concatenate([item.values for item in same]))
    return Rectangle(ids[places], steps, timestamps, np.concatenate([item.values[:, places] for item in same]))


def encode(groups: Sequence[Points]) -> bytes:
    """Return the bytes of a tail."""
    parts: list[bytes] = []
    for group in groups:
        ids = group.attribute_ids
        kind = _RECTANGLE if isinstance(group, Rectangle) else _LOOSE
        consecutive = len(ids) > 1 and kind == _RECTANGLE and bool((np.diff(ids) == 1).all())
        parts += (
            _GROUP.pack(kind | (_CONSECUTIVE if consecutive else 0), len(ids), len(group.steps)),
            (ids[:1] if consecutive else ids).astype("<i8", copy=False).tobytes(),
            group.steps.astype("<i8", copy=False).tobytes(),
            group.timestamps.astype("<i8", copy=False).tobytes(),
            group.values.astype("<f8", copy=False).tobytes(),
        )
    return b"".join(parts)


def checksum(tail: bytes) -> int:
    """Return the CRC-32 of a tail's bytes."""
    return zlib.crc32(tail)


def decode(tail: bytes) -> list[Points]:
    """Return the groups of a tail; raises CorruptChunkError for bytes that are not one."""
    groups: list[Points] = []
    offset = 0

    def take(count: int, kind: str) -> npt.NDArray[np.generic]:
        nonlocal offset
        array = np.frombuffer(tail, kind, count, offset)
        offset += array.nbytes
        return array

    try:
        while offset < len(tail):
            kind, series, steps = _GROUP.unpack_from(tail, offset)
            offset += _GROUP.size
            if kind & _CONSECUTIVE:
                ids = np.arange(series, dtype=np.int64) + take(1, "<i8")
            else:
                ids = take(series, "<i8").astype(np.int64, copy=False)
            at, timestamps = (take(steps, "<i8").astype(np.int64, copy=False) for _ in range(2))
            if kind & _LOOSE:
                groups.append(Loose(ids, at, timestamps, take(steps, "<f8").astype(np.float64, copy=False)))
            else:
                values = take(steps * series, "<f8").astype(np.float64, copy=False)
                groups.append(Rectangle(ids, at, timestamps, values.reshape(steps, series)))
    except (struct.error, ValueError) as error:
        raise CorruptChunkError("A tail is shorter than its header tells.") from error
    return groups
