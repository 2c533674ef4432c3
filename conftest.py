"""What every test shares: a session leaves no threads behind, and behaviours run on servers of this project."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("neptune_api.conformance")

from neptune_api.conformance.fixtures import MATRIX  # noqa: E402 # its asserts are rewritten
from tests import own_servers  # noqa: E402
from tests.object_stores import s3_endpoint, s3_url  # noqa: E402
from tests.postgres import postgres  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["pytester"]

__all__ = ["hosts", "no_threads_left", "postgres", "s3_endpoint", "s3_url"]


# How long an example takes says more about the machine than about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def no_threads_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the session when threads that began in it outlive it."""
    before = set(threading.enumerate())
    yield
    for item in request.session.items:
        if isinstance(item, pytest.Function):
            item.funcargs = {}  # pytest remembers what the last test was given, such as channels
    gc.collect()  # gRPC ends its helper threads when the last channel is gone
    end = time.monotonic() + 5
    # Threads of gRPC that have called Python are known as dummies, which cannot be joined and end with the channel.
    found = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
    left = [thread for thread in found if thread not in before]
    for thread in left:
        thread.join(max(0.0, end - time.monotonic()))
    assert not [thread.name for thread in left if thread.is_alive()]


def pytest_configure(config: pytest.Config) -> None:
    """Say which wires and stores behaviours run over."""
    config.stash[MATRIX] = own_servers.MATRIX


@pytest.fixture(scope="session")
def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[own_servers.OwnServers]:
    """The servers that behaviours run on."""
    servers = own_servers.OwnServers(lambda: request.getfixturevalue("postgres"), tmp_path_factory.mktemp("files"))
    yield servers
    servers.stop()
