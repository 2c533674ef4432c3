"""A TCP server whose every byte a test scripts, and scripts that many tests use."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from neptune_api import models
from neptune_api.http.framing import encode_frame
from neptune_api.http.rules import Format, find_rule
from neptune_api.options import ChannelOptions
from tests.unit.wire import FAST, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.conftest import OpenWire
    from tests.unit.wire import AioWire, SyncWire

    Script = Callable[["Peer"], None]


ONCE = ChannelOptions(retry=None)
INFO = models.ServerInfo(version="1").SerializeToString()
STREAM = [models.ReadColumnsResponse(series_index=index) for index in range(3)]
READ = find_rule("/neptune_api.v1.SeriesService/ReadColumns")
assert READ is not None
FRAMES = [encode_frame(READ, message, Format.PROTOBUF) for message in STREAM]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


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


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def well(peer: Peer) -> None:
    """Answer every request."""
    while True:
        peer.request()
        peer.answer(INFO)


def opened(open_channel: OpenWire, server: RawServer, options: ChannelOptions = FAST) -> SyncWire | AioWire:
    return open_channel(server.target, access_token="opaque", options=options)


def refusing(status: str, *headers: str, times: int = 1) -> Script:
    def refuse(peer: Peer) -> None:
        for _ in range(times):
            peer.request()
            peer.answer(b"{}", *headers, status=status, kind="application/json")
        well(peer)

    return refuse


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """A port at which connections are never made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:  # until the queue is full, and the system answers no more
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()
