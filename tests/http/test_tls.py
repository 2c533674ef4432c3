"""The HTTP door with TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from neptune_api.server.server import Server, ServerError, TlsFiles
from tests.http.caller import PATIENCE, Caller
from tests.unit.certificates import self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make certificates"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A certificate for 127.0.0.1."""
    return self_signed(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="module")
def secure(files: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with TLS."""
    with Server(tmp_path_factory.mktemp("data"), tls=files) as server:
        yield server


def test_calls(secure: Server, files: TlsFiles) -> None:
    url = secure.addresses.http_url
    assert url.startswith("https://")
    caller = Caller(url, trusted=ssl.create_default_context(cafile=files.certificate))
    assert caller.get("/healthz").status == 200
    config = caller.get("/api/backend/v1/clients/config").json()
    assert config["apiUrl"] == url
    assert config["security"]["openIdDiscovery"].startswith("https://")


def test_clients_find_out_about_the_wrong_certificate(secure: Server) -> None:
    caller = Caller(secure.addresses.http_url, trusted=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        caller.get("/healthz")


def test_plaintext_gets_no_answer(secure: Server) -> None:
    caller = Caller(secure.addresses.http_url)
    assert caller.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b""


def test_old_versions_of_tls_are_refused(secure: Server) -> None:
    caller = Caller(secure.addresses.http_url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(caller.address, timeout=PATIENCE) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


def test_keys_of_another_certificate(files: TlsFiles, tmp_path: Path) -> None:
    other = self_signed(tmp_path, "other")
    with pytest.raises(ServerError, match="certificate and its key cannot be used"):
        Server(tmp_path / "data", tls=TlsFiles(certificate=files.certificate, key=other.key))
