"""Servers and lines that fall silent: each gives a port of 127.0.0.1 for the length of a `with` block."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc.aio

from neptune_api.conformance.connections import BackgroundLoop
from neptune_api.http.rules import find_rule
from tests.unit.raw_server import FRAMES, STREAM_HEAD, RawServer, chunk, full_listener
from tests.unit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.raw_server import Peer

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_EVERYTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of BPF: take 0 bytes of the packet

CAN_DROP_PACKETS = sys.platform == "linux"
"""A socket can be told to drop every packet unacknowledged, as firewalls do that have forgotten a connection."""


def drop_packets(of: socket.socket) -> None:
    """Let no packet come to a socket any more: its peer gets neither an answer nor a reset."""
    program = ctypes.create_string_buffer(_DROP_EVERYTHING)
    of.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def unreachable_server() -> Iterator[int]:
    """An address from which nothing comes back, not even a refusal."""
    if not CAN_DROP_PACKETS:
        with full_listener() as port:
            yield port
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        drop_packets(listener)
        yield listener.getsockname()[1]


@contextlib.contextmanager
def half_answering_server(*, http: bool) -> Iterator[int]:
    """A server that begins to answer every call, and stops in the middle."""
    if http:
        server = RawServer(_half_answer)
        yield server.port
        server.stop()
        return
    loop = BackgroundLoop()
    grpc_server, port = loop.run(_start_half_answering())
    yield port
    loop.run(grpc_server.stop(None))
    loop.close()


def _half_answer(peer: Peer) -> None:
    head, _ = peer.request()
    if "/columns:read " in head:
        peer.send(STREAM_HEAD + chunk(FRAMES[0]))
    else:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000\r\n\r\nhalf of it")
    peer.wait_until_gone()


async def _start_half_answering() -> tuple[grpc.aio.Server, int]:
    async def one(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.send_initial_metadata(())
        await asyncio.Event().wait()

    async def many(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.write(b"")
        await asyncio.Event().wait()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            rule = find_rule(details.method)
            assert rule is not None
            method = rule.method
            sides = (method.client_streaming, method.server_streaming)
            return {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (False, True): grpc.unary_stream_rpc_method_handler,
                (True, False): grpc.stream_unary_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler,
            }[sides](many if method.server_streaming else one)

    server = grpc.aio.server(handlers=[Handlers()], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


class Line:
    """A line to a server on this machine, which can fall silent without a sign to either end, and be cut.

    `most` is how many bytes of the server's every connection carries before it falls silent.
    """

    def __init__(self, port: int, *, most: float = float("inf")) -> None:
        self._target = port
        self._most = most
        self._lock = threading.Lock()
        self._silent: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._made: list[socket.socket] = []
        self.pieces = 0
        """How often something came from either end, give or take."""
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target), PATIENCE)
                server.settimeout(None)
                with self._lock:
                    self._open |= {client, server}
                    self._made += [client, server]
                self._start(self._carry, client, server, float("inf"))
                self._start(self._carry, server, client, self._most)

    def _carry(self, source: socket.socket, sink: socket.socket, most: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.pieces += 1
                if source in self._silent:
                    continue
                sink.sendall(data[: int(min(most, len(data)))])
                most -= min(most, len(data))
        if source in self._silent or not most:
            return  # nobody hears of the end
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @property
    def open(self) -> int:
        """How many connections stand."""
        with self._lock:
            return len(self._open) // 2

    @property
    def connections(self) -> int:
        """How many were made."""
        return len(self._made) // 2

    def fall_silent(self) -> None:
        """Carry nothing more over the connections there are: what is sent is acknowledged, and lost."""
        with self._lock:
            self._silent |= self._open

    def lose_packets(self) -> None:
        """Forget the connections there are, as firewalls do: packets get no answer of any kind."""
        self.fall_silent()
        with self._lock:
            for connection in self._open:
                drop_packets(connection)

    def cut(self) -> None:
        """End the connections there are."""
        with self._lock:
            ended, self._open = self._open, set()
        for connection in ended:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._silent.clear()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)
        for connection in self._made:
            connection.close()


@contextlib.contextmanager
def line(port: int, *, most: float = float("inf")) -> Iterator[Line]:
    """A line to a port."""
    made = Line(port, most=most)
    try:
        yield made
    finally:
        made.close()
