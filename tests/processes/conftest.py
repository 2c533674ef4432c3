"""Programs in processes of their own, and a server for them to call over each wire."""

from __future__ import annotations

import socket
import uuid
from typing import TYPE_CHECKING, Protocol

import pytest

from neptune_api.models import CreateProjectRequest
from neptune_api.server import LocalServer
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from tests.processes import programs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from signal import Signals

    from tests.processes.programs import Ended


class Run(Protocol):
    """Runs a script against the server."""

    def __call__(self, script: str, *arguments: str, number: Signals | None = None, **environment: str) -> Ended:
        """Run a script until it ends; `environment` are further variables."""


@pytest.fixture(scope="package")
def server() -> Iterator[LocalServer]:
    """A server in this process."""
    with LocalServer() as running:
        yield running


@pytest.fixture
def project(server: LocalServer) -> str:
    """A new project."""
    name = f"p-{uuid.uuid4().hex[:12]}"
    with server.channel() as channel:
        request = CreateProjectRequest(name=name, organization_identifier=server.workspace)
        ProjectsServiceStub(channel).CreateProject(request)
    return f"{server.workspace}/{name}"


@pytest.fixture
def hole() -> Iterator[str]:
    """An address where connections are taken and nothing is ever answered."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    """Each wire."""
    name: str = request.param
    return name


@pytest.fixture
def run(server: LocalServer, project: str, wire: str) -> Run:
    """Run a script against the server, over each wire."""
    target = server.grpc_url if wire == "grpc" else server.http_url
    known = programs.addresses(target, server.api_token, project)

    def run(script: str, *arguments: str, number: Signals | None = None, **environment: str) -> Ended:
        return programs.run(script, *arguments, environment=known | environment, number=number)

    return run
