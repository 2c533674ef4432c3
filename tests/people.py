"""Users, roles and refusals for the contract tests."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest

from neptune_api.exceptions import NeptuneApiError
from neptune_api.server.store.directory import ensure_owner
from neptune_api.v1.ingest_pb2 import CreateRun, RequestStatus, RunOperation
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import AddProjectMemberRequest, NewProjectMember
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import grpc

    from neptune_api.server.identity import Identity
    from neptune_api.server.local import LocalServer
    from neptune_api.server.store.directory import Directory
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole
    from neptune_api.v1.roles_pb2 import ProjectRole

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


def unique(prefix: str) -> str:
    """Return a name that nothing on the server has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def owner(server: LocalServer) -> Person:
    """Return the owner of the workspace."""
    return Person(server.username, server.api_token)


def colleague(server: LocalServer) -> Person:
    """Return a new member of the workspace."""
    name = unique("colleague")
    return Person(name, server.create_user(name))


def outsider(server: LocalServer, workspace: str | None = None) -> Person:
    """Return a new user who is in no workspace, or owns another one.

    No RPC creates such users: the directory and the identity of the running server do.
    """
    identity: Identity = server._running._identity
    directory: Directory = identity._directory
    name = unique("outsider")
    user = directory.create_user(name) if workspace is None else ensure_owner(directory, workspace, name)
    return Person(name, identity.api_token_of(user.id))


def add_member(wire: Wire, project: ProjectWithRole, person: Person, role: ProjectRole.ValueType) -> None:
    """Make a person a member of a project of the workspace."""
    member = NewProjectMember(user_id=person.name, role=role)
    wire.connect().stub(ProjectsServiceStub).AddProjectMember(
        AddProjectMemberRequest(project_identifier=project.id, member=member)
    )


def create_run(wire: Wire, server: LocalServer, person: Person, project: ProjectWithRole, run_id: str) -> RequestStatus:
    """Create a run as a person, wait until it is there, and return what became of the request."""
    connection = wire.connect(person.api_token)
    operation = RunOperation(project=f"{project.organization_name}/{project.name}", run_id=run_id, create=CreateRun())
    request_id = connection.stub(IngestServiceStub).Submit(operation).request_id
    [outcome] = server._running._store.wait_applied([request_id], 10)
    assert outcome.status is not None
    return RequestStatus.FromString(outcome.status)


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
