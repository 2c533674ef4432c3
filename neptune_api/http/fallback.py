"""A channel that speaks gRPC if the server does, and HTTP if it does not, for threads; aio_fallback.py mirrors this."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api._grpc import forks
from neptune_api._grpc.policy import registered_argument

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 10.0
"""Seconds within which a server has to show that it speaks gRPC."""

_NOBODY: Final = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""What becomes of a call that needs nothing when there is no server of ours, or something in between that knows no
gRPC."""


def speaks_grpc(error: grpc.RpcError) -> bool:
    """Tell whether it was a server that speaks gRPC that let a call fail which cannot fail."""
    code = getattr(error, "code", None)
    return callable(code) and code() not in _NOBODY


class FallbackChannel(grpc.Channel):
    """Chooses between two bare channels at the first call, for good.

    A call in a hurry, which cannot wait for the choice, goes over HTTP and decides nothing for those after it.
    """

    def __init__(self, first: grpc.Channel, second: grpc.Channel) -> None:
        self._first = first
        self._second = second
        self.chosen: grpc.Channel | None = None
        """The channel in use, once it is known."""
        self.start_over()
        forks.survive(self)

    def start_over(self) -> None:
        """Have nobody asking the server; at the beginning, and in the child of a fork."""
        self._lock = threading.Lock()
        self._asked: Any = None
        self._decided = threading.Event()

    def choose(self, timeout: float | None = None) -> grpc.Channel:
        """Return the channel to use, asking the server first if need be; waits for half of `timeout` at most."""
        if self.chosen is None:
            with self._lock:
                if self._asked is None:
                    self._ask()
            self._decided.wait(None if timeout is None else timeout / 2)
        return self.chosen or self._second

    def _ask(self) -> None:
        from neptune_api.v1.config_service_pb2 import GetServerInfoRequest
        from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub

        if forks.refused():
            self._choose(self._second)
            return
        stub = ConfigServiceStub(self._first)
        self._asked = stub.GetServerInfo.future(GetServerInfoRequest(), timeout=PATIENCE)
        self._asked.add_done_callback(self._decide)

    def _decide(self, answer: Any) -> None:
        code = answer.code()
        self._choose(self._first if code is grpc.StatusCode.OK or speaks_grpc(answer) else self._second)

    def _choose(self, channel: grpc.Channel) -> None:
        self.chosen = channel
        self._decided.set()
        if self.chosen is self._second:
            self._first.close()

    def unary_unary(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with one request and one response."""
        return _Callable(self, "unary_unary", method, arguments, named, _registered_method)

    def unary_stream(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with one request and a stream of responses."""
        return _Callable(self, "unary_stream", method, arguments, named, _registered_method)

    def stream_unary(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with a stream of requests and one response."""
        return _Callable(self, "stream_unary", method, arguments, named, _registered_method)

    def stream_stream(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with streams both ways."""
        return _Callable(self, "stream_stream", method, arguments, named, _registered_method)

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Call `callback` with every change of the chosen connection's state; makes the choice if need be."""
        self.choose().subscribe(callback, try_to_connect=bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop calling `callback`."""
        if self.chosen is not None:
            self.chosen.unsubscribe(callback)

    def close(self) -> None:
        """Close both channels."""
        self._first.close()
        self._second.close()

    def __enter__(self) -> FallbackChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Callable:
    """A method of the channel that will be chosen."""

    def __init__(
        self,
        channel: FallbackChannel,
        kind: str,
        method: str,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        registered: bool,
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._arguments = (method, *arguments)
        self._named = named | registered_argument(registered)
        self._opened: Any = None

    def _method(self, timeout: float | None) -> tuple[Any, float | None]:
        """Return the callable of the channel to use, and the time that is left for the call."""
        if self._opened is not None:
            return self._opened, timeout
        begin = time.monotonic()
        channel = self._channel.choose(timeout)
        opened = getattr(channel, self._kind)(*self._arguments, **self._named)
        if channel is self._channel.chosen:
            self._opened = opened
        return opened, None if timeout is None else timeout - (time.monotonic() - begin)

    def __call__(self, request: Any, timeout: float | None = None, *rest: Any, **named: Any) -> Any:
        method, left = self._method(timeout)
        return method(request, left, *rest, **named)

    def with_call(self, request: Any, timeout: float | None = None, *rest: Any, **named: Any) -> Any:
        """Return the response and the call."""
        method, left = self._method(timeout)
        return method.with_call(request, left, *rest, **named)

    def future(self, request: Any, timeout: float | None = None, *rest: Any, **named: Any) -> Any:
        """Return the call under way; blocks while the choice is made."""
        method, left = self._method(timeout)
        return method.future(request, left, *rest, **named)
