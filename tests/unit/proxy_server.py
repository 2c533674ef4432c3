"""A small proxy of HTTP: tunnels for CONNECT, the rest is forwarded."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

from tests.unit.wire import PATIENCE


class ProxyServer:
    """Takes connections on a free port of 127.0.0.1; every host is 127.0.0.1 to it, so that any name can be proxied."""

    def __init__(self, *, authorization: str | None = None) -> None:
        self.heads: list[str] = []
        """The heads of the requests that came, for tunnels and to forward."""
        self._authorization = authorization
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type] # a function
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.add(connection)
                self._start(self._serve, connection)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                received = client.recv(65536)
                if not received:
                    return
                data += received
            head = data.partition(b"\r\n\r\n")[0].decode()
            self.heads.append(head)
            if self._authorization is not None and f"proxy-authorization: {self._authorization}" not in (
                line[:20].lower() + line[20:] for line in head.split("\r\n")
            ):
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            verb, target, _ = head.split("\r\n")[0].split(" ")
            port = int(target.rpartition(":")[2]) if verb == "CONNECT" else urlsplit(target).port
            with socket.create_connection(("127.0.0.1", port or 80), PATIENCE) as server:
                server.settimeout(None)
                self._open.add(server)
                if verb == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    server.sendall(data)
                self._start(_pipe, server, client)
                _pipe(client, server)

    def stop(self) -> None:
        """End every connection and thread."""
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
