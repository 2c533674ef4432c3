"""The matrix: one test body, every wire and every store.

A test that takes `wire` runs once per line of MATRIX. `wire.connect()` logs in and returns a connection;
`connection.stub(XStub)` has the methods of the generated stub, called in one way on all wires: unary methods return the
message, response streams a list, request streams take any iterable, and errors are those of neptune_api.exceptions.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from google.protobuf import descriptor_pool

import neptune_api
from neptune_api.exceptions import UnimplementedException
from neptune_api.options import ChannelOptions
from neptune_api.server import LocalServer
from neptune_api.v1.projects_service_pb2 import AddProjectMemberRequest, CreateProjectRequest, NewProjectMember
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MEMBER, WORKSPACE_ROLE_MEMBER
from tests.people import outsider, unique

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator
    from pathlib import Path

    import grpc
    import grpc.aio

    from neptune_api.v1.projects_service_pb2 import ProjectWithRole
    from neptune_api.v1.roles_pb2 import ProjectRole, WorkspaceRole
    from tests.people import Person
    from tests.postgres import PostgresServer


class Connection(ABC):
    """A channel to a server, logged in as one user."""

    def stub(self, stub_class: type) -> Any:
        """Return an object with the methods of a generated stub."""
        service = descriptor_pool.Default().FindServiceByName(
            f"neptune_api.v1.{stub_class.__name__.removesuffix('Stub')}"
        )
        stub = self._make(stub_class)
        methods = {
            method.name: self._uniform(
                getattr(stub, method.name), bool(method.client_streaming), bool(method.server_streaming)
            )
            for method in service.methods
        }
        return SimpleNamespace(**methods)

    def raw(self, path: str, *, request_streaming: bool = False, response_streaming: bool = False) -> Any:
        """Return a method that takes and gives bytes, whether the server knows the path or not."""
        return self._uniform(
            self._open(f"{_side(request_streaming)}_{_side(response_streaming)}", path),
            request_streaming,
            response_streaming,
        )

    @abstractmethod
    def close(self) -> None:
        """Close the channel."""

    @abstractmethod
    def _make(self, stub_class: type) -> Any: ...

    @abstractmethod
    def _open(self, kind: str, path: str) -> Any: ...

    @abstractmethod
    def _uniform(self, method: Any, request_streaming: bool, response_streaming: bool) -> Callable[..., Any]: ...


def _side(streaming: bool) -> str:
    return "stream" if streaming else "unary"


class RequestStreamRefused(BaseException):
    """Ends a test on the HTTP wire, which carries no stream of requests; never caught by a test."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a test end well at its first stream of requests over HTTP: that it is refused, and how, has been checked."""
    try:
        return (yield)
    except RequestStreamRefused:
        return True


def check_refusal(call: Callable[[], object]) -> NoReturn:
    """Check that a stream of requests is refused with a sentence that names the gRPC wire, and end the test."""
    with pytest.raises(UnimplementedException, match=r"takes a stream of requests, .* use the gRPC wire"):
        call()
    raise RequestStreamRefused


class GrpcConnection(Connection):
    """Over a grpc.Channel, which may be one of HTTP."""

    def __init__(self, channel: grpc.Channel, *, http: bool) -> None:
        self.channel = channel
        self.http = http

    def close(self) -> None:
        self.channel.close()
        del self.channel  # pytest remembers what the last test was given

    def _make(self, stub_class: type) -> Any:
        return stub_class(self.channel)

    def _open(self, kind: str, path: str) -> Any:
        return getattr(self.channel, kind)(path)

    def _uniform(self, method: Any, request_streaming: bool, response_streaming: bool) -> Callable[..., Any]:
        def call(request: Any, timeout: float | None = None, metadata: Any = None) -> Any:
            sent = iter(request) if request_streaming else request
            if request_streaming and self.http:
                check_refusal(lambda: method(sent, timeout=timeout, metadata=metadata))
            answer = method(sent, timeout=timeout, metadata=metadata)
            return list(answer) if response_streaming else answer

        return call


class AioConnection(Connection):
    """Over a grpc.aio.Channel, which may be one of HTTP, on the loop of another thread."""

    def __init__(self, channel: grpc.aio.Channel, loop: BackgroundLoop, *, http: bool) -> None:
        self.channel = channel
        self._loop = loop
        self.http = http

    def close(self) -> None:
        self._loop.run(self.channel.close())
        del self.channel

    def _make(self, stub_class: type) -> Any:
        async def make() -> Any:
            return stub_class(self.channel)

        return self._loop.run(make())

    def _open(self, kind: str, path: str) -> Any:
        return getattr(self.channel, kind)(path)

    def _uniform(self, method: Any, request_streaming: bool, response_streaming: bool) -> Callable[..., Any]:
        async def collect(sent: Any, timeout: float | None, metadata: Any) -> Any:
            answer = method(sent, timeout=timeout, metadata=metadata)
            return [message async for message in answer] if response_streaming else await answer

        def call(request: Any, timeout: float | None = None, metadata: Any = None) -> Any:
            # A list: an iterator that waits would stop the loop.
            sent = list(request) if request_streaming else request
            if request_streaming and self.http:
                check_refusal(lambda: self._loop.run(collect(sent, timeout, metadata)))
            return self._loop.run(collect(sent, timeout, metadata))

        return call


class BackgroundLoop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="contract-loop")
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Stop the loop and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Wire:
    """Opens connections of one kind and closes them when the test ends."""

    def __init__(self, name: str, server: LocalServer, loop: BackgroundLoop) -> None:
        self.name = name
        self._server = server
        self._loop = loop
        self._connections: list[Connection] = []

    @property
    def http(self) -> bool:
        """It is the HTTP wire, which carries no streams of requests."""
        return self.name.startswith("http")

    @property
    def json(self) -> bool:
        """Messages are written as JSON, which is longer."""
        return self.name.endswith("json")

    def connect(
        self, api_token: str | None = None, *, target: str | None = None, options: ChannelOptions | None = None
    ) -> Connection:
        """Connect as the owner, or with another API token; "" is nobody. `target` is another server's address."""
        token = self._server.api_token if api_token is None else api_token
        url = self._server.http_url if self.http else self._server.grpc_url
        address = url if target is None else target
        if self.json:
            options = replace(ChannelOptions() if options is None else options, http_format="json")
        connection: Connection
        if "aio" not in self.name:
            channel = neptune_api.channel(address, api_token=token, options=options)
            connection = GrpcConnection(channel, http=address.startswith("http"))
        else:
            aio_channel = self._loop.run(_open_aio(address, token, options))
            connection = AioConnection(aio_channel, self._loop, http=address.startswith("http"))
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection opened so far."""
        while self._connections:
            self._connections.pop().close()


async def _open_aio(address: str, token: str, options: ChannelOptions | None) -> grpc.aio.Channel:
    return neptune_api.aio.channel(address, api_token=token, options=options)


MATRIX = (
    ("grpc", "sqlite"),
    ("grpc-aio", "sqlite"),
    ("http", "sqlite"),
    ("http-aio-json", "sqlite"),
    ("grpc", "postgresql"),
)
"""Wires and stores: what a wire does to messages does not depend on the store, so that one wire is enough for each.

Nor does how a message is written over HTTP depend on threads or coroutines: `http` writes binary protobuf.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per line of the matrix."""
    if "wire" in metafunc.fixturenames:
        names = [wire if store == "sqlite" else f"{wire}-{store}" for wire, store in MATRIX]
        metafunc.parametrize(("wire", "store"), MATRIX, ids=names, indirect=["wire"])


class Servers:
    """A server per store, started when it is first needed; tests keep apart by projects of their own."""

    def __init__(self, make_postgres: Callable[[], PostgresServer], files: Path) -> None:
        self._make_postgres = make_postgres
        self._files = files
        self._running: dict[str, tuple[LocalServer, grpc.Channel]] = {}

    def get(self, store: str) -> tuple[LocalServer, grpc.Channel]:
        """Return the server over a store, and a channel to it as its owner."""
        if store not in self._running:
            database = None if store == "sqlite" else self._make_postgres().create_database()
            server = LocalServer(store=database, files=str(self._files)).start()
            self._running[store] = (server, server.channel())
        return self._running[store]

    def stop(self) -> None:
        """Stop those that run."""
        for server, channel in self._running.values():
            channel.close()
            server.stop()
        self._running.clear()


@pytest.fixture(scope="session")
def _servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(lambda: request.getfixturevalue("postgres"), tmp_path_factory.mktemp("files"))
    yield servers
    servers.stop()


@pytest.fixture
def store() -> str:
    """The store under the server; the matrix says which."""
    return "sqlite"


@pytest.fixture
def server(_servers: Servers, store: str) -> LocalServer:
    """The server over the store, the same one for the whole session."""
    return _servers.get(store)[0]


@pytest.fixture(scope="session")
def _loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture
def wire(request: pytest.FixtureRequest, server: LocalServer, _loop: BackgroundLoop) -> Iterator[Wire]:
    """Every wire in turn."""
    opened = Wire(request.param, server, _loop)
    yield opened
    opened.close()


@pytest.fixture
def _owner_channel(_servers: Servers, store: str) -> grpc.Channel:
    return _servers.get(store)[1]


@pytest.fixture
def project(server: LocalServer, _owner_channel: grpc.Channel) -> ProjectWithRole:
    """A private project of the owner that no other test uses."""
    request = CreateProjectRequest(name=f"p-{uuid.uuid4().hex}", organization_identifier=server.workspace)
    return ProjectsServiceStub(_owner_channel).CreateProject(request)


@pytest.fixture
def identifier(project: ProjectWithRole) -> str:
    """The project's identifier, `workspace/name`."""
    return f"{project.organization_name}/{project.name}"


@dataclass(frozen=True)
class User:
    """A user that a test made."""

    username: str
    api_token: str


@pytest.fixture
def make_user(server: LocalServer, _owner_channel: grpc.Channel) -> Callable[..., User]:
    """A function that makes a user: a member of the workspace and, with `project`, of a project."""

    def make(
        project: str | None = None,
        role: ProjectRole.ValueType = PROJECT_ROLE_MEMBER,
        *,
        workspace_role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER,
    ) -> User:
        username = f"u-{uuid.uuid4().hex}"
        user = User(username, server.create_user(username, role=workspace_role))
        if project is not None:
            request = AddProjectMemberRequest(
                project_identifier=project, member=NewProjectMember(user_id=username, role=role)
            )
            ProjectsServiceStub(_owner_channel).AddProjectMember(request)
        return user

    return make


@pytest.fixture
def workspace(server: LocalServer) -> str:
    """A fresh workspace; its owner is not the owner of the server's."""
    return unique("workspace")


@pytest.fixture
def boss(server: LocalServer, workspace: str) -> Person:
    return outsider(server, workspace)
