"""A channel that speaks gRPC if the server does, and HTTP if it does not, for event loops; mirrors fallback.py."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from neptune_api._grpc.aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from neptune_api._grpc.policy import registered_argument
from neptune_api.http.fallback import PATIENCE, speaks_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    Kind: TypeAlias = type[UnaryUnaryCall | UnaryStreamCall | StreamUnaryCall | StreamStreamCall]


class FallbackChannel(grpc.aio.Channel):
    """Chooses between two bare channels at the first call, for good.

    A call in a hurry, which cannot wait for the choice, goes over HTTP and decides nothing for those after it.
    """

    def __init__(self, first: grpc.aio.Channel, second: grpc.aio.Channel) -> None:
        self._first = first
        self._second = second
        self._asked: asyncio.Task[None] | None = None
        self.chosen: grpc.aio.Channel | None = None
        """The channel in use, once it is known."""

    async def choose(self, timeout: float | None = None) -> grpc.aio.Channel:
        """Return the channel to use, asking the server first if need be; waits for half of `timeout` at most."""
        if self.chosen is None:
            if self._asked is None:
                self._asked = asyncio.get_running_loop().create_task(self._ask())
            await asyncio.wait({self._asked}, timeout=None if timeout is None else timeout / 2)
        return self.chosen or self._second

    async def _ask(self) -> None:
        from neptune_api.v1.config_service_pb2 import GetServerInfoRequest
        from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub

        try:
            await ConfigServiceStub(self._first).GetServerInfo(GetServerInfoRequest(), timeout=PATIENCE)
        except grpc.RpcError as error:
            if not speaks_grpc(error):
                self.chosen = self._second
                await self._first.close()
                return
        self.chosen = self._first

    def unary_unary(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with one request and one response."""
        return _method(self, UnaryUnaryCall, "unary_unary", method, arguments, named, _registered_method)

    def unary_stream(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with one request and a stream of responses."""
        return _method(self, UnaryStreamCall, "unary_stream", method, arguments, named, _registered_method)

    def stream_unary(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with a stream of requests and one response."""
        return _method(self, StreamUnaryCall, "stream_unary", method, arguments, named, _registered_method)

    def stream_stream(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with streams both ways."""
        return _method(self, StreamStreamCall, "stream_stream", method, arguments, named, _registered_method)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection in use, or else of the one that is tried first."""
        return (self.chosen or self._first).get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state of the connection is another one; makes the choice if need be."""
        await (await self.choose()).wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Connect and wait until the connection stands."""
        await (await self.choose()).channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close both channels."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait({self._asked})
        await self._first.close(grace)
        await self._second.close(grace)

    async def __aenter__(self) -> FallbackChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _method(
    channel: FallbackChannel,
    call: Kind,
    kind: str,
    path: str,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    registered: bool,
) -> Callable[..., Any]:
    """Return a method of the channel that will be chosen."""
    opened: list[Any] = []

    def invoke(chosen: grpc.aio.Channel, *given: Any, **others: Any) -> Any:
        if opened:
            return opened[0](*given, **others)
        made = getattr(chosen, kind)(path, *arguments, **named, **registered_argument(registered))
        if chosen is channel.chosen:
            opened.append(made)
        return made(*given, **others)

    def method(*given: Any, timeout: float | None = None, **others: Any) -> Any:
        if channel.chosen is not None:
            return invoke(channel.chosen, *given, timeout=timeout, **others)

        async def start() -> Any:
            begin = time.monotonic()
            chosen = await channel.choose(timeout)
            left = None if timeout is None else timeout - (time.monotonic() - begin)
            return invoke(chosen, *given, timeout=left, **others)

        return call(None, None, None, start)

    return method
