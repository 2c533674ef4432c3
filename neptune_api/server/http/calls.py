"""RPCs over HTTP: guarded handlers on threads, with the deadline and the going away of their callers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api._threads import DaemonPool
from neptune_api.http import framing, transcode
from neptune_api.http.json_codec import TranscodeError
from neptune_api.http.rules import Format
from neptune_api.http.transcode import MediaTypeError
from neptune_api.server import limits
from neptune_api.server.errors import StatusError, invalid, unimplemented
from neptune_api.server.http.dialect import error_object
from neptune_api.server.http.exchange import Answer, ClientGoneError, HttpError, Request, Response
from neptune_api.server.pools import CALL_THREADS, end_pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from google.protobuf.message import Message

    from neptune_api.http.rules import Match, Rule
    from neptune_api.server.handlers import Encoded, Handler
    from neptune_api.server.query_threads import QueryThreads

    Result = TypeVar("Result")


class HttpContext:
    """The context of a call that came over HTTP."""

    def __init__(self, metadata: list[tuple[str, str | bytes]], deadline: float | None, peer: str = "") -> None:
        self._metadata = metadata
        self._peer = peer
        self._deadline = deadline
        self._active = True

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """Return the headers of the request."""
        return self._metadata

    def peer(self) -> str:
        """Return `host:port` of the other end of the connection."""
        return self._peer

    def is_active(self) -> bool:
        """Tell whether somebody still waits for the answer."""
        return self._active

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, 0 when it has passed, None when there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def leave(self) -> None:
        """Note that nobody waits any more."""
        self._active = False


_PATIENCE: Final = 0.25
"""Seconds before anybody looks whether a caller is still there: looking takes a task, most calls are over sooner."""


class _Caller:
    """Who waits for a call, until its deadline passes or the connection ends."""

    def __init__(self, handler: Handler, request: Request, context: HttpContext) -> None:
        self._handler = handler
        self._request = request
        self.context = context
        self._awaited: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Task[None] | None = None

    async def wait_for(self, pool: DaemonPool, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function that blocks returns, on a thread of a pool; once begun it is not interrupted.

        Raises StatusError when the deadline passes before, ClientGoneError when the caller goes away.
        """
        if self._gone is not None and self._gone.done():
            raise ClientGoneError
        loop = asyncio.get_running_loop()
        left = self.context.time_remaining()
        self._timer = loop.call_later(_PATIENCE if left is None else min(_PATIENCE, left), self._look, loop)
        try:
            self._awaited = pool.run(loop, function, *arguments)
            return await self._awaited
        finally:
            self._timer.cancel()

    def watch(self) -> None:
        """Look from now on whether the caller goes away. Only for requests whose body has been read."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_task(self._request.gone())
            self._gone.add_done_callback(lambda _: self._fail(ClientGoneError()))

    def leave(self) -> None:
        """Note that nobody waits any more."""
        self.context.leave()
        if self._gone is not None:
            self._gone.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self.context.time_remaining()
        if left == 0:
            message = f"The deadline passed before {self._handler.name} was done; the work may still be done."
            self._fail(StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, message))
            return
        self.watch()
        if left is not None:
            self._timer = loop.call_later(left, self._look, loop)

    def _fail(self, error: Exception) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(error)


class Calls:
    """Runs RPCs for the door."""

    def __init__(self, queries: QueryThreads, *, max_streams: int = limits.MAX_STREAMS) -> None:
        """Make the threads, but for `queries`, which whoever made them ends."""
        self._calls = DaemonPool(CALL_THREADS, "neptune-api-http")
        self._queries = queries
        self._streams = DaemonPool(max_streams, "neptune-api-http-stream")
        self._max_streams = max_streams
        self._open_streams = 0
        self.stopping = False
        """True makes UNAVAILABLE of calls that are cancelled."""

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function that blocks returns, on a thread for calls."""
        return await self._calls.run(asyncio.get_running_loop(), function, *arguments)

    def close(self, timeout: float) -> bool:
        """End the threads; False if a servicer still works after `timeout` seconds."""
        end = time.monotonic() + timeout
        return end_pools((self._calls, self._streams), end)

    async def answer(self, handler: Handler, match: Match, request: Request, answer: Answer) -> None:
        """Answer a request by an RPC. Raises StatusError before anything has been sent, ClientGoneError."""
        rule = match.rule
        if handler.request_streaming:
            raise unimplemented(
                f"{handler.name} takes a stream of requests, which HTTP does not carry: call it over gRPC, or send "
                "each request by the unary method."
            )
        written = transcode.accepted_format(request.headers.get("accept"), rule.response_format)
        context = HttpContext(request.metadata(), request.deadline(), request.peer)
        caller = _Caller(handler, request, context)
        authenticate = handler.authenticate

        async def admit() -> object:
            # A stranger's megabytes are not even read.
            return authenticate and await self.run(authenticate, request.headers.get("authorization"))

        body = b""
        if rule.body:
            body = await request.body(max_bytes=limits.MAX_REQUEST_BYTES, early=admit)
        elif not await request.discard():
            raise _unwanted_body(handler)
        payload = _Payload(match, request, body)
        try:
            if handler.response_streaming:
                await self._stream(handler, payload, written, caller, answer)
            else:
                await answer.respond(
                    Response(200, await self._unary(handler, payload, written, caller), written.content_type)
                )
        finally:
            caller.leave()

    async def _unary(self, handler: Handler, payload: _Payload, written: Format, caller: _Caller) -> bytes:
        rule = payload.match.rule
        call = handler.guarded(
            lambda each: _decode(handler, each),
            lambda message: _encode(handler, rule, message, written),
        )
        pool: DaemonPool = self._calls
        if handler.is_query:
            pool, call = self._queries, self._queries.in_turn(call)
        body: bytes = await self._while_wanted(caller, pool, call, payload, caller.context)
        return body

    async def _while_wanted(self, caller: _Caller, pool: DaemonPool, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await caller.wait_for(pool, function, *args)
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            raise stopping() from None

    async def _stream(
        self, handler: Handler, payload: _Payload, written: Format, caller: _Caller, answer: Answer
    ) -> None:
        if self._open_streams >= self._max_streams:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The server has {self._max_streams} streams open, its limit: close some, or try again in a moment.",
                reason="TOO_MANY_STREAMS",
                retry_seconds=1.0,
            )
        rule = payload.match.rule
        frames: Iterator[bytes] = handler.guarded(
            lambda each: _decode(handler, each),
            lambda message: framing.encode_frame(rule, handler.checked(message), written),
        )(payload, caller.context)
        self._open_streams += 1
        caller.watch()
        try:
            while True:
                try:
                    frame = await self._while_wanted(caller, self._streams, next, frames, None)
                except StatusError as error:
                    if not answer.begun:
                        raise
                    status = error.status()
                    object_ = error_object(payload.request.path, status) if written is Format.JSON else None
                    await answer.piece(framing.encode_error_frame(status, written, object_), last=True)
                    return
                if not answer.begun:
                    await answer.begin(written.stream_content_type)
                if frame is None:
                    await answer.piece(b"", last=True)
                    return
                await answer.piece(frame)
        finally:
            self._open_streams -= 1
            with contextlib.suppress(RuntimeError):  # the pool was shut down
                self._streams.submit(_close, frames)


class _Payload:
    __slots__ = ("body", "match", "request")

    def __init__(self, match: Match, request: Request, body: bytes) -> None:
        self.match = match
        self.request = request
        self.body = body


def _encode(handler: Handler, rule: Rule, response: Message | Encoded, written: Format) -> bytes:
    if written is Format.PROTOBUF and not rule.response_body:
        return handler.serialize(response)
    return transcode.encode_response(rule, handler.checked(response), written)


def _decode(handler: Handler, payload: _Payload) -> Any:
    """Return what a servicer gets: the message, or what it reads from the bytes of one. Raises StatusError."""
    rule: Rule = payload.match.rule
    request = payload.request
    headers = request.headers
    try:
        if handler.reads_bytes:
            whole = rule.body == "*" and not rule.template.variables and not rule.headers
            if whole and transcode.body_format(headers.get("content-type"), rule.request_format) is Format.PROTOBUF:
                return handler.parse(payload.body)
        message: Message = transcode.decode_request(rule, payload.match.values, request.query, headers, payload.body)
    except MediaTypeError as error:
        raise HttpError(415, grpc.StatusCode.INVALID_ARGUMENT, _capitalized(error.description)) from None
    except TranscodeError as error:
        if error.field:
            raise invalid(error.field, f"{error.description}.") from None
        kind = transcode.body_format(headers.get("content-type"), rule.request_format)
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT,
            _capitalized(error.description.replace("must be", "the body must be", 1)),
            reason="MALFORMED_JSON_REQUEST" if kind is Format.JSON else "MALFORMED_REQUEST",
        ) from None
    return handler.take(message)


def stopping() -> StatusError:
    """Return the error of a request that the end of the server cuts off."""
    return StatusError(
        grpc.StatusCode.UNAVAILABLE, "The server is shutting down: call again in a moment.", retry_seconds=1.0
    )


def _unwanted_body(handler: Handler) -> StatusError:
    return HttpError(
        413, grpc.StatusCode.INVALID_ARGUMENT, f"{handler.name} takes no body.", headers={"connection": "close"}
    )


def _capitalized(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _close(frames: Any) -> None:
    # A generator that is still at work on another thread cannot be closed: it ends by itself when it looks at its
    # context, which says that nobody waits.
    with contextlib.suppress(ValueError, StatusError):
        frames.close()
