"""TLS: the right authority is trusted, the wrong one is not, and a client can prove itself, on both wires."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from neptune_api.exceptions import UnavailableException
from neptune_api.options import ChannelOptions
from tests.unit.certificates import NAME, grpc_credentials, tls_context
from tests.unit.http_wire import FakeHttpServer
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.conftest import OpenWire

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make certificates"
)


@pytest.fixture
def files(certificates: Path) -> Path:
    return certificates


@pytest.fixture(params=[False, True], ids=["tls", "mtls"])
def tls_server(request: pytest.FixtureRequest, files: Path, door: str) -> Iterator[FakeServer]:
    make = {"grpc": (FakeServer, grpc_credentials), "http": (FakeHttpServer, tls_context)}
    server_class, credentials = make[door]
    server = server_class(credentials(files, ask_client=request.param))
    yield server
    server.stop()


def options(files: Path, authority: str = "ca", name: str = NAME) -> ChannelOptions:
    return ChannelOptions(
        ca_file=files / f"{authority}.pem",
        client_cert=str(files / "client.pem"),
        client_key=files / "client.key",
        server_name=name,
        retry=None,
    )


def test_a_trusted_server_is_called(tls_server: FakeServer, open_channel: OpenWire, files: Path) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=options(files))
    assert wire.authorize().username == "ada"
    assert len(wire.read()) == 3


@pytest.mark.parametrize(("authority", "name"), [("stranger", "neptune.example"), ("ca", "other.example")])
def test_another_authority_or_name_is_refused_before_the_token_is_sent(
    tls_server: FakeServer, open_channel: OpenWire, files: Path, door: str, authority: str, name: str
) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=options(files, authority, name))
    with pytest.raises(UnavailableException) as caught:
        wire.authorize()
    assert tls_server.calls == []
    if door == "http":
        assert "is not trusted: " in str(caught.value)
        assert "ChannelOptions(ca_file=...)" in str(caught.value)


def test_the_bundled_authorities_do_not_know_ours(tls_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=ChannelOptions(retry=None))
    with pytest.raises(UnavailableException):
        wire.info()


@pytest.mark.parametrize("door", ["grpc"], indirect=True)
def test_tls_is_the_default(tls_server: FakeServer, open_channel: OpenWire, files: Path) -> None:
    wire = open_channel(f"127.0.0.1:{tls_server.port}", api_token=tls_server.api_token, options=options(files))
    assert wire.info().version == "1"


HTTP_ONLY = pytest.mark.parametrize("door", ["http"], indirect=True)


@HTTP_ONLY
@pytest.mark.parametrize("tls_server", [False], indirect=True, ids=["tls"])
def test_verification_can_be_switched_off(tls_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=ChannelOptions(verify=False))
    assert wire.authorize().username == "ada"
    tls_server.lifetime = 0  # the next call refreshes
    tls_server.valid.clear()
    assert wire.authorize().username == "ada"
    assert tls_server.count("ExchangeApiToken") == 2


@HTTP_ONLY
@pytest.mark.parametrize("tls_server", [True], indirect=True, ids=["mtls"])
def test_a_client_that_does_not_prove_itself_gets_nothing(
    tls_server: FakeServer, open_channel: OpenWire, files: Path
) -> None:
    without = replace(options(files), client_cert=None, client_key=None)
    with pytest.raises(UnavailableException):
        open_channel(api_token=tls_server.api_token, options=without).authorize()
    assert tls_server.calls == []


@HTTP_ONLY
@pytest.mark.parametrize("tls_server", [False], indirect=True, ids=["tls"])
def test_a_file_in_the_environment_names_authorities(
    tls_server: FakeServer, open_channel: OpenWire, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(files / "ca.pem"))
    wire = open_channel(api_token=tls_server.api_token, options=ChannelOptions(server_name=NAME))
    assert wire.authorize().username == "ada"


def test_plaintext_at_a_tls_port_is_told(open_channel: OpenWire, files: Path) -> None:
    server = FakeHttpServer(tls_context(files))
    wire = open_channel(f"http://{server.address}", api_token="", options=ChannelOptions(retry=None))
    with pytest.raises(UnavailableException):
        wire.info()
    server.stop()
    server = FakeHttpServer()
    wire = open_channel(f"https://{server.address}", api_token="", options=ChannelOptions(retry=None))
    with pytest.raises(UnavailableException, match="the TLS handshake failed"):
        wire.info()
    server.stop()


def test_a_key_of_another_certificate_is_refused_at_once(open_channel: OpenWire, files: Path) -> None:
    wrong = ChannelOptions(client_cert=files / "client.pem", client_key=files / "server.key")
    with pytest.raises(ValueError, match=r"client_cert .* and client_key .* do not fit together"):
        open_channel("https://neptune.example", api_token="", options=wrong)
    garbage = files / "garbage.pem"
    garbage.write_text("no certificate")
    with pytest.raises(ValueError, match=r"ca_file .* is not a PEM file"):
        open_channel("https://neptune.example", api_token="", options=ChannelOptions(ca_file=garbage))
    with pytest.raises(FileNotFoundError):
        open_channel("https://neptune.example", api_token="", options=ChannelOptions(ca_file=files / "missing.pem"))
