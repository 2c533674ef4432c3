"""Channels under fire: each behaviour once, over both wires, for threads and for coroutines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from neptune_api.conformance.connections import BackgroundLoop
from tests.fire.wires import KINDS, Wire
from tests.unit.conftest import certificates, door, fake_server, kind, no_proxy_around, open_channel, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["certificates", "door", "fake_server", "kind", "no_proxy_around", "open_channel", "serve"]


@pytest.fixture(scope="session")
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture(params=KINDS)
def wire(request: pytest.FixtureRequest, loop: BackgroundLoop) -> Iterator[Wire]:
    """Every kind of channel in turn."""
    opened = Wire(request.param, loop)
    yield opened
    opened.close()
