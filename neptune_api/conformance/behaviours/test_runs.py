"""Runs: creating, naming, listing, trashing, archiving, deleting and tagging them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from neptune_api import exceptions
from neptune_api.conformance.logging_helpers import another_project, log
from neptune_api.v1 import runs_service_pb2 as pb
from neptune_api.v1.attributes_service_pb2 import GetAttributesRequest
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.projects_service_pb2 import ProjectUpdate, UpdateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MANAGER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2 import FloatSeriesQuery, FloatSeriesValuesQuery, GetFloatSeriesValuesRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Host, Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole
    from neptune_api.v1.series_pb2 import FloatSeriesValuesResponse

Reason = pb.BulkRunError.Reason
NOBODY = str(uuid.UUID(int=0))


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def runs(connection: Connection) -> Any:
    return connection.stub(RunsServiceStub)


@pytest.fixture
def key(project: ProjectWithRole) -> str:
    return project.project_key


def values(connection: Connection, run: str) -> dict[str, Any]:
    """Return the single values of a run by path."""
    found = connection.stub(AttributesServiceStub).GetAttributes(GetAttributesRequest(holder_identifier=run))
    return {item.name: plain(item) for item in found.attributes}


def plain(attribute: Any) -> Any:
    for kind in ("int", "float", "string", "bool", "datetime"):
        if attribute.HasField(f"{kind}_properties"):
            return getattr(attribute, f"{kind}_properties").value
    return list(attribute.string_set_properties.value) if attribute.HasField("string_set_properties") else attribute


def reasons(result: pb.BulkRunResult) -> dict[str, str]:
    assert all(error.message for error in result.errors)
    return {error.experiment_identifier: Reason.Name(error.reason) for error in result.errors}


def reason(error: exceptions.NeptuneApiError) -> str:
    assert error.error_info is not None
    return error.error_info.reason


def create(runs: Any, identifier: str, *names: str, **fields: Any) -> list[pb.Run]:
    return [runs.CreateRun(pb.CreateRunRequest(project_identifier=identifier, run_id=name, **fields)) for name in names]


def float_points(connection: Connection, run: str, path: str) -> list[tuple[float, float]]:
    series = TimeSeries(attribute=path, holder=AttributesHolder(identifier=run, type="experiment"))
    query = FloatSeriesValuesQuery(
        per_series_points_limit=1000, requests=[FloatSeriesQuery(request_id="0", series=series)]
    )
    answer: FloatSeriesValuesResponse = connection.stub(SeriesServiceStub).GetFloatSeriesValues(
        GetFloatSeriesValuesRequest(request=query)
    )
    return [(point.step, point.value) for point in answer.series[0].series.values]


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


def listed(runs: Any, identifier: str, **fields: Any) -> list[list[str]]:
    """Return run ids page by page."""
    pages: list[list[str]] = []
    request = pb.ListRunsRequest(project_identifier=identifier, **fields)
    while True:
        page = runs.ListRuns(request)
        pages.append([run.custom_id for run in page.runs])
        request.page_token = page.next_page_token
        if not request.page_token:
            return pages


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


# The trash


def bulk(
    call: Callable[[Any], pb.BulkRunResult], request_class: Any, identifier: str, names: Sequence[str]
) -> pb.BulkRunResult:
    return call(request_class(project_identifier=identifier, experiment_identifiers=names))


def test_runs_go_into_the_trash_and_come_back(
    runs: Any, connection: Connection, project: ProjectWithRole, identifier: str, key: str
) -> None:
    a, b, _, d = create(runs, identifier, "a", "b", "c", "d")
    before = values(connection, a.id)["sys/modification_time"]
    names = [a.id, f"{identifier}/{b.short_id}", f"CUSTOM/{identifier}/c", d.short_id]
    strangers = {
        NOBODY: "REASON_NOT_EXISTS",
        f"{key}-9": "REASON_NOT_EXISTS",
        "nonsense": "REASON_NOT_EXISTS",
        "": "REASON_NOT_EXISTS",
        project.id: "REASON_IS_PROJECT",
        identifier: "REASON_IS_PROJECT",
        "no/project": "REASON_NOT_EXISTS",
    }
    result = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [*names, *strangers])
    assert list(result.updated_experiment_identifiers) == names
    assert reasons(result) == strangers
    assert runs.GetRun(pb.GetRunRequest(experiment_id=a.id)).trashed
    found = values(connection, a.id)
    assert found["sys/trashed"] is True
    assert found["sys/modification_time"] >= before
    again = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id])
    assert reasons(again) == {a.id: "REASON_ALREADY_TRASHED"}

    restored = bulk(runs.RestoreRuns, pb.RestoreRunsRequest, project.id, names)
    assert list(restored.updated_experiment_identifiers) == names
    assert reasons(bulk(runs.RestoreRuns, pb.RestoreRunsRequest, identifier, [a.id])) == {a.id: "REASON_NOT_IN_TRASH"}
    assert runs.GetRun(pb.GetRunRequest(experiment_id=a.id)) == a
    assert values(connection, a.id)["sys/trashed"] is False


def test_runs_of_another_project_are_strangers(runs: Any, connection: Connection, identifier: str) -> None:
    other = another_project(connection, identifier)
    (run,) = create(runs, other, "r")
    names = [run.id, f"{other}/{run.short_id}", f"CUSTOM/{other}/r"]
    result = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, names)
    assert reasons(result) == dict.fromkeys(names, "REASON_NOT_EXISTS")
    assert not runs.GetRun(pb.GetRunRequest(experiment_id=run.id)).trashed


def test_only_runs_in_the_trash_are_deleted(runs: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "a", configs={"x": 1}, series={"m": {1: 1.0}})
    a, b = create(runs, identifier, "a", "b")
    assert reasons(bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [a.id])) == {a.id: "REASON_NOT_IN_TRASH"}
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id])
    result = bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [a.id, b.id])
    assert list(result.updated_experiment_identifiers) == [a.id]
    assert reasons(result) == {b.id: "REASON_NOT_IN_TRASH"}
    assert listed(runs, identifier) == [["b"]]
    with pytest.raises(exceptions.NotFoundException):
        runs.GetRun(pb.GetRunRequest(experiment_id=a.id))
    log(connection, identifier, "a", series={"m": {0: 5.0}})
    (new,) = create(runs, identifier, "a")
    assert new.id != a.id
    assert new.short_id != a.short_id
    assert float_points(connection, new.id, "m") == [(0, 5)]


def test_forks_of_a_deleted_run_keep_their_own_points(runs: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "root", series={"m": {0: 0.0, 1: 1.0}})
    log(connection, identifier, "child", parent="root", at=1, series={"m": {2: 2.0}})
    log(connection, identifier, "grandchild", parent="child", at=2, series={"m": {3: 3.0}})
    root, child, grandchild = create_again(runs, identifier, "root", "child", "grandchild")
    assert float_points(connection, grandchild.id, "m") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [root.id])
    assert float_points(connection, grandchild.id, "m") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [root.id])
    orphan = runs.GetRun(pb.GetRunRequest(experiment_id=child.id))
    assert not orphan.HasField("parent_short_id")
    assert not orphan.HasField("fork_step")
    found = values(connection, child.id)
    assert found["sys/forking/depth"] == found["sys/relative_creation_time_ms"] == 0
    assert found["sys/forking/requested_parent"] == "root"
    assert "sys/forking/parent" not in found
    later = values(connection, grandchild.id)
    assert later["sys/forking/depth"] == 1
    between = later["sys/creation_time"] - found["sys/creation_time"]
    assert later["sys/relative_creation_time_ms"] == between
    assert float_points(connection, child.id, "m") == [(2, 2)]
    assert float_points(connection, grandchild.id, "m") == [(2, 2), (3, 3)]
    log(connection, identifier, "child", create=False, series={"m": {4: 4.0}})
    assert float_points(connection, child.id, "m") == [(2, 2), (4, 4)]


def create_again(runs: Any, identifier: str, *names: str) -> list[pb.Run]:
    return [runs.GetRun(pb.GetRunRequest(experiment_id=f"CUSTOM/{identifier}/{name}")) for name in names]


def test_when_the_head_of_an_experiment_is_deleted_the_youngest_run_left_is_head(
    runs: Any, connection: Connection, identifier: str
) -> None:
    a, b, c = create(runs, identifier, "a", "b", "c", experiment_name="e")
    heads = [values(connection, run.id)["sys/experiment/is_head"] for run in (a, b, c)]
    assert heads == [False, False, True]
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id, c.id])
    bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [c.id])
    assert values(connection, b.id)["sys/experiment/is_head"] is True
    assert values(connection, a.id)["sys/experiment/is_head"] is False
    (d,) = create(runs, identifier, "d", experiment_name="e")
    heads = [values(connection, run.id)["sys/experiment/is_head"] for run in (a, b, d)]
    assert heads == [False, False, True]


def test_an_experiment_ends_with_its_last_run(runs: Any, connection: Connection, identifier: str) -> None:
    (a,) = create(runs, identifier, "a", experiment_name="e")
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id])
    bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [a.id])
    (b,) = create(runs, identifier, "b", experiment_name="e")
    assert values(connection, b.id)["sys/experiment/is_head"] is True


def test_ten_thousand_runs_at_once_and_no_more(runs: Any, identifier: str, key: str) -> None:
    (run,) = create(runs, identifier, "r")
    names = [f"{key}-{number}" for number in range(1, 10_001)]
    result = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, names)
    assert list(result.updated_experiment_identifiers) == [run.short_id]
    assert len(result.errors) == 9_999
    for call, request in (
        (runs.TrashRuns, pb.TrashRunsRequest(project_identifier=identifier, experiment_identifiers=[*names, "x"])),
        (runs.RestoreRuns, pb.RestoreRunsRequest(project_identifier=identifier, experiment_identifiers=[*names, "x"])),
        (runs.DeleteRuns, pb.DeleteRunsRequest(project_identifier=identifier, experiment_identifiers=[*names, "x"])),
        (runs.ArchiveRuns, pb.ArchiveRunsRequest(runs=[*names, "x"])),
        (runs.UnarchiveRuns, pb.UnarchiveRunsRequest(runs=[*names, "x"])),
        (
            runs.UpdateTagsBulk,
            pb.UpdateTagsBulkRequest(
                update_per_project={identifier: pb.UpdateTags(experiment_identifiers=[*names, "x"])}
            ),
        ),
    ):
        with pytest.raises(exceptions.InvalidArgumentException, match="10,000"):
            call(request)


# The archive


def test_runs_are_archived_across_projects(
    runs: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    other = another_project(connection, identifier)
    (a, trashed), (b,) = create(runs, identifier, "a", "t"), create(runs, other, "b")
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [trashed.id])
    names = [a.id, f"CUSTOM/{other}/b"]
    strangers = {
        trashed.id: "REASON_TRASHED",
        a.short_id: "REASON_NOT_EXISTS",
        identifier: "REASON_IS_PROJECT",
        project.id: "REASON_IS_PROJECT",
        f"{identifier}x/{a.short_id}": "REASON_NOT_EXISTS",
    }
    for call, request, archived in (
        (runs.ArchiveRuns, pb.ArchiveRunsRequest, True),
        (runs.ArchiveRuns, pb.ArchiveRunsRequest, True),
        (runs.UnarchiveRuns, pb.UnarchiveRunsRequest, False),
    ):
        result = call(request(runs=[*names, *strangers]))
        assert list(result.updated_experiment_identifiers) == names
        assert reasons(result) == strangers
        for run in (a, b):
            assert runs.GetRun(pb.GetRunRequest(experiment_id=run.id)).archived is archived
            assert values(connection, run.id)["sys/archived"] is archived


# Tags


def tag(runs: Any, identifier: str, names: Sequence[str], **fields: Any) -> pb.BulkRunResult:
    update = pb.UpdateTags(experiment_identifiers=names, **fields)
    answer = runs.UpdateTagsBulk(pb.UpdateTagsBulkRequest(update_per_project={identifier: update}))
    assert list(answer.results_by_project) == [identifier]
    result: pb.BulkRunResult = answer.results_by_project[identifier]
    return result


def test_tags_are_removed_and_then_added(runs: Any, connection: Connection, identifier: str) -> None:
    a, b = create(runs, identifier, "a", "b")
    result = tag(runs, identifier, [a.id, b.short_id, a.short_id], tags_to_add=["x", "y"])
    assert list(result.updated_experiment_identifiers) == [a.id, b.short_id, a.short_id]
    assert values(connection, b.id)["sys/tags"] == ["x", "y"]
    tag(runs, identifier, [a.id], tags_to_add=["y", "z"], tags_to_delete=["x", "y", "never there"])
    assert values(connection, a.id)["sys/tags"] == ["y", "z"]
    assert values(connection, b.id)["sys/tags"] == ["x", "y"]


def test_group_tags_are_other_tags(runs: Any, connection: Connection, identifier: str) -> None:
    (a,) = create(runs, identifier, "a")
    tag(runs, identifier, [a.id], tags_to_add=["g"], attribute_path_to_be_updated="sys/group_tags")
    found = values(connection, a.id)
    assert (found["sys/tags"], found["sys/group_tags"]) == ([], ["g"])


def test_tags_say_which_runs_they_missed(runs: Any, project: ProjectWithRole, identifier: str) -> None:
    a, b = create(runs, identifier, "a", "b")
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [b.id])
    result = tag(runs, identifier, [a.id, b.id, "no", project.id], tags_to_add=["t"])
    assert list(result.updated_experiment_identifiers) == [a.id]
    assert reasons(result) == {b.id: "REASON_TRASHED", "no": "REASON_NOT_EXISTS", project.id: "REASON_IS_PROJECT"}


def test_too_many_tags_are_refused_for_the_run(runs: Any, connection: Connection, identifier: str) -> None:
    (a,) = create(runs, identifier, "a")
    result = tag(runs, identifier, [a.id], tags_to_add=["x" * (1 << 20), "y"])
    assert list(result.updated_experiment_identifiers) == []
    (error,) = result.errors
    assert error.experiment_identifier == a.id
    assert str(1 << 20) in error.message.replace(",", "")
    assert values(connection, a.id)["sys/tags"] == []


def test_another_path_than_those_of_tags_is_refused(runs: Any, identifier: str) -> None:
    (a,) = create(runs, identifier, "a")
    with pytest.raises(exceptions.InvalidArgumentException):
        tag(runs, identifier, [a.id], tags_to_add=["t"], attribute_path_to_be_updated="sys/description")


def test_an_unknown_project_keeps_tags_of_the_others_as_they_are(
    runs: Any, connection: Connection, identifier: str
) -> None:
    (a,) = create(runs, identifier, "a")
    update = pb.UpdateTags(experiment_identifiers=[a.id], tags_to_add=["t"])
    with pytest.raises(exceptions.NotFoundException):
        runs.UpdateTagsBulk(pb.UpdateTagsBulkRequest(update_per_project={identifier: update, "no/project": update}))
    assert values(connection, a.id)["sys/tags"] == []
