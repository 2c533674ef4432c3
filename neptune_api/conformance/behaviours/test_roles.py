"""Every RPC asks for the role it needs, and to those who may not see a project there is none.

The table has a line for each RPC of the API: a new one without a line fails here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import pytest

from neptune_api.cli.surface import Surface
from neptune_api.conformance.people import colleague, outsider, unique
from neptune_api.exceptions import NeptuneApiError
from neptune_api.v1 import attributes_service_pb2 as attributes
from neptune_api.v1 import ingest_pb2 as ingest
from neptune_api.v1 import leaderboard_service_pb2 as leaderboard
from neptune_api.v1 import projects_service_pb2 as projects
from neptune_api.v1 import runs_service_pb2 as runs
from neptune_api.v1 import series_pb2 as buckets
from neptune_api.v1 import series_service_pb2 as series
from neptune_api.v1 import storage_service_pb2 as storage
from neptune_api.v1.columns_pb2 import FloatColumn, FloatColumns, StepColumn, TimestampColumn
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MANAGER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_VIEWER,
    PROJECT_VISIBILITY_PRIV,
    PROJECT_VISIBILITY_PUB,
    PROJECT_VISIBILITY_WORKSPACE,
    ProjectVisibility,
)
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Host
    from neptune_api.v1.roles_pb2 import ProjectRole

    Role: TypeAlias = ProjectRole.ValueType


@dataclass(frozen=True)
class Place:
    """What requests name: a project, a run in it, a member of it who calls nothing, and a user who is none."""

    project: str
    run: str
    member: str
    guest: str

    def hide(self, text: str) -> str:
        """Return a text without the names of this place, and without ids that are made anew each time."""
        for name in (self.run, self.project, self.project.partition("/")[2]):
            text = text.replace(name, "<name>")
        return re.sub(r"[0-9a-f]{32}", "<id>", text)


Request: TypeAlias = Callable[[Place], Any]  # a message, or a list of those of a stream


def operation(place: Place) -> ingest.RunOperation:
    return ingest.RunOperation(project=place.project, run_id="another", create=ingest.CreateRun())


def some_runs(kind: type[Message]) -> Request:
    return lambda place: kind(project_identifier=place.project, experiment_identifiers=[place.run])


def of_project(kind: type[Message], **fields: Any) -> Request:
    return lambda place: kind(project_identifier=place.project, **fields)


def loss(place: Place) -> TimeSeries:
    return TimeSeries(attribute="loss", holder=AttributesHolder(identifier=place.run, type="experiment"))


def float_series(place: Place) -> Message:
    query = series.FloatSeriesQuery(request_id="0", series=loss(place))
    return series.GetFloatSeriesValuesRequest(
        request=series.FloatSeriesValuesQuery(per_series_points_limit=1, requests=[query])
    )


def other_series(place: Place) -> Message:
    query = series.SeriesQuery(request_id="0", series=loss(place))
    return series.GetSeriesValuesRequest(request=series.SeriesValuesQuery(requests=[query]))


def bucket_query(place: Place) -> Message:
    axis = buckets.BucketXAxis(steps=buckets.XSteps())
    return buckets.GetTimeseriesBucketsRequest(
        expressions=[buckets.BucketExpression(request_id="0", run_id=place.run, custom_y_formula="${loss}")],
        view=buckets.BucketView(max_buckets=3, x_axis=axis),
    )


def columns(place: Place) -> series.AppendColumnsRequest:
    points = FloatColumns(
        steps=StepColumn(micros=[1_000_000]), timestamps=TimestampColumn(millis=[1]), values=FloatColumn(values=[1.0])
    )
    return series.AppendColumnsRequest(
        project=place.project,
        run_id="r",
        batch_id=unique("batch"),
        series=[series.AppendSeries(path="columns", columns=points)],
    )


def signed(permission: storage.FilePermission.ValueType) -> Request:
    return lambda place: storage.CreateSignedUrlsRequest(
        files=[storage.FileToSign(path="a.txt", project_identifier=place.project, permission=permission)]
    )


def upload(place: Place) -> Message:
    parts = [storage.UploadedPart(etag="e", part_number=1)]
    return storage.CompleteMultipartUploadRequest(
        project_identifier=place.project, path="a.txt", upload_id="none", parts=parts
    )


def tags(place: Place) -> Message:
    change = runs.UpdateTags(experiment_identifiers=[place.run], tags_to_add=["t"])
    return runs.UpdateTagsBulkRequest(update_per_project={place.project: change})


def new_member(place: Place) -> Message:
    member = projects.NewProjectMember(user_id=place.guest, role=PROJECT_ROLE_VIEWER)
    return projects.AddProjectMemberRequest(project_identifier=place.project, member=member)


def changed_member(place: Place) -> Message:
    update = projects.ProjectMemberUpdate(role=PROJECT_ROLE_VIEWER)
    return projects.UpdateProjectMemberRequest(project_identifier=place.project, user_id=place.member, member=update)


def definitions(place: Place) -> Message:
    query = attributes.AttributeDefinitionsQuery(project_identifiers=[place.project])
    return attributes.QueryAttributeDefinitionsRequest(query=query)


RPCS: list[tuple[str, Role, Request]] = [
    ("AttributesService.QueryAttributeValues", PROJECT_ROLE_VIEWER, of_project(attributes.QueryAttributeValuesRequest)),
    (
        "AttributesService.GetAttributes",
        PROJECT_ROLE_VIEWER,
        lambda place: attributes.GetAttributesRequest(holder_identifier=place.run),
    ),
    ("AttributesService.QueryAttributeDefinitions", PROJECT_ROLE_VIEWER, definitions),
    (
        "AttributesService.GetAttributeDefinitions",
        PROJECT_ROLE_VIEWER,
        lambda place: attributes.GetAttributeDefinitionsRequest(experiment_identifier=place.run),
    ),
    (
        "AttributesService.FilterAttributeDefinitions",
        PROJECT_ROLE_VIEWER,
        lambda place: attributes.FilterAttributeDefinitionsRequest(experiment_identifier=place.run),
    ),
    (
        "AttributesService.GetAttributeTree",
        PROJECT_ROLE_VIEWER,
        lambda place: attributes.GetAttributeTreeRequest(experiment_identifier=place.run),
    ),
    ("IngestService.Submit", PROJECT_ROLE_MEMBER, operation),
    ("IngestService.SubmitStream", PROJECT_ROLE_MEMBER, lambda place: [operation(place)]),
    ("IngestService.SubmitAcknowledged", PROJECT_ROLE_MEMBER, lambda place: [operation(place)]),
    (
        "LeaderboardService.SearchLeaderboardEntries",
        PROJECT_ROLE_VIEWER,
        of_project(leaderboard.SearchLeaderboardEntriesRequest, type=["run"]),
    ),
    ("ProjectsService.GetProject", PROJECT_ROLE_VIEWER, of_project(projects.GetProjectRequest)),
    ("ProjectsService.GetProjectDetails", PROJECT_ROLE_VIEWER, of_project(projects.GetProjectDetailsRequest)),
    ("ProjectsService.ListProjectMembers", PROJECT_ROLE_VIEWER, of_project(projects.ListProjectMembersRequest)),
    (
        "ProjectsService.GetProjectMemberV2",
        PROJECT_ROLE_VIEWER,
        lambda place: projects.GetProjectMemberV2Request(project_identifier=place.project, user_id=place.member),
    ),
    (
        "ProjectsService.UpdateProject",
        PROJECT_ROLE_MANAGER,
        of_project(projects.UpdateProjectRequest, project_to_update=projects.ProjectUpdate(description="new")),
    ),
    ("ProjectsService.AddProjectMember", PROJECT_ROLE_MANAGER, new_member),
    ("ProjectsService.UpdateProjectMember", PROJECT_ROLE_MANAGER, changed_member),
    (
        "ProjectsService.DeleteProjectMember",
        PROJECT_ROLE_MANAGER,
        lambda place: projects.DeleteProjectMemberRequest(project_identifier=place.project, user_id=place.member),
    ),
    ("ProjectsService.DeleteProject", PROJECT_ROLE_MANAGER, of_project(projects.DeleteProjectRequest)),
    ("RunsService.CreateRun", PROJECT_ROLE_MEMBER, of_project(runs.CreateRunRequest, run_id="another")),
    ("RunsService.GetRun", PROJECT_ROLE_VIEWER, lambda place: runs.GetRunRequest(experiment_id=place.run)),
    ("RunsService.ListRuns", PROJECT_ROLE_VIEWER, of_project(runs.ListRunsRequest)),
    ("RunsService.TrashRuns", PROJECT_ROLE_MEMBER, some_runs(runs.TrashRunsRequest)),
    ("RunsService.RestoreRuns", PROJECT_ROLE_MEMBER, some_runs(runs.RestoreRunsRequest)),
    ("RunsService.DeleteRuns", PROJECT_ROLE_MANAGER, some_runs(runs.DeleteRunsRequest)),
    ("RunsService.ArchiveRuns", PROJECT_ROLE_MEMBER, lambda place: runs.ArchiveRunsRequest(runs=[place.run])),
    ("RunsService.UnarchiveRuns", PROJECT_ROLE_MEMBER, lambda place: runs.UnarchiveRunsRequest(runs=[place.run])),
    ("RunsService.UpdateTagsBulk", PROJECT_ROLE_MEMBER, tags),
    ("SeriesService.GetFloatSeriesValues", PROJECT_ROLE_VIEWER, float_series),
    (
        "SeriesService.GetSingleFloatSeriesValues",
        PROJECT_ROLE_VIEWER,
        lambda place: series.GetSingleFloatSeriesValuesRequest(attribute="loss", experiment_id=place.run),
    ),
    ("SeriesService.GetSeriesValues", PROJECT_ROLE_VIEWER, other_series),
    ("SeriesService.GetTimeseriesBuckets", PROJECT_ROLE_VIEWER, bucket_query),
    ("SeriesService.ReadColumns", PROJECT_ROLE_VIEWER, lambda place: series.ReadColumnsRequest(series=[loss(place)])),
    ("SeriesService.AppendColumns", PROJECT_ROLE_MEMBER, columns),
    ("SeriesService.AppendColumnsStream", PROJECT_ROLE_MEMBER, lambda place: [columns(place)]),
    ("StorageService.CreateSignedUrls", PROJECT_ROLE_VIEWER, signed(storage.FILE_PERMISSION_READ)),
    ("StorageService.CreateSignedUrls", PROJECT_ROLE_MEMBER, signed(storage.FILE_PERMISSION_WRITE)),
    ("StorageService.CompleteMultipartUpload", PROJECT_ROLE_MEMBER, upload),
]

# RPCs that name no project, with the test of who may call them and of what they tell.
NO_PROJECT = {
    "AuthService.Authorize": "tells the caller of itself",
    "AuthService.ExchangeApiToken": "needs no access token",
    "AuthService.GetApiToken": "tells the caller of itself",
    "AuthService.RefreshToken": "needs no access token",
    "AuthService.RevokeApiToken": "is about the caller itself",
    "ConfigService.GetClientConfig": "needs no access token",
    "ConfigService.GetServerInfo": "needs no access token",
    "IngestService.BulkGetRequestDetails": "test_ingest: test_who_may_know_what_became_of_a_request",
    "IngestService.BulkGetRequestStatus": "test_ingest: test_who_may_know_what_became_of_a_request",
    "IngestService.GetRequestStatus": "test_ingest: test_who_may_know_what_became_of_a_request",
    "LeaderboardService.SearchGlobalLeaderboardEntries": "finds what the caller may see",
    "ProjectsService.CreateProject": "test_projects: test_foreign_workspace_looks_unknown",
    "ProjectsService.ListProjects": "test_projects: test_listing_filters_by_role",
    "UsersService.CreateUser": "test_users: test_only_owners_of_the_workspace_create_users",
    "UsersService.GetUserIdentity": "tells the caller of itself",
    "UsersService.GetUserProfile": "tells the caller of itself",
    "UsersService.ListUsers": "test_users: test_users_of_other_workspaces_are_left_out",
}

ROLES = (PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER)
VISIBILITIES = (PROJECT_VISIBILITY_PRIV, PROJECT_VISIBILITY_WORKSPACE, PROJECT_VISIBILITY_PUB)

every_rpc = pytest.mark.parametrize(
    ("rpc", "needed", "request_for"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in RPCS],
)


def test_the_table_has_every_rpc() -> None:
    assert {rpc for rpc, _, _ in RPCS} | NO_PROJECT.keys() == {
        f"{name}.{method}" for name, service in Surface().services.items() for method in service.methods_by_name
    }
    assert not {rpc for rpc, _, _ in RPCS} & NO_PROJECT.keys()


class Stage:
    """People of every standing and the projects they meet, on one server."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self.outsider = outsider(server)
        self.colleague = colleague(server)
        self.people = {role: colleague(server) for role in ROLES}
        self._bystander = colleague(server)
        self.seen = self.scene()
        self.hidden = self.seen[PROJECT_VISIBILITY_PRIV]

    def scene(self) -> dict[ProjectVisibility.ValueType, Place]:
        """Make a project of each visibility, each with a run, and return them."""
        with self._server.channel() as channel:
            return {visibility: self._place(channel, visibility) for visibility in VISIBILITIES}

    def _place(self, channel: grpc.Channel, visibility: ProjectVisibility.ValueType) -> Place:
        stub = ProjectsServiceStub(channel)
        found = stub.CreateProject(
            projects.CreateProjectRequest(
                name=unique("p"), organization_identifier=self._server.workspace, visibility=visibility
            )
        )
        identifier = f"{found.organization_name}/{found.name}"
        members = {self._bystander.name: PROJECT_ROLE_MEMBER}
        if visibility == PROJECT_VISIBILITY_PRIV:
            members |= {person.name: role for role, person in self.people.items()}
        for name, role in members.items():
            member = projects.NewProjectMember(user_id=name, role=role)
            stub.AddProjectMember(projects.AddProjectMemberRequest(project_identifier=identifier, member=member))
        run = RunsServiceStub(channel).CreateRun(runs.CreateRunRequest(project_identifier=identifier, run_id="r"))
        return Place(identifier, f"{identifier}/{run.short_id}", self._bystander.name, self.colleague.name)


@pytest.fixture(scope="session")
def _stages() -> dict[Host, Stage]:
    return {}


@pytest.fixture
def stage(server: Host, _stages: dict[Host, Stage]) -> Stage:
    """The stage on the server, the same one for the whole session."""
    return _stages.get(server) or _stages.setdefault(server, Stage(server))


def call(connection: Connection, rpc: str, request: Any) -> Any:
    service, _, method = rpc.partition(".")
    module = importlib.import_module(f"neptune_api.v1.{service.removesuffix('Service').lower()}_service_pb2_grpc")
    return getattr(connection.stub(getattr(module, f"{service}Stub")), method)(request)


def outcome(connection: Connection, rpc: str, request_for: Request, place: Place) -> tuple[grpc.StatusCode, str, str]:
    """Call an RPC; return status code, reason and what it says, without the names of the place."""
    try:
        answer = call(connection, rpc, request_for(place))
    except NeptuneApiError as error:
        reason = "" if error.error_info is None else error.error_info.reason
        return error.code(), reason, place.hide(error.details())
    return grpc.StatusCode.OK, "", place.hide(str(answer))


@every_rpc
def test_the_role_in_the_project_decides(
    wire: Wire, stage: Stage, rpc: str, needed: Role, request_for: Request
) -> None:
    """An outsider reads a public project, a colleague writes to a shared one; in a private one the role is as given."""
    places = stage.seen if needed == PROJECT_ROLE_VIEWER else stage.scene()
    for person, role, place in (
        (stage.outsider, PROJECT_ROLE_VIEWER, places[PROJECT_VISIBILITY_PUB]),
        (stage.colleague, PROJECT_ROLE_MEMBER, places[PROJECT_VISIBILITY_WORKSPACE]),
        *((stage.people[role], role, places[PROJECT_VISIBILITY_PRIV]) for role in ROLES),
    ):
        code, reason, sentence = outcome(wire.connect(person.api_token), rpc, request_for, place)
        if role < needed:
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
            assert "role" in sentence
        else:
            assert code in {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}, sentence
            assert reason != "PROJECT_NOT_FOUND"


@every_rpc
def test_a_project_out_of_sight_is_none(
    wire: Wire, stage: Stage, server: Host, rpc: str, needed: Role, request_for: Request
) -> None:
    name = f"{server.workspace}/{unique('p')}"
    unknown = replace(stage.hidden, project=name, run=f"{name}/{stage.hidden.run.rpartition('/')[2]}")
    for person in (stage.outsider, stage.colleague):
        connection = wire.connect(person.api_token)
        found = outcome(connection, rpc, request_for, stage.hidden)
        assert found == outcome(connection, rpc, request_for, unknown), f"needs {needed}"
        assert found[0] in {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED}
