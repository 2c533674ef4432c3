"""Addresses to listen on: which are local, which are free, what to say when one is not."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"

_LAST_PORT: Final = 65_535

_CAUSES: Final = {
    errno.EADDRINUSE: "another program listens on it; stop that program or choose another port, 0 for any free one",
    errno.EACCES: "this user may not; choose a port from 1024 on",
    errno.EADDRNOTAVAIL: "this machine does not have the address; choose 127.0.0.1 or one of its own addresses",
}


class PortError(Exception):
    """Report in one sentence why an address cannot be listened on."""


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address never leaves this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Tell whether listening on this address means listening on every address of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def join(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, which nobody else gets while it is open; port 0 is any free port.

    Raises PortError.
    """
    if not 0 <= port <= _LAST_PORT:
        # The resolver would take the rest of a division.
        raise PortError(f"Cannot listen on {join(host, port)}: a port is a number from 0 to {_LAST_PORT}.")
    bound: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if port:
            # Connections of an earlier server that the kernel still remembers do not count as taken.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # With it, others could still bind the port, or get it for port 0.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except (OSError, UnicodeError) as error:
        if bound is not None:
            bound.close()
        raise PortError(f"Cannot listen on {join(host, port)}: {_cause(error)}.") from error
    return bound


def listen(bound: socket.socket, backlog: int) -> None:
    """Listen on a reserved socket. Raises OSError.

    Connections of an earlier server do not stand in the way, and these will not stand in the way of the next one.
    """
    # Listening keeps others away by itself. Connections inherit it.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.listen(backlog)


def port_of(bound: socket.socket) -> int:
    """Return the port a socket is bound to."""
    return int(bound.getsockname()[1])


def _cause(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "this machine knows no such host; choose 127.0.0.1 or one of its own addresses"
    if isinstance(error, OSError) and error.errno is not None:
        return _CAUSES.get(error.errno, os.strerror(error.errno))
    return str(error)


def machine_name() -> str:
    """Return the name by which other machines most likely reach this one."""
    return socket.getfqdn()
