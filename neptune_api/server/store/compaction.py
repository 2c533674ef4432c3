"""Compaction: from tails, which are quick to write, to chunks, which are quick to read.

A series' youngest chunks are merged as long as the next older one is at most three times as large as what has come
together, up to CHUNK_POINTS, the most of any chunk. So a point is written again a few times at most, and a series of n
points has about n / CHUNK_POINTS chunks and a handful of smaller ones, however its points arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from neptune_api.server.store import columns as columns_
from neptune_api.server.store import tails as tails_
from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.damage import chunk_error, read_intact, tail_error
from neptune_api.server.store.schema import chunks, tails
from neptune_api.server.store.tails import Rectangle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from neptune_api.server.store.tails import Points

CHUNK_POINTS: Final = 65_536
# Each chunk leaves a page half empty: a larger ratio means fewer chunks, and points that are written more often.
_RATIO: Final = 3
_IDS_PER_QUERY: Final = 10_000
# Chunks that wait in memory to be written together.
_INSERT_BYTES: Final = 8 * 1024 * 1024
_CHUNKS_PER_QUERY: Final = 2_000
# Points of older chunks that are in memory together: of thousands of series, those of all would not fit.
_OLDER_POINTS: Final = 2_000_000
# A rectangle with fewer steps than this is cheaper to sort series by series.
_FEW_STEPS: Final = 4


def compact(connection: sa.Connection, run_key: int, new_key: Callable[[], int], points: Sequence[Points] = ()) -> int:
    """Move the points of a run's tails into chunks, then `points` that follow; return how many there were.

    All is in the transaction of `connection`. Raises CorruptChunkError for a damaged tail or chunk.
    """
    groups = [*read_tails(connection, run_key), *points]
    if groups:
        store(connection, groups, new_key)
        connection.execute(tails.delete().where(tails.c.run_id == run_key))
    return sum(group.count for group in groups)


def read_tails(connection: sa.Connection, run_key: int) -> list[Points]:
    """Return the groups of points of a run's tails, oldest first; raises CorruptChunkError for a damaged one."""
    groups, damaged = read_intact(connection, run_key)
    if damaged:
        raise tail_error(connection, run_key, damaged[0])
    return groups


def store(connection: sa.Connection, groups: Sequence[Points], new_key: Callable[[], int]) -> None:
    """Write points that follow every chunk of their series as chunks, merged with the youngest small ones."""
    whole, others = _apart(groups)
    sizes: dict[int, int] = {}
    for rectangle in whole:
        sizes.update(dict.fromkeys(rectangle.attribute_ids.tolist(), len(rectangle.steps)))
    sizes |= {key: len(points) for key, points in others.items()}
    older = _Older(connection, sizes)
    rows: list[dict[str, Any]] = []
    size = 0
    for row in _rows(whole, others, older, new_key):
        rows.append(row)
        size += len(row["payload"])
        if size >= _INSERT_BYTES:
            connection.execute(chunks.insert(), rows)
            rows, size = [], 0
    if rows:
        connection.execute(chunks.insert(), rows)


def _apart(groups: Sequence[Points]) -> tuple[list[Rectangle], dict[int, FloatColumns]]:
    """Return rectangles whose series occur nowhere else, and the points of every other series."""
    stacked = tails_.stack(groups)
    keys, counts = np.unique(np.concatenate([np.unique(group.attribute_ids) for group in stacked]), return_counts=True)
    shared = keys[counts > 1]
    whole: list[Rectangle] = []
    others: list[Points] = []
    for group in stacked:
        if (
            isinstance(group, Rectangle)
            and len(group.steps) >= _FEW_STEPS
            and not bool(np.isin(group.attribute_ids, shared).any())
        ):
            whole.append(group)
        else:
            others.append(group)
    wanted = {key for group in others for key in group.attribute_ids.tolist()}
    return whole, tails_.by_series(others, wanted)


def _rows(
    whole: Iterable[Rectangle],
    others: dict[int, FloatColumns],
    older: _Older,
    new_key: Callable[[], int],
) -> Iterator[dict[str, Any]]:
    for rectangle in whole:
        for start in range(0, len(rectangle.steps), CHUNK_POINTS):
            yield from _rectangle_rows(rectangle, slice(start, start + CHUNK_POINTS), older, new_key)
    for key, points in others.items():
        yield from _series_rows(key, FloatColumns.concatenate([*older.pop(key), points]), new_key)


def _rectangle_rows(
    rectangle: Rectangle, part: slice, older: _Older, new_key: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    """Yield chunks of some steps of a rectangle, those of each series merged with what is older."""
    steps, timestamps = rectangle.steps[part], rectangle.timestamps[part]
    values = np.ascontiguousarray(rectangle.values[part].T)
    payloads = columns_.SharedPositions(steps, timestamps).encode(values)
    first, last = int(steps[0]), int(steps[-1])
    for index, key in enumerate(rectangle.attribute_ids.tolist()):
        before = older.pop(key)
        if before:
            points = FloatColumns(steps, timestamps, values[index])
            yield from _series_rows(key, FloatColumns.concatenate([*before, points]), new_key)
        else:
            yield _row(key, first, last, len(steps), payloads[index], new_key)


def _series_rows(key: int, points: FloatColumns, new_key: Callable[[], int]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(points), CHUNK_POINTS):
        part = points[start : start + CHUNK_POINTS]
        yield _row(key, int(part.steps[0]), int(part.steps[-1]), len(part), columns_.encode(part), new_key)


def _row(
    key: int, first_step: int, last_step: int, count: int, payload: bytes, new_key: Callable[[], int]
) -> dict[str, Any]:
    return {
        "id": new_key(),
        "attribute_id": key,
        "first_step": first_step,
        "last_step": last_step,
        "count": count,
        "payload": payload,
        "checksum": columns_.checksum(payload),
    }


class _Older:
    """The chunks to write anew, by series; read, and deleted, for some series at a time."""

    def __init__(self, connection: sa.Connection, sizes: Mapping[int, int]) -> None:
        self._connection = connection
        self._taken: dict[int, list[FloatColumns]] = {}
        # Which chunks those are, with the number of their points: of series that are asked for one after the other.
        self._groups: list[dict[int, list[int]]] = []
        self._group_of: dict[int, int] = {}
        points = _OLDER_POINTS
        for key, (merged, count) in _mergeable(connection, sizes).items():
            if points >= _OLDER_POINTS:
                self._groups.append({})
                points = 0
            self._groups[-1][key] = merged
            self._group_of[key] = len(self._groups) - 1
            points += count

    def pop(self, key: int) -> list[FloatColumns]:
        """Return the points to be merged with those of a series that come now, oldest first; none the second time."""
        group = self._group_of.pop(key, None)
        if group is not None and key not in self._taken:
            self._taken |= _take(
                self._connection, [chunk for merged in self._groups[group].values() for chunk in merged]
            )
            self._groups[group] = {}
        return self._taken.pop(key, [])


def _mergeable(connection: sa.Connection, sizes: Mapping[int, int]) -> dict[int, tuple[list[int], int]]:
    """Return the chunks to write anew with the points that come, and how many points they have, by series.

    `sizes` tells how many points of each series come; the series are in its order.
    """
    found: dict[int, tuple[list[int], int]] = {}
    series = list(sizes)
    columns = (chunks.c.attribute_id, chunks.c.id, chunks.c.count)
    for start in range(0, len(series), _IDS_PER_QUERY):
        query = sa.select(*columns).where(chunks.c.attribute_id.in_(series[start : start + _IDS_PER_QUERY]))
        done: set[int] = set()
        for key, chunk, count in connection.execute(query.order_by(chunks.c.attribute_id, chunks.c.first_step.desc())):
            if key in done:
                continue
            merged, points = found.get(key, ([], 0))
            size = sizes[key] + points
            if count <= _RATIO * size and count + size <= CHUNK_POINTS:
                found[key] = ([*merged, chunk], points + count)
            else:
                done.add(key)
    return {key: found[key] for key in series if key in found}


def _take(connection: sa.Connection, merged: Sequence[int]) -> dict[int, list[FloatColumns]]:
    """Delete chunks and return their points by series, oldest first."""
    taken: dict[int, list[FloatColumns]] = {}
    for start in range(0, len(merged), _CHUNKS_PER_QUERY):
        keys = merged[start : start + _CHUNKS_PER_QUERY]
        query = sa.select(chunks.c.attribute_id, chunks.c.payload, chunks.c.checksum, chunks.c.id)
        for key, payload, checksum, chunk in connection.execute(query.where(chunks.c.id.in_(keys))):
            if columns_.checksum(payload) != checksum:
                raise chunk_error(connection, chunk)
            taken.setdefault(key, []).append(columns_.decode_floats(payload))
        connection.execute(chunks.delete().where(chunks.c.id.in_(keys)))
    for parts in taken.values():
        parts.sort(key=lambda part: int(part.steps[0]))
    return taken
