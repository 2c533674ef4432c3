# ruff: noqa: TC001 # never run, so what an import costs does not matter
"""What the facade is to a type checker."""

from __future__ import annotations

import grpc
from typing_extensions import assert_type

from neptune_api import models
from neptune_api.api.client import Client as ApiClient
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub


def keywords(token: str) -> None:
    with ApiClient(api_token=token) as client:
        assert_type(client, ApiClient)
        assert_type(client.post_get_user_identity().id, str)
        run = client.post_create_run(project_identifier="workspace/project", run_id="run", inherit_configs=True)
        assert_type(run, models.Run)
        details = client.get_project_details(project_identifier="workspace/project", timeout=5, metadata=[("a", "b")])
        assert_type(details.user_role_in_project, models.ProjectRole.ValueType)
        member = client.post_get_project_member_v2(project_identifier="workspace/project", user_id="user")
        assert_type(member, models.ProjectMember)


def requests(client: ApiClient) -> None:
    request = models.CreateProjectRequest(name="project", organization_identifier="workspace")
    assert_type(client.post_create_project(request), models.ProjectWithRole)
    assert_type(client.post_submit(models.RunOperation()), models.SubmitResponse)
    visible = client.get_list_projects(sort_by=["name"], limit=10)
    assert_type([project.name for project in visible.entries], list[str])
    role = models.WorkspaceRole.WORKSPACE_ROLE_OWNER
    assert_type(client.post_create_user(username="user", role=role), models.CreateUserResponse)


def streams(client: ApiClient, stub: type[IngestServiceStub]) -> None:
    assert_type(client.channel, grpc.Channel)
    assert_type(stub(client.channel).SubmitStream(iter(())), models.SubmitResponse)
