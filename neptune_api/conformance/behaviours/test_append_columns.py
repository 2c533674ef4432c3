"""Appending points as columns: batches on disk, once each; what is refused, by index, when it is known."""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neptune_api import exceptions
from neptune_api.columns import FloatPoints, append_requests, pack, points
from neptune_api.conformance.lab import Lab, Refusal
from neptune_api.conformance.logging_helpers import another_project
from neptune_api.conformance.operations import START_MS, append, assign, create, snapshot, update
from neptune_api.conformance.outcomes import name_of
from neptune_api.server import limits
from neptune_api.v1.columns_pb2 import FloatColumn, FloatColumns, StepColumn, TimestampColumn
from neptune_api.v1.projects_service_pb2 import ProjectUpdate, UpdateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER
from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendSeries

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.people import Person
    from neptune_api.v1.series_service_pb2 import AppendColumnsResponse

WHOLE = 1_000_000
END = limits.MAX_WHOLE_STEP * WHOLE


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    opened = Lab(wire.connect(), identifier)
    opened.apply_one(create())
    return opened


def at(steps: dict[float, float], ms: int = START_MS) -> FloatPoints:
    """Return points by step, all at one time."""
    return points([*steps.values()], steps=[*steps], times=[ms] * len(steps))


def raw(micros: list[int], millis: list[int], values: list[float]) -> FloatColumns:
    return FloatColumns(
        steps=StepColumn(micros=micros), timestamps=TimestampColumn(millis=millis), values=FloatColumn(values=values)
    )


def refused(response: AppendColumnsResponse) -> list[tuple[int, int, int, str]]:
    """Return series index, point index, count and code of each error of an answer."""
    assert all(error.message.endswith(".") for error in response.errors)
    return [(error.series_index, error.point_index, error.count, name_of(error.code)) for error in response.errors]


# What is taken


def test_points_come_back_bit_by_bit(lab: Lab) -> None:
    values = [0.0, -0.0, 0.1, math.nan, math.inf, -math.inf, 5e-324, 1e300]
    micros = [0, 1, 500_000, WHOLE, 3 * WHOLE, 10**12, 10**15 + 1, END - 1]
    millis = [limits.MIN_DATETIME_MS, -1, 0, 1, START_MS, START_MS, START_MS + 5, limits.MAX_DATETIME_MS]
    sent = FloatPoints(np.array(micros), np.array(millis), np.array(values))
    response = lab.append({"m": sent})
    assert (response.accepted_points, list(response.errors)) == (8, [])
    assert lab.results([response.request_id]) == [{"OK": 8}]
    (found,) = lab.read("run", "m")
    assert found.micros.tolist() == micros
    assert found.millis.tolist() == millis
    assert found.values.tobytes() == sent.values.tobytes()
    assert found.ratios is None


def test_a_batch_of_many_series(lab: Lab) -> None:
    sent = {f"m/{i}": points(np.arange(10) + i) for i in range(1000)} | {
        f"n/{i}": points(np.arange(i), steps=np.arange(i) * 0.5) for i in range(1, 30)
    }
    lab.append_all(sent)
    found = lab.read("run", *sent)
    for path, item in zip(sent, found, strict=True):
        assert item.micros.tolist() == sent[path].micros.tolist(), path
        assert item.values.tolist() == sent[path].values.tolist(), path


def test_columns_and_operations_make_the_same_series(lab: Lab) -> None:
    lab.apply_one(create("other"))
    values = [float(number) for number in range(50)]
    lab.append_all({"m": points(values, times=[START_MS] * 50)})
    lab.apply_one(update(*(snapshot({"m": value}, step) for step, value in enumerate(values)), run="other"))
    assert lab.floats("run", "m") == lab.floats("other", "m")
    mine, theirs = (lab.attributes(run)["m"].float_series_properties for run in ("run", "other"))
    assert mine == theirs


def test_batches_and_operations_are_applied_in_the_order_they_came(lab: Lab) -> None:
    ids = []
    for number in range(20):
        operation = append({"m": float(2 * number)}, 2 * number)
        ids.append(lab.submit(operation))
        ids.append(lab.append({"m": at({2 * number + 1: 2.0 * number + 1})}).request_id)
    assert lab.results(ids) == [{"OK": 1}] * 40
    assert [point.value for point in lab.floats("run", "m")] == [float(number) for number in range(40)]


def test_a_batch_may_come_before_its_run_exists_as_long_as_it_is_created_before_in_the_log(lab: Lab) -> None:
    ids = [lab.submit(create("late")), lab.append({"m": at({1: 1.0})}, "late").request_id]
    assert lab.results(ids) == [{"OK": 1}] * 2


def test_parts_of_a_long_series(lab: Lab) -> None:
    sent = points(np.random.default_rng(1).random(5000))
    requests = list(append_requests(lab.project, "run", {"m": sent, "n": sent[:100]}, max_bytes=20_000))
    assert len(requests) == 7
    ids = [lab.series.AppendColumns(request).request_id for request in requests]
    assert sum(counts["OK"] for counts in lab.results(ids)) == 5100
    found, short = lab.read("run", "m", "n")
    assert found.values.tolist() == sent.values.tolist()
    assert short.micros.tolist() == sent.micros[:100].tolist()


def test_a_batch_without_points_is_accepted(lab: Lab) -> None:
    for series in ({}, {"m": points([])}):
        response = lab.append(series)
        assert response.accepted_points == 0
        assert lab.results([response.request_id]) == [{"OK": 0}]
    assert "m" not in lab.types("run")


def test_columns_that_are_written_in_another_way(lab: Lab) -> None:
    # Unpacked numbers, a field in two parts, an unknown field: protobuf takes them all.
    unpacked = b"\x09" + (3 * WHOLE).to_bytes(8, "little")
    columns = b"\x0a" + bytes([len(unpacked)]) + unpacked
    columns += pack(at({4: 4.0})).SerializeToString()
    columns += raw([], [START_MS], [5.0]).SerializeToString() + b"\x78\x01"
    series = AppendSeries(path="m").SerializeToString() + b"\x12" + bytes([len(columns)]) + columns
    request = lab.batch({}).SerializeToString() + b"\x22" + bytes([len(series)]) + series
    answer = lab.connection.raw("/neptune_api.v1.SeriesService/AppendColumns")(request)
    response = type(lab.append({})).FromString(answer)
    assert (response.accepted_points, list(response.errors)) == (2, [])
    lab.results([response.request_id])
    (found,) = lab.read("run", "m")
    assert (found.micros.tolist(), found.values.tolist()) == ([3 * WHOLE, 4 * WHOLE], [4.0, 5.0])


# Once each


def test_the_same_batch_again_changes_nothing(lab: Lab) -> None:
    batch = lab.batch({"m": at({0: 1.0, 1: 2.0}), "": at({0: 1.0})}, batch_id="b")
    first = lab.series.AppendColumns(batch)
    assert first.batch_id == "b"
    assert lab.results([first.request_id]) == [{"OK": 2, "FIELD_PATH_EMPTY": 1}]
    assert lab.series.AppendColumns(batch) == first
    assert [lab.series.AppendColumns(batch) for _ in range(3)] == [first] * 3
    assert len(lab.floats("run", "m")) == 2


def test_the_same_batch_at_the_same_time_counts_once(lab: Lab) -> None:
    batch = lab.batch({"m": at({0: 1.0})})
    responses = lab.series.AppendColumnsStream([batch] * 5)
    assert responses == [responses[0]] * 5
    assert lab.results([responses[0].request_id]) == [{"OK": 1}]


def test_a_batch_id_that_names_another_batch_is_an_error(lab: Lab) -> None:
    lab.append({"m": at({0: 1.0})}, batch_id="b")
    with pytest.raises(exceptions.AlreadyExistsException, match='"b" names another batch') as caught:
        lab.append({"m": at({1: 1.0})}, batch_id="b")
    assert caught.value.error_info is not None
    assert caught.value.error_info.reason == "BATCH_ID_TAKEN"
    lab.append_all({"m": at({2: 1.0})})
    assert [point.step for point in lab.floats("run", "m")] == [0.0, 2.0]


def test_batch_ids_are_those_of_a_project(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    other = Lab(lab.connection, another_project(lab.connection, lab.project))
    other.apply_one(create(project=other.project))
    colleague = Lab(wire.connect(make_user(lab.project).api_token), lab.project)
    first = lab.append({"m": at({0: 1.0})}, batch_id="b")
    elsewhere = other.append({"m": at({0: 1.0})}, batch_id="b")
    assert elsewhere.request_id != first.request_id
    assert colleague.append({"m": at({0: 1.0})}, batch_id="b") == first
    assert lab.results([first.request_id]) == other.results([elsewhere.request_id]) == [{"OK": 1}]


# Refused at once, by index


def test_points_that_cannot_be_cost_themselves(lab: Lab) -> None:
    batch = lab.batch({"good": at({0: 1.0})})
    columns = {
        "": raw([0, WHOLE], [0, 0], [1.0, 2.0]),
        "sys/id": raw([0], [0], [1.0]),
        "a\0": raw([0], [0], [1.0]),
        "x" * 1025: raw([0, 1, 2], [0, 0, 0], [1.0, 2.0, 3.0]),
        "ragged": raw([0, 1, 2], [0, 0, 0], [1.0, 2.0]),
        "steps": raw([-1, 0, END - 1, END], [0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0]),
        "times": raw(
            [0, 1, 2, 3],
            [limits.MIN_DATETIME_MS - 1, limits.MIN_DATETIME_MS, limits.MAX_DATETIME_MS, limits.MAX_DATETIME_MS + 1],
            [1.0, 2.0, 3.0, 4.0],
        ),
        "x" * 1024: raw([0], [0], [1.0]),
    }
    for path, item in columns.items():
        batch.series.add(path=path, columns=item)
    response = lab.series.AppendColumns(batch)
    assert refused(response) == [
        (1, 0, 2, "FIELD_PATH_EMPTY"),
        (2, 0, 1, "FIELD_PATH_NON_WRITABLE"),
        (3, 0, 1, "FIELD_PATH_INVALID"),
        (4, 0, 3, "FIELD_PATH_EXCEEDS_SIZE_LIMIT"),
        (5, 0, 3, "FIELD_TYPE_UNSUPPORTED"),
        (6, 3, 1, "SERIES_STEP_TOO_LARGE"),
        (6, 0, 1, "SERIES_STEP_INVALID"),
        (7, 0, 2, "DATETIME_VALUE_OUT_OF_RANGE"),
    ]
    assert response.errors[4].message == (
        "The columns have 3, 3, 2 steps, timestamps and values: they have to be equally long."
    )
    assert response.accepted_points == 6
    assert lab.results([response.request_id]) == [
        {
            "OK": 6,
            "FIELD_PATH_EMPTY": 2,
            "FIELD_PATH_NON_WRITABLE": 1,
            "FIELD_PATH_INVALID": 1,
            "FIELD_PATH_EXCEEDS_SIZE_LIMIT": 3,
            "FIELD_TYPE_UNSUPPORTED": 3,
            "SERIES_STEP_TOO_LARGE": 1,
            "SERIES_STEP_INVALID": 1,
            "DATETIME_VALUE_OUT_OF_RANGE": 2,
        }
    ]
    assert len(lab.details(response.request_id)) == 8
    steps, times = lab.read("run", "steps", "times")
    assert steps.values.tolist() == times.values.tolist() == [2.0, 3.0]


# Refused when applied, by path and index


def outcome(lab: Lab, series: dict[str, FloatPoints], run: str = "run") -> tuple[dict[str, int], list[Refusal]]:
    """Append columns that are accepted; return the counts by code and the refusals."""
    response = lab.append(series, run)
    assert list(response.errors) == []
    (counts,) = lab.results([response.request_id])
    assert sum(counts.values()) == response.accepted_points
    return counts, lab.refusals(response.request_id)


def test_order_is_judged_point_by_point(lab: Lab) -> None:
    lab.append_all({"m": at({0: 0.0, 1: 1.0, 2: math.nan, 3: 3.0}), "n": at({5: 5.0})})
    sent = {
        # logged before, another value, logged before, new
        "m": at({0: 0.0, 1: -1.0, 2: math.nan, 4: 4.0, 5: 5.0}),
        "n": at({6: 6.0, 7: 7.0}),
        "new": at({0: 1.0}),
    }
    counts, refusals = outcome(lab, sent)
    assert counts == {"OK": 5, "SERIES_POINT_DUPLICATE": 2, "SERIES_STEP_NON_INCREASING": 1}
    assert sorted(refusals) == [Refusal("m", "SERIES_POINT_DUPLICATE"), Refusal("m", "SERIES_STEP_NON_INCREASING")]
    assert [(point.step, point.value) for point in lab.floats("run", "m")][3:] == [(3.0, 3.0), (4.0, 4.0), (5.0, 5.0)]


def test_details_tell_series_and_point(lab: Lab) -> None:
    lab.append_all({"m": at({3: 3.0})})
    response = lab.append({"other": at({0: 0.0}), "m": at({1: 1.0, 2: 2.0, 3: 4.0, 4: 4.0}), "n": at({9: 1.0}, -1)})
    assert lab.results([response.request_id]) == [{"OK": 3, "SERIES_STEP_NON_INCREASING": 3}]
    (detail,) = lab.details(response.request_id)
    assert detail.path == "m"
    assert detail.error_detail.endswith("Series 1 of the batch, first at point 0.")


def test_steps_that_do_not_ascend_within_a_column(lab: Lab) -> None:
    steps = [0, 2, 1, 2, 2, 3]
    sent = points([0.0, 2.0, 1.0, 2.0, 3.0, 3.0], steps=steps, times=[START_MS] * 6)
    for path in ("m", "n"):
        counts, _ = outcome(lab, {path: sent})
        assert counts == {"OK": 3, "SERIES_STEP_NON_INCREASING": 2, "SERIES_POINT_DUPLICATE": 1}
        assert [point.step for point in lab.floats("run", path)] == [0.0, 2.0, 3.0]


def test_times_that_decrease(lab: Lab) -> None:
    times = [10, 9, 10, 5, 11, 10]
    counts, refusals = outcome(lab, {"m": points([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], times=times)})
    assert counts == {"OK": 3, "SERIES_TIMESTAMP_DECREASING": 3}
    assert refusals == [Refusal("m", "SERIES_TIMESTAMP_DECREASING")]
    assert [point.value for point in lab.floats("run", "m")] == [0.0, 2.0, 4.0]
    assert outcome(lab, {"m": points([6.0], steps=[6], times=[10])})[0] == {"SERIES_TIMESTAMP_DECREASING": 1}


def test_a_path_of_another_type(lab: Lab) -> None:
    lab.apply_one(assign({"config": 1.0}))
    counts, refusals = outcome(lab, {"config": at({0: 1.0, 1: 2.0}), "m": at({0: 1.0})})
    assert counts == {"OK": 1, "FIELD_TYPE_CONFLICTING": 2}
    assert refusals == [Refusal("config", "FIELD_TYPE_CONFLICTING")]


def test_a_fork_takes_what_comes_after_its_fork_point(lab: Lab) -> None:
    lab.append_all({"m": at({0: 0.0, 5: 5.0, 10: 10.0})})
    lab.apply_one(create("child", parent="run", at=5))
    counts, _ = outcome(lab, {"m": at({4: 4.0, 5: 5.0, 6: 6.0}), "n": at({4: 4.0, 5: 5.0, 6: 6.0})}, "child")
    assert counts == {"OK": 2, "SERIES_STEP_NOT_AFTER_FORK_POINT": 4}
    own, new = lab.read("child", "m", "n")
    assert own.values.tolist() == [0.0, 5.0, 6.0]
    assert new.values.tolist() == [6.0]


def test_an_unknown_run_is_reported_by_the_status(lab: Lab) -> None:
    response = lab.append({"m": at({0: 1.0, 1: 2.0}), "": at({0: 1.0})}, "nowhere")
    assert response.accepted_points == 2
    assert lab.results([response.request_id]) == [{"RUN_NOT_FOUND": 3}]


def test_previews_and_what_replaces_them(lab: Lab) -> None:
    lab.append_all({"m": at({0: 0.0})})
    preview = points([1.0, 2.0, 3.0, 9.0], steps=[0, 1, 2, 3], times=[START_MS] * 4, ratios=[0.5, math.nan, 7.0, 0.25])
    counts, _ = outcome(lab, {"m": preview})
    assert counts == {"OK": 3, "SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP": 1}
    assert [tuple(item) for item in lab.previews("run", "m")] == [
        (1.0, START_MS, 2.0, 0.0),
        (2.0, START_MS, 3.0, 1.0),
        (3.0, START_MS, 9.0, 0.25),
    ]
    lab.append_all({"m": at({2: 2.0})})
    assert [item.step for item in lab.previews("run", "m")] == [3.0]
    assert [item.step for item in lab.floats("run", "m")] == [0.0, 2.0]


def test_everything_again_under_other_ids(lab: Lab) -> None:
    sent = {f"m/{i}": points(np.arange(1000) * 0.5 + i, times=[START_MS] * 1000) for i in range(5)}
    lab.append_all(sent)
    counts, refusals = outcome(lab, sent)
    assert counts == {"SERIES_POINT_DUPLICATE": 5000}
    assert refusals == [Refusal(path, "SERIES_POINT_DUPLICATE") for path in sent]


# What ends the call


def bad_batch(lab: Lab, **changes: Any) -> AppendColumnsRequest:
    request = AppendColumnsRequest(project=lab.project, run_id="run", batch_id=uuid.uuid4().hex)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("project", "", "is required"),
        ("run_id", "", "is required"),
        ("batch_id", "", "is required"),
        ("batch_id", "ä" * 64 + "x", "has 129 bytes, the limit is 128"),
    ],
)
def test_names_of_a_batch(lab: Lab, field: str, text: str, words: str) -> None:
    with pytest.raises(exceptions.InvalidArgumentException, match=words) as caught:
        lab.series.AppendColumns(bad_batch(lab, **{field: text}))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_batch_id_of_128_bytes(lab: Lab) -> None:
    assert lab.append({}, batch_id="ä" * 64).batch_id == "ä" * 64


def test_a_path_given_twice(lab: Lab) -> None:
    batch = lab.batch({"m": at({0: 1.0}), "n": at({0: 1.0})})
    batch.series.add(path="m", columns=pack(at({1: 1.0})))
    with pytest.raises(exceptions.InvalidArgumentException, match=r"series\[2\]\.path: is that of a series before"):
        lab.series.AppendColumns(batch)


def test_the_most_series_of_a_batch(lab: Lab) -> None:
    batch = lab.batch({})
    for number in range(limits.MAX_COLUMN_SERIES):
        batch.series.add(path=str(number))
    assert lab.series.AppendColumns(batch).accepted_points == 0
    batch.batch_id = "another"
    batch.series.add(path="one more")
    with pytest.raises(exceptions.InvalidArgumentException, match="series: has 100,001 elements, the limit is 100,000"):
        lab.series.AppendColumns(batch)


def test_a_batch_over_the_limit_of_requests(lab: Lab, wire: Wire) -> None:
    size = limits.MAX_REQUEST_BYTES // 24
    with pytest.raises(exceptions.ResourceExhaustedException):
        lab.append({"m": points(np.zeros(size), times=np.full(size, START_MS))})
    if not wire.json:  # which is longer
        lab.append_all({"m": points(np.zeros(size - 10), times=np.full(size - 10, START_MS))})


@pytest.mark.parametrize(
    "payload", [b"\x22\x05\x0a", b"\x22\x04\x0a\x02\xff\xfe", b"\x22\x07\x12\x05\x0a\x03\x0a\x01\x00", b"\x07"]
)
def test_bytes_that_are_no_batch(lab: Lab, payload: bytes) -> None:
    with pytest.raises(exceptions.InvalidArgumentException, match=r"not a neptune_api\.v1\.AppendColumnsRequest"):
        lab.connection.raw("/neptune_api.v1.SeriesService/AppendColumns")(payload)


def test_unknown_and_invisible_projects(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    stranger = Lab(wire.connect(make_user().api_token), lab.project)
    nowhere = Lab(lab.connection, "no/where")
    for other in (stranger, nowhere):
        with pytest.raises(exceptions.NotFoundException):
            other.append({"m": at({0: 1.0})})


def test_a_viewer_appends_nothing(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    viewer = Lab(wire.connect(make_user(lab.project, PROJECT_ROLE_VIEWER).api_token), lab.project)
    with pytest.raises(exceptions.PermissionDeniedException):
        viewer.append({"m": at({0: 1.0})})
    with pytest.raises(exceptions.PermissionDeniedException, match="Batch 0 of the stream: "):
        viewer.series.AppendColumnsStream([lab.batch({"m": at({0: 1.0})})])
    assert "m" not in lab.types("run")


def test_an_archived_project_takes_nothing(lab: Lab) -> None:
    lab.connection.stub(ProjectsServiceStub).UpdateProject(
        UpdateProjectRequest(project_identifier=lab.project, project_to_update=ProjectUpdate(archived=True))
    )
    with pytest.raises(exceptions.FailedPreconditionException, match="archived"):
        lab.append({"m": at({0: 1.0})})


# Streams


def test_each_batch_of_a_stream_is_acknowledged_in_order(lab: Lab) -> None:
    batches = [
        lab.batch({"m": at({number: float(number)}), "": at({0: 1.0})}, batch_id=str(number)) for number in range(30)
    ]
    responses = lab.series.AppendColumnsStream(batches)
    assert [response.batch_id for response in responses] == [str(number) for number in range(30)]
    assert [refused(response) for response in responses] == [[(1, 0, 1, "FIELD_PATH_EMPTY")]] * 30
    assert lab.results(response.request_id for response in responses) == [{"OK": 1, "FIELD_PATH_EMPTY": 1}] * 30
    assert len(lab.floats("run", "m")) == 30
    assert lab.series.AppendColumnsStream([]) == []
    assert lab.series.AppendColumnsStream(batches[3:5]) == responses[3:5]


def test_batches_before_a_bad_one_stay_appended(lab: Lab) -> None:
    good = [lab.batch({"m": at({number: float(number)})}) for number in range(4)]
    with pytest.raises(
        exceptions.InvalidArgumentException, match=r"Batch 3 of the stream: run_id: is required"
    ) as caught:
        lab.series.AppendColumnsStream([*good[:3], bad_batch(lab, run_id=""), good[3]])
    assert caught.value.error_info is not None
    assert caught.value.error_info.metadata["position"] == "3"
    lab.apply_one(create("the last one in the log"))
    assert [point.value for point in lab.floats("run", "m")] == [0.0, 1.0, 2.0]


def test_a_stream_of_several_runs(lab: Lab) -> None:
    lab.apply_one(create("other"))
    batches = [lab.batch({"m": at({number: 1.0})}, run) for number in range(5) for run in ("run", "other")]
    responses = lab.series.AppendColumnsStream(batches)
    assert lab.results(response.request_id for response in responses) == [{"OK": 1}] * 10
    assert len(lab.floats("other", "m")) == 5


# What readers see


def test_what_is_reported_done_can_be_read(lab: Lab) -> None:
    for number in range(30):
        response = lab.append({"m": at({number: float(number)})})
        assert lab.results([response.request_id]) == [{"OK": 1}]
        assert lab.read("run", "m")[0].values.tolist() == [float(value) for value in range(number + 1)]


def test_a_request_is_pending_until_it_is_applied_and_then_has_one_entry_per_code(lab: Lab) -> None:
    sent = {f"m/{i}": at({0: 1.0, 1: 1.0}) for i in range(50)}
    lab.append_all(sent)
    response = lab.append(sent | {"": at({0: 1.0}), "new": at({0: 1.0})})
    (status,) = lab.settled([response.request_id])
    found = sorted((name_of(item.detail), item.count) for item in status.code_by_count)
    assert found == [("FIELD_PATH_EMPTY", 1), ("OK", 1), ("SERIES_POINT_DUPLICATE", 100)]
