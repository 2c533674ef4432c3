"""The server that tests direct, over every wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from neptune_api.conformance.connections import BackgroundLoop, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server.testing import ScriptedServer


@pytest.fixture(scope="session")
def _loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture(params=["grpc", "grpc-aio", "http", "http-aio-json"])
def wire(request: pytest.FixtureRequest, neptune_server: ScriptedServer, _loop: BackgroundLoop) -> Iterator[Wire]:
    """Every wire in turn, to the server of the plugin."""
    opened = Wire(request.param, neptune_server, _loop)
    yield opened
    opened.close()
