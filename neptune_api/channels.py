"""channel(): from a target and a token to a grpc.Channel. What a target may look like is decided here."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import grpc

from neptune_api.auth import ApiTokenSource, ProviderTokenSource, StaticTokenSource, TokenSource
from neptune_api.credentials import TOKEN_VARIABLE, ApiToken
from neptune_api.options import ChannelOptions

if TYPE_CHECKING:
    from neptune_api.auth import Provider

__all__ = ["Connection", "channel", "resolve"]

TLS_PORT: Final = 443

_SHAPE: Final = "grpcs://host:port (TLS), grpc://host:port (plaintext), host:port (TLS) or unix:/path"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to connect, how, and with what to log in."""

    address: str
    """Address as gRPC takes it: `host:port` or `unix:/path`."""
    secure: bool
    """TLS is used."""
    local: bool
    """The address never leaves this machine."""
    api_token: ApiToken | None = field(default=None, repr=False)
    """What to exchange for access tokens; None for anonymous calls or when access tokens come from elsewhere."""

    def arguments(self, options: ChannelOptions) -> list[tuple[str, str | int]]:
        """Return the gRPC channel arguments."""
        from neptune_api._grpc.methods import retryable_methods

        arguments = list(options.channel_arguments(retryable_methods()))
        if self.local and not any(key == "grpc.enable_http_proxy" for key, _ in arguments):
            # A proxy from the environment cannot reach this machine's loopback.
            arguments.append(("grpc.enable_http_proxy", 0))
        return arguments

    def credentials(self, options: ChannelOptions) -> grpc.ChannelCredentials:
        """Return the TLS credentials. Raises OSError or ValueError for a file that cannot be read or is no PEM file."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read_pem(options.ca_file, "ca_file"),
            private_key=_read_pem(options.client_key, "client_key"),
            certificate_chain=_read_pem(options.client_cert, "client_cert"),
        )


def _read_pem(path: str | os.PathLike[str] | None, name: str) -> bytes | None:
    if path is None:
        return None
    data = Path(path).read_bytes()
    if b"-----BEGIN " not in data:
        raise ValueError(f"{name} {os.fspath(path)!r} is not a PEM file: it has no line that starts with -----BEGIN")
    return data


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bad(target: str, problem: str) -> ValueError:
    # What stands before an @ may be a password.
    shown = re.sub(r"(//)?[^/@]*@", r"\1<hidden>@", target)
    return ValueError(f"the target {shown!r} {problem}; write {_SHAPE}")


def parse_target(target: str) -> Connection:
    """Return where a target points and whether it uses TLS.

    Raises ValueError for anything but the four forms, NotImplementedError for http:// and https://.
    """
    text = target.strip()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.strip("/"):
            raise _bad(text, "has no path of a socket")
        return Connection(address=text, secure=False, local=True)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "grpcs", text
    scheme = scheme.lower()
    if scheme in {"http", "https"}:
        raise NotImplementedError(
            f"{scheme}:// targets need the HTTP wire, which this version does not have; use the server's gRPC address, "
            "grpcs://host:port"
        )
    if scheme not in {"grpc", "grpcs"}:
        raise _bad(text, f"has the unknown scheme {scheme!r}")
    if not rest or any(character.isspace() or not character.isprintable() for character in rest):
        raise _bad(text, "has no host" if not rest else "contains white space")
    if "@" in rest:
        raise _bad(text, "contains a user name or password, which gRPC does not send")
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        raise _bad(text, "has a host that is neither a name nor an address") from None
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise _bad(text, "has something behind the port")
    if parts.netloc.count(":") > 1 and "[" not in parts.netloc:
        raise _bad(text, "has more than one colon; an IPv6 address stands in brackets")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _bad(text, "has a port that is no number between 1 and 65535") from None
    if not host:
        raise _bad(text, "has no host")
    if port == 0 or parts.netloc.endswith(":"):
        raise _bad(text, "has a port that is no number between 1 and 65535")
    if port is None and scheme == "grpc":
        raise _bad(text, "has no port, and plaintext has no usual one")
    bracketed = f"[{host}]" if ":" in host else host
    return Connection(
        address=f"{bracketed}:{TLS_PORT if port is None else port}", secure=scheme == "grpcs", local=_is_loopback(host)
    )


def _api_token(given: str | ApiToken | None) -> ApiToken | None:
    """Return the token of the argument or of the environment; None for the empty text, which asks for none."""
    if isinstance(given, ApiToken):
        return given
    if given is not None:
        return ApiToken.parse(given, source="the api_token argument") if given else None
    text = os.environ.get(TOKEN_VARIABLE, "")
    if not text.strip():
        raise ValueError(
            f"no API token: pass api_token or set {TOKEN_VARIABLE}; api_token='' is for anonymous calls only"
        )
    return ApiToken.parse(text, source=TOKEN_VARIABLE)


def resolve(
    target: str | None, api_token: str | ApiToken | None, options: ChannelOptions, *, access_token: bool
) -> Connection:
    """Decide where to connect and with which token; `access_token` tells that access tokens come from elsewhere.

    Raises ValueError for a target or a combination that makes no sense, InvalidTokenError for an undecodable token.
    """
    if access_token and api_token:
        raise ValueError("pass either api_token or access_token, not both")
    token = None if access_token else _api_token(api_token)
    if target is None:
        if token is None:
            raise ValueError("no target: without an API token, which knows the address, a target must be given")
        if token.grpc_url is None:
            raise ValueError(
                f"this API token knows no gRPC address (grpc_url), only {token.api_url}; pass a target such as "
                "'grpcs://host:port'"
            )
        target = token.grpc_url
    connection = parse_target(target)
    if not connection.secure:
        if options.tls_fields:
            raise ValueError(
                f"{', '.join(options.tls_fields)} mean something with TLS only, and {target!r} is plaintext"
            )
        if (token is not None or access_token) and not connection.local and not options.allow_insecure_token:
            raise ValueError(
                f"refusing to send a token unencrypted to {connection.address}: use grpcs://, or set "
                "ChannelOptions(allow_insecure_token=True) if everyone on the way may act as you"
            )
    return Connection(connection.address, connection.secure, connection.local, token)


def channel(
    target: str | None = None,
    *,
    api_token: str | ApiToken | None = None,
    access_token: str | Provider | None = None,
    options: ChannelOptions | None = None,
) -> grpc.Channel:
    """Open a channel for the generated stubs; it connects at the first call.

    `target` is grpcs://host:port, grpc://host:port (plaintext), host:port (TLS) or unix:/path; without one, the API
    token says where. `api_token` comes from the environment variable NEPTUNE_API_TOKEN when not given; "" makes a
    channel for the methods that need no token. `access_token` takes its place: a JWT that is sent as it is, or a
    function that returns one when it is needed.

    Calls have the deadlines of `options`, carry an access token that is fetched and renewed as needed, are retried when
    the method allows it, and raise the exceptions of neptune_api.exceptions, which are grpc.RpcErrors. A call whose
    token is refused is made once more with a new one, unless its requests are a stream, which cannot be sent twice.
    Whoever opens the channel closes it: use it in a `with` block, or call close(). Open it after a fork, not before.

    Raises ValueError when target, token and options do not fit together, InvalidTokenError (also a ValueError) for a
    text that is no API token, OSError for a certificate file that cannot be read, NotImplementedError for http(s)://.
    """
    from neptune_api._grpc.sync import Channel, token_transport

    options = ChannelOptions() if options is None else options
    connection = resolve(target, api_token, options, access_token=access_token is not None)
    source: TokenSource | None = None
    if callable(access_token):
        source = ProviderTokenSource(access_token, timeout=options.exchange_timeout)
    elif access_token is not None:
        source = StaticTokenSource(access_token)
    arguments = connection.arguments(options)
    if connection.secure:
        below = grpc.secure_channel(connection.address, connection.credentials(options), arguments)
    else:
        below = grpc.insecure_channel(connection.address, arguments)
    if connection.api_token is not None:
        source = ApiTokenSource(connection.api_token, token_transport(below), timeout=options.exchange_timeout)
    return Channel(below, source, options)
