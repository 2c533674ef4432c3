"""TLS: the right authority is trusted, the wrong one is not, and a client can prove itself."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import grpc
import pytest

from neptune_api.exceptions import UnavailableException
from neptune_api.options import ChannelOptions
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.conftest import OpenWire

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make certificates"
)


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a stranger, and certificates of the authority for a server and a client."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}",
            "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
        )  # fmt: skip # pairs of option and value
    for name in ("server", "client"):
        openssl(
            "req", *key, "-subj", f"/CN={name}",
            "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr",
        )  # fmt: skip # as above
        (folder / f"{name}.ext").write_text("subjectAltName=DNS:neptune.example\n")
        openssl(
            "x509", "-req", "-days", "2", "-in", folder / f"{name}.csr", "-extfile", folder / f"{name}.ext",
            "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial", "-out", folder / f"{name}.pem",
        )  # fmt: skip # as above
    return folder


@pytest.fixture(params=[False, True], ids=["tls", "mtls"])
def tls_server(request: pytest.FixtureRequest, files: Path) -> Iterator[FakeServer]:
    pair = ((files / "server.key").read_bytes(), (files / "server.pem").read_bytes())
    authority = (files / "ca.pem").read_bytes()
    server = FakeServer(grpc.ssl_server_credentials([pair], authority, require_client_auth=request.param))
    yield server
    server.stop()


def options(files: Path, authority: str = "ca", name: str = "neptune.example") -> ChannelOptions:
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
    assert wire.both()


@pytest.mark.parametrize(("authority", "name"), [("stranger", "neptune.example"), ("ca", "other.example")])
def test_another_authority_or_name_is_refused_before_the_token_is_sent(
    tls_server: FakeServer, open_channel: OpenWire, files: Path, authority: str, name: str
) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=options(files, authority, name))
    with pytest.raises(UnavailableException):
        wire.authorize()
    assert tls_server.calls == []


def test_the_bundled_authorities_do_not_know_ours(tls_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=tls_server.api_token, options=ChannelOptions(retry=None))
    with pytest.raises(UnavailableException):
        wire.info()


def test_tls_is_the_default(tls_server: FakeServer, open_channel: OpenWire, files: Path) -> None:
    wire = open_channel(f"127.0.0.1:{tls_server.port}", api_token=tls_server.api_token, options=options(files))
    assert wire.info().version == "1"
