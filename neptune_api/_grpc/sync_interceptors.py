"""Client interceptors for threads, for channels that neptune_api.channel() did not make.

    channel = grpc.intercept_channel(channel, ErrorInterceptor(), AuthInterceptor(source), DeadlineInterceptor())

In this order: errors are translated last, and a call made again gets a deadline too. aio_interceptors.py mirrors this
module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import grpc

from neptune_api._grpc.errors import translate
from neptune_api._grpc.methods import find_method
from neptune_api._grpc.policy import (
    Deadline,
    effective_timeout,
    has_authorization,
    is_unauthenticated,
    keyed,
    known_secrets,
)
from neptune_api._grpc.sync_calls import StreamCall, UnaryCall
from neptune_api.options import ChannelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.auth import AccessToken, TokenSource
    from neptune_api.exceptions import NeptuneApiError
    from neptune_api.mirror import Mirror

    Continuation: TypeAlias = Callable[[grpc.ClientCallDetails, Any], Any]

__all__ = ["AuthInterceptor", "DeadlineInterceptor", "ErrorInterceptor", "MirrorInterceptor"]


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class CallDetails(_Details, grpc.ClientCallDetails):
    """All that is known of a call before it is made."""

    __slots__ = ()

    @classmethod
    def of(cls, details: grpc.ClientCallDetails) -> CallDetails:
        """Return a copy; a field that another interceptor left out is None."""
        return cls(
            method=details.method,
            timeout=getattr(details, "timeout", None),
            metadata=getattr(details, "metadata", None),
            credentials=getattr(details, "credentials", None),
            wait_for_ready=getattr(details, "wait_for_ready", None),
            compression=getattr(details, "compression", None),
        )


class _Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """All four kinds of call: grpc.intercept_channel() asks one object for each kind it can do."""


class AuthInterceptor(_Interceptor):
    """Adds the access token of a source to every call that needs one and brings none.

    After UNAUTHENTICATED a call with one request is made once more with a new token, if no response has come yet. A
    stream of requests cannot be sent twice; the next call then has a new token. Starting a call blocks while a token is
    fetched.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def _start(
        self, continuation: Continuation, details: CallDetails, request: Any
    ) -> tuple[Any, AccessToken | None, Callable[[], Any]]:
        """Make the call; return it, the token it carries and how to make it with another one."""
        method = find_method(details.method)
        deadline = Deadline(details.timeout, method)

        def attempt() -> tuple[Any, AccessToken]:
            token = self._source.current() or self._source.token(deadline.left())
            metadata = (*(details.metadata or ()), *token.headers)
            return continuation(details._replace(metadata=metadata, timeout=deadline.left()), request), token

        def again() -> Any:
            return attempt()[0] if token is not None and self._source.invalidate(token) else None

        if method.anonymous or has_authorization(details.metadata or ()):
            token = None
            return continuation(details, request), None, again
        call, token = attempt()
        return call, token, again

    def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Send the token."""
        call, token, again = self._start(continuation, CallDetails.of(client_call_details), request)
        if token is None:
            return call
        if not call.done():
            return UnaryCall(call, None, again)
        repeated = again() if is_unauthenticated(call) else None
        return call if repeated is None else repeated

    def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Send the token."""
        call, token, again = self._start(continuation, CallDetails.of(client_call_details), request)
        return call if token is None else StreamCall(call, None, again)

    def _send_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        call, token, _ = self._start(continuation, CallDetails.of(client_call_details), request_iterator)
        if token is not None:
            call.add_done_callback(lambda ended: is_unauthenticated(ended) and self._source.invalidate(token))
        return call

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Send the token."""
        return self._send_stream(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Send the token."""
        return self._send_stream(continuation, client_call_details, request_iterator)


class ErrorInterceptor(_Interceptor):
    """Makes failed calls raise the exceptions of neptune_api.exceptions; `source` knows which tokens to cut out."""

    def __init__(self, source: TokenSource | None = None) -> None:
        self._source = source

    def _translator(self, details: grpc.ClientCallDetails) -> Callable[[grpc.RpcError], NeptuneApiError]:
        method = find_method(details.method).name
        return lambda error: translate(error, method, known_secrets(self._source, None))

    def _unary(self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any) -> Any:
        call = continuation(client_call_details, request)
        translator = self._translator(client_call_details)
        if isinstance(call, grpc.RpcError) and not isinstance(call, grpc.Future):
            return translator(call)  # an interceptor below raised a bare error
        return UnaryCall(call, translator)

    def _stream(self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any) -> Any:
        return StreamCall(continuation(client_call_details, request), self._translator(client_call_details))

    def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Translate the error."""
        return self._unary(continuation, client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Translate the error."""
        return self._stream(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Translate the error."""
        return self._unary(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Translate the error."""
        return self._stream(continuation, client_call_details, request_iterator)


class DeadlineInterceptor(_Interceptor):
    """Gives calls that name no deadline those of `options`; `timeout=math.inf` opts a call out."""

    def __init__(self, options: ChannelOptions | None = None) -> None:
        self._options = ChannelOptions() if options is None else options

    def _call(
        self,
        continuation: Continuation,
        client_call_details: grpc.ClientCallDetails,
        request: Any,
        default: float | None,
    ) -> Any:
        details = CallDetails.of(client_call_details)
        return continuation(details._replace(timeout=effective_timeout(details.timeout, default)), request)

    def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Set the deadline."""
        return self._call(continuation, client_call_details, request, self._options.timeout)

    def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Set the deadline."""
        return self._call(continuation, client_call_details, request, self._options.stream_timeout)

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Set the deadline."""
        return self._call(continuation, client_call_details, request_iterator, self._options.stream_timeout)

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Set the deadline."""
        return self._call(continuation, client_call_details, request_iterator, self._options.stream_timeout)


class MirrorInterceptor(_Interceptor):
    """Sends copies of calls to a second server, best effort; channels made by neptune_api.channel() take the mirror.

    To be named before AuthInterceptor, which may call again what comes after it: each call would be another copy.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def _call(self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any) -> Any:
        details = CallDetails.of(client_call_details)
        method = find_method(details.method)
        path = f"/{method.name}"
        if self._mirror.mirrors(path):
            metadata = keyed(method, details.metadata)
            details = details._replace(metadata=metadata)
            request = self._mirror.take(path, request, metadata)
        return continuation(details, request)

    def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Copy the request."""
        return self._call(continuation, client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Copy the request."""
        return self._call(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Copy the requests, as they go."""
        return self._call(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.ClientCallDetails, request_iterator: Iterator[Any]
    ) -> Any:
        """Copy the requests, as they go."""
        return self._call(continuation, client_call_details, request_iterator)
