"""Client interceptors for event loops, for channels that neptune_api.aio.channel() did not make.

    interceptors = [*error_interceptors(), *auth_interceptors(source), *deadline_interceptors()]
    channel = grpc.aio.insecure_channel(target, interceptors=interceptors)

Each function returns four objects, one for each kind of call: grpc.aio takes an object for the first kind it can do
only. Mirrors sync_interceptors.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from neptune_api._grpc.aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
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
from neptune_api.options import ChannelOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from neptune_api.auth import AccessToken, AioTokenSource
    from neptune_api.exceptions import NeptuneApiError
    from neptune_api.mirror import Mirror

    Details: TypeAlias = grpc.aio.ClientCallDetails
    Continuation: TypeAlias = Callable[[Details, Any], Awaitable[Any]]

__all__ = ["auth_interceptors", "deadline_interceptors", "error_interceptors", "mirror_interceptors"]


def _changed(details: Details, *, timeout: float | None, metadata: Any) -> Details:
    return grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


# Authentication.


class _Auth:
    def __init__(self, source: AioTokenSource) -> None:
        self._source = source

    async def _start(
        self, continuation: Continuation, details: Details, request: Any
    ) -> tuple[Any, AccessToken | None, Callable[[], Any]]:
        """Make the call; return it, the token it carries and how to make it with another one."""
        method = find_method(details.method)
        deadline = Deadline(details.timeout, method)

        async def attempt() -> tuple[Any, AccessToken]:
            token = self._source.current() or await self._source.token(deadline.left())
            metadata = grpc.aio.Metadata(*(details.metadata or ()), *token.headers)
            return await continuation(_changed(details, timeout=deadline.left(), metadata=metadata), request), token

        async def again() -> Any:
            return (await attempt())[0] if token is not None and self._source.invalidate(token) else None

        if method.anonymous or has_authorization(details.metadata or ()):
            token = None
            return await continuation(details, request), None, again
        call, token = await attempt()
        return call, token, again

    def _drop(self, token: AccessToken | None) -> Callable[[grpc.RpcError], grpc.RpcError]:
        def drop(error: grpc.RpcError) -> grpc.RpcError:
            if token is not None and is_unauthenticated(error):
                self._source.invalidate(token)
            return error

        return drop


class _AuthUnaryUnary(_Auth, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        call, token, again = await self._start(continuation, client_call_details, request)
        return call if token is None else UnaryUnaryCall(call, None, again)


class _AuthUnaryStream(_Auth, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        call, token, again = await self._start(continuation, client_call_details, request)
        return call if token is None else UnaryStreamCall(call, None, again)


class _AuthStreamUnary(_Auth, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        call, token, _ = await self._start(continuation, client_call_details, request_iterator)
        return StreamUnaryCall(call, self._drop(token))


class _AuthStreamStream(_Auth, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        call, token, _ = await self._start(continuation, client_call_details, request_iterator)
        return StreamStreamCall(call, self._drop(token))


def auth_interceptors(source: AioTokenSource) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Return the interceptors that add the access token of a source to calls that need one and bring none.

    After UNAUTHENTICATED a call with one request is made once more with a new token, if no response has come yet. A
    stream of requests cannot be sent twice; the next call then has a new token.
    """
    kinds = (_AuthUnaryUnary, _AuthUnaryStream, _AuthStreamUnary, _AuthStreamStream)
    return tuple(kind(source) for kind in kinds)


# Errors.


class _Errors:
    def __init__(self, source: AioTokenSource | None) -> None:
        self._source = source

    def _translator(self, details: Details) -> Callable[[grpc.RpcError], NeptuneApiError]:
        method = find_method(details.method).name
        return lambda error: translate(error, method, known_secrets(self._source, None))


class _ErrorsUnaryUnary(_Errors, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        return UnaryUnaryCall(await continuation(client_call_details, request), self._translator(client_call_details))


class _ErrorsUnaryStream(_Errors, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        return UnaryStreamCall(await continuation(client_call_details, request), self._translator(client_call_details))


class _ErrorsStreamUnary(_Errors, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        call = await continuation(client_call_details, request_iterator)
        return StreamUnaryCall(call, self._translator(client_call_details))


class _ErrorsStreamStream(_Errors, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        call = await continuation(client_call_details, request_iterator)
        return StreamStreamCall(call, self._translator(client_call_details))


def error_interceptors(source: AioTokenSource | None = None) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Return the interceptors that make failed calls raise the exceptions of neptune_api.exceptions.

    `source` knows which tokens to cut out of their texts.
    """
    kinds = (_ErrorsUnaryUnary, _ErrorsUnaryStream, _ErrorsStreamUnary, _ErrorsStreamStream)
    return tuple(kind(source) for kind in kinds)


# Deadlines.


class _Deadlines:
    def __init__(self, default: float | None) -> None:
        self._default = default

    def _limited(self, details: Details) -> Details:
        timeout = effective_timeout(details.timeout, self._default)
        return _changed(details, timeout=timeout, metadata=details.metadata)


class _DeadlinesUnaryUnary(_Deadlines, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        return await continuation(self._limited(client_call_details), request)


class _DeadlinesUnaryStream(_Deadlines, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        return await continuation(self._limited(client_call_details), request)


class _DeadlinesStreamUnary(_Deadlines, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await continuation(self._limited(client_call_details), request_iterator)


class _DeadlinesStreamStream(_Deadlines, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await continuation(self._limited(client_call_details), request_iterator)


def deadline_interceptors(options: ChannelOptions | None = None) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Return the interceptors that give calls which name no deadline those of `options`.

    `timeout=math.inf` opts a call out.
    """
    options = ChannelOptions() if options is None else options
    return (
        _DeadlinesUnaryUnary(options.timeout),
        _DeadlinesUnaryStream(options.stream_timeout),
        _DeadlinesStreamUnary(options.stream_timeout),
        _DeadlinesStreamStream(options.stream_timeout),
    )


# Copies.


class _Mirrored:
    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def _copied(self, details: Details, request: Any) -> tuple[Details, Any]:
        method = find_method(details.method)
        path = f"/{method.name}"
        if not self._mirror.mirrors(path):
            return details, request
        metadata = keyed(method, details.metadata or ())
        changed = _changed(details, timeout=details.timeout, metadata=grpc.aio.Metadata(*metadata))
        return changed, self._mirror.take(path, request, metadata)


class _MirrorUnaryUnary(_Mirrored, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        return await continuation(*self._copied(client_call_details, request))


class _MirrorUnaryStream(_Mirrored, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        return await continuation(*self._copied(client_call_details, request))


class _MirrorStreamUnary(_Mirrored, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await continuation(*self._copied(client_call_details, request_iterator))


class _MirrorStreamStream(_Mirrored, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        return await continuation(*self._copied(client_call_details, request_iterator))


def mirror_interceptors(mirror: Mirror) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Return the interceptors that send copies of calls to a second server, best effort.

    They are for channels made elsewhere; those of neptune_api.aio.channel() take the mirror. Requests that are written
    to a stream one by one are not copied.
    """
    kinds = (_MirrorUnaryUnary, _MirrorUnaryStream, _MirrorStreamUnary, _MirrorStreamStream)
    return tuple(kind(mirror) for kind in kinds)
