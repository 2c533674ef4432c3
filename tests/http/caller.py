"""Calls the HTTP door as a stranger would: http.client for what is well-formed, a bare socket for what is not."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from neptune_api.server import LocalServer

PATIENCE = 30.0
"""Seconds after which a test gives up on the server."""


@dataclass(frozen=True)
class Reply:
    """What the door answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, which is JSON."""
        return json.loads(self.body)


class Caller:
    """Somebody who calls a server over HTTP, with or without an access token."""

    def __init__(self, url: str, access_token: str | None = None, *, trusted: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address = (parts.hostname, parts.port)
        self.access_token = access_token
        self._trusted = trusted

    @classmethod
    def log_in(cls, server: LocalServer, api_token: str | None = None) -> Caller:
        """Return the owner of a server, or the user of another API token."""
        stranger = cls(server.http_url)
        token = server.api_token if api_token is None else api_token
        reply = stranger.get("/api/backend/v1/authorization/oauth-token", headers={"X-Neptune-Api-Token": token})
        assert reply.status == 200, reply
        return cls(server.http_url, reply.json()["accessToken"])

    def call(self, verb: str, target: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Reply:
        """Make a call; a body that is no bytes is sent as JSON."""
        sent = dict(headers or {})
        if self.access_token is not None:
            sent.setdefault("Authorization", f"Bearer {self.access_token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        with contextlib.closing(self.connect()) as connection:
            connection.request(verb, target, body, sent)
            return read(connection)

    def get(self, target: str, **arguments: Any) -> Reply:
        """Make a call with GET."""
        return self.call("GET", target, **arguments)

    def post(self, target: str, body: Any = None, **arguments: Any) -> Reply:
        """Make a call with POST."""
        return self.call("POST", target, body, **arguments)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, which the caller closes."""
        if self._trusted is not None:
            return http.client.HTTPSConnection(*self.address, timeout=PATIENCE, context=self._trusted)
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE)

    @contextlib.contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """Give a bare socket."""
        with socket.create_connection(self.address, timeout=PATIENCE) as opened:
            yield opened

    def send(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own and return all that comes until the door closes it."""
        with self.raw() as opened:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                opened.sendall(data)
            return drain(opened)


def read(connection: http.client.HTTPConnection) -> Reply:
    """Return the next reply on a connection."""
    response = connection.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def drain(opened: socket.socket) -> bytes:
    """Return everything that a connection brings until its end."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := opened.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)
