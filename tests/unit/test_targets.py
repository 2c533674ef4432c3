"""Targets and tokens: what channel() makes of them, and what it refuses, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neptune_api
from neptune_api.channels import parse_target, resolve
from neptune_api.credentials import ApiToken, InvalidTokenError
from neptune_api.exceptions import UnauthorizedException
from neptune_api.options import ChannelOptions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.conftest import OpenWire

TOKEN = ApiToken.mint(api_url="https://neptune.example")
GOOD = {
    "grpcs://neptune.example:8443": ("neptune.example:8443", True, False),
    "GRPCS://neptune.example/": ("neptune.example:443", True, False),
    "neptune.example": ("neptune.example:443", True, False),
    " neptune.example:1 \n": ("neptune.example:1", True, False),
    "grpc://neptune.example:65535": ("neptune.example:65535", False, False),
    "grpc://localhost:50051": ("localhost:50051", False, True),
    "grpc://127.0.0.1:50051": ("127.0.0.1:50051", False, True),
    "grpc://127.255.0.9:50051": ("127.255.0.9:50051", False, True),
    "grpc://[::1]:50051": ("[::1]:50051", False, True),
    "grpcs://[2001:db8::1]": ("[2001:db8::1]:443", True, False),
    "grpc://10.0.0.1:1": ("10.0.0.1:1", False, False),
    "grpc://127.0.0.1.evil.example:1": ("127.0.0.1.evil.example:1", False, False),
    "grpc://localhost.evil.example:1": ("localhost.evil.example:1", False, False),
    "unix:/run/neptune.sock": ("unix:/run/neptune.sock", False, True),
    "unix:///run/neptune.sock": ("unix:///run/neptune.sock", False, True),
    "unix:neptune.sock": ("unix:neptune.sock", False, True),
}


@pytest.mark.parametrize("target", GOOD)
def test_targets(target: str) -> None:
    connection = parse_target(target)
    assert (connection.address, connection.secure, connection.local) == GOOD[target]


BAD = {
    "": "has no host",
    "grpcs://": "has no host",
    "grpcs://:443": "has no host",
    "grpcs:///path": "has something behind the port",
    "grpcs://host:443/path": "has something behind the port",
    "grpcs://host:443?x=1": "has something behind the port",
    "grpcs://host:443#x": "has something behind the port",
    "host/path": "has something behind the port",
    "grpcs://host:": "no number between 1 and 65535",
    "grpc://host:": "no number between 1 and 65535",
    "grpcs://host:x": "no number between 1 and 65535",
    "grpcs://host:0": "no number between 1 and 65535",
    "grpcs://host:65536": "no number between 1 and 65535",
    "grpcs://host:-1": "no number between 1 and 65535",
    "grpc://host": "has no port, and plaintext has no usual one",
    "grpcs://ho st:1": "contains white space",
    "grpcs://host\x00:1": "contains white space",
    "grpcs://[::1": "neither a name nor an address",
    "grpcs://::1:443": "an IPv6 address stands in brackets",
    "ftp://host:21": "has the unknown scheme 'ftp'",
    "dns:///host:1": "has the unknown scheme 'dns'",
    "://host": "has the unknown scheme ''",
    "unix:": "has no path of a socket",
    "unix:///": "has no path of a socket",
}


@pytest.mark.parametrize("target", BAD)
def test_malformed_targets_say_what_is_wrong_and_what_is_right(target: str) -> None:
    with pytest.raises(ValueError, match="write grpcs://host:port") as caught:
        parse_target(target)
    assert BAD[target] in str(caught.value)


@pytest.mark.parametrize("target", ["grpcs://ada:hunter2@host:1", "ada:hunter2@host", "ftp://ada:hunter2@host"])
def test_a_password_in_a_target_is_refused_unseen(target: str) -> None:
    with pytest.raises(ValueError, match=r"user name or password|unknown scheme") as caught:
        parse_target(target)
    assert "hunter2" not in str(caught.value)


@given(st.sampled_from(["", "grpc://", "grpcs://", "http://", "https://h", "https://h/"]), st.text())
def test_no_text_does_worse_than_a_value_error(scheme: str, rest: str) -> None:
    try:
        connection = parse_target(scheme + rest)
    except ValueError:
        return
    assert connection.address
    if connection.wire == "http":
        assert connection.prefix.isascii()
        assert connection.host.isascii()


HTTP = {
    "https://neptune.example": ("neptune.example:443", True, False, ""),
    "HTTPS://neptune.example/": ("neptune.example:443", True, False, ""),
    "https://neptune.example:8443/a/b/": ("neptune.example:8443", True, False, "/a/b"),
    "https://[2001:db8::1]/x%20y": ("[2001:db8::1]:443", True, False, "/x%20y"),
    "http://neptune.example": ("neptune.example:80", False, False, ""),
    "http://127.0.0.1:8080": ("127.0.0.1:8080", False, True, ""),
    "https://b\u00fccher.example": ("xn--bcher-kva.example:443", True, False, ""),
    "http://localhost/pfad/\u00fc": ("localhost:80", False, True, "/pfad/%C3%BC"),
}


@pytest.mark.parametrize("target", HTTP)
def test_targets_of_the_http_wire(target: str) -> None:
    connection = parse_target(target)
    assert (connection.address, connection.secure, connection.local, connection.prefix) == HTTP[target]
    assert connection.wire == "http"


@pytest.mark.parametrize(
    "target", ["https://h/x?y=1", "https://h/#x", "https://h?y", "http://a@h", "http://", "http:///x"]
)
def test_malformed_targets_of_the_http_wire(target: str) -> None:
    with pytest.raises(ValueError, match="write grpcs://host:port"):
        parse_target(target)


# Which token, and whether it may travel.


def resolved(target: str | None = None, api_token: Any = None, **options: Any) -> Any:
    return resolve(target, api_token, ChannelOptions(**options), access_token=False)


def test_a_token_never_travels_unencrypted_to_another_host() -> None:
    for target in (target for target, (_, secure, local) in GOOD.items() if not secure and not local):
        with pytest.raises(ValueError, match=r"refusing to send a token unencrypted to .*allow_insecure_token=True"):
            resolved(target, TOKEN)
        with pytest.raises(ValueError, match="refusing to send a token unencrypted"):
            neptune_api.channel(target, access_token="opaque")
        assert not resolved(target, TOKEN, allow_insecure_token=True).secure
        assert resolved(target, "").api_token is None


def test_a_token_travels_encrypted_or_within_this_machine() -> None:
    for target in (target for target, (_, secure, local) in GOOD.items() if secure or local):
        assert resolved(target, TOKEN).api_token is TOKEN


def test_the_address_inside_a_token_follows_the_same_rule() -> None:
    with pytest.raises(ValueError, match="refusing to send a token unencrypted"):
        resolved(None, ApiToken.mint(api_url="x", grpc_url="grpc://neptune.example:1"))


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", f"'{TOKEN.encode()}'\n")
    assert resolved("h:1").api_token == TOKEN
    assert resolved("h:1", "").api_token is None


@pytest.mark.parametrize("value", [None, "", "  "])
def test_no_token_at_all_says_where_one_goes(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("NEPTUNE_API_TOKEN", raising=False)
    else:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", value)
    with pytest.raises(ValueError, match="pass api_token or set NEPTUNE_API_TOKEN; api_token='' is for anonymous"):
        neptune_api.channel("h:1")


def test_an_undecodable_token_says_what_one_looks_like(monkeypatch: pytest.MonkeyPatch, open_channel: OpenWire) -> None:
    with pytest.raises(InvalidTokenError, match=r"from the api_token argument is not valid.*base64 text of a JSON obj"):
        open_channel("h:1", api_token="garbage")
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "garbage")
    with pytest.raises(UnauthorizedException, match="from NEPTUNE_API_TOKEN is not valid"):
        open_channel("h:1")


def test_the_token_says_where_to_connect() -> None:
    assert resolved(None, ApiToken.mint(api_url="x", grpc_url="grpcs://h:7")).address == "h:7"
    assert resolved(None, TOKEN).address == "neptune.example:443"
    assert resolved(None, TOKEN).wire == "http"
    assert resolved(None, ApiToken.mint(api_url="neptune.example/api")).prefix == "/api"
    with pytest.raises(ValueError, match="no target"):
        resolved(None, "")


def test_a_target_wins_over_the_token() -> None:
    assert resolved("other:1", ApiToken.mint(api_url="x", grpc_url="grpcs://h:7")).address == "other:1"


def test_two_kinds_of_token_are_one_too_many(open_channel: OpenWire) -> None:
    with pytest.raises(ValueError, match="either api_token or access_token"):
        open_channel("h:1", api_token=TOKEN, access_token="x")


def test_tls_files_and_plaintext_do_not_fit() -> None:
    with pytest.raises(ValueError, match="ca_file, server_name mean something with TLS only"):
        resolved("grpc://127.0.0.1:1", TOKEN, ca_file="ca.pem", server_name="x")


def test_certificate_files_are_checked_at_once(tmp_path: Path, open_channel: OpenWire) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        open_channel("h:1", api_token=TOKEN, options=ChannelOptions(ca_file=tmp_path / "missing.pem"))
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ValueError, match=r"ca_file .* is not a PEM file"):
        open_channel("h:1", api_token=TOKEN, options=ChannelOptions(ca_file=empty))


BOTH = ApiToken.mint(api_url="https://neptune.example/api", grpc_url="grpcs://neptune.example:8443")


def test_the_transport_picks_between_the_addresses_of_a_token() -> None:
    def picked(transport: Any, target: str | None = None, token: ApiToken = BOTH) -> Any:
        return resolve(target, token, ChannelOptions(), access_token=False, transport=transport)

    assert (picked(None).wire, picked(None).fallback) == ("grpc", None)
    assert (picked("grpc").wire, picked("grpc").fallback) == ("grpc", None)
    assert (picked("http").wire, picked("http").prefix) == ("http", "/api")
    assert (picked("auto").wire, picked("auto").fallback.address) == ("grpc", "neptune.example:443")
    assert (picked("auto", token=TOKEN).wire, picked("auto", token=TOKEN).fallback) == ("http", None)
    assert picked("auto", "https://other.example").fallback is None
    with pytest.raises(
        ValueError, match=r"knows no gRPC address \(grpc_url\), only https://neptune\.example; pass a target"
    ):
        picked("grpc", token=TOKEN)
    with pytest.raises(ValueError, match="'grpcs://h:1' is an address of the grpc wire, not of http"):
        picked("http", "grpcs://h:1")
    with pytest.raises(ValueError, match="'https://h' is an address of the http wire, not of grpc"):
        picked("grpc", "https://h")
    with pytest.raises(ValueError, match="transport must be 'auto', 'grpc', 'http' or None, not 'quic'"):
        picked("quic")


def test_a_token_goes_to_no_fallback_unencrypted() -> None:
    token = ApiToken.mint(api_url="http://neptune.example", grpc_url="grpcs://neptune.example")
    with pytest.raises(ValueError, match=r"refusing to send a token unencrypted to neptune\.example:80: use https://"):
        resolve(None, token, ChannelOptions(), access_token=False, transport="auto")


def test_certificates_are_always_verified_over_grpc(open_channel: OpenWire) -> None:
    with pytest.raises(ValueError, match=r"verify=False does not work over gRPC, .* use the HTTP wire"):
        open_channel("grpcs://h:1", api_token=TOKEN, options=ChannelOptions(verify=False))
    with pytest.raises(ValueError, match="verify mean something with TLS only"):
        open_channel("http://127.0.0.1:1", api_token=TOKEN, options=ChannelOptions(verify=False))


@pytest.mark.parametrize("target", ["grpc://127.0.0.1:1", "grpc://localhost:1", "http://[::1]:1"])
def test_a_loopback_target_ignores_proxies(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    connection = resolved(target, TOKEN)
    assert connection.proxy() is None
    assert dict(connection.arguments(ChannelOptions()))["grpc.enable_http_proxy"] == 0


def test_an_aio_channel_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="must be called in a coroutine"):
        neptune_api.aio.channel("h:1", api_token=TOKEN)


def test_no_repr_shows_the_token() -> None:
    connection = resolved("h:1", TOKEN)
    assert TOKEN.api_key not in repr(connection)
    with neptune_api.channel("h:1", api_token=TOKEN) as channel:
        assert TOKEN.api_key not in repr(channel)
        assert TOKEN.encode() not in repr(vars(channel))
