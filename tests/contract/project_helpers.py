"""Calls of ProjectsService in a word each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neptune_api.v1 import projects_service_pb2 as pb

if TYPE_CHECKING:
    from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

WORKSPACE = "local"


def get(stub: ProjectsServiceStub, identifier: str) -> pb.Project:
    return stub.GetProject(pb.GetProjectRequest(project_identifier=identifier))


def details(stub: ProjectsServiceStub, identifier: str) -> pb.ProjectWithRole:
    return stub.GetProjectDetails(pb.GetProjectDetailsRequest(project_identifier=identifier))


def create(stub: ProjectsServiceStub, name: str, workspace: str = WORKSPACE, **fields: Any) -> pb.ProjectWithRole:
    return stub.CreateProject(pb.CreateProjectRequest(name=name, organization_identifier=workspace, **fields))


def update(stub: ProjectsServiceStub, identifier: str, **changes: Any) -> pb.ProjectWithRole:
    return stub.UpdateProject(
        pb.UpdateProjectRequest(project_identifier=identifier, project_to_update=pb.ProjectUpdate(**changes))
    )
