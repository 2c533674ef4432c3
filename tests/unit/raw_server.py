"""A TCP server whose every byte a test scripts."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from tests.unit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    Script = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""

    def request(self) -> tuple[str, bytes]:
        """Return the head and the body of the next request."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        text = head.decode()
        length = next(
            (int(line.partition(":")[2]) for line in text.split("\r\n") if line.lower().startswith("content-length:")),
            0,
        )
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return text, body

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the client has gone")
        self._buffer += data

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(
        self, body: bytes = b"", *headers: str, status: str = "200 OK", kind: str = "application/x-protobuf"
    ) -> None:
        """Send a whole response."""
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
        self.send("\r\n".join([*lines, "\r\n"]).encode() + body)

    def wait_until_gone(self) -> None:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(OSError):
            while self.socket.recv(65536):
                pass


class RawServer:
    """Takes connections on a free port of 127.0.0.1; each goes through the next script, the last of which stays."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.requests: list[str] = []
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = f"http://127.0.0.1:{self.port}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            script = self._scripts[0] if len(self._scripts) == 1 else self._scripts.pop(0)
            thread = threading.Thread(target=self._serve, args=(script, connection))
            self._threads.append(thread)
            thread.start()

    def _serve(self, script: Script, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with connection, contextlib.suppress(OSError):
                script(Peer(connection))
        finally:
            self._open.discard(connection)

    def wait_until_idle(self) -> None:
        """Wait until the scripts of all connections so far have ended, and with them the connections."""
        for thread in tuple(self._threads):
            thread.join(PATIENCE)

    def note(self, peer: Peer) -> tuple[str, bytes]:
        """Return the next request, and remember its head."""
        head, body = peer.request()
        self.requests.append(head)
        return head, body

    def stop(self) -> None:
        """End every connection and thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (self._acceptor, *self._threads):
            thread.join(PATIENCE)
