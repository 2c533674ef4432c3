"""Buckets over float series: the very doubles of their edges, what is in them, forks, previews, and what is refused."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log, submit
from neptune_api.conformance.reading_helpers import run_of
from neptune_api.exceptions import InvalidArgumentException, NotFoundException, UnimplementedException
from neptune_api.v1 import series_pb2 as pb
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neptune_api.conformance.connections import Connection, Wire

Points = dict[float, float]


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


def view(count: int = 5, lower: float | None = None, upper: float | None = None, **more: Any) -> pb.BucketView:
    return pb.BucketView(max_buckets=count, lower=lower, upper=upper, x_axis=pb.BucketXAxis(steps=pb.XSteps()), **more)


def expression(identifier: str, run: str, path: str = "m", request_id: str = "0", **more: Any) -> pb.BucketExpression:
    escaped = "".join(f"\\{character}" if character in "\\${}" else character for character in path)
    return pb.BucketExpression(
        request_id=request_id, run_id=f"CUSTOM/{identifier}/{run}", custom_y_formula=f"${{{escaped}}}", **more
    )


def ask(connection: Connection, view_: pb.BucketView, *expressions: pb.BucketExpression) -> list[list[Any]]:
    request = pb.GetTimeseriesBucketsRequest(expressions=expressions, view=view_)
    answer = connection.stub(SeriesServiceStub).GetTimeseriesBuckets(request)
    assert [entry.request_id for entry in answer.entries] == [item.request_id for item in expressions]
    return [list(entry.bucket) for entry in answer.entries]


def expected(points: Mapping[float, float], count: int, begin: float, end: float) -> list[pb.TimeseriesBucket]:
    """Return the buckets of a series, one after the other, by the letter of their definition."""
    if begin == end:
        edges = [(begin, math.inf)]
    else:
        width = (end - begin) / (count - 1)
        edges = [
            (
                begin + width * (index - 1) if index else -math.inf,
                begin + width * index if index < count else math.inf,
            )
            for index in range(count + 1)
        ]
    buckets = []
    for index, (lower, upper) in enumerate(edges):
        inside = [(x, y) for x, y in sorted(points.items()) if (lower < x <= upper) or (begin == end and x >= begin)]
        finite = [(x, y) for x, y in inside if math.isfinite(y)]
        if not inside:
            continue
        bucket = pb.TimeseriesBucket(
            index=index,
            from_x=lower,
            to_x=upper,
            finite_point_count=len(finite),
            nan_count=sum(math.isnan(y) for _, y in inside),
            positive_inf_count=sum(y == math.inf for _, y in inside),
            negative_inf_count=sum(y == -math.inf for _, y in inside),
        )
        if finite:
            bucket.first.x, bucket.first.y = finite[0]
            bucket.last.x, bucket.last.y = finite[-1]
            bucket.local_min = min(y for _, y in finite)
            bucket.local_max = max(y for _, y in finite)
            bucket.local_sum = sum(y for _, y in finite)
        buckets.append(bucket)
    return buckets


SERIES: dict[str, Points] = {
    "whole steps": {float(step): float(step * step) for step in range(12)},
    "fractions": {step / 10: 1.0 for step in range(100)},
    "thirds": {round(step / 3, 6): float(step) for step in range(30)},
    "one point": {3.0: 2.0},
    "zeros": {0.0: 0.0, 1.0: 0.0},
    "not finite": {1.0: math.nan, 2.0: math.inf, 3.0: -math.inf, 4.0: 1.0, 5.0: math.nan},
    "never finite": {1.0: math.nan, 2.0: math.nan, 9.0: math.inf},
    "far": {0.0: 1.0, 8_000_000_000.0: 2.0},
}


@pytest.mark.parametrize("case", SERIES)
def test_edges_and_contents(connection: Connection, identifier: str, case: str) -> None:
    points = SERIES[case]
    log(connection, identifier, "r", series={"m": points})
    for count in (2, 3, 4, 7, 101, 1001):
        begin, end = min(points), max(points)
        assert ask(connection, view(count), expression(identifier, "r")) == [expected(points, count, begin, end)]
        for lower, upper in ((1.0, 2.0), (-100.0, 100.0), (0.1, 0.7), (3.0, 3.0), (5e11, 6e11), (-2.0, -1.0)):
            found = ask(connection, view(count, lower, upper), expression(identifier, "r"))
            assert found == [expected(points, count, lower, upper)], (count, lower, upper)


def test_random_series_over_a_common_range(connection: Connection, identifier: str) -> None:
    chance = random.Random(5)
    series = {}
    for number in range(5):
        steps = sorted({chance.randrange(10_000_000) / 1_000_000 for _ in range(200)})
        series[f"m{number}"] = {step: chance.choice([chance.random(), math.nan, -1.0]) for step in steps}
    log(connection, identifier, "r", series=series)
    begin = min(min(points) for points in series.values())
    end = max(max(points) for points in series.values())
    for count in (2, 17, 500):
        found = ask(connection, view(count), *(expression(identifier, "r", path, request_id=path) for path in series))
        for buckets, points in zip(found, series.values(), strict=True):
            wanted = expected(points, count, begin, end)
            # The order in which a sum is taken is not promised.
            for left, right in zip(buckets, wanted, strict=True):
                assert left.local_sum == pytest.approx(right.local_sum)
                left.local_sum = right.local_sum
                if not right.HasField("local_sum"):
                    left.ClearField("local_sum")
            assert buckets == wanted


def test_many_series_with_the_same_steps(connection: Connection, identifier: str) -> None:
    steps = [0.0, 0.5, 3.0, 3.25, 7.0, 8.0, 20.0]
    series = {f"m{number:02}": {step: step * number - 5 for step in steps} for number in range(70)}
    series["m10"][3.0] = math.nan
    series["m11"] = dict.fromkeys(steps, -math.inf)
    series["m20"] = dict.fromkeys(steps[1:], 1.0)
    series["m30"][20.5] = 4.0
    log(connection, identifier, "r", series=series)
    for count, lower, upper in ((2, 0.0, 20.5), (5, 3.0, 8.0), (1001, 0.0, 20.5), (9, 3.0, 3.0)):
        expressions = [expression(identifier, "r", path, request_id=path) for path in series]
        wanted = [expected(points, count, lower, upper) for points in series.values()]
        assert ask(connection, view(count, lower, upper), *expressions) == wanted, (count, lower, upper)


def test_what_is_not_there_has_no_buckets(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"single": 1.0}, series={"m": {1: 1.0}, "text": {1: "a"}})
    found = ask(
        connection,
        view(),
        expression(identifier, "r", "m", "a"),
        expression(identifier, "r", "missing", "b"),
        expression(identifier, "no-run", "m", "c"),
        expression(identifier, "r", "single", "d"),
        expression(identifier, "r", "text", "e"),
    )
    assert [len(buckets) for buckets in found] == [1, 0, 0, 0, 0]
    assert ask(connection, view(5, 0, 10), expression(identifier, "r", "missing")) == [[]]
    nobody = expression(identifier, "r", "m")
    nobody.run_id = f"{identifier}/no short id"
    assert ask(connection, view(), nobody) == [[]]
    assert ask(connection, view()) == []


def test_half_a_range(connection: Connection, identifier: str) -> None:
    points = {float(step): 1.0 for step in range(10)}
    log(connection, identifier, "r", series={"m": points})
    for lower, upper, begin, end in ((4.0, None, 4.0, 9.0), (None, 4.0, 0.0, 4.0), (50.0, None, 50.0, 50.0)):
        found = ask(connection, view(4, lower, upper), expression(identifier, "r"))
        assert found == [expected(points, 4, begin, end)]


def test_strange_paths(connection: Connection, identifier: str) -> None:
    paths = ["a}b", "${x}", "back\\slash", "a b/ü", "$"]
    log(connection, identifier, "r", series={path: {1: 1.0} for path in paths})
    found = ask(connection, view(), *(expression(identifier, "r", path, request_id=path) for path in paths))
    assert [len(buckets) for buckets in found] == [1] * len(paths)


def test_lineage(connection: Connection, identifier: str) -> None:
    """Ends at 4, forks at 8 and at 4: as clients test it."""
    log(connection, identifier, "run1", series={"m": {step: float(step) for step in range(5)}}, experiment="A")
    log(connection, identifier, "run2", parent="run1", at=4, experiment="B")
    log(connection, identifier, "run2", series={"m": {step: float(step) for step in range(5, 9)}}, create=False)
    log(connection, identifier, "run3", parent="run2", at=8, experiment="B")
    log(connection, identifier, "run3", series={"m": {step: float(step) for step in range(9, 12)}}, create=False)
    cases: list[tuple[dict[str, Any], range]] = [
        ({}, range(12)),
        ({"entity_type": pb.BUCKET_ENTITY_TYPE_RUN}, range(12)),
        ({"lineage": pb.BUCKET_LINEAGE_ONLY_OWNED}, range(5, 12)),
        ({"lineage": pb.BUCKET_LINEAGE_ONLY_OWNED, "entity_type": pb.BUCKET_ENTITY_TYPE_RUN}, range(9, 12)),
    ]
    for options, steps in cases:
        points = {float(step): float(step) for step in steps}
        found = ask(connection, view(20), expression(identifier, "run3", **options))
        assert found == [expected(points, 20, min(points), max(points))]
    by_short_id = pb.BucketExpression(
        request_id="0",
        run_id=f"{identifier}/{run_of(connection, identifier, 'run3').short_id}",
        custom_y_formula="${m}",
    )
    assert len(ask(connection, view(20), by_short_id)[0]) == 12


def test_a_cut_series_ends_at_the_last_point_before_the_fork(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"m": {1: 1.0, 2: 2.0, 9: 9.0}})
    log(connection, identifier, "fork", parent="r", at=5)
    assert ask(connection, view(3), expression(identifier, "fork")) == [expected({1.0: 1.0, 2.0: 2.0}, 3, 1.0, 2.0)]


def test_previews_count_when_asked_for(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"m": {1: 1.0, 2: 2.0}})
    preview = operations.append({"m": 7.0}, 4, operations.START_MS + 10, preview=0.5, run="r", project=identifier)
    assert submit(connection, preview) == ["OK"]
    assert ask(connection, view(4), expression(identifier, "r")) == [expected({1.0: 1.0, 2.0: 2.0}, 4, 1.0, 2.0)]
    with_preview = {1.0: 1.0, 2.0: 2.0, 4.0: 7.0}
    found = ask(connection, view(4), expression(identifier, "r", include_preview=True))
    assert found == [expected(with_preview, 4, 1.0, 4.0)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GetTimeseriesBucketsRequest(), "view.max_buckets"),
        (pb.GetTimeseriesBucketsRequest(view=view(1)), "view.max_buckets"),
        (pb.GetTimeseriesBucketsRequest(view=view(1_002)), "view.max_buckets"),
        (pb.GetTimeseriesBucketsRequest(view=view(2, math.inf)), "view.from"),
        (pb.GetTimeseriesBucketsRequest(view=view(2, 0, math.nan)), "view.to"),
        (pb.GetTimeseriesBucketsRequest(view=view(2, 2, 1)), "view.from"),
        (pb.GetTimeseriesBucketsRequest(view=view(2, -1.7e308, 1.7e308)), "view.from"),
        (
            pb.GetTimeseriesBucketsRequest(view=view(), expressions=[expression("a/b", "r", "m", "")]),
            "expressions[0].request_id",
        ),
        (
            pb.GetTimeseriesBucketsRequest(view=view(), expressions=[expression("a/b", "r", "m", "0")] * 2),
            "expressions[1].request_id",
        ),
        (
            pb.GetTimeseriesBucketsRequest(view=view(), expressions=[pb.BucketExpression(request_id="0", run_id="x")]),
            "expressions[0].run_id",
        ),
        (
            pb.GetTimeseriesBucketsRequest(
                view=view(), expressions=[expression("a/b", "r", "m", str(number)) for number in range(1_001)]
            ),
            "expressions",
        ),
    ],
)
def test_bad_requests(connection: Connection, request_: pb.GetTimeseriesBucketsRequest, field: str) -> None:
    with pytest.raises(InvalidArgumentException) as caught:
        connection.stub(SeriesServiceStub).GetTimeseriesBuckets(request_)
    assert field in [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize(
    "change",
    [
        {"x_scale": pb.SCALE_LOG},
        {"y_scale": pb.SCALE_LOG},
        {"x_axis": pb.BucketXAxis(epoch_millis=pb.XEpochMillis())},
        {"x_axis": pb.BucketXAxis(relative_time=pb.XRelativeTime())},
        {"x_axis": pb.BucketXAxis(custom=pb.XCustom(expression="${x}"))},
        {"point_filters": pb.BucketPointFilters(step_range=pb.BucketStepRange(lower=1))},
        {"formula": "${m} + 1"},
        {"formula": "m"},
        {"formula": "${m}${n}"},
    ],
)
def test_what_is_not_served_says_so(connection: Connection, identifier: str, change: dict[str, Any]) -> None:
    log(connection, identifier, "r", series={"m": {1: 1.0}})
    wanted = expression(identifier, "r")
    wanted.custom_y_formula = change.get("formula", wanted.custom_y_formula)
    asked = view()
    asked.MergeFrom(pb.BucketView(**{name: value for name, value in change.items() if name != "formula"}))
    with pytest.raises(UnimplementedException, match="along steps, on linear scales"):
        ask(connection, asked, wanted)


def test_projects_that_may_not_be_seen(connection: Connection) -> None:
    with pytest.raises(NotFoundException):
        ask(connection, view(), expression("no/project", "r"))
