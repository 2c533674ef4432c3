"""The scripted server of wire.py, behind an HTTP door of its own: that of the standard library."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from google.rpc import status_pb2

from neptune_api.credentials import ApiToken
from neptune_api.exceptions import STATUS_DETAILS_KEY, http_status
from neptune_api.http.errors import encode_error, error_body
from neptune_api.http.framing import encode_error_frame, encode_frame
from neptune_api.http.headers import TIMEOUT_HEADER, decode_metadata, decode_timeout
from neptune_api.http.rules import Format, Router, all_rules
from neptune_api.http.transcode import accepted_format, decode_request, encode_response
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    import grpc


class _Aborted(Exception):  # noqa: N818 # how a call ends
    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status


class _Context:
    """As much of a grpc.ServicerContext as the scripted servicers use."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        headers = [(name.lower(), value) for name, value in handler.headers.items()]
        self._metadata = [*decode_metadata(headers), ("user-agent", handler.headers["User-Agent"])]
        timeout = handler.headers[TIMEOUT_HEADER]
        self._end = None if timeout is None else time.monotonic() + decode_timeout(timeout)
        self.trailing: list[tuple[str, str | bytes]] = []

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()

    def set_trailing_metadata(self, trailing: tuple[tuple[str, str | bytes], ...]) -> None:
        self.trailing = list(trailing)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        status = status_pb2.Status(code=code.value[0], message=details)
        for key, value in self.trailing:
            if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
                status.ParseFromString(value)
        raise _Aborted(status)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call a function when the caller has gone away."""
        return self._handler.when_gone(callback)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def when_gone(self, callback: Callable[[], None]) -> bool:
        def watch() -> None:
            while not self.server.stopping and not select.select([self.connection], [], [], 0.01)[0]:
                pass
            callback()

        threading.Thread(target=watch, daemon=True).start()
        return True

    def answer(self) -> None:
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = re.sub(r"^http://[^/]*", "", self.path)  # what a proxy is told
        path, _, query = target.removeprefix(fake.prefix).partition("?")
        match = self.server.router.match(self.command, path)
        if match is None or not target.startswith(fake.prefix):
            self.reply(404, b"no such page", "text/plain")
            return
        rule = match.rule
        headers = {name.lower(): value for name, value in self.headers.items()}
        fake.requests.append((self.command, self.path, headers))
        context = _Context(self)
        written = accepted_format(headers.get("accept"), rule.response_format)
        try:
            request = decode_request(rule, match.values, query, headers, body)
            method = getattr(fake.servicers[rule.method.containing_service.name], rule.method.name)
            response = method(request, context)
            if rule.method.server_streaming:
                self.stream(rule, response, written)
            else:
                self.reply(200, encode_response(rule, response, written), written.content_type)
        except _Aborted as aborted:
            extra = [(key, str(value)) for key, value in context.trailing if not key.endswith("-bin")]
            trailing = dict(context.trailing)
            code = http_status(aborted.status)
            pushback = str(trailing.get("grpc-retry-pushback-ms", ""))
            if pushback and pushback != "-1":
                code, extra = 429, [*extra, ("Retry-After", str(int(pushback) / 1000))]
            self.reply(code, encode_error(error_body(aborted.status)), "application/json", extra)

    def stream(self, rule: Any, responses: Iterator[Any], written: Format) -> None:
        begun = False

        def chunk(data: bytes) -> None:
            nonlocal begun
            if not begun:
                begun = True
                self.send_response(200)
                self.send_header("Content-Type", written.stream_content_type)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if data else b"0\r\n\r\n")

        try:
            for response in responses:
                chunk(encode_frame(rule, response, written))
        except _Aborted as aborted:
            if not begun:
                raise
            chunk(encode_error_frame(aborted.status, written))
        chunk(b"")

    def reply(self, code: int, body: bytes, content_type: str, extra: list[tuple[str, str]] | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in extra or ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer  # noqa: N815 # the library calls them so


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 256

    def __init__(self, fake: FakeHttpServer, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), fake.handler)
        self.fake = fake
        self.stopping = False
        self.router = Router([rule for rules in all_rules().values() for rule in rules])
        self._context = context
        self._open: set[socket.socket] = set()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._context is not None:
            request = self._context.wrap_socket(request, server_side=True)
        self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._open.discard(request)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are part of the tests."""

    def hang_up(self) -> None:
        """End every connection."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class FakeHttpServer(FakeServer):
    """The scripted server over HTTP/1.1, or HTTPS with an SSLContext, under a path of its own."""

    prefix = "/base/path"
    handler: ClassVar[type[Handler]] = Handler

    def _listen(self, credentials: Any) -> str:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._http = _Server(self, credentials)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        scheme = "http" if credentials is None else "https"
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        return f"{scheme}://{self.address}"

    def _mint(self) -> ApiToken:
        self.target += self.prefix
        return ApiToken.mint(api_url=self.target)

    def hang_up(self) -> None:
        """End every connection, as servers do that have idled."""
        self._http.hang_up()

    def _close(self) -> None:
        self._http.stopping = True
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()
