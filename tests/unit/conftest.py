"""Fixtures of the tests of the client side: a scripted server behind either door, and channels to it of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

import neptune_api
from tests.unit.certificates import make_certificates
from tests.unit.http_wire import FakeHttpServer
from tests.unit.raw_server import RawServer
from tests.unit.wire import ARITIES, FAST, REQUEST_STREAMS, FakeServer, open_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import grpc

    from tests.unit.raw_server import Script
    from tests.unit.wire import AioWire, SyncWire

    Serve = Callable[..., RawServer]

    class OpenWire(Protocol):
        """Opens a channel that the fixture closes."""

        def __call__(self, target: str | None = None, **arguments: Any) -> SyncWire | AioWire:
            """Open it, with the arguments of neptune_api.channel()."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what HTTP cannot carry; test_http_messages.py holds what becomes of it."""
    impossible = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and (spec := getattr(item, "callspec", None)) is not None
        and spec.params.get("door") == "http"
        and spec.params.get("call") in REQUEST_STREAMS
    ]
    if impossible:
        config.hook.pytest_deselected(items=impossible)
        items[:] = [item for item in items if item not in impossible]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and keys."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture(params=["grpc", "http"])
def door(request: pytest.FixtureRequest) -> str:
    """Which wire."""
    return str(request.param)


@pytest.fixture(params=["sync", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which kind of channel."""
    return str(request.param)


@pytest.fixture
def fake_server(door: str) -> Iterator[FakeServer]:
    """A scripted server."""
    server = FakeServer() if door == "grpc" else FakeHttpServer()
    yield server
    server.stop()


@pytest.fixture
def open_channel(kind: str) -> Iterator[OpenWire]:
    """Opens channels of both kinds and closes them at the end."""
    wires = []

    def opened(target: str | None = None, **arguments: Any) -> SyncWire | AioWire:
        wire = open_wire(kind, target, **arguments)
        wires.append(wire)
        return wire

    yield opened
    for wire in wires:
        wire.close()


@pytest.fixture
def wire(fake_server: FakeServer, open_channel: OpenWire) -> SyncWire | AioWire:
    """A channel to the scripted server, with its API token."""
    return open_channel(api_token=fake_server.api_token)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts scripted servers and stops them at the end."""
    servers = []

    def start(*scripts: Script) -> RawServer:
        servers.append(RawServer(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def arities(door: str) -> dict[str, str]:
    """A call of each kind that the wire can carry, by its method."""
    return {method: call for method, call in ARITIES.items() if door == "grpc" or call not in REQUEST_STREAMS}


@pytest.fixture
def sync_channel(fake_server: FakeServer) -> Iterator[grpc.Channel]:
    """A channel for threads to the scripted server, with its API token."""
    with neptune_api.channel(api_token=fake_server.api_token, options=FAST) as channel:
        yield channel


@pytest.fixture
def no_proxy_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the environment that names a proxy."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
