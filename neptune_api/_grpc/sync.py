"""The gRPC channel for threads: deadline, token, error mapping and one more attempt, in one layer over grpc.Channel.

Interceptors would do the same for a seventh of the calls per second; they are in sync_interceptors.py, for channels
that are not made here. aio.py mirrors this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from neptune_api._grpc.errors import translate
from neptune_api._grpc.policy import AUTH_METHODS, Policy, is_unauthenticated, registered_argument
from neptune_api._grpc.sync_calls import StreamCall, UnaryCall
from neptune_api.auth import AccessToken, Grant, Step, TokenSource
from neptune_api.exceptions import NeptuneApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from neptune_api._grpc.policy import Deadline, Pairs
    from neptune_api._grpc.sync_calls import Metadata
    from neptune_api.auth import Perform
    from neptune_api.mirror import Mirror
    from neptune_api.options import ChannelOptions

    UnaryUnaryBase: TypeAlias = grpc.UnaryUnaryMultiCallable[Any, Any]
    UnaryStreamBase: TypeAlias = grpc.UnaryStreamMultiCallable[Any, Any]
    StreamUnaryBase: TypeAlias = grpc.StreamUnaryMultiCallable[Any, Any]
    StreamStreamBase: TypeAlias = grpc.StreamStreamMultiCallable[Any, Any]
else:  # not generic at run time
    UnaryUnaryBase = grpc.UnaryUnaryMultiCallable
    UnaryStreamBase = grpc.UnaryStreamMultiCallable
    StreamUnaryBase = grpc.StreamUnaryMultiCallable
    StreamStreamBase = grpc.StreamStreamMultiCallable


class _Attempts:
    """The attempts of one call: what they have in common, and their tokens."""

    __slots__ = ("_arguments", "_deadline", "_invoke", "_metadata", "_policy", "_request", "_source", "token")

    def __init__(
        self,
        policy: Policy[TokenSource],
        invoke: Callable[..., Any],
        request: Any,
        timeout: float | None,
        metadata: Metadata | None,
        arguments: tuple[grpc.CallCredentials | None, bool | None, grpc.Compression | None],
    ) -> None:
        self._policy = policy
        self._invoke = invoke
        self._arguments = arguments
        self._deadline: Deadline = policy.deadline(timeout)
        self._metadata: Pairs = policy.metadata(metadata)
        self._request = policy.mirrored(request, self._metadata)
        self._source = policy.source_for(self._metadata)
        self.token: AccessToken | None = None

    def first(self) -> Any:
        """Make the call with the current token."""
        source = self._source
        if source is None:
            return self._invoke(self._request, self._deadline.left(), self._metadata or None, *self._arguments)
        token = self.token = source.current() or source.token(self._deadline.left())
        return self._invoke(self._request, self._deadline.left(), self._metadata + token.headers, *self._arguments)

    def again(self) -> Any:
        """Make the call with another token, after the server refused the first; None when there is no other."""
        return self.first() if self.drop() else None

    def drop(self) -> bool:
        """Give up the token of the last attempt; tell whether there is another."""
        return self._source is not None and self.token is not None and self._source.invalidate(self.token)

    def error(self, error: grpc.RpcError) -> Exception:
        """Return the exception to raise; the next call does not start with a token that was refused."""
        if is_unauthenticated(error):
            self.drop()
        return self._policy.error(error, self.token)

    def run(self, *, replay: bool) -> Any:
        """Make the call, wait for its end and return its response; with `replay`, again after UNAUTHENTICATED."""
        try:
            return self.first()
        except grpc.RpcError as error:
            failure = error
        if replay and is_unauthenticated(failure) and self.drop():
            try:
                return self.first()
            except grpc.RpcError as error:
                failure = error
        raise self.error(failure)

    def future(self, *, replay: bool) -> UnaryCall:
        """Start the call and return it; blocks while a token is fetched. A call that could not start is its error."""
        try:
            call = self.first()
        except NeptuneApiError as error:
            return error  # type: ignore[return-value] # a NeptuneApiError is an ended call in all but this name
        return UnaryCall(call, self.error, self.again if replay else None)


class _UnaryUnary(UnaryUnaryBase):
    """After UNAUTHENTICATED a call is made once more, with a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: UnaryUnaryBase, policy: Policy[TokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        policy = self._policy
        arguments = (credentials, wait_for_ready, compression)
        return _Attempts(policy, self._call, policy.payload(request), timeout, metadata, arguments).run(replay=True)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, grpc.Call]:
        policy = self._policy
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(policy, self._call.with_call, policy.payload(request), timeout, metadata, arguments)
        response: tuple[Any, grpc.Call] = attempts.run(replay=True)
        return response

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryCall:
        policy = self._policy
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(policy, self._call.future, policy.payload(request), timeout, metadata, arguments)
        return attempts.future(replay=True)


class _UnaryStream(UnaryStreamBase):
    """After UNAUTHENTICATED, and before the first response, a call is made once more, with a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: UnaryStreamBase, policy: Policy[TokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamCall:
        policy = self._policy
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(policy, self._call, policy.payload(request), timeout, metadata, arguments)
        return StreamCall(attempts.first(), attempts.error, attempts.again)


class _StreamUnary(StreamUnaryBase):
    """A stream of requests cannot be sent twice: after UNAUTHENTICATED the next call has a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: StreamUnaryBase, policy: Policy[TokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        arguments = (credentials, wait_for_ready, compression)
        return _Attempts(self._policy, self._call, request_iterator, timeout, metadata, arguments).run(replay=False)

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> tuple[Any, grpc.Call]:
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(self._policy, self._call.with_call, request_iterator, timeout, metadata, arguments)
        response: tuple[Any, grpc.Call] = attempts.run(replay=False)
        return response

    def future(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryCall:
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(self._policy, self._call.future, request_iterator, timeout, metadata, arguments)
        return attempts.future(replay=False)


class _StreamStream(StreamStreamBase):
    """A stream of requests cannot be sent twice: after UNAUTHENTICATED the next call has a new token."""

    __slots__ = ("_call", "_policy")

    def __init__(self, call: StreamStreamBase, policy: Policy[TokenSource]) -> None:
        self._call = call
        self._policy = policy

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamCall:
        arguments = (credentials, wait_for_ready, compression)
        attempts = _Attempts(self._policy, self._call, request_iterator, timeout, metadata, arguments)
        return StreamCall(attempts.first(), attempts.error)


class Channel(grpc.Channel):
    """A grpc.Channel whose calls have a deadline, carry a token and raise NeptuneApiError.

    Made by neptune_api.channel(). Stubs, grpc.intercept_channel() and grpc.channel_ready_future() take it as they take
    any channel. Closing it closes the channel below.
    """

    def __init__(
        self, channel: grpc.Channel, source: TokenSource | None, options: ChannelOptions, mirror: Mirror | None = None
    ) -> None:
        self._channel = channel
        self._source = source
        self._options = options
        self._mirror = mirror

    def _policy(self, path: str, serialize: Callable[[Any], bytes] | None, *, streams: bool) -> Policy[TokenSource]:
        return Policy.make(path, self._source, self._options, streams=streams, serialize=serialize, mirror=self._mirror)

    # A serializer below would hide the size of a request, and its errors; streams are serialized below all the same,
    # one message at a time. Stubs of newer generators say _registered_method, which older grpcio does not know.

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryUnaryBase:
        """Return the callable for a method with one request and one response."""
        call: UnaryUnaryBase = self._channel.unary_unary(
            method, None, response_deserializer, **registered_argument(_registered_method)
        )
        return _UnaryUnary(call, self._policy(method, request_serializer, streams=False))

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> UnaryStreamBase:
        """Return the callable for a method with one request and a stream of responses."""
        call: UnaryStreamBase = self._channel.unary_stream(
            method, None, response_deserializer, **registered_argument(_registered_method)
        )
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

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """Call `callback` with every change of the connection's state."""
        self._channel.subscribe(callback, try_to_connect=bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop calling `callback`."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the channel: calls under way are cancelled, later ones raise ValueError."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.close()


def token_transport(channel: grpc.Channel) -> Perform:
    """Return how to ask the server behind a channel for tokens, below all authentication."""
    from neptune_api.v1.auth_service_pb2 import ExchangeApiTokenRequest, RefreshTokenRequest
    from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub

    stub = AuthServiceStub(channel)

    def perform(step: Step, timeout: float) -> Grant:
        try:
            if step.kind == "refresh":
                token = stub.RefreshToken(RefreshTokenRequest(refresh_token=step.secret), timeout=timeout)
            else:
                token = stub.ExchangeApiToken(ExchangeApiTokenRequest(api_token=step.secret), timeout=timeout)
        except grpc.RpcError as error:
            failure = translate(error, AUTH_METHODS[step.kind], (step.secret,))
        else:
            return Grant(token.access_token, token.refresh_token, token.username)
        raise failure

    return perform
