"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import grpc

from neptune_api.server.server import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

NAME = "neptune.example"
"""Whom the certificates of the server and the client name."""


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def self_signed(folder: Path, name: str) -> TlsFiles:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", key, "-out", certificate,
    )  # fmt: skip # pairs of option and value
    return TlsFiles(certificate=certificate, key=key)


def make_certificates(folder: Path) -> None:
    """Make two authorities, `ca` and `stranger`, and certificates of theirs.

    `server` and `client` are of `ca`, so is `expired`, which the server's key fits; `foreign` is a client's of
    `stranger`; `self` is a server's of its own.
    """
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
        )  # fmt: skip # pairs of option and value
    openssl(
        "req", "-x509", *key, "-days", "2", "-subj", "/CN=self", "-addext", f"subjectAltName=DNS:{NAME}",
        "-keyout", folder / "self.key", "-out", folder / "self.pem",
    )  # fmt: skip # as above
    for name, authority in (("server", "ca"), ("client", "ca"), ("foreign", "stranger")):
        openssl(
            "req", *key, "-subj", f"/CN={name}",
            "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr",
        )  # fmt: skip # as above
        (folder / f"{name}.ext").write_text(
            f"subjectAltName=DNS:{NAME}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        openssl(
            "x509", "-req", "-days", "2", "-in", folder / f"{name}.csr", "-extfile", folder / f"{name}.ext",
            "-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key", "-CAcreateserial",
            "-out", folder / f"{name}.pem",
        )  # fmt: skip # as above
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=ca_default\n[ca_default]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=policy\n[policy]\ncommonName=supplied\n"
    )
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    openssl(
        "ca", "-batch", "-notext", "-config", folder / "ca.cnf", "-in", folder / "server.csr",
        "-extfile", folder / "server.ext", "-cert", folder / "ca.pem", "-keyfile", folder / "ca.key",
        "-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-out", folder / "expired.pem",
    )  # fmt: skip # as above
    (folder / "expired.key").write_bytes((folder / "server.key").read_bytes())


def grpc_credentials(folder: Path, *, ask_client: bool = False, name: str = "server") -> grpc.ServerCredentials:
    """Return what gRPC makes of the server's files; `ask_client` for a certificate of the authority."""
    pair = ((folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), require_client_auth=ask_client)


def tls_context(folder: Path, *, ask_client: bool = False, name: str = "server") -> ssl.SSLContext:
    """Return what the ssl module makes of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED if ask_client else ssl.CERT_NONE
    return context
