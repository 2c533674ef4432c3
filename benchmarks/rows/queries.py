"""Questions to large projects, by our stubs and by neptune-query; over SQLite here, over PostgreSQL beside it."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks import generated_project
from benchmarks.generated_project import float_of, many_attributes, many_runs, many_series, text_of
from benchmarks.processes import cpu_seconds, peak_bytes, reset_peak
from benchmarks.references import NeptuneQuery
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.stores import sqlite
from benchmarks.workload import PROJECT, Writer, batches, values, wait_until_idle
from neptune_api.models import (
    AttributeDefinitionsQuery,
    AttributeNameFilter,
    AttributePathFilter,
    AttributeType,
    AttributeTypeFilter,
    AttributeValuesQuery,
    BucketExpression,
    BucketView,
    BucketXAxis,
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
    UpdateRunSnapshot,
    Value,
    XSteps,
)
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

    from benchmarks.generated_project import Shape
    from benchmarks.processes import Server
    from benchmarks.rounds import Bench
    from benchmarks.stores import MeasuredStore

_RUNS: Final = 100_000
_FEWER: Final = 10
"""What is measured at full size is compared with a tenth of it."""
_MOST_GROWTH: Final = 12.5
"""n log n, from 10,000 to 100,000."""
_PAGE: Final = 10_000
_ROUNDS: Final = 7
_STARTS: Final = 5
_PLAIN: Final = "sqlite3, a table of these columns only"
_TENTH: Final = "a tenth of them"
_REGEX: Final = "[0-4][13579]$"  # a quarter of the names
_SEARCH: Final = "SELECT id, score FROM runs WHERE rate > 0.5 AND name REGEXP ? ORDER BY score DESC LIMIT ?"
_BUCKETS: Final = 1_000
_BUCKET_SERIES: Final = 100
_BUCKET_POINTS: Final = 10_000
_POINTS: Final = 1_000_000
_NUMPY: Final = "numpy on arrays in memory"
_MEMORY: Final = Budget(600e6, at_most=True)
_SORT: Final = "config/float_1"
_LEAST_CPU: Final = 0.001  # it is counted in hundredths of a second


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    return measure_store(bench, sqlite(bench))


def measure_store(bench: Bench, store: MeasuredStore) -> Iterator[Row]:
    """Measure the rows over a store."""
    shapes = (
        many_runs(bench.size(_RUNS, least=40)),
        many_runs(bench.size(_RUNS // _FEWER, least=20), project="fewer-runs"),
        many_attributes(bench.size(_RUNS, least=20)),
        many_series(bench.size(1_000, least=20), bench.size(1_000, least=20)),
    )
    with store.database() as database:
        for shape in shapes:
            bench.say(f"{store.name}: generating {shape.project}")
            generated_project.generate(database, shape)
    with store.server() as server, server.channel() as channel:
        wait_until_idle(bench, server.pid)
        yield from Queries(bench, store, server, channel).rows(*shapes)
    yield from _first_searches(bench, store, shapes[0])


def _first_searches(bench: Bench, store: MeasuredStore, shape: Shape) -> Iterator[Row]:
    """Measure searches that a server has nothing kept for, each time with a new server."""
    rounds = []
    for number in range(bench.rounds(_STARTS)):
        with store.server() as server, server.channel() as channel:
            wait_until_idle(bench, server.pid)
            rounds.append(Queries(bench, store, server, channel).first_searches(shape))
        bench.say(f"round {number + 1}: {', '.join(f'{seconds:.4g}' for seconds in rounds[-1])}")
    for which, figures in zip(("first", "second", "third"), zip(*rounds, strict=True), strict=True):
        what = f"{store.name}: SearchLeaderboardEntries as above, page of 100, the {which} since the server has started"
        yield Row(f"search-started-{which}-{store.name.lower()}", what, "s", figures)


class Queries:
    """The rows of one store."""

    def __init__(self, bench: Bench, store: MeasuredStore, server: Server, channel: grpc.Channel) -> None:
        self._bench = bench
        self._store = store
        self._server = server
        self._channel = channel
        self._attributes = AttributesServiceStub(channel)
        self._workspace = server.workspace
        self._peak = 0

    def rows(self, runs: Shape, fewer: Shape, attributes: Shape, series: Shape) -> Iterator[Row]:
        """Measure them."""
        with closing(sqlite3.connect(":memory:")) as plain:
            plain.create_function("regexp", 2, lambda pattern, text: bool(re.search(pattern, text)), deterministic=True)
            yield from self._searches(plain, runs, fewer)
            yield from self._definitions(plain, attributes, series)
            yield from self._values(plain, runs, series)
        yield from self._buckets()
        what = "Memory of the server, at most, in the rows above"
        yield Row(self._name("memory"), self._what(what), "B", (float(self._peak),), _MEMORY)
        yield from self._released(runs)

    def _searches(self, plain: sqlite3.Connection, shape: Shape, fewer: Shape) -> Iterator[Row]:
        plain.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, rate REAL, name TEXT, score REAL)")
        plain.executemany(
            "INSERT INTO runs VALUES (?, ?, ?, ?)",
            ((run, float_of(run, 0), text_of(run, 0), float_of(run, 1)) for run in range(1, shape.runs + 1)),
        )
        stub = LeaderboardServiceStub(self._channel)
        for limit, seconds in ((100, 0.05), (_PAGE, 0.4)):
            request = self._search(shape, _REGEX, limit)

            def ours(request: SearchLeaderboardEntriesRequest = request) -> Any:
                return stub.SearchLeaderboardEntries(request)

            def beside(limit: int = limit) -> Any:
                return plain.execute(_SEARCH, (_REGEX, limit)).fetchall()

            found = ours()
            scores = [
                attribute.float_properties.value
                for entry in found.entries
                for attribute in entry.attributes
                if attribute.name == _SORT
            ]
            if scores != [score for _, score in beside()]:
                raise RuntimeError("the search does not find what it should")
            what = (
                f"SearchLeaderboardEntries, {shape.runs:,} runs: a number AND a regular expression "
                f"({found.matching_item_count:,} match), sorted by a float, page of {limit:,}"
            )
            yield self._timed(f"search-{limit}", what, ours, Budget(seconds, at_most=True), {_PLAIN: beside})
        # The order that was found is remembered until a run changes, values are read again of those that have changed.
        numbers = count()

        def after_write(shape: Shape, limit: int, *, is_new: bool = False) -> Callable[[], float]:
            writer = Writer(self._channel, self._workspace, shape.project)

            def search() -> float:
                number = next(numbers)
                value = Value(int64=number)
                writer.submit("run-1", [RunOperation(update=UpdateRunSnapshot(assign={"note": value}))])
                request = self._search(shape, f"{_REGEX}|x{number}" if is_new else _REGEX, limit)
                return _seconds(lambda: stub.SearchLeaderboardEntries(request))

            return search

        for name, limit, seconds in (("search-first", 100, 0.05), ("search-first-page", _PAGE, 0.4)):
            what = f"the same, page of {limit:,}, the first time after a run has changed, {shape.runs:,} runs"
            beside_it = {_TENTH: after_write(fewer, limit)}
            budget = Budget(seconds, at_most=True)
            yield self._timed(name, what, after_write(shape, limit), budget, beside_it, is_clocked=True)
        what = f"the same, page of 100, and with an expression that is new, {shape.runs:,} runs"
        beside_it = {_TENTH: after_write(fewer, 100, is_new=True)}
        yield self._timed("search-new", what, after_write(shape, 100, is_new=True), None, beside_it, is_clocked=True)
        small, large = self._search(fewer, _REGEX, 100), self._search(shape, _REGEX, 100)
        yield self._timed(
            "search-growth",
            f"the same, page of 100, again and again, {shape.runs:,} runs",
            lambda: stub.SearchLeaderboardEntries(large),
            Budget(_MOST_GROWTH, at_most=True, ratio_to=_TENTH),
            {_TENTH: lambda: stub.SearchLeaderboardEntries(small)},
        )

    def first_searches(self, shape: Shape) -> tuple[float, float, float]:
        """Return how many seconds each of three searches takes, by expressions of their own."""
        stub = LeaderboardServiceStub(self._channel)

        def search(number: int) -> float:
            request = self._search(shape, f"{_REGEX}|x{number}", 100)
            return _seconds(lambda: stub.SearchLeaderboardEntries(request))

        return search(1), search(2), search(3)

    def _search(self, shape: Shape, regex: str, limit: int) -> SearchLeaderboardEntriesRequest:
        query = f'(`config/float_0`:float > 0.5) AND (`config/text_0`:string MATCHES "{regex}")'
        return SearchLeaderboardEntriesRequest(
            project_identifier=f"{self._workspace}/{shape.project}",
            type=["run"],
            params=LeaderboardSearch(
                query=NqlQuery(query=query),
                attribute_filters=[AttributePathFilter(path="sys/id"), AttributePathFilter(path=_SORT)],
                pagination=Pagination(limit=limit, offset=0),
                sorting=Sorting(sort_by=SortField(name=_SORT, type=AttributeType.ATTRIBUTE_TYPE_FLOAT)),
            ),
        )

    def _definitions(self, plain: sqlite3.Connection, shape: Shape, series: Shape) -> Iterator[Row]:
        plain.execute("CREATE TABLE names (name TEXT PRIMARY KEY)")
        plain.executemany("INSERT INTO names VALUES (?)", ((name,) for name in shape.attribute_names))
        rare = f"{shape.attributes // 2:06}$"
        for name, what, names in (
            ("frequent", "an expression for a quarter of the names", AttributeNameFilter(must_match_regexes=[_REGEX])),
            ("rare", "an expression for one name", AttributeNameFilter(must_match_regexes=[rare])),
            ("not", "an expression for none of all names", AttributeNameFilter(must_not_match_regexes=["[a-z]"])),
        ):
            request = self._definitions_request(shape, names)

            def ours(request: QueryAttributeDefinitionsRequest = request) -> Any:
                return self._attributes.QueryAttributeDefinitions(request)

            def beside(names: AttributeNameFilter = names) -> Any:
                if names.must_match_regexes:
                    select = "SELECT name FROM names WHERE name REGEXP ? ORDER BY name LIMIT ?"
                    return plain.execute(select, (names.must_match_regexes[0], _PAGE)).fetchall()
                select = "SELECT name FROM names WHERE NOT name REGEXP ? ORDER BY name LIMIT ?"
                return plain.execute(select, (names.must_not_match_regexes[0], _PAGE)).fetchall()

            found = [entry.name for entry in ours().entries if entry.name.startswith("group-")]
            if found != [name for (name,) in beside()][: len(found)] or (not found and name != "not"):
                raise RuntimeError("the definitions are not those that were written")
            text = f"QueryAttributeDefinitions, {shape.attributes:,} names, {what}, page of {_PAGE:,}"
            yield self._timed(f"definitions-{name}", text, ours, Budget(0.15, at_most=True), {_PLAIN: beside})
        request = self._definitions_request(series, AttributeNameFilter(must_match_regexes=["[02468]$"]))
        what = f"QueryAttributeDefinitions, {series.runs:,} runs x the same {series.series:,} names, half of them"
        yield self._timed(
            "definitions-runs",
            what,
            lambda: self._attributes.QueryAttributeDefinitions(request),
            Budget(0.15, at_most=True),
        )

    def _definitions_request(self, shape: Shape, names: AttributeNameFilter) -> QueryAttributeDefinitionsRequest:
        query = AttributeDefinitionsQuery(
            project_identifiers=[f"{self._workspace}/{shape.project}"],
            attribute_name_filter=names,
            next_page=NextPage(limit=_PAGE),
        )
        return QueryAttributeDefinitionsRequest(query=query)

    def _values(self, plain: sqlite3.Connection, shape: Shape, series: Shape) -> Iterator[Row]:
        names = ["config/float_0", "config/float_1", "config/int_0", "config/int_1", "config/text_0"]
        cells = min(_PAGE, len(names) * shape.runs)
        plain.execute("CREATE TABLE cells (run INTEGER, name TEXT, value, PRIMARY KEY (run, name))")
        plain.executemany(
            "INSERT INTO cells VALUES (?, ?, ?)", ((run, name, run) for run in range(cells) for name in names)
        )
        expression = f"^({'|'.join(names)})$"
        configs = AttributeValuesQuery(attribute_names_filter=StringList(values=names), next_page=NextPage(limit=_PAGE))
        matching = AttributeValuesQuery(
            attribute_name_filter=AttributeNameFilter(must_match_regexes=[expression]), next_page=NextPage(limit=_PAGE)
        )
        summaries = AttributeValuesQuery(
            attribute_filter=[AttributeTypeFilter(attribute_type=AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES)],
            next_page=NextPage(limit=_PAGE),
        )

        def beside() -> Any:
            return plain.execute("SELECT * FROM cells ORDER BY run, name LIMIT ?", (_PAGE,)).fetchall()

        for name, what, project, query, expected in (
            ("values", f"{len(names)} configs of each run", shape, configs, cells),
            ("values-matching", f"{len(names)} configs of each run, by an expression", shape, matching, cells),
            ("summaries", "summaries of float series", series, summaries, min(_PAGE, series.runs * series.series)),
        ):
            request = QueryAttributeValuesRequest(
                project_identifier=f"{self._workspace}/{project.project}", query=query
            )

            def ours(request: QueryAttributeValuesRequest = request) -> Any:
                return self._attributes.QueryAttributeValues(request)

            if sum(len(entry.attributes) for entry in ours().entries) != expected:
                raise RuntimeError("the page is not full")
            text = f"QueryAttributeValues, {expected:,} cells: {what}"
            yield self._timed(name, text, ours, Budget(0.1, at_most=True), {_PLAIN: beside})

    def _buckets(self) -> Iterator[Row]:
        points = self._bench.size(_BUCKET_POINTS, least=20)
        names = [f"metrics/{index:03}" for index in range(_BUCKET_SERIES)]
        writer = Writer(self._channel, self._workspace)
        run_id = writer.create_run()
        writer.append(run_id, batches(names, points))
        stub = SeriesServiceStub(self._channel)

        def request(last: int) -> GetTimeseriesBucketsRequest:
            holder = f"CUSTOM/{writer.project}/{run_id}"
            return GetTimeseriesBucketsRequest(
                expressions=[
                    BucketExpression(request_id=name, run_id=holder, custom_y_formula=f"${{{name}}}") for name in names
                ],
                view=BucketView(max_buckets=_BUCKETS, lower=0, upper=last, x_axis=BucketXAxis(steps=XSteps())),
            )

        arrays = np.tile(values(points), (_BUCKET_SERIES, 1))
        starts = np.unique(np.linspace(0, points - 1, min(_BUCKETS, points)).astype(np.int64))

        def beside() -> Any:
            return [
                (np.minimum.reduceat(array, starts), np.maximum.reduceat(array, starts), np.add.reduceat(array, starts))
                for array in arrays
            ]

        whole, tenth = request(points - 1), request(points // _FEWER - 1)
        if sum(bucket.finite_point_count for bucket in stub.GetTimeseriesBuckets(whole).entries[0].bucket) != points:
            raise RuntimeError("the buckets do not hold every point")
        what = f"GetTimeseriesBuckets, {_BUCKET_SERIES} series x {points:,} points, {_BUCKETS:,} buckets"
        yield self._timed(
            "buckets",
            what,
            lambda: stub.GetTimeseriesBuckets(whole),
            Budget(0.15, at_most=True),
            {_NUMPY: beside, _TENTH: lambda: stub.GetTimeseriesBuckets(tenth)},
        )

    def _released(self, shape: Shape) -> Iterator[Row]:
        """Measure what neptune-query does."""
        points = self._bench.size(_POINTS, least=20)
        writer = Writer(self._channel, self._workspace)
        run_id = writer.create_run()
        writer.append(run_id, batches(["metrics/long"], points))
        wait_until_idle(self._bench, self._server.pid)
        environ = {
            "NEPTUNE_API_TOKEN": self._server.api_token,
            "NEPTUNE_PROJECT": f"{self._workspace}/{shape.project}",
            "NEPTUNE_DISABLE_COLORS": "1",
        }
        with NeptuneQuery.beside(self._bench, environ=environ) as client:
            if client is None:
                return
            listing = Budget(3, at_most=True)
            yield from self._asked(client, "list-runs", "runs.list_runs()", shape.runs, "runs", listing)
            yield from self._asked(
                client, "list-experiments", "neptune_query.list_experiments()", shape.runs, "runs", listing
            )
            # Without a budget: most of the time goes into neptune-query's making of the table.
            table = f"runs.fetch_runs_table(attributes=['{_SORT}'])"
            yield from self._asked(client, "runs-table", table, shape.runs, "runs")
            metrics = (
                f"runs.fetch_metrics(project='{self._workspace}/{PROJECT}', runs=['{run_id}'], "
                "attributes=['metrics/long'])"
            )
            seconds, cpu = Budget(2, at_most=True), Budget(0.3, at_most=True)
            yield from self._asked(client, "fetch-metrics", metrics, points, "points", seconds, cpu, rounds=5)
        what = "Memory of the server, at most, while neptune-query asks"
        yield Row(self._name("memory-released"), self._what(what), "B", (float(self._peak),), _MEMORY)

    def _asked(
        self,
        client: NeptuneQuery,
        name: str,
        expression: str,
        size: int,
        things: str,
        budget: Budget | None = None,
        cpu_budget: Budget | None = None,
        *,
        rounds: int = 3,
    ) -> Iterator[Row]:
        """Measure a call of neptune-query that returns `size` things, and what the server does for it."""
        used: dict[int, list[float]] = {self._server.pid: [], client.pid: []}

        def asking() -> float:
            before = {pid: cpu_seconds(pid) for pid in used}
            seconds = client.call(expression, size=size)
            for pid, figures in used.items():
                figures.append(max(cpu_seconds(pid) - before[pid], _LEAST_CPU))
            return seconds

        call = re.sub(r"\(.*", "()", expression)
        what = f"{client.name}, {call}, {size:,} {things}"
        row = self._timed(name, what, asking, budget, is_clocked=True, rounds=rounds)
        yield replace(row, references=(Reference("the client's own CPU", tuple(used[client.pid])),))
        what = "CPU of the server for that"
        yield Row(self._name(f"{name}-cpu"), self._what(what), "s", tuple(used[self._server.pid]), cpu_budget)

    def _timed(
        self,
        name: str,
        what: str,
        ours: Callable[[], Any],
        budget: Budget | None = None,
        beside: dict[str, Callable[[], Any]] | None = None,
        *,
        is_clocked: bool = False,
        rounds: int = _ROUNDS,
    ) -> Row:
        """Return the row of calls, which give the seconds themselves when they are clocked."""
        self._bench.say(self._what(what))
        cases = {"ours": ours, **(beside or {})}
        clocked = cases if is_clocked else {key: lambda call=call: _seconds(call) for key, call in cases.items()}
        with self._peak_counted():
            figures = interleave(self._bench, rounds, clocked)
        references = tuple(Reference(key, figures[key]) for key in beside or {})
        return Row(self._name(name), self._what(what), "s", figures["ours"], budget, references)

    @contextmanager
    def _peak_counted(self) -> Iterator[None]:
        reset_peak(self._server.pid)
        yield
        self._peak = max(self._peak, peak_bytes(self._server.pid))

    def _name(self, name: str) -> str:
        return f"{name}-{self._store.name.lower()}"

    def _what(self, what: str) -> str:
        return f"{self._store.name}: {what}"


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
