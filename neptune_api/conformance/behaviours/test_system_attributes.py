"""The sys/* attributes: what the server tells of a run, and what users may write of it."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any

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
    timestamp,
    update,
)
from neptune_api.conformance.people import colleague

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.operations import Plain
    from neptune_api.conformance.people import Host
    from neptune_api.v1 import ingest_pb2 as pb
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole

COUNTERS = (
    "bool",
    "file_ref",
    "file_ref_series",
    "float",
    "float_series",
    "histogram_series",
    "int",
    "string",
    "string_series",
    "string_set",
    "total",
)
TIMES = {"sys/creation_time", "sys/modification_time", "sys/ping_time"}


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


def counters(lab: Lab, run: str = "run") -> dict[str, int]:
    """Return the counters that are not zero."""
    values = lab.values(run)
    prefix = "sys/diagnostics/attributes/"
    assert {path for path in values if path.startswith(prefix)} == {
        prefix + "total_series_datapoints",
        *(f"{prefix}{name}_count" for name in COUNTERS),
    }
    return {path.removeprefix(prefix): item for path, item in values.items() if path.startswith(prefix) and item != 0}


def test_a_run_describes_itself(lab: Lab, project: ProjectWithRole, server: Host) -> None:
    assert lab.apply_one(create("my run", experiment="my experiment", created=START_MS)) == {"OK": 1}
    values = lab.values("my run")
    assert values["sys/id"] == f"{project.project_key}-1"
    assert values["sys/custom_run_id"] == "my run"
    assert values["sys/name"] == values["sys/experiment/name"] == "my experiment"
    assert values["sys/experiment/is_head"] is True
    assert values["sys/family"] == "my run"
    assert values["sys/owner"] == server.username
    assert values["sys/creation_time"] == START_MS
    assert values["sys/forking/depth"] == 0
    assert values["sys/archived"] is values["sys/trashed"] is values["sys/failed"] is False
    assert values["sys/tags"] == values["sys/group_tags"] == set()
    assert values["sys/diagnostics/project_uuid"] == project.id
    assert uuid.UUID(values["sys/diagnostics/run_uuid"]).version == 4
    assert counters(lab, "my run") == {}
    # Readers find the identifiers by this expression and expect exactly these.
    assert sorted(path for path in values if re.search(r"sys/.*id$", path)) == [
        "sys/custom_run_id",
        "sys/diagnostics/project_uuid",
        "sys/diagnostics/run_uuid",
        "sys/id",
    ]


def test_types(lab: Lab) -> None:
    lab.apply_one(create(experiment="e"))
    types = {path: item.type for path, item in lab.attributes("run").items()}
    expected = dict.fromkeys(TIMES, "datetime")
    expected |= dict.fromkeys(("sys/archived", "sys/trashed", "sys/failed", "sys/experiment/is_head"), "bool")
    expected |= dict.fromkeys(("sys/tags", "sys/group_tags"), "stringSet")
    expected |= dict.fromkeys(("sys/running_time_seconds", "sys/experiment/running_time_seconds"), "float")
    expected |= {path: "int" for path in types if path.startswith("sys/diagnostics/attributes/")}
    expected |= dict.fromkeys(("sys/forking/depth", "sys/relative_creation_time_ms", "sys/size"), "int")
    expected["sys/state"] = "experimentState"
    assert {path: type_ for path, type_ in types.items() if type_ != "string"} == expected


def test_a_run_without_an_experiment_says_nothing_of_one(lab: Lab) -> None:
    lab.apply_one(create())
    assert not [path for path in lab.values("run") if path == "sys/name" or path.startswith("sys/experiment")]


def test_short_ids_count_up(lab: Lab, project: ProjectWithRole) -> None:
    names = ["a", "b", "a", "c"]
    assert lab.apply(*(create(name) for name in names)) == [{"OK": 1}, {"OK": 1}, {"RUN_DUPLICATE": 1}, {"OK": 1}]
    assert [lab.values(name)["sys/id"] for name in "abc"] == [f"{project.project_key}-{n}" for n in (1, 2, 3)]


def test_the_owner_is_who_creates(lab: Lab, wire: Wire, server: Host) -> None:
    person = colleague(server)
    theirs = Lab(wire.connect(person.api_token), f"{server.workspace}/p-{uuid.uuid4().hex}")
    operation = create(project=theirs.project)
    operation.create_missing_project = True
    assert theirs.apply_one(operation) == {"OK": 1}
    assert theirs.values("run")["sys/owner"] == person.name


def test_the_client_library_is_told(lab: Lab) -> None:
    operation = create("told")
    operation.create.tracker = "my-logger 1.0"
    lab.apply(operation, create("untold"))
    assert lab.values("told")["sys/diagnostics/tracker_client"] == "my-logger 1.0"
    assert "sys/diagnostics/tracker_client" not in lab.values("untold")


# Times


def test_forks_tell_how_long_after_their_first_ancestor_they_were_created(lab: Lab) -> None:
    lab.apply(
        create("root", created=START_MS),
        create("early", parent="root", at=1, created=START_MS - 10),
        create("late", parent="early", at=2, created=START_MS + 1_000),
        create("orphan", parent="nobody", at=2, created=START_MS + 1_000),
    )
    found = {name: lab.values(name)["sys/relative_creation_time_ms"] for name in ("root", "early", "late", "orphan")}
    assert found == {"root": 0, "early": -10, "late": 1_000, "orphan": 0}


def test_times_of_a_run(lab: Lab) -> None:
    before = time.time_ns() // 1_000_000
    lab.apply(create("now"), create("past", created=START_MS), create("old", created=-5_000))
    between = time.time_ns() // 1_000_000
    now, past = lab.values("now"), lab.values("past")
    assert before <= now["sys/creation_time"] == now["sys/ping_time"] == now["sys/modification_time"] <= between
    assert now["sys/running_time_seconds"] == 0
    assert past["sys/creation_time"] == START_MS
    assert lab.values("old")["sys/creation_time"] == -5_000
    assert past["sys/running_time_seconds"] == pytest.approx((past["sys/ping_time"] - START_MS) / 1000)
    lab.apply_one(append({"m": 1.0}, 1, run="past"))
    later = lab.values("past")
    assert later["sys/ping_time"] == later["sys/modification_time"] >= past["sys/ping_time"]
    assert later["sys/running_time_seconds"] == pytest.approx((later["sys/ping_time"] - START_MS) / 1000)
    assert lab.values("now") == now


def test_a_run_from_the_future_has_not_run(lab: Lab) -> None:
    lab.apply_one(create(created=10_413_791_999_999, experiment="e"))
    values = lab.values("run")
    assert values["sys/running_time_seconds"] == values["sys/experiment/running_time_seconds"] == 0


def test_refused_changes_are_contact_too(lab: Lab) -> None:
    lab.apply_one(create())
    before = lab.values("run")
    assert lab.apply_one(assign({"": 1})) == {"FIELD_PATH_EMPTY": 1}
    after = lab.values("run")
    assert {path for path in after if after[path] != before[path]} <= {*TIMES, "sys/running_time_seconds"}
    assert after["sys/ping_time"] >= before["sys/ping_time"]


# Size


def test_the_size_is_that_of_files_and_points(lab: Lab) -> None:
    lab.apply_one(create())
    assert lab.values("run")["sys/size"] == 0
    lab.apply(
        assign({"a": file("a", 1_000), "b": file("b", 24)}), append({"m": 1.0, "s": "x"}, 1), append({"m": 2.0}, 2)
    )
    assert lab.values("run")["sys/size"] == 1_024 + 3 * 16
    lab.apply_one(assign({"a": file("a", 2**63 - 1)}))
    assert lab.values("run")["sys/size"] == 2**63 - 1


# Counters


def test_counters(lab: Lab) -> None:
    values: dict[str, Plain] = {
        "b": True,
        "f": 1.0,
        "i": 1,
        "i2": 2,
        "s": "x",
        "set": frozenset({"x"}),
        "file": file("x"),
        "t": timestamp(0),
    }
    points: dict[str, Plain] = {"ff": 1.0, "ss": "x", "hh": counts([0, 1], [1]), "files": file("x")}
    assert lab.apply(create(), assign(values), append(points, 1), append({"ff": 1.0, "ss": "y"}, 2)) == [
        {"OK": 1},
        {"OK": 8},
        {"OK": 4},
        {"OK": 2},
    ]
    expected = {
        "bool_count": 1,
        "float_count": 1,
        "int_count": 2,
        "string_count": 1,
        "string_set_count": 1,
        "file_ref_count": 1,
        "float_series_count": 1,
        "string_series_count": 1,
        "histogram_series_count": 1,
        "file_ref_series_count": 1,
        "total_count": 12,  # the datetime has no counter of its own
        "total_series_datapoints": 6,
    }
    assert counters(lab) == expected
    # Neither what is refused, nor what is absorbed, nor what is written again, nor a preview counts.
    refused = update(
        snapshot({"ff": 1.0, "files": file("y"), "bad": 1}, 1, assign={"i": 5, "sys/id": 1}),
        snapshot({"ff": 9.0}, 9, preview=0.5),
    )
    assert lab.apply_one(refused) == {
        "OK": 3,
        "FIELD_PATH_NON_WRITABLE": 1,
        "FIELD_TYPE_UNSUPPORTED": 1,
        "SERIES_POINT_DUPLICATE": 1,
    }
    assert counters(lab) == expected


def test_what_a_fork_inherits_counts_where_it_was_logged(lab: Lab) -> None:
    parent, fork = create("parent"), create("fork", parent="parent", at=1)
    lab.apply(parent, append({"m": 1.0, "other": "x"}, 1, run="parent"), fork, append({"m": 2.0}, 2, run="fork"))
    assert counters(lab, "fork") == {"float_series_count": 1, "total_count": 1, "total_series_datapoints": 1}


# What users may write


def test_what_users_may_write(lab: Lab) -> None:
    operation = update(
        snapshot(
            assign={"sys/description": "what it is", "sys/failed": True},
            sets={"sys/tags": change(add=["a", "b"]), "sys/group_tags": change(add=["g"])},
        )
    )
    assert lab.apply(create(), operation) == [{"OK": 1}, {"OK": 4}]
    values = lab.values("run")
    assert values["sys/description"] == "what it is"
    assert values["sys/failed"] is True
    assert (values["sys/tags"], values["sys/group_tags"]) == ({"a", "b"}, {"g"})
    assert lab.apply_one(assign({"sys/tags": frozenset({"c"}), "sys/failed": False})) == {"OK": 2}
    assert (lab.values("run")["sys/tags"], lab.values("run")["sys/failed"]) == ({"c"}, False)
    assert counters(lab) == {}


def test_the_rest_is_the_servers(lab: Lab) -> None:
    lab.apply_one(create(experiment="e"))
    attributes = lab.attributes("run")
    writable = {"sys/tags", "sys/group_tags", "sys/failed"}
    samples: dict[str, Plain] = {
        "string": "x",
        "int": 1,
        "float": 1.0,
        "bool": True,
        "datetime": timestamp(0),
        "stringSet": frozenset({"x"}),
        "experimentState": "running",
    }
    changes: dict[str, Plain] = {path: samples[item.type] for path, item in attributes.items() if path not in writable}
    changes |= {"sys/": 1, "sys/unknown": 1, "sys/tags/more": 1}
    request_id = lab.submit(assign(changes))
    assert lab.results([request_id]) == [{"FIELD_PATH_NON_WRITABLE": len(changes)}]
    assert sorted(item.path for item in lab.details(request_id)) == sorted(changes)
    assert "sys/tags" in lab.details(request_id)[0].error_detail
    assert {path for path, item in lab.attributes("run").items() if item != attributes[path]} <= {
        *TIMES,
        "sys/running_time_seconds",
        "sys/experiment/running_time_seconds",
    }


@pytest.mark.parametrize(
    "operation",
    [
        append({"sys/tags": "x"}, 1),
        assign({"sys/tags": "x"}),
        assign({"sys/description": 1}),
        assign({"sys/failed": "yes"}),
        update(snapshot(sets={"sys/description": change(add=["x"])})),
    ],
)
def test_writable_ones_have_types_from_the_beginning(lab: Lab, operation: pb.RunOperation) -> None:
    assert lab.apply(create(), operation) == [{"OK": 1}, {"FIELD_TYPE_CONFLICTING": 1}]


def test_other_paths_that_look_like_them_are_the_users(lab: Lab) -> None:
    paths: dict[str, Any] = dict.fromkeys(("sys", "system/id", "SYS/id", "a/sys/id", " sys/id"), 1)
    assert lab.apply(create(), assign(paths)) == [{"OK": 1}, {"OK": len(paths)}]
    assert {path: item for path, item in lab.values("run").items() if path in paths} == paths
