"""Channels of each kind, and every RPC of the API called in one way over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

import neptune_api
from neptune_api._grpc.methods import service_descriptors
from neptune_api.conformance.connections import AioConnection, BackgroundLoop, Connection, GrpcConnection
from neptune_api.http.rules import find_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc.aio

KINDS = ("grpc", "grpc-aio", "http", "http-aio")


class Wire:
    """Opens connections of one kind and closes them when the test ends."""

    def __init__(self, name: str, loop: BackgroundLoop) -> None:
        self.name = name
        self.http = name.startswith("http")
        self.aio = name.endswith("aio")
        self.loop = loop
        self._connections: list[Connection] = []

    def url(self, port: int, *, secure: bool = False) -> str:
        """Return the target of a port of this machine."""
        return f"{'http' if self.http else 'grpc'}{'s' * secure}://127.0.0.1:{port}"

    def connect(self, target: str | None = None, **arguments: Any) -> Connection:
        """Open a channel, with the arguments of neptune_api.channel()."""
        connection: Connection
        # A stream of requests over HTTP raises what the channel raises.
        if self.aio:
            connection = AioConnection(self.loop.run(_open(target, arguments)), self.loop, http=False)
        else:
            connection = GrpcConnection(neptune_api.channel(target, **arguments), http=False)
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close what is open."""
        while self._connections:
            self._connections.pop().close()


async def _open(target: str | None, arguments: dict[str, Any]) -> grpc.aio.Channel:
    return neptune_api.aio.channel(target, **arguments)


@dataclass(frozen=True)
class Rpc:
    """One RPC, and a request that every wire can carry."""

    path: str
    request: bytes
    request_streaming: bool
    response_streaming: bool

    def on(self, connection: Connection) -> Callable[..., Any]:
        """Return a function that calls it and waits for its end."""
        method = connection.raw(
            self.path, request_streaming=self.request_streaming, response_streaming=self.response_streaming
        )
        request = [self.request] if self.request_streaming else self.request

        def call(timeout: float | None = None) -> Any:
            return method(request, timeout=timeout)

        return call


@cache
def rpcs() -> tuple[Rpc, ...]:
    """Return every RPC of the API."""
    found = []
    for service in service_descriptors():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            request = message_factory.GetMessageClass(method.input_type)()
            rule = find_rule(path)
            for variable in () if rule is None else rule.template.variables:
                *outer, name = variable.field
                holder: Any = request
                for part in outer:
                    holder = getattr(holder, part)
                setattr(holder, name, "x")
            found.append(
                Rpc(path, request.SerializeToString(), bool(method.client_streaming), bool(method.server_streaming))
            )
    return tuple(found)
