"""Reading float series as columns: ranges, limits from either end, lineage, previews, one snapshot, long series."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api import exceptions
from neptune_api.columns import append_request, points, unpack
from neptune_api.conformance.lab import DEADLINE, Lab, is_pending
from neptune_api.conformance.logging_helpers import log
from neptune_api.conformance.operations import START_MS, append, assign, create
from neptune_api.server import limits
from neptune_api.v1.ingest_service_pb2 import GetRequestStatusRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, Lineage, LineageEntityType, StepRange, TimeSeries
from neptune_api.v1.runs_service_pb2 import GetRunRequest
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2 import ReadColumnsRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from neptune_api.columns import FloatPoints
    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.people import Host, Person


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    opened = Lab(wire.connect(), identifier)
    opened.apply_one(create())
    return opened


def numbered(count: int, start: int = 0) -> FloatPoints:
    """Return points whose values are their steps."""
    steps = np.arange(start, start + count)
    return points(steps.astype(np.float64), steps=steps, times=np.full(count, START_MS))


def values(found: FloatPoints) -> list[float]:
    listed: list[float] = found.values.tolist()
    return listed


def test_series_come_in_the_order_of_the_request(lab: Lab) -> None:
    lab.append_all({"a": numbered(3), "b": numbered(2), "c": numbered(1)})
    request = [lab.time_series("run", path) for path in ("c", "nothing", "a", "b", "a")]
    request.append(lab.time_series("nowhere", "a"))
    responses = lab.series.ReadColumns(ReadColumnsRequest(series=request))
    assert [response.series_index for response in responses] == [0, 1, 2, 3, 4, 5]
    assert all(response.last for response in responses)
    assert [len(unpack(response.columns)) for response in responses] == [1, 0, 3, 2, 3, 0]
    assert not responses[1].columns.HasField("preview_ratios")


def test_nothing_asked_for_is_nothing_answered(lab: Lab) -> None:
    assert lab.series.ReadColumns(ReadColumnsRequest()) == []


def test_every_name_of_a_run(lab: Lab) -> None:
    lab.append_all({"m": numbered(3)})
    run = lab.connection.stub(RunsServiceStub).GetRun(GetRunRequest(experiment_id=f"CUSTOM/{lab.project}/run"))
    holders = [run.id, f"{lab.project}/{run.short_id}", f"CUSTOM/{lab.project}/run"]
    series = [TimeSeries(attribute="m", holder=AttributesHolder(identifier=holder)) for holder in holders]
    responses = lab.series.ReadColumns(ReadColumnsRequest(series=series))
    assert [values(unpack(response.columns)) for response in responses] == [[0.0, 1.0, 2.0]] * 3


def test_other_attributes_have_no_float_points(lab: Lab) -> None:
    lab.apply(assign({"single": 1.0}), append({"text": "x"}, 0))
    assert [len(found) for found in lab.read("run", "single", "text", "sys/id")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("lower", "upper", "limit", "expected"),
    [
        (None, None, None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (2.5, None, None, [3, 4, 5, 6, 7, 8, 9]),
        (3, 6, None, [3, 4, 5, 6]),
        (None, 2, None, [0, 1, 2]),
        (4.1, 4.9, None, []),
        (7, 3, None, []),
        (-math.inf, math.inf, None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (None, None, 3, [0, 1, 2]),
        (None, None, 0, []),
        (None, None, -3, [7, 8, 9]),
        (None, None, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (None, None, -11, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (2, 7, 2, [2, 3]),
        (2, 7, -2, [6, 7]),
        (None, None, 2**63 - 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (None, None, -(2**63), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_ranges_and_limits(
    lab: Lab, lower: float | None, upper: float | None, limit: int | None, expected: list[int]
) -> None:
    lab.append_all({"m": numbered(10)})
    given_range = None if lower is None and upper is None else StepRange(lower=lower, upper=upper)
    (found,) = lab.read("run", "m", step_range=given_range, limit=limit)
    assert values(found) == expected


def test_lineage(lab: Lab) -> None:
    lab.apply_one(create("a", experiment="e"))
    lab.append_all({"m": numbered(10), "only": numbered(3)}, "a")
    lab.apply_one(create("b", parent="a", at=4, experiment="e"))
    lab.append_all({"m": points([50.0, 60.0], steps=[5, 6])}, "b")
    lab.apply_one(create("c", parent="b", at=5))
    lab.append_all({"m": points([600.0], steps=[6])}, "c")

    def read(run: str, path: str = "m", limit: int | None = None, **fields: Any) -> list[float]:
        series = lab.time_series(run, path)
        series.MergeFrom(TimeSeries(**fields))
        (response,) = lab.series.ReadColumns(ReadColumnsRequest(series=[series], limit=limit))
        return values(unpack(response.columns))

    none: dict[str, Any] = {"lineage": Lineage.LINEAGE_NONE}
    assert read("c") == [0, 1, 2, 3, 4, 50, 600]
    assert read("c", limit=-3) == [4, 50, 600]
    assert read("c", limit=-8) == [0, 1, 2, 3, 4, 50, 600]
    assert read("c", limit=6) == [0, 1, 2, 3, 4, 50]
    assert read("c", "only", limit=-2) == [1, 2]
    assert read("c", **none) == [600]
    experiment = LineageEntityType.LINEAGE_ENTITY_TYPE_EXPERIMENT
    assert read("b", **none, lineage_entity_type=experiment) == [0, 1, 2, 3, 4, 50, 60]
    assert read("c", **none, lineage_entity_type=experiment) == [600]


def test_previews_come_last_in_messages_of_their_own(lab: Lab) -> None:
    lab.append_all({"m": numbered(3), "plain": numbered(2)})
    lab.append_all({"m": points([30.0, 40.0], steps=[3, 4], ratios=[0.5, 0.75])})
    series = [lab.time_series("run", path) for path in ("m", "plain", "m")]
    for item in series[:2]:
        item.include_preview = True
    responses = lab.series.ReadColumns(ReadColumnsRequest(series=series))
    shape = [(item.series_index, item.columns.HasField("preview_ratios"), item.last) for item in responses]
    assert shape == [(0, False, False), (0, True, True), (1, False, True), (2, False, True)]
    (found,) = lab.read("run", "m", previews=True)
    assert values(found) == [0, 1, 2, 30, 40]
    assert found.ratios is not None
    assert np.isnan(found.ratios).tolist() == [True, True, True, False, False]
    assert found.ratios[3:].tolist() == [0.5, 0.75]
    for limit, upper, expected in (
        (-1, None, [40]),
        (-3, None, [2, 30, 40]),
        (-3, 3, [1, 2, 30]),
        (4, None, [0, 1, 2, 30]),
        (2, None, [0, 1]),
        (None, 2, [0, 1, 2]),
    ):
        (found,) = lab.read("run", "m", previews=True, limit=limit, step_range=StepRange(upper=upper))
        assert values(found) == expected, (limit, upper)


def test_a_series_of_previews_only(lab: Lab) -> None:
    lab.append_all({"m": points([1.0], steps=[3], ratios=[0.5])})
    assert values(lab.read("run", "m")[0]) == []
    (found,) = lab.read("run", "m", previews=True)
    assert (found.micros.tolist(), values(found)) == ([3_000_000], [1.0])


def test_a_long_series_comes_in_messages_of_100_000_points(lab: Lab) -> None:
    count = 350_000
    lab.append_all({"m": numbered(count), "n": numbered(5)})
    series = [lab.time_series("run", path) for path in ("m", "n")]
    responses = lab.series.ReadColumns(ReadColumnsRequest(series=series))
    sizes = [len(unpack(response.columns)) for response in responses]
    assert max(sizes) <= 100_000
    assert [response.last for response in responses] == [False] * (len(sizes) - 2) + [True, True]
    found, short = lab.read("run", "m", "n")
    assert np.array_equal(found.values, np.arange(count))
    assert values(short) == [0, 1, 2, 3, 4]
    (found,) = lab.read("run", "m", limit=-100_001)
    assert np.array_equal(found.values, np.arange(249_999, count))
    (found,) = lab.read("run", "m", limit=70_000, step_range=StepRange(lower=99_999.5))
    assert np.array_equal(found.values, np.arange(100_000, 170_000))


def test_many_small_series(lab: Lab) -> None:
    paths = [f"m/{number}" for number in range(2500)]
    lab.append_all({path: numbered(2, number) for number, path in enumerate(paths)})
    found = lab.read("run", *paths)
    assert [values(item) for item in found] == [[number, number + 1] for number in range(2500)]
    assert [values(item) for item in lab.read("run", *paths, limit=-1)] == [[number + 1] for number in range(2500)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lower=st.none() | st.floats(-2, 12),
    upper=st.none() | st.floats(-2, 12),
    limit=st.none() | st.integers(-15, 15),
    previews=st.booleans(),
)
def test_any_question_is_answered_as_a_list_would(
    forked: Lab, lower: float | None, upper: float | None, limit: int | None, previews: bool
) -> None:
    line = [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (6, 60.0)] + [(8, 80.0), (9, 90.0)] * previews
    inside = [v for step, v in line if (lower is None or step >= lower) and (upper is None or step <= upper)]
    expected = inside if limit is None else inside[:limit] if limit >= 0 else inside[limit:]
    (found,) = forked.read("child", "m", previews=previews, limit=limit, step_range=StepRange(lower=lower, upper=upper))
    assert values(found) == expected


@pytest.fixture
def forked(lab: Lab) -> Lab:
    """A run `child` whose points up to step 3 are its parent's, with previews at 8 and 9."""
    lab.append_all({"m": numbered(10)})
    lab.apply_one(create("child", parent="run", at=3))
    lab.append_all({"m": points([40.0, 60.0], steps=[4, 6])}, "child")
    lab.append_all({"m": points([80.0, 90.0], steps=[8, 9], ratios=[0.1, 0.2])}, "child")
    return lab


# What ends the call


def test_bad_requests(lab: Lab) -> None:
    good = lab.time_series("run", "m")
    bad = {
        r"series\[1\]\.attribute: is required": TimeSeries(holder=good.holder),
        r"series\[1\]\.holder\.identifier: is required": TimeSeries(attribute="m"),
        r"series\[1\]\.holder\.identifier: is \"nonsense\"": TimeSeries(
            attribute="m", holder=AttributesHolder(identifier="nonsense")
        ),
        r"series\[1\]\.holder\.type: has to be experiment": TimeSeries(
            attribute="m", holder=AttributesHolder(identifier="x/y/Z-1", type="project")
        ),
        r"series\[1\]\.lineage: is 77": TimeSeries(attribute="m", holder=good.holder, lineage=77),  # type: ignore[arg-type]
    }
    for words, series in bad.items():
        with pytest.raises(exceptions.InvalidArgumentException, match=words):
            lab.series.ReadColumns(ReadColumnsRequest(series=[good, series]))
    for bounds in (StepRange(lower=math.nan), StepRange(upper=math.nan)):
        with pytest.raises(exceptions.InvalidArgumentException, match="step_range"):
            lab.series.ReadColumns(ReadColumnsRequest(series=[good], step_range=bounds))
    too_many = ReadColumnsRequest(series=[good] * (limits.MAX_COLUMN_SERIES + 1))
    with pytest.raises(exceptions.InvalidArgumentException, match="has 100,001 elements, the limit is 100,000"):
        lab.series.ReadColumns(too_many)
    series = TimeSeries(attribute="m", holder=good.holder, normalize_to_first_value=True)
    with pytest.raises(exceptions.UnimplementedException):
        lab.series.ReadColumns(ReadColumnsRequest(series=[series]))


def test_projects_that_are_unknown_or_invisible(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    log(lab.connection, lab.project, "r", series={"m": {1: 1.0}})
    stranger = Lab(wire.connect(make_user().api_token), lab.project)
    for other in (stranger, Lab(lab.connection, "no/project")):
        with pytest.raises(exceptions.NotFoundException):
            other.read("r", "m")


# Streams as they run


def test_what_is_applied_meanwhile_is_not_in_the_answer(server: Host, identifier: str) -> None:
    count = 400_000
    with server.channel() as channel:
        stub = SeriesServiceStub(channel)
        IngestServiceStub(channel).Submit(create(project=identifier))
        request = append_request(identifier, "run", {"m": numbered(count)})
        wait(channel, identifier, stub.AppendColumns(request).request_id)
        holder = AttributesHolder(identifier=f"CUSTOM/{identifier}/run")
        call = stub.ReadColumns(ReadColumnsRequest(series=[TimeSeries(attribute="m", holder=holder)]))
        found = [unpack(next(call).columns)]
        more = append_request(identifier, "run", {"m": numbered(10, count)})
        wait(channel, identifier, stub.AppendColumns(more).request_id)
        found += (unpack(response.columns) for response in call)
        assert sum(map(len, found)) == count
        whole = stub.ReadColumns(ReadColumnsRequest(series=[TimeSeries(attribute="m", holder=holder)]))
        assert sum(len(unpack(response.columns)) for response in whole) == count + 10


def test_a_caller_that_goes_away_leaves_the_server_as_it_was(server: Host, identifier: str) -> None:
    with server.channel() as channel:
        stub = SeriesServiceStub(channel)
        IngestServiceStub(channel).Submit(create(project=identifier))
        request = append_request(identifier, "run", {"m": numbered(400_000)})
        wait(channel, identifier, stub.AppendColumns(request).request_id)
        holder = AttributesHolder(identifier=f"CUSTOM/{identifier}/run")
        # More often than there are connections to the database.
        for _ in range(80):
            call = stub.ReadColumns(ReadColumnsRequest(series=[TimeSeries(attribute="m", holder=holder)]))
            next(call)
            call.cancel()
        last = stub.ReadColumns(ReadColumnsRequest(series=[TimeSeries(attribute="m", holder=holder)], limit=-1))
        assert [values(unpack(response.columns)) for response in last] == [[399_999.0]]


def wait(channel: grpc.Channel, project: str, request_id: str) -> None:
    """Wait until a request is applied, and check that nothing was refused."""
    request = GetRequestStatusRequest(project_identifier=project, request_id=request_id)
    end = time.monotonic() + DEADLINE
    while is_pending(status := IngestServiceStub(channel).GetRequestStatus(request)):
        assert time.monotonic() < end
        threading.Event().wait(0.01)
    assert [item.detail for item in status.code_by_count] == [0]
