"""Calls of ProjectsService in a word each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neptune_api.conformance.people import home
from neptune_api.v1 import projects_service_pb2 as pb

if TYPE_CHECKING:
    from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub


def get(stub: ProjectsServiceStub, identifier: str) -> pb.Project:
    return stub.GetProject(pb.GetProjectRequest(project_identifier=identifier))


def details(stub: ProjectsServiceStub, identifier: str) -> pb.ProjectWithRole:
    return stub.GetProjectDetails(pb.GetProjectDetailsRequest(project_identifier=identifier))


def create(stub: ProjectsServiceStub, name: str, workspace: str | None = None, **fields: Any) -> pb.ProjectWithRole:
    """Create a project, in the workspace of the test if none is given."""
    return stub.CreateProject(
        pb.CreateProjectRequest(name=name, organization_identifier=home() if workspace is None else workspace, **fields)
    )


def update(stub: ProjectsServiceStub, identifier: str, **changes: Any) -> pb.ProjectWithRole:
    return stub.UpdateProject(
        pb.UpdateProjectRequest(project_identifier=identifier, project_to_update=pb.ProjectUpdate(**changes))
    )
