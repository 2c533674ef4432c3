"""A bare channel over gRPC that either side of a fork may use: the child connects anew, at its first call."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from neptune_api._grpc import forks
from neptune_api._grpc.policy import registered_argument
from neptune_api.exceptions import NeptuneApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neptune_api.options import ChannelArgument

    Open = Callable[[Sequence[ChannelArgument]], grpc.Channel]


class Wire(grpc.Channel):
    """A grpc.Channel that knows no tokens and no deadlines; `opener` makes gRPC's own, of these arguments."""

    def __init__(self, opener: Open, arguments: Sequence[ChannelArgument]) -> None:
        self._open = opener
        self._arguments = tuple(arguments)
        self._closed = False
        self._lock = threading.Lock()
        self._methods: weakref.WeakSet[_Method] = weakref.WeakSet()
        self._bare: grpc.Channel | None = self._opened()
        forks.survive(self)

    def _opened(self) -> grpc.Channel:
        forks.start()
        return self._open((*self._arguments, *forks.arguments()))

    def start_over(self) -> None:
        """Let go of the parent's channel."""
        self._lock = threading.Lock()
        if self._bare is not None:
            forks.leave_alone(self._bare)
            self._bare = None
        for method in tuple(self._methods):
            method.forget()

    def bare(self) -> grpc.Channel:
        """Return gRPC's channel of this process, opened if need be. Raises FailedPreconditionException.

        Raises ValueError for a channel that was closed.
        """
        bare = self._bare
        if bare is None:
            with self._lock:
                if self._closed:
                    raise ValueError("Cannot invoke RPC on closed channel!")
                if self._bare is None:
                    self._bare = self._opened()
                bare = self._bare
        return bare

    def _method(self, method: _Method) -> Any:
        self._methods.add(method)
        return method

    def unary_unary(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with one request and one response."""
        return self._method(_OneResponse(self, "unary_unary", (method, *arguments), named, _registered_method))

    def unary_stream(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with one request and a stream of responses."""
        return self._method(_Responses(self, "unary_stream", (method, *arguments), named, _registered_method))

    def stream_unary(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with a stream of requests and one response."""
        return self._method(_OneResponse(self, "stream_unary", (method, *arguments), named, _registered_method))

    def stream_stream(self, method: str, *arguments: Any, _registered_method: bool = False, **named: Any) -> Any:
        """Return the callable for a method with streams both ways."""
        return self._method(_Responses(self, "stream_stream", (method, *arguments), named, _registered_method))

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Call `callback` with every change of the connection's state, in this process only."""
        self.bare().subscribe(callback, try_to_connect=bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop calling `callback`."""
        if self._bare is not None:
            self._bare.unsubscribe(callback)

    def close(self) -> None:
        """Close the channel of this process: calls under way are cancelled, later ones raise ValueError."""
        self._closed = True
        if self._bare is not None:
            self._bare.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Method:
    """A method of the channel, on whichever side of a fork."""

    __slots__ = ("__weakref__", "_arguments", "_call", "_kind", "_named", "_wire")

    def __init__(
        self, wire: Wire, kind: str, arguments: tuple[Any, ...], named: dict[str, Any], registered: bool
    ) -> None:
        self._wire = wire
        self._kind = kind
        self._arguments = arguments
        self._named = named | registered_argument(registered)
        self._call: Any = None

    def _opened(self) -> Any:
        call = self._call
        if call is None:
            call = self._call = getattr(self._wire.bare(), self._kind)(*self._arguments, **self._named)
        return call

    def forget(self) -> None:
        """Let go of the parent's method."""
        if self._call is not None:
            forks.leave_alone(self._call)
            self._call = None


class _OneResponse(_Method):
    __slots__ = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        ticket = forks.gate.enter()
        try:
            return (self._call or self._opened())(*arguments, **named)
        finally:
            forks.gate.leave(ticket)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        """Return the response and the call."""
        ticket = forks.gate.enter()
        try:
            return (self._call or self._opened()).with_call(*arguments, **named)
        finally:
            forks.gate.leave(ticket)

    def future(self, *arguments: Any, **named: Any) -> Any:
        """Return the call under way. One that could not start is its error."""
        ticket = forks.gate.enter()
        try:
            return (self._call or self._opened()).future(*arguments, **named)
        except NeptuneApiError as error:
            return error
        finally:
            forks.gate.leave(ticket)


class _Responses(_Method):
    __slots__ = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        ticket = forks.gate.enter()
        try:
            return (self._call or self._opened())(*arguments, **named)
        finally:
            forks.gate.leave(ticket)
