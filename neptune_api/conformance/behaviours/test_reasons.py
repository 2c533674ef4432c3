"""Reasons of errors: each comes with the code, and over HTTP with the status, that the table of reasons says."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from neptune_api.conformance.logging_helpers import log
from neptune_api.conformance.people import unique
from neptune_api.exceptions import NeptuneApiError
from neptune_api.models import (
    AddProjectMemberRequest,
    AppendColumnsRequest,
    CompleteMultipartUploadRequest,
    CreateProjectRequest,
    CreateRunRequest,
    CreateUserRequest,
    DeleteProjectRequest,
    GetAttributesRequest,
    GetProjectMemberV2Request,
    GetProjectRequest,
    GetRunRequest,
    ListProjectsRequest,
    NewProjectMember,
    ProjectMemberUpdate,
    ProjectRole,
    ProjectUpdate,
    RunOperation,
    UpdateProjectMemberRequest,
    UpdateProjectRequest,
)
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Host, Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole

CODES = grpc.StatusCode


@dataclass
class Scene:
    """Where an error is to happen."""

    wire: Wire
    connection: Connection
    project: ProjectWithRole
    identifier: str
    server: Host
    make_user: Callable[..., Person]

    @property
    def projects(self) -> Any:
        return self.connection.stub(ProjectsServiceStub)

    @property
    def runs(self) -> Any:
        return self.connection.stub(RunsServiceStub)

    def create_project(self, name: str, **fields: Any) -> None:
        request = CreateProjectRequest(name=name, organization_identifier=self.server.workspace, **fields)
        self.projects.CreateProject(request)

    def update_project(self, **changes: Any) -> None:
        update = ProjectUpdate(**changes)
        self.projects.UpdateProject(UpdateProjectRequest(project_identifier=self.identifier, project_to_update=update))

    def add_member(self, name: str) -> None:
        member = NewProjectMember(user_id=name, role=ProjectRole.PROJECT_ROLE_MEMBER)
        self.projects.AddProjectMember(AddProjectMemberRequest(project_identifier=self.identifier, member=member))

    def raw(self, payload: bytes) -> None:
        self.connection.raw("/neptune_api.v1.ProjectsService/GetProject")(payload)


def denied(scene: Scene) -> None:
    viewer = scene.make_user(scene.identifier, ProjectRole.PROJECT_ROLE_VIEWER)
    projects = scene.wire.connect(viewer.api_token).stub(ProjectsServiceStub)
    projects.DeleteProject(DeleteProjectRequest(project_identifier=scene.identifier))


def take_batch_id(scene: Scene) -> None:
    log(scene.connection, scene.identifier, "r")
    series = scene.connection.stub(SeriesServiceStub)
    for value in (0.5, 0.25):
        request = AppendColumnsRequest(project=scene.identifier, run_id="r", batch_id="same")
        columns = request.series.add(path="loss").columns
        columns.steps.micros.append(0)
        columns.timestamps.millis.append(0)
        columns.values.values.append(value)
        series.AppendColumns(request)


def degrade_owner(scene: Scene) -> None:
    scene.projects.UpdateProjectMember(
        UpdateProjectMemberRequest(
            project_identifier=scene.identifier,
            user_id=scene.server.username,
            member=ProjectMemberUpdate(role=ProjectRole.PROJECT_ROLE_VIEWER),
        )
    )


def join_twice(scene: Scene) -> None:
    person = scene.make_user(scene.identifier)
    scene.add_member(person.name)


def conflict_about_a_run(scene: Scene) -> None:
    for parent in ("one", "other"):
        scene.runs.CreateRun(
            CreateRunRequest(project_identifier=scene.identifier, run_id="r", parent_run_id=parent, fork_step=1)
        )


def write_to_the_archive(scene: Scene) -> None:
    scene.update_project(archived=True)
    scene.runs.CreateRun(CreateRunRequest(project_identifier=scene.identifier, run_id="r"))


def miss_a_member(scene: Scene) -> None:
    person = scene.make_user()
    scene.projects.GetProjectMemberV2(
        GetProjectMemberV2Request(project_identifier=scene.identifier, user_id=person.name)
    )


def take_a_key(scene: Scene) -> None:
    scene.create_project(f"k-{uuid.uuid4().hex}", project_key=scene.project.project_key)


def complete_an_upload(scene: Scene) -> None:
    request = CompleteMultipartUploadRequest(project_identifier=scene.identifier, path="a", upload_id="none")
    request.parts.add(part_number=1, etag="e")
    scene.connection.stub(StorageServiceStub).CompleteMultipartUpload(request)


def submit_too_much(scene: Scene) -> None:
    operation = RunOperation(project=scene.identifier, run_id="r")
    for number in range(17):
        operation.update.assign[str(number)].string = "x" * 2**20
    scene.connection.stub(IngestServiceStub).Submit(operation)


CASES: dict[str, tuple[grpc.StatusCode, Callable[[Scene], object]]] = {
    "ACCESS_DENIED": (CODES.PERMISSION_DENIED, denied),
    "ATTRIBUTES_CONTAINER_NOT_FOUND": (
        CODES.NOT_FOUND,
        lambda scene: scene.connection.stub(AttributesServiceStub).GetAttributes(
            GetAttributesRequest(holder_identifier=f"CUSTOM/{scene.identifier}/none")
        ),
    ),
    "BAD_REQUEST": (CODES.INVALID_ARGUMENT, lambda scene: scene.projects.GetProject(GetProjectRequest())),
    "BATCH_ID_TAKEN": (CODES.ALREADY_EXISTS, take_batch_id),
    "CANNOT_MANAGE_ORGANIZATION_OWNER_IN_PROJECT": (CODES.FAILED_PRECONDITION, degrade_owner),
    "CONFLICT": (CODES.ALREADY_EXISTS, join_twice),
    "EXPERIMENT_NOT_FOUND": (
        CODES.NOT_FOUND,
        lambda scene: scene.runs.GetRun(GetRunRequest(experiment_id=f"CUSTOM/{scene.identifier}/none")),
    ),
    "FILE_NOT_FOUND": (CODES.NOT_FOUND, complete_an_upload),
    "INVALID_OFFSET": (
        CODES.INVALID_ARGUMENT,
        lambda scene: scene.projects.ListProjects(ListProjectsRequest(offset=-1)),
    ),
    "INVALID_SORT_PARAMS": (
        CODES.INVALID_ARGUMENT,
        lambda scene: scene.projects.ListProjects(ListProjectsRequest(sort_by=["colour"])),
    ),
    "MALFORMED_REQUEST": (CODES.INVALID_ARGUMENT, lambda scene: scene.raw(b"\xff")),
    "ORGANIZATION_NOT_FOUND": (
        CODES.NOT_FOUND,
        lambda scene: scene.projects.CreateProject(
            CreateProjectRequest(name=unique("p"), organization_identifier=f"w-{uuid.uuid4().hex}")
        ),
    ),
    "PROJECT_KEY_COLLISION": (CODES.ALREADY_EXISTS, take_a_key),
    "PROJECT_KEY_INVALID": (
        CODES.INVALID_ARGUMENT,
        lambda scene: scene.create_project(unique("p"), project_key="lower"),
    ),
    "PROJECT_NAME_COLLISION": (CODES.ALREADY_EXISTS, lambda scene: scene.create_project(scene.project.name)),
    "PROJECT_NAME_INVALID": (CODES.INVALID_ARGUMENT, lambda scene: scene.create_project("no spaces, please")),
    "PROJECT_NOT_FOUND": (
        CODES.NOT_FOUND,
        lambda scene: scene.projects.GetProject(GetProjectRequest(project_identifier=f"{scene.identifier}-none")),
    ),
    "REQUEST_TOO_LARGE": (CODES.RESOURCE_EXHAUSTED, submit_too_much),
    "RUN_CONFLICTING": (CODES.ALREADY_EXISTS, conflict_about_a_run),
    "USER_NOT_FOUND": (CODES.NOT_FOUND, lambda scene: scene.add_member(f"nobody-{uuid.uuid4().hex}")),
    "USER_NOT_IN_PROJECT": (CODES.NOT_FOUND, miss_a_member),
    "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT": (CODES.FAILED_PRECONDITION, write_to_the_archive),
}


@pytest.mark.parametrize("reason", CASES)
def test_a_reason_comes_with_its_code(
    wire: Wire,
    server: Host,
    project: ProjectWithRole,
    identifier: str,
    make_user: Callable[..., Person],
    reason: str,
) -> None:
    code, cause = CASES[reason]
    with pytest.raises(NeptuneApiError) as caught:
        cause(Scene(wire, wire.connect(), project, identifier, server, make_user))
    assert caught.value.code() is code
    assert caught.value.details()
    assert caught.value.error_info is not None
    assert caught.value.error_info.reason == reason


def test_a_user_name_is_taken_once(wire: Wire, server: Host) -> None:
    users = wire.connect().stub(UsersServiceStub)
    with pytest.raises(NeptuneApiError) as caught:
        users.CreateUser(CreateUserRequest(username=server.username, organization_identifier=server.workspace))
    assert caught.value.code() is CODES.ALREADY_EXISTS
    assert caught.value.error_info is not None
    assert caught.value.error_info.reason == "CONFLICT"
