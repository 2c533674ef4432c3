"""Writing to two servers: copies of calls go to a second one, best effort, and never slow down or fail the first.

mirror = neptune_api.Mirror("https://other.example", api_token=other_token)
channel = neptune_api.channel(mirror=mirror)
"""

from __future__ import annotations

import atexit
import difflib
import logging
import math
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from google.protobuf import message_factory

from neptune_api._grpc import forks
from neptune_api._grpc.methods import all_methods, message_type
from neptune_api.auth import AUTHORIZATION
from neptune_api.channels import channel as open_channel
from neptune_api.options import IDEMPOTENCY_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType

    from google.protobuf.message import Message
    from typing_extensions import Self

    from neptune_api._grpc.methods import Method
    from neptune_api._grpc.policy import Pairs
    from neptune_api.auth import Provider
    from neptune_api.channels import Transport
    from neptune_api.credentials import ApiToken
    from neptune_api.options import ChannelOptions

    Rewrite: TypeAlias = Callable[[str, Any], Message | None]
    """From a method, such as `IngestService.Submit`, and a copy of its request to what is sent; None sends nothing."""

__all__ = ["Mirror", "MirrorCounts"]

_LOGGER: Final = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 30.0
"""Seconds between two warnings."""

_UNMIRRORED: Final = frozenset({"StorageService.CompleteMultipartUpload"})
"""What writes under an idempotency key, and is of use to the server only that began it."""


@dataclass(frozen=True, slots=True)
class MirrorCounts:
    """What became of the calls that a mirror took."""

    sent: int
    """The second server took them."""
    failed: int
    """The second server refused them, could not be reached in time, or `rewrite` raised an error."""
    dropped: int
    """There was no room for them, or no time at the end."""
    skipped: int
    """`rewrite` returned None."""
    waiting: int
    """They are still to be sent."""


class _Copy(NamedTuple):
    method: Method
    path: str
    payload: bytes
    metadata: Pairs


class Mirror:
    """Sends copies of calls to a second server from a thread of its own, in the order in which they were made.

    `target`, `api_token`, `access_token`, `options` and `transport` are those of channel(), for the second server. The
    copies carry the metadata and idempotency key of the originals, but never their tokens, and are sent whatever the
    first server answers. Answers of the second server are dropped.

    By default those calls are copied that write under an idempotency key, and their streams: logging, and changing runs
    and projects. `methods` are others, such as `ProjectsService.CreateProject`. A stream of requests is copied as
    single calls, so it needs no stream on the second side.

    `rewrite` takes the name of a method and a copy of its request, and returns what to send, to another project for
    example, or None to send nothing. It runs on the mirror's thread.

    A copy that does not get through within `timeout` seconds is given up. While the second server is away copies wait:
    at most `max_calls` and `max_bytes` of them. When there is no room a new copy is dropped rather than an old one,
    because later calls build on earlier ones. `counts` says what became of them, and warnings go to the log.

    Whoever makes a mirror closes it, after the channels that use it; the end of the program does so within a second. A
    mirror may be used by many channels, threads and event loops. In the child of a fork it begins empty. Raises what
    channel() raises, and ValueError for methods that do not exist or send one of several responses only.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        api_token: str | ApiToken | None = None,
        access_token: str | Provider | None = None,
        options: ChannelOptions | None = None,
        transport: Transport | None = None,
        methods: Iterable[str] | None = None,
        rewrite: Rewrite | None = None,
        timeout: float = 60.0,
        max_calls: int = 10_000,
        max_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if max_calls < 1 or max_bytes < 1:
            raise ValueError(f"max_calls and max_bytes must be at least 1, not {max_calls!r} and {max_bytes!r}")
        self._paths = _selected(methods)
        self._rewrite = rewrite
        self._timeout = timeout
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._channel = open_channel(
            target, api_token=api_token, access_token=access_token, options=options, transport=transport
        )
        self._callables: dict[str, Any] = {}
        self._closed = False
        self.start_over()
        forks.survive(self)
        atexit.register(self.close)

    def start_over(self) -> None:
        """Begin with nothing to send; also in the child of a fork, since the parent sends what it took."""
        # Of a lock that its holder may take again: a finalizer that logs may run anywhere.
        self._changed = threading.Condition()
        self._copies: deque[_Copy] = deque()
        self._bytes = 0
        self._sending = False
        self._thread: threading.Thread | None = None
        self._sent = self._failed = self._dropped = self._skipped = 0
        self._quiet_until = 0.0

    # What channels do. None of it waits for the second server, and none of it raises.

    def mirrors(self, path: str) -> bool:
        """Tell whether calls of a method, `/package.Service/Method`, are copied."""
        return path in self._paths

    def take(self, path: str, request: Any, metadata: Pairs) -> Any:
        """Copy the request of a call, a message or its bytes, and return it; of a stream, each request as it goes."""
        if self._paths[path].single is None:
            self.copy(path, request, metadata)
            return request
        if hasattr(request, "__aiter__"):
            return self._tee_aio(path, request, metadata)
        return None if request is None else self._tee(path, request, metadata)

    def _tee(self, path: str, requests: Iterable[Any], metadata: Pairs) -> Iterator[Any]:
        for request in requests:
            self.copy(path, request, metadata)
            yield request

    async def _tee_aio(self, path: str, requests: AsyncIterable[Any], metadata: Pairs) -> AsyncIterator[Any]:
        async for request in requests:
            self.copy(path, request, metadata)
            yield request

    def copy(self, path: str, request: Any, metadata: Pairs) -> None:
        """Send one request, a message or its bytes, to the second server, when its turn comes."""
        method = self._paths[path]
        try:
            payload = request if isinstance(request, bytes) else request.SerializeToString()
        except Exception as error:  # noqa: BLE001 # the call to the first server says what is wrong with it
            self._fail(method, error)
            return
        pairs = tuple(pair for pair in metadata if pair[0] != AUTHORIZATION)
        if method.single is not None:
            # A key is for one call, and a stream becomes many.
            pairs = (*(pair for pair in pairs if pair[0] != IDEMPOTENCY_KEY), (IDEMPOTENCY_KEY, uuid.uuid4().hex))
        if not self._keep(_Copy(method, method.single or path, payload, pairs)):
            self._warn("there is no room for more copies, or no thread to send them; new ones are dropped", method)

    def _keep(self, copy: _Copy) -> bool:
        size = len(copy.payload)
        with self._changed:
            if self._closed:
                self._dropped += 1
                return True
            if len(self._copies) >= self._max_calls or self._bytes + size > self._max_bytes:
                self._dropped += 1
                return False
            self._copies.append(copy)
            self._bytes += size
            if self._thread is None and not self._start():
                self._copies.pop()
                self._bytes -= size
                self._dropped += 1
                return False
            self._changed.notify_all()
            return True

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="neptune-api-mirror", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the program ends, or the system has no more threads
            return False
        self._thread = thread
        return True

    # What the thread does.

    def _run(self) -> None:
        changed = self._changed
        while True:
            with changed:
                while not self._copies:
                    if self._closed:
                        return
                    changed.wait()
                copy = self._copies.popleft()
                self._bytes -= len(copy.payload)
                self._sending = True
            try:
                went = self._send(copy)
            except Exception as error:  # noqa: BLE001 # best effort
                self._fail(copy.method, error)
            else:
                with changed:
                    if went:
                        self._sent += 1
                    else:
                        self._skipped += 1
            finally:
                with changed:
                    self._sending = False
                    changed.notify_all()

    def _send(self, copy: _Copy) -> bool:
        payload = copy.payload
        if self._rewrite is not None:
            request = message_factory.GetMessageClass(message_type(copy.path)).FromString(payload)
            rewritten = self._rewrite(copy.method.short_name, request)
            if rewritten is None:
                return False
            payload = rewritten.SerializeToString()
        call = self._callables.get(copy.path)
        if call is None:
            call = self._callables[copy.path] = self._channel.unary_unary(copy.path, None, None)
        call(payload, timeout=self._timeout, metadata=copy.metadata, wait_for_ready=True)
        return True

    def _fail(self, method: Method, error: Exception) -> None:
        with self._changed:
            self._failed += 1
        if not self._closed:
            self._warn(f"the second server did not take a copy: {error}", method)

    def _warn(self, what: str, method: Method) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            _LOGGER.warning("Mirroring %s: %s. So far: %s", method.short_name, what, self.counts)

    # What its owner does.

    @property
    def counts(self) -> MirrorCounts:
        """What became of the calls so far."""
        with self._changed:
            waiting = len(self._copies) + self._sending
            return MirrorCounts(self._sent, self._failed, self._dropped, self._skipped, waiting)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every copy is sent, or given up; return False if some are left after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._copies and not self._sending, timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Send what can be sent within `timeout` seconds, drop the rest, and end. Channels may go on without it."""
        if self._closed:
            return
        atexit.unregister(self.close)
        self.flush(timeout)
        with self._changed:
            self._closed = True
            self._dropped += len(self._copies)
            self._copies.clear()
            self._bytes = 0
            self._changed.notify_all()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _selected(names: Iterable[str] | None) -> dict[str, Method]:
    """Return the methods to mirror by their paths. Raises ValueError for one that does not exist or takes no copies."""
    methods = all_methods()
    if names is None:
        return {
            path: method
            for path, method in methods.items()
            if (methods[method.single] if method.single else method).keyed and method.short_name not in _UNMIRRORED
        }
    by_name = {method.short_name: path for path, method in methods.items()}
    chosen = {}
    for name in (names,) if isinstance(names, str) else names:
        path = by_name.get(name)
        if path is None:
            close = " or ".join(difflib.get_close_matches(name, by_name, n=3)) or "IngestService.Submit"
            raise ValueError(f"there is no method {name!r} to mirror; did you mean {close}?")
        method = methods[path]
        if method.responses and method.single is None:
            raise ValueError(f"{name} answers with a stream, which a mirror has no use for")
        chosen[path] = method
    return chosen
