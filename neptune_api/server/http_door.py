"""The HTTP door: a thread of its own beside the threads of the gRPC door, and the HTTP server that runs on it.

The server is made when somebody knocks. Until then its socket takes connections, which wait in its backlog, and a test
or a notebook that speaks gRPC does without what HTTP takes to import.
"""

from __future__ import annotations

import selectors
import socket
import threading
from typing import TYPE_CHECKING, Final

from neptune_api.server import ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.server.http.gateway import Gateway
    from neptune_api.server.http.serving import HttpServer
    from neptune_api.server.server import TlsFiles

_BACKLOG: Final = 2048


class HttpDoor:
    """An HTTP server on a bound socket that answers from start() to stop(), and cannot be reused.

    Raises OSError (ssl.SSLError among them) when the TLS files do not fit each other.
    """

    def __init__(self, bound: socket.socket, gateway: Callable[[], Gateway], *, tls: TlsFiles | None = None) -> None:
        """Take what makes the gateway, which is called once, on the thread of the door."""
        self._socket = bound
        self._gateway = gateway
        self._tls = tls
        self._server: HttpServer | None = None
        self._lock = threading.Lock()
        self._stopping = False
        if tls is not None:
            self._make()  # so that files that are wrong are the caller's to see
        self._waiting, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="neptune-api-http-door", daemon=True)

    def start(self) -> None:
        """Take connections. Raises OSError when the socket cannot be listened on."""
        # Here, so that a failure is the caller's to see.
        ports.listen(self._socket, _BACKLOG)
        self._thread.start()

    def open(self) -> None:
        """Make the server now, before the first connection comes."""
        self._waker.send(b"\0")

    def stop(self, grace: float) -> bool:
        """Take no more requests, cancel what lasts longer than `grace` seconds; False if a servicer still works."""
        with self._lock:
            self._stopping = True
            server = self._server
        if self._thread.is_alive():
            self.open()
            if server is not None:
                server.end(grace)
            self._thread.join()
        self._socket.close()
        self._waiting.close()
        self._waker.close()
        return server is None or server.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as knocks:
            for each in (self._socket, self._waiting):
                knocks.register(each, selectors.EVENT_READ)
            knocks.select()
        try:
            server = self._make()
        except BaseException:
            self._socket.close()  # nobody shall wait for an answer that cannot come
            raise
        if server is not None:
            server.run(self._socket)

    def _make(self) -> HttpServer | None:
        """Make the server, unless the door is to stop."""
        with self._lock:
            if self._server is None and not self._stopping:
                from neptune_api.server.http.serving import HttpServer

                self._server = HttpServer(self._gateway(), self._tls)
            return self._server
