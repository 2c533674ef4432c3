"""Questions to a project of a hundred thousand runs, and to a run of a hundred thousand attributes."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.processes import Server
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import EPOCH, PROJECT, Writer, batches, values, wait_until_idle
from neptune_api.models import (
    AttributeDefinitionsQuery,
    AttributeNameFilter,
    AttributePathFilter,
    AttributeType,
    AttributeValuesQuery,
    BucketExpression,
    BucketView,
    BucketXAxis,
    CreateRun,
    GetTimeseriesBucketsRequest,
    LeaderboardSearch,
    NextPage,
    NqlQuery,
    Pagination,
    QueryAttributeDefinitionsRequest,
    QueryAttributeValuesRequest,
    RunOperation,
    SearchLeaderboardEntriesRequest,
    SortField,
    Sorting,
    StringList,
    XSteps,
)
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

    from benchmarks.rounds import Bench

_RUNS: Final = 100_000
_ATTRIBUTES: Final = 100_000
_ATTRIBUTES_AT_ONCE: Final = 10_000
_PAGE: Final = 10_000
_CONFIGS: Final = 20
_SERIES: Final = 5
_ROUNDS: Final = 7
_PLAIN: Final = "sqlite3, a table of these columns only"
_REGEX: Final = "[0-4][13579]$"  # a quarter of the names
_SEARCH: Final = "SELECT id, score FROM runs WHERE rate > 0.5 AND name REGEXP ? ORDER BY score DESC LIMIT ?"
_BUCKETS: Final = 1_000
_BUCKET_SERIES: Final = 100
_BUCKET_POINTS: Final = 10_000
_NUMPY: Final = "numpy on arrays in memory"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    runs, attributes = bench.size(_RUNS, least=20), bench.size(_ATTRIBUTES, least=20)
    with (
        Server(bench.folder / "data") as server,
        server.channel() as channel,
        closing(sqlite3.connect(bench.folder / "plain.db")) as plain,
    ):
        plain.create_function("regexp", 2, lambda pattern, text: bool(re.search(pattern, text)), deterministic=True)
        writer = Writer(channel, server.workspace)
        bench.say(f"writing {runs:,} runs of {_CONFIGS} configurations and {_SERIES} series")
        writer.wait(writer.ingest.SubmitStream(_project(writer.project, runs)).request_id)
        bench.say(f"writing a run of {attributes:,} attributes")
        wide = Writer(channel, server.workspace)
        wide.project = f"{server.workspace}/{PROJECT}-wide"
        wide.submit(wide.create_run(), _attributes(attributes))
        wait_until_idle(bench, server.pid)
        yield from _searches(bench, channel, plain, writer.project, runs)
        yield _definitions(bench, channel, plain, wide.project, attributes)
        yield _values(bench, channel, plain, writer.project, runs)
        yield _buckets(bench, channel, server.workspace)


def _rate(run: int) -> float:
    return (run * 7919 % 1000) / 1000


def _score(run: int) -> float:
    return (run * 104729 % 99991) / 99991


def _project(project: str, runs: int) -> Iterator[RunOperation]:
    for run in range(runs):
        name = f"run-{run:06}"
        create = CreateRun(experiment_id=name)
        yield RunOperation(project=project, run_id=name, create_missing_project=True, create=create)
        operation = RunOperation(project=project, run_id=name)
        update = operation.update_batch.snapshots.add()
        update.step.whole = 0
        update.timestamp.seconds = EPOCH
        update.assign["config/rate"].float64 = _rate(run)
        update.assign["config/score"].float64 = _score(run)
        update.assign["config/name"].string = name
        for index in range(_CONFIGS - 3):
            update.assign[f"config/{index:02}"].int64 = run + index
        for index in range(_SERIES):
            update.append[f"metrics/{index}"].float64 = _score(run) + index
        yield operation


def _attributes(count: int) -> Iterator[RunOperation]:
    for first in range(0, count, _ATTRIBUTES_AT_ONCE):
        operation = RunOperation()
        update = operation.update_batch.snapshots.add()
        for index in range(first, min(first + _ATTRIBUTES_AT_ONCE, count)):
            update.assign[_name(index)].int64 = index
        yield operation


def _name(index: int) -> str:
    return f"group-{index % 97:02}/attribute-{index:06}"


def _searches(bench: Bench, channel: grpc.Channel, plain: sqlite3.Connection, project: str, runs: int) -> Iterator[Row]:
    plain.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, rate REAL, name TEXT, score REAL)")
    plain.executemany(
        "INSERT INTO runs VALUES (?, ?, ?, ?)", ((run, _rate(run), f"run-{run:06}", _score(run)) for run in range(runs))
    )
    stub = LeaderboardServiceStub(channel)
    for limit, seconds in ((100, 0.05), (10_000, 0.4)):
        request = SearchLeaderboardEntriesRequest(
            project_identifier=project,
            type=["run"],
            params=LeaderboardSearch(
                query=NqlQuery(query=f'(`config/rate`:float > 0.5) AND (`config/name`:string MATCHES "{_REGEX}")'),
                attribute_filters=[AttributePathFilter(path="sys/id"), AttributePathFilter(path="config/score")],
                pagination=Pagination(limit=limit, offset=0),
                sorting=Sorting(
                    sort_by=SortField(name="config/score", type=AttributeType.ATTRIBUTE_TYPE_FLOAT),
                ),
            ),
        )

        def ours(request: SearchLeaderboardEntriesRequest = request) -> Any:
            return stub.SearchLeaderboardEntries(request)

        def beside(limit: int = limit) -> Any:
            return plain.execute(_SEARCH, (_REGEX, limit)).fetchall()

        found, expected = ours(), beside()
        scores = [
            attribute.float_properties.value
            for entry in found.entries
            for attribute in entry.attributes
            if attribute.name == "config/score"
        ]
        if scores != [score for _, score in expected]:
            raise RuntimeError("the search does not find what it should")
        what = (
            f"SearchLeaderboardEntries, {runs:,} runs: a number AND a regular expression "
            f"({found.matching_item_count:,} match), sorted by a float, page of {limit:,}"
        )
        yield _timed(bench, f"search-{limit}", what, seconds, ours, _PLAIN, beside)


def _definitions(bench: Bench, channel: grpc.Channel, plain: sqlite3.Connection, project: str, count: int) -> Row:
    plain.execute("CREATE TABLE names (name TEXT PRIMARY KEY)")
    plain.executemany("INSERT INTO names VALUES (?)", ((_name(index),) for index in range(count)))
    stub = AttributesServiceStub(channel)
    request = QueryAttributeDefinitionsRequest(
        query=AttributeDefinitionsQuery(
            project_identifiers=[project],
            attribute_name_filter=AttributeNameFilter(must_match_regexes=[_REGEX]),
            next_page=NextPage(limit=_PAGE),
        )
    )
    select = "SELECT name FROM names WHERE name REGEXP ? ORDER BY name LIMIT ?"

    def ours() -> Any:
        return stub.QueryAttributeDefinitions(request)

    def beside() -> Any:
        return plain.execute(select, (_REGEX, _PAGE)).fetchall()

    names = [entry.name for entry in ours().entries if entry.name.startswith("group-")]
    if names != [name for (name,) in beside()][: len(names)] or not names:
        raise RuntimeError("the definitions are not those that were written")
    what = f"QueryAttributeDefinitions, {count:,} names, a regular expression, page of {_PAGE:,}"
    return _timed(bench, "definitions", what, 0.15, ours, _PLAIN, beside)


def _values(bench: Bench, channel: grpc.Channel, plain: sqlite3.Connection, project: str, runs: int) -> Row:
    names = ["config/name", "config/rate", "config/score", "config/00", "config/01"]
    cells = min(_PAGE, len(names) * runs)
    plain.execute("CREATE TABLE cells (run INTEGER, name TEXT, value, PRIMARY KEY (run, name))")
    plain.executemany("INSERT INTO cells VALUES (?, ?, ?)", ((run, name, run) for run in range(runs) for name in names))
    stub = AttributesServiceStub(channel)
    request = QueryAttributeValuesRequest(
        project_identifier=project,
        query=AttributeValuesQuery(attribute_names_filter=StringList(values=names), next_page=NextPage(limit=_PAGE)),
    )

    def ours() -> Any:
        return stub.QueryAttributeValues(request)

    def beside() -> Any:
        return plain.execute("SELECT * FROM cells ORDER BY run, name LIMIT ?", (_PAGE,)).fetchall()

    if sum(len(entry.attributes) for entry in ours().entries) != cells:
        raise RuntimeError("the page is not full")
    what = f"QueryAttributeValues, {len(names)} attributes of {cells // len(names):,} runs, {cells:,} cells"
    return _timed(bench, "values", what, 0.1, ours, _PLAIN, beside)


def _buckets(bench: Bench, channel: grpc.Channel, workspace: str) -> Row:
    count = bench.size(_BUCKET_POINTS, least=20)
    names = [f"metrics/{index:03}" for index in range(_BUCKET_SERIES)]
    writer = Writer(channel, workspace)
    run_id = writer.create_run()
    writer.append(run_id, batches(names, count))
    stub = SeriesServiceStub(channel)
    request = GetTimeseriesBucketsRequest(
        expressions=[
            BucketExpression(
                request_id=name, run_id=f"CUSTOM/{writer.project}/{run_id}", custom_y_formula=f"${{{name}}}"
            )
            for name in names
        ],
        view=BucketView(max_buckets=_BUCKETS, lower=0, upper=count - 1, x_axis=BucketXAxis(steps=XSteps())),
    )
    arrays = np.tile(values(count), (_BUCKET_SERIES, 1))
    starts = np.unique(np.linspace(0, count - 1, min(_BUCKETS, count)).astype(np.int64))

    def ours() -> Any:
        return stub.GetTimeseriesBuckets(request)

    def beside() -> Any:
        return [
            (np.minimum.reduceat(array, starts), np.maximum.reduceat(array, starts), np.add.reduceat(array, starts))
            for array in arrays
        ]

    if sum(bucket.finite_point_count for bucket in ours().entries[0].bucket) != count:
        raise RuntimeError("the buckets do not hold every point")
    what = f"GetTimeseriesBuckets, {_BUCKET_SERIES} series x {count:,} points, {_BUCKETS:,} buckets"
    return _timed(bench, "buckets", what, 0.15, ours, _NUMPY, beside)


def _timed(
    bench: Bench,
    name: str,
    what: str,
    seconds: float,
    ours: Callable[[], Any],
    reference: str,
    beside: Callable[[], Any],
) -> Row:
    def clocked(call: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started

        return run

    bench.say(what)
    figures = interleave(bench, _ROUNDS, {"ours": clocked(ours), reference: clocked(beside)})
    return Row(
        name=name,
        what=what,
        unit="s",
        figures=figures["ours"],
        budget=Budget(seconds, at_most=True),
        references=(Reference(reference, figures[reference]),),
    )
