"""A server elsewhere: looked at before the behaviours run, tidied up after each."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
import pytest

import neptune_api
from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.people import Person, is_unique, unique
from neptune_api.exceptions import NeptuneApiError, NotFoundException, UnauthorizedException
from neptune_api.options import ChannelOptions
from neptune_api.v1.config_service_pb2 import GetClientConfigRequest, GetServerInfoRequest, ServerInfo
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_pb2 import RunOperation
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, DeleteProjectRequest, ProjectWithRole
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import WORKSPACE_ROLE_MEMBER
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from neptune_api.v1.roles_pb2 import WorkspaceRole

StubT = TypeVar("StubT")

ROLES: Final = ("colleague", "outsider")
"""Whose tokens can be given beside the owner's: members of the workspace, and users who are not in it."""

_ASKING: Final = 15.0  # seconds to find out whether there is a server at all
_LOST: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
# After these nothing was made; after any other, something may have been.
_REFUSED: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


_LASTING: Final = {
    "UsersService.CreateUser": "would create a user, and no call deletes one",
    "AuthService.RevokeApiToken": "would revoke the token that it was given",
}
"""What cannot be tidied up afterwards, so is left to servers of this project."""


class TargetError(Exception):
    """Say in one sentence why behaviours cannot run on a server."""


@dataclass
class Pace:
    """Keeps calls from coming faster than so many a second; 0 lets them come as they like."""

    rate: float
    _next: float = field(default=0.0, init=False)

    def wait(self) -> None:
        """Wait until the next call may go out."""
        if self.rate:
            now = time.monotonic()
            time.sleep(max(0.0, self._next - now))
            self._next = max(now, self._next) + 1 / self.rate


class Target:
    """A server at addresses, as a user who may make projects there; it knows what tests made, and deletes it."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        api_token: str,
        *,
        workspace: str | None = None,
        people: Mapping[str, Sequence[str]] | None = None,
        options: ChannelOptions | None = None,
        rate: float = 0.0,
        keep: bool = False,
    ) -> None:
        """Take the address for each wire, `grpc` or `http`, and the API token of the owner and those of other people.

        `keep` leaves the projects of tests that fail. Nothing is called before inspect().
        """
        self.addresses: Final = dict(addresses)
        self.api_token: Final = api_token
        self.workspace = workspace or ""
        self.username = ""
        self.info = ServerInfo()
        self.left: list[str] = []
        """Projects that are still there, by UUID or name."""
        self.failed = False
        """The test under way has failed."""
        self._people_tokens = {role: list((people or {}).get(role, ())) for role in ROLES}
        self._people: dict[str, list[Person]] = {}
        self._met: dict[str, int] = {}
        self._options = ChannelOptions() if options is None else options
        self._pace = Pace(rate)
        self._keep = keep
        self._made: dict[str, str] = {}
        self._connections: dict[str, GrpcConnection] = {}

    # What tests are given

    @property
    def grpc_url(self) -> str:
        return self.addresses.get("grpc", "")

    @property
    def http_url(self) -> str:
        return self.addresses.get("http", "")

    @property
    def witness(self) -> Target:
        return self

    def options(self, options: ChannelOptions) -> ChannelOptions:
        mine = self._options
        return replace(
            options, ca_file=mine.ca_file, verify=mine.verify, allow_insecure_token=mine.allow_insecure_token
        )

    def channel(self) -> grpc.Channel:
        return self._open(self.api_token)

    def as_owner(self, stub_class: Callable[[grpc.Channel], StubT], /) -> StubT:
        stub: StubT = self._connection(self.api_token).stub(stub_class)  # type: ignore[arg-type]  # stubs are classes
        return stub

    def colleague(self, role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER) -> Person:
        if role != WORKSPACE_ROLE_MEMBER:
            pytest.skip("needs one more owner of the workspace")
        return self._meet("colleague", "a member of the workspace")

    def outsider(self, workspace: str | None = None) -> Person:
        if workspace is not None:
            pytest.skip("needs a workspace of its own")
        return self._meet("outsider", "a user who is not in the workspace")

    def _meet(self, role: str, who: str) -> Person:
        position = self._met[role] = self._met.get(role, 0) + 1
        if position > len(self._people.get(role, ())):
            pytest.skip(f"needs {who if position == 1 else f'{position} {role}s'}: --token-of {role}=VARIABLE")
        return self._people[role][position - 1]

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Let a test run, and delete what it made."""
        self.failed = False
        self._met.clear()
        try:
            yield
        finally:
            if self.failed and self._keep:
                self.left += self._made
                self._made.clear()
            self.tidy()

    def before_call(self, method: str) -> None:
        if method in _LASTING:
            pytest.skip(_LASTING[method])
        self._pace.wait()

    def after_call(self, api_token: str, method: str, request: Any, outcome: Any) -> None:
        """Remember projects that a call made, or may have made."""
        if method == "ProjectsService.CreateProject" and isinstance(request, CreateProjectRequest):
            if isinstance(outcome, ProjectWithRole):
                self._made[outcome.id] = api_token
            elif is_unique(request.name) and not (isinstance(outcome, NeptuneApiError) and outcome.code() in _REFUSED):
                self._made[f"{self.workspace}/{request.name}"] = api_token
        elif method.startswith("IngestService.Submit"):
            for operation in request if isinstance(request, list) else [request]:
                if (
                    isinstance(operation, RunOperation)
                    and operation.create_missing_project
                    and is_unique(operation.project)
                ):
                    self._made.setdefault(operation.project, api_token)

    # Before and after

    def inspect(self) -> None:
        """Find out who is there and whether tests can run. Raises TargetError."""
        for url in self.addresses.values():
            self._look_at(url)
        me = self._identity(self.api_token, "the API token")
        self.username = me.username
        if not self.workspace:
            if not me.workspaces:
                raise TargetError(f"{me.username} is in no workspace: name one with --workspace.")
            self.workspace = me.workspaces[0].organization_name
        for role, tokens in self._people_tokens.items():
            self._people[role] = [
                Person(self._identity(token, f"the token of {role} {number}").username, token)
                for number, token in enumerate(tokens, 1)
            ]
        with suppress(NeptuneApiError):  # servers of others may not have it
            self.info = self.as_owner(ConfigServiceStub).GetServerInfo(GetServerInfoRequest(), timeout=_ASKING)
        request = CreateProjectRequest(name=unique("conformance"), organization_identifier=self.workspace)
        try:
            self.as_owner(ProjectsServiceStub).CreateProject(request, timeout=_ASKING)
        except NeptuneApiError as error:
            self._made.clear()
            raise TargetError(
                f"{self.username} cannot create projects in the workspace {self.workspace}. "
                f"{error.code().name}: {error.details()}"
            ) from error
        self.tidy()
        if self.left:
            raise TargetError(f"{self.username} cannot delete the project {self.left[0]}, and tests would leave many.")

    def _look_at(self, url: str) -> None:
        try:
            with self._open("", url) as anonymous:
                ConfigServiceStub(anonymous).GetClientConfig(GetClientConfigRequest(), timeout=_ASKING)
        except NeptuneApiError as error:
            said = f"{error.code().name}: {error.details()}"
            if error.code() in _LOST:
                raise TargetError(f"{url} cannot be reached. {said}") from error
            raise TargetError(f"{url} answers, but not as a server of the Neptune API. {said}") from error

    def _identity(self, api_token: str, what: str) -> Any:
        try:
            with self._open(api_token) as channel:
                return UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest(), timeout=_ASKING)
        except UnauthorizedException as error:
            raise TargetError(f"The server does not accept {what}. {error.code().name}: {error.details()}") from error
        except NeptuneApiError as error:
            raise TargetError(
                f"The server does not say whom {what} belongs to. {error.code().name}: {error.details()}"
            ) from error

    def _open(self, api_token: str, url: str = "") -> grpc.Channel:
        address = url or self.grpc_url or self.http_url
        return neptune_api.channel(address, api_token=api_token, options=self._options)

    def _connection(self, api_token: str) -> GrpcConnection:
        if api_token not in self._connections:
            opened = GrpcConnection(self._open(api_token), http="grpc" not in self.addresses)
            opened.api_token, opened.witness = api_token, self
            self._connections[api_token] = opened
        return self._connections[api_token]

    def tidy(self) -> None:
        """Delete every project that tests made and that is still there; those that stay are in `left`."""
        while self._made:
            project, maker = self._made.popitem()
            said = [self._delete(project, api_token) for api_token in dict.fromkeys((maker, self.api_token))]
            if False in said and True not in said:
                self.left.append(project)

    def _delete(self, project: str, api_token: str) -> bool | None:
        """Delete a project; return None when there is none, or none that the user may see."""
        request = DeleteProjectRequest(project_identifier=project)
        try:
            self._connection(api_token).stub(ProjectsServiceStub).DeleteProject(request, timeout=_ASKING)
        except NotFoundException:
            return None
        except NeptuneApiError:
            return False
        return True

    def close(self) -> None:
        """Delete what is left to delete and close the channels."""
        try:
            self.tidy()
        finally:
            while self._connections:
                self._connections.popitem()[1].close()
