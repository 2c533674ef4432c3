"""uvicorn's HTTP/1.1 with bounds on connections and on what comes before a body: bytes, number of headers, seconds.

uvicorn bounds none of the latter with its fast parser, and without bounds whoever reaches the port can hold connections
and memory for nothing. Bodies are bounded where they are read.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from neptune_api.http.json_codec import dump
from neptune_api.server import limits

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEAD_SECONDS: Final = 10.0
"""How long a client may take from the first byte of a request, or from connecting, to the end of its headers."""

_REASONS: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


_TOO_LONG: Final = f"The request has more than {limits.MAX_HTTP_HEADERS_BYTES:,} bytes of headers, the limit."


class _RefusedError(Exception):
    """Ends the parsing of a request that has been refused."""


_SMALL: Final = 64 * 1024
"""Bytes that are sooner copied than sent by themselves."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What uvicorn writes when a client waits for it to send a body."""


class _JoiningTransport(asyncio.Transport):
    """Sends the head of a response with the first piece of its body, as ASGI wants it.

    uvicorn sends it at once: two system calls here and two there, and a client that is woken up too early.
    """

    def __init__(self, below: asyncio.Transport) -> None:
        super().__init__()
        self._below = below
        self._head = b""
        # Of the response; bodies may be heads of others, for all that anybody knows.
        self._has_head = False

    def write(self, data: bytes) -> None:  # type: ignore[override] # uvicorn writes nothing else
        """Send what is no head, after the head that waits for it."""
        if not self._has_head and data != _CONTINUE:
            self._has_head = True
            self._head = data
            return
        if len(data) > _SMALL:
            self._send_head()
        head, self._head = self._head, b""
        self._below.write(head + data)

    def end(self) -> None:
        """End a response."""
        self._send_head()
        self._has_head = False

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._below.write(head)

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._send_head()
        self._below.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._below.abort()

    def is_closing(self) -> bool:
        """Tell whether the connection is closed, or will be."""
        return self._below.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the client has not yet taken."""
        return self._below.get_write_buffer_size()


class BoundedProtocol(HttpToolsProtocol):
    """One connection of the HTTP door."""

    transport: _JoiningTransport

    head_seconds = HEAD_SECONDS
    max_connections = limits.MAX_HTTP_CONNECTIONS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # Whatever the process logs otherwise: targets hold signatures and what people took for secret.
        self.access_log = False
        self._in_head = True
        self._heads = 0
        self._head_bytes = 0
        self._headers_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.transport = _JoiningTransport(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, which would keep the connection in memory."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count what it has not yet made anything of."""
        if self._refused:
            return
        heads = self._heads
        begun_in_head = self._in_head
        super().data_received(data)
        if begun_in_head and heads == self._heads and not self._refused:
            if self._head_timer is None:
                self._start_timer()
            # The parser tells of a header when it has all of it; until then these are the bytes it holds.
            self._head_bytes += len(data)
            if self._head_bytes > limits.MAX_HTTP_TARGET_BYTES + limits.MAX_HTTP_HEADERS_BYTES:
                self._refuse(
                    431, f"The request has more than {limits.MAX_HTTP_HEADERS_BYTES:,} bytes of headers, the limit."
                )

    def on_message_begin(self) -> None:
        """Begin to count a request."""
        super().on_message_begin()
        self._headers_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        super().on_url(url)
        if len(self.url) > limits.MAX_HTTP_TARGET_BYTES:
            self._refuse(414, f"The URL has more than {limits.MAX_HTTP_TARGET_BYTES:,} bytes, the limit.")
            raise _RefusedError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._headers_bytes += len(name) + len(value) + 4
        if self._headers_bytes > limits.MAX_HTTP_HEADERS_BYTES:
            self._refuse(
                431, f"The request has more than {limits.MAX_HTTP_HEADERS_BYTES:,} bytes of headers, the limit."
            )
            raise _RefusedError
        if len(self.headers) > limits.MAX_HTTP_HEADERS:
            self._refuse(431, f"The request has more than {limits.MAX_HTTP_HEADERS} headers, the limit.")
            raise _RefusedError

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0
        self._stop_timer()
        # uvicorn would say so in plain text.
        if len(self.connections) > self.max_connections:
            self._refuse(503, f"The server has {self.max_connections:,} connections, the limit: try again later.")
            raise _RefusedError
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next request."""
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the response."""
        self.transport.end()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, without waiting for a client that takes nothing of the last response."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 # as uvicorn has it
        """Answer what is no HTTP, or was refused already."""
        if not self._refused:
            self._refuse(400, "The request is not valid HTTP/1.1.")

    def _unsupported_upgrade_warning(self) -> None:
        # uvicorn would log, for every stranger who asks, that it misses a package.
        return

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if not self._head_bytes:
            self._refused = True
            self.transport.close()
            return
        self._refuse(408, f"The headers of the request did not come within {self.head_seconds:g} s.")

    def _refuse(self, status: int, message: str) -> None:
        self._refused = True
        self._stop_timer()
        # In the middle of a response there is no place for another one.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            reason = _REASONS[status]
            name = "UNAVAILABLE" if status == HTTPStatus.SERVICE_UNAVAILABLE else "INVALID_ARGUMENT"
            body = dump({"code": status, "message": message, "title": reason, "status": name})
            later = "retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
            head = (
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n{later}"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
