"""Proxies from the environment: which one is found; tests/fire/test_proxies.py goes through them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from neptune_api.proxies import find_proxy

if TYPE_CHECKING:
    from tests.unit.conftest import OpenWire

LOGIN = "Basic " + base64.b64encode(b"ada:p@ss").decode()


@pytest.fixture(autouse=True)
def _no_proxy_around(no_proxy_around: None) -> None:
    """Begin without proxies."""


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
