"""Loading the state of a run from the database."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from neptune_api.server.store import schema
from neptune_api.server.store.float_table import NEVER
from neptune_api.server.store.rules import decode_set
from neptune_api.server.store.run_state import Attribute, PayloadSeries, RunState
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from neptune_api.server.store.run_state import Scalar

RUN_FIELDS: Final = (
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
"""Columns of the `runs` table that a state has."""


def load_run(connection: sa.Connection, key: int) -> RunState:
    """Return the state of a run, which must exist, as it is written."""
    runs, attributes, series, tails = schema.runs, schema.attributes, schema.series, schema.tails
    row = connection.execute(sa.select(*(runs.c[name] for name in RUN_FIELDS)).where(runs.c.id == key)).one()
    run = RunState(**row._mapping)  # noqa: SLF001  # the documented way to read a row by name
    query = (
        sa.select(attributes, series, series.c.count.label("points"))
        .join_from(attributes, series, series.c.attribute_id == attributes.c.id, isouter=True)
        .where(attributes.c.run_id == key)
    )
    for found in connection.execute(query):
        attribute = run.attributes[found.name] = Attribute(found.id, found.name, found.type, is_stored=True)
        if found.type == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
            attribute.slot = _load_floats(connection, run, found)
        elif found.total is not None:
            attribute.series = PayloadSeries(
                found.points, found.first_step, found.last_step, found.last_payload, found.last_timestamp
            )
        else:
            attribute.value = _scalar(found)
    in_tails = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(tails.c.count), 0)).where(tails.c.run_id == key)
    run.tail_count, run.tail_points = connection.execute(in_tails).one()
    run.last_applied_ms = _time_of(run, "sys/ping_time")
    run.modified_ms = _time_of(run, "sys/modification_time")
    return run


def _load_floats(connection: sa.Connection, run: RunState, row: Any) -> int:
    floats = run.floats
    slot = floats.add(row.id)
    floats.stored = floats.size
    last = math.nan if row.last_value is None else row.last_value
    floats.summary.put(
        slot,
        FloatSummary(
            row.points,
            row.last_step,
            last,
            row.finite_count,
            math.nan if row.minimum is None else row.minimum,
            math.nan if row.maximum is None else row.maximum,
            row.total,
            row.deviations,
        ),
    )
    floats.first_step[slot] = NEVER if row.first_step is None else row.first_step
    floats.last_step[slot] = NEVER if row.last_step is None else row.last_step
    floats.last_timestamp[slot] = NEVER if row.last_timestamp is None else row.last_timestamp
    floats.last_value[slot] = last
    if row.has_preview:
        previews = schema.previews
        query = sa.select(sa.func.max(previews.c.step)).where(previews.c.attribute_id == row.id)
        floats.last_preview[slot] = connection.scalar(query) or 0
    return slot


def _time_of(run: RunState, name: str) -> int:
    attribute = run.attributes.get(name)
    return attribute.value if attribute is not None and isinstance(attribute.value, int) else run.created_ms


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
