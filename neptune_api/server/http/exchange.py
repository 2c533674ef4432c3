"""One request and its response, as the rest of the door sees them: bounded, decoded, without ASGI."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api.http.headers import TIMEOUT_HEADER, decode_metadata, decode_timeout
from neptune_api.http.json_codec import TranscodeError, dump
from neptune_api.server import limits
from neptune_api.server.errors import StatusError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""

BODY_SECONDS: Final = 30.0
"""How long a client may take to send a body, and one second more for every _BODY_RATE bytes of it."""
_BODY_RATE: Final = 16 * 1024
SEND_SECONDS: Final = 60.0
"""How long a client may take nothing of a response that is ready for it."""

# A body over the limit is read to its end, if it has one in sight, so that its sender gets to read why it was refused.
_MAX_DISCARDED: Final = 3 * limits.MAX_REQUEST_BYTES

# Headers that mean something by themselves; of two, one would be believed and the other might have been checked.
_SINGLE: Final = frozenset({"authorization", "content-length", "content-type", "host", TIMEOUT_HEADER})


class ClientGoneError(Exception):
    """Nobody waits for the response any more."""


class HttpError(StatusError):
    """A StatusError with an HTTP status and headers of its own."""

    def __init__(
        self,
        http_code: int,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, message, reason=reason)
        self.http_code = http_code
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Response:
    """A response with a body that is known as a whole."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with JSON."""
    return Response(status, dump(value), headers=headers or {})


class Request:
    """A request; the body is read when it is asked for."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Take the request apart. Raises StatusError for headers that contradict each other."""
        self.verb: Final[str] = scope["method"]
        self.path: Final[str] = scope["raw_path"].decode("ascii")
        """As it came, percent-encoded."""
        self.query: Final[str] = scope["query_string"].decode("latin-1")
        self.scheme: Final[str] = scope["scheme"]
        self.peer: Final = ":".join(map(str, scope.get("client") or ()))
        """`host:port` of the other end of the connection; empty for a socket of this machine."""
        self.pairs: Final = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        self.headers: Final = dict(self.pairs)
        if len(self.headers) < len(self.pairs):
            names = [name for name, _ in self.pairs]
            for name in _SINGLE & self.headers.keys():
                if names.count(name) > 1:
                    raise invalid(name, f"the header {name} is given more than once; send it once.")
        self._receive = receive
        self._body_read = False

    def metadata(self) -> list[tuple[str, str | bytes]]:
        """Return the headers as metadata of a call; `:authority`, `:scheme` and `:path` say how it came here."""
        host = self.headers.get("host")
        reached = [] if host is None else [(":authority", host), (":scheme", self.scheme)]
        return [*decode_metadata(self.pairs), *reached, (":path", self.path)]

    def deadline(self) -> float | None:
        """Return the instant by which the caller wants the answer, by time.monotonic(). Raises StatusError."""
        text = self.headers.get(TIMEOUT_HEADER)
        if text is None:
            return None
        try:
            return time.monotonic() + decode_timeout(text)
        except TranscodeError as error:
            raise invalid(TIMEOUT_HEADER, error.description) from None

    def declared_bytes(self) -> int | None:
        """Return the size of the body as its sender declares it; None for one that comes in chunks."""
        if "transfer-encoding" in self.headers:
            return None
        return int(self.headers.get("content-length", 0))

    async def body(self, *, max_bytes: int, early: Callable[[], Awaitable[object]] | None = None) -> bytes:
        """Return the body; `early` is asked, and may refuse, before anything large is read.

        Raises StatusError for a body that is too large or comes too slowly, ClientGoneError.
        """
        encoding = self.headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise HttpError(
                415,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Bodies encoded as {encoding[:40]!r} are not read: send plain ones.",
            )
        declared = self.declared_bytes()
        if declared == 0:
            return b""
        if early is not None and (declared is None or declared > _EARLY_BYTES):
            await early()
        if declared is not None and declared > max_bytes:
            raise _too_large(declared, max_bytes)
        return await self._read(max_bytes, keep=True)

    async def discard(self) -> bool:
        """Read what is left of the body and keep nothing of it; False when that would take too long.

        Most clients look at a response only when they have sent their whole request, and never see one to a connection
        that was closed before. Raises as body().
        """
        declared = self.declared_bytes()
        if self._body_read or declared == 0:
            return True
        if declared is None or declared > _MAX_DISCARDED or "expect" in self.headers:
            return False
        await self._read(declared, keep=False)
        return True

    async def _read(self, max_bytes: int, *, keep: bool) -> bytes:
        pieces: list[bytes] = []
        size = 0
        begin = time.monotonic()
        while True:
            try:
                with Alarm(begin + BODY_SECONDS + size / _BODY_RATE):
                    event = await self._receive()
            except asyncio.TimeoutError:
                self._body_read = True  # as far as it ever will be
                raise HttpError(
                    408,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"The body comes too slowly: after {BODY_SECONDS:g} s it has to come at {_BODY_RATE:,} bytes a "
                    "second.",
                    headers={"connection": "close"},
                ) from None
            if event["type"] == "http.disconnect":
                raise ClientGoneError
            piece = event.get("body", b"")
            size += len(piece)
            if size > max_bytes:
                raise _too_large(size, max_bytes)
            if keep:
                pieces.append(piece)
            if not event.get("more_body", False):
                self._body_read = True
                return b"".join(pieces)

    async def gone(self) -> None:
        """Return when the client is gone. Only for requests whose body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            continue


_EARLY_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 256 * 1024


def _too_large(size: int, limit: int) -> StatusError:
    return HttpError(
        413,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"The request has {size:,} bytes or more, the limit is {limit:,}: send it in parts.",
        reason="REQUEST_TOO_LARGE",
    )


class Alarm:
    """Raises asyncio.TimeoutError inside of its block at an instant of time.monotonic().

    What asyncio.wait_for() does, without a task for each wait, and asyncio.timeout(), which Python 3.10 does not have.
    """

    __slots__ = ("_at", "_rang", "_task", "_timer")

    def __init__(self, at: float) -> None:
        self._at = at
        self._rang = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._at - time.monotonic(), self._ring)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._rang:
            return
        # From Python 3.11 on, a task counts who cancelled it: somebody else may have, too.
        uncancel: Callable[[], int] | None = getattr(self._task, "uncancel", None)
        others = uncancel() if uncancel is not None else 0
        if kind is asyncio.CancelledError and not others:
            raise asyncio.TimeoutError from None

    def _ring(self) -> None:
        if self._task is not None:
            self._rang = True
            self._task.cancel()


class Answer:
    """Sends one response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def respond(self, response: Response, *, close: bool = False) -> None:
        """Send a whole response. Raises ClientGoneError when nobody takes it."""
        headers = [(b"content-length", str(len(response.body)).encode()), *_headers(response, close)]
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        # The server below takes any body at once and keeps it in memory until the client has taken it, if ever.
        body, size = response.body, len(response.body)
        await self._write(start, _piece(body[:_PIECE_BYTES], last=size <= _PIECE_BYTES))
        for begin in range(_PIECE_BYTES, size, _PIECE_BYTES):
            end = begin + _PIECE_BYTES
            await self.piece(body[begin:end], last=size <= end)

    async def begin(self, content_type: str) -> None:
        """Begin a response that comes in pieces, which go out in chunks."""
        headers = _headers(Response(200, b"", content_type), close=False)
        await self._write({"type": "http.response.start", "status": 200, "headers": headers})

    async def piece(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece; the last one ends the response. Raises ClientGoneError when nobody takes it."""
        await self._write(_piece(data, last=last))

    async def _write(self, *events: Event) -> None:
        self.begun = True
        try:
            with Alarm(time.monotonic() + SEND_SECONDS):
                for event in events:
                    await self._send(event)
        except (asyncio.TimeoutError, OSError):
            raise ClientGoneError from None


def _piece(data: bytes, *, last: bool) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": not last}


def _headers(response: Response, close: bool) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-type": response.content_type,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        **response.headers,
    }
    if close:
        headers["connection"] = "close"
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def retry_after(seconds: float) -> str:
    """Return a value of the Retry-After header: whole seconds, which is all that every client understands."""
    return str(max(1, math.ceil(seconds)))
