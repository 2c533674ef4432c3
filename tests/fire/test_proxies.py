"""Corporate proxies: every request goes through, what is refused is told, and HTTP goes where gRPC does not pass."""

from __future__ import annotations

import base64
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from neptune_api.credentials import ApiToken
from neptune_api.exceptions import DeadlineExceededException, UnavailableException
from neptune_api.options import ChannelOptions
from tests.fire.holes import silent_server
from tests.unit.certificates import NAME, grpc_credentials, tls_context
from tests.unit.http_wire import FakeHttpServer
from tests.unit.proxy_server import ProxyServer
from tests.unit.raw_server import free_port
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.conftest import OpenWire, Serve
    from tests.unit.raw_server import Peer, Script

pytestmark = pytest.mark.usefixtures("no_proxy_around")

LOGIN = "Basic " + base64.b64encode(b"ada:p@ss").decode()


@pytest.fixture(params=[True, False], ids=["tls", "plaintext"])
def secure(request: pytest.FixtureRequest) -> bool:
    if request.param and shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    return bool(request.param)


@pytest.fixture
def server(door: str, secure: bool, request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    files: Path | None = request.getfixturevalue("certificates") if secure else None
    if door == "grpc":
        running = FakeServer(None if files is None else grpc_credentials(files))
    else:
        running = FakeHttpServer(None if files is None else tls_context(files))
    yield running
    running.stop()


@pytest.fixture
def options(secure: bool, request: pytest.FixtureRequest) -> ChannelOptions:
    files: Path | None = request.getfixturevalue("certificates") if secure else None
    return ChannelOptions(
        ca_file=None if files is None else files / "ca.pem", allow_insecure_token=not secure, retry=None
    )


def through(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """Let every request go through a proxy."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy}")


def target_of(server: FakeServer) -> str:
    """Return the server's address by a name that only a proxy can resolve."""
    return server.target.replace("127.0.0.1", NAME)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyServer]:
    running = ProxyServer(authorization=LOGIN)
    through(monkeypatch, f"ada:p%40ss@{running.address}")
    yield running
    running.stop()


def test_every_request_goes_through_the_proxy(
    server: FakeServer, proxy: ProxyServer, open_channel: OpenWire, options: ChannelOptions, door: str, secure: bool
) -> None:
    wire = open_channel(target_of(server), api_token=server.api_token, options=options)
    server.lifetime = 0
    assert wire.authorize().username == "ada"
    assert wire.authorize().username == "ada"
    assert len(wire.read()) == 3
    assert server.count("ExchangeApiToken") == 1
    assert server.count("RefreshToken") == 2
    lines = [head.split("\r\n")[0] for head in proxy.heads]
    if door == "http" and not secure:
        assert lines[0] == f"GET {target_of(server)}/api/backend/v1/authorization/oauth-token HTTP/1.1"
    else:
        assert {line.rpartition(":")[0] for line in lines} == {f"CONNECT {NAME}"}
    # What is for the server does not pass through the proxy's hands, and the proxy's login stops there.
    if secure:
        assert not any("authorization: bearer" in head.lower() for head in proxy.heads)
    assert all("proxy-authorization" not in seen.metadata for seen in server.calls)


def test_a_proxy_that_wants_no_login_gets_none(
    server: FakeServer, open_channel: OpenWire, options: ChannelOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = ProxyServer()
    through(monkeypatch, proxy.address)
    assert open_channel(target_of(server), api_token=server.api_token, options=options).authorize().username == "ada"
    assert not any("proxy-authorization" in head.lower() for head in proxy.heads)
    proxy.stop()


def test_a_proxy_that_wants_a_login_says_so(
    server: FakeServer,
    proxy: ProxyServer,
    open_channel: OpenWire,
    options: ChannelOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    through(monkeypatch, proxy.address)
    wire = open_channel(target_of(server), api_token=server.api_token, options=options)
    with pytest.raises(UnavailableException, match="it answered 407; it wants a user name"):
        wire.info()
    through(monkeypatch, f"ada:wrong@{proxy.address}")
    wire = open_channel(target_of(server), api_token=server.api_token, options=options)
    with pytest.raises(UnavailableException, match="it answered 407") as caught:
        wire.info()
    assert "wrong" not in str(caught.value)
    assert server.calls == []


def refusing(status: str) -> Script:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.answer(b"<p>No.</p>", status=status, kind="text/html")

    return refuse


def no_proxy(peer: Peer) -> None:
    peer.request()
    peer.send(b"220 mail.example ready\r\n")
    peer.wait_until_gone()


def closing(peer: Peer) -> None:
    peer.request()


REFUSED = r"The proxy 127\.0\.0\.1:\d+ does not connect to .*: it answered "


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (refusing("403 Forbidden"), REFUSED + "403; it does not permit that: ask its keeper, or exempt"),
        (refusing("502 Bad Gateway"), rf"{REFUSED}502|answered HTTP status 502"),
        (no_proxy, r"127\.0\.0\.1:\d+ does not (answer as a proxy does: look at HTTPS_PROXY|speak HTTP/1.1)"),
        (closing, r"127\.0\.0\.1:\d+ ended the connection|it closed the connection|The connection was lost"),
    ],
    ids=["403", "502", "no-proxy", "closing"],
)
def test_a_proxy_that_does_not_do_its_work_is_named(
    serve: Serve,
    open_channel: OpenWire,
    options: ChannelOptions,
    door: str,
    secure: bool,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    sentence: str,
) -> None:
    through(monkeypatch, f"127.0.0.1:{serve(script).port}")
    begin = time.monotonic()
    with pytest.raises(UnavailableException, match=sentence):
        open_channel(f"{door}{'s' * secure}://{NAME}:1234", api_token="", options=options).info()
    assert time.monotonic() - begin < 20  # the deadline is 60 s


def test_nobody_at_the_address_of_the_proxy_is_told(
    open_channel: OpenWire, options: ChannelOptions, door: str, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    through(monkeypatch, f"127.0.0.1:{port}")
    with pytest.raises(UnavailableException, match=rf"Cannot connect to .*127\.0\.0\.1:{port}: Connection refused\."):
        open_channel(f"{door}{'s' * secure}://{NAME}:1234", api_token="", options=options).info()


def test_a_proxy_that_hangs_costs_no_more_than_the_deadline(
    open_channel: OpenWire, options: ChannelOptions, door: str, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_server() as port:
        through(monkeypatch, f"127.0.0.1:{port}")
        wire = open_channel(f"{door}{'s' * secure}://{NAME}:1234", api_token="", options=options)
        begin = time.monotonic()
        with pytest.raises(DeadlineExceededException):
            wire.info(timeout=0.3)
        assert time.monotonic() - begin < 5


def test_an_exempt_server_is_called_directly(
    server: FakeServer,
    proxy: ProxyServer,
    open_channel: OpenWire,
    options: ChannelOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", f"other.example,{NAME}")
    wire = open_channel(target_of(server), api_token=server.api_token, options=options)
    with pytest.raises(UnavailableException):  # only a proxy knows the name
        wire.info()
    assert proxy.heads == []


def test_this_machine_needs_no_proxy(fake_server: FakeServer, proxy: ProxyServer, open_channel: OpenWire) -> None:
    assert open_channel(api_token=fake_server.api_token).authorize().username == "ada"
    assert proxy.heads == []


def test_an_api_token_knows_no_way_around_the_proxy(
    server: FakeServer, proxy: ProxyServer, open_channel: OpenWire, options: ChannelOptions, door: str
) -> None:
    url = target_of(server)
    token = ApiToken.mint(api_url=url, grpc_url=url if door == "grpc" else None, api_key=server.api_token.api_key)
    wire = open_channel(api_token=token, options=options)
    assert wire.info().version == "1"
    assert len(proxy.heads) == 1


# Something in between that knows HTTP/1.1 only.


@pytest.fixture
def old_server(secure: bool, request: pytest.FixtureRequest) -> Iterator[FakeHttpServer]:
    files: Path | None = request.getfixturevalue("certificates") if secure else None
    running = FakeHttpServer(None if files is None else tls_context(files))
    yield running
    running.stop()


def test_grpc_says_that_it_needs_http2(
    old_server: FakeHttpServer, open_channel: OpenWire, options: ChannelOptions, secure: bool
) -> None:
    named = replace(options, server_name=NAME) if secure else options
    target = f"grpc{'s' * secure}://{old_server.address}"
    with pytest.raises(UnavailableException, match=r"does not speak HTTP/2, which gRPC needs: .*transport='http'"):
        open_channel(target, api_token="", options=named).info()


def test_auto_goes_over_http_where_nothing_else_passes(
    old_server: FakeHttpServer, open_channel: OpenWire, options: ChannelOptions, secure: bool
) -> None:
    named = replace(options, server_name=NAME) if secure else options
    token = ApiToken.mint(
        api_url=old_server.target,
        grpc_url=f"grpc{'s' * secure}://{old_server.address}",
        api_key=old_server.api_token.api_key,
    )
    old_server.api_token = token
    wire = open_channel(api_token=token, transport="auto", options=named)
    assert wire.authorize().username == "ada"
    assert len(wire.read()) == 3
