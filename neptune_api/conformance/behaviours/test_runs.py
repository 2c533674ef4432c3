"""Runs: creating, naming and listing them, and who may do what with them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from neptune_api import exceptions
from neptune_api.conformance.logging_helpers import log
from neptune_api.conformance.run_helpers import (
    NOBODY,
    create,
    listed,
    reason,
    reasons,
    values,
)
from neptune_api.v1 import runs_service_pb2 as pb
from neptune_api.v1.projects_service_pb2 import ProjectUpdate, UpdateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MANAGER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Host, Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def runs(connection: Connection) -> Any:
    return connection.stub(RunsServiceStub)


@pytest.fixture
def key(project: ProjectWithRole) -> str:
    return project.project_key


# Creating


def test_a_run_is_returned_as_it_was_created(
    server: Host, runs: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    created = Timestamp(seconds=1_600_000_000, nanos=123_000_000)
    run = runs.CreateRun(
        pb.CreateRunRequest(
            project_identifier=identifier,
            run_id="first run",
            experiment_name="experiment ä",
            creation_time=created,
            family="a family",
        )
    )
    assert uuid.UUID(run.id).version == 4
    expected = pb.Run(
        id=run.id,
        custom_id="first run",
        short_id=f"{project.project_key}-1",
        project_id=project.id,
        project_name=project.name,
        organization_id=project.organization_id,
        organization_name=project.organization_name,
        parent_id=project.id,
        type="run",
        experiment_name="experiment ä",
        creation_time=created,
        owner=server.username,
        state=pb.RUN_STATE_RUNNING,
    )
    assert run == expected
    found = values(connection, run.id)
    assert found["sys/id"] == run.short_id
    assert found["sys/custom_run_id"] == "first run"
    assert found["sys/name"] == "experiment ä"
    assert found["sys/family"] == "a family"
    assert found["sys/creation_time"] == created.ToMilliseconds()
    assert found["sys/trashed"] is False


def test_without_an_id_a_run_gets_a_uuid(runs: Any, identifier: str) -> None:
    run = runs.CreateRun(pb.CreateRunRequest(project_identifier=identifier))
    assert uuid.UUID(run.custom_id).version == 4
    assert not run.HasField("experiment_name")
    assert not run.HasField("parent_short_id")
    assert not run.HasField("fork_step")


def test_creating_a_run_again_returns_it(runs: Any, identifier: str) -> None:
    (run,) = create(runs, identifier, "r", experiment_name="e")
    again = create(runs, identifier, "r", experiment_name="another", creation_time=Timestamp(seconds=5))
    assert again == [run]


@pytest.mark.parametrize("other", [{"parent_run_id": "p"}, {"family": "other"}])
def test_the_same_id_with_another_fork_or_family_is_a_conflict(
    runs: Any, identifier: str, other: dict[str, Any]
) -> None:
    create(runs, identifier, "r", family="f")
    with pytest.raises(exceptions.AlreadyExistsException) as caught:
        create(runs, identifier, "r", **({"family": "f"} | other))
    assert reason(caught.value) == "RUN_CONFLICTING"


def test_a_fork_names_its_parent_and_its_step(runs: Any, connection: Connection, identifier: str, key: str) -> None:
    log(connection, identifier, "parent", series={"m": {1: 1.0, 2.5: 2.0}})
    (given,) = create(runs, identifier, "given", parent_run_id="parent", fork_step=0.000001)
    (last,) = create(runs, identifier, "last", parent_run_id="parent")
    assert (given.parent_short_id, given.fork_step) == (f"{key}-1", 0.000001)
    assert (last.parent_short_id, last.fork_step) == (f"{key}-1", 2.5)
    assert values(connection, last.id)["sys/forking/depth"] == 1


def test_a_missing_parent_is_no_error(runs: Any, connection: Connection, identifier: str) -> None:
    (run,) = create(runs, identifier, "r", parent_run_id="nobody", fork_step=3)
    assert not run.HasField("parent_short_id")
    assert not run.HasField("fork_step")
    assert values(connection, run.id)["sys/forking/requested_parent"] == "nobody"


def test_configs_are_inherited_when_asked_for(runs: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "parent", configs={"lr": 0.1, "n": 3}, series={"m": {1: 1.0}})
    (with_configs,) = create(runs, identifier, "a", parent_run_id="parent", inherit_configs=True)
    (without,) = create(runs, identifier, "b", parent_run_id="parent")
    assert values(connection, with_configs.id)["n"] == 3
    assert "n" not in values(connection, without.id)


BAD_CREATIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no project": ({"project_identifier": ""}, ["project_identifier"]),
    "empty id": ({"run_id": ""}, ["run_id"]),
    "long id": ({"run_id": "ä" * 366}, ["run_id"]),
    "slash": ({"run_id": "a/b"}, ["run_id"]),
    "nul": ({"run_id": "a\0b"}, ["run_id"]),
    "empty experiment": ({"experiment_name": ""}, ["experiment_name"]),
    "long experiment": ({"experiment_name": "x" * 731}, ["experiment_name"]),
    "long family": ({"family": "x" * 731}, ["family"]),
    "long parent": ({"parent_run_id": "x" * 731}, ["parent_run_id"]),
    "step alone": ({"fork_step": 1}, ["fork_step"]),
    "negative step": ({"parent_run_id": "p", "fork_step": -1}, ["fork_step"]),
    "large step": ({"parent_run_id": "p", "fork_step": 1e12}, ["fork_step"]),
    "step between": ({"parent_run_id": "p", "fork_step": 0.5e-6}, ["fork_step"]),
    "nan": ({"parent_run_id": "p", "fork_step": float("nan")}, ["fork_step"]),
    "infinity": ({"parent_run_id": "p", "fork_step": float("inf")}, ["fork_step"]),
    "time": ({"creation_time": Timestamp(seconds=-3_000_000_000)}, ["creation_time"]),
    "nanos": ({"creation_time": Timestamp(nanos=-1)}, ["creation_time"]),
    "two": ({"run_id": "a/b", "experiment_name": ""}, ["experiment_name", "run_id"]),
}


@pytest.mark.parametrize("case", BAD_CREATIONS)
def test_bad_parameters_are_named(runs: Any, identifier: str, case: str) -> None:
    fields, expected = BAD_CREATIONS[case]
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        runs.CreateRun(pb.CreateRunRequest(**({"project_identifier": identifier, "run_id": "r"} | fields)))
    assert sorted(violation.field for violation in caught.value.violations) == expected
    assert list(runs.ListRuns(pb.ListRunsRequest(project_identifier=identifier)).runs) == []


@pytest.mark.parametrize("fields", [{"run_id": "x" * 730}, {"experiment_name": "x" * 730}, {"family": "ä" * 365}])
def test_parameters_at_the_limit_are_fine(runs: Any, identifier: str, fields: dict[str, Any]) -> None:
    runs.CreateRun(pb.CreateRunRequest(**({"project_identifier": identifier, "run_id": "r"} | fields)))


def test_runs_of_an_archived_project_do_not_change(runs: Any, connection: Connection, identifier: str) -> None:
    (run,) = create(runs, identifier, "r")
    archive = UpdateProjectRequest(project_identifier=identifier, project_to_update=ProjectUpdate(archived=True))
    connection.stub(ProjectsServiceStub).UpdateProject(archive)
    tags = pb.UpdateTags(experiment_identifiers=[run.id], tags_to_add=["t"])
    calls: list[tuple[Callable[[Any], Any], Message]] = [
        (runs.CreateRun, pb.CreateRunRequest(project_identifier=identifier, run_id="s")),
        (runs.TrashRuns, pb.TrashRunsRequest(project_identifier=identifier, experiment_identifiers=[run.id])),
        (runs.ArchiveRuns, pb.ArchiveRunsRequest(runs=[run.id])),
        (runs.UpdateTagsBulk, pb.UpdateTagsBulkRequest(update_per_project={identifier: tags})),
    ]
    for call, request in calls:
        with pytest.raises(exceptions.FailedPreconditionException) as caught:
            call(request)
        assert reason(caught.value) == "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT"
    assert runs.GetRun(pb.GetRunRequest(experiment_id=run.id)) == run


# Who may do what


def every_call(runs: Any, identifier: str, run: str) -> dict[str, tuple[Callable[[Any], Any], Message, int]]:
    """Return each RPC with a request and the role it needs."""
    some: dict[str, Any] = {"project_identifier": identifier, "experiment_identifiers": [run]}
    tags = pb.UpdateTags(experiment_identifiers=[run], tags_to_add=["t"])
    return {
        "GetRun": (runs.GetRun, pb.GetRunRequest(experiment_id=run), PROJECT_ROLE_VIEWER),
        "ListRuns": (runs.ListRuns, pb.ListRunsRequest(project_identifier=identifier), PROJECT_ROLE_VIEWER),
        "CreateRun": (
            runs.CreateRun,
            pb.CreateRunRequest(project_identifier=identifier, run_id="new"),
            PROJECT_ROLE_MEMBER,
        ),
        "UpdateTagsBulk": (
            runs.UpdateTagsBulk,
            pb.UpdateTagsBulkRequest(update_per_project={identifier: tags}),
            PROJECT_ROLE_MEMBER,
        ),
        "ArchiveRuns": (runs.ArchiveRuns, pb.ArchiveRunsRequest(runs=[run]), PROJECT_ROLE_MEMBER),
        "UnarchiveRuns": (runs.UnarchiveRuns, pb.UnarchiveRunsRequest(runs=[run]), PROJECT_ROLE_MEMBER),
        "TrashRuns": (runs.TrashRuns, pb.TrashRunsRequest(**some), PROJECT_ROLE_MEMBER),
        "RestoreRuns": (runs.RestoreRuns, pb.RestoreRunsRequest(**some), PROJECT_ROLE_MEMBER),
        "DeleteRuns": (runs.DeleteRuns, pb.DeleteRunsRequest(**some), PROJECT_ROLE_MANAGER),
    }


@pytest.mark.parametrize("role", [PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER])
def test_every_call_needs_its_role(
    wire: Wire, runs: Any, identifier: str, make_user: Callable[..., Person], role: int
) -> None:
    (run,) = create(runs, identifier, "r")
    theirs = wire.connect(make_user(identifier, role).api_token).stub(RunsServiceStub)
    for call, request, needed in every_call(theirs, identifier, run.id).values():
        if role >= needed:
            call(request)
        else:
            with pytest.raises(exceptions.PermissionDeniedException):
                call(request)


def test_to_outsiders_runs_do_not_exist(
    wire: Wire, runs: Any, identifier: str, make_user: Callable[..., Person]
) -> None:
    (run,) = create(runs, identifier, "r")
    theirs = wire.connect(make_user().api_token).stub(RunsServiceStub)
    for name, (call, request, _) in every_call(theirs, identifier, run.id).items():
        if name in {"ArchiveRuns", "UnarchiveRuns"}:
            assert reasons(call(request)) == {run.id: "REASON_NOT_EXISTS"}
        else:
            with pytest.raises(exceptions.NotFoundException):
                call(request)
    named = f"{identifier}/{run.short_id}"
    assert reasons(theirs.ArchiveRuns(pb.ArchiveRunsRequest(runs=[named]))) == {named: "REASON_NOT_EXISTS"}
    assert runs.GetRun(pb.GetRunRequest(experiment_id=run.id)) == run


# Names


def test_every_form_of_identifier_finds_the_run(runs: Any, identifier: str) -> None:
    (run, _) = create(runs, identifier, "a-run.with_1", "other")
    for name in (run.id, run.id.upper(), f"{identifier}/{run.short_id}", f"CUSTOM/{identifier}/a-run.with_1"):
        assert runs.GetRun(pb.GetRunRequest(experiment_id=name)) == run


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "KEY-1",
        "a/b",
        "a/b/c",
        "a/b/C-0",
        "a/b/C-01",
        "a/b/c-1",
        "/b/C-1",
        "a//C-1",
        "CUSTOM/a/b/",
        "a/b/c/D-1",
    ],
)
def test_malformed_identifiers_are_refused(runs: Any, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        runs.GetRun(pb.GetRunRequest(experiment_id=name))
    assert [violation.field for violation in caught.value.violations] == ["experiment_id"]


def test_unknown_runs_are_not_found(runs: Any, identifier: str, key: str) -> None:
    create(runs, identifier, "r")
    for name in (
        NOBODY,
        f"{identifier}/{key}-2",
        f"{identifier}/WRONG-1",
        f"{identifier}x/{key}-1",
        f"CUSTOM/{identifier}/x",
        f"CUSTOM/{identifier}/r/r",
    ):
        with pytest.raises(exceptions.NotFoundException):
            runs.GetRun(pb.GetRunRequest(experiment_id=name))


# Listing


def test_runs_are_listed_oldest_first_in_pages(runs: Any, project: ProjectWithRole, identifier: str) -> None:
    assert listed(runs, identifier) == [[]]
    create(runs, identifier, "c", "a", "d", "b")
    assert listed(runs, identifier) == [["c", "a", "d", "b"]]
    assert listed(runs, project.id, page_size=3) == [["c", "a", "d"], ["b"]]
    assert listed(runs, identifier, page_size=2) == [["c", "a"], ["d", "b"]]
    assert listed(runs, identifier, page_size=10_000) == [["c", "a", "d", "b"]]


def test_runs_in_the_trash_are_told_apart(runs: Any, identifier: str) -> None:
    found = create(runs, identifier, "a", "b", "c")
    runs.TrashRuns(pb.TrashRunsRequest(project_identifier=identifier, experiment_identifiers=[found[1].id]))
    assert listed(runs, identifier, trashed=True) == [["b"]]
    assert listed(runs, identifier, trashed=False, page_size=1) == [["a"], ["c"]]
    assert listed(runs, identifier) == [["a", "b", "c"]]


@pytest.mark.parametrize("fields", [{"page_size": 0}, {"page_size": -1}, {"page_size": 10_001}, {"page_token": "x"}])
def test_bad_pages_are_refused(runs: Any, identifier: str, fields: dict[str, Any]) -> None:
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        runs.ListRuns(pb.ListRunsRequest(project_identifier=identifier, **fields))
    assert [violation.field for violation in caught.value.violations] == list(fields)
