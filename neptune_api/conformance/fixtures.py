"""What behaviours ask for: a server, a wire to it, a project, people.

Who runs the suite says where: `config.stash[MATRIX]` has the wires and stores, the session fixture `hosts` the servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import pytest

from neptune_api.conformance.connections import BackgroundLoop, RequestStreamRefused, Wire
from neptune_api.conformance.people import HOME, unique
from neptune_api.v1.projects_service_pb2 import AddProjectMemberRequest, CreateProjectRequest, NewProjectMember
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MEMBER, WORKSPACE_ROLE_MEMBER

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from neptune_api.conformance.people import Host, Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole
    from neptune_api.v1.roles_pb2 import ProjectRole, WorkspaceRole

__all__ = [
    "_loop",
    "boss",
    "identifier",
    "make_user",
    "project",
    "pytest_generate_tests",
    "pytest_pyfunc_call",
    "server",
    "store",
    "wire",
    "workspace",
]

MATRIX: Final = pytest.StashKey[tuple[tuple[str, str], ...]]()
"""The lines of wire and store that each behaviour runs over. Stores have names that `hosts` knows."""


ONCE_PER_DOOR: Final = "once_per_door"
"""Mark of tests of what the server alone does with a message: neither coroutines nor the store make a difference."""


class Hosts(Protocol):
    """The servers of a session, by store."""

    def get(self, store: str) -> Host:
        """Return the server over a store, the same one for the whole session."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a test end well at its first stream of requests over HTTP: that it is refused, and how, has been checked."""
    try:
        return (yield)
    except RequestStreamRefused:
        return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per line of the matrix."""
    if "wire" in metafunc.fixturenames:
        matrix = metafunc.config.stash.get(MATRIX, None)
        if matrix is None:
            raise pytest.UsageError("behaviours run by `neptune-api conformance --target URL`, which says where")
        if metafunc.definition.get_closest_marker(ONCE_PER_DOOR) is not None:
            matrix = tuple(line for line in matrix if line[1] == matrix[0][1] and line[0] != "grpc-aio")
        names = [wire if store in {"", "sqlite"} else f"{wire}-{store}" for wire, store in matrix]
        metafunc.parametrize(("wire", "store"), matrix, ids=names, indirect=["wire"])


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """The store under the server; the matrix says which."""
    return request.config.stash[MATRIX][0][1]


@pytest.fixture
def server(hosts: Hosts, store: str) -> Iterator[Host]:
    """The server over the store, the same one for the whole session; tests keep apart by projects of their own."""
    host = hosts.get(store)
    HOME.set(host.workspace)
    with host.visit():
        yield host


@pytest.fixture(scope="session")
def _loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture
def wire(request: pytest.FixtureRequest, server: Host, _loop: BackgroundLoop) -> Iterator[Wire]:
    """Every wire in turn; `wire.connect()` logs in and returns a connection."""
    opened = Wire(request.param, server, _loop, server)
    yield opened
    opened.close()


@pytest.fixture
def project(server: Host) -> ProjectWithRole:
    """A private project of the owner that no other test uses."""
    request = CreateProjectRequest(name=unique("p"), organization_identifier=server.workspace)
    return server.as_owner(ProjectsServiceStub).CreateProject(request)


@pytest.fixture
def identifier(project: ProjectWithRole) -> str:
    """The project's identifier, `workspace/name`."""
    return f"{project.organization_name}/{project.name}"


@pytest.fixture
def make_user(server: Host) -> Callable[..., Person]:
    """A function that finds a user: a member of the workspace and, with `project`, of a project."""

    def make(
        project: str | None = None,
        role: ProjectRole.ValueType = PROJECT_ROLE_MEMBER,
        *,
        workspace_role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER,
    ) -> Person:
        person = server.colleague(workspace_role)
        if project is not None:
            member = NewProjectMember(user_id=person.name, role=role)
            request = AddProjectMemberRequest(project_identifier=project, member=member)
            server.as_owner(ProjectsServiceStub).AddProjectMember(request)
        return person

    return make


@pytest.fixture
def workspace(server: Host) -> str:
    """A fresh workspace; its owner is not the owner of the server's."""
    return unique("workspace")


@pytest.fixture
def boss(server: Host, workspace: str) -> Person:
    """The owner of the fresh workspace."""
    return server.outsider(workspace)
