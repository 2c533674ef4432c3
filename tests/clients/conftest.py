"""Released clients, unmodified, in environments of their own, over HTTP; what they write our stubs read over gRPC."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.lab import Lab
from neptune_api.server import LocalServer
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from tests.clients.reading import FETCHER, QUERY, Reader
from tests.environments import Environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCALE = Environment("neptune-scale", ("neptune-scale==0.30.0",), package=False)
DRIVER = Path(__file__).with_name("scale_driver.py")
PATIENCE = 120.0

Step = tuple[str, dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here as slow: processes of the client take seconds to start and to end."""
    for item in items:
        if item.path.parent == DRIVER.parent:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Outcome:
    """What a process of the client did."""

    results: list[Any]
    """What each step returned."""
    reports: list[tuple[str, str]]
    """What the client told its callbacks: the kind, and the error."""
    output: str
    """What it wrote."""


@dataclass
class Scale:
    """Runs neptune-scale in processes of their own."""

    server: LocalServer
    project: str
    folder: Path

    def environment(self, **changes: str) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("NEPTUNE_") and name != "PYTHONPATH" and not name.lower().endswith("_proxy")
        }
        token = {"NEPTUNE_API_TOKEN": self.server.api_token, "NEPTUNE_PROJECT": self.project}
        return {**inherited, **token, "NEPTUNE_DISABLE_COLORS": "1", **changes}

    def start(self, *steps: Step, folder: Path | None = None, **changes: str) -> Process:
        """Start a process that does the steps, in a folder that is no checkout; `changes` are for its environment."""
        return Process(steps, self.folder if folder is None else folder, self.environment(**changes))

    def do(self, *steps: Step, folder: Path | None = None, **changes: str) -> Outcome:
        """Do the steps in one process and return what came of them, which is nothing to report."""
        outcome = self.try_to(*steps, folder=folder, **changes)
        assert outcome.reports == [], outcome.output
        return outcome

    def try_to(self, *steps: Step, folder: Path | None = None, **changes: str) -> Outcome:
        """Do the steps in one process and return what came of them."""
        return self.start(*steps, folder=folder, **changes).outcome()

    def log(self, run: str, *steps: Step, **opening: Any) -> Outcome:
        """Open a run, do the steps and close it once the server has applied everything."""
        return self.do(("open", {"run_id": run, **opening}), *steps, *CLOSE)

    def command(self, *arguments: str) -> str:
        """Run the command line of the client."""
        done = subprocess.run(
            [SCALE.python().with_name("neptune"), *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


CLOSE: tuple[Step, Step] = (("wait_for_processing", {"timeout": 60, "verbose": False}), ("close", {}))


class Process:
    """A process of the client."""

    def __init__(self, steps: tuple[Step, ...], folder: Path, environment: Mapping[str, str]) -> None:
        self._report = folder / f"outcome-{uuid.uuid4().hex}.json"
        self._process = subprocess.Popen(
            [SCALE.python(), DRIVER, self._report],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(pickle.dumps(steps))
        self._process.stdin = None

    def outcome(self) -> Outcome:
        """Wait for its end."""
        try:
            written, _ = self._process.communicate(timeout=PATIENCE)
        except BaseException:
            # The processes that it has started, too, which the client has for sending.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            raise
        output = written.decode()
        assert self._process.returncode == 0, output
        found = json.loads(self._report.read_text())
        assert found["version"] == "0.30.0"
        return Outcome(found["results"], [(kind, error) for kind, error in found["reports"]], output)


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    """A server for the session; tests keep apart by projects of their own."""
    with LocalServer() as running:
        yield running


@pytest.fixture(scope="session")
def connection(server: LocalServer) -> Iterator[GrpcConnection]:
    """The stubs that read."""
    opened = GrpcConnection(server.channel(), http=False)
    yield opened
    opened.close()


def create_project(server: LocalServer, connection: GrpcConnection) -> str:
    """Return a new project, as `workspace/name`."""
    name = f"p-{uuid.uuid4().hex}"
    request = CreateProjectRequest(name=name, organization_identifier=server.workspace)
    connection.stub(ProjectsServiceStub).CreateProject(request)
    return f"{server.workspace}/{name}"


@pytest.fixture
def project(server: LocalServer, connection: GrpcConnection) -> str:
    """A project that no other test uses."""
    return create_project(server, connection)


@pytest.fixture
def lab(connection: GrpcConnection, project: str) -> Lab:
    """The project, read through the stubs."""
    return Lab(connection, project)


@pytest.fixture
def scale(server: LocalServer, project: str, tmp_path: Path) -> Scale:
    """The client that logs."""
    return Scale(server, project, tmp_path)


@dataclass(frozen=True)
class Written:
    """What the tests of clients that read find on the server: see tests/clients/written.py."""

    project: str
    other_project: str


@pytest.fixture(scope="session")
def written(server: LocalServer, connection: GrpcConnection, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two projects, logged by neptune-scale."""
    from tests.clients import written as logged  # it logs by what is here

    found = Written(create_project(server, connection), create_project(server, connection))
    folder = tmp_path_factory.mktemp("written")
    started = [
        Scale(server, project, folder).start(*steps)
        for project, processes in (
            (found.project, logged.main_project()),
            (found.other_project, logged.other_project()),
        )
        for steps in processes
    ]
    outcomes = [process.outcome() for process in started]
    assert [outcome.reports for outcome in outcomes] == [[]] * len(outcomes)
    return found


def reader_of(
    client: Environment, server: LocalServer, written: Written, folder: Path, **changes: str
) -> Iterator[Reader]:
    quick = {f"NEPTUNE_{name}_RETRY_SOFT_TIMEOUT": "30" for name in ("QUERY", "FETCHER")}
    environment = Scale(server, written.project, folder).environment(PYTHONWARNINGS="ignore", **quick, **changes)
    reader = Reader(client, environment, folder)
    reader.project = written.project
    yield reader
    reader.close()


@pytest.fixture(scope="session")
def query(server: LocalServer, written: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The client neptune-query, which reads the main project."""
    yield from reader_of(QUERY, server, written, tmp_path_factory.mktemp("query"))


@pytest.fixture(scope="session")
def fetcher(server: LocalServer, written: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The client neptune-fetcher, which reads the main project."""
    yield from reader_of(FETCHER, server, written, tmp_path_factory.mktemp("fetcher"))
