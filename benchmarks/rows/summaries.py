"""Summaries of ten thousand series in one call."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from benchmarks.processes import Server
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import Writer, paths, snapshots, wait_until_idle
from neptune_api.models import (
    AttributeType,
    AttributeTypeFilter,
    AttributeValuesQuery,
    FloatSeriesAttribute,
    NextPage,
    QueryAttributeValuesRequest,
)
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_SERIES: Final = 10_000
_SQLITE: Final = "SELECT of the same numbers, sqlite3"
_NUMBERS: Final = ("last_step", "last", "min", "max", "average", "variance")


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    names = paths(_SERIES)
    with Server(bench.folder / "data") as server, server.channel() as channel:
        writer = Writer(channel, server.workspace)
        run_id = writer.create_run()
        writer.submit(run_id, snapshots(names, 10))
        wait_until_idle(bench, server.pid)
        attributes = AttributesServiceStub(channel)
        request = QueryAttributeValuesRequest(
            project_identifier=writer.project,
            query=AttributeValuesQuery(
                attribute_filter=[AttributeTypeFilter(attribute_type=AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES)],
                next_page=NextPage(limit=len(names)),
            ),
        )

        def ask() -> list[FloatSeriesAttribute]:
            (entry,) = attributes.QueryAttributeValues(request).entries
            return [attribute.float_series_properties for attribute in entry.attributes]

        found = ask()
        if len(found) != len(names):
            raise RuntimeError(f"the answer has {len(found)} series instead of {len(names)}")
        with closing(sqlite3.connect(bench.folder / "plain.db")) as database:
            database.execute("CREATE TABLE summaries (name TEXT PRIMARY KEY, a, b, c, d, e, f)")
            rows = [(item.attribute_name, *(getattr(item, number) for number in _NUMBERS)) for item in found]
            database.executemany("INSERT INTO summaries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            database.commit()

            def ours() -> float:
                started = time.perf_counter()
                ask()
                return time.perf_counter() - started

            def plain() -> float:
                started = time.perf_counter()
                database.execute("SELECT * FROM summaries ORDER BY name").fetchall()
                return time.perf_counter() - started

            figures = interleave(bench, 15, {"ours": ours, _SQLITE: plain})
    yield Row(
        name="summaries",
        what=f"QueryAttributeValues, summaries of {len(names):,} series, until the client has them",
        unit="s",
        figures=figures["ours"],
        budget=Budget(0.05, at_most=True),
        references=(Reference(_SQLITE, figures[_SQLITE]),),
    )
