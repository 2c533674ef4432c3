"""`neptune-api conformance`: it tells what holds and what does not, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from signal import SIGINT
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import grpc
import pytest

from neptune_api.credentials import ApiToken
from neptune_api.server.testing import ScriptedServer
from neptune_api.v1.config_service_pb2 import GetServerInfoRequest
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.projects_service_pb2 import ListProjectsRequest, ProjectWithRole
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2 import ListRunsResponse
from tests.cli import processes
from tests.own_servers import OwnServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from neptune_api.server import LocalServer
    from tests.cli.processes import Result

    Hold = Callable[..., Result]

FORK = "a fork sees its parent up to the fork point"
RUN = "a run is returned as it was created"


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with OwnServer(workspace="laboratory", username="ada") as running:
        yield running


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    """A function that holds a server to the contract, in a process of its own."""

    def run(server: LocalServer, *arguments: str, **changes: str) -> Result:
        command = ["conformance", "--rate", "0", "--target", server.grpc_url, *arguments]
        return processes.run(tmp_path, *command, token=server.api_token, **changes).no_token()

    return run


def table(result: Result) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the table: area -> holds, fails, skipped."""
    found = re.findall(r"^(\S.*?) +([\d,]+) +([\d,]+) +([\d,]+)$", result.out, re.MULTILINE)
    return {area: tuple(int(number.replace(",", "")) for number in numbers) for area, *numbers in found}


def entries(server: LocalServer) -> list[ProjectWithRole]:
    with server.channel() as channel:
        return list(ProjectsServiceStub(channel).ListProjects(ListProjectsRequest()).entries)


def projects_of(server: LocalServer) -> list[str]:
    return [entry.name for entry in entries(server)]


# What holds


def test_all_holds_over_both_wires(server: OwnServer, hold: Hold, tmp_path: Path) -> None:
    before = projects_of(server)
    result = hold(server, "--only", FORK, RUN, "--json", "r.json", "--junit", "r.xml")
    assert (result.code, result.err) == (0, ""), result.out
    assert result.out.startswith(f"{server.grpc_url}, {server.http_url}, version ")
    assert "as ada in laboratory, over grpc, http, http-json\n" in result.out
    areas = table(result)
    assert areas["runs"] == (3, 0, 0)
    assert areas["forks"] == (3, 0, 0)
    assert areas["total"] == (6, 0, 0)
    assert projects_of(server) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.xml"]

    written = json.loads((tmp_path / "r.json").read_text())
    assert written["complete"]
    assert (written["workspace"], written["username"], written["left"]) == ("laboratory", "ada", [])
    assert written["areas"]["runs"] == {"holds": 3, "fails": 0, "skipped": 0}
    assert len(written["behaviours"]) == areas["total"][0]
    assert {found["wire"] for found in written["behaviours"]} == {"grpc", "http", "http-json"}
    suites = ET.parse(tmp_path / "r.xml").getroot()
    assert {found.get("name"): int(found.get("tests", "")) for found in suites} == {
        "forks": 3,
        "runs": 3,
    }
    token = ApiToken.parse(server.api_token)
    for file in ("r.json", "r.xml"):
        assert token.api_key not in (tmp_path / file).read_text()


def test_what_needs_somebody_is_skipped_until_there_is_somebody(server: OwnServer, hold: Hold) -> None:
    name = "to outsiders runs do not exist"
    alone = hold(server, "--wire", "grpc", "--only", name)
    assert alone.code == 0
    assert table(alone)["runs"] == (0, 0, 1)
    assert "needs a member of the workspace: --token-of colleague=VARIABLE" in alone.out
    accompanied = hold(
        server,
        *("--wire", "grpc", "--only", name, "--token-of", "colleague=SOMEBODY", "--token-of", "outsider=STRANGER"),
        SOMEBODY=server.colleague().api_token,
        STRANGER=server.outsider().api_token,
    )
    assert accompanied.code == 0
    assert table(accompanied)["runs"] == (1, 0, 0)


def test_users_are_not_created(server: OwnServer, hold: Hold) -> None:
    result = hold(server, "--wire", "grpc", "--only", "created user belongs to the workspace and can call")
    assert result.code == 0
    assert table(result)["users"] == (0, 0, 1)
    assert "would create a user, and no call deletes one" in result.out


# What does not


def test_wrong_answers_and_errors_are_told(tmp_path: Path, hold: Hold) -> None:
    chosen = (FORK, RUN, "runs are listed oldest first in pages", "order by aggregates")
    with ScriptedServer(workspace="laboratory", username="ada") as server:
        server.faults.fail(grpc.StatusCode.INTERNAL, "The disk burns.", method="GetFloatSeriesValues", times=None)
        server.replies.add("RunsService.ListRuns", ListRunsResponse(), times=20)
        server.faults.fail(grpc.StatusCode.INVALID_ARGUMENT, "No.", method="SearchLeaderboardEntries", times=None)
        result = hold(server, "--wire", "http", "--only", *chosen, "--json", "r.json")
        with server.undirected():
            assert projects_of(server) == []
    assert result.code == 1, result.err
    assert table(result) == {"forks": (0, 2, 0), "runs": (2, 2, 0), "search": (0, 2, 0), "total": (2, 6, 0)}
    assert f"\nforks: {FORK} [http, http-json]\n    seen: INTERNAL: The disk burns.\n" in result.out
    assert "\nsearch: order by aggregates [http, http-json]\n    seen: INVALID_ARGUMENT: No.\n" in result.out
    assert "\nruns: runs are listed oldest first in pages [http, http-json]\n    seen: " in result.out
    written = json.loads((tmp_path / "r.json").read_text())
    failing = [found for found in written["behaviours"] if found["outcome"] == "fails"]
    assert len(failing) == 6
    assert all(found["seen"] for found in failing)


def test_projects_of_failing_behaviours_can_be_kept(hold: Hold) -> None:
    with ScriptedServer() as server:
        server.faults.fail(grpc.StatusCode.INTERNAL, "Broken.", method="RunsService.CreateRun", times=None)
        result = hold(server, "--wire", "grpc", "--keep-project", "--only", RUN, "previews")
        assert result.code == 1
        (kept,) = entries(server)
        assert f"Left behind: {kept.id}" in result.out


def test_after_an_interrupt_nothing_is_left(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        command = [*processes.COMMAND, "conformance", "--target", server.http_url, "--wire", "http", "--rate", "0"]
        environment = processes.environment(NEPTUNE_API_TOKEN=server.api_token)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
        ) as process:
            tick = threading.Event()
            while len(server.recorder.calls("CreateProject")) < 3 and process.poll() is None:
                tick.wait(0.02)
            process.send_signal(SIGINT)
            out, err = process.communicate(timeout=processes.PATIENCE)
        assert (process.returncode, err) == (130, ""), out
        assert "Interrupted: the table has what was tried until then." in out
        assert projects_of(server) == []


# What cannot be


def test_a_target_that_is_not_there(server: OwnServer, hold: Hold, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for scheme in ("grpc", "http"):
            url = f"{scheme}://127.0.0.1:{closed.getsockname()[1]}"
            command = ["conformance", "--target", url, "--wire", scheme]
            result = processes.run(tmp_path, *command, token=server.api_token).no_token()
            assert (result.code, result.out) == (2, "")
            assert result.err.startswith(f"{url} cannot be reached. UNAVAILABLE: ")


class Other(BaseHTTPRequestHandler):
    """A server of something else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"<html>Welcome!</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # as the base class names it
        """Say nothing."""


def test_a_server_of_something_else(server: OwnServer, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        try:
            command = ["conformance", "--target", url, "--wire", "http"]
            result = processes.run(tmp_path, *command, token=server.api_token).no_token()
        finally:
            other.shutdown()
            thread.join()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"{url} answers, but not as a server of the Neptune API. ")


def test_a_wrong_token(server: OwnServer, tmp_path: Path) -> None:
    forged = ApiToken.mint(api_url=server.http_url, grpc_url=server.grpc_url).encode()
    result = processes.run(tmp_path, "conformance", "--target", server.grpc_url, token=forged).no_token()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("The server does not accept the API token. UNAUTHENTICATED: ")


def test_no_permission_to_create_projects(server: OwnServer, tmp_path: Path) -> None:
    stranger = server.outsider().api_token
    command = ["conformance", "--target", server.grpc_url]
    nowhere = processes.run(tmp_path, *command, token=stranger).no_token()
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "is in no workspace: name one with --workspace." in nowhere.err
    elsewhere = processes.run(tmp_path, *command, "--workspace", "laboratory", token=stranger).no_token()
    assert (elsewhere.code, elsewhere.out) == (2, "")
    assert "cannot create projects in the workspace laboratory. " in elsewhere.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "grpc://127.0.0.1:1", "--target", "grpc://127.0.0.1:2"], "are both for grpc"),
        (["--target", "ftp://127.0.0.1"], "unknown scheme 'ftp'"),
        (["--target", "grpc://localhost:1", "--wire", "both"], "There is no address for http: the token names none"),
        (["--token-of", "colleague=NOBODY"], "There is no API token of a colleague in NOBODY."),
        (["--token-of", "boss=X"], "'boss=X' is not colleague=VARIABLE or outsider=VARIABLE"),
        (["--rate", "fast"], "'fast' is no number of calls"),
        (["--json", "/nowhere/r.json"], "/nowhere/r.json cannot be written"),
        (["--token", "nonsense"], "The API token from --token is not valid"),
    ],
)
def test_wrong_usage(cli: Any, server: OwnServer, arguments: list[str], sentence: str) -> None:
    result = cli("conformance", *arguments, token=server.api_token).no_token()
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err


def test_no_token(cli: Any) -> None:
    result = cli("conformance", "--target", "grpc://127.0.0.1:1")
    assert (result.code, result.err) == (2, "There is no API token: pass --token or set NEPTUNE_API_TOKEN.\n")


def test_names_are_looked_up(server: OwnServer, hold: Hold) -> None:
    result = hold(server, "--only", "fork")
    assert (result.code, result.out) == (2, "")
    assert result.err == "No area and no behaviour is called 'fork'; did you mean 'forks'?\n"


def test_other_limits_are_told(hold: Hold) -> None:
    with ScriptedServer() as server:
        with server.channel() as channel:
            info = ConfigServiceStub(channel).GetServerInfo(GetServerInfoRequest())
        info.limits.max_run_id_bytes = 100
        server.replies.add("ConfigService.GetServerInfo", info, times=10)
        result = hold(server, "--wire", "grpc", "--only", RUN)
    assert result.code == 0
    assert result.out.endswith(
        "Limits of this server that the behaviours at a limit do not expect:\n    max_run_id_bytes is 100, not 730\n"
    )
