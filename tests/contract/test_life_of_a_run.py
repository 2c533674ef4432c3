"""The times, the state and the flags of runs as they change, on a server whose clock the test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import append, assign, create, file, snapshot, update
from neptune_api.conformance.people import unique
from neptune_api.conformance.search_helpers import matching
from neptune_api.server.testing.scripted import ScriptedServer
from neptune_api.v1 import runs_service_pb2 as runs_pb
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

START = 1_800_000_000
MINUTE = 60
Changes = dict[str, Any]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def scripted(request: pytest.FixtureRequest) -> Iterator[ScriptedServer]:
    """A server over each store."""
    options: dict[str, Any] = {}
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        options["store"] = postgres.create_database()
    with ScriptedServer(**options) as running:
        yield running


@pytest.fixture
def lab(scripted: ScriptedServer) -> Iterator[Lab]:
    """A project on it, while the clock stands still."""
    with scripted.clock.held():
        scripted.clock.move_to(START)
        connection = GrpcConnection(scripted.channel(), http=False)
        name = unique("p")
        connection.stub(ProjectsServiceStub).CreateProject(
            CreateProjectRequest(name=name, organization_identifier=scripted.workspace)
        )
        yield Lab(connection, f"{scripted.workspace}/{name}")
        connection.close()
    scripted.reset()


Watch = Callable[..., Changes]


@pytest.fixture
def watch(lab: Lab, scripted: ScriptedServer) -> Watch:
    """A function that does something a number of seconds later and returns what is other than before of a run.

    Times come as seconds since the run began.
    """

    def shown(run: str) -> dict[str, Any]:
        values = lab.values(run)
        # As an attribute, the state has no value in answers: searches know it, and the run itself.
        del values["sys/state"]
        states = [
            state
            for state in ("running", "idle")
            if matching(
                lab.connection,
                lab.project,
                f'`sys/custom_run_id`:string == "{run}" AND `sys/state`:experimentState = {state}',
            )
        ]
        runs = lab.connection.stub(RunsServiceStub)
        listed = runs.ListRuns(runs_pb.ListRunsRequest(project_identifier=lab.project)).runs
        found = runs.GetRun(runs_pb.GetRunRequest(experiment_id=f"CUSTOM/{lab.project}/{run}"))
        assert found in listed
        assert states == [runs_pb.RunState.Name(found.state).removeprefix("RUN_STATE_").lower()]
        (values["sys/state"],) = states
        return {
            path: value / 1000 - START if path in {"sys/modification_time", "sys/ping_time"} else value
            for path, value in values.items()
        }

    def watch(later: float, act: Callable[[], object] = lambda: None, run: str = "run") -> Changes:
        before = shown(run)
        scripted.clock.advance(later)
        act()
        after = shown(run)
        gone = dict.fromkeys(before.keys() - after.keys())
        return gone | {path: value for path, value in after.items() if path not in before or before[path] != value}

    return watch


def activity(seconds: float, **more: Any) -> Changes:
    """Return what an operation that is applied so long after the beginning changes, and more."""
    times = {
        "sys/ping_time": seconds,
        "sys/modification_time": seconds,
        "sys/running_time_seconds": seconds,
        "sys/experiment/running_time_seconds": seconds,
    }
    return times | {f"sys/{path}": value for path, value in more.items()}


def counted(**counts: int) -> dict[str, Any]:
    return {f"diagnostics/attributes/{name}": count for name, count in counts.items()}


def test_what_is_logged_shows_when_and_what(lab: Lab, watch: Watch) -> None:
    lab.apply_one(create(experiment="e"))
    assert watch(MINUTE, lambda: lab.apply_one(assign({"x": 1, "t": "a"}))) == activity(
        60, **counted(int_count=1, string_count=1, total_count=2)
    ) | {"x": 1, "t": "a"}
    # The same again, and a change that is refused, are signs of life all the same.
    assert watch(MINUTE, lambda: lab.apply_one(assign({"x": 1}))) == activity(120)
    assert watch(MINUTE, lambda: lab.apply_one(assign({"sys/id": "mine"}))) == activity(180)
    series = counted(float_series_count=1, total_count=3, total_series_datapoints=1)
    assert watch(MINUTE, lambda: lab.apply_one(append({"m": 1.0}, 1))) == activity(240, size=16, **series)
    columns = counted(total_series_datapoints=3)
    assert watch(1, lambda: lab.apply(append({"m": 2.0}, 2), append({"m": 3.0}, 3))) == activity(
        241, size=48, **columns
    )
    # Previews are signs of life, and no points.
    assert watch(MINUTE, lambda: lab.apply_one(append({"m": 9.0}, 9, preview=0.5))) == activity(301)
    only_previews = counted(float_series_count=2, total_count=4)
    assert watch(1, lambda: lab.apply_one(append({"p": 9.0}, 9, preview=0.5))) == activity(302, **only_previews)
    found = watch(1, lambda: lab.apply_one(assign({"f": file("a", 1_000)})))
    assert found.pop("f").size_bytes == 1_000
    assert found == activity(303, size=1_048, **counted(file_ref_count=1, total_count=5))
    assert watch(1, lambda: lab.apply_one(assign({"f": file("b", 24)})))["sys/size"] == 72


def test_a_run_that_nothing_is_heard_of_is_idle(lab: Lab, watch: Watch) -> None:
    lab.apply_one(create(experiment="e"))
    assert watch(10 * MINUTE) == {}
    assert watch(1) == {"sys/state": "idle"}
    assert watch(60 * MINUTE) == {}
    later = 70 * MINUTE + 1
    assert watch(0, lambda: lab.apply_one(append({"m": 1.0}, preview=0.5))) == activity(
        later, state="running", **counted(float_series_count=1, total_count=1)
    )
    assert watch(11 * MINUTE) == {"sys/state": "idle"}


def test_flags_and_tags(lab: Lab, watch: Watch) -> None:
    lab.apply_one(create(experiment="e"))
    runs = lab.connection.stub(RunsServiceStub)
    name = f"CUSTOM/{lab.project}/run"
    of_project: dict[str, Any] = {"project_identifier": lab.project, "experiment_identifiers": [name]}

    def tag(added: list[str], removed: list[str]) -> object:
        change = runs_pb.UpdateTags(experiment_identifiers=[name], tags_to_add=added, tags_to_delete=removed)
        return runs.UpdateTagsBulk(runs_pb.UpdateTagsBulkRequest(update_per_project={lab.project: change}))

    for seconds, act, expected in (
        (60, lambda: runs.TrashRuns(runs_pb.TrashRunsRequest(**of_project)), {"sys/trashed": True}),
        (120, lambda: runs.RestoreRuns(runs_pb.RestoreRunsRequest(**of_project)), {"sys/trashed": False}),
        (180, lambda: runs.ArchiveRuns(runs_pb.ArchiveRunsRequest(runs=[name])), {"sys/archived": True}),
        (240, lambda: runs.UnarchiveRuns(runs_pb.UnarchiveRunsRequest(runs=[name])), {"sys/archived": False}),
    ):
        # What people do to a run is a change of it and no sign of life.
        assert watch(MINUTE, act) == {"sys/modification_time": seconds, **expected}
    found = watch(MINUTE, lambda: tag(["a", "b"], []))
    assert (found["sys/tags"], found["sys/modification_time"]) == ({"a", "b"}, 300)
    assert watch(MINUTE, lambda: tag([], ["a"]))["sys/tags"] == {"b"}
    described = update(snapshot(assign={"sys/description": "what it is", "sys/failed": True}))
    assert watch(MINUTE, lambda: lab.apply_one(described)) == activity(420, description="what it is", failed=True)
    # What was set beside the log of operations stays as it is when the log goes on.
    runs.TrashRuns(runs_pb.TrashRunsRequest(**of_project))
    assert watch(MINUTE, lambda: lab.apply_one(assign({"x": 1})))["sys/modification_time"] == 480
    assert lab.values("run")["sys/trashed"] is True
    assert lab.values("run")["sys/tags"] == {"b"}


def test_who_speaks_for_an_experiment(lab: Lab, watch: Watch) -> None:
    lab.apply_one(create(experiment="e"))
    taken_over = {"sys/experiment/is_head": False, "sys/modification_time": 60}
    assert watch(MINUTE, lambda: lab.apply_one(create("next", experiment="e"))) == taken_over
    assert lab.values("next")["sys/experiment/is_head"] is True
    # A run of another experiment, or of none, changes nothing.
    assert watch(MINUTE, lambda: lab.apply(create("other", experiment="f"), create("none"))) == {}
    trash: dict[str, Any] = {
        "project_identifier": lab.project,
        "experiment_identifiers": [f"CUSTOM/{lab.project}/next"],
    }
    runs = lab.connection.stub(RunsServiceStub)
    assert watch(MINUTE, lambda: runs.TrashRuns(runs_pb.TrashRunsRequest(**trash))) == {}
    back = {"sys/experiment/is_head": True, "sys/modification_time": 240}
    assert watch(MINUTE, lambda: runs.DeleteRuns(runs_pb.DeleteRunsRequest(**trash))) == back


def test_forks(lab: Lab, scripted: ScriptedServer, watch: Watch) -> None:
    lab.apply(create(experiment="e"), update(snapshot({"m": 1.0, "s": "x"}, 1, assign={"x": 1, "f": file("a", 10)})))
    # The parent is not touched.
    fork = create("fork", parent="run", at=1, experiment="e2")
    fork.create.inherit_configs = True
    assert watch(MINUTE, lambda: lab.apply_one(fork)) == {}
    values = lab.values("fork")
    prefix = "sys/diagnostics/attributes/"
    counters = {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix) and value}
    # What is taken over at the fork point is the parent's: it is counted and weighed there.
    assert counters == {"int_count": 1, "file_ref_count": 1, "total_count": 2}
    assert values["sys/size"] == 10
    assert values["sys/relative_creation_time_ms"] == 60_000
    assert values["sys/running_time_seconds"] == 0
    own = counted(float_series_count=1, total_count=3, total_series_datapoints=1)
    later = watch(MINUTE, lambda: lab.apply_one(append({"m": 2.0}, 2, run="fork")), run="fork")
    assert later == activity(60, size=26, **own) | {"sys/ping_time": 120.0, "sys/modification_time": 120.0}
    runs = lab.connection.stub(RunsServiceStub)
    parent: dict[str, Any] = {
        "project_identifier": lab.project,
        "experiment_identifiers": [f"CUSTOM/{lab.project}/run"],
    }
    runs.TrashRuns(runs_pb.TrashRunsRequest(**parent))
    assert watch(MINUTE, lambda: runs.DeleteRuns(runs_pb.DeleteRunsRequest(**parent)), run="fork") == {
        "sys/modification_time": 180,
        "sys/forking/depth": 0,
        "sys/forking/parent": None,
        "sys/forking/step": None,
        "sys/relative_creation_time_ms": 0,
    }
