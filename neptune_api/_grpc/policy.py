"""What a channel of ours does for each call of a method, whichever side of asyncio it is on."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import grpc

from neptune_api._grpc import forks
from neptune_api._grpc.errors import translate
from neptune_api._grpc.methods import Method, find_method
from neptune_api.auth import AUTHORIZATION, AioTokenSource, TokenSource
from neptune_api.exceptions import DeadlineExceededException, FailedPreconditionException, ResourceExhaustedException
from neptune_api.options import IDEMPOTENCY_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neptune_api.auth import AccessToken
    from neptune_api.exceptions import NeptuneApiError
    from neptune_api.mirror import Mirror
    from neptune_api.options import ChannelOptions

    Pair: TypeAlias = tuple[str, str | bytes]
    Pairs: TypeAlias = tuple[Pair, ...]

SourceT = TypeVar("SourceT", bound=TokenSource | AioTokenSource)


AUTH_METHODS: Final = {
    "exchange": "neptune_api.v1.AuthService/ExchangeApiToken",
    "refresh": "neptune_api.v1.AuthService/RefreshToken",
}
"""Names of the methods that grant tokens, by the kind of auth.Step."""


def effective_timeout(timeout: float | None, default: float | None) -> float | None:
    """Return the deadline in seconds of a call that names `timeout`: None means the default, infinity means none."""
    if timeout is None:
        return default
    return None if timeout == math.inf else timeout


class Deadline:
    """The instant by which a call has to end."""

    __slots__ = ("_end", "_method")

    def __init__(self, timeout: float | None, method: Method) -> None:
        self._method = method
        self._end = None if timeout is None else time.monotonic() + timeout

    def passed(self) -> bool:
        """Tell whether there is no time left."""
        return self._end is not None and self._end <= time.monotonic()

    def left(self) -> float | None:
        """Return the seconds left; None without a deadline.

        Raises DeadlineExceededException when there are none: gRPC rounds up, and a fast server would still answer.
        """
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceededException(
                "The deadline of the call passed before it was sent.", method=self._method.name
            )
        return left


def has_authorization(metadata: Iterable[Pair]) -> bool:
    """Tell whether a caller brings a token of their own."""
    return any(key == AUTHORIZATION for key, _ in metadata)


def keyed(method: Method, given: Iterable[Pair] | None) -> Pairs:
    """Return metadata with an idempotency key, if the method takes one and there is none."""
    pairs = () if given is None else tuple(given)
    if method.keyed and not any(key == IDEMPOTENCY_KEY for key, _ in pairs):
        return (*pairs, (IDEMPOTENCY_KEY, uuid.uuid4().hex))
    return pairs


@dataclass(frozen=True, slots=True)
class Policy(Generic[SourceT]):
    """The rules for one method on one channel."""

    method: Method
    source: SourceT | None
    """Where its token comes from; None for methods and channels that need none."""
    timeout: float | None
    """Default deadline in seconds."""
    max_send_bytes: int
    serialize: Callable[[Any], bytes] | None
    side: int | None
    """The side of forks on which the channel can be used; None for every side."""
    mirror: Mirror | None
    """Where copies of the calls go."""

    @classmethod
    def make(
        cls,
        path: str,
        source: SourceT | None,
        options: ChannelOptions,
        *,
        streams: bool,
        serialize: Callable[[Any], bytes] | None,
        side: int | None = None,
        mirror: Mirror | None = None,
    ) -> Policy[SourceT]:
        """Return the rules for the method at `path`; `streams` if its requests or responses are a stream."""
        method = find_method(path)
        return Policy(
            method=method,
            source=None if method.anonymous else source,
            timeout=options.stream_timeout if streams else options.timeout,
            max_send_bytes=options.max_send_bytes,
            serialize=serialize,
            side=side,
            mirror=mirror if mirror is not None and mirror.mirrors(f"/{method.name}") else None,
        )

    def check_side(self) -> None:
        """Raise FailedPreconditionException in the child of a fork, for channels that belong to one process."""
        if self.side not in {None, forks.here.side}:
            raise FailedPreconditionException(
                "An aio channel belongs to one process and one event loop, and this process was forked from the one "
                "that opened it. Open a channel here, in a coroutine, with neptune_api.aio.channel().",
                method=self.method.name,
            )

    def payload(self, request: Any) -> bytes:
        """Serialize a request, once for all attempts. Raises ResourceExhaustedException for one over the size limit.

        gRPC would find out too, but takes the refusal for one worth five attempts.
        """
        data: bytes = request if self.serialize is None else self.serialize(request)
        if len(data) > self.max_send_bytes:
            raise ResourceExhaustedException(
                f"The request has {len(data):,} bytes, the limit is {self.max_send_bytes:,} "
                "(ChannelOptions.max_send_bytes). Split it into smaller ones.",
                method=self.method.name,
            )
        return data

    def deadline(self, timeout: float | None) -> Deadline:
        """Return the deadline of a call that names `timeout`, counted from now."""
        return Deadline(effective_timeout(timeout, self.timeout), self.method)

    def metadata(self, given: Iterable[Pair] | None) -> Pairs:
        """Return the metadata of all attempts of one call: the caller's and, for writes, an idempotency key."""
        return keyed(self.method, given)

    def mirrored(self, request: Any, metadata: Pairs) -> Any:
        """Have the call copied to another server; return the request, or the stream of requests, to make it with."""
        if self.mirror is None:
            return request
        return self.mirror.take(f"/{self.method.name}", request, metadata)

    def mirrored_one(self, request: Any, metadata: Pairs) -> None:
        """Do so for one request of a stream that has no iterator."""
        if self.mirror is not None:
            self.mirror.copy(f"/{self.method.name}", request, metadata)

    def source_for(self, metadata: Pairs) -> SourceT | None:
        """Return where to get a token for a call; None when it needs none or brings its own."""
        return None if self.source is None or (metadata and has_authorization(metadata)) else self.source

    def error(self, error: grpc.RpcError, token: AccessToken | None) -> NeptuneApiError:
        """Return the exception to raise for a failed attempt with a token."""
        return translate(error, self.method.name, known_secrets(self.source, token))


def known_secrets(source: TokenSource | AioTokenSource | None, token: AccessToken | None) -> tuple[str, ...]:
    """Return the texts to keep out of errors: those of the source, and the token of the call, which may be spent."""
    return (() if source is None else source.secrets()) + (() if token is None else (token.value,))


def is_unauthenticated(error: grpc.RpcError) -> bool:
    """Tell whether a call that has ended failed for want of a good token."""
    code = getattr(error, "code", None)
    return callable(code) and code() is grpc.StatusCode.UNAUTHENTICATED


def registered_argument(wanted: bool) -> dict[str, Any]:
    """Return the argument by which stubs of newer generators register a method; older grpcio does not know it."""
    return {"_registered_method": True} if wanted else {}
