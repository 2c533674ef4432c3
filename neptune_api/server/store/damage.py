"""Damaged rows of points: which series they belong to, and how to read what is not damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.server.store import tails as tails_
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.schema import attributes, chunks, runs, series, tails

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from neptune_api.server.store.columns import FloatColumns
    from neptune_api.server.store.tails import Points

_ADVICE: Final = (
    "other series can be read. `neptune-api doctor` lists all that is damaged; only a backup has the points."
)


def chunk_error(connection: sa.Connection, chunk: int) -> CorruptChunkError:
    """Return what to say of a chunk that does not have its checksum."""
    query = sa.select(attributes.c.name, runs.c.run_id).join_from(chunks, attributes).join(runs)
    path, run_id = connection.execute(query.where(chunks.c.id == chunk)).one()
    return CorruptChunkError(f"Points of the series {path} of run {run_id} are damaged (chunk {chunk}); {_ADVICE}")


def tail_error(
    connection: sa.Connection, run_key: int, tail: int, attribute_id: int | None = None
) -> CorruptChunkError:
    """Return what to say of a tail that does not have its checksum, about one of its series if that is known."""
    run_id = connection.scalar(sa.select(runs.c.run_id).where(runs.c.id == run_key))
    path = connection.scalar(sa.select(attributes.c.name).where(attributes.c.id == attribute_id))
    whose = "Points" if path is None else f"Points of the series {path}"
    return CorruptChunkError(f"{whose} of run {run_id} are damaged (tail {tail}); {_ADVICE}")


def tail_columns(connection: sa.Connection, run_key: int, wanted: Collection[int]) -> dict[int, FloatColumns]:
    """Return the points that are in a run's tails of each wanted series that has any, ascending by step.

    A damaged tail does not tell whose points it held. The summaries do: a series whose points are all elsewhere had
    none in it. Raises CorruptChunkError for a series that has lost some.
    """
    groups, damaged = read_intact(connection, run_key)
    found = tails_.by_series(groups, wanted)
    if damaged:
        counts = _points_outside_tails(connection, wanted)
        for key, missing in counts.items():
            if missing != (len(found[key]) if key in found else 0):
                raise tail_error(connection, run_key, damaged[0], key)
    return found


def read_intact(connection: sa.Connection, run_key: int) -> tuple[list[Points], Sequence[int]]:
    """Return the groups of points of a run's tails, oldest first, and the keys of the tails that are damaged."""
    query = sa.select(tails.c.payload, tails.c.checksum, tails.c.id).where(tails.c.run_id == run_key)
    groups: list[Points] = []
    damaged: list[int] = []
    for payload, checksum, key in connection.execute(query.order_by(tails.c.id)):
        if tails_.checksum(payload) == checksum:
            groups += tails_.decode(payload)
        else:
            damaged.append(key)
    return groups, damaged


def _points_outside_tails(connection: sa.Connection, wanted: Collection[int]) -> dict[int, int]:
    """Return by series how many of its points are not in chunks, and so must be in tails."""
    left: dict[int, int] = {}
    for batch in batches(list(wanted)):
        of_series = sa.select(series.c.attribute_id, series.c.count).where(series.c.attribute_id.in_(batch))
        left.update((key, count) for key, count in connection.execute(of_series))
        in_chunks = sa.select(chunks.c.attribute_id, sa.func.sum(chunks.c.count)).group_by(chunks.c.attribute_id)
        for key, count in connection.execute(in_chunks.where(chunks.c.attribute_id.in_(batch))):
            left[key] -= count
    return left
