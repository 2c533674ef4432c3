"""Connections for event loops: made, kept for the next call, and ended at the deadline; mirrors connections.py.

A pool belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from neptune_api.http.connections import MAX_IDLE, MAX_IDLE_SECONDS, tune, tunnel_head
from neptune_api.http.failures import (
    CallError,
    bad_handshake,
    cannot_connect,
    connection_lost,
    deadline_exceeded,
    no_proxy,
    reason_of,
    tunnel_refused,
)
from neptune_api.http.protocol import FramingError, IncompleteError, Response, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.http.endpoint import Endpoint
    from neptune_api.options import ChannelOptions

_HIGH_WATER: Final = 4 * 1024 * 1024
"""Bytes of a stream that may wait for their reader before the server has to."""


class Connection(asyncio.Protocol):
    """One connection, which carries one call at a time."""

    def __init__(self) -> None:
        self.idled = False
        """It has waited in a pool, where it may have died."""
        self.idle_since = 0.0
        self.ended = False
        """It cannot be used any more."""
        self._transport: Any = None
        self._response: Response | None = None
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._whole = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._paused = False

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, and the one that takes its place after a TLS handshake."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed the response under way."""
        response = self._response
        if response is None:
            self.abort()  # nobody asked for it
            return
        try:
            response.feed(data)
        except (FramingError, TooLargeError) as error:
            self._fail(error)
            return
        self._unread += len(data)
        if self._unread > _HIGH_WATER and not self._whole and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Close: half-closed connections serve nobody."""
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits."""
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        self.ended = True
        response = self._response
        if response is None or self._failure is not None or response.done:
            return
        if isinstance(error, OSError):
            self._fail(connection_lost(error, sent=True))
            return
        try:
            response.end()
        except FramingError as incomplete:
            self._fail(incomplete)
        else:
            self._wake()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        waiter, response = self._waiter, self._response
        if waiter is None or waiter.done():
            return
        if self._failure is not None:
            waiter.set_exception(self._failure)
        elif response is not None and (response.done or not self._whole):
            waiter.set_result(None)

    # What a call does.

    def send(self, head: bytes, body: bytes, response: Response, end: float | None, doing: str) -> None:
        """Send a request whose answer goes into `response`; after `end`, waiting for it fails, at what `doing` says."""
        self._response = response
        self._failure = None
        self._unread = 0
        if end is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, end - time.monotonic()), self._expire, doing)
        if len(body) < 65536:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def _expire(self, doing: str) -> None:
        self._fail(deadline_exceeded(doing, sent=True))

    async def receive(self, response: Response, *, whole: bool) -> None:
        """Wait for more of the response, or for all of it. Raises CallError, FramingError, TooLargeError."""
        self._whole = whole
        self._unread = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if response.done:
            return
        if self._failure is not None:
            raise self._failure
        if self.ended:
            response.end()
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def finish(self) -> bool:
        """End the call; tell whether the connection can carry another one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        response, self._response = self._response, None
        return (
            response is not None
            and response.done
            and response.reusable
            and not self.ended
            and self._failure is None
            # An answer that comes before the request is out leaves the rest of the request in the way.
            and not self._transport.get_write_buffer_size()
        )

    def usable(self) -> bool:
        """Tell whether the other side has neither closed the idle connection nor sent what nobody asked for."""
        if self.ended or self._transport.is_closing() or time.monotonic() - self.idle_since > MAX_IDLE_SECONDS:
            return False
        # The loop may not have come to what the system knows.
        own = self._transport.get_extra_info("socket")
        if own is None or not hasattr(select, "poll"):
            return True
        poll = select.poll()
        poll.register(own.fileno(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """End the connection at once."""
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    def closed(self) -> bool:
        """Tell whether asyncio is done with the connection."""
        return self._transport is None or self._transport.is_closing()

    def tune(self, options: ChannelOptions) -> None:
        """Set the options of the socket."""
        own = self._transport.get_extra_info("socket")
        if own is not None:
            tune(own, options)

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Start TLS on a connection that stands. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._transport = await loop.start_tls(self._transport, self, context, server_hostname=name)


class Pool:
    """The connections of one channel."""

    def __init__(
        self, endpoint: Endpoint, options: ChannelOptions, connected: Callable[[bool], None] = lambda _: None
    ) -> None:
        self.endpoint = endpoint
        self._options = options
        self._connected = connected
        self._closed = False
        self._idle: list[Connection] = []

    async def take(self, end: float | None, *, fresh: bool = False) -> Connection:
        """Return a connection: an idle one, unless it has to be `fresh`, or a new one. Raises CallError."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.abort()
        try:
            connection = await self._connect(end)
        except CallError:
            self._connected(False)
            raise
        self._connected(True)
        return connection

    async def prepare(self, seconds: float) -> None:
        """Make a connection for a later call. Raises CallError."""
        self.keep(await self.take(time.monotonic() + seconds, fresh=True))

    def keep(self, connection: Connection) -> None:
        """Take back a connection that can carry another request."""
        connection.idled = True
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._closed or len(self._idle) > MAX_IDLE:
            self._idle.pop(0).abort()

    def purge(self) -> None:
        """Close the idle connections: one of their kind turned out to be dead."""
        while self._idle:
            self._idle.pop().abort()

    def close(self) -> None:
        """Close the idle connections, now and as they come back."""
        self._closed = True
        self.purge()

    async def _connect(self, end: float | None) -> Connection:
        endpoint = self.endpoint
        left = None if end is None else max(0.0, end - time.monotonic())
        try:
            return await asyncio.wait_for(self._open(), left)
        except asyncio.TimeoutError:
            raise deadline_exceeded(f"connected to {endpoint.authority}") from None
        except ssl.SSLError as error:
            raise bad_handshake(endpoint, error) from error
        except UnicodeError as error:
            raise cannot_connect(endpoint, "the name is no host name") from error
        except OSError as error:
            raise cannot_connect(endpoint, reason_of(error)) from error

    async def _open(self) -> Connection:
        endpoint = self.endpoint
        loop = asyncio.get_running_loop()
        host, port = endpoint.peer
        tunnel = endpoint.proxy is not None and not endpoint.forwarded
        arguments: dict[str, Any] = {}
        if endpoint.tls is not None and not tunnel:
            arguments = {"ssl": endpoint.tls, "server_hostname": endpoint.name_to_verify}
        if isinstance(loop, asyncio.BaseEventLoop):  # other loops do not know it
            arguments["happy_eyeballs_delay"] = 0.25
        _, connection = await loop.create_connection(Connection, host, port, **arguments)
        try:
            connection.tune(self._options)
            if tunnel:
                await self._tunnel(connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _tunnel(self, connection: Connection) -> None:
        endpoint = self.endpoint
        response = Response(max_bytes=0, verb="CONNECT")
        connection.send(tunnel_head(endpoint), b"", response, None, "")
        try:
            await connection.receive(response, whole=True)
        except IncompleteError as error:
            raise cannot_connect(endpoint, "it closed the connection") from error
        except FramingError as error:
            raise no_proxy(endpoint) from error
        connection.finish()
        if not 200 <= response.status < 300:
            raise tunnel_refused(endpoint, response.status)
        if endpoint.tls is not None:
            await connection.secure(endpoint.tls, endpoint.name_to_verify)
