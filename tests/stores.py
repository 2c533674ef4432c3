"""A store in a folder, with a project to write to, and what is in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from neptune_api.conformance.operations import PROJECT
from neptune_api.conformance.outcomes import Counts, counts_of_status
from neptune_api.server.store import schema
from neptune_api.server.store.database import Database
from neptune_api.server.store.directory import Directory, ensure_owner
from neptune_api.server.store.oplog import Kind
from neptune_api.server.store.points import read_floats, read_payloads
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.store import Store, Submission
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType
from neptune_api.v1.series_service_pb2 import AppendColumnsRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from neptune_api.server.store.oplog import Outcome

Operation = pb.RunOperation | AppendColumnsRequest | bytes

TIMEOUT = 30.0

_SUMMARY = [
    schema.series.c[name]
    for name in (
        "first_step",
        "last_step",
        "last_timestamp",
        "last_value",
        "finite_count",
        "minimum",
        "maximum",
        "has_preview",
    )
]


@dataclass
class Content:
    """What a run holds: values by path; points (micro-step, ms, value) and previews (the same and a ratio) by path."""

    values: dict[str, Any] = field(default_factory=dict)
    points: dict[str, list[tuple[int, int, Any]]] = field(default_factory=dict)
    previews: dict[str, list[tuple[int, int, float, float]]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    """Number of points by path, as the summary of the series tells it."""
    summaries: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """By path: first and last step, time of the last point, then of float series last value, finite count, least and
    greatest value, and whether there is a preview."""


class Bench:
    """A started store with the project `local/lab`, whose owner writes."""

    def __init__(self, location: Path | str, *, durable: bool = True, clock: Callable[[], float] = time.time) -> None:
        """Open the store in a folder or at a URL; a folder that is not `durable` does not wait for the disk."""
        self.database = Database(location)
        if not durable and isinstance(location, Path):
            engine = self.database._engine
            sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
            engine.dispose()
        directory = Directory(self.database)
        workspace, _, name = PROJECT.partition("/")
        self.user_id = ensure_owner(directory, workspace, "owner").id
        found = directory.find_project(PROJECT, self.user_id)
        self.project_id = (
            directory.create_project(name, workspace_id=directory.ensure_workspace(workspace), creator_id=self.user_id)
            if found is None
            else found.id
        )
        self.store = Store(self.database, clock)

    def start(self) -> Self:
        self.store.start()
        return self

    def close(self) -> None:
        self.store.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submission(self, operation: Operation, key: str | None = None) -> Submission:
        payload = operation if isinstance(operation, bytes) else operation.SerializeToString()
        kind = Kind.COLUMNS if isinstance(operation, AppendColumnsRequest) else Kind.RUN_OPERATION
        return Submission(payload, self.user_id, self.project_id, key, kind)

    def read(self, operation: pb.RunOperation) -> Submission:
        """Return an operation as the server reads it: with its points as a block where it is nothing else."""
        found = self.store.read_operation(operation.SerializeToString())
        return replace(self.submission(found.payload), record=found.record)

    def submit(self, *operations: Operation) -> list[str]:
        """Accept operations in one transaction."""
        return self.store.submit_many([self.submission(operation) for operation in operations])

    def results(self, request_ids: list[str]) -> list[Counts]:
        """Return what became of accepted operations once they are applied."""
        return [counts_of(outcome) for outcome in self.store.wait_applied(request_ids, TIMEOUT)]

    def apply(self, *operations: Operation) -> list[Counts]:
        """Accept operations together and return what became of them."""
        return self.results(self.submit(*operations))

    def apply_one(self, operation: Operation) -> Counts:
        return self.apply(operation)[0]

    def content(self, run: str) -> Content:
        """Return everything that a run holds."""
        return read_content(self.database, run)


def counts_of(outcome: Outcome) -> Counts:
    assert outcome.status is not None, "the operation is not applied yet"
    return counts_of_status(pb.RequestStatus.FromString(outcome.status))


def read_content(database: Database, run: str) -> Content:
    runs, attributes, previews = schema.runs, schema.attributes, schema.previews
    content = Content()
    with database.read() as connection:
        rows = connection.execute(
            sa.select(attributes, schema.series.c.count.label("points"), *_SUMMARY)
            .join_from(attributes, runs, runs.c.id == attributes.c.run_id)
            .join(schema.series, schema.series.c.attribute_id == attributes.c.id, isouter=True)
            .where(runs.c.run_id == run)
        ).all()
        for row in rows:
            if row.type not in SERIES_TYPES:
                content.values[row.name] = (row.type, row.int_value, row.float_value, row.text_value, row.mime_type)
                continue
            content.totals[row.name] = row.points
            content.summaries[row.name] = tuple(getattr(row, column.name) for column in _SUMMARY)
            content.points[row.name] = list(_points(connection, row.id, row.type))
            found = connection.execute(
                sa.select(previews).where(previews.c.attribute_id == row.id).order_by(previews.c.step)
            ).all()
            if found:
                content.previews[row.name] = [
                    (item.step, item.timestamp, item.value, item.completion_ratio) for item in found
                ]
    return content


def _points(connection: sa.Connection, attribute_id: int, type_: int) -> Iterable[tuple[int, int, Any]]:
    if type_ == AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES:
        floats = read_floats(connection, attribute_id)
        return zip(floats.steps.tolist(), floats.timestamps.tolist(), floats.values.tolist(), strict=True)
    texts = read_payloads(connection, attribute_id)
    return zip(texts.steps.tolist(), texts.timestamps.tolist(), texts.payloads, strict=True)
