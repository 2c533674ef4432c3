"""Recordings: of this server and of another one, and answers from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from neptune_api.exceptions import FailedPreconditionException, InvalidArgumentException, NotFoundException
from neptune_api.models import (
    CreateProjectRequest,
    CreateUserRequest,
    CreateUserResponse,
    GetProjectRequest,
    GetUserIdentityRequest,
    UserIdentity,
)
from neptune_api.server import LocalServer
from neptune_api.server.testing.differences import differences
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.conformance.connections import Wire
    from neptune_api.server.testing import ScriptedServer

READ = GetProjectRequest(project_identifier="local/far")
MISSING = GetProjectRequest(project_identifier="local/nowhere")


def test_another_server_is_recorded_and_replayed_offline(
    neptune_server: ScriptedServer, wire: Wire, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    projects = wire.connect().stub(ProjectsServiceStub)
    with LocalServer() as other, other.channel() as channel:
        ProjectsServiceStub(channel).CreateProject(
            CreateProjectRequest(name="far", organization_identifier=other.workspace)
        )
        with neptune_server.record(path, api_token=other.api_token) as recording:
            found = projects.GetProject(READ)
            with pytest.raises(NotFoundException) as refusal:
                projects.GetProject(MISSING)
        assert recording.calls == 2
        assert other.api_token not in path.read_text()
    assert found.name == "far"
    with pytest.raises(NotFoundException):
        projects.GetProject(READ)  # which is not here
    with neptune_server.replay(path) as replay:
        with pytest.raises(NotFoundException) as again:
            projects.GetProject(MISSING)
        assert replay.unused == ["ProjectsService.GetProject"]
        assert [projects.GetProject(READ) for _ in range(2)] == [found, found]
        assert replay.unused == []
    assert again.value.details() == refusal.value.details()
    assert again.value.error_info == refusal.value.error_info


def test_a_mismatch_says_field_by_field_what_differs(
    neptune_server: ScriptedServer, wire: Wire, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    users = wire.connect().stub(UsersServiceStub)
    name = f"rec-{wire.name}"
    recorded = CreateUserRequest(username=name, organization_identifier="local", email="a@example.org")
    with neptune_server.record(path):
        users.CreateUser(recorded)
    came = CreateUserRequest(username=name, organization_identifier="other", first_name="Ada")
    expected = [
        "email: recorded 'a@example.org', came nothing",
        "first_name: recorded nothing, came 'Ada'",
        "organization_identifier: recorded 'local', came 'other'",
    ]
    with (  # noqa: PT012 # the block itself raises as well
        pytest.raises(AssertionError, match=r"no such call of UsersService.CreateUser") as told,
        neptune_server.replay(path),
    ):
        with pytest.raises(FailedPreconditionException) as refused:
            users.CreateUser(came)
        assert all(line in (refused.value.details() or "") for line in expected)
    assert all(line in str(told.value) for line in expected)
    with neptune_server.replay(path, ignore=["organization_identifier", "email", "first_name"]):
        users.CreateUser(came)
    with (
        pytest.raises(AssertionError, match=r"has no call of UsersService.GetUserIdentity"),
        neptune_server.replay(path),
        pytest.raises(FailedPreconditionException),
    ):
        users.GetUserIdentity(GetUserIdentityRequest())


def test_tokens_are_not_recorded(neptune_server: ScriptedServer, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    users = wire.connect().stub(UsersServiceStub)
    request = CreateUserRequest(username=f"secret-{wire.name}", organization_identifier="local")
    with neptune_server.record(path):
        token = users.CreateUser(request).api_token
    text = path.read_text()
    assert token not in text
    assert "eyJ" not in text
    assert json.loads(text.splitlines()[1])["responses"][0]["api_token"] == "<redacted>"


def test_refusals_keep_their_details(neptune_server: ScriptedServer, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    projects = wire.connect().stub(ProjectsServiceStub)
    bad = CreateProjectRequest(name="no spaces, please", organization_identifier="local")
    with neptune_server.record(path), pytest.raises(InvalidArgumentException) as refusal:
        projects.CreateProject(bad)
    with neptune_server.replay(path), pytest.raises(InvalidArgumentException) as again:
        projects.CreateProject(bad)
    assert again.value.violations == refusal.value.violations != ()


def test_a_file_that_is_no_recording_is_refused(neptune_server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match="is no recording"), neptune_server.replay(path):
        pass
    with neptune_server.record(path):
        pass
    good = path.read_text()
    for line in ('{"method": "UsersService.Nothing", "requests": [], "responses": []}', "no JSON", "[]"):
        path.write_text(f"{good}{line}\n")
        with pytest.raises(ValueError, match="line 2, is not of a recording"), neptune_server.replay(path):
            pass
    with pytest.raises(ValueError, match="pass api_token as well"), neptune_server.record(path, target="grpc://h:1"):
        pass
    with pytest.raises(OSError, match="No such file"), neptune_server.replay(tmp_path / "none"):
        pass


def test_differences_reach_into_messages() -> None:
    first = CreateUserResponse(user=UserIdentity(username="a"), api_token="x")
    second = CreateUserResponse(user=UserIdentity(username="b", email="e"))
    second.user.workspaces.add(organization_name="w")
    assert differences([first], [second]) == [
        ("user.username", "'a'", "'b'"),
        ("user.email", "nothing", "'e'"),
        ("user.workspaces", "nothing", '[organization_name: "w" ]'),
        ("api_token", "'x'", "nothing"),
    ]
    assert differences([first], [second], {"user"}) == [("api_token", "'x'", "nothing")]
    assert differences([first], [first, first]) != []
    assert differences([second], [second]) == []
