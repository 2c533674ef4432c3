"""Why a connection was not made, and what to do about it: the same sentences for both wires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable

    Explain = Callable[[str, str], str]


def untrusted(server: str, why: str) -> str:
    """Say that a certificate is not trusted, for a reason in OpenSSL's words."""
    if "expired" in why:
        return f"The certificate of {server} has expired: renew it, or set the clock of this machine right."
    return f"The certificate of {server} is not trusted: {why}. ChannelOptions(ca_file=...) names whom to trust."


def wrong_name(server: str, why: str = "") -> str:
    """Say that a certificate is somebody else's."""
    return (
        f"The certificate of {server} is not for the name in the target{f': {why}' * bool(why)}. Use a name that it "
        "has, or tell one that it has by ChannelOptions(server_name=...)."
    )


def wants_certificate(server: str) -> str:
    """Say that a server wants to know who calls."""
    return (
        f"{server} wants a certificate of this client, of an authority that it trusts: "
        "ChannelOptions(client_cert=..., client_key=...) gives it one."
    )


def hung_up(server: str) -> str:
    """Say that a server ended a connection as soon as it stood, which some do without a word."""
    return (
        f"{server} ended the connection at once. Servers do that which want TLS (grpcs://), or over TLS a certificate "
        "of this client, of an authority that they trust: ChannelOptions(client_cert=..., client_key=...)."
    )


def no_tls(server: str, *, plaintext: str) -> str:
    """Say that a server does not speak TLS; `plaintext` is the scheme to call it by."""
    return f"{server} does not speak TLS. If that is as it should be, write {plaintext}:// in the target."


def no_http2(server: str) -> str:
    """Say that whoever is there does not speak what gRPC needs."""
    return (
        f"{server} does not speak HTTP/2, which gRPC needs: it is another server, or something in between, such as a "
        "proxy, knows HTTP/1.1 only. Use transport='http', or an https:// target."
    )


def no_proxy(proxy: str) -> str:
    """Say that whoever is there is no proxy."""
    return f"{proxy} does not answer as a proxy does: look at HTTPS_PROXY, or exempt this server with NO_PROXY."


def tunnel_refused(proxy: str, server: str, status: int) -> str:
    """Say that a proxy does not connect to a server."""
    hint = {
        403: "; it does not permit that: ask its keeper, or exempt the server with NO_PROXY",
        407: "; it wants a user name and a password, http://name:password@host:port",
    }.get(status, "")
    return f"The proxy {proxy} does not connect to {server}: it answered {status}{hint}."


def no_connection(server: str, why: str) -> str:
    """Say that there is no connection, for a reason in the words of the operating system."""
    return f"Cannot connect to {server}: {why}."


_FAILED: Final = re.compile(
    r"failed to connect to all addresses; last error: \w+: (?P<peer>\S+?): (?P<why>.*)", re.DOTALL
)
_REASONS: Final[tuple[tuple[re.Pattern[str], Explain], ...]] = (
    (re.compile(r"CERTIFICATE_VERIFY_FAILED:? ?(?P<it>.*?)(: OK)?\Z", re.DOTALL), untrusted),
    (
        re.compile(r"Hostname Verification Check failed|is not in peer certificate|No match found for server name"),
        lambda server, _: wrong_name(server),
    ),
    (
        re.compile(r"HTTP proxy returned response code (?P<it>\d+)"),
        lambda proxy, status: tunnel_refused(proxy, "the server", int(status)),
    ),
    (re.compile(r"Expected '\w'"), lambda proxy, _: no_proxy(proxy)),
    (re.compile(r"WRONG_VERSION_NUMBER"), lambda server, _: no_tls(server, plaintext="grpc")),
    (
        re.compile(r"missing selected ALPN|Failed parsing HTTP/2|Expected SETTINGS|http1\.x server"),
        lambda server, _: no_http2(server),
    ),
    (re.compile(r"Failed to connect to remote host: (?P<it>.*?)\.?\Z", re.DOTALL), no_connection),
    (re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA)"), lambda server, _: wants_certificate(server)),
    (re.compile(r"Socket closed|Connection reset|Broken pipe|Stream removed"), lambda server, _: hung_up(server)),
)


def explain(details: str) -> str | None:
    """Return what a sentence of gRPC about a failed connection means; None when it says all there is to say."""
    failed = _FAILED.search(details)
    if failed is None:
        return None
    peer = unquote(re.sub(r"\Aipv[46]:", "", failed["peer"]))
    for pattern, sentence in _REASONS:
        found = pattern.search(failed["why"])
        if found is not None:
            return sentence(peer, found.groupdict().get("it") or "")
    return None
