"""Points of float series: lineage, ranges, directions, pages, previews; every request id is answered."""

from __future__ import annotations

import itertools
import math
import struct
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import exceptions
from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log, submit
from neptune_api.v1 import series_service_pb2 as pb
from neptune_api.v1.queries_pb2 import (
    AttributesHolder,
    Lineage,
    LineageEntityType,
    SortDirection,
    StepRange,
    TimeSeries,
)
from neptune_api.v1.runs_service_pb2 import GetRunRequest, Run
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Person
    from neptune_api.v1.series_pb2 import FloatPoint, FloatSeriesValues

ASCENDING = SortDirection.SORT_DIRECTION_ASCENDING
DESCENDING = SortDirection.SORT_DIRECTION_DESCENDING
FULL = Lineage.LINEAGE_FULL
NONE = Lineage.LINEAGE_NONE
RUN = LineageEntityType.LINEAGE_ENTITY_TYPE_RUN
EXPERIMENT = LineageEntityType.LINEAGE_ENTITY_TYPE_EXPERIMENT
HUGE = 1_000_000


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def series(connection: Connection) -> Any:
    return connection.stub(SeriesServiceStub)


def query(
    holder: str, path: str = "m", request_id: str = "0", after: float | None = None, **fields: Any
) -> pb.FloatSeriesQuery:
    holder_message = AttributesHolder(identifier=holder, type="experiment")
    return pb.FloatSeriesQuery(
        request_id=request_id,
        series=TimeSeries(attribute=path, holder=holder_message, **fields),
        after_step=after,
    )


def answers(
    series: Any,
    *queries: pb.FloatSeriesQuery,
    limit: int = HUGE,
    order: SortDirection.ValueType | None = None,
    lower: float | None = None,
    upper: float | None = None,
) -> list[FloatSeriesValues]:
    request = pb.FloatSeriesValuesQuery(
        per_series_points_limit=limit,
        order=order,
        step_range=None if lower is None and upper is None else StepRange(lower=lower, upper=upper),
        requests=queries,
    )
    answer = series.GetFloatSeriesValues(pb.GetFloatSeriesValuesRequest(request=request))
    assert [item.request_id for item in answer.series] == [item.request_id for item in queries]
    return [item.series for item in answer.series]


def steps_of(series: Any, *queries: pb.FloatSeriesQuery, **fields: Any) -> list[float]:
    (answer,) = answers(series, *queries, **fields)
    return [point.step for point in answer.values]


def custom(identifier: str, run: str) -> str:
    return f"CUSTOM/{identifier}/{run}"


def test_points_come_back_as_they_were_logged(series: Any, connection: Connection, identifier: str) -> None:
    values = [0.0, -0.0, 0.1, math.nan, math.inf, -math.inf, 5e-324, 1e300]
    steps = [0.0, 0.000001, 0.5, 1.0, 3.0, 1e6, 999_999_999.999999, 1e9]
    log(connection, identifier, "r", series={"m": dict(zip(steps, values, strict=True))})
    run: Run = connection.stub(RunsServiceStub).GetRun(GetRunRequest(experiment_id=custom(identifier, "r")))
    for holder in (run.id, f"{identifier}/{run.short_id}", custom(identifier, "r")):
        (answer,) = answers(series, query(holder))
        assert answer.total_item_count == len(values)
        assert [point.step for point in answer.values] == steps
        assert [point.timestamp_millis - operations.START_MS for point in answer.values] == list(range(len(values)))
        bits = [struct.pack("<d", point.value) for point in answer.values]
        assert bits == [struct.pack("<d", value) for value in values]
        assert all(point.completion_ratio == 1 and not point.is_preview for point in answer.values)


def test_any_timestamp_comes_back(series: Any, connection: Connection, identifier: str) -> None:
    times = [-2_208_988_800_000, -1, 0, 1, 127, 128, 1_700_000_000_000, 10_413_791_999_999]
    submit(
        connection,
        operations.create("r", project=identifier),
        *[
            operations.append({"m": 1.0}, position, ms, run="r", project=identifier)
            for position, ms in enumerate(times)
        ],
    )
    (answer,) = answers(series, query(custom(identifier, "r")))
    assert [point.timestamp_millis for point in answer.values] == times


def test_every_request_id_is_answered(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"config": 1.0}, series={"m": {1: 1.0}, "text": {1: "a"}})
    holder = custom(identifier, "r")
    queries = [
        query(custom(identifier, "unknown"), request_id="b"),
        query(holder, request_id="1"),
        query(holder, "unknown", request_id="01"),
        query(f"{identifier}/NO-1", request_id="2"),
        query(f"{identifier}/no short id", request_id="3"),
        query("00000000-0000-0000-0000-000000000000", request_id="x"),
        query(holder, "config", request_id="c"),
        query(holder, "text", request_id="t"),
        query(holder, request_id="same again"),
    ]
    found = answers(series, *queries)
    assert [len(item.values) for item in found] == [0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert [item.total_item_count for item in found] == [0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_many_series_at_once(series: Any, connection: Connection, identifier: str) -> None:
    paths = [f"m/{position}" for position in range(300)]
    for run in ("a", "b"):
        log(connection, identifier, run, series={path: {1: float(len(path)), 2: 0.5} for path in paths})
    runs = [custom(identifier, run) for run in ("a", "b", "missing")]
    queries = [
        query(run, path, request_id=str(number))
        for number, (run, path) in enumerate(itertools.product(runs, [*paths, "none"]))
    ]
    found = answers(series, *queries, limit=1)
    assert [len(item.values) for item in found] == ([1] * 300 + [0]) * 2 + [0] * 301
    assert found[17].values[0].value == len("m/17")


def test_twelve_thousand_long_names_in_one_request(series: Any, connection: Connection, identifier: str) -> None:
    names = [f"{number:06}".rjust(1024, "n") for number in range(12_000)]
    log(connection, identifier, "r", series={names[7]: {1: 7.0}})
    holder = custom(identifier, "r")
    found = answers(series, *[query(holder, name, request_id=str(n)) for n, name in enumerate(names)], limit=83)
    assert [number for number, item in enumerate(found) if item.values] == [7]


# Ranges, directions and pages


@pytest.fixture
def hundred(connection: Connection, identifier: str) -> str:
    """The identifier of a run with `m` at the steps 0, 0.5, 1 ... 99.5."""
    log(connection, identifier, "r", series={"m": {step / 2: float(step) for step in range(200)}})
    return custom(identifier, "r")


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (None, None, (0, 99.5)),
        (10, 20, (10, 20)),
        (10.000001, 19.999999, (10.5, 19.5)),
        (9.9999999, 20.0000001, (10, 20)),
        (None, 3, (0, 3)),
        (97, None, (97, 99.5)),
        (-math.inf, math.inf, (0, 99.5)),
        (-5, -1, None),
        (100, 1e300, None),
        (20, 10, None),
        (7.25, 7.25, None),
        (7.5, 7.5, (7.5, 7.5)),
    ],
)
def test_ranges_include_their_ends(
    series: Any, hundred: str, lower: float | None, upper: float | None, expected: tuple[float, float] | None
) -> None:
    steps = [] if expected is None else [n / 2 for n in range(int(expected[0] * 2), int(expected[1] * 2) + 1)]
    (answer,) = answers(series, query(hundred), lower=lower, upper=upper)
    assert [point.step for point in answer.values] == steps
    assert answer.total_item_count == len(steps)
    assert steps_of(series, query(hundred), lower=lower, upper=upper, order=DESCENDING) == steps[::-1]
    (answer,) = answers(series, query(hundred), lower=lower, upper=upper, limit=3)
    assert [point.step for point in answer.values] == steps[:3]
    assert answer.total_item_count == len(steps)
    assert steps_of(series, query(hundred), lower=lower, upper=upper, order=DESCENDING, limit=3) == steps[::-1][:3]


@pytest.mark.parametrize("order", [None, ASCENDING, DESCENDING])
@pytest.mark.parametrize("limit", [1, 7, 50, 199, 200, 201])
def test_pages_are_full_until_the_last(
    series: Any, hundred: str, order: SortDirection.ValueType | None, limit: int
) -> None:
    if limit == 1:
        bounds = {"lower": 3.0, "upper": 6.0}
        expected = [step / 2 for step in range(6, 13)]
    else:
        bounds = {}
        expected = [step / 2 for step in range(200)]
    if order == DESCENDING:
        expected.reverse()
    found: list[float] = []
    after = None
    while True:
        page = steps_of(series, query(hundred, after=after), limit=limit, order=order, **bounds)
        found += page
        if len(page) < limit:
            break
        after = page[-1]
    assert found == expected


def test_after_step_is_excluded_and_need_not_be_a_step(series: Any, hundred: str) -> None:
    assert steps_of(series, query(hundred, after=98.5)) == [99, 99.5]
    assert steps_of(series, query(hundred, after=98.6)) == [99, 99.5]
    assert steps_of(series, query(hundred, after=1), order=DESCENDING) == [0.5, 0]
    assert steps_of(series, query(hundred, after=0.9), order=DESCENDING) == [0.5, 0]
    assert steps_of(series, query(hundred, after=0), order=DESCENDING) == []
    assert len(steps_of(series, query(hundred, after=-1))) == 200
    assert len(steps_of(series, query(hundred, after=math.inf), order=DESCENDING)) == 200


def test_each_series_has_its_own_place(series: Any, hundred: str) -> None:
    queries = [query(hundred, request_id=str(after), after=after) for after in (10.0, 20.0, 99.5)]
    found = answers(series, *queries, limit=2)
    assert [[point.step for point in item.values] for item in found] == [[10.5, 11], [20.5, 21], []]
    assert {item.total_item_count for item in found} == {200}


def test_series_of_several_chunks(series: Any, connection: Connection, identifier: str) -> None:
    """Written in pieces that are stored apart."""
    log(connection, identifier, "r")
    for start in range(0, 500, 100):
        points = {float(step): float(step) for step in range(start, start + 100)}
        log(connection, identifier, "r", create=False, series={"m": points})
    holder = custom(identifier, "r")
    assert steps_of(series, query(holder)) == list(range(500))
    assert steps_of(series, query(holder), order=DESCENDING, limit=250) == list(range(499, 249, -1))
    assert steps_of(series, query(holder, after=199), limit=101) == list(range(200, 301))
    assert steps_of(series, query(holder), lower=99, upper=100) == [99, 100]
    (answer,) = answers(series, query(holder, after=450), lower=150, upper=420, limit=5)
    assert (answer.total_item_count, len(answer.values)) == (271, 0)


def test_more_points_than_one_encoding_takes(series: Any, connection: Connection, identifier: str) -> None:
    paths = [f"m{number}" for number in range(300)]
    for start in range(0, 400, 100):
        snapshots = [operations.snapshot(dict.fromkeys(paths, 1.0), step) for step in range(start, start + 100)]
        created = [operations.create("r", project=identifier)] if not start else []
        submit(connection, *created, operations.update(*snapshots, run="r", project=identifier))
    found = answers(series, *[query(custom(identifier, "r"), path, request_id=path) for path in paths])
    for item in found:
        assert [point.step for point in item.values] == list(range(400))


# Lineage


@pytest.fixture
def family(connection: Connection, identifier: str) -> dict[str, str]:
    """Identifiers of run1 (a, 0-4) -> run2 (b, fork 4, 5-8) -> run3 (b, fork 8, 9-11), and of further forks."""
    log(connection, identifier, "run1", experiment="a", series={"m": dict.fromkeys(range(5), 1.0)})
    log(
        connection,
        identifier,
        "run2",
        experiment="b",
        parent="run1",
        at=4,
        series={"m": dict.fromkeys(range(5, 9), 2.0)},
    )
    log(
        connection,
        identifier,
        "run3",
        experiment="b",
        parent="run2",
        at=8,
        series={"m": dict.fromkeys(range(9, 12), 3.0)},
    )
    log(connection, identifier, "early", experiment="c", parent="run3", at=2.5, series={"m": {7: 4.0}})
    log(connection, identifier, "behind", parent="run1", at=8, series={"m": {9: 5.0}})
    log(connection, identifier, "empty", experiment="b", parent="run3", at=10)
    return {name: custom(identifier, name) for name in ("run1", "run2", "run3", "early", "behind", "empty")}


@pytest.mark.parametrize(
    ("run", "full", "experiment", "own"),
    [
        ("run1", [*range(5)], [*range(5)], [*range(5)]),
        ("run2", [*range(9)], [5, 6, 7, 8], [5, 6, 7, 8]),
        ("run3", [*range(12)], [*range(5, 12)], [9, 10, 11]),
        ("early", [0, 1, 2, 7], [7], [7]),
        ("behind", [*range(5), 9], [9], [9]),
        ("empty", [*range(11)], [*range(5, 11)], []),
    ],
)
def test_lineage(
    series: Any, family: dict[str, str], run: str, full: list[float], experiment: list[float], own: list[float]
) -> None:
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({}, full),
        ({"lineage": FULL}, full),
        ({"lineage": FULL, "lineage_entity_type": RUN}, full),
        ({"lineage": FULL, "lineage_entity_type": EXPERIMENT}, full),
        ({"lineage": NONE}, own),
        ({"lineage": NONE, "lineage_entity_type": RUN}, own),
        ({"lineage": NONE, "lineage_entity_type": EXPERIMENT}, experiment),
    ]
    queries = [query(family[run], request_id=str(number), **fields) for number, (fields, _) in enumerate(cases)]
    for order in (ASCENDING, DESCENDING):
        found = answers(series, *queries, order=order)
        for item, (_, expected) in zip(found, cases, strict=True):
            steps = [point.step for point in item.values]
            assert steps == (expected if order == ASCENDING else expected[::-1])
            assert item.total_item_count == len(expected)


def test_pages_walk_along_the_lineage(series: Any, family: dict[str, str]) -> None:
    for order, expected in ((ASCENDING, [*range(12)]), (DESCENDING, [*range(11, -1, -1)])):
        found: list[float] = []
        after = None
        while page := steps_of(series, query(family["run3"], after=after), limit=2, order=order):
            found += page
            after = page[-1]
        assert found == expected
    (answer,) = answers(series, query(family["run3"]), lower=3, upper=6, limit=2)
    assert ([point.value for point in answer.values], answer.total_item_count) == ([1, 1], 4)


def test_a_point_logged_to_the_parent_later_is_inherited_too(
    series: Any, connection: Connection, identifier: str, family: dict[str, str]
) -> None:
    log(connection, identifier, "run1", create=False, series={"m": {6: 1.0, 12: 1.0}})
    assert steps_of(series, query(family["behind"])) == [0, 1, 2, 3, 4, 6, 9]
    assert steps_of(series, query(family["run2"])) == [*range(9)]


# Previews


def previewed(connection: Connection, identifier: str, run: str, previews: dict[float, tuple[float, float]]) -> None:
    submit(
        connection,
        *[
            operations.append({"m": value}, step, preview=ratio, run=run, project=identifier)
            for step, (value, ratio) in previews.items()
        ],
    )


def plain(point: FloatPoint) -> tuple[float, float, bool, float]:
    return point.step, point.value, point.is_preview, point.completion_ratio


def test_previews_come_when_asked_for(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"m": {1: 1.0, 2: 2.0}})
    previewed(connection, identifier, "r", {3: (3.0, 0.25), 5: (math.inf, 1.0), 4: (4.0, 0.5)})
    holder = custom(identifier, "r")
    without, with_previews = answers(series, query(holder), query(holder, request_id="p", include_preview=True))
    assert [point.step for point in without.values] == [1, 2]
    assert without.total_item_count == 2
    expected = [
        (1, 1, False, 1),
        (2, 2, False, 1),
        (3, 3, True, 0.25),
        (4, 4, True, 0.5),
        (5, math.inf, True, 1),
    ]
    assert [plain(point) for point in with_previews.values] == expected
    assert with_previews.total_item_count == 5
    asked = query(holder, include_preview=True)
    (answer,) = answers(series, asked, order=DESCENDING, limit=4)
    assert [plain(point) for point in answer.values] == expected[::-1][:4]
    (answer,) = answers(series, asked, lower=2, upper=4)
    assert [plain(point) for point in answer.values] == expected[1:4]
    assert answer.total_item_count == 3
    assert steps_of(series, query(holder, include_preview=True, after=3), limit=1) == [4]
    assert steps_of(series, query(holder, include_preview=True, after=4), order=DESCENDING) == [3, 2, 1]


def test_committed_points_supersede_previews(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r")
    previewed(connection, identifier, "r", {1: (1.0, 0.1), 2: (2.0, 0.2), 3: (3.0, 0.3)})
    asked = query(custom(identifier, "r"), include_preview=True)
    assert steps_of(series, asked) == [1, 2, 3]
    previewed(connection, identifier, "r", {3: (30.0, 0.05)})
    log(connection, identifier, "r", create=False, series={"m": {2: 20.0}})
    (answer,) = answers(series, asked)
    assert [plain(point)[:3] for point in answer.values] == [(2, 20, False), (3, 30, True)]
    assert answer.values[1].completion_ratio == pytest.approx(0.05)
    log(connection, identifier, "r", create=False, series={"m": {4: 4.0}})
    (answer,) = answers(series, asked)
    assert [plain(point) for point in answer.values] == [(2, 20, False, 1), (4, 4, False, 1)]


def test_previews_of_ancestors_count_up_to_the_fork(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "root", series={"m": {1: 1.0}})
    previewed(connection, identifier, "root", {2: (2.0, 0.5), 3: (3.0, 0.5), 4: (4.0, 0.5)})
    log(connection, identifier, "child", parent="root", at=3)
    fields: dict[str, Any] = {"include_preview": True}
    child = custom(identifier, "child")
    assert steps_of(series, query(child, **fields)) == [1, 2, 3]
    assert steps_of(series, query(child)) == [1]
    assert steps_of(series, query(child, **fields, lineage=NONE)) == []
    previewed(connection, identifier, "child", {5: (5.0, 0.5)})
    both = [query(child, **fields), query(child, request_id="own", **fields, lineage=NONE)]
    found = [[point.step for point in item.values] for item in answers(series, *both)]
    assert found == [[1, 2, 3, 5], [5]]
    log(connection, identifier, "child", create=False, series={"m": {4: 4.0}})
    assert steps_of(series, query(child, **fields)) == [1, 4, 5]


# Bad input


def call(series: Any, **fields: Any) -> Any:
    request = pb.FloatSeriesValuesQuery(**({"per_series_points_limit": 1} | fields))
    return series.GetFloatSeriesValues(pb.GetFloatSeriesValuesRequest(request=request))


GOOD = "CUSTOM/w/p/r"
BAD_QUERIES: dict[str, tuple[dict[str, Any], str]] = {
    "no limit": ({"per_series_points_limit": 0}, "request.per_series_points_limit"),
    "negative limit": ({"per_series_points_limit": -1}, "request.per_series_points_limit"),
    "large limit": ({"per_series_points_limit": HUGE + 1}, "request.per_series_points_limit"),
    "order": ({"order": 9}, "request.order"),
    "nan range": ({"step_range": StepRange(lower=math.nan)}, "request.step_range.from"),
    "nan after": ({"requests": [query(GOOD, after=math.nan)]}, "request.requests[0].after_step"),
    "no id": ({"requests": [query(GOOD, request_id="")]}, "request.requests[0].request_id"),
    "same id": ({"requests": [query(GOOD), query(GOOD)]}, "request.requests[1].request_id"),
    "no path": ({"requests": [query(GOOD, "")]}, "request.requests[0].series.attribute"),
    "no holder": ({"requests": [query("")]}, "request.requests[0].series.holder.identifier"),
    "malformed holder": ({"requests": [query("x/y")]}, "request.requests[0].series.holder.identifier"),
    "lineage": ({"requests": [query(GOOD, lineage=7)]}, "request.requests[0].series.lineage"),
    "entity": ({"requests": [query(GOOD, lineage_entity_type=7)]}, "request.requests[0].series.lineage_entity_type"),
    "too many": ({"requests": [query(GOOD, request_id=str(n)) for n in range(20_001)]}, "request.requests"),
}


@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_queries_are_refused(series: Any, case: str) -> None:
    fields, expected = BAD_QUERIES[case]
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        call(series, **fields)
    assert [violation.field for violation in caught.value.violations] == [expected]


def test_an_answer_does_not_grow_without_end(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"m": dict.fromkeys(range(1000), 1.0)})
    queries = [query(custom(identifier, "r"), request_id=str(number)) for number in range(5001)]
    with pytest.raises(exceptions.ResourceExhaustedException, match="5,000,000"):
        answers(series, *queries)
    assert {len(item.values) for item in answers(series, *queries, limit=1)} == {1}


def test_an_empty_query_has_an_empty_answer(series: Any) -> None:
    assert list(call(series).series) == []


def test_another_kind_of_holder_is_refused(series: Any) -> None:
    bad = query(GOOD)
    bad.series.holder.type = "project"
    with pytest.raises(exceptions.InvalidArgumentException):
        call(series, requests=[bad])


def test_projects_that_are_unknown_or_invisible_are_not_found(
    wire: Wire, series: Any, connection: Connection, identifier: str, make_user: Callable[..., Person]
) -> None:
    log(connection, identifier, "r", series={"m": {1: 1.0}})
    run: Run = connection.stub(RunsServiceStub).GetRun(GetRunRequest(experiment_id=custom(identifier, "r")))
    theirs = wire.connect(make_user().api_token).stub(SeriesServiceStub)
    for stub, holder in ((series, "CUSTOM/no/project/r"), (theirs, custom(identifier, "r"))):
        with pytest.raises(exceptions.NotFoundException):
            answers(stub, query(holder))
    assert [len(item.values) for item in answers(theirs, query(run.id))] == [0]
    assert [len(item.values) for item in answers(series, query(run.id))] == [1]


def test_what_is_not_there_yet_says_so(series: Any, identifier: str) -> None:
    calls: list[tuple[Callable[[Any], Any], Any]] = [
        (
            lambda request: call(series, requests=[request]),
            query(GOOD, normalize_to_first_value=True),
        ),
    ]
    for method, request in calls:
        with pytest.raises(exceptions.UnimplementedException) as caught:
            method(request)
        assert str(caught.value).count(" ") > 5


def single(series: Any, holder: str, path: str = "m", **fields: Any) -> FloatSeriesValues:
    request = pb.GetSingleFloatSeriesValuesRequest(attribute=path, experiment_id=holder, **fields)
    answer: FloatSeriesValues = series.GetSingleFloatSeriesValues(request)
    return answer


def test_a_single_series(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "root", series={"m": {0: 0.0, 1: 1.0, 2: 2.0}}, experiment="e")
    log(connection, identifier, "fork", series={"m": {2.5: math.nan, 4: 4.0}}, experiment="e", parent="root", at=1)
    submit(
        connection,
        operations.update(
            operations.snapshot({"m": 6.0}, 6, operations.START_MS + 10, preview=0.5), project=identifier, run="fork"
        ),
    )
    fork = custom(identifier, "fork")
    for fields in (
        {},
        {"include_preview": True},
        {"lineage": NONE},
        {"lineage": NONE, "lineage_entity_type": EXPERIMENT},
    ):
        (expected,) = answers(series, query(fork, **fields))
        assert single(series, fork, **fields).SerializeToString() == expected.SerializeToString()
    assert [point.step for point in single(series, fork, include_preview=True).values] == [0, 1, 2.5, 4, 6]
    for start, steps in ((-1, [0, 1, 2.5, 4]), (1, [1, 2.5, 4]), (1.5, [2.5, 4]), (4, [4]), (5, [])):
        found = single(series, fork, skip_to_step=start)
        assert ([point.step for point in found.values], found.total_item_count) == (steps, len(steps))
        found = single(series, fork, skip_to_step=start, limit=1)
        assert ([point.step for point in found.values], found.total_item_count) == (steps[:1], len(steps))
    for holder, path in ((fork, "nothing"), (custom(identifier, "nobody"), "m")):
        assert not single(series, holder, path).ByteSize()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attribute", ""),
        ("experiment_id", ""),
        ("experiment_id", "X-1"),
        ("limit", 0),
        ("limit", HUGE + 1),
        ("lineage", 77),
        ("lineage_entity_type", 77),
        ("skip_to_step", math.nan),
    ],
)
def test_bad_questions_for_a_single_series_are_refused(series: Any, identifier: str, field: str, value: Any) -> None:
    fields = {"attribute": "m", "experiment_id": custom(identifier, "r"), field: value}
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        series.GetSingleFloatSeriesValues(pb.GetSingleFloatSeriesValuesRequest(**fields))
    assert [violation.field for violation in caught.value.violations] == [field]
