"""The HTTP door: a uvicorn server on a thread of its own, beside the threads of the gRPC door.

On a plain asyncio loop on purpose: beside a busy uvloop the threads that run the servicers starve for the interpreter
lock.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from typing import TYPE_CHECKING, Final

import uvicorn

from neptune_api.server import ports
from neptune_api.server.http.exchange import Alarm
from neptune_api.server.http.protocol import BoundedProtocol

if TYPE_CHECKING:
    import socket

    from neptune_api.server.http.gateway import Gateway
    from neptune_api.server.server import TlsFiles

MAX_CONNECTIONS: Final = 1000
"""Most connections at a time; further ones are answered with 503."""
KEEP_ALIVE_SECONDS: Final = 65
"""How long an idle connection stays open: longer than clients keep theirs, so that it is they who close."""

# How long a stopping door waits for the calls it has cancelled, and for their servicers.
_CANCEL_SECONDS: Final = 0.2


class HttpDoor:
    """An HTTP server on a bound socket that answers from start() to stop(), and cannot be reused.

    Raises OSError (ssl.SSLError among them) when the TLS files do not fit each other.
    """

    def __init__(self, bound: socket.socket, gateway: Gateway, *, tls: TlsFiles | None = None) -> None:
        self._socket = bound
        self._gateway = gateway
        self._config = uvicorn.Config(
            gateway,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
        )
        self._config.load()
        if self._config.ssl is not None:
            self._config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server = _Server(self._config)
        self._thread = threading.Thread(target=self._run, name="neptune-api-http-door", daemon=True)

    def start(self) -> None:
        """Answer requests. Raises OSError when the socket cannot be listened on."""
        # Here, so that a failure is the caller's to see.
        ports.listen(self._socket, self._config.backlog)
        self._thread.start()
        self._server.ready.wait()

    def stop(self, grace: float) -> bool:
        """Take no more requests, cancel what lasts longer than `grace` seconds; False if a servicer still works."""
        if self._thread.is_alive():
            self._gateway.stopping = True
            self._server.end(grace)
            self._thread.join()
        return self._gateway.close(_CANCEL_SECONDS)

    def _run(self) -> None:
        # Not asyncio.run(): it would take whatever kind of loop the process prefers.
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(self._server.serve(sockets=[self._socket]))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self._server.ready.set()
            loop.close()


class _Server(uvicorn.Server):
    """uvicorn, told to stop from another thread, and stopping within a given time without looking every 0.1 s."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._grace = 0.0
        self._end: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self, grace: float) -> None:
        """Begin to stop; requests under way may go on for `grace` seconds."""
        self._grace = grace
        if self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        await super().startup(sockets)
        self.ready.set()

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
