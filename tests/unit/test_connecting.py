"""What gRPC says of a connection that was not made, in sentences that say what to do."""

from __future__ import annotations

import pytest

from neptune_api._connecting import explain

VERIFY = "SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"
FAILED = "failed to connect to all addresses; last error: UNKNOWN: {}: {}"
PEER = "ipv4:10.0.0.7:443"


@pytest.mark.parametrize(
    ("why", "sentence"),
    [
        (
            f"Tls handshake failed (TSI_PROTOCOL_FAILURE): {VERIFY}: self-signed certificate: OK",
            "The certificate of 10.0.0.7:443 is not trusted: self-signed certificate. ChannelOptions(ca_file=...)",
        ),
        (
            f"Ssl handshake failed (TSI_PROTOCOL_FAILURE): {VERIFY}: certificate has expired",
            "The certificate of 10.0.0.7:443 has expired: renew it",
        ),
        ("Peer name neptune.example is not in peer certificate", "ChannelOptions(server_name=...)"),
        ("SSL_ERROR_SSL: error:10000412:SSL routines:OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE", "client_cert=..."),
        ("recvmsg:Connection reset by peer", "10.0.0.7:443 ended the connection at once"),
        ("Trying to connect an http1.x server", "does not speak HTTP/2, which gRPC needs"),
        ("HTTP proxy returned response code 407", "it wants a user name and a password"),
        ("Failed to connect to remote host: No route to host", "Cannot connect to 10.0.0.7:443: No route to host."),
    ],
)
def test_what_to_do_is_said(why: str, sentence: str) -> None:
    assert sentence in (explain(FAILED.format(PEER, why)) or "")


def test_ipv6_addresses_are_readable() -> None:
    assert explain(FAILED.format("ipv6:%5B::1%5D:443", "Socket closed")) is not None
    assert (explain(FAILED.format("ipv6:%5B::1%5D:443", "Socket closed")) or "").startswith("[::1]:443 ended")


@pytest.mark.parametrize("text", ["", "The project does not exist.", FAILED.format(PEER, "something new")])
def test_what_is_not_understood_stays_as_it_is(text: str) -> None:
    assert explain(text) is None
