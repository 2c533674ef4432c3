"""Previews: values of float series that a committed value replaces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import START_MS, append, assign, counts, create, file, snapshot, step, update
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.operations import Plain

LATE = "SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP"


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    made = Lab(wire.connect(), identifier)
    assert made.apply_one(create()) == {"OK": 1}
    return made


def seen(lab: Lab, run: str = "run") -> list[tuple[float, float, float]]:
    """Return the previews of `m`: step, value, ratio."""
    return [(item.step, item.value, item.ratio) for item in lab.previews(run, "m")]


def has_preview(lab: Lab) -> bool:
    found: bool = lab.attributes("run")["m"].float_series_properties.has_preview
    return found


def test_a_preview_is_read_when_asked_for(lab: Lab) -> None:
    assert lab.apply_one(append({"m": 1.5}, 2.5, START_MS + 7, preview=0.25)) == {"OK": 1}
    assert lab.previews("run", "m") == [(2.5, START_MS + 7, 1.5, 0.25)]
    assert lab.floats("run", "m") == []
    assert lab.types("run") == {"m": "floatSeries"}
    properties = lab.attributes("run")["m"].float_series_properties
    assert properties.has_preview
    assert math.isnan(properties.last_step)
    assert math.isnan(properties.last)
    assert lab.values("run")["sys/diagnostics/attributes/total_series_datapoints"] == 0


@pytest.mark.parametrize(
    ("sent", "ratio"),
    [
        (0.25, 0.25),
        (0.0, 0.0),
        (1.0, 1.0),
        (1.5, 1.0),
        (-0.5, 0.0),
        (math.inf, 1.0),
        (-math.inf, 0.0),
        (math.nan, 0.0),
        (None, 0.0),
    ],
)
def test_ratios_are_clamped(lab: Lab, sent: float | None, ratio: float) -> None:
    preview = pb.Preview(is_preview=True)
    if sent is not None:
        preview.completion_ratio = sent
    assert lab.apply_one(append({"m": 1.0}, 1, preview=preview)) == {"OK": 1}
    assert seen(lab) == [(1, 1.0, ratio)]  # one of ratio 1 is a preview still


def test_what_says_that_it_is_no_preview_is_none(lab: Lab) -> None:
    assert lab.apply_one(append({"m": 1.0}, 1, preview=pb.Preview(completion_ratio=0.5))) == {"OK": 1}
    assert seen(lab) == []
    assert [point.value for point in lab.floats("run", "m")] == [1.0]


def test_a_later_preview_of_a_step_replaces_the_earlier(lab: Lab) -> None:
    for value, ratio in ((1.0, 0.75), (2.0, 0.25), (2.0, 0.25), (math.inf, 0.5)):
        assert lab.apply_one(append({"m": value}, 3, preview=ratio)) == {"OK": 1}
        assert seen(lab) == [(3, value, ratio)]


def test_previews_come_in_any_order(lab: Lab) -> None:
    operations = [append({"m": float(number)}, number, START_MS - number, preview=0.5) for number in (5, 2, 9, 3)]
    assert lab.apply(*operations) == [{"OK": 1}] * 4
    assert [at for at, _, _ in seen(lab)] == [2, 3, 5, 9]


def test_a_committed_value_replaces_the_previews_up_to_it(lab: Lab) -> None:
    previews = update(*(snapshot({"m": float(number)}, number, preview=0.5) for number in range(1, 6)))
    assert lab.apply(previews, append({"m": 0.5}, 0.5)) == [{"OK": 5}, {"OK": 1}]
    assert [at for at, _, _ in seen(lab)] == [1, 2, 3, 4, 5]
    assert lab.apply_one(append({"m": 3.0}, 3)) == {"OK": 1}  # the preview's value: no duplicate of it
    assert [at for at, _, _ in seen(lab)] == [4, 5]
    assert [point.step for point in lab.floats("run", "m")] == [0.5, 3]
    assert has_preview(lab)
    assert lab.apply_one(append({"m": 9.0}, 9)) == {"OK": 1}
    assert seen(lab) == []
    assert not has_preview(lab)
    assert lab.attributes("run")["m"].float_series_properties.last == 9.0


def test_previews_and_values_of_one_request(lab: Lab) -> None:
    operation = update(
        snapshot({"m": 1.0}, 1, preview=0.5),
        snapshot({"m": 2.0}, 2, preview=0.5),
        snapshot({"m": 1.5}, 1),
        snapshot({"m": 9.0}, 1, preview=0.5),
        snapshot({"m": 2.5}, 2, preview=0.75),
        snapshot({"m": 1.5}, 1),
    )
    assert lab.apply_one(operation) == {"OK": 4, LATE: 1, "SERIES_POINT_DUPLICATE": 1}
    assert seen(lab) == [(2, 2.5, 0.75)]
    assert [(point.step, point.value) for point in lab.floats("run", "m")] == [(1, 1.5)]


def test_a_preview_comes_after_the_last_committed_step(lab: Lab) -> None:
    assert lab.apply_one(append({"m": 1.0}, 4)) == {"OK": 1}
    at = [step(3), step(4), pb.Step(whole=4, micro=1)]
    operation = update(*(snapshot({"m": 1.0}, item, preview=0.5) for item in at))
    assert lab.apply_one(operation) == {LATE: 2, "OK": 1}
    assert seen(lab) == [(4.000001, 1.0, 0.5)]


def test_times_of_previews_bind_nothing(lab: Lab) -> None:
    assert (
        lab.apply(
            append({"m": 1.0}, 1, START_MS + 100, preview=0.5),
            append({"m": 1.0}, 2, START_MS + 50, preview=0.5),
            append({"m": 1.0}, 1, START_MS),
            append({"m": 1.0}, 3, START_MS - 1, preview=0.5),
        )
        == [{"OK": 1}] * 4
    )


def test_a_preview_without_a_step_follows_the_last_committed_one(lab: Lab) -> None:
    assert (
        lab.apply(append({"m": 1.0}, 4), append({"m": 2.0}, preview=0.5), append({"m": 3.0}, preview=0.75))
        == [{"OK": 1}] * 3
    )
    assert seen(lab) == [(5, 3.0, 0.75)]


def test_nan_can_be_a_preview(lab: Lab) -> None:
    assert lab.apply_one(append({"m": math.nan}, 1, preview=0.5)) == {"OK": 1}
    ((_, value, _),) = seen(lab)
    assert math.isnan(value)


@pytest.mark.parametrize("item", ["text", file("x"), counts([0, 1], [1])])
def test_only_floats_have_previews(lab: Lab, item: Plain) -> None:
    operation = update(snapshot({"bad": item, "m": 1.0}, 1, assign={"a": 1}, preview=0.5))
    assert lab.apply_one(operation) == {"OK": 2, "FIELD_TYPE_UNSUPPORTED": 1}
    assert lab.types("run") == {"a": "int", "m": "floatSeries"}


def test_a_preview_makes_a_series_of_floats_for_good(lab: Lab) -> None:
    assert lab.apply(append({"m": 1.0}, 1, preview=0.5), append({"m": "x"}, 2), assign({"m": 1.0})) == [
        {"OK": 1},
        {"FIELD_TYPE_CONFLICTING": 1},
        {"FIELD_TYPE_CONFLICTING": 1},
    ]


def test_a_fork_previews_after_its_fork_point(lab: Lab) -> None:
    lab.apply(append({"m": 1.0}, 1), append({"m": 2.0}, 7, preview=0.5), create("child", parent="run", at=5))
    operation = update(*(snapshot({"m": 9.0}, number, preview=0.5) for number in (4, 5, 6)), run="child")
    assert lab.apply_one(operation) == {"SERIES_STEP_NOT_AFTER_FORK_POINT": 2, "OK": 1}
    assert seen(lab, "child") == [(6, 9.0, 0.5)]


def test_many_previews_and_then_their_values(lab: Lab) -> None:
    count = 2000
    previews = update(*(snapshot({"m": float(number)}, number, preview=0.5) for number in range(count)))
    values = update(*(snapshot({"m": float(number)}, number) for number in range(count)))
    assert lab.apply(previews, values) == [{"OK": count}] * 2
    assert seen(lab) == []
    assert len(lab.floats("run", "m")) == count
