"""Connections for threads: made, kept for the next call, and ended at the deadline. aio_connections.py mirrors this.

A pool may be used by many threads, and on both sides of a fork: the child starts with none of its parent's connections.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from neptune_api.http.failures import (
    CallError,
    bad_handshake,
    cannot_connect,
    connection_lost,
    deadline_exceeded,
    no_proxy,
    reason_of,
    tunnel_refused,
)
from neptune_api.http.protocol import FramingError, IncompleteError, Response, request_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.http.endpoint import Endpoint
    from neptune_api.options import ChannelOptions

MAX_IDLE: Final = 64
"""Most connections kept for later."""

MAX_IDLE_SECONDS: Final = 50.0
"""Seconds after which an idle connection is not used again; load balancers cut them off after 60, often silently."""

_LOOK: Final = 0.1
"""Seconds between two looks at whether a call that is being connected was cancelled."""

_SMALL: Final = 64 * 1024
_LARGE: Final = 1024 * 1024


def seconds_left(end: float | None) -> float | None:
    """Return the seconds until a reading of time.monotonic(), None for none; raises TimeoutError when it has passed."""
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_late(error: OSError) -> bool:
    """Tell whether the call's time is up; ETIMEDOUT is of the system, which has given up a connection."""
    return isinstance(error, TimeoutError) and error.errno is None


class Connection:
    """One connection, used by one thread at a time; abort() may come from any."""

    __slots__ = ("__weakref__", "_secure", "_socket", "idle_since", "idled")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._secure = isinstance(connected, ssl.SSLSocket)
        self.idled = False
        """It has waited in a pool, where it may have died."""
        self.idle_since = 0.0
        # A channel that was forgotten is no cause for a ResourceWarning. At exit nothing is closed that somebody has in
        # hand: threads may still be calling.
        weakref.finalize(self, connected.close).atexit = False

    def send(self, head: bytes, body: bytes, end: float | None) -> None:
        """Send a request. Raises CallError."""
        try:
            if self._secure or len(body) > _LARGE:
                for part in (head, body) if len(body) > _SMALL else (head + body,):
                    # One call after the other: of several parts, sendall() over TLS gives each the whole time.
                    view = memoryview(part)
                    while view:
                        self._socket.settimeout(seconds_left(end))
                        view = view[self._socket.send(view) :]
            else:
                self._socket.settimeout(seconds_left(end))
                self._socket.sendall(head + body)
        except OSError as error:
            if _is_late(error):
                raise deadline_exceeded("sent its request", sent=True) from None
            raise connection_lost(error, sent=False) from error

    def receive(self, response: Response, end: float | None) -> None:
        """Feed a response with what has come, waiting for it if need be. Raises CallError, FramingError, TooLarge."""
        try:
            self._socket.settimeout(seconds_left(end))
            data = self._socket.recv(max(_SMALL, min(response.expected, _LARGE)))
        except OSError as error:
            if _is_late(error):
                raise deadline_exceeded("waited for the answer") from None
            raise connection_lost(error, sent=True) from error
        if data:
            response.feed(data)
        else:
            response.end()

    def usable(self) -> bool:
        """Tell whether the other side has neither closed the idle connection nor sent what nobody asked for."""
        if time.monotonic() - self.idle_since > MAX_IDLE_SECONDS:
            return False
        try:
            return not _ready(self._socket, 0)
        except (OSError, ValueError):
            return False

    def abort(self) -> None:
        """Wake whoever waits for the connection; it cannot be used any more."""
        with contextlib.suppress(OSError):
            # shutdown() of an SSLSocket would forget the TLS state that the waiting thread is using.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _ready(connected: socket.socket, seconds: float, *, to_write: bool = False) -> bool:
    """Tell whether a socket can be read, or written, within so many seconds."""
    if hasattr(select, "poll"):  # which takes any number of open files
        poll = select.poll()
        poll.register(connected, select.POLLOUT if to_write else select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    readers, writers, _ = select.select([] if to_write else [connected], [connected] * to_write, [], seconds)
    return bool(readers or writers)


class Holder(Protocol):
    """The call that wants a connection, and may be cancelled meanwhile."""

    def hold(self, connection: Connection) -> None:
        """Take note of a connection to abort. Raises CallError if the call was cancelled."""

    def check(self) -> None:
        """Raise CallError if the call was cancelled."""


class Nobody:
    """Holds nothing, and is never cancelled."""

    def hold(self, connection: Connection) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing."""


_POOLS: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()


@atexit.register
def _forget_all() -> None:
    # Nor is a channel that is open when the program ends.
    for pool in tuple(_POOLS):
        pool.forget()


class Pool:
    """The connections of one channel. Its list needs no lock: append and pop of a list are atomic."""

    def __init__(
        self, endpoint: Endpoint, options: ChannelOptions, connected: Callable[[bool], None] = lambda _: None
    ) -> None:
        self.endpoint = endpoint
        self._options = options
        self._connected = connected
        self._closed = False
        self._idle: list[Connection] = []
        _POOLS.add(self)

    def take(self, end: float | None, holder: Holder, *, fresh: bool = False) -> Connection:
        """Return a connection: an idle one, unless it has to be `fresh`, or a new one. Raises CallError."""
        while not fresh:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.usable():
                return connection
            connection.close()
        try:
            connection = self._connect(end, holder)
        except CallError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                self._connected(False)
            raise
        self._connected(True)
        return connection

    def prepare(self, seconds: float) -> None:
        """Make a connection for a later call. Raises CallError."""
        self.keep(self.take(time.monotonic() + seconds, Nobody(), fresh=True))

    def keep(self, connection: Connection) -> None:
        """Take back a connection that can carry another request."""
        connection.idled = True
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._closed or len(self._idle) > MAX_IDLE:
            self._drop()

    def purge(self) -> None:
        """Close the idle connections: one of their kind turned out to be dead."""
        while self._idle:
            self._drop()

    def close(self) -> None:
        """Close the idle connections, now and as they come back."""
        self._closed = True
        self.purge()

    def _drop(self) -> None:
        with contextlib.suppress(IndexError):  # another thread was faster
            self._idle.pop(0).close()

    def forget(self) -> None:
        """Close the idle connections: at exit, and in the child of a fork, whose parent goes on with its own."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # Making connections.

    def _connect(self, end: float | None, holder: Holder) -> Connection:
        endpoint = self.endpoint
        try:
            connected = self._open(end, holder)
            connection = Connection(connected)
            try:
                holder.hold(connection)
                if endpoint.proxy is not None and not endpoint.forwarded:
                    self._tunnel(connection, end)
                if endpoint.tls is not None:
                    # The plain socket has nothing left to close after that.
                    secure = endpoint.tls.wrap_socket(
                        connected, server_hostname=endpoint.name_to_verify, do_handshake_on_connect=False
                    )
                    connection = Connection(secure)
                    holder.hold(connection)
                    secure.settimeout(seconds_left(end))
                    secure.do_handshake()
            except BaseException:
                connection.close()
                holder.check()
                raise
            else:
                return connection
        except ssl.SSLError as error:
            raise bad_handshake(endpoint, error) from error
        except OSError as error:
            if _is_late(error):
                raise deadline_exceeded(f"connected to {endpoint.authority}") from None
            raise cannot_connect(endpoint, reason_of(error)) from error

    def _open(self, end: float | None, holder: Holder) -> socket.socket:
        """Connect to the first address that answers."""
        addresses = _resolve(*self.endpoint.peer, end)
        failure: OSError | None = None
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            left = seconds_left(end)
            made = socket.socket(family, kind, protocol)
            try:
                # An address that does not answer leaves time for the others.
                until = None if left is None else time.monotonic() + left / (len(addresses) - index)
                _connect(made, address, until, holder)
                _tune(made, self._options)
            except OSError as error:
                made.close()
                failure = error
            except BaseException:
                made.close()
                raise
            else:
                return made
        raise failure or OSError("the name has no address")

    def _tunnel(self, connection: Connection, end: float | None) -> None:
        proxy = self.endpoint.proxy
        connection.send(tunnel_head(self.endpoint), b"", end)
        response = Response(max_bytes=0, verb="CONNECT")
        try:
            while not response.done:
                connection.receive(response, end)
        except IncompleteError as error:
            raise cannot_connect(self.endpoint, "it closed the connection") from error
        except FramingError as error:
            raise no_proxy(self.endpoint) from error
        except CallError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error  # it is the connection that was not made in time
            raise
        if proxy is not None and not 200 <= response.status < 300:
            raise tunnel_refused(self.endpoint, response.status)


def _connect(made: socket.socket, address: Any, end: float | None, holder: Holder) -> None:
    """Connect a socket, looking every now and then whether that is still wanted. Raises OSError and CallError."""
    made.setblocking(False)
    problem = made.connect_ex(address)
    while problem in {errno.EINPROGRESS, errno.EWOULDBLOCK}:
        holder.check()
        left = seconds_left(end)
        if _ready(made, _LOOK if left is None else min(left, _LOOK), to_write=True):
            problem = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if problem:
        raise OSError(problem, os.strerror(problem))


def tunnel_head(endpoint: Endpoint) -> bytes:
    """Return the request for a tunnel to the endpoint."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    target = f"{host}:{endpoint.port}"
    fields = [("Host", target)]
    if endpoint.proxy is not None and endpoint.proxy.authorization is not None:
        fields.append(("Proxy-Authorization", endpoint.proxy.authorization))
    return request_head("CONNECT", target, fields)


def _resolve(host: str, port: int, end: float | None) -> list[Any]:
    """Return the addresses of a host. The system's resolver knows no deadline, so it runs on a thread of its own."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name
    found: list[Any] = []

    def resolve() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    resolver = threading.Thread(target=resolve, name="neptune-api-resolver", daemon=True)
    try:
        resolver.start()
    except RuntimeError:  # the program ends: no thread can be started any more
        resolve()
    else:
        resolver.join(seconds_left(end))
    if not found:
        raise TimeoutError
    [answer] = found
    if isinstance(answer, UnicodeError):
        raise OSError("the name is no host name")
    if isinstance(answer, OSError):
        raise answer
    addresses: list[Any] = answer
    return addresses


def _tune(connected: socket.socket, options: ChannelOptions) -> None:
    """Send at once, and notice when the other side is gone; keepalive_time is that of idle connections as well."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if options.keepalive_time is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # Linux, macOS
    interval, count = getattr(socket, "TCP_KEEPINTVL", None), getattr(socket, "TCP_KEEPCNT", None)
    if idle is not None:
        connected.setsockopt(socket.IPPROTO_TCP, idle, max(1, round(options.keepalive_time)))
    if interval is not None and count is not None:
        connected.setsockopt(socket.IPPROTO_TCP, interval, max(1, round(options.keepalive_timeout / 2)))
        connected.setsockopt(socket.IPPROTO_TCP, count, 2)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: those probes are for idle connections, this for requests
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(options.keepalive_timeout * 1000))


def tune(connected: Any, options: ChannelOptions) -> None:
    """Do as for our own sockets to one that asyncio made."""
    _tune(connected, options)
