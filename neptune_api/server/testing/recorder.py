"""The recorder: which calls came, with which messages, and what became of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from neptune_api.server.testing.redaction import redacted, redacted_metadata
from neptune_api.server.testing.selection import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import grpc
    from google.protobuf.message import Message

    from neptune_api.server.handlers import Handler

MAX_CALLS: Final = 10_000
"""How many calls are kept; older ones are forgotten."""


@dataclass(slots=True, eq=False)
class Call:
    """One call. Tokens are replaced in its messages and metadata."""

    method: str
    """`Service.Method`."""
    door: Literal["grpc", "http"]
    metadata: tuple[tuple[str, str | bytes], ...] = field(repr=False)
    """As it was sent with the call; over HTTP, its headers."""
    requests: list[Any] = field(default_factory=list)
    """The request, or as many of a stream of them as were read."""
    responses: list[Any] = field(default_factory=list)
    """The response, or as many of a stream of them as were sent."""
    code: grpc.StatusCode | None = None
    """How the call ended; None while it goes on, and for a caller who went away."""
    came_at: float = field(default_factory=time.monotonic, repr=False)
    """Reading of time.monotonic() when it came; two of them say how long a caller waited."""

    @property
    def request(self) -> Any:
        """The one request. Raises ValueError when there is none, or several."""
        (request,) = self.requests
        return request

    @property
    def response(self) -> Any:
        """The one response. Raises ValueError when there is none, or several."""
        (response,) = self.responses
        return response

    def receive(self, request: Message) -> None:
        """Note a request."""
        self.requests.append(redacted(request))

    def send(self, response: Message) -> None:
        """Note a response."""
        self.responses.append(redacted(response))


class Recorder:
    """The calls since it was cleared, in the order in which they came."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)

    def calls(self, method: str | None = None) -> list[Call]:
        """Return the calls, or those of one RPC. Raises ValueError for an unknown one."""
        name = None if method is None else resolve(self._handlers, method).name
        with self._lock:
            return [call for call in self._calls if name in {None, call.method}]

    def requests(self, method: str) -> list[Any]:
        """Return the requests of all calls of one RPC. Raises ValueError for an unknown one."""
        return [request for call in self.calls(method) for request in call.requests]

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls())

    def __len__(self) -> int:
        return len(self._calls)

    def clear(self) -> None:
        """Forget all calls."""
        with self._lock:
            self._calls.clear()

    def begin(self, handler: Handler, metadata: list[tuple[str, str | bytes]]) -> Call:
        """Note a call that has come."""
        door: Literal["grpc", "http"] = "http" if any(key == ":path" for key, _ in metadata) else "grpc"
        call = Call(handler.name, door, redacted_metadata(metadata))
        with self._lock:
            self._calls.append(call)
        return call
