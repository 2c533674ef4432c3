"""Connections to a server over any wire, for threads or asyncio, called in one way.

`connection.stub(XStub)` has the methods of the generated stub: unary methods return the message, response streams a
list, request streams take any iterable, and errors are those of neptune_api.exceptions.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest
from google.protobuf import descriptor_pool

import neptune_api
from neptune_api.exceptions import UnimplementedException
from neptune_api.options import ChannelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import grpc
    import grpc.aio

    from neptune_api.conformance.people import Host


class Witness(Protocol):
    """Whoever wants to know of every call of a connection."""

    def before_call(self, method: str) -> None:
        """Let a call of `Service.Method` wait if it has to, or skip the test."""

    def after_call(self, api_token: str, method: str, request: Any, outcome: Any) -> None:
        """Take note of a call of `Service.Method` with a token, and of its answer or the exception that it raised."""


class Connection(ABC):
    """A channel to a server, logged in as one user."""

    api_token = ""
    witness: Witness | None = None

    def stub(self, stub_class: type) -> Any:
        """Return an object with the methods of a generated stub."""
        service = descriptor_pool.Default().FindServiceByName(
            f"neptune_api.v1.{stub_class.__name__.removesuffix('Stub')}"
        )
        stub = self._make(stub_class)
        methods = {
            method.name: self._witnessed(
                f"{service.name}.{method.name}",
                self._uniform(getattr(stub, method.name), bool(method.client_streaming), bool(method.server_streaming)),
            )
            for method in service.methods
        }
        return SimpleNamespace(**methods)

    def raw(self, path: str, *, request_streaming: bool = False, response_streaming: bool = False) -> Any:
        """Return a method that takes and gives bytes, whether the server knows the path or not."""
        opened = self._open(f"{_side(request_streaming)}_{_side(response_streaming)}", path)
        return self._witnessed(
            path.rpartition(".")[2].replace("/", "."),
            self._uniform(opened, request_streaming, response_streaming),
        )

    def _witnessed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        witness = self.witness
        if witness is None:
            return method

        def call(request: Any, timeout: float | None = None, metadata: Any = None) -> Any:
            witness.before_call(name)
            outcome: Any = None
            try:
                outcome = method(request, timeout, metadata)
            except BaseException as error:
                outcome = error
                raise
            finally:
                witness.after_call(self.api_token, name, request, outcome)
            return outcome

        return call

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


class Server(Protocol):
    """A server at its addresses, and somebody to be there."""

    @property
    def api_token(self) -> str:
        """The API token of the owner. A secret."""

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC API as channel() takes it."""

    @property
    def http_url(self) -> str:
        """Base address of the HTTP API."""


class Wire:
    """Opens connections of one kind and closes them when the test ends."""

    def __init__(self, name: str, server: Server, loop: BackgroundLoop, host: Host | None = None) -> None:
        self.name = name
        self._server = server
        self._loop = loop
        self._host = host
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
        options = ChannelOptions() if options is None else options
        if self._host is not None:
            options = self._host.options(options)
        if self.json:
            options = replace(options, http_format="json")
        connection: Connection
        if "aio" not in self.name:
            channel = neptune_api.channel(address, api_token=token, options=options)
            connection = GrpcConnection(channel, http=address.startswith("http"))
        else:
            aio_channel = self._loop.run(_open_aio(address, token, options))
            connection = AioConnection(aio_channel, self._loop, http=address.startswith("http"))
        connection.api_token = token
        connection.witness = None if self._host is None else self._host.witness
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection opened so far."""
        while self._connections:
            self._connections.pop().close()


async def _open_aio(address: str, token: str, options: ChannelOptions | None) -> grpc.aio.Channel:
    return neptune_api.aio.channel(address, api_token=token, options=options)
