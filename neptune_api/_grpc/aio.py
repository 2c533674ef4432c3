"""The gRPC channel for event loops: deadline, token, error mapping and one more attempt, in one layer over grpc.aio.

Mirrors sync.py. A call with a fresh token starts at once; one that needs a token first starts from a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from neptune_api._grpc import forks
from neptune_api._grpc.aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from neptune_api._grpc.errors import translate
from neptune_api._grpc.policy import AUTH_METHODS, Policy, is_unauthenticated, registered_argument
from neptune_api.auth import AccessToken, AioTokenSource, Grant, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from neptune_api._grpc.policy import Deadline, Pairs
    from neptune_api.auth import AioPerform
    from neptune_api.exceptions import NeptuneApiError
    from neptune_api.mirror import Mirror
    from neptune_api.options import ChannelOptions

    Metadata: TypeAlias = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]
    Requests: TypeAlias = AsyncIterable[Any] | Iterable[Any]
    UnaryUnaryBase: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[Any, Any]
    UnaryStreamBase: TypeAlias = grpc.aio.UnaryStreamMultiCallable[Any, Any]
    StreamUnaryBase: TypeAlias = grpc.aio.StreamUnaryMultiCallable[Any, Any]
    StreamStreamBase: TypeAlias = grpc.aio.StreamStreamMultiCallable[Any, Any]
else:  # not generic at run time in every version
    UnaryUnaryBase = grpc.aio.UnaryUnaryMultiCallable
    UnaryStreamBase = grpc.aio.UnaryStreamMultiCallable
    StreamUnaryBase = grpc.aio.StreamUnaryMultiCallable
    StreamStreamBase = grpc.aio.StreamStreamMultiCallable

CallT = TypeVar("CallT", UnaryUnaryCall, UnaryStreamCall, StreamUnaryCall, StreamStreamCall)


class _Attempts:
    """The attempts of one call: what they have in common, and their tokens."""

    __slots__ = ("_arguments", "_deadline", "_invoke", "_metadata", "_policy", "_request", "_source", "_token")

    def __init__(
        self,
        policy: Policy[AioTokenSource],
        invoke: Callable[..., Any],
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        arguments: tuple[grpc.CallCredentials | None, bool | None, grpc.Compression | None],
    ) -> None:
        policy.check_side()
        self._policy = policy
        self._invoke = invoke
        self._arguments = arguments
        self._deadline: Deadline = policy.deadline(timeout)
        self._metadata: Pairs = policy.metadata(metadata)
        self._request = policy.mirrored(request, self._metadata)
        self._source = policy.source_for(self._metadata)
        self._token: AccessToken | None = None

    def start(self, kind: type[CallT], *, replay: bool) -> CallT:
        """Make the call and return it; with `replay`, it starts over after UNAUTHENTICATED."""
        source = self._source
        restart = self._again if replay and source is not None else None
        token = None if source is None else source.current()
        if (source is None or token is not None) and not self._deadline.passed():
            return kind(self._attempt(token), self._error, restart)
        return kind(None, self._error, restart, self._first)

    def written(self, request: Any) -> None:
        """Take note of a request that is written to the stream one by one."""
        self._policy.mirrored_one(request, self._metadata)

    def _attempt(self, token: AccessToken | None) -> Any:
        self._token = token
        credentials, wait_for_ready, compression = self._arguments
        return self._invoke(
            self._request,
            timeout=self._deadline.left(),
            metadata=self._metadata if token is None else self._metadata + token.headers,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )

    async def _first(self) -> Any:
        source, left = self._source, self._deadline.left()
        return self._attempt(None if source is None else source.current() or await source.token(left))

    async def _again(self) -> Any:
        return await self._first() if self._drop() else None

    def _drop(self) -> bool:
        return self._source is not None and self._token is not None and self._source.invalidate(self._token)

    def _error(self, error: grpc.RpcError) -> NeptuneApiError:
        if is_unauthenticated(error):
            self._drop()
        return self._policy.error(error, self._token)


class _UnaryUnary(UnaryUnaryBase):
    """After UNAUTHENTICATED a call is made once more, with a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: UnaryUnaryBase, policy: Policy[AioTokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryUnaryCall:
        policy = self._policy
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(policy, self._call, policy.payload(request), timeout, metadata, arguments)
        return attempts.start(UnaryUnaryCall, replay=True)


class _UnaryStream(UnaryStreamBase):
    """After UNAUTHENTICATED, and before the first response, a call is made once more, with a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: UnaryStreamBase, policy: Policy[AioTokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryStreamCall:
        policy = self._policy
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(policy, self._call, policy.payload(request), timeout, metadata, arguments)
        return attempts.start(UnaryStreamCall, replay=True)


class _StreamUnary(StreamUnaryBase):
    """A stream of requests cannot be sent twice: after UNAUTHENTICATED the next call has a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: StreamUnaryBase, policy: Policy[AioTokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request_iterator: Requests | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamUnaryCall:
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(self._policy, self._call, request_iterator, timeout, metadata, arguments)
        call = attempts.start(StreamUnaryCall, replay=False)
        call.written = attempts.written
        return call


class _StreamStream(StreamStreamBase):
    """A stream of requests cannot be sent twice: after UNAUTHENTICATED the next call has a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: StreamStreamBase, policy: Policy[AioTokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request_iterator: Requests | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamStreamCall:
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(self._policy, self._call, request_iterator, timeout, metadata, arguments)
        call = attempts.start(StreamStreamCall, replay=False)
        call.written = attempts.written
        return call


class Channel(grpc.aio.Channel):
    """A grpc.aio.Channel whose calls have a deadline, carry a token and raise NeptuneApiError.

    Made by neptune_api.aio.channel(), for the event loop that runs then. Closing it closes the channel below.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        source: AioTokenSource | None,
        options: ChannelOptions,
        mirror: Mirror | None = None,
    ) -> None:
        self._channel = channel
        self._source = source
        self._options = options
        self._mirror = mirror
        self._side = forks.here.side

    def _policy(self, path: str, serialize: Callable[[Any], bytes] | None, *, streams: bool) -> Policy[AioTokenSource]:
        return Policy.make(
            path,
            self._source,
            self._options,
            streams=streams,
            serialize=serialize,
            side=self._side,
            mirror=self._mirror,
        )

    # As in sync.py: requests that are no stream are serialized here.

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryUnaryBase:
        """Return the callable for a method with one request and one response."""
        registered = registered_argument(_registered_method)
        call: UnaryUnaryBase = self._channel.unary_unary(method, None, response_deserializer, **registered)
        return _UnaryUnary(call, self._policy(method, request_serializer, streams=False))

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryStreamBase:
        """Return the callable for a method with one request and a stream of responses."""
        registered = registered_argument(_registered_method)
        call: UnaryStreamBase = self._channel.unary_stream(method, None, response_deserializer, **registered)
        return _UnaryStream(call, self._policy(method, request_serializer, streams=True))

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> StreamUnaryBase:
        """Return the callable for a method with a stream of requests and one response."""
        registered = registered_argument(_registered_method)
        call = self._channel.stream_unary(method, request_serializer, response_deserializer, **registered)
        return _StreamUnary(call, self._policy(method, None, streams=True))

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> StreamStreamBase:
        """Return the callable for a method with streams both ways."""
        registered = registered_argument(_registered_method)
        call = self._channel.stream_stream(method, request_serializer, response_deserializer, **registered)
        return _StreamStream(call, self._policy(method, None, streams=True))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state of the connection is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Connect and wait until the connection stands."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel: calls under way are cancelled after `grace` seconds, later ones fail."""
        if self._side == forks.here.side:  # else it is the parent's
            await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


def token_transport(channel: grpc.aio.Channel) -> AioPerform:
    """Return how to ask the server behind a channel for tokens, below all authentication."""
    from neptune_api.v1.auth_service_pb2 import ExchangeApiTokenRequest, RefreshTokenRequest
    from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub

    stub = AuthServiceStub(channel)

    async def perform(step: Step, timeout: float) -> Grant:
        try:
            if step.kind == "refresh":
                token = await stub.RefreshToken(RefreshTokenRequest(refresh_token=step.secret), timeout=timeout)
            else:
                token = await stub.ExchangeApiToken(ExchangeApiTokenRequest(api_token=step.secret), timeout=timeout)
        except grpc.RpcError as error:
            failure = translate(error, AUTH_METHODS[step.kind], (step.secret,))
        else:
            return Grant(token.access_token, token.refresh_token, token.username)
        raise failure

    return perform
