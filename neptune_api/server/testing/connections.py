"""Cutting the connection that a call came by, whichever door it came through.

Neither gRPC nor uvicorn closes a connection in the middle of an answer when asked. But both live in this process, and
so do their sockets: the one whose other end is the caller is shut down beneath them.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

_DESCRIPTORS: Final = "/dev/fd"


def cut(context: Any) -> None:
    """Shut down the connection of a call. Raises RuntimeError when there is none, as after its caller has left.

    Whatever else goes over the same connection breaks off as well, as it does when a network fails.
    """
    peer: str = context.peer()
    port = int(peer.rpartition(":")[2])
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 # not a folder of ours
        try:
            # A copy, so that closing it leaves the number to whom it belongs; shutting down works on both.
            copy = os.dup(int(name))
        except OSError:  # it was closed in between, such as the one by which the folder was read
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            continue
        with connection:
            if _is_to(connection, port):
                connection.shutdown(socket.SHUT_RDWR)
                return
    raise RuntimeError(f"no connection to {peer} is left to be cut")


def _is_to(connection: socket.socket, port: int) -> bool:
    try:
        return (
            connection.family in {socket.AF_INET, socket.AF_INET6}
            and connection.type == socket.SOCK_STREAM
            and connection.getpeername()[1] == port
            # The caller may live in this process, too, and be connected to something else from a port of this number.
            and connection.getpeername()[0].rpartition(":")[2] in {"127.0.0.1", "1"}
        )
    except OSError:  # not connected
        return False
