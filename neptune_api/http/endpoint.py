"""Where the requests of a channel go, and through what."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neptune_api.options import ChannelOptions, read_pem

if TYPE_CHECKING:
    from neptune_api.proxies import Proxy

PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The base address of an HTTP API."""

    host: str
    """Name or address, without brackets."""
    port: int
    prefix: str = ""
    """What stands before every path, without a slash at its end."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """None for plaintext."""
    server_name: str | None = None
    """Name to expect in the certificate, when it is not `host`."""
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Host and port as the Host header names them."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS["http" if self.tls is None else "https"] else f"{name}:{self.port}"

    @property
    def base(self) -> str:
        """What stands before every path in a request line: a proxy that forwards is told the whole address."""
        if self.proxy is not None and self.tls is None:
            return f"http://{self.authority}{self.prefix}"
        return self.prefix

    @property
    def forwarded(self) -> bool:
        """A proxy takes the requests themselves, instead of a tunnel."""
        return self.proxy is not None and self.tls is None

    @property
    def peer(self) -> tuple[str, int]:
        """Host and port to connect to: the proxy's, if there is one."""
        return (self.host, self.port) if self.proxy is None else (self.proxy.host, self.proxy.port)

    @property
    def name_to_verify(self) -> str:
        """The name that the certificate must have."""
        return self.server_name or self.host


def tls_context(options: ChannelOptions) -> ssl.SSLContext:
    """Return the TLS settings of the options.

    Without `ca_file` the certificate authorities are the system's, or those that SSL_CERT_FILE and SSL_CERT_DIR name.
    Raises OSError for a file that cannot be read, ValueError for one that is no PEM file and for a key that does not
    fit.
    """
    for name in ("ca_file", "client_cert", "client_key"):
        path = getattr(options, name)
        if path is not None:
            read_pem(path, name)
    context = ssl.create_default_context(cafile=None if options.ca_file is None else os.fspath(options.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if options.client_cert is not None and options.client_key is not None:
        try:
            # With a password of its own, or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(os.fspath(options.client_cert), os.fspath(options.client_key), password="")
        except ssl.SSLError:
            raise ValueError(
                f"client_cert {os.fspath(options.client_cert)!r} and client_key {os.fspath(options.client_key)!r} do "
                "not fit together, or the key has a password, which is not supported"
            ) from None
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
