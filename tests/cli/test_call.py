"""`neptune-api call`: any method, JSON in, JSON out, sentences about what went wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from neptune_api.credentials import TOKEN_VARIABLE
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from tests.cli.processes import COMMAND, PATIENCE, environment

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.server import LocalServer


@pytest.fixture
def project(local: LocalServer) -> str:
    """A project of its own."""
    name = f"p-{uuid.uuid4().hex}"
    with local.channel() as channel:
        request = CreateProjectRequest(name=name, organization_identifier=local.workspace, description="Zażółć")
        ProjectsServiceStub(channel).CreateProject(request)
    return f"{local.workspace}/{name}"


def test_unary(process: Any, local: LocalServer, project: str) -> None:
    request = json.dumps({"projectIdentifier": project})
    answer = process("call", "ProjectsService.GetProjectDetails", request, token=local.api_token).no_token().json()
    assert answer["organizationName"] == local.workspace
    assert answer["userRoleInProject"] == "PROJECT_ROLE_MANAGER"
    assert answer["description"] == "Zażółć"


@pytest.mark.parametrize(
    "method",
    [
        "ProjectsService.GetProject",
        "neptune_api.v1.ProjectsService.GetProject",
        "/neptune_api.v1.ProjectsService/GetProject",
        "ProjectsService/GetProject",
        "projects.get_project",
        "Projects.getproject",
    ],
)
def test_names_of_methods(cli: Any, local: LocalServer, project: str, method: str) -> None:
    request = json.dumps({"project_identifier": project})
    assert project.endswith(cli("call", method, request, token=local.api_token).json()["name"])


def test_request_from_file_and_stdin(cli: Any, local: LocalServer, project: str, tmp_path: Path) -> None:
    text = json.dumps({"projectIdentifier": project})
    file = tmp_path / "request.json"
    file.write_text(text)
    for request, stdin in ((f"@{file}", ""), ("-", text)):
        answer = cli("call", "ProjectsService.GetProject", request, stdin=stdin, token=local.api_token)
        assert project.endswith(answer.json()["name"])


def test_no_request_is_the_empty_one(cli: Any, local: LocalServer) -> None:
    answer = cli("call", "UsersService.GetUserIdentity", token=local.api_token)
    assert answer.json()["username"] == "owner"


def test_token_from_option(cli: Any, local: LocalServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{local.api_token}\n")
    for token, stdin in ((local.api_token, ""), (f"@{file}", ""), ("-", local.api_token)):
        answer = cli("call", "UsersService.GetUserIdentity", "--token", token, stdin=stdin)
        assert answer.no_token().json()["username"] == "owner"


def test_anonymous_method_needs_no_token(cli: Any, local: LocalServer) -> None:
    answer = cli("call", "ConfigService.GetServerInfo", "--target", local.grpc_url)
    assert answer.json()["limits"]["maxRunIdBytes"] == "730"
    refused = cli("call", "UsersService.GetUserIdentity", "--target", local.grpc_url)
    assert refused.code == 2
    assert refused.err == f"There is no API token: pass --token or set {TOKEN_VARIABLE}.\n"
    nowhere = cli("call", "ConfigService.GetServerInfo")
    assert nowhere.code == 2
    assert "pass --target" in nowhere.err


def test_either_wire(cli: Any, local: LocalServer) -> None:
    for arguments in (("--transport", "http"), ("--transport", "auto"), ("--target", local.http_url)):
        answer = cli("call", "UsersService.GetUserIdentity", *arguments, token=local.api_token)
        assert answer.json()["username"] == "owner"
    refused = cli("call", "IngestService.SubmitStream", "[]", "--transport", "http", token=local.api_token)
    assert refused.code == 1
    assert "takes a stream of requests, which HTTP/1.1 cannot carry" in refused.err
    mixed = cli("call", "UsersService.GetUserIdentity", "--target", "grpcs://h:1", "--no-verify", token=local.api_token)
    assert mixed.code == 2
    assert "use the HTTP wire" in mixed.err


@pytest.mark.parametrize("form", ["array", "lines", "spread"])
def test_request_stream(cli: Any, local: LocalServer, project: str, form: str) -> None:
    operations = [{"project": project, "runId": f"r{number}", "create": {}} for number in range(3)]
    text = {
        "array": json.dumps(operations),
        "lines": "".join(f"{json.dumps(operation)}\n" for operation in operations),
        "spread": "\n\n".join(json.dumps(operation, indent=4) for operation in operations),
    }[form]
    answer = cli("call", "IngestService.SubmitStream", "-", stdin=text, token=local.api_token).json()
    assert len(answer["requestIds"]) == 3


def test_both_streams_print_an_object_per_line(cli: Any, local: LocalServer, project: str) -> None:
    operations = [{"project": project, "runId": f"r{number}", "create": {}} for number in range(3)]
    answer = cli("call", "IngestService.SubmitAcknowledged", json.dumps(operations), token=local.api_token)
    assert answer.code == 0
    assert [len(json.loads(line)["requestIds"]) for line in answer.out.splitlines()] == [1, 1, 1]


def test_refusals_of_the_server(process: Any, cli: Any, local: LocalServer) -> None:
    missing = process(
        "call", "ProjectsService.GetProject", '{"projectIdentifier": "no/such"}', token=local.api_token
    ).no_token()
    assert missing.code == 1
    assert missing.err.startswith("NOT_FOUND: ")
    assert missing.out == ""

    request = json.dumps({"name": "no/slash", "projectKey": "lower", "organizationIdentifier": local.workspace})
    invalid = cli("call", "ProjectsService.CreateProject", request, token=local.api_token)
    assert invalid.code == 1
    first, *details = invalid.err.splitlines()
    assert first.startswith("INVALID_ARGUMENT: ")
    assert [line.split(":")[0].strip() for line in details[:2]] == ["name", "project_key"]


def test_server_that_is_not_there(cli: Any) -> None:
    result = cli("call", "ConfigService.GetServerInfo", "--target", "grpc://127.0.0.1:1", "--timeout", "5")
    assert result.code == 1
    assert result.err.startswith("UNAVAILABLE: ")


def test_timeout(cli: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        target = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        result = cli("call", "ConfigService.GetServerInfo", "--target", target, "--timeout", "0.2")
    assert result.code == 1
    assert result.err.startswith((grpc.StatusCode.DEADLINE_EXCEEDED.name, grpc.StatusCode.UNAVAILABLE.name))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("ProjectsService.GetProjekt",), ("no method of ProjectsService", "GetProject")),
        (("ProjektsService.GetProject",), ("no service 'ProjektsService'", "did you mean ProjectsService?")),
        (("Zzz.Qqq",), ("no service", "neptune-api describe")),
        (("GetProject",), ("no method", "SERVICE.METHOD")),
        (("ProjectsService.GetProject", '{"a": 1,,}'), ("line 1, column 9",)),
        (
            ("ProjectsService.GetProject", '{"nothing": 1}'),
            ("The request has the field 'nothing', and GetProjectRequest has only projectIdentifier.\n",),
        ),
        (("UsersService.GetUserIdentity", '{"x": 1}'), ("GetUserIdentityRequest has no fields.\n",)),
        (("ProjectsService.GetProject", '{"projectIdentifier": 1}'), ("projectIdentifier",)),
        (("ProjectsService.GetProject", "[1]"), ("no JSON object",)),
        (("ProjectsService.GetProject", "{} {}"), ("2 JSON values",)),
        (("ProjectsService.GetProject", "[" * 100_000), ("nested too deeply",)),
        (("IngestService.SubmitStream", "[{}, 1]"), ("Request 1 is no JSON object",)),
        (("ProjectsService.GetProject", "@no/such/file"), ("no/such/file cannot be read: No such file",)),
        (("ProjectsService.GetProject", "-", "--token", "-"), ("both come from stdin",)),
        (("ProjectsService.GetProject", "{}", "--token", "nonsense"), ("not valid", "base64")),
        (("ProjectsService.GetProject", "{}", "--target", "ftp://x"), ("unknown scheme 'ftp'",)),
        (("ProjectsService.GetProject", "{}", "--timeout", "soon"), ("no number of seconds",)),
        ((), ("required",)),
    ],
)
def test_commands_that_cannot_be(
    cli: Any, local: LocalServer, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    result = cli("call", *arguments, token=local.api_token).no_token()
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def test_token_stays_on_this_machine(cli: Any, local: LocalServer) -> None:
    result = cli("call", "UsersService.GetUserIdentity", "--target", "grpc://192.0.2.1:1", token=local.api_token)
    assert result.code == 2
    assert "unencrypted" in result.err
    assert "--allow-insecure-token" in result.err
    assert "ChannelOptions" not in result.err


def test_reader_that_stops_reading(local: LocalServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "describe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 1
