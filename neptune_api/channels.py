"""channel(): from a target and a token to a grpc.Channel. What a target may look like is decided here."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urlsplit

import grpc

from neptune_api.auth import ApiTokenSource, ProviderTokenSource, StaticTokenSource, TokenSource
from neptune_api.credentials import TOKEN_VARIABLE, ApiToken
from neptune_api.options import ChannelOptions, read_pem
from neptune_api.proxies import find_proxy

if TYPE_CHECKING:
    from typing import TypeAlias

    from neptune_api.auth import Provider
    from neptune_api.http.endpoint import Endpoint
    from neptune_api.mirror import Mirror
    from neptune_api.proxies import Proxy

    Transport: TypeAlias = Literal["auto", "grpc", "http"]

__all__ = ["Connection", "channel", "resolve"]

PORTS: Final = {"grpcs": 443, "https": 443, "http": 80}

_SHAPE: Final = (
    "grpcs://host:port (TLS), grpc://host:port (plaintext), host:port (TLS), https://host/path, http://host/path or "
    "unix:/path"
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to connect, how, and with what to log in."""

    address: str
    """`host:port`, or `unix:/path` for gRPC."""
    secure: bool
    """TLS is used."""
    local: bool
    """The address never leaves this machine."""
    wire: Literal["grpc", "http"] = "grpc"
    """What is spoken there."""
    host: str = ""
    """Name or address without brackets; empty for a socket of this machine."""
    port: int = 0
    prefix: str = ""
    """What stands before every path of the HTTP API, without a slash at its end."""
    api_token: ApiToken | None = field(default=None, repr=False)
    """What to exchange for access tokens; None for anonymous calls or when access tokens come from elsewhere."""
    fallback: Connection | None = None
    """Where to go when nobody speaks gRPC at the address."""

    def proxy(self) -> Proxy | None:
        """Return the proxy of the environment for this connection. Raises ValueError for one that is not supported."""
        # A proxy cannot reach this machine's loopback.
        return None if self.local else find_proxy(f"{self.wire}{'s' * self.secure}", self.host, self.port)

    def arguments(self, options: ChannelOptions) -> list[tuple[str, str | int]]:
        """Return the gRPC channel arguments. Raises ValueError for a proxy that is not supported."""
        from neptune_api._grpc.methods import retryable_methods

        arguments = list(options.channel_arguments(retryable_methods()))
        if not any(key in {"grpc.enable_http_proxy", "grpc.http_proxy"} for key, _ in arguments):
            proxy = self.proxy()
            # Said in either case: gRPC itself reads the variables in lower case only.
            arguments.append(("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy.url))
        return arguments

    def credentials(self, options: ChannelOptions) -> grpc.ChannelCredentials:
        """Return the TLS credentials. Raises OSError or ValueError for a file that cannot be read or is no PEM file."""
        root, key, chain = (
            None if path is None else read_pem(path, name)
            for name, path in (
                ("ca_file", options.ca_file),
                ("client_key", options.client_key),
                ("client_cert", options.client_cert),
            )
        )
        return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=chain)

    def without_grpc(self) -> Connection:
        """Return the connection to go over HTTP from the start; the same one when there is no such address."""
        return self if self.fallback is None else replace(self.fallback, api_token=self.api_token)

    def endpoint(self, options: ChannelOptions) -> Endpoint:
        """Return where HTTP requests go. Raises as credentials() and proxy() do."""
        from neptune_api.http.endpoint import Endpoint, tls_context

        return Endpoint(
            host=self.host,
            port=self.port,
            prefix=self.prefix,
            tls=tls_context(options) if self.secure else None,
            server_name=options.server_name,
            proxy=self.proxy(),
        )

    def open(self, options: ChannelOptions) -> grpc.Channel:
        """Open a bare channel, without tokens and deadlines. Raises as endpoint() and forks.start() do."""
        if self.wire == "http":
            from neptune_api.http.channel import Wire as HttpWire

            return HttpWire(self.endpoint(options), options)
        from neptune_api._grpc.wire import Wire as GrpcWire

        arguments = self.arguments(options)
        if self.secure:
            credentials = self.credentials(options)
            return GrpcWire(lambda all_: grpc.secure_channel(self.address, credentials, all_), arguments)
        return GrpcWire(lambda all_: grpc.insecure_channel(self.address, all_), arguments)


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
    """Return where a target points, what is spoken there and whether it uses TLS. Raises ValueError for other forms."""
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
    if scheme not in {"grpc", "grpcs", "http", "https"}:
        raise _bad(text, f"has the unknown scheme {scheme!r}")
    if not rest or any(character.isspace() or not character.isprintable() for character in rest):
        raise _bad(text, "has no host" if not rest else "contains white space")
    if "@" in rest:
        raise _bad(text, "contains a user name or password, which is not sent")
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        raise _bad(text, "has a host that is neither a name nor an address") from None
    wire: Literal["grpc", "http"] = "http" if scheme.startswith("http") else "grpc"
    if parts.query or parts.fragment or (wire == "grpc" and parts.path not in {"", "/"}):
        raise _bad(text, f"has something behind the {'port' if wire == 'grpc' else 'path'}")
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
    if port is None and scheme not in PORTS:
        raise _bad(text, "has no port, and plaintext has no usual one")
    if wire == "http" and not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            raise _bad(text, "has a host that is neither a name nor an address") from None
    bracketed = f"[{host}]" if ":" in host else host
    port = PORTS[scheme] if port is None else port
    return Connection(
        address=f"{bracketed}:{port}",
        secure=scheme.endswith("s"),
        local=_is_loopback(host),
        wire=wire,
        host=host,
        port=port,
        # What is percent-encoded stays so.
        prefix=quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._") if wire == "http" else "",
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


def _http_url(token: ApiToken) -> str:
    url = token.api_url or token.api_address
    return url if "://" in url else f"https://{url}"


def _address(target: str | None, token: ApiToken | None, transport: Transport | None) -> str:
    """Return the target of the argument or of the token."""
    if target is not None:
        return target
    if token is None:
        raise ValueError(
            "no target: an API token knows the address, an access_token or an empty api_token does not; pass a target"
        )
    if transport != "http" and token.grpc_url is not None:
        return token.grpc_url
    if transport == "grpc":
        raise ValueError(
            f"this API token knows no gRPC address (grpc_url), only {token.api_url}; pass a target such as "
            "'grpcs://host:port', or transport='http'"
        )
    return _http_url(token)


def resolve(
    target: str | None,
    api_token: str | ApiToken | None,
    options: ChannelOptions,
    *,
    access_token: bool,
    transport: Transport | None = None,
) -> Connection:
    """Decide where to connect and with which token; `access_token` tells that access tokens come from elsewhere.

    Raises ValueError for a target or a combination that makes no sense, InvalidTokenError for an undecodable token.
    """
    if transport not in {None, "auto", "grpc", "http"}:
        raise ValueError(f"transport must be 'auto', 'grpc', 'http' or None, not {transport!r}")
    if access_token and api_token:
        raise ValueError("pass either api_token or access_token, not both")
    token = None if access_token else _api_token(api_token)
    address = _address(target, token, transport)
    connection = parse_target(address)
    if transport in {"grpc", "http"} and connection.wire != transport:
        raise ValueError(f"the target {address!r} is an address of the {connection.wire} wire, not of {transport}")
    tokens = token is not None or access_token
    _check(connection, address, options, tokens=tokens)
    fallback = None
    if transport == "auto" and connection.wire == "grpc" and token is not None:
        address = _http_url(token)
        fallback = parse_target(address)
        _check(fallback, address, options, tokens=tokens)
    return replace(connection, api_token=token, fallback=fallback)


def _check(connection: Connection, target: str, options: ChannelOptions, *, tokens: bool) -> None:
    """Raise ValueError when the options do not fit the connection, or a token would travel in the open."""
    if not connection.secure:
        if options.tls_fields:
            raise ValueError(
                f"{', '.join(options.tls_fields)} mean something with TLS only, and {target!r} is plaintext"
            )
        if tokens and not connection.local and not options.allow_insecure_token:
            raise ValueError(
                f"refusing to send a token unencrypted to {connection.address}: use "
                f"{'https' if connection.wire == 'http' else 'grpcs'}://, or set "
                "ChannelOptions(allow_insecure_token=True) if everyone on the way may act as you"
            )
    elif connection.wire == "grpc" and not options.verify:
        raise ValueError(
            "verify=False does not work over gRPC, which always verifies certificates: use the HTTP wire (an https:// "
            "target, or transport='http'), or trust the certificate with ca_file"
        )


def channel(
    target: str | None = None,
    *,
    api_token: str | ApiToken | None = None,
    access_token: str | Provider | None = None,
    options: ChannelOptions | None = None,
    transport: Transport | None = None,
    mirror: Mirror | None = None,
) -> grpc.Channel:
    """Open a channel for the generated stubs; it connects at the first call.

    `target` is grpcs://host:port, grpc://host:port (plaintext), host:port (TLS) or unix:/path for the gRPC wire,
    https://host/path or http://host/path for the HTTP wire, whose path is that under which the API lies; without a
    target, the API token says where. `api_token` comes from the environment variable NEPTUNE_API_TOKEN when not given;
    "" makes a channel for the methods that need no token. `access_token` takes its place: a JWT that is sent as it is,
    or a function that returns one when it is needed.

    `transport` picks between the addresses of a token: "grpc", "http", or "auto", which tries gRPC at the first call
    and, when nobody speaks it there, goes over to HTTP for as long as the channel lives. None takes gRPC if the token
    has an address for it. Over HTTP, methods that take a stream of requests raise UnimplementedException when they are
    called; everything else works in the same way on both wires.

    `mirror` sends copies of the calls that write to a second server, best effort.

    Calls have the deadlines of `options`, carry an access token that is fetched and renewed as needed, are retried when
    the method allows it, and raise the exceptions of neptune_api.exceptions, which are grpc.RpcErrors. A call whose
    token is refused is made once more with a new one, unless its requests are a stream, which cannot be sent twice.
    Whoever opens the channel closes it: use it in a `with` block, or call close(). After a fork both sides may go on
    with it: the child connects anew, at its first call. Calls that were under way are the parent's alone, and over gRPC
    a child that was forked while there were any is refused, by FailedPreconditionException: see "Processes" in the
    guide.

    Raises ValueError when target, token and options do not fit together, InvalidTokenError (also a ValueError) for a
    text that is no API token, OSError for a certificate file that cannot be read, FailedPreconditionException where
    gRPC does not work after a fork.
    """
    from neptune_api._grpc import forks
    from neptune_api._grpc.sync import Channel, token_transport

    options = ChannelOptions() if options is None else options
    connection = resolve(target, api_token, options, access_token=access_token is not None, transport=transport)
    if connection.fallback is not None and forks.refused():
        connection = connection.without_grpc()
    source: TokenSource | None = None
    if callable(access_token):
        source = ProviderTokenSource(access_token, timeout=options.exchange_timeout)
    elif access_token is not None:
        source = StaticTokenSource(access_token)
    below, kind = connection.open(options), Channel
    if connection.wire == "http":
        from neptune_api.http.channel import Channel as HttpChannel

        kind = HttpChannel
    elif connection.fallback is not None:
        from neptune_api.http.fallback import FallbackChannel

        below = FallbackChannel(below, connection.fallback.open(options))
    if connection.api_token is not None:
        source = ApiTokenSource(connection.api_token, token_transport(below), timeout=options.exchange_timeout)
    return kind(below, source, options, mirror)
