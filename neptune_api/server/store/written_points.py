"""What was written at a step: the applier asks it about every point that is not after the last one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from neptune_api.server.recent import Recent
from neptune_api.server.store import columns as columns_
from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.compaction import read_tails
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.schema import chunks
from neptune_api.server.store.series import load_chunks
from neptune_api.server.store.tails import by_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from neptune_api.server.store.columns import Int64Array, PayloadColumns
    from neptune_api.server.store.logged_values import LoggedValues
    from neptune_api.server.store.run_state import PointValue

# A client that starts again sends everything again, in the order of before: chunks are asked about point after point.
_KEPT_BYTES: Final = 32 * 1024 * 1024
# What a point takes in memory, in most chunks.
_POINT_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class _Ranges:
    """The chunks of a series: least and greatest step and id of each, the youngest last."""

    first: Int64Array
    last: Int64Array
    ids: Int64Array

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> _Ranges:
        table = np.array(rows, np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    def covering(self, step: int) -> list[int]:
        found = self.ids[(self.first <= step) & (step <= self.last)]
        ids: list[int] = found[::-1].tolist()
        return ids


@dataclass(frozen=True, slots=True)
class _Chunk:
    columns: FloatColumns | PayloadColumns
    steps: Int64Array
    order: npt.NDArray[np.intp]
    size: int

    def value(self, step: int) -> PointValue | None:
        place = int(np.searchsorted(self.steps, step, "right")) - 1
        if place < 0 or self.steps[place] != step:
            return None
        index = int(self.order[place])
        if isinstance(self.columns, FloatColumns):
            return float(self.columns.values[index])
        return self.columns.payloads[index]


class WrittenPoints:
    """Look points up in one snapshot of the database; keeps the chunks that it has read last."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._ranges: dict[int, _Ranges] = {}
        self._tails: dict[int, dict[int, FloatColumns]] = {}
        self._chunks: Recent[int, _Chunk] = Recent(_KEPT_BYTES, attrgetter("size"))

    def value(self, run_key: int, attribute_id: int, step: int, *, is_float: bool) -> PointValue | None:
        """Return what was logged last at a step (micro-steps) of a series of a run; None when nothing was.

        Raises CorruptChunkError when a checksum does not fit.
        """
        tail = self._tail(run_key).get(attribute_id) if is_float else None
        if tail is not None and step >= int(tail.steps[0]):
            place = int(np.searchsorted(tail.steps, step))
            return float(tail.values[place]) if place < len(tail) and tail.steps[place] == step else None
        for chunk_id in self._ranges_of(attribute_id).covering(step):
            found = self._chunk(chunk_id, is_float=is_float).value(step)
            if found is not None:
                return found
        return None

    def look_up(self, run_key: int, attribute_id: int, known: LoggedValues) -> None:
        """Add the values of a float series; raises as `value`."""
        tail = self._tail(run_key).get(attribute_id)
        if tail is not None:
            known.add(tail.steps, tail.values)
        ranges = self._ranges_of(attribute_id)
        first, last = int(known.steps[0]), int(known.steps[-1])
        for chunk_id in ranges.ids[(ranges.first <= last) & (ranges.last >= first)].tolist():
            points = self._chunk(chunk_id, is_float=True).columns
            if isinstance(points, FloatColumns):
                known.add(points.steps, points.values)

    def look_ahead(self, attribute_ids: Sequence[int], first: int, last: int) -> None:
        """Read chunks of float series from `first` to `last` (micro-steps) together, before their points are asked for.

        Asked for one by one, chunks cost a query each.
        """
        missing = [key for key in attribute_ids if key not in self._ranges]
        found: dict[int, list[tuple[int, int, int]]] = {key: [] for key in missing}
        wanted: list[int] = []
        room = _KEPT_BYTES // 2
        columns = (chunks.c.attribute_id, chunks.c.first_step, chunks.c.last_step, chunks.c.id, chunks.c.count)
        for batch in batches(missing):
            query = sa.select(*columns).where(chunks.c.attribute_id.in_(batch)).order_by(chunks.c.id)
            for key, lower, upper, chunk_id, count in self._connection.execute(query):
                found[key].append((lower, upper, chunk_id))
                if lower <= last and first <= upper and room > 0:
                    wanted.append(chunk_id)
                    room -= _POINT_BYTES * count
        self._ranges.update((key, _Ranges.of(rows)) for key, rows in found.items())
        # Damage is told of by whoever asks for the points.
        with contextlib.suppress(CorruptChunkError):
            for chunk_id, payload in load_chunks(self._connection, wanted):
                self._keep(chunk_id, payload, is_float=True)

    def _ranges_of(self, attribute_id: int) -> _Ranges:
        ranges = self._ranges.get(attribute_id)
        if ranges is None:
            ranges = self._ranges[attribute_id] = self._read_ranges(attribute_id)
        return ranges

    def _tail(self, run_key: int) -> dict[int, FloatColumns]:
        if run_key not in self._tails:
            groups = read_tails(self._connection, run_key)
            keys = {key for group in groups for key in group.attribute_ids.tolist()}
            self._tails[run_key] = by_series(groups, keys)
        return self._tails[run_key]

    def _read_ranges(self, attribute_id: int) -> _Ranges:
        query = sa.select(chunks.c.first_step, chunks.c.last_step, chunks.c.id)
        rows = self._connection.execute(query.where(chunks.c.attribute_id == attribute_id).order_by(chunks.c.id))
        return _Ranges.of([tuple(row) for row in rows])

    def _chunk(self, chunk_id: int, *, is_float: bool) -> _Chunk:
        kept = self._chunks.get(chunk_id)
        if kept is not None:
            return kept
        ((_, payload),) = load_chunks(self._connection, [chunk_id])
        return self._keep(chunk_id, payload, is_float=is_float)

    def _keep(self, chunk_id: int, payload: bytes, *, is_float: bool) -> _Chunk:
        columns = (columns_.decode_floats if is_float else columns_.decode_payloads)(payload)
        # Stable: of points at the same step the one logged later comes later.
        order = np.argsort(columns.steps, kind="stable")
        chunk = _Chunk(columns, columns.steps[order], order, len(payload) + _POINT_BYTES * len(columns))
        self._chunks.put(chunk_id, chunk)
        return chunk
