"""Run states in and out of the database: loading, caching, writing changes."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from neptune_api.server.store import payload_chunks, revisions, schema, table_rows
from neptune_api.server.store import tails as tails_
from neptune_api.server.store.columns import PayloadColumns
from neptune_api.server.store.compaction import compact
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.keys import keys_of
from neptune_api.server.store.payload_chunks import Arrival, chunk_row, is_small
from neptune_api.server.store.run_loading import RUN_FIELDS, load_run
from neptune_api.server.store.run_state import SERIES_TYPES, VALUE_COLUMNS, Attribute, PayloadSeries
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from neptune_api.server.store.database import Database
    from neptune_api.server.store.float_table import FloatTable
    from neptune_api.server.store.run_state import RunState, Scalar
    from neptune_api.server.store.table_rows import Columns
    from neptune_api.server.store.tails import Points

# With as many new points for each series, chunks are written at once.
_LONG_POINTS: Final = 32_768
# About 200 bytes each: what the applier keeps of runs it has seen.
_CACHED_ATTRIBUTES: Final = 300_000


@dataclass(frozen=True, slots=True)
class FloatChanges:
    """Float points of one run on their way into the database; no tail: they are to become chunks at once."""

    run: RunState
    groups: list[Points]
    tail: dict[str, object] | None
    slots: npt.NDArray[np.intp]
    """Of the series whose summaries are `new` or `known` rows."""
    new: Columns
    known: Columns


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of run states on their way into the database."""

    run_keys: list[int]
    """Of all runs that are changed."""
    runs: list[dict[str, object]]
    attributes: Columns
    values: list[dict[str, object]]
    payloads: list[Attribute]
    floats: list[FloatChanges]


class RunStore:
    """Load run states through a connection, keep the recently used ones, write their changes."""

    def __init__(self, database: Database) -> None:
        self.run_keys = keys_of(schema.runs, database)
        self._attribute_keys = keys_of(schema.attributes, database)
        self.chunk_keys = keys_of(schema.chunks, database)
        self._by_id: OrderedDict[int, RunState] = OrderedDict()
        self._ids: dict[tuple[int, str], int] = {}
        self.changed: dict[int, RunState] = {}

    def find(self, connection: sa.Connection, project_id: int, run_id: str) -> RunState | None:
        """Return a run by project and run id; None when there is none."""
        found = self._ids.get((project_id, run_id))
        if found is not None:
            return self.get(connection, found)
        runs = schema.runs
        key = connection.scalar(sa.select(runs.c.id).where(runs.c.project_id == project_id, runs.c.run_id == run_id))
        return None if key is None else self.get(connection, key)

    def get(self, connection: sa.Connection, key: int) -> RunState:
        """Return a run by its key, which must exist."""
        run = self._by_id.get(key)
        if run is None:
            run = load_run(connection, key)
            self.keep(run)
        self._by_id.move_to_end(key)
        return run

    def keep(self, run: RunState) -> None:
        """Remember a run."""
        self._by_id[run.id] = run
        self._ids[run.project_id, run.run_id] = run.id

    def touch(self, run: RunState) -> None:
        """Note that a run has changes to write."""
        self.changed[run.id] = run

    def forget(self) -> None:
        """Forget everything, because another process may have written."""
        self.clear()
        for keys in (self.run_keys, self._attribute_keys, self.chunk_keys):
            keys.drop()

    def clear(self) -> None:
        """Forget every run, with the changes that are not written."""
        self._by_id.clear()
        self._ids.clear()
        self.changed.clear()

    def put(self, run: RunState, name: str, type_: int, value: Scalar) -> None:
        """Set a single value."""
        attribute = run.attributes.get(name)
        if attribute is None:
            attribute = self.add(run, name, type_)
        elif attribute.value == value:
            return
        attribute.value = value
        run.changed[name] = attribute

    def add(self, run: RunState, name: str, type_: int) -> Attribute:
        """Add an attribute that the run does not have."""
        attribute = run.attributes[name] = Attribute(self._attribute_keys(), name, type_)
        if type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
            attribute.slot = run.floats.add(attribute.id)
        elif type_ in SERIES_TYPES:
            attribute.series = PayloadSeries()
        run.changed[name] = attribute
        return attribute

    def gather(self) -> Changes:
        """Return every change as rows to write, before a transaction that others wait for."""
        changed = [(run, attribute) for run in self.changed.values() for attribute in run.changed.values()]
        return Changes(
            run_keys=list(self.changed),
            runs=[
                {name: getattr(run, name) for name in RUN_FIELDS} for run in self.changed.values() if not run.is_stored
            ],
            attributes=_attribute_columns([(run, item) for run, item in changed if not item.is_stored]),
            values=[
                {"b_id": item.id, **item.columns()} for _, item in changed if item.is_stored and item.value is not None
            ],
            payloads=[item for _, item in changed if item.series is not None],
            floats=[_float_changes(run) for run in self.changed.values() if run.floats.has_waiting],
        )

    def write(self, connection: sa.Connection, changes: Changes) -> None:
        """Write what `gather` returned; call `written` once the transaction is committed."""
        if changes.runs:
            connection.execute(schema.runs.insert(), changes.runs)
        table_rows.ATTRIBUTES.insert(connection, changes.attributes)
        if changes.values:
            table = schema.attributes
            statement = table.update().where(table.c.id == sa.bindparam("b_id"))
            connection.execute(statement.values({name: sa.bindparam(name) for name in VALUE_COLUMNS}), changes.values)
        self._write_payloads(connection, changes.payloads)
        for floats in changes.floats:
            self._write_floats(connection, floats)
        revisions.advance(connection, changes.run_keys)

    def written(self) -> None:
        """Note that the changes are on disk, and forget runs beyond the size of the cache."""
        for run in self.changed.values():
            run.is_stored = True
            run.floats.stored = run.floats.size
            for attribute in run.changed.values():
                attribute.is_stored = True
            run.changed.clear()
        self.changed.clear()
        excess = sum(len(run.attributes) for run in self._by_id.values()) - _CACHED_ATTRIBUTES
        while excess > 0 and len(self._by_id) > 1:
            _, run = self._by_id.popitem(last=False)
            del self._ids[run.project_id, run.run_id]
            excess -= len(run.attributes)

    def compacted(self, key: int) -> None:
        """Note that a run has no tails any more."""
        run = self._by_id.get(key)
        if run is not None:
            run.tail_points = run.tail_count = 0

    def _write_payloads(self, connection: sa.Connection, items: list[Attribute]) -> None:
        series_rows: list[dict[str, Any]] = []
        small: list[dict[str, Any]] = []
        arrivals: dict[int, Arrival] = {}
        for item in items:
            series = item.series
            if series is None:
                continue
            series_rows.append(_payload_row(item.id, series))
            if not series.steps:
                continue
            points, key = series.take_points(), series.tail_id
            if series.tail is not None:
                points = PayloadColumns.concatenate([series.tail, points])
            if is_small(points):
                series.tail, series.tail_id = points, self.chunk_keys() if key is None else key
                small.append(chunk_row(item.id, points, series.tail_id))
            else:
                series.tail = series.tail_id = None
                arrivals[item.id] = Arrival(points, key)
        table_rows.upsert(connection, schema.series, series_rows)
        table_rows.upsert(connection, schema.chunks, small)
        if arrivals:
            payload_chunks.store(connection, arrivals, self.chunk_keys)

    def _write_floats(self, connection: sa.Connection, changes: FloatChanges) -> None:
        run, groups = changes.run, changes.groups
        if groups and not (changes.tail is None and self._write_chunks(connection, run, groups)):
            connection.execute(schema.tails.insert(), changes.tail or _tail_row(run, groups))
            run.tail_points += sum(group.count for group in groups)
            run.tail_count += 1
        _write_previews(connection, run.floats, changes.slots)
        table_rows.SERIES.insert(connection, changes.new)
        table_rows.SERIES.update(connection, changes.known)

    def _write_chunks(self, connection: sa.Connection, run: RunState, groups: Sequence[Points]) -> bool:
        """Write points as chunks at once, after those in tails; tell whether that was possible."""
        try:
            with connection.begin_nested():
                compact(connection, run.id, self.chunk_keys, groups)
        except CorruptChunkError:
            # Compaction comes across it as well, and knows how to live with that.
            run.keeps_tails = True
            return False
        run.tail_points = run.tail_count = 0
        return True


def _are_long(groups: Sequence[Points]) -> bool:
    """Tell whether there are so many points of each series that a tail would only mean writing them twice."""
    series = sum(len(group.attribute_ids) for group in groups)
    return sum(group.count for group in groups) >= _LONG_POINTS * series


def _float_changes(run: RunState) -> FloatChanges:
    floats = run.floats
    groups, slots = floats.take()
    at_once = bool(groups) and not run.keeps_tails and _are_long(groups)
    return FloatChanges(
        run,
        groups,
        None if at_once or not groups else _tail_row(run, groups),
        slots,
        new=floats.columns_of(slots[slots >= floats.stored]),
        known=floats.columns_of(slots[slots < floats.stored]),
    )


def _tail_row(run: RunState, groups: Sequence[Points]) -> dict[str, object]:
    payload = tails_.encode(groups)
    count = sum(group.count for group in groups)
    return {"run_id": run.id, "count": count, "payload": payload, "checksum": tails_.checksum(payload)}


def _attribute_columns(new: Sequence[tuple[RunState, Attribute]]) -> dict[str, list[object]]:
    values = [item.columns() for _, item in new]
    return {
        "id": [item.id for _, item in new],
        "run_id": [run.id for run, _ in new],
        "project_id": [run.project_id for run, _ in new],
        "name": [item.name for _, item in new],
        "type": [item.type for _, item in new],
        **{name: [row[name] for row in values] for name in VALUE_COLUMNS},
    }


def _payload_row(attribute_id: int, series: PayloadSeries) -> dict[str, object]:
    return {
        "attribute_id": attribute_id,
        "count": series.count,
        "first_step": series.first_step,
        "last_step": series.last_step,
        "last_timestamp": series.last_timestamp,
        "last_payload": series.last_value,
        "finite_count": 0,
        "total": 0.0,
        "deviations": 0.0,
        "has_preview": False,
    }


def _write_previews(connection: sa.Connection, floats: FloatTable, slots: npt.NDArray[np.intp]) -> None:
    table = schema.previews
    rows: list[dict[str, Any]] = []
    for slot in slots.tolist() if floats.last_preview else ():
        if slot not in floats.last_preview:
            continue
        attribute_id, last_step = int(floats.attribute_ids[slot]), int(floats.last_step[slot])
        connection.execute(table.delete().where(table.c.attribute_id == attribute_id, table.c.step <= last_step))
        rows += (
            {
                "attribute_id": attribute_id,
                "step": step,
                "timestamp": preview.timestamp,
                "value": None if math.isnan(preview.value) else preview.value,
                "completion_ratio": preview.ratio,
            }
            for step, preview in floats.previews.get(slot, {}).items()
            if step > last_step
        )
        if not floats.has_preview(slot):
            del floats.last_preview[slot]
    floats.previews = {}
    table_rows.upsert(connection, table, rows)
