"""Chunks of series that are not of floats: merged as they come, so that few hold many points, sorted by step.

The youngest chunks are merged while the next older one is not larger than what has come together. Points may be late: a
chunk of theirs lies across older ones. It is merged with those once it is a fair part of them, so a point is written
again a few times at most, and only a few chunks lie across any step. Of points at the same step the one logged last
stays: it is in the chunk with the greater key.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from neptune_api.server.store import columns as columns_
from neptune_api.server.store.columns import PayloadColumns
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.schema import chunks
from neptune_api.server.store.series import load_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CHUNK_POINTS: Final = 4096
CHUNK_BYTES: Final = 1024 * 1024
# A chunk with less than this is written anew when points follow: single appends do not leave a row each.
SMALL_POINTS: Final = 64
SMALL_BYTES: Final = 64 * 1024
# Chunks that points lie across are written anew when they have at most so many times as many points.
_WORTHWHILE: Final = 2


class _Chunk(NamedTuple):
    key: int
    attribute_id: int
    first_step: int
    last_step: int
    points: int
    size: int

    @property
    def may_grow(self) -> bool:
        return 2 * self.points <= CHUNK_POINTS and 2 * self.size <= CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Arrival:
    """Points that are no longer waited for, in the order they were logged; the chunk `replaced` has some of them."""

    points: PayloadColumns
    replaced: int | None


def is_small(points: PayloadColumns) -> bool:
    """Tell whether more points may be waited for."""
    return len(points) < SMALL_POINTS and sum(map(len, points.payloads)) < SMALL_BYTES


def store(connection: sa.Connection, arrivals: Mapping[int, Arrival], new_key: Callable[[], int]) -> None:
    """Write points of series, by attribute, merged with older chunks."""
    older: dict[int, list[_Chunk]] = {key: [] for key in arrivals}
    columns = (chunks.c.id, chunks.c.attribute_id, chunks.c.first_step, chunks.c.last_step, chunks.c.count)
    for batch in batches(list(arrivals)):
        query = sa.select(*columns, sa.func.length(chunks.c.payload)).where(chunks.c.attribute_id.in_(batch))
        for row in connection.execute(query.order_by(chunks.c.id)):
            chunk = _Chunk(*row)
            if chunk.key != arrivals[chunk.attribute_id].replaced:
                older[chunk.attribute_id].append(chunk)
    rows: list[dict[str, Any]] = []
    gone = [arrival.replaced for arrival in arrivals.values() if arrival.replaced is not None]
    for key, arrival in arrivals.items():
        merged = _to_merge(arrival.points, older[key])
        try:
            parts = _load(connection, merged)
        except CorruptChunkError:
            # Readers hear of it; what is written stands beside it.
            merged, parts = set(), []
        gone += (chunk.key for chunk in merged)
        last = max((chunk.last_step for chunk in older[key] if chunk not in merged), default=-1)
        rows += (chunk_row(key, piece, new_key()) for piece in _pieces(_sorted([*parts, arrival.points]), last))
    for batch in batches(gone):
        connection.execute(chunks.delete().where(chunks.c.id.in_(batch)))
    connection.execute(chunks.insert(), rows)


def _to_merge(points: PayloadColumns, older: Sequence[_Chunk]) -> set[_Chunk]:
    """Return the chunks, of those given in the order they were written, to write anew with points that come."""
    merged: set[_Chunk] = set()
    count = len(points)
    lower, upper = int(points.steps.min()), int(points.steps.max())
    for chunk in reversed(older):
        if not chunk.may_grow or chunk.points > count:
            break
        merged.add(chunk)
        count += chunk.points
        lower, upper = min(lower, chunk.first_step), max(upper, chunk.last_step)
    # Run by run, the youngest first: what is younger than a merged chunk is merged as well, or shares no step with it.
    looked_at: list[_Chunk] = []
    for run in reversed(_runs([chunk for chunk in older if chunk not in merged])):
        looked_at += run
        found = _across(looked_at, lower, upper)
        if sum(chunk.points for chunk in found) > _WORTHWHILE * count:
            break
        for chunk in found:
            merged.add(chunk)
            looked_at.remove(chunk)
            count += chunk.points
            lower, upper = min(lower, chunk.first_step), max(upper, chunk.last_step)
    return merged


def _runs(older: Sequence[_Chunk]) -> list[list[_Chunk]]:
    """Return chunks, given in the order they were written, in runs whose steps ascend without lying across."""
    runs: list[list[_Chunk]] = []
    for chunk in older:
        if runs and runs[-1][-1].last_step < chunk.first_step:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs


def _across(some: Sequence[_Chunk], lower: int, upper: int) -> list[_Chunk]:
    """Return the chunks that lie across a range of steps, or across others that do."""
    found: list[_Chunk] = []
    left = list(some)
    while touching := [chunk for chunk in left if chunk.first_step <= upper and lower <= chunk.last_step]:
        found += touching
        left = [chunk for chunk in left if chunk not in touching]
        lower = min(lower, *(chunk.first_step for chunk in touching))
        upper = max(upper, *(chunk.last_step for chunk in touching))
    return found


def _load(connection: sa.Connection, merged: set[_Chunk]) -> list[PayloadColumns]:
    """Return the points of chunks in the order they were written; raises CorruptChunkError for a damaged one."""
    keys = sorted(chunk.key for chunk in merged)
    payloads = dict(load_chunks(connection, keys))
    return [columns_.decode_payloads(payloads[key]) for key in keys]


def _sorted(parts: Sequence[PayloadColumns]) -> PayloadColumns:
    """Return points, given in the order they were logged, by step; of those at the same step the last one."""
    points = PayloadColumns.concatenate(parts)
    order = np.argsort(points.steps, kind="stable")
    steps = points.steps[order]
    return points[order[np.append(steps[1:] != steps[:-1], True)]]


def _pieces(points: PayloadColumns, last: int) -> Iterator[PayloadColumns]:
    """Cut points into chunks of a limited size, and between those up to the step `last` and those behind it."""
    ends = np.cumsum(np.fromiter(map(len, points.payloads), np.int64, len(points)))
    groups = (np.arange(len(points)) // CHUNK_POINTS, ends // CHUNK_BYTES, points.steps > last)
    is_cut = np.any([group[1:] != group[:-1] for group in groups], axis=0)
    bounds = [0, *(np.flatnonzero(is_cut) + 1).tolist(), len(points)]
    for start, end in pairwise(bounds):
        yield points[start:end]


def chunk_row(attribute_id: int, points: PayloadColumns, key: int) -> dict[str, Any]:
    """Return points as a row of the `chunks` table."""
    payload = columns_.encode(points)
    return {
        "id": key,
        "attribute_id": attribute_id,
        "first_step": int(points.steps.min()),
        "last_step": int(points.steps.max()),
        "count": len(points),
        "payload": payload,
        "checksum": columns_.checksum(payload),
    }
