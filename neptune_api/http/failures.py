"""The error of a call over HTTP, before the channel makes it an exception of neptune_api.exceptions."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import grpc

from neptune_api import _connecting
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
    through = "" if endpoint.proxy is None else f"the proxy of {endpoint.authority}, "
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        _connecting.no_connection(f"{through}{host}:{port}", str(reason)),
        sent=False,
        connected=False,
    )


def bad_handshake(endpoint: Endpoint, error: ssl.SSLError) -> CallError:
    """Return the error for a failed TLS handshake."""
    import ssl

    server = endpoint.authority
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        sentence = _connecting.wrong_name(server, why) if "mismatch" in why else _connecting.untrusted(server, why)
    elif _wants_certificate(error):
        sentence = _connecting.wants_certificate(server)
    elif error.reason == "WRONG_VERSION_NUMBER":
        sentence = _connecting.no_tls(server, plaintext="http")
    else:
        return cannot_connect(endpoint, f"the TLS handshake failed: {reason_of(error)}")
    return _hopeless(sentence)


def _wants_certificate(error: OSError) -> bool:
    """Tell whether a server has ended TLS for want of a certificate; with TLS 1.3 that comes after the handshake."""
    reason = getattr(error, "reason", None) or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _hopeless(sentence: str) -> CallError:
    return CallError(grpc.StatusCode.UNAVAILABLE, sentence, sent=False, lasting=True, connected=False)


def tunnel_refused(endpoint: Endpoint, status: int) -> CallError:
    """Return the error for a proxy that does not connect."""
    host, port = endpoint.peer
    error = _hopeless(_connecting.tunnel_refused(f"{host}:{port}", endpoint.authority, status))
    error.lasting = 400 <= status < 500
    return error


def no_proxy(endpoint: Endpoint) -> CallError:
    """Return the error for a proxy that is none."""
    host, port = endpoint.peer
    return _hopeless(_connecting.no_proxy(f"{host}:{port}"))


def deadline_exceeded(doing: str, *, sent: bool = False) -> CallError:
    """Return the error for a call without time left; `doing` says at what it was."""
    return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"The deadline of the call passed while it {doing}.", sent=sent)


def connection_lost(error: OSError, *, sent: bool) -> CallError:
    """Return the error for a connection that ended early."""
    if _wants_certificate(error):
        return _hopeless(_connecting.wants_certificate("The server"))
    meaning = "the server may have done the work" if sent else "the request did not reach the server"
    return CallError(grpc.StatusCode.UNAVAILABLE, f"The connection was lost: {reason_of(error)}; {meaning}.", sent=sent)


def reason_of(error: OSError) -> str:
    """Return what an error of the operating system, or of TLS, says, without its number."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return reason.replace("_", " ").lower()
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # asyncio puts the address in its place
    return (error.strerror or str(error) or type(error).__name__).rstrip(".")
