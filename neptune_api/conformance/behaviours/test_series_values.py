"""Points of string, histogram and file series, and how a client walks through pages of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import exceptions
from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log
from neptune_api.v1 import series_service_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributesHolder, Lineage, SortDirection, StepRange, TimeSeries
from neptune_api.v1.series_pb2 import (
    FileRefValue,
    HistogramValue,
    SearchAfter,
    SeriesPoint,
    SeriesPointValue,
    SeriesValuesItem,
    SeriesValuesResponse,
)
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Person

ASCENDING = SortDirection.SORT_DIRECTION_ASCENDING
DESCENDING = SortDirection.SORT_DIRECTION_DESCENDING


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def series(connection: Connection) -> Any:
    return connection.stub(SeriesServiceStub)


def query(
    holder: str, path: str, request_id: str = "0", search_after: SearchAfter | None = None, **fields: Any
) -> pb.SeriesQuery:
    holder_message = AttributesHolder(identifier=holder, type="experiment")
    message = TimeSeries(attribute=path, holder=holder_message, **fields)
    return pb.SeriesQuery(request_id=request_id, series=message, search_after=search_after)


def ask(series: Any, *queries: pb.SeriesQuery, deprecated: bool | None = None, **fields: Any) -> SeriesValuesResponse:
    request = pb.SeriesValuesQuery(requests=queries, **fields)
    answer: SeriesValuesResponse = series.GetSeriesValues(
        pb.GetSeriesValuesRequest(request=request, use_deprecated_string_fields=deprecated)
    )
    return answer


def one(series: Any, asked: pb.SeriesQuery, **fields: Any) -> SeriesValuesItem:
    (item,) = ask(series, asked, **fields).series
    assert item.request_id == asked.request_id
    return item


def texts(item: SeriesValuesItem) -> list[tuple[float, str]]:
    return [(point.step, point.object.string_value) for point in item.series_values.values]


def walk(series: Any, *queries: pb.SeriesQuery, **fields: Any) -> tuple[dict[str, list[float]], int]:
    """Read everything as clients do: what is not in an answer is gone, what is unfinished is asked for again.

    Returns the steps of each series and the number of answers.
    """
    left = {item.request_id: item for item in queries}
    found: dict[str, list[float]] = {}
    pages = 0
    while left:
        answer = ask(series, *left.values(), **fields)
        pages += 1
        assert pages < 200
        assert {item.request_id for item in answer.series} <= left.keys()
        progress = 0
        going_on: dict[str, pb.SeriesQuery] = {}
        for item in answer.series:
            steps = [point.step for point in item.series_values.values]
            progress += len(steps)
            found.setdefault(item.request_id, []).extend(steps)
            if not item.HasField("search_after"):
                assert not steps
                going_on[item.request_id] = left[item.request_id]
            else:
                assert item.search_after.token
                if not item.search_after.finished:
                    going_on[item.request_id] = pb.SeriesQuery()
                    going_on[item.request_id].CopyFrom(left[item.request_id])
                    going_on[item.request_id].search_after.CopyFrom(item.search_after)
        assert progress or not going_on
        if not any(item.HasField("search_after") and not item.search_after.finished for item in answer.series):
            assert not going_on, "a client would stop here"
        left = going_on
    return found, pages


def custom(identifier: str, run: str = "r") -> str:
    return f"CUSTOM/{identifier}/{run}"


def test_values_of_every_kind(series: Any, connection: Connection, identifier: str) -> None:
    points = {
        "text": {0: "a", 0.5: "", 2: "ü" * 1000},
        "counts": {1: operations.counts([-math.inf, 0, math.inf], [2**53, 0])},
        "density": {1: operations.densities([0.0, 0.5, 1.0], [math.nan, 1.5])},
        "file": {3: operations.file("a/b", 2**40, "image/png"), 1: operations.file("c")},
    }
    log(connection, identifier, "r", series=points)
    paths = list(points)
    answer = ask(series, *[query(custom(identifier), path, request_id=path) for path in paths])
    assert [item.request_id for item in answer.series] == paths
    assert all(item.search_after.finished and item.search_after.token for item in answer.series)
    text, counts, density, file = (list(item.series_values.values) for item in answer.series)
    start = operations.START_MS
    assert text[1] == SeriesPoint(
        timestamp_millis=start + 1, step=0.5, completion_ratio=1, object=SeriesPointValue(string_value="")
    )
    assert [point.object.string_value for point in text] == ["a", "", "ü" * 1000]
    assert counts[0].object.histogram == HistogramValue(
        type="COUNTING", edges=[-math.inf, 0, math.inf], values=[2.0**53, 0]
    )
    assert density[0].object.histogram.type == "DENSITY"
    assert math.isnan(density[0].object.histogram.values[0])
    assert [(point.step, point.timestamp_millis - start) for point in file] == [(1, 1), (3, 0)]
    assert file[1].object.file_ref == FileRefValue(path="a/b", size_bytes=2**40, mime_type="image/png")
    for point in (*text, *counts, *density, *file):
        assert point.completion_ratio == 1
        assert not point.is_preview
        assert not point.HasField("value")
        assert point.object.WhichOneof("value")


def test_deprecated_fields_are_filled_when_asked_for(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"text": {1: "a"}, "file": {1: operations.file("f")}})
    queries = [query(custom(identifier), path, request_id=path) for path in ("text", "file")]
    for deprecated, kind in ((True, "string_series"), (False, "series_values"), (None, "series_values")):
        text, file = ask(series, *queries, deprecated=deprecated).series
        assert text.WhichOneof("points") == kind
        assert file.WhichOneof("points") == "series_values"
        (point,) = getattr(text, kind).values
        assert point.object.string_value == "a"
        assert point.value == ("a" if deprecated else "")


def test_series_that_do_not_exist_are_left_out(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"config": "a"}, series={"text": {1: "a"}, "m": {1: 1.0}})
    log(connection, identifier, "child", parent="r", at=1)
    holder = custom(identifier)
    queries = [
        query(holder, "unknown", "1"),
        query(holder, "text", "2"),
        query(custom(identifier, "no"), "text", "3"),
        query(f"{identifier}/no short id", "text", "8"),
        query(holder, "m", "4"),
        query(holder, "config", "5"),
        query(custom(identifier, "child"), "text", "6"),
        query(custom(identifier, "child"), "text", "7", lineage=Lineage.LINEAGE_NONE),
    ]
    assert [item.request_id for item in ask(series, *queries).series] == ["2", "6"]
    assert list(ask(series).series) == []


def test_the_last_point_at_a_step_counts(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"file": {step: operations.file(f"a{step}") for step in (3, 2, 1)}})
    log(connection, identifier, "r", create=False, series={"file": {2: operations.file("b2")}})
    found = one(series, query(custom(identifier), "file"))
    assert [point.object.file_ref.path for point in found.series_values.values] == ["a1", "b2", "a3"]


def test_ranges_and_directions(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"text": {step / 2: str(step) for step in range(20)}})
    asked = query(custom(identifier), "text")

    def found(**fields: Any) -> list[float]:
        return [step for step, _ in texts(one(series, asked, **fields))]

    everything = [step / 2 for step in range(20)]
    assert found() == found(order=ASCENDING) == everything
    assert found(order=DESCENDING) == everything[::-1]
    assert found(step_range=StepRange(lower=2, upper=3.5)) == [2, 2.5, 3, 3.5]
    assert found(step_range=StepRange(lower=9.1), order=DESCENDING) == [9.5]
    assert found(step_range=StepRange(upper=0)) == [0]
    assert found(step_range=StepRange(lower=3, upper=2)) == []
    assert found(step_range=StepRange(lower=8), per_series_points_limit=2, order=DESCENDING) == [9.5, 9]
    assert found(per_series_points_limit=3) == [0, 0.5, 1]
    assert found(per_series_points_limit=0) == []


def test_lineage(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "root", series={"text": {step: f"root {step}" for step in range(5)}})
    log(
        connection,
        identifier,
        "child",
        parent="root",
        at=2,
        series={"text": {step: f"child {step}" for step in (3, 4)}},
    )
    holder = custom(identifier, "child")
    full = [(0, "root 0"), (1, "root 1"), (2, "root 2"), (3, "child 3"), (4, "child 4")]
    assert texts(one(series, query(holder, "text"))) == full
    assert texts(one(series, query(holder, "text"), order=DESCENDING)) == full[::-1]
    assert texts(one(series, query(holder, "text", lineage=Lineage.LINEAGE_NONE))) == full[3:]
    within = StepRange(lower=1.5, upper=3)
    assert texts(one(series, query(holder, "text"), step_range=within)) == full[2:4]
    found, _ = walk(series, query(holder, "text"), size_limit_bytes=1, order=DESCENDING)
    assert found["0"] == [4, 3, 2, 1, 0]


# Pages


@pytest.fixture
def three(connection: Connection, identifier: str) -> list[pb.SeriesQuery]:
    """Queries for series of 5 small points, of 3 of 100 kB and of 4 small ones in an odd order."""
    big = "x" * 100_000
    points = {
        "a": {step: f"{step}" for step in range(5)},
        "b": dict.fromkeys(range(3), big),
        "c": {step: operations.file(f"{step}") for step in (7, 5, 8, 6)},
    }
    log(connection, identifier, "r", series=points)
    return [query(custom(identifier), path, request_id=path) for path in points]


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING])
@pytest.mark.parametrize("size", [1, 40, 100, 1_000, 100_000, 100_200, 250_000, None])
def test_a_client_gets_everything_whatever_the_size_of_answers(
    series: Any, three: list[pb.SeriesQuery], order: SortDirection.ValueType, size: int | None
) -> None:
    expected = {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2], "c": [5, 6, 7, 8]}
    if order == DESCENDING:
        expected = {name: steps[::-1] for name, steps in expected.items()}
    found, pages = walk(series, *three, order=order, size_limit_bytes=size)
    assert found == expected
    if size is None:
        assert pages == 1
    if size == 1:
        assert pages == 12


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 100])
@pytest.mark.parametrize("size", [1, 100_000, None])
def test_the_limit_is_that_of_all_pages_together(
    series: Any, three: list[pb.SeriesQuery], limit: int, size: int | None
) -> None:
    found, _ = walk(series, *three, size_limit_bytes=size, per_series_points_limit=limit)
    expected = {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2], "c": [5, 6, 7, 8]}
    assert found == {name: steps[:limit] for name, steps in expected.items()}


def test_every_series_is_in_every_answer_until_it_is_finished(series: Any, three: list[pb.SeriesQuery]) -> None:
    a, b, c = ask(series, *three, size_limit_bytes=100_100).series
    assert (a.search_after.finished, len(a.series_values.values)) == (True, 5)
    assert (b.search_after.finished, len(b.series_values.values)) == (False, 0)
    assert not c.HasField("search_after")
    assert c.WhichOneof("points") == "series_values"
    three[1].search_after.CopyFrom(b.search_after)
    b, c = ask(series, *three[1:], size_limit_bytes=100_100).series
    assert (b.search_after.finished, len(b.series_values.values)) == (False, 1)
    assert not c.HasField("search_after")
    three[1].search_after.CopyFrom(b.search_after)
    c, again = ask(series, three[2], three[1], size_limit_bytes=100_100).series
    assert c.search_after.finished
    assert again.search_after == b.search_after
    assert list(again.series_values.values) == []


def test_a_finished_series_stays_finished(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"text": {1: "a"}})
    asked = query(custom(identifier), "text")
    done = one(series, asked)
    asked.search_after.CopyFrom(done.search_after)
    again = one(series, asked)
    assert again.search_after == done.search_after
    assert list(again.series_values.values) == []


def test_answers_have_sixteen_mebibytes_at_most(series: Any, connection: Connection, identifier: str) -> None:
    text = "x" * (1 << 20)
    for start in range(0, 20, 10):
        points = dict.fromkeys(range(start, start + 10), text)
        log(connection, identifier, "r", create=start == 0, series={"text": points})
    asked = query(custom(identifier), "text")
    first = one(series, asked)
    assert (len(first.series_values.values), first.search_after.finished) == (15, False)
    assert walk(series, asked) == ({"0": list(range(20))}, 2)
    assert walk(series, asked, order=DESCENDING) == ({"0": list(range(19, -1, -1))}, 2)


def test_two_thousand_long_names_and_no_more(series: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"n" * 1020 + "0007": {1: "a"}})
    queries = [query(custom(identifier), f"{number:04}".rjust(1024, "n"), str(number)) for number in range(2001)]
    assert [item.request_id for item in ask(series, *queries[:2000]).series] == ["7"]
    with pytest.raises(exceptions.InvalidArgumentException, match="2,048,000"):
        ask(series, *queries)


# Bad input

GOOD = "CUSTOM/w/p/r"
BAD_QUERIES: dict[str, tuple[dict[str, Any], str]] = {
    "negative limit": ({"per_series_points_limit": -1}, "request.per_series_points_limit"),
    "no size": ({"size_limit_bytes": 0}, "request.size_limit_bytes"),
    "large size": ({"size_limit_bytes": 16 * 1024 * 1024 + 1}, "request.size_limit_bytes"),
    "order": ({"order": 9}, "request.order"),
    "nan range": ({"step_range": StepRange(upper=math.nan)}, "request.step_range.to"),
    "no id": ({"requests": [query(GOOD, "a", "")]}, "request.requests[0].request_id"),
    "same id": ({"requests": [query(GOOD, "a"), query(GOOD, "b")]}, "request.requests[1].request_id"),
    "no path": ({"requests": [query(GOOD, "")]}, "request.requests[0].series.attribute"),
    "no holder": ({"requests": [query("", "a")]}, "request.requests[0].series.holder.identifier"),
    "malformed holder": ({"requests": [query("x/y", "a")]}, "request.requests[0].series.holder.identifier"),
    "token": (
        {"requests": [query(GOOD, "a", search_after=SearchAfter(token="x"))]},
        "request.requests[0].search_after.token",
    ),
}


@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_queries_are_refused(series: Any, case: str) -> None:
    fields, expected = BAD_QUERIES[case]
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        series.GetSeriesValues(pb.GetSeriesValuesRequest(request=pb.SeriesValuesQuery(**fields)))
    assert [violation.field for violation in caught.value.violations] == [expected]


def test_projects_that_are_unknown_or_invisible_are_not_found(
    wire: Wire, series: Any, connection: Connection, identifier: str, make_user: Callable[..., Person]
) -> None:
    log(connection, identifier, "r", series={"text": {1: "a"}})
    theirs = wire.connect(make_user().api_token).stub(SeriesServiceStub)
    for stub, holder in ((series, "CUSTOM/no/project/r"), (theirs, custom(identifier))):
        with pytest.raises(exceptions.NotFoundException):
            ask(stub, query(holder, "text"))
