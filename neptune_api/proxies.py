"""Proxies from the environment, for both wires.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, GRPC_PROXY and NO_PROXY are read in either case; lower case wins. A proxy is asked
for a tunnel (CONNECT) for TLS and for gRPC, and to forward plain HTTP.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from neptune_api.credentials import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Proxy", "find_proxy"]

_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that speaks plain HTTP."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """Value of the Proxy-Authorization header. A secret."""
    url: str = field(default="", repr=False)
    """The address as gRPC takes it, which may hold a password."""


def _variable(name: str) -> str:
    """Return a variable of the environment, whatever its case."""
    if name == "http_proxy" and "REQUEST_METHOD" in os.environ:
        # In a CGI script HTTP_PROXY is the request header "Proxy", which anybody may have sent.
        return os.environ.get(name, "")
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def find_proxy(scheme: str, host: str, port: int) -> Proxy | None:
    """Return the proxy by which `host` is reached over `scheme` (http, https, grpc or grpcs); None for none.

    Raises ValueError for a proxy that does not speak plain HTTP, and for a malformed address.
    """
    grpc = scheme.startswith("grpc")
    secure = scheme.endswith("s")
    # gRPC's own order, which does not care for TLS.
    names = ("grpc_proxy", "https_proxy", "http_proxy") if grpc else ("https_proxy" if secure else "http_proxy",)
    for name in (*names, "all_proxy"):
        value = _variable(name)
        if value:
            break
    else:
        return None
    exempt = (grpc and _variable("no_grpc_proxy")) or _variable("no_proxy")
    if _bypassed(host, port, [part.strip().lower() for part in exempt.split(",") if part.strip()]):
        return None
    return _parse(name, value)


def _parse(name: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = parts = None
    if parts is None or not host:
        # The value may hold a password.
        raise ValueError(f"the proxy in the environment variable {name} has no valid address; write http://host:port")
    if parts.scheme.lower() != "http":
        raise ValueError(
            f"the proxy in the environment variable {name} is a {parts.scheme}:// one, which is not supported; name "
            "one that speaks HTTP, http://host:port, or exempt this server with NO_PROXY"
        )
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = Secret(f"Basic {base64.b64encode(login.encode()).decode()}")
    port = _PORT if port is None else port
    login, _, _ = parts.netloc.rpartition("@")
    bracketed = f"[{host}]" if ":" in host else host
    return Proxy(host, port, authorization, Secret(f"http://{login}{'@' * bool(login)}{bracketed}:{port}"))


def _bypassed(host: str, port: int, exempt: Sequence[str]) -> bool:
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in exempt:
        if entry == "*" or entry in {host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"}:
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                pass
            continue
        name, colon, wanted = entry.rpartition(":") if ":" in entry else (entry, "", "")
        if colon and wanted != str(port):
            continue
        suffix = name.removeprefix("*").lstrip(".")
        if suffix and (host == suffix or host.endswith(f".{suffix}")):
            return True
    return False
