"""The error of a call over HTTP, before the channel makes it an exception of neptune_api.exceptions."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import grpc

from neptune_api.exceptions import FailedCall

if TYPE_CHECKING:
    import ssl

    from neptune_api.exceptions import Metadata
    from neptune_api.http.endpoint import Endpoint


class CallError(FailedCall):
    """A failed attempt, and what it means for another one."""

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        *,
        initial_metadata: Metadata = (),
        trailing_metadata: Metadata = (),
        debug: str | None = None,
        sent: bool = True,
        lasting: bool = False,
        retry_after: float | None = None,
        connected: bool = True,
    ) -> None:
        super().__init__(code, initial_metadata, trailing_metadata, details, debug)  # type: ignore[arg-type] # any collection of pairs will do
        self.sent = sent
        """The server may have got the request."""
        self.lasting = lasting
        """Another attempt would end in the same way."""
        self.retry_after = retry_after
        """Seconds after which the server asks to come back."""
        self.connected = connected
        """A connection was made."""


def cannot_connect(endpoint: Endpoint, reason: object) -> CallError:
    """Return the error for a connection that was not made."""
    host, port = endpoint.peer
    through = "" if endpoint.proxy is None else f" the proxy of {endpoint.authority},"
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        f"Cannot connect to{through} {host}:{port}: {reason}.",
        sent=False,
        connected=False,
    )


def bad_certificate(endpoint: Endpoint, error: ssl.SSLError) -> CallError:
    """Return the error for a failed TLS handshake."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return CallError(
            grpc.StatusCode.UNAVAILABLE,
            f"The certificate of {endpoint.authority} is not trusted: {error.verify_message.rstrip('.')}. "
            "ChannelOptions(ca_file=...) names the authorities to trust, server_name the name to expect.",
            sent=False,
            lasting=True,
            connected=False,
        )
    said = error.reason or error.strerror or type(error).__name__
    return cannot_connect(endpoint, f"the TLS handshake failed: {said}")


def tunnel_refused(endpoint: Endpoint, status: int) -> CallError:
    """Return the error for a proxy that does not connect."""
    host, port = endpoint.peer
    hint = "; it wants a user name and a password, http://name:password@host:port" if status == 407 else ""
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        f"The proxy {host}:{port} does not connect to {endpoint.authority}: it answered {status}{hint}.",
        sent=False,
        lasting=400 <= status < 500,
        connected=False,
    )


def deadline_exceeded(doing: str, *, sent: bool = False) -> CallError:
    """Return the error for a call without time left; `doing` says at what it was."""
    return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"The deadline of the call passed while it {doing}.", sent=sent)


def connection_lost(reason: object, *, sent: bool) -> CallError:
    """Return the error for a connection that ended early."""
    meaning = "the server may have done the work" if sent else "the request did not reach the server"
    return CallError(grpc.StatusCode.UNAVAILABLE, f"The connection was lost: {reason}; {meaning}.", sent=sent)


def reason_of(error: OSError) -> str:
    """Return what an error of the operating system says, without its number."""
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # asyncio puts the address in its place
    return (error.strerror or str(error) or type(error).__name__).rstrip(".")
