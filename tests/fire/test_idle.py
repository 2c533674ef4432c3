"""Connections that nobody uses for a while: closed by the server, forgotten on the way, or kept alive."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import models
from neptune_api.exceptions import DeadlineExceededException, UnavailableException
from neptune_api.options import ChannelOptions, RetryPolicy, server_arguments
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.fire.holes import CAN_DROP_PACKETS, Line, line
from tests.fire.streams import wait_until
from tests.unit.http_wire import FakeHttpServer, Handler
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from neptune_api.conformance.connections import Connection
    from tests.fire.wires import Wire

IDLE = 0.3
"""Seconds after which these servers end what nobody uses."""
LOST = 0.4
"""Seconds of silence after which these channels take a connection for lost."""
TIMEOUT = 20.0
OPTIONS = ChannelOptions(
    timeout=TIMEOUT,
    keepalive_timeout=LOST,
    retry=RetryPolicy(initial_backoff=0.01),
    # Sooner than a channel may be told to, so that a test need not wait for it.
    arguments=tuple((f"grpc.{name}", round(LOST * 1000)) for name in ("keepalive_time_ms", "http2.ping_timeout_ms")),
)


class Impatient(FakeServer):
    """Ends idle connections, with GOAWAY."""

    arguments = (*server_arguments(), ("grpc.max_connection_idle_ms", round(IDLE * 1000)))


class ImpatientHttp(FakeHttpServer):
    """Ends idle connections, without a word."""

    class handler(Handler):  # noqa: N801 # it takes the place of an attribute
        timeout = IDLE


@pytest.fixture
def server(wire: Wire) -> Iterator[FakeServer]:
    running = FakeHttpServer() if wire.http else FakeServer()
    yield running
    running.stop()


@pytest.fixture
def path(server: FakeServer) -> Iterator[Line]:
    """A line to the server."""
    with line(server.port) as made:
        yield made


@pytest.fixture
def connection(wire: Wire, server: FakeServer, path: Line) -> Connection:
    """A channel over the line, which has been used and is idle now."""
    return used(wire, server, path)


def used(wire: Wire, server: FakeServer, path: Line) -> Connection:
    target = server.target.replace(f":{server.port}", f":{path.port}")
    connection = wire.connect(target, api_token=server.api_token, options=OPTIONS)
    assert authorize(connection) == "ada"
    assert path.connections == 1
    return connection


def authorize(connection: Connection, timeout: float | None = None) -> str:
    """Make a call that may be repeated."""
    name: str = connection.stub(AuthServiceStub).Authorize(models.AuthorizeRequest(), timeout=timeout).username
    return name


def revoke(connection: Connection, timeout: float | None = None) -> None:
    """Make a call that may not be repeated."""
    connection.stub(AuthServiceStub).RevokeApiToken(models.RevokeApiTokenRequest(), timeout=timeout)


@pytest.mark.parametrize("call", [authorize, revoke])
def test_a_server_may_end_idle_connections(wire: Wire, call: Callable[[Connection], object]) -> None:
    server = ImpatientHttp() if wire.http else Impatient()
    with line(server.port) as path:
        connection = used(wire, server, path)
        wait_until(lambda: not path.open)
        call(connection)
        assert path.connections == 2
    server.stop()


def test_a_line_may_be_cut_between_calls(path: Line, server: FakeServer, connection: Connection) -> None:
    for number in range(1, 4):
        path.cut()
        assert authorize(connection) == "ada"
        assert path.connections == 1 + number
    assert server.count("Authorize") == 4


@pytest.mark.skipif(not CAN_DROP_PACKETS, reason="packets are dropped by a filter of Linux")
def test_a_connection_that_was_forgotten_on_the_way_is_replaced(path: Line, connection: Connection) -> None:
    path.lose_packets()
    begin = time.monotonic()
    assert authorize(connection) == "ada"
    assert time.monotonic() - begin < TIMEOUT
    assert path.connections == 2


@pytest.mark.skipif(not CAN_DROP_PACKETS, reason="packets are dropped by a filter of Linux")
def test_what_was_sent_over_a_forgotten_connection_may_have_arrived(
    path: Line, server: FakeServer, connection: Connection
) -> None:
    path.lose_packets()
    with pytest.raises(UnavailableException):
        revoke(connection)
    assert server.count("RevokeApiToken") == 0  # as we know here, and the channel does not
    assert authorize(connection) == "ada"  # may be repeated, and finds another connection
    revoke(connection)
    assert server.count("RevokeApiToken") == 1


def test_a_line_that_swallows_everything_costs_one_call_at_most(
    wire: Wire, path: Line, server: FakeServer, connection: Connection
) -> None:
    with ThreadPoolExecutor(8) as pool:  # over HTTP, as many connections
        assert list(pool.map(lambda _: authorize(connection), range(8))) == ["ada"] * 8
    path.fall_silent()
    if wire.http:  # which has no pings
        with pytest.raises(DeadlineExceededException):
            authorize(connection, timeout=0.3)
    assert authorize(connection) == "ada"
    assert authorize(connection) == "ada"


class Tolerant(FakeServer):
    """Takes as many pings as come."""

    arguments = (
        *(pair for pair in server_arguments() if "min_ping_interval" not in pair[0]),
        ("grpc.http2.min_ping_interval_without_data_ms", 10),
    )


@pytest.mark.parametrize("wire", ["grpc", "grpc-aio"], indirect=True)
def test_pings_keep_a_quiet_stream_alive(wire: Wire) -> None:
    server = Tolerant()
    with line(server.port) as path:
        channel: Any = used(wire, server, path).channel  # type: ignore[attr-defined] # both kinds have one
        submit = IngestServiceStub(channel).SubmitAcknowledged
        first, last = (models.RunOperation(project="w/p", run_id=name) for name in ("first", "second"))

        def quiet() -> None:
            # Until more pings have come and gone than the few that gRPC would send.
            pieces = path.pieces
            wait_until(lambda: path.pieces >= pieces + 10)

        def requests() -> Iterator[models.RunOperation]:
            yield first
            quiet()
            yield last

        async def aio_requests() -> AsyncIterator[models.RunOperation]:
            yield first
            await asyncio.to_thread(quiet)
            yield last

        async def collect() -> list[Any]:
            return [response async for response in submit(aio_requests())]

        responses = wire.loop.run(collect()) if wire.aio else list(submit(requests()))
        assert [response.request_id for response in responses] == ["first", "second"]
        assert path.connections == 1
    server.stop()
