"""A gateway before a server, as companies have them: it forwards requests, or answers with a page of its own."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
PATIENCE = 30.0


class _Server(ThreadingHTTPServer):
    daemon_threads = False


class Gateway:
    """Counts what it refused, by path: the first request to each gets 502 and a page of HTML."""

    def __init__(self, server: str) -> None:
        self.refused: Counter[str] = Counter()
        address = urlsplit(server).netloc
        lock = threading.Lock()
        refused = self.refused

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = PATIENCE

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                with lock:
                    is_first = not refused[path]
                    refused[path] += is_first
                if is_first:
                    self.answer(502, [("Content-Type", "text/html")], PAGE)
                    return
                with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    found = connection.getresponse()
                    self.answer(found.status, found.getheaders(), found.read())

            do_POST = do_GET  # noqa: N815 # what the base class calls

            def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in {"content-length", "connection", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # its name in the base class
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        """Forward nothing more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def gateway(server: str) -> Iterator[Gateway]:
    """Give a gateway before the server at a URL."""
    opened = Gateway(server)
    try:
        yield opened
    finally:
        opened.close()
