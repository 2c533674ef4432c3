"""The channel over HTTP, for threads. aio.py mirrors this module.

`Wire` is a bare grpc.Channel: what goes over HTTP/1.1, and how. `Channel` is what neptune_api.channel() returns: the
same layer of deadlines, tokens and exceptions as on the gRPC wire, over a Wire.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from neptune_api._grpc import sync
from neptune_api._grpc.methods import find_method
from neptune_api.exceptions import UnimplementedException
from neptune_api.http.attempts import Attempts, Transport
from neptune_api.http.calls import EndedCall, FutureCall, StreamCall
from neptune_api.http.connections import Pool
from neptune_api.http.exchange import Exchange
from neptune_api.http.failures import CallError
from neptune_api.http.retries import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api._grpc.sync import StreamStreamBase, StreamUnaryBase, UnaryStreamBase, UnaryUnaryBase
    from neptune_api._grpc.sync_calls import Metadata
    from neptune_api.http.endpoint import Endpoint
    from neptune_api.options import ChannelOptions
else:
    from neptune_api._grpc.sync import StreamStreamBase, StreamUnaryBase, UnaryStreamBase, UnaryUnaryBase


def refuse_credentials(credentials: grpc.CallCredentials | None) -> None:
    """Raise CallError for call credentials, whose plugins only gRPC can ask."""
    if credentials is not None:
        raise CallError(
            grpc.StatusCode.UNIMPLEMENTED,
            "Call credentials do not work over HTTP: give the channel an access_token, or authorization as metadata.",
            sent=False,
            lasting=True,
        )


def no_request_stream(path: str | bytes) -> UnimplementedException:
    """Return the error for a method that takes a stream of requests."""
    method = find_method(path).name
    _, _, name = method.rpartition("/")
    return UnimplementedException(
        f"{name} takes a stream of requests, which HTTP/1.1 cannot carry: use the gRPC wire (grpcs://host:port), or "
        "call the method for single requests in a loop.",
        method=method,
    )


class _UnaryUnary(UnaryUnaryBase):
    """`compression` is a hint, which HTTP does not take: requests go out as they are."""

    def __init__(self, wire: Wire, exchange: Exchange) -> None:
        self._transport = wire.transport
        self._exchange = exchange

    def _attempts(
        self,
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
    ) -> Attempts:
        refuse_credentials(credentials)
        return Attempts(self._transport, self._exchange, request, timeout, metadata, wait_for_ready=wait_for_ready)

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002 # see above
    ) -> Any:
        return self._attempts(request, timeout, metadata, credentials, wait_for_ready).finish()[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002 # see above
    ) -> tuple[Any, grpc.Call]:
        attempts = self._attempts(request, timeout, metadata, credentials, wait_for_ready)
        result, response = attempts.finish()
        return result, EndedCall.of(response, attempts.time_remaining())

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002 # see above
    ) -> Any:
        try:
            attempts = self._attempts(request, timeout, metadata, credentials, wait_for_ready)
        except CallError as error:
            return FutureCall(error, self._transport.executor)
        return FutureCall(attempts, self._transport.executor)


class _UnaryStream(UnaryStreamBase):
    """As _UnaryUnary."""

    def __init__(self, wire: Wire, exchange: Exchange) -> None:
        self._transport = wire.transport
        self._exchange = exchange

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,  # noqa: ARG002 # see above
    ) -> Any:
        try:
            refuse_credentials(credentials)
            attempts = Attempts(
                self._transport, self._exchange, request, timeout, metadata, wait_for_ready=wait_for_ready
            )
        except CallError as error:
            return StreamCall(error, self._transport.executor)
        return StreamCall(attempts, self._transport.executor)


class _StreamUnary(StreamUnaryBase):
    """Fails at the call."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __call__(self, request_iterator: Iterator[Any], *args: object, **kwargs: object) -> NoReturn:  # noqa: ARG002 # nothing is sent
        raise no_request_stream(self._path)

    def with_call(self, request_iterator: Iterator[Any], *args: object, **kwargs: object) -> NoReturn:  # noqa: ARG002 # as above
        raise no_request_stream(self._path)

    def future(self, request_iterator: Iterator[Any], *args: object, **kwargs: object) -> Any:  # noqa: ARG002 # as above
        return no_request_stream(self._path)


class _StreamStream(StreamStreamBase):
    """Fails at the call."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __call__(self, request_iterator: Iterator[Any], *args: object, **kwargs: object) -> NoReturn:  # noqa: ARG002 # nothing is sent
        raise no_request_stream(self._path)


class Connectivity:
    """The state of a channel, and who wants to know of its changes."""

    def __init__(self) -> None:
        self._state = grpc.ChannelConnectivity.IDLE
        self.reset()

    def reset(self) -> None:
        """Start over; for the child of a fork."""
        if self._state is not grpc.ChannelConnectivity.SHUTDOWN:
            self._state = grpc.ChannelConnectivity.IDLE
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[grpc.ChannelConnectivity], None]] = []
        self._news: list[tuple[Callable[[grpc.ChannelConnectivity], None], grpc.ChannelConnectivity]] = []
        self._delivering = False

    @property
    def state(self) -> grpc.ChannelConnectivity:
        """The state now."""
        return self._state

    def change(self, state: grpc.ChannelConnectivity) -> None:
        """Tell everybody of another state; SHUTDOWN is the last."""
        if state is self._state:
            return
        with self._lock:
            if self._state is grpc.ChannelConnectivity.SHUTDOWN or state is self._state:
                return
            self._state = state
            self._tell(self._callbacks, state)

    def connected(self, well: bool) -> None:
        """Take note that a connection was made, or could not be made."""
        states = grpc.ChannelConnectivity
        self.change(states.READY if well else states.TRANSIENT_FAILURE)

    def add(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Call a function now, with the state, and at every change."""
        with self._lock:
            self._callbacks.append(callback)
            self._tell([callback], self._state)

    def remove(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop calling a function."""
        with self._lock:
            self._callbacks = [each for each in self._callbacks if each != callback]

    def _tell(
        self, callbacks: list[Callable[[grpc.ChannelConnectivity], None]], state: grpc.ChannelConnectivity
    ) -> None:
        # On a thread of its own: the one that makes a call must not run other people's code.
        self._news += [(callback, state) for callback in callbacks]
        if self._news and not self._delivering:
            self._delivering = True
            threading.Thread(target=self._deliver, name="neptune-api-connectivity", daemon=True).start()

    def _deliver(self) -> None:
        while True:
            with self._lock:
                if not self._news:
                    self._delivering = False
                    return
                callback, state = self._news.pop(0)
            callback(state)


class Wire(grpc.Channel):
    """A bare grpc.Channel over HTTP/1.1. It knows no tokens; calls without `timeout` have no deadline."""

    def __init__(self, endpoint: Endpoint, options: ChannelOptions) -> None:
        self._endpoint = endpoint
        self._options = options
        self._connectivity = Connectivity()
        self._connector: threading.Thread | None = None
        self._stopping = threading.Event()
        # None of it refers to this object: a channel that is dropped closes its connections there and then.
        pool = Pool(endpoint, options, self._connectivity.connected)
        self.transport = Transport(pool, options, self._connectivity.reset)

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
        return _UnaryUnary(self, self._exchange(method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryStreamBase:
        """Return the callable for a method with one request and a stream of responses."""
        return _UnaryStream(self, self._exchange(method, request_serializer, response_deserializer))

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

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Call `callback` with the state of the channel and every change of it, on another thread.

        READY means that a connection was made; it says nothing about one that idles. With `try_to_connect` one is made
        if there was none yet, however often that takes.
        """
        self._connectivity.add(callback)
        if not try_to_connect or self._connectivity.state is not grpc.ChannelConnectivity.IDLE:
            return
        if self._connector is None or not self._connector.is_alive():
            self._connector = threading.Thread(target=self._connect, name="neptune-api-connector", daemon=True)
            self._connector.start()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop calling `callback`."""
        self._connectivity.remove(callback)

    def _connect(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            self._connectivity.change(grpc.ChannelConnectivity.CONNECTING)
            try:
                self.transport.pool.prepare(PATIENCE.max_backoff * 4)
            except CallError:
                attempt += 1
                self._stopping.wait(PATIENCE.backoff(attempt))
            else:
                return

    def close(self) -> None:
        """Close the channel: calls under way are cancelled, later ones raise ValueError."""
        self._stopping.set()
        self.transport.close()
        self._connectivity.change(grpc.ChannelConnectivity.SHUTDOWN)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Channel(sync.Channel):
    """A grpc.Channel whose calls go over HTTP, have a deadline, carry a token and raise NeptuneApiError.

    Made by neptune_api.channel() for http:// and https:// targets. Methods that take a stream of requests raise
    UnimplementedException when they are called.
    """

    # Refused by the wire at once, before there is a token or a deadline.

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> StreamUnaryBase:
        """Return a callable that raises UnimplementedException."""
        return self._channel.stream_unary(method, *arguments, **named)

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> StreamStreamBase:
        """Return a callable that raises UnimplementedException."""
        return self._channel.stream_stream(method, *arguments, **named)
