"""Checks of everything that a database holds: what ought to fit together, and where it does not.

They read one snapshot and change nothing. Points are looked at run by run, so that memory does not grow with the data.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa
from google.protobuf.message import DecodeError, Message

from neptune_api.server.store import columns as columns_
from neptune_api.server.store import tails as tails_
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.layouts import BlockRecord, LayoutShelf
from neptune_api.server.store.oplog import Kind
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import (
    attributes,
    chunks,
    experiments,
    metadata,
    operations,
    previews,
    projects,
    requests,
    run_revisions,
    runs,
    series,
    tails,
)
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType
from neptune_api.v1.series_service_pb2 import AppendColumnsRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.server.store.columns import FloatColumns
    from neptune_api.server.store.tails import Points

# Sums depend on the order in which they are added up.
_TOLERANCE: Final = 1e-6
_REPORTED_PER_CHECK: Final = 100
_MESSAGES: Final[dict[Kind, type[Message]]] = {Kind.RUN_OPERATION: pb.RunOperation, Kind.COLUMNS: AppendColumnsRequest}


def findings(connection: sa.Connection) -> Iterator[str]:
    """Yield a sentence for everything that is damaged."""
    for check in (_pages, _references, _points, _experiments, _numbers, _log):
        yield from _limited(check, connection)


def _limited(check: Callable[[sa.Connection], Iterator[str]], connection: sa.Connection) -> Iterator[str]:
    """Yield what a check finds, but not the same thing thousands of times; and that it could not read on."""
    count = 0
    try:
        for finding in check(connection):
            count += 1
            if count <= _REPORTED_PER_CHECK:
                yield finding
    except sa.exc.DatabaseError as error:
        yield f"The database cannot be read any further: {str(error.orig).strip().splitlines()[0]}."
    if count > _REPORTED_PER_CHECK:
        yield f"And {count - _REPORTED_PER_CHECK} more of this kind."


def _pages(connection: sa.Connection) -> Iterator[str]:
    if connection.dialect.name != "sqlite":
        return
    for (text,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if text != "ok":
            yield f"SQLite finds: {' '.join(str(text).split())}."


def _references(connection: sa.Connection) -> Iterator[str]:
    """Find rows that refer to rows which are not there, by the declared foreign keys."""
    for table in metadata.sorted_tables:
        for key in table.foreign_keys:
            there = key.column.table.alias("there")
            query = sa.select(sa.func.count()).select_from(
                table.outerjoin(there, there.c[key.column.name] == key.parent)
            )
            missing = there.c[key.column.name].is_(None)
            count = connection.scalar(query.where(key.parent.is_not(None), missing))
            if count:
                yield f"{count} rows of {table.name} name a row of {key.column.table.name} that does not exist."


def _points(connection: sa.Connection) -> Iterator[str]:
    """Compare points with their checksums, their chunks' columns and the summaries of their series."""
    yield from _misplaced(connection)
    for key, run_id in connection.execute(sa.select(runs.c.id, runs.c.run_id).order_by(runs.c.id)).all():
        yield from _Run(connection, key, run_id).findings()


def _misplaced(connection: sa.Connection) -> Iterator[str]:
    is_series = attributes.c.type.in_(sorted(SERIES_TYPES))
    without = sa.select(attributes.c.name, runs.c.run_id).join_from(attributes, runs)
    without = without.join(series, series.c.attribute_id == attributes.c.id, isouter=True)
    for path, run_id in connection.execute(without.where(is_series, series.c.attribute_id.is_(None))):
        yield f"The series {path} of run {run_id} has no summary."
    for table in (series, chunks, previews):
        query = sa.select(sa.func.count()).select_from(table.join(attributes)).where(~is_series)
        if count := connection.scalar(query):
            yield f"{count} rows of {table.name} belong to an attribute that is no series."


class _Run:
    """The points of one run."""

    def __init__(self, connection: sa.Connection, key: int, run_id: str) -> None:
        self._connection = connection
        self._key = key
        self._run_id = run_id

    def findings(self) -> Iterator[str]:
        query = sa.select(attributes.c.name, attributes.c.type, series, series.c.count.label("points"))
        query = query.join_from(attributes, series).where(attributes.c.run_id == self._key)
        rows = {row.attribute_id: row for row in self._connection.execute(query)}
        groups: list[Points] = []
        lost = False
        for tail, finding in self._tails():
            groups += tail
            if finding is not None:
                lost = True
                yield finding
        known = {key for group in groups for key in group.attribute_ids.tolist()}
        if unknown := known - rows.keys():
            yield f"A tail of run {self._run_id} has points of {len(unknown)} series that do not exist."
        in_tails = tails_.by_series(groups, known & rows.keys())
        for key, row in rows.items():
            if row.type == AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES:
                yield from self._floats(row, in_tails.get(key), lost=lost)
            else:
                yield from self._payloads(row)

    def _tails(self) -> Iterator[tuple[list[Points], str | None]]:
        query = sa.select(tails).where(tails.c.run_id == self._key).order_by(tails.c.id)
        for row in self._connection.execute(query).mappings():
            where = f"Tail {row['id']} of run {self._run_id}"
            if tails_.checksum(row["payload"]) != row["checksum"]:
                yield [], f"{where}, {row['count']} points, does not have its checksum."
                continue
            try:
                groups = tails_.decode(row["payload"])
            except CorruptChunkError as error:
                yield [], f"{where}: {error}"
                continue
            count = sum(group.count for group in groups)
            right = count == row["count"]
            yield groups, None if right else f"{where} has {count} points, not {row['count']}."

    def _chunks(self, row: Any, order: sa.ColumnElement[Any]) -> Iterator[tuple[Any, str | None]]:
        is_float = row.type == AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES
        of_series = sa.select(chunks.c.id).where(chunks.c.attribute_id == row.attribute_id).order_by(order)
        for key in self._connection.scalars(of_series).all():
            chunk = self._connection.execute(sa.select(chunks).where(chunks.c.id == key)).mappings().one()
            where = f"Chunk {key} of the series {row.name} of run {self._run_id}"
            if columns_.checksum(chunk["payload"]) != chunk["checksum"]:
                yield None, f"{where}, {chunk['count']} points, does not have its checksum."
                continue
            try:
                decode = columns_.decode_floats if is_float else columns_.decode_payloads
                points = decode(chunk["payload"])
            except CorruptChunkError as error:
                yield None, f"{where}: {error}"
                continue
            told = (chunk["count"], chunk["first_step"], chunk["last_step"])
            found = (len(points), int(points.steps.min()), int(points.steps.max())) if len(points) else (0, None, None)
            yield (
                points,
                None if told == found else f"{where} does not have the number or the steps that its row tells.",
            )

    def _floats(self, row: Any, in_tails: FloatColumns | None, *, lost: bool) -> Iterator[str]:
        first, found = None, FloatSummary()
        for points, finding in self._chunks(row, chunks.c.first_step):
            if finding is not None:
                lost = True
                yield finding
            if points is None:
                continue
            if not self._follows(found, points):
                yield f"Chunks of the series {row.name} of run {self._run_id} overlap, or their steps do not increase."
                return
            first = int(points.steps[0]) if first is None else first
            found = found.merge(FloatSummary.of(points))
        if in_tails is not None:
            if not self._follows(found, in_tails):
                yield f"Tails of the series {row.name} of run {self._run_id} do not follow its chunks."
                return
            first = int(in_tails.steps[0]) if first is None else first
            found = found.merge(FloatSummary.of(in_tails))
        if lost:
            return  # the summary cannot fit what is left
        expected = {
            "number of points": (row.points, found.count),
            "first step": (row.first_step, first),
            "last step": (row.last_step, found.last_step),
            "last value": (_number(row.last_value), found.last),
            "number of finite values": (row.finite_count, found.finite_count),
            "minimum": (_number(row.minimum), found.minimum),
            "maximum": (_number(row.maximum), found.maximum),
            "sum": (row.total, found.total),
            "variance": (row.deviations / max(row.finite_count, 1), found.deviations / max(found.finite_count, 1)),
        }
        yield from self._differences(row, expected)
        after = previews.c.step > (-1 if row.last_step is None else row.last_step)
        query = sa.select(sa.func.count()).where(previews.c.attribute_id == row.attribute_id, after)
        waiting = self._connection.scalar(query)
        if bool(waiting) != row.has_preview:
            yield f"The series {row.name} of run {self._run_id} has {waiting} previews, its summary says otherwise."

    @staticmethod
    def _follows(before: FloatSummary, points: FloatColumns) -> bool:
        ascends = bool((np.diff(points.steps) > 0).all())
        return ascends and (before.last_step is None or before.last_step < int(points.steps[0]))

    def _payloads(self, row: Any) -> Iterator[str]:
        lost = False
        last: tuple[int, bytes] | None = None
        steps: set[int] = set()
        for points, finding in self._chunks(row, chunks.c.id):
            if finding is not None:
                lost = True
                yield finding
            if points is None:
                continue
            steps.update(points.steps.tolist())
            for step, payload in zip(points.steps.tolist(), points.payloads, strict=True):
                if last is None or step >= last[0]:
                    last = (step, payload)
        if not lost:
            expected = {
                "number of points": (row.points, len(steps)),
                "first step": (row.first_step, min(steps, default=None)),
                "last step": (row.last_step, max(steps, default=None)),
                "last value": (row.last_payload or None, None if last is None else last[1] or None),
            }
            yield from self._differences(row, expected)

    def _differences(self, row: Any, expected: dict[str, tuple[Any, Any]]) -> Iterator[str]:
        wrong = [name for name, (told, found) in expected.items() if not _is_same(told, found)]
        if wrong:
            yield (
                f"The summary of the series {row.name} of run {self._run_id} is not that of its points: "
                f"{', '.join(wrong)}."
            )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _is_same(told: Any, found: Any) -> bool:
    if isinstance(told, float) and isinstance(found, float):
        if math.isnan(told) or math.isnan(found) or math.isinf(told) or math.isinf(found):
            # Sums of huge values overflow in one order and not in another.
            return (math.isnan(told) and math.isnan(found)) or told == found or not math.isfinite(told + found)
        return math.isclose(told, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(told == found)


def _experiments(connection: sa.Connection) -> Iterator[str]:
    query = sa.select(experiments.c.name, runs.c.run_id).join_from(experiments, runs)
    wrong = sa.or_(
        runs.c.project_id != experiments.c.project_id, runs.c.experiment.is_distinct_from(experiments.c.name)
    )
    for name, run_id in connection.execute(query.where(wrong)):
        yield f"The experiment {name} is represented by run {run_id}, which is not of it."
    parent = runs.alias("parent")
    forks = sa.select(runs.c.run_id, parent.c.run_id).join_from(runs, parent, parent.c.id == runs.c.parent_id)
    for run_id, parent_id in connection.execute(forks.where(parent.c.project_id != runs.c.project_id)):
        yield f"Run {run_id} is a fork of run {parent_id}, which is in another project."


def _numbers(connection: sa.Connection) -> Iterator[str]:
    query = sa.select(projects.c.name, projects.c.next_run_number).join_from(projects, runs).group_by(projects.c.id)
    for name, number in connection.execute(query.having(sa.func.max(runs.c.number) >= projects.c.next_run_number)):
        yield f"The next run of the project {name} would get the number {number}, which is taken."
    query = sa.select(projects.c.name, projects.c.revision).join_from(projects, run_revisions).group_by(projects.c.id)
    for name, revision in connection.execute(query.having(sa.func.max(run_revisions.c.revision) > projects.c.revision)):
        yield f"The project {name} is at revision {revision}, and some of its runs have changed at a later one."


def _log(connection: sa.Connection) -> Iterator[str]:
    """Find operations whose outcome nobody can ask for, and requests that will stay pending."""
    same = requests.c.request_id == operations.c.request_id
    query = sa.select(operations.c.sequence, requests.c.request_id, requests.c.status)
    for sequence, request_id, status in connection.execute(
        query.join_from(operations, requests, same, isouter=True).where(
            sa.or_(requests.c.request_id.is_(None), requests.c.status.is_not(None))
        )
    ):
        what = "has no request" if request_id is None else "is applied already" if status is not None else ""
        yield f"Operation {sequence} of the log {what}."
    pending = sa.select(requests.c.request_id).join_from(requests, operations, same, isouter=True)
    for (request_id,) in connection.execute(
        pending.where(requests.c.status.is_(None), operations.c.sequence.is_(None))
    ):
        yield f"Request {request_id} waits for an operation that is not in the log."
    shelf = LayoutShelf()
    waiting = sa.select(operations.c.sequence).order_by(operations.c.sequence)
    for sequence in connection.scalars(waiting).all():
        of_one = sa.select(operations.c.kind, operations.c.layout_key, operations.c.payload)
        kind, layout_key, payload = connection.execute(of_one.where(operations.c.sequence == sequence)).one()
        try:
            if kind == Kind.BLOCK:
                BlockRecord.parse(payload, shelf.get(connection, layout_key))
            else:
                _MESSAGES[Kind(kind)].FromString(payload)
        except (DecodeError, ValueError, sa.exc.NoResultFound):
            yield f"Operation {sequence} of the log is no message."
