"""The channel over HTTP, for event loops; mirrors channel.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from neptune_api._grpc import aio
from neptune_api.http.aio_attempts import Attempts, Transport
from neptune_api.http.aio_calls import UnaryStreamCall, UnaryUnaryCall
from neptune_api.http.aio_connections import Pool
from neptune_api.http.aio_interception import Interceptors
from neptune_api.http.channel import no_request_stream, refuse_credentials
from neptune_api.http.exchange import Exchange
from neptune_api.http.failures import CallError
from neptune_api.http.retries import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from neptune_api._grpc.aio import (
        Metadata,
        Requests,
        StreamStreamBase,
        StreamUnaryBase,
        UnaryStreamBase,
        UnaryUnaryBase,
    )
    from neptune_api.http.endpoint import Endpoint
    from neptune_api.options import ChannelOptions
else:
    from neptune_api._grpc.aio import StreamStreamBase, StreamUnaryBase, UnaryStreamBase, UnaryUnaryBase


class _Unary:
    """What a method with one request does for each call; `compression` is a hint, which HTTP does not take."""

    _kind: Any

    def __init__(self, wire: Wire, path: str, exchange: Exchange) -> None:
        self._transport = wire.transport
        self._interceptors = wire.interceptors
        self._path = path
        self._exchange = exchange

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002 # see above
    ) -> Any:
        pairs: Any = metadata  # any pairs will do
        details = grpc.aio.ClientCallDetails(self._path, timeout, pairs, credentials, wait_for_ready)
        return self._call(details, request)

    def _call(self, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        raise NotImplementedError

    def _start(self, kind: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        transport = self._transport
        if transport.closed:
            raise grpc.aio.UsageError("Channel is closed.")
        attempts: Attempts | CallError
        try:
            refuse_credentials(details.credentials)
            attempts = Attempts(
                transport,
                self._exchange,
                request,
                details.timeout,
                details.metadata,
                wait_for_ready=details.wait_for_ready,
            )
        except CallError as error:
            attempts = error
        return kind(attempts, transport)


class _UnaryUnary(_Unary, UnaryUnaryBase):
    def _call(self, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        return self._interceptors.unary(details, request, self._bare)

    def _bare(self, details: grpc.aio.ClientCallDetails, request: Any) -> UnaryUnaryCall:
        call: UnaryUnaryCall = self._start(UnaryUnaryCall, details, request)
        return call


class _UnaryStream(_Unary, UnaryStreamBase):
    def _call(self, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        return self._interceptors.stream(details, request, self._bare)

    def _bare(self, details: grpc.aio.ClientCallDetails, request: Any) -> UnaryStreamCall:
        call: UnaryStreamCall = self._start(UnaryStreamCall, details, request)
        return call


class _StreamUnary(StreamUnaryBase):
    """Fails at the call."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __call__(self, request_iterator: Requests | None = None, *args: object, **kwargs: object) -> NoReturn:  # noqa: ARG002 # nothing is sent
        raise no_request_stream(self._path)


class _StreamStream(StreamStreamBase):
    """Fails at the call."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __call__(self, request_iterator: Requests | None = None, *args: object, **kwargs: object) -> NoReturn:  # noqa: ARG002 # nothing is sent
        raise no_request_stream(self._path)


class Wire(grpc.aio.Channel):
    """A bare grpc.aio.Channel over HTTP/1.1. It knows no tokens; calls without `timeout` have no deadline."""

    def __init__(
        self, endpoint: Endpoint, options: ChannelOptions, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
    ) -> None:
        self._endpoint = endpoint
        self._options = options
        self._state = grpc.ChannelConnectivity.IDLE
        self._changed: asyncio.Future[None] | None = None
        self._connector: asyncio.Task[None] | None = None
        self.interceptors = Interceptors(interceptors)
        self.transport = Transport(Pool(endpoint, options, self._connected), options)

    def _exchange(self, path: str, serialize: Any, deserialize: Any) -> Exchange:
        return Exchange(path, self._endpoint, self._options, serialize, deserialize)

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryUnaryBase:
        """Return the callable for a method with one request and one response."""
        return _UnaryUnary(self, method, self._exchange(method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryStreamBase:
        """Return the callable for a method with one request and a stream of responses."""
        return _UnaryStream(self, method, self._exchange(method, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,  # noqa: ARG002 # nothing is sent
        response_deserializer: Callable[[bytes], Any] | None = None,  # noqa: ARG002 # as above
        _registered_method: bool = False,
    ) -> StreamUnaryBase:
        """Return a callable that fails: HTTP carries no stream of requests."""
        return _StreamUnary(method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,  # noqa: ARG002 # nothing is sent
        response_deserializer: Callable[[bytes], Any] | None = None,  # noqa: ARG002 # as above
        _registered_method: bool = False,
    ) -> StreamStreamBase:
        """Return a callable that fails: HTTP carries no stream of requests."""
        return _StreamStream(method)

    # The state: READY means that a connection was made; it says nothing about one that idles.

    def _connected(self, well: bool) -> None:
        self._change(grpc.ChannelConnectivity.READY if well else grpc.ChannelConnectivity.TRANSIENT_FAILURE)

    def _change(self, state: grpc.ChannelConnectivity) -> None:
        if state is self._state or self._state is grpc.ChannelConnectivity.SHUTDOWN:
            return
        self._state = state
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set_result(None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the channel; with `try_to_connect`, a connection is made if there was none yet."""
        if try_to_connect and self._state is grpc.ChannelConnectivity.IDLE and self._connector is None:
            self._connector = asyncio.get_running_loop().create_task(self._connect())
        return self._state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state of the channel is another one."""
        while self._state is last_observed_state:
            if self._changed is None:
                self._changed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._changed})

    async def channel_ready(self) -> None:
        """Connect, however often that takes, and wait until a connection stands."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and (
                self._connector is None or self._connector.done()
            ):
                self._connector = asyncio.get_running_loop().create_task(self._connect())
            await self.wait_for_state_change(state)

    async def _connect(self) -> None:
        attempt = 0
        while self._state is not grpc.ChannelConnectivity.SHUTDOWN:
            self._change(grpc.ChannelConnectivity.CONNECTING)
            try:
                await self.transport.pool.prepare(PATIENCE.max_backoff * 4)
            except CallError:
                attempt += 1
                await asyncio.sleep(PATIENCE.backoff(attempt))
            else:
                return

    async def close(self, grace: float | None = None) -> None:
        """Close the channel: calls under way are cancelled after `grace` seconds, later ones fail."""
        await self.transport.close(grace)
        self._change(grpc.ChannelConnectivity.SHUTDOWN)
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.wait({self._connector})

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Channel(aio.Channel):
    """A grpc.aio.Channel whose calls go over HTTP, have a deadline, carry a token and raise NeptuneApiError.

    Made by neptune_api.aio.channel() for http:// and https:// targets. Methods that take a stream of requests raise
    UnimplementedException when they are called.
    """

    # Refused by the wire at once, before there is a token or a deadline.

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> StreamUnaryBase:
        """Return a callable that raises UnimplementedException."""
        return self._channel.stream_unary(method, *arguments, **named)

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> StreamStreamBase:
        """Return a callable that raises UnimplementedException."""
        return self._channel.stream_stream(method, *arguments, **named)
