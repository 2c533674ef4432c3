"""uvicorn, as the HTTP door runs it.

On a plain asyncio loop on purpose: beside a busy uvloop the threads that run the servicers starve for the interpreter
lock.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Final

import uvicorn

from neptune_api.server.http.exchange import Alarm
from neptune_api.server.http.protocol import BoundedProtocol

if TYPE_CHECKING:
    import socket

    from neptune_api.server.http.gateway import Gateway
    from neptune_api.server.server import TlsFiles

KEEP_ALIVE_SECONDS: Final = 65
"""How long an idle connection stays open: longer than clients keep theirs, so that it is they who close."""

# How long a stopping server waits for the calls it has cancelled, and for their servicers.
_CANCEL_SECONDS: Final = 0.2


class HttpServer:
    """Answers the requests of a listening socket by a gateway, from run() to end().

    Raises OSError (ssl.SSLError among them) when the TLS files do not fit each other.
    """

    def __init__(self, gateway: Gateway, tls: TlsFiles | None) -> None:
        self._gateway = gateway
        config = uvicorn.Config(
            gateway,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server = _Server(config)

    def run(self, listening: socket.socket) -> None:
        """Answer until another thread calls end()."""
        # Not asyncio.run(): it would take whatever kind of loop the process prefers.
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(self._server.serve(sockets=[listening]))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def end(self, grace: float) -> None:
        """Begin to stop; requests under way may go on for `grace` seconds."""
        self._gateway.stopping = True
        self._server.end(grace)

    def close(self) -> bool:
        """End the threads of the gateway, after run(); False if a servicer still works."""
        return self._gateway.close(_CANCEL_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn, told to stop from another thread, and stopping within a given time without looking every 0.1 s."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._grace = 0.0
        self._ended = False
        self._end: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self, grace: float) -> None:
        """Begin to stop, even before it has begun to serve; requests under way may go on for `grace` seconds."""
        self._grace = grace
        self._ended = True
        if self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, unless it is to stop already."""
        self._end = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._ended:
            self._end.set()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Wait for the end; keep the date of responses right until then."""
        assert self._end is not None  # noqa: S101 # startup() comes first
        while not self._end.is_set():
            await self.on_tick(0)
            try:
                with Alarm(time.monotonic() + 1.0):
                    await self._end.wait()
            except asyncio.TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle, let the rest go on for a while, cancel it, then cut it off."""
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        await self._settle(self._grace)
        for task in tuple(self.server_state.tasks):
            task.cancel()
        await self._settle(_CANCEL_SECONDS)
        for connection in tuple(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    async def _settle(self, seconds: float) -> None:
        tasks = self.server_state.tasks
        if tasks:
            await asyncio.wait(tuple(tasks), timeout=seconds)
