"""Servers and people as behaviours know them, and refusals."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from neptune_api.conformance.lab import Lab
from neptune_api.exceptions import NeptuneApiError
from neptune_api.v1.ingest_pb2 import CreateRun, RequestStatus, RunOperation
from neptune_api.v1.projects_service_pb2 import AddProjectMemberRequest, NewProjectMember
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    import grpc

    from neptune_api.conformance.connections import Witness
    from neptune_api.options import ChannelOptions
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole
    from neptune_api.v1.roles_pb2 import ProjectRole, WorkspaceRole

StubT = TypeVar("StubT")
ErrorT = TypeVar("ErrorT", bound=NeptuneApiError)


class Connection(Protocol):
    """A channel of one user, on any wire."""

    def stub(self, stub_class: Callable[[grpc.Channel], StubT], /) -> StubT:
        """Return a stub whose methods are called synchronously."""


class Wire(Protocol):
    """A way to the server."""

    @property
    def http(self) -> bool:
        """It is the HTTP wire."""

    def connect(self, api_token: str | None = None) -> Connection:
        """Open a connection, as the owner of the workspace if no token is given."""


class Host(Protocol):
    """A server under test, as the owner of a workspace there."""

    @property
    def workspace(self) -> str:
        """Name of the workspace."""

    @property
    def username(self) -> str:
        """Name of the owner."""

    @property
    def api_token(self) -> str:
        """The API token of the owner. A secret."""

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC API as channel() takes it."""

    @property
    def http_url(self) -> str:
        """Base address of the HTTP API."""

    @property
    def witness(self) -> Witness | None:
        """Who is to know of the calls of tests."""

    def options(self, options: ChannelOptions) -> ChannelOptions:
        """Return options for a channel of a test with what every channel to this server needs."""

    def visit(self) -> AbstractContextManager[object]:
        """Return what goes round each test."""

    def channel(self) -> grpc.Channel:
        """Open a channel as the owner; the caller closes it."""

    def as_owner(self, stub_class: Callable[[grpc.Channel], StubT], /) -> StubT:
        """Return a stub of the owner's, for what a test needs before it begins."""

    def colleague(self, role: WorkspaceRole.ValueType = ...) -> Person:
        """Return a member of the workspace whom the test has not met; skip the test when there is none."""

    def outsider(self, workspace: str | None = None) -> Person:
        """Return a user who is not in the workspace, or owns another one; skip the test when there is none."""


@dataclass(frozen=True)
class Person:
    """A user of the server."""

    name: str
    api_token: str

    def projects(self, wire: Wire) -> ProjectsServiceStub:
        """Return the person's stub of the ProjectsService."""
        return wire.connect(self.api_token).stub(ProjectsServiceStub)

    def users(self, wire: Wire) -> UsersServiceStub:
        """Return the person's stub of the UsersService."""
        return wire.connect(self.api_token).stub(UsersServiceStub)

    def uuid(self, wire: Wire) -> str:
        """Return the person's UUID."""
        return self.users(wire).GetUserIdentity(GetUserIdentityRequest()).id


HOME: ContextVar[str] = ContextVar("HOME")
"""Name of the workspace under test, which the fixture `server` sets."""


def home() -> str:
    """Return the name of the workspace that the test lives in."""
    return HOME.get()


def unique(prefix: str) -> str:
    """Return a name that nothing on the server has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def is_unique(name: str) -> bool:
    """Tell whether a name has a part that nobody else would choose: only what has one is ever deleted by its name."""
    return re.search("[0-9a-f]{12}", name) is not None


def owner(server: Host) -> Person:
    """Return the owner of the workspace."""
    return Person(server.username, server.api_token)


def colleague(server: Host) -> Person:
    """Return a member of the workspace whom the test has not met."""
    return server.colleague()


def outsider(server: Host, workspace: str | None = None) -> Person:
    """Return a user who is not in the workspace of the server, or owns another one."""
    return server.outsider(workspace)


def add_member(wire: Wire, project: ProjectWithRole, person: Person, role: ProjectRole.ValueType) -> None:
    """Make a person a member of a project of the workspace."""
    member = NewProjectMember(user_id=person.name, role=role)
    wire.connect().stub(ProjectsServiceStub).AddProjectMember(
        AddProjectMemberRequest(project_identifier=project.id, member=member)
    )


def create_run(wire: Wire, person: Person, project: ProjectWithRole, run_id: str) -> RequestStatus:
    """Create a run as a person, wait until it is there, and return what became of the request."""
    connection: Any = wire.connect(person.api_token)
    lab = Lab(connection, f"{project.organization_name}/{project.name}")
    operation = RunOperation(project=lab.project, run_id=run_id, create=CreateRun())
    (status,) = lab.settled([lab.submit(operation)])
    return status


def refused(
    error_class: type[ErrorT],
    call: Callable[[], object],
    *,
    reason: str,
    fields: Iterable[str] = (),
) -> ErrorT:
    """Check that a call fails with an exception, a reason and violations of these fields, and return the exception."""
    with pytest.raises(error_class) as caught:
        call()
    error = caught.value
    assert type(error) is error_class
    assert error.error_info is not None
    assert error.error_info.reason == reason
    assert [violation.field for violation in error.violations] == list(fields)
    assert error.details()
    return error
