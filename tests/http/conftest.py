"""One server for all tests of the HTTP door, and people who call it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from neptune_api.server import LocalServer
from tests.http.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    """One server for the session; tests keep apart by projects of their own."""
    with LocalServer() as running:
        yield running


@pytest.fixture(scope="session")
def owner(server: LocalServer) -> Caller:
    """The owner of the workspace."""
    return Caller.log_in(server)


@pytest.fixture(scope="session")
def stranger(server: LocalServer) -> Caller:
    """Somebody without a token."""
    return Caller(server.http_url)


@pytest.fixture
def project(owner: Caller) -> str:
    """The identifier of a private project of the owner that no other test uses."""
    name = f"p-{uuid.uuid4().hex}"
    reply = owner.post("/api/backend/v1/projects", {"name": name, "organizationIdentifier": "local"})
    assert reply.status == 200, reply
    return f"local/{name}"
