"""What is written is what is read: values, sets, steps, times and the order of changes."""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from neptune_api.conformance.lab import Lab, Point, plain
from neptune_api.conformance.operations import (
    START_MS,
    append,
    assign,
    change,
    counts,
    create,
    densities,
    file,
    snapshot,
    step,
    timestamp,
    update,
)
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.attributes_service_pb2 import AttributeValuesQuery, QueryAttributeValuesRequest
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.queries_pb2 import StringList
from neptune_api.v1.series_pb2 import FileRefValue, HistogramValue

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.operations import Plain

INT64_MAX = 2**63 - 1


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    made = Lab(wire.connect(), identifier)
    assert made.apply_one(create()) == {"OK": 1}
    return made


# Single values

VALUES: dict[str, Plain] = {
    "float": 0.1,
    "tiny": 5e-324,
    "huge": -1.7976931348623157e308,
    "inf": math.inf,
    "int": -7,
    "int/max": INT64_MAX,
    "int/min": -INT64_MAX - 1,
    "bool/yes": True,
    "bool/no": False,
    "string": "żółć \N{FIRE}\n\t'\"%_\\",
    "string/long": "x" * 70_000,
    "datetime": datetime(2024, 2, 29, 12, 30, 15, 678_000, timezone.utc),
    "set": frozenset({"b", "a", "", "ł", '"'}),
    "file": file("path/ł ?&%.png", INT64_MAX, "image/png"),
    " leading space/and\ttab": 1,
}
TYPES = {
    "float": "float",
    "tiny": "float",
    "huge": "float",
    "inf": "float",
    "int": "int",
    "int/max": "int",
    "int/min": "int",
    "bool/yes": "bool",
    "bool/no": "bool",
    "string": "string",
    "string/long": "string",
    "datetime": "datetime",
    "set": "stringSet",
    "file": "fileRef",
    " leading space/and\ttab": "int",
}


def as_read(written: dict[str, Plain]) -> dict[str, Any]:
    return {
        path: round(item.timestamp() * 1000)
        if isinstance(item, datetime)
        else set(item)
        if isinstance(item, frozenset)
        else item
        for path, item in written.items()
    }


def test_every_kind_of_value(lab: Lab) -> None:
    assert lab.apply_one(assign(VALUES)) == {"OK": len(VALUES)}
    assert lab.user_values("run") == as_read(VALUES)
    assert lab.types("run") == TYPES
    answer = lab.connection.stub(AttributesServiceStub).QueryAttributeValues(
        QueryAttributeValuesRequest(
            project_identifier=lab.project,
            query=AttributeValuesQuery(attribute_names_filter=StringList(values=list(VALUES))),
        )
    )
    (entry,) = answer.entries
    assert {item.name: plain(item) for item in entry.attributes} == as_read(VALUES)


def test_a_later_value_replaces_the_earlier(lab: Lab) -> None:
    later: dict[str, Plain] = {"float": -0.5, "int": 0, "bool/yes": False, "string": "", "set": frozenset({"c"})}
    later |= {"datetime": timestamp(-1), "file": file("other", 0, "")}
    assert lab.apply(assign(VALUES), assign(later)) == [{"OK": len(VALUES)}, {"OK": len(later)}]
    assert lab.user_values("run") == as_read(VALUES) | as_read(later) | {"datetime": -1}


def test_nan_replaces_and_is_replaced(lab: Lab) -> None:
    for number in (1.0, math.nan, math.nan, 2.0):
        assert lab.apply_one(assign({"a": number})) == {"OK": 1}
        assert repr(lab.user_values("run")["a"]) == repr(number)


def test_changes_happen_in_the_order_of_snapshots_and_requests(lab: Lab) -> None:
    operation = update(*(snapshot(assign={"a": number, f"a{number}": 1}) for number in range(5)))
    ids = [lab.submit(operation), *(lab.submit(assign({"a": number})) for number in range(5, 30))]
    assert lab.results(ids) == [{"OK": 10}] + [{"OK": 1}] * 25
    assert lab.user_values("run") == {"a": 29} | {f"a{number}": 1 for number in range(5)}


def test_a_refused_value_leaves_the_one_before(lab: Lab) -> None:
    assert lab.apply(assign({"a": 1}), assign({"a": "text", "b": 2})) == [
        {"OK": 1},
        {"OK": 1, "FIELD_TYPE_CONFLICTING": 1},
    ]
    assert lab.user_values("run") == {"a": 1, "b": 2}


def test_a_step_means_nothing_to_a_single_value(lab: Lab) -> None:
    steps: list[float | pb.Step | None] = [5, 3, None, pb.Step(whole=2**63, micro=2**63)]
    operations = [update(snapshot(at=at, assign={"a": number})) for number, at in enumerate(steps)]
    assert lab.apply(*operations) == [{"OK": 1}] * 4
    assert lab.user_values("run") == {"a": 3}


# Sets


def test_members_come_and_go(lab: Lab) -> None:
    steps = [
        (change(add=["a", "b"]), {"a", "b"}),
        (change(add=["b", "c"], remove=["a"]), {"b", "c"}),
        (change(remove=["never there"]), {"b", "c"}),
        (change(leave=["x", "b"]), {"b", "c"}),
        (change(), {"b", "c"}),
        (change(remove=["b", "c"]), set()),
    ]
    for changes, members in steps:
        assert lab.apply_one(update(snapshot(sets={"set": changes, "sys/tags": changes}))) == {"OK": 2}
        assert lab.user_values("run") == {"set": members}
        assert lab.values("run")["sys/tags"] == members


@pytest.mark.parametrize("changes", [change(), change(leave=["x"]), change(remove=["x"])])
def test_a_change_that_adds_nothing_makes_an_empty_set(lab: Lab, changes: pb.ModifySet) -> None:
    assert lab.apply_one(update(snapshot(sets={"set": changes}))) == {"OK": 1}
    assert lab.user_values("run") == {"set": set()}


def test_assigned_sets_can_be_changed_and_changed_sets_assigned(lab: Lab) -> None:
    twice = pb.Value(string_set=pb.StringSet(values=["a", "b", "a"]))
    assert (
        lab.apply(assign({"set": twice}), update(snapshot(sets={"set": change(add=["c"], remove=["a"])})))
        == [{"OK": 1}] * 2
    )
    assert lab.user_values("run") == {"set": {"b", "c"}}
    assert lab.apply_one(assign({"set": frozenset()})) == {"OK": 1}
    assert lab.user_values("run") == {"set": set()}


# Series


def test_every_kind_of_series(lab: Lab) -> None:
    values: dict[str, Plain] = {
        "float": 0.1,
        "string": "ł",
        "counts": counts([-math.inf, 0.0, math.inf], [0, 2**64 - 1]),
        "densities": densities([0, 1], [math.nan]),
        "file": file("a/b", 3, "image/png"),
    }
    assert lab.apply_one(append(values, 1.5, 1234)) == {"OK": 5}
    assert lab.types("run") == {
        "float": "floatSeries",
        "string": "stringSeries",
        "counts": "histogramSeries",
        "densities": "histogramSeries",
        "file": "fileRefSeries",
    }
    assert lab.floats("run", "float") == [(1.5, 1234, 0.1)]
    assert lab.points("run", "string") == [(1.5, 1234, "ł")]
    (count,) = lab.points("run", "counts")
    assert count.value == HistogramValue(type="COUNTING", edges=[-math.inf, 0, math.inf], values=[0, 2.0**64])
    (density,) = lab.points("run", "densities")
    assert (density.value.type, list(density.value.edges), repr(list(density.value.values))) == (
        "DENSITY",
        [0, 1],
        "[nan]",
    )
    (reference,) = lab.points("run", "file")
    assert reference == Point(1.5, 1234, FileRefValue(path="a/b", size_bytes=3, mime_type="image/png"))


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (pb.Step(), 0.0),
        (pb.Step(micro=1), 0.000001),
        (pb.Step(whole=1, micro=999_999), 1.999999),
        (step(0.1), 0.1),
        (pb.Step(whole=999_999_999_999, micro=999_872), 999_999_999_999.9999),
        (pb.Step(whole=999_999_999_999, micro=999_999), 999_999_999_999.999999),
    ],
)
def test_steps_are_exact(lab: Lab, sent: pb.Step, read: float) -> None:
    assert lab.apply_one(append({"m": 1.0, "f": file("x")}, sent)) == {"OK": 2}
    assert [point.step for point in [*lab.floats("run", "m"), *lab.points("run", "f")]] == [read] * 2


def test_neighbouring_steps_far_out_are_different_points(lab: Lab) -> None:
    base = 10**12 - 1
    points = [snapshot({"m": float(micro)}, pb.Step(whole=base, micro=micro)) for micro in (0, 1, 2)]
    assert lab.apply_one(update(*points)) == {"OK": 3}
    assert [point.value for point in lab.floats("run", "m")] == [0.0, 1.0, 2.0]


def test_step_zero_is_not_no_step(lab: Lab) -> None:
    assert lab.apply(append({"m": 1.0}, 4.5), append({"m": 2.0}, pb.Step())) == [
        {"OK": 1},
        {"SERIES_STEP_NON_INCREASING": 1},
    ]
    assert lab.apply_one(append({"m": 2.0})) == {"OK": 1}
    assert [point.step for point in lab.floats("run", "m")] == [4.5, 5]


def test_without_a_step_comes_the_next_whole_one(lab: Lab) -> None:
    operations = [
        append({"a": 0.0, "text": "x"}),  # 0
        append({"a": 1.0}),  # 1
        append({"b": 0.0}, 6.25),
        append({"a": 2.0, "b": 1.0}),  # 7, after the highest of both
        append({"text": "y"}),  # 1: the others are not named
        append({"new": 1.0}),  # 0
        update(snapshot({"a": 3.0}, None), snapshot({"a": 4.0}, 9)),
        append({"a": 5.0}),
    ]
    assert [set(result) for result in lab.apply(*operations)] == [{"OK"}] * len(operations)
    assert [point.step for point in lab.floats("run", "a")] == [0, 1, 7, 8, 9, 10]
    assert [point.step for point in lab.floats("run", "b")] == [6.25, 7]
    assert [point.step for point in lab.points("run", "text")] == [0, 1]
    assert [point.step for point in lab.floats("run", "new")] == [0]


@pytest.mark.parametrize("kind", ["file", "histogram"])
def test_files_and_histograms_come_in_any_order(lab: Lab, kind: str) -> None:
    def item(number: int) -> Plain:
        return file(f"{number}") if kind == "file" else counts([0, 1], [number])

    def number_of(point: Point) -> int:
        return int(point.value.path if kind == "file" else point.value.values[0])

    operations = [append({"s": item(number)}, number, START_MS + 10 - number) for number in (3, 2, 1)]
    assert lab.apply(*operations) == [{"OK": 1}] * 3
    assert [(point.step, point.ms - START_MS, number_of(point)) for point in lab.points("run", "s")] == [
        (1, 9, 1),
        (2, 8, 2),
        (3, 7, 3),
    ]
    # A step logged twice is there once, with the later value.
    assert lab.apply_one(append({"s": item(7)}, 1, START_MS + 20)) == {"OK": 1}
    assert [(point.step, number_of(point)) for point in lab.points("run", "s")] == [(1, 7), (2, 2), (3, 3)]
    assert lab.values("run")["sys/diagnostics/attributes/total_series_datapoints"] == 3


def test_series_are_independent(lab: Lab) -> None:
    assert lab.apply(
        append({"a": 1.0, "b": 1.0}, 10, START_MS + 10),
        append({"c": 1.0}, 1, START_MS),
        append({"a": 2.0}, 11, START_MS + 10),
    ) == [{"OK": 2}, {"OK": 1}, {"OK": 1}]


# Times


@pytest.mark.parametrize(
    ("sent", "milliseconds"),
    [
        (Timestamp(seconds=1_700_000_000, nanos=678_900_957), 1_700_000_000_679),
        (Timestamp(seconds=1_700_000_000, nanos=678_999_957), 1_700_000_000_679),
        (Timestamp(seconds=1_700_000_000, nanos=678_499_999), 1_700_000_000_678),
        (Timestamp(seconds=1_700_000_000, nanos=999_999_999), 1_700_000_001_000),
        (Timestamp(), 0),
        (Timestamp(seconds=-1, nanos=250_000_000), -750),
        (Timestamp(seconds=-2_208_988_800), -2_208_988_800_000),
    ],
)
def test_times_are_rounded_to_milliseconds(lab: Lab, sent: Timestamp, milliseconds: int) -> None:
    operation = update(snapshot({"m": 1.0, "f": file("x")}, 1, sent, assign={"at": sent}))
    assert lab.apply_one(operation) == {"OK": 3}
    assert lab.user_values("run") == {"at": milliseconds}
    assert [point.ms for point in [*lab.floats("run", "m"), *lab.points("run", "f")]] == [milliseconds] * 2


def test_without_a_time_it_is_now(lab: Lab) -> None:
    before = time.time_ns() // 1_000_000
    assert lab.apply_one(append({"m": 1.0}, 1, None)) == {"OK": 1}
    after = time.time_ns() // 1_000_000
    (point,) = lab.floats("run", "m")
    assert before <= point.ms <= after


def test_the_same_time_again_is_fine_and_an_earlier_one_is_not(lab: Lab) -> None:
    times = [START_MS, START_MS, START_MS - 1, START_MS + 1]
    operation = update(*(snapshot({"m": float(number)}, number, ms) for number, ms in enumerate(times)))
    assert lab.apply_one(operation) == {"OK": 3, "SERIES_TIMESTAMP_DECREASING": 1}
    assert [(point.step, point.ms - START_MS) for point in lab.floats("run", "m")] == [(0, 0), (1, 0), (3, 1)]


# Sending again


def test_a_whole_history_sent_again_changes_nothing(lab: Lab) -> None:
    operations = [
        create(),
        update(*(snapshot({"m": float(i), "s": f"{i}", "f": file(f"{i}")}, i, START_MS + i) for i in range(50))),
        assign({"a": 1}),
        update(*(snapshot({"m": float(i), "h": counts([0, 1], [i])}, i, START_MS + i) for i in range(50, 60))),
        update(snapshot(assign={"a": 2}, sets={"sys/tags": change(add=["x"])})),
    ]

    def held() -> Any:
        series = [*lab.floats("run", "m"), *lab.points("run", "s"), *lab.points("run", "f"), *lab.points("run", "h")]
        values = lab.values("run")
        for path in ("sys/modification_time", "sys/ping_time", "sys/running_time_seconds"):
            del values[path]
        return series, values

    assert lab.apply(*operations) == [{"RUN_DUPLICATE": 1}, {"OK": 150}, {"OK": 1}, {"OK": 20}, {"OK": 2}]
    before = held()
    assert lab.apply(*operations) == [
        {"RUN_DUPLICATE": 1},
        {"SERIES_POINT_DUPLICATE": 150},
        {"OK": 1},
        {"SERIES_POINT_DUPLICATE": 20},
        {"OK": 2},
    ]
    assert held() == before


def test_an_older_point_with_another_value_is_no_duplicate(lab: Lab) -> None:
    operation = update(*(snapshot({"m": float(number)}, number) for number in range(10)))
    assert lab.apply(operation, append({"m": 4.0}, 4), append({"m": 4.5}, 4), append({"m": 4.0}, 4.5)) == [
        {"OK": 10},
        {"SERIES_POINT_DUPLICATE": 1},
        {"SERIES_STEP_NON_INCREASING": 1},
        {"SERIES_STEP_NON_INCREASING": 1},
    ]
    assert [point.value for point in lab.floats("run", "m")] == [float(number) for number in range(10)]


def test_a_point_twice_in_one_request(lab: Lab) -> None:
    operation = update(
        snapshot({"m": 1.0}, 1), snapshot({"m": 1.0}, 1), snapshot({"m": 2.0}, 1), snapshot({"m": 2.0}, 2)
    )
    assert lab.apply_one(operation) == {"OK": 2, "SERIES_POINT_DUPLICATE": 1, "SERIES_STEP_NON_INCREASING": 1}
    assert [(point.step, point.value) for point in lab.floats("run", "m")] == [(1, 1.0), (2, 2.0)]


# Types


def test_a_type_never_changes(lab: Lab) -> None:
    writes = {
        "single": assign({"x": 1.0}),
        "series": append({"x": 1.0}, 1),
        "set": update(snapshot(sets={"x": change(add=["m"])})),
    }
    runs = {name: f"run of {name}" for name in writes}
    for name, run in runs.items():
        assert lab.apply_one(create(run)) == {"OK": 1}
        for other in [name, *(other for other in writes if other != name)]:
            operation = lab.placed(writes[other])
            operation.run_id = run
            expected = "OK" if other == name else "FIELD_TYPE_CONFLICTING"
            assert lab.apply_one(operation) == {expected: 1}
    assert {name: lab.types(run)["x"] for name, run in runs.items()} == {
        "single": "float",
        "series": "floatSeries",
        "set": "stringSet",
    }


def test_a_single_value_wins_over_a_point_of_the_same_snapshot(lab: Lab) -> None:
    operation = update(snapshot({"x": 1.0, "y": 1.0}, 1, assign={"x": 1.0}))
    assert lab.apply_one(operation) == {"OK": 2, "FIELD_TYPE_CONFLICTING": 1}
    assert lab.types("run") == {"x": "float", "y": "floatSeries"}
