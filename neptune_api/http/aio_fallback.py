"""A channel that speaks gRPC if the server does, and HTTP if it does not, for event loops; mirrors fallback.py."""

from __future__ import annotations

import asyncio
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
    """Chooses between two bare channels at the first call, for good."""

    def __init__(self, first: grpc.aio.Channel, second: grpc.aio.Channel) -> None:
        self._first = first
        self._second = second
        self._chosen: grpc.aio.Channel | None = None
        self._lock = asyncio.Lock()

    @property
    def chosen(self) -> grpc.aio.Channel | None:
        """The channel in use, once it is known."""
        return self._chosen

    async def choose(self, timeout: float | None = None) -> grpc.aio.Channel:
        """Return the channel to use, asking the server first if need be, within `timeout` seconds."""
        async with self._lock:
            if self._chosen is None:
                self._chosen = await self._ask(PATIENCE if timeout is None else min(PATIENCE, timeout / 2))
            return self._chosen

    async def _ask(self, seconds: float) -> grpc.aio.Channel:
        from neptune_api.v1.config_service_pb2 import GetServerInfoRequest
        from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub

        try:
            await ConfigServiceStub(self._first).GetServerInfo(GetServerInfoRequest(), timeout=seconds)
        except grpc.RpcError as error:
            if not speaks_grpc(error):
                await self._first.close()
                return self._second
        await self._second.close()
        return self._first

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
        return (self._chosen or self._first).get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state of the connection is another one; makes the choice if need be."""
        await (await self.choose()).wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Connect and wait until the connection stands."""
        await (await self.choose()).channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close both channels."""
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
        if not opened:
            opened.append(getattr(chosen, kind)(path, *arguments, **named, **registered_argument(registered)))
        return opened[0](*given, **others)

    def method(*given: Any, **others: Any) -> Any:
        if channel.chosen is not None:
            return invoke(channel.chosen, *given, **others)

        async def start() -> Any:
            return invoke(await channel.choose(others.get("timeout")), *given, **others)

        return call(None, None, None, start)

    return method
