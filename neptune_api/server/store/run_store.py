"""Run states in and out of the database: loading, caching, writing changes."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from neptune_api.server.store import columns as columns_
from neptune_api.server.store import schema
from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.rules import decode_set
from neptune_api.server.store.run_state import SERIES_TYPES, Attribute, RunState, Series
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neptune_api.server.store.run_state import Scalar

# A chunk with fewer points than this is written anew when points follow: single appends do not leave a row each.
_SMALL_CHUNK_POINTS: Final = 64
# About 200 bytes each: what the applier keeps of runs it has seen.
_CACHED_ATTRIBUTES: Final = 300_000

_RUN_FIELDS: Final = (
    "id",
    "uuid",
    "project_id",
    "run_id",
    "number",
    "experiment",
    "family",
    "requested_parent",
    "requested_fork_step",
    "parent_id",
    "fork_step",
    "owner_id",
    "created_ms",
)


class Keys:
    """Hand out integer keys of a table; only the applier inserts into its tables."""

    def __init__(self, table: sa.Table, connection: sa.Connection) -> None:
        self._next = (connection.scalar(sa.select(sa.func.max(table.c.id))) or 0) + 1

    def __call__(self) -> int:
        """Return the next key."""
        self._next += 1
        return self._next - 1


class RunStore:
    """Load run states through a connection, keep the recently used ones, write their changes."""

    def __init__(self, connection: sa.Connection) -> None:
        self.run_keys = Keys(schema.runs, connection)
        self._attribute_keys = Keys(schema.attributes, connection)
        self._chunk_keys = Keys(schema.chunks, connection)
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
            run = _load(connection, key)
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
        if type_ in SERIES_TYPES:
            attribute.series = Series(is_float=type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES)
        return attribute

    def write(self, connection: sa.Connection) -> None:
        """Write every change; call `written` once the transaction is committed."""
        new_runs = [run for run in self.changed.values() if not run.is_stored]
        if new_runs:
            rows = [{name: getattr(run, name) for name in _RUN_FIELDS} for run in new_runs]
            connection.execute(schema.runs.insert(), rows)
        changed = [(run, attribute) for run in self.changed.values() for attribute in run.changed.values()]
        new = [(run, attribute) for run, attribute in changed if not attribute.is_stored]
        if new:
            connection.execute(
                schema.attributes.insert(),
                [
                    {"id": item.id, "run_id": run.id, "name": item.name, "type": item.type, **item.columns()}
                    for run, item in new
                ],
            )
        updates = [{"b_id": item.id, **item.columns()} for _, item in changed if item.is_stored and item.series is None]
        if updates:
            table = schema.attributes
            names = ("int_value", "float_value", "text_value", "mime_type")
            statement = table.update().where(table.c.id == sa.bindparam("b_id"))
            connection.execute(statement.values({name: sa.bindparam(name) for name in names}), updates)
        self._write_series(connection, [item for _, item in changed if item.series is not None])

    def written(self) -> None:
        """Note that the changes are on disk, and forget runs beyond the size of the cache."""
        for run in self.changed.values():
            run.is_stored = True
            for attribute in run.changed.values():
                attribute.is_stored = True
            run.changed.clear()
        self.changed.clear()
        excess = sum(len(run.attributes) for run in self._by_id.values()) - _CACHED_ATTRIBUTES
        while excess > 0 and len(self._by_id) > 1:
            _, run = self._by_id.popitem(last=False)
            del self._ids[run.project_id, run.run_id]
            excess -= len(run.attributes)

    def _write_series(self, connection: sa.Connection, items: list[Attribute]) -> None:
        series_rows: list[dict[str, Any]] = []
        chunk_rows: list[dict[str, Any]] = []
        for item in items:
            if item.series is not None:
                chunk_rows += self._take_chunks(item.id, item.series)
                _write_previews(connection, item.id, item.series)
                series_rows.append({"attribute_id": item.id, **_series_row(item.series)})
        _upsert(connection, schema.series, series_rows)
        _upsert(connection, schema.chunks, chunk_rows)

    def _take_chunks(self, attribute_id: int, series: Series) -> list[dict[str, Any]]:
        if not series.steps:
            return []
        count = series.count
        points = series.take_points()
        if isinstance(points, FloatColumns):
            series.summary = series.summary.merge(FloatSummary.of(points))
        else:
            series.summary = FloatSummary(count=count, last_step=series.last_step)
        key = series.tail_id
        if key is None or series.tail is None:
            key = self._chunk_keys()
        else:
            points = type(points).concatenate([series.tail, points])  # type: ignore[list-item]  # same kind
        series.tail, series.tail_id = (points, key) if len(points) < _SMALL_CHUNK_POINTS else (None, None)
        payload = columns_.encode(points)
        return [
            {
                "id": key,
                "attribute_id": attribute_id,
                "first_step": int(points.steps.min()),
                "last_step": int(points.steps.max()),
                "count": len(points),
                "payload": payload,
                "checksum": columns_.checksum(payload),
            }
        ]


def _load(connection: sa.Connection, key: int) -> RunState:
    runs, attributes, series = schema.runs, schema.attributes, schema.series
    row = connection.execute(sa.select(*(runs.c[name] for name in _RUN_FIELDS)).where(runs.c.id == key)).one()
    run = RunState(**row._mapping)  # noqa: SLF001  # the documented way to read a row by name
    query = (
        sa.select(attributes, series)
        .join_from(attributes, series, series.c.attribute_id == attributes.c.id, isouter=True)
        .where(attributes.c.run_id == key)
    )
    for found in connection.execute(query):
        attribute = Attribute(found.id, found.name, found.type, is_stored=True)
        if found.type in SERIES_TYPES:
            attribute.series = _load_series(found)
            if attribute.series.last_preview is not None:
                attribute.series.last_preview = connection.scalar(
                    sa.select(sa.func.max(schema.previews.c.step)).where(schema.previews.c.attribute_id == found.id)
                )
        else:
            attribute.value = _scalar(found)
        run.attributes[found.name] = attribute
    run.last_applied_ms = _time_of(run, "sys/ping_time")
    run.modified_ms = _time_of(run, "sys/modification_time")
    return run


def _time_of(run: RunState, name: str) -> int:
    attribute = run.attributes.get(name)
    return attribute.value if attribute is not None and isinstance(attribute.value, int) else run.created_ms


def _load_series(row: Any) -> Series:
    is_float = row.type == T.ATTRIBUTE_TYPE_FLOAT_SERIES
    last = math.nan if row.last_value is None else row.last_value
    summary = FloatSummary(
        row.count,
        row.last_step,
        last,
        row.finite_count,
        math.nan if row.minimum is None else row.minimum,
        math.nan if row.maximum is None else row.maximum,
        row.total,
        row.deviations,
    )
    series = Series(is_float, summary, row.first_step, row.last_step, last if is_float else row.last_payload)
    series.last_timestamp = row.last_timestamp
    series.last_preview = 0 if row.has_preview else None  # the caller looks the step up
    return series


def _scalar(row: Any) -> Scalar:
    value: Scalar
    if row.type == T.ATTRIBUTE_TYPE_FLOAT:
        value = math.nan if row.float_value is None else float(row.float_value)
    elif row.type == T.ATTRIBUTE_TYPE_STRING_SET:
        value = frozenset(decode_set(row.text_value))
    elif row.type == T.ATTRIBUTE_TYPE_FILE_REF:
        value = pb.FileRef(path=row.text_value, size_bytes=row.int_value, mime_type=row.mime_type)
    elif row.int_value is not None:
        value = int(row.int_value)
    else:
        value = str(row.text_value)
    return value


def _series_row(series: Series) -> dict[str, object]:
    summary = series.summary
    is_text = isinstance(series.last_value, bytes)
    return {
        "count": summary.count,
        "first_step": series.first_step,
        "last_step": series.last_step,
        "last_timestamp": series.last_timestamp,
        "last_value": None if is_text or math.isnan(series.last_value) else series.last_value,  # type: ignore[arg-type]
        "last_payload": series.last_value if is_text else None,
        "finite_count": summary.finite_count,
        "minimum": None if math.isnan(summary.minimum) else summary.minimum,
        "maximum": None if math.isnan(summary.maximum) else summary.maximum,
        "total": _sum(summary.total),
        "deviations": _sum(summary.deviations),
        "has_preview": series.has_preview,
    }


def _sum(total: float) -> float:
    # Sums of huge values overflow, those of both signs to NaN; either way they are lost, and the columns hold no NULL.
    return math.inf if math.isnan(total) else total


def _write_previews(connection: sa.Connection, attribute_id: int, series: Series) -> None:
    if series.last_preview is None:
        return
    table = schema.previews
    if series.last_step is not None:
        connection.execute(table.delete().where(table.c.attribute_id == attribute_id, table.c.step <= series.last_step))
    rows = [
        {
            "attribute_id": attribute_id,
            "step": step,
            "timestamp": preview.timestamp,
            "value": None if math.isnan(preview.value) else preview.value,
            "completion_ratio": preview.ratio,
        }
        for step, preview in series.previews.items()
        if series.last_step is None or step > series.last_step
    ]
    series.previews = {}
    _upsert(connection, table, rows)
    if not series.has_preview:
        series.last_preview = None


def _upsert(connection: sa.Connection, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    values = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)
