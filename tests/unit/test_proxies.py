"""Proxies from the environment: which one is found, and that every request goes through it, on both wires."""

from __future__ import annotations

import base64
import shutil
from typing import TYPE_CHECKING

import pytest

from neptune_api.credentials import ApiToken
from neptune_api.exceptions import UnavailableException
from neptune_api.options import ChannelOptions
from neptune_api.proxies import find_proxy
from tests.unit.certificates import NAME, grpc_credentials, tls_context
from tests.unit.http_wire import FakeHttpServer
from tests.unit.proxy_server import ProxyServer
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.conftest import OpenWire

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_grpc_proxy", "no_proxy")
LOGIN = "Basic " + base64.b64encode(b"ada:p@ss").decode()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(name.upper() for name in VARIABLES), "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


def found(scheme: str = "https", host: str = "neptune.example", port: int = 443) -> str | None:
    proxy = find_proxy(scheme, host, port)
    return None if proxy is None else f"{proxy.host}:{proxy.port}"


@pytest.mark.parametrize(
    ("scheme", "variables", "proxy"),
    [
        ("https", {}, None),
        ("https", {"HTTPS_PROXY": "http://a:1"}, "a:1"),
        ("https", {"https_proxy": "http://b:2/", "HTTPS_PROXY": "http://a:1"}, "b:2"),
        ("https", {"HTTP_PROXY": "http://a:1"}, None),
        ("https", {"ALL_PROXY": "a:1"}, "a:1"),
        ("https", {"ALL_PROXY": "http://a"}, "a:80"),
        ("http", {"http_proxy": "http://[::1]:3128"}, "::1:3128"),
        ("http", {"HTTPS_PROXY": "http://a:1"}, None),
        ("http", {"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, None),
        ("grpcs", {"HTTPS_PROXY": "http://a:1", "GRPC_PROXY": "http://g:9"}, "g:9"),
        ("grpcs", {"http_proxy": "http://a:1"}, "a:1"),
        ("https", {"GRPC_PROXY": "http://g:9"}, None),
    ],
)
def test_which_proxy(
    monkeypatch: pytest.MonkeyPatch, scheme: str, variables: dict[str, str], proxy: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert found(scheme) == proxy


@pytest.mark.parametrize(
    ("exempt", "host", "bypassed"),
    [
        ("*", "neptune.example", True),
        ("neptune.example", "neptune.example", True),
        ("NEPTUNE.example.", "neptune.example", False),
        ("Neptune.Example", "neptune.example.", True),
        ("example", "neptune.example", True),
        (".example", "neptune.example", True),
        ("*.example", "neptune.example", True),
        ("ample", "neptune.example", False),
        ("other, neptune.example:443", "neptune.example", True),
        ("neptune.example:80", "neptune.example", False),
        ("", "neptune.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("0.0.0.0", "10.1.2.3", False),
        ("2001:db8::/32", "2001:db8::7", True),
        ("[2001:db8::7]:443", "2001:db8::7", True),
    ],
)
def test_which_hosts_are_exempt(monkeypatch: pytest.MonkeyPatch, exempt: str, host: str, bypassed: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://a:1")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert (found(host=host) is None) == bypassed


def test_grpc_has_exemptions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://a:1")
    monkeypatch.setenv("NO_GRPC_PROXY", "neptune.example")
    assert (found("grpcs"), found("https")) == (None, "a:1")


@pytest.mark.parametrize(
    "value", ["socks5://u:hunter2@a:1", "https://u:hunter2@a:1", "http://", "http://u:hunter2@a:x"]
)
def test_a_proxy_of_another_kind_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, open_channel: OpenWire, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    for target in ("https://neptune.example", "grpcs://neptune.example"):
        with pytest.raises(
            ValueError, match=r"the proxy in the environment variable \w+_proxy .*http://host:port"
        ) as e:
            open_channel(target, api_token="")
        assert "hunter2" not in str(e.value)


def test_a_login_for_the_proxy_is_kept_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:p%40ss@proxy.example:3128")
    proxy = find_proxy("https", "neptune.example", 443)
    assert proxy is not None
    assert proxy.authorization == LOGIN
    assert proxy.url == "http://ada:p%40ss@proxy.example:3128"
    assert "p%40ss" not in repr(proxy)
    assert LOGIN[6:] not in repr(proxy)


# Through a real one.


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


def target_of(server: FakeServer) -> str:
    """Return the server's address by a name that only a proxy can resolve."""
    return server.target.replace("127.0.0.1", NAME)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyServer]:
    running = ProxyServer(authorization=LOGIN)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://ada:p%40ss@{running.address}")
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


def test_a_proxy_that_wants_a_login_says_so(
    server: FakeServer,
    proxy: ProxyServer,
    open_channel: OpenWire,
    options: ChannelOptions,
    door: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy.address}")
    wire = open_channel(target_of(server), api_token=server.api_token, options=options)
    with pytest.raises(UnavailableException, match="it answered 407; it wants a user name" if door == "http" else None):
        wire.info()
    assert server.calls == []


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
