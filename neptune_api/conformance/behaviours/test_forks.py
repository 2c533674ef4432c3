"""Forks: where they begin, what they take over, and when a creation is the same creation again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import (
    START_MS,
    append,
    assign,
    change,
    counts,
    create,
    file,
    snapshot,
    step,
    update,
)
from neptune_api.conformance.outcomes import name_of
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.operations import Plain


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


def ramp(run: str, start: int, end: int, path: str = "m", offset: float = 0.0) -> pb.RunOperation:
    """Return points at the whole steps start .. end - 1 whose values are the steps and an offset."""
    return update(*(snapshot({path: number + offset}, number) for number in range(start, end)), run=run)


def steps(lab: Lab, run: str, path: str = "m") -> list[float]:
    return [point.step for point in lab.floats(run, path)]


def fork_values(lab: Lab, run: str) -> dict[str, object]:
    prefix = "sys/forking/"
    return {path.removeprefix(prefix): item for path, item in lab.values(run).items() if path.startswith(prefix)}


# Where a fork begins


def test_a_fork_sees_its_parent_up_to_the_fork_point(lab: Lab) -> None:
    results = lab.apply(
        create("parent"), ramp("parent", 0, 10), create("child", parent="parent", at=4), ramp("child", 5, 8, offset=0.5)
    )
    assert results == [{"OK": 1}, {"OK": 10}, {"OK": 1}, {"OK": 3}]
    assert [(point.step, point.value) for point in lab.floats("child", "m")] == [
        *((number, float(number)) for number in range(5)),
        *((number, number + 0.5) for number in range(5, 8)),
    ]
    assert steps(lab, "parent") == list(range(10))
    assert fork_values(lab, "child") == {
        "depth": 1,
        "parent": lab.values("parent")["sys/id"],
        "requested_parent": "parent",
        "step": 4.0,
    }
    assert fork_values(lab, "parent") == {"depth": 0}


@pytest.mark.parametrize("path", ["m", "new"])
def test_a_fork_logs_after_its_fork_point(lab: Lab, path: str) -> None:
    lab.apply(create("parent"), ramp("parent", 0, 10), create("child", parent="parent", at=4.5))
    at = [pb.Step(), step(4), step(4.5), pb.Step(whole=4, micro=500_001)]
    operation = update(*(snapshot({path: 7.0}, item) for item in at), run="child")
    assert lab.apply_one(operation) == {"OK": 1, "SERIES_STEP_NOT_AFTER_FORK_POINT": 3}
    assert steps(lab, "child", path)[-1] == 4.500001


def test_what_the_parent_logs_later_up_to_the_fork_point_is_the_forks_too(lab: Lab) -> None:
    lab.apply(create("parent"), ramp("parent", 0, 3), create("child", parent="parent", at=5), ramp("child", 6, 8))
    lab.apply_one(ramp("parent", 3, 10))
    assert steps(lab, "child") == [0, 1, 2, 3, 4, 5, 6, 7]


def test_without_a_step_a_fork_begins_at_the_parents_last(lab: Lab) -> None:
    lab.apply(
        create("parent"),
        append({"m": 1.0}, 3, run="parent"),
        append({"other": "text"}, 6.25, run="parent"),
        append({"m": 2.0}, 9, preview=0.5, run="parent"),  # not committed, so not a last step
        create("child", parent="parent"),
    )
    assert fork_values(lab, "child")["step"] == 6.25
    assert lab.apply(append({"m": 1.0}, 6.25, run="child"), append({"m": 1.0}, 6.250001, run="child")) == [
        {"SERIES_STEP_NOT_AFTER_FORK_POINT": 1},
        {"OK": 1},
    ]


def test_an_empty_step_is_step_zero(lab: Lab) -> None:
    lab.apply(create("parent"), ramp("parent", 0, 5), create("child", parent="parent", at=pb.Step()))
    assert fork_values(lab, "child")["step"] == 0
    assert steps(lab, "child") == [0]


def test_a_fork_of_a_run_without_points_has_no_fork_point(lab: Lab) -> None:
    assert (
        lab.apply(create("parent"), create("child", parent="parent"), append({"m": 1.0}, 0, run="child"))
        == [{"OK": 1}] * 3
    )
    assert fork_values(lab, "child") == {
        "depth": 1,
        "parent": lab.values("parent")["sys/id"],
        "requested_parent": "parent",
    }
    lab.apply_one(ramp("parent", 0, 5))
    assert steps(lab, "child") == [0]


def test_a_fork_point_beyond_the_parents_points(lab: Lab) -> None:
    lab.apply(create("parent"), ramp("parent", 0, 3), create("child", parent="parent", at=100))
    assert lab.apply(ramp("child", 99, 103), append({"m": 1.0}, run="child")) == [
        {"OK": 2, "SERIES_STEP_NOT_AFTER_FORK_POINT": 2},
        {"OK": 1},
    ]
    assert steps(lab, "child") == [0, 1, 2, 101, 102, 103]


def test_without_a_step_a_forks_points_follow_the_fork_point(lab: Lab) -> None:
    lab.apply(create("parent"), ramp("parent", 0, 10), create("child", parent="parent", at=4.5))
    assert lab.apply(append({"m": 1.0}, run="child"), append({"new": 1.0}, run="child")) == [{"OK": 1}] * 2
    assert (steps(lab, "child")[-1], steps(lab, "child", "new")) == (5, [5])


def test_times_of_a_fork_are_its_own(lab: Lab) -> None:
    lab.apply(create("parent"), ramp("parent", 0, 5), create("child", parent="parent", at=4))
    assert lab.apply_one(append({"m": 1.0}, 5, START_MS - 1000, run="child")) == {"OK": 1}


# Forks of forks


def test_forks_of_forks(lab: Lab) -> None:
    lab.apply(
        create("a"),
        ramp("a", 0, 10),
        create("b", parent="a", at=5),
        ramp("b", 6, 12, offset=0.1),
        create("c", parent="b", at=8),
        ramp("c", 9, 11, offset=0.2),
        create("early", parent="b", at=2),  # before b's own points, so b gives nothing
        append({"m": 3.3}, 3, run="early"),
    )
    assert [(point.step, point.value) for point in lab.floats("c", "m")] == [
        *((number, float(number)) for number in range(6)),
        *((number, number + 0.1) for number in range(6, 9)),
        *((number, number + 0.2) for number in range(9, 11)),
    ]
    assert [(point.step, point.value) for point in lab.floats("early", "m")] == [(0, 0), (1, 1), (2, 2), (3, 3.3)]
    assert [fork_values(lab, run)["depth"] for run in ("a", "b", "c", "early")] == [0, 1, 2, 2]


def test_a_fork_of_a_fork_without_points_begins_where_that_one_did(lab: Lab) -> None:
    lab.apply(create("a"), ramp("a", 0, 10), create("b", parent="a", at=5), create("c", parent="b"))
    assert fork_values(lab, "c")["step"] == 5
    assert steps(lab, "c") == [0, 1, 2, 3, 4, 5]


# Missing parents


def test_a_fork_without_its_parent_is_a_run(lab: Lab) -> None:
    fork = create("child", parent="nobody", at=5)
    assert lab.apply(fork, ramp("child", 0, 3), assign({"a": 1}, run="child")) == [
        {"RUN_FORK_PARENT_NOT_FOUND": 1},
        {"OK": 3},
        {"OK": 1},
    ]
    assert fork_values(lab, "child") == {"depth": 0, "requested_parent": "nobody"}
    assert lab.values("child")["sys/family"] == "child"
    assert steps(lab, "child") == [0, 1, 2]
    # The parent comes too late to be one.
    assert lab.apply(create("nobody"), ramp("nobody", 0, 9), fork) == [{"OK": 1}, {"OK": 9}, {"RUN_DUPLICATE": 1}]
    assert fork_values(lab, "child") == {"depth": 0, "requested_parent": "nobody"}
    assert steps(lab, "child") == [0, 1, 2]


def test_a_run_is_not_its_own_parent(lab: Lab) -> None:
    assert lab.apply(create("child", parent="child"), create("child", parent="child")) == [
        {"RUN_FORK_PARENT_NOT_FOUND": 1},
        {"RUN_DUPLICATE": 1},
    ]


# What a fork takes over

CONFIGS: dict[str, Plain] = {
    "float": math.inf,
    "int": 7,
    "bool": True,
    "string": "ł",
    "set": frozenset({"a", "b"}),
    "file": file("x"),
}


@pytest.mark.parametrize("inherit", [True, False, None])
@pytest.mark.parametrize("experiments", [(None, None), ("e", "e"), ("e", "f")])
def test_configs_are_copied_on_request(
    lab: Lab, inherit: bool | None, experiments: tuple[str | None, str | None]
) -> None:
    results = lab.apply(
        create("parent", experiment=experiments[0]),
        assign(CONFIGS, run="parent"),
        append({"m": 1.0}, 0, run="parent"),
        create("child", parent="parent", at=0, inherit=inherit, experiment=experiments[1]),
        assign({"int": 8, "late": 1}, run="parent"),
    )
    assert results == [{"OK": 1}, {"OK": 6}, {"OK": 1}, {"OK": 1}, {"OK": 2}]
    expected = {path: set(item) if isinstance(item, frozenset) else item for path, item in CONFIGS.items()}
    assert lab.user_values("child") == (expected if inherit else {})
    assert lab.values("child")["sys/diagnostics/attributes/total_count"] == (6 if inherit else 0)
    assert lab.values("child")["sys/custom_run_id"] == "child"


def test_copied_configs_are_the_forks_own(lab: Lab) -> None:
    lab.apply(create("parent"), assign(CONFIGS, run="parent"), create("child", parent="parent", inherit=True))
    changes = snapshot(assign={"int": 9, "string": 1}, sets={"set": change(add=["c"])})
    assert lab.apply_one(update(changes, run="child")) == {"OK": 2, "FIELD_TYPE_CONFLICTING": 1}
    assert lab.user_values("child")["set"] == {"a", "b", "c"}
    assert (lab.user_values("child")["int"], lab.user_values("parent")["int"]) == (9, 7)
    assert lab.user_values("parent")["set"] == {"a", "b"}


def test_without_a_parent_there_is_nothing_to_copy(lab: Lab) -> None:
    assert lab.apply(create("root", inherit=True), create("child", parent="nobody", inherit=True)) == [
        {"OK": 1},
        {"RUN_FORK_PARENT_NOT_FOUND": 1},
    ]
    assert lab.user_values("root") == lab.user_values("child") == {}


def test_tags_and_description_are_taken_over(lab: Lab) -> None:
    changes = snapshot(
        assign={"sys/description": "what it is", "sys/failed": True},
        sets={"sys/tags": change(add=["a", "b"]), "sys/group_tags": change(add=["g"])},
    )
    lab.apply(create("parent"), update(changes, run="parent"), create("child", parent="parent"))
    lab.apply_one(update(snapshot(sets={"sys/tags": change(add=["late"])}), run="parent"))
    values = lab.values("child")
    assert values["sys/tags"] == {"a", "b"}
    assert values["sys/description"] == "what it is"
    assert values["sys/failed"] is False
    assert lab.apply_one(update(snapshot(sets={"sys/tags": change(remove=["a"])}), run="child")) == {"OK": 1}
    assert (lab.values("child")["sys/tags"], lab.values("parent")["sys/tags"]) == ({"b"}, {"a", "b", "late"})


def test_a_series_that_is_taken_over_keeps_its_type(lab: Lab) -> None:
    lab.apply(
        create("a"),
        append({"m": 1.0, "s": "x", "h": counts([0, 1], [1])}, 2, run="a"),
        append({"late": 1.0}, 7, run="a"),
        create("b", parent="a", at=5),
        create("c", parent="b", at=5),
    )
    for run in ("b", "c"):
        operation = update(
            snapshot({"m": "text", "s": 1.0, "h": file("x"), "late": "free"}, 6, assign={"m": 1.0}), run=run
        )
        assert lab.apply_one(operation) == {"OK": 1, "FIELD_TYPE_CONFLICTING": 4}
        assert lab.apply_one(append({"m": 2.0, "s": "y", "h": counts([0, 1], [2])}, 6, run=run)) == {"OK": 3}
    assert lab.types("c")["late"] == "stringSeries"
    # Before the first point there is nothing to take over.
    lab.apply_one(create("early", parent="a", at=1))
    assert lab.apply_one(append({"m": "text"}, 6, run="early")) == {"OK": 1}


# Families


def test_families(lab: Lab) -> None:
    families = [
        (create("root"), "root"),
        (create("named", family="f"), "f"),
        (create("child", parent="named"), "f"),
        (create("grandchild", parent="child"), "f"),
        (create("other", parent="named", family="g"), "g"),
        (create("orphan", parent="nobody"), "orphan"),
        (create("named orphan", parent="nobody", family="h"), "h"),
    ]
    lab.apply(*(operation for operation, _ in families))
    assert [lab.values(operation.run_id)["sys/family"] for operation, _ in families] == [name for _, name in families]


# The same creation again

PARENT = "parent"
CREATIONS = [
    ("nothing", {}, {}, "DUPLICATE"),
    ("other experiment, time and configs", {}, {"experiment": "e", "created": 5, "inherit": True}, "DUPLICATE"),
    ("same family", {"family": "f"}, {"family": "f"}, "DUPLICATE"),
    ("family left out", {"family": "f"}, {}, "DUPLICATE"),
    ("default family said", {}, {"family": "run"}, "DUPLICATE"),
    ("other family", {"family": "f"}, {"family": "g"}, "CONFLICTING"),
    ("family said later", {}, {"family": "f"}, "CONFLICTING"),
    ("same fork", {"parent": PARENT, "at": 3}, {"parent": PARENT, "at": 3}, "DUPLICATE"),
    ("same fork without step", {"parent": PARENT}, {"parent": PARENT}, "DUPLICATE"),
    ("fork with the family of the parent said", {"parent": PARENT}, {"parent": PARENT, "family": PARENT}, "DUPLICATE"),
    ("other step", {"parent": PARENT, "at": 3}, {"parent": PARENT, "at": 3.000001}, "CONFLICTING"),
    ("step left out", {"parent": PARENT, "at": 3}, {"parent": PARENT}, "CONFLICTING"),
    ("step said later", {"parent": PARENT}, {"parent": PARENT, "at": 9}, "CONFLICTING"),
    ("step zero is not none", {"parent": PARENT}, {"parent": PARENT, "at": 0}, "CONFLICTING"),
    ("other parent", {"parent": PARENT, "at": 3}, {"parent": "other", "at": 3}, "CONFLICTING"),
    ("fork point left out", {"parent": PARENT, "at": 3}, {}, "CONFLICTING"),
    ("fork point said later", {}, {"parent": PARENT, "at": 3}, "CONFLICTING"),
    ("missing parent", {"parent": "nobody"}, {"parent": "nobody"}, "DUPLICATE"),
    ("other missing parent", {"parent": "nobody"}, {"parent": "no one"}, "CONFLICTING"),
]


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [pytest.param(*creation, id=name.replace(" ", "-")) for name, *creation in CREATIONS],
)
def test_the_same_creation_again(lab: Lab, first: dict[str, object], second: dict[str, object], outcome: str) -> None:
    lab.apply(create(PARENT), ramp(PARENT, 0, 10), create("other"), create("run", **first))  # type: ignore[arg-type]  # the fields are those of the table
    before = lab.values("run")
    request_id = lab.submit(create("run", **second))  # type: ignore[arg-type]  # as above
    assert lab.results([request_id]) == [{f"RUN_{outcome}": 1}]
    (detail,) = lab.details(request_id)
    assert name_of(detail.ingest_code) == f"RUN_{outcome}"
    assert "nothing was changed" in detail.error_detail
    assert lab.values("run") == before
    assert lab.apply_one(append({"late": 1.0}, 100)) == {"OK": 1}


# Experiments


def test_the_latest_run_of_an_experiment_is_its_head(lab: Lab) -> None:
    def heads() -> dict[str, object]:
        return {run: lab.values(run).get("sys/experiment/is_head") for run in ("a", "b", "c", "plain")}

    assert (
        lab.apply(create("a", experiment="e"), create("b", experiment="f"), create("c"), create("plain"))
        == [{"OK": 1}] * 4
    )
    assert heads() == {"a": True, "b": True, "c": None, "plain": None}
    lab.apply(append({"m": 1.0}, 1, run="a"), create("d", experiment="e", parent="a"))
    assert heads() == {"a": False, "b": True, "c": None, "plain": None}
    assert lab.values("d")["sys/experiment/is_head"] is True
    # A creation that changes nothing takes nothing over.
    lab.apply(create("c", experiment="f"), create("a", experiment="e"), create("b", family="x", experiment="e"))
    assert heads() == {"a": False, "b": True, "c": None, "plain": None}
    for run, name in {"a": "e", "b": "f", "d": "e"}.items():
        values = lab.values(run)
        assert (values["sys/name"], values["sys/experiment/name"]) == (name, name)
    assert "sys/name" not in lab.values("plain")
