"""The plugin as others have it: test files in folders of their own, run by pytest in processes of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neptune_api.server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
CALLS = """
    import asyncio, os
    import neptune_api
    from neptune_api.models import GetProjectRequest
    from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

    def test_sync(neptune_channel, neptune_project):
        request = GetProjectRequest(project_identifier=neptune_project)
        project = ProjectsServiceStub(neptune_channel).GetProject(request)
        assert f"{project.organization_name}/{project.name}" == neptune_project == os.environ["NEPTUNE_PROJECT"]

    def test_aio(neptune_aio_channel, neptune_project):
        async def read():
            async with neptune_aio_channel() as channel:
                request = GetProjectRequest(project_identifier=neptune_project)
                return await ProjectsServiceStub(channel).GetProject(request)
        assert asyncio.run(read()).name in neptune_project

    def test_environment(neptune_api_token):
        assert os.environ["NEPTUNE_API_TOKEN"] == neptune_api_token
        assert "NEPTUNE_PROJECT" not in os.environ
"""
DIRECTED = """
    def test_door(neptune_server, neptune_channel, neptune_project):
        from neptune_api.models import GetProjectRequest
        from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
        ProjectsServiceStub(neptune_channel).GetProject(GetProjectRequest(project_identifier=neptune_project))
        assert {call.door for call in neptune_server.recorder} == {"WIRE"}
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Nothing of the environment of this run."""
    for name in ("NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error\n")
    return ()


def outcomes(pytester: pytest.Pytester, *arguments: str) -> tuple[dict[str, int], str]:
    result = pytester.runpytest_subprocess(*arguments)
    return result.parseoutcomes(), result.stdout.str()


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_fixtures_speak_the_wire_that_was_asked_for(pytester: pytest.Pytester, run: object, wire: str) -> None:
    pytester.makepyfile(test_calls=CALLS, test_directed=DIRECTED.replace("WIRE", wire))
    assert outcomes(pytester, f"--neptune-wire={wire}")[0] == {"passed": 4}


def test_workers_have_servers_of_their_own(pytester: pytest.Pytester, run: object) -> None:
    pytester.makepyfile(
        """
        import os, pathlib, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_port(neptune_server, neptune_project, number):
            worker = os.environ["PYTEST_XDIST_WORKER"]
            pathlib.Path(f"{worker}-{neptune_server.grpc_target.replace(':', '-')}").touch()
        """
    )
    assert outcomes(pytester, "-n2")[0] == {"passed": 6}
    seen = [path.name.partition("-") for path in pytester.path.glob("gw*")]
    assert {worker for worker, _, _ in seen} == {"gw0", "gw1"}
    assert len(seen) == len({port for _, _, port in seen}) == 2


def test_replies_left_over_fail_their_test_and_no_other(pytester: pytest.Pytester, run: object) -> None:
    pytester.makepyfile(
        """
        from neptune_api.models import RequestStatus, UserIdentity

        def test_unused(neptune_server):
            neptune_server.replies.add("GetUserIdentity", UserIdentity())

        def test_unfit(neptune_server):
            neptune_server.replies.add("GetUserIdentity", RequestStatus())

        def test_next(neptune_server):
            assert len(neptune_server.recorder) == 0
        """
    )
    result, output = outcomes(pytester)
    assert result == {"failed": 2, "passed": 1}
    assert "UsersService.GetUserIdentity: used 0 of 1 times" in output
    assert "TypeError: UsersService.GetUserIdentity answers neptune_api.v1.UserIdentity" in output


def test_every_test_begins_anew(pytester: pytest.Pytester, run: object) -> None:
    pytester.makepyfile(
        """
        import grpc, time

        def test_first(neptune_server, neptune_project):
            neptune_server.faults.fail(grpc.StatusCode.INTERNAL, times=None)
            neptune_server.clock.advance(10**6)

        def test_second(neptune_server, neptune_channel, neptune_project):
            from neptune_api.models import GetUserIdentityRequest
            from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
            UsersServiceStub(neptune_channel).GetUserIdentity(GetUserIdentityRequest())
            assert abs(neptune_server.clock() - time.time()) < 60
        """
    )
    assert outcomes(pytester)[0] == {"passed": 2}


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_a_server_elsewhere_is_used_and_left_as_it_was(
    pytester: pytest.Pytester, run: object, wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_calls=CALLS.replace('"NEPTUNE_PROJECT" not in', '"HOME" in'), test_directed=DIRECTED)
    with LocalServer() as server:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", server.api_token)
        target = server.grpc_url if wire == "grpc" else server.http_url
        result, output = outcomes(pytester, f"--neptune-target={target}", "-rs")
        assert result == {"passed": 3, "skipped": 1}
        assert "neptune_server.recorder is of servers that the run starts itself" in output
        assert server.api_token not in output
        with server.channel() as channel:
            from neptune_api.models import ListProjectsRequest
            from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

            assert not ProjectsServiceStub(channel).ListProjects(ListProjectsRequest()).entries


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--neptune-wire=smoke"], "argument --neptune-wire: invalid choice: 'smoke'"),
        (
            ["--neptune-target=grpc://127.0.0.1:1"],
            "--neptune-target=grpc://127.0.0.1:1: tests against a server elsewhere need an API token of that server",
        ),
        (["--neptune-target=nowhere"], "--neptune-target=nowhere: "),
        (["--neptune-target=ftp://here:1"], "--neptune-target=ftp://here:1: "),
    ],
)
def test_options_that_cannot_be_are_told_before_anything_runs(
    pytester: pytest.Pytester, run: object, options: list[str], sentence: str
) -> None:
    pytester.makepyfile(CALLS)
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_options_that_contradict_each_other_are_told(
    pytester: pytest.Pytester, run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "secret")
    result = pytester.runpytest_subprocess("--neptune-target=grpc://127.0.0.1:1", "--neptune-wire=http")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--neptune-wire=http contradicts --neptune-target=grpc://127.0.0.1:1" in result.stderr.str()


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_a_server_that_cannot_be_reached_or_knows_no_token_is_told(
    pytester: pytest.Pytester, run: object, wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(CALLS)
    with LocalServer() as server, LocalServer() as other:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", other.api_token)
        target = server.grpc_url if wire == "grpc" else server.http_url
        result, output = outcomes(pytester, f"--neptune-target={target}")
        assert result == {"errors": 3}
        assert f"--neptune-target={target}: UNAUTHENTICATED: " in output
        assert other.api_token not in output
    result, output = outcomes(pytester, f"--neptune-target={target}", "-x")
    assert result == {"errors": 1}
    assert f"--neptune-target={target}: UNAVAILABLE: " in output
    assert "def neptune_server" not in output


def test_a_run_that_does_without_pays_for_one_small_module(run: object) -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import neptune_api.pytest_plugin;"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"neptune_api", "neptune_api._version", "neptune_api.pytest_plugin"}


def test_the_project_of_the_documents_holds(pytester: pytest.Pytester, run: object) -> None:
    shutil.copy(ROOT / "examples/test_training.py", pytester.path)
    assert set(outcomes(pytester, "-n2")[0]) == {"passed"}
