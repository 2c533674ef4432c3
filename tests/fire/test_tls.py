"""TLS: the right authority is trusted, the wrong one is not, and a client can prove itself, on both wires."""

from __future__ import annotations

import shutil
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.exceptions import UnavailableException
from neptune_api.options import ChannelOptions, RetryPolicy
from tests.unit.certificates import NAME, grpc_credentials, tls_context
from tests.unit.http_wire import FakeHttpServer
from tests.unit.wire import FAST, FakeServer

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


def start(door: str, files: Path, *, ask_client: bool = False, name: str = "server") -> FakeServer:
    """Start a server with a certificate."""
    if door == "grpc":
        return FakeServer(grpc_credentials(files, ask_client=ask_client, name=name))
    return FakeHttpServer(tls_context(files, ask_client=ask_client, name=name))


@pytest.fixture(params=[False, True], ids=["tls", "mtls"])
def tls_server(request: pytest.FixtureRequest, files: Path, door: str) -> Iterator[FakeServer]:
    server = start(door, files, ask_client=request.param)
    yield server
    server.stop()


def options(files: Path) -> ChannelOptions:
    return ChannelOptions(
        ca_file=files / "ca.pem",
        client_cert=str(files / "client.pem"),
        client_key=files / "client.key",
        server_name=NAME,
        retry=None,
    )


def test_a_trusted_server_is_called(tls_server: FakeServer, open_channel: OpenWire, files: Path) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=options(files))
    assert wire.authorize().username == "ada"
    assert len(wire.read()) == 3


UNTRUSTED = r"The certificate of 127\.0\.0\.1:\d+ is not trusted: .*\. ChannelOptions\(ca_file=\.\.\.\) names whom"
WRONG_NAME = (
    r"The certificate of 127\.0\.0\.1:\d+ is not for the name in the target.*ChannelOptions\(server_name=\.\.\.\)"
)


@pytest.mark.parametrize(
    ("certificate", "changes", "sentence"),
    [
        ("server", {"ca_file": "stranger.pem"}, UNTRUSTED),
        ("server", {"ca_file": None}, UNTRUSTED),
        ("self", {}, UNTRUSTED),
        ("server", {"server_name": "other.example"}, WRONG_NAME),
        ("server", {"server_name": None}, WRONG_NAME),
        ("expired", {}, r"The certificate of 127\.0\.0\.1:\d+ has expired: renew it, or set the clock"),
    ],
    ids=["stranger", "bundled", "self-signed", "other-name", "no-name", "expired"],
)
def test_what_is_wrong_with_a_certificate_is_told_before_a_token_is_sent(
    door: str, open_channel: OpenWire, files: Path, certificate: str, changes: dict[str, str | None], sentence: str
) -> None:
    server = start(door, files, name=certificate)
    changed: dict[str, Any] = {
        name: files / value if value and value.endswith(".pem") else value for name, value in changes.items()
    }
    wire = open_channel(api_token=server.api_token, options=replace(options(files), **changed, retry=FAST.retry))
    with pytest.raises(UnavailableException, match=sentence):
        wire.authorize()
    assert server.calls == []
    server.stop()


def test_a_self_signed_certificate_can_be_trusted_itself(door: str, open_channel: OpenWire, files: Path) -> None:
    server = start(door, files, name="self")
    itself = replace(options(files), ca_file=files / "self.pem")
    assert open_channel(api_token=server.api_token, options=itself).authorize().username == "ada"
    server.stop()


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


@pytest.mark.parametrize("client", [None, "foreign"])
@pytest.mark.parametrize("tls_server", [True], indirect=True, ids=["mtls"])
def test_a_client_that_does_not_prove_itself_gets_nothing_but_advice(
    tls_server: FakeServer, open_channel: OpenWire, files: Path, client: str | None
) -> None:
    pair = (None, None) if client is None else (files / f"{client}.pem", files / f"{client}.key")
    without = replace(options(files), client_cert=pair[0], client_key=pair[1], retry=RetryPolicy())
    begin = time.monotonic()
    with pytest.raises(UnavailableException, match=r"a certificate of this client, of an authority that .* trust"):
        open_channel(api_token=tls_server.api_token, options=without).authorize()
    assert time.monotonic() - begin < 20  # the deadline is 60 s
    assert tls_server.calls == []


@HTTP_ONLY
@pytest.mark.parametrize("tls_server", [False], indirect=True, ids=["tls"])
def test_a_file_in_the_environment_names_authorities(
    tls_server: FakeServer, open_channel: OpenWire, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(files / "ca.pem"))
    wire = open_channel(api_token=tls_server.api_token, options=ChannelOptions(server_name=NAME))
    assert wire.authorize().username == "ada"


def test_plaintext_at_a_tls_port_is_told(door: str, open_channel: OpenWire, files: Path) -> None:
    server = start(door, files)
    target = server.target.replace("s://", "://")
    sentence = r"Servers do that which want TLS \(grpcs://\)" if door == "grpc" else "The connection was lost"
    with pytest.raises(UnavailableException, match=sentence):
        open_channel(target, api_token="", options=ChannelOptions(retry=None)).info()
    server.stop()


def test_tls_at_a_plaintext_port_is_told(fake_server: FakeServer, door: str, open_channel: OpenWire) -> None:
    target = fake_server.target.replace("://", "s://")
    with pytest.raises(UnavailableException, match=rf"does not speak TLS. If that is as it should be, write {door}://"):
        open_channel(target, api_token="", options=ChannelOptions(retry=None)).info()


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
