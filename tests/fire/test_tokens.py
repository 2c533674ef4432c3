"""Access tokens that run out where it hurts: in the middle of streams, between calls, under clocks that differ."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import columns
from neptune_api.conformance.operations import create
from neptune_api.options import ChannelOptions, RetryPolicy
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.series_service_pb2 import ReadColumnsRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests.fire.streams import append, assert_stored, batch, batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.conformance.connections import Connection
    from neptune_api.server.testing import ScriptedServer
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest
    from tests.fire.wires import Wire

HOUR = 3600
"""Longer than a token lives."""
SKEW = 300
QUICK = RetryPolicy(initial_backoff=0.01)


def connect(server: ScriptedServer, wire: Wire) -> Connection:
    target = server.http_url if wire.http else server.grpc_url
    return wire.connect(target, api_token=server.api_token, options=ChannelOptions(retry=QUICK))


def identify(connection: Connection) -> str:
    name: str = connection.stub(UsersServiceStub).GetUserIdentity(GetUserIdentityRequest()).username
    return name


def exchanges(server: ScriptedServer) -> int:
    """Return how often tokens were asked for, either way."""
    calls = server.recorder.calls
    return len(calls("ExchangeApiToken")) + len(calls("RefreshToken"))


@pytest.mark.parametrize("skew", [-SKEW, SKEW], ids=["server-behind", "server-ahead"])
def test_clocks_may_differ(neptune_server: ScriptedServer, wire: Wire, skew: int) -> None:
    neptune_server.clock.advance(skew)
    connection = connect(neptune_server, wire)
    for _ in range(20):
        assert identify(connection) == neptune_server.username
    assert exchanges(neptune_server) == 1


@pytest.mark.parametrize("skew", [-SKEW, SKEW], ids=["server-behind", "server-ahead"])
def test_a_clock_may_be_set_while_tokens_are_in_use(neptune_server: ScriptedServer, wire: Wire, skew: int) -> None:
    connection = connect(neptune_server, wire)
    assert identify(connection) == neptune_server.username
    neptune_server.clock.advance(skew)
    for _ in range(20):
        assert identify(connection) == neptune_server.username
    assert exchanges(neptune_server) <= 2


def test_callers_that_find_their_token_expired_renew_it_once(neptune_server: ScriptedServer, wire: Wire) -> None:
    connection = connect(neptune_server, wire)
    identify(connection)
    neptune_server.recorder.clear()
    neptune_server.clock.advance(HOUR)  # which only the server knows, so that all 16 are refused
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda _: identify(connection), range(16)))
    assert names == [neptune_server.username] * 16
    assert exchanges(neptune_server) == 1


@pytest.fixture
def project(neptune_server: ScriptedServer, neptune_project: str, wire: Wire) -> str:
    """A project with a run."""
    connect(neptune_server, wire).stub(IngestServiceStub).Submit(create("run", project=neptune_project))
    neptune_server.recorder.clear()
    return neptune_project


def test_a_stream_outlives_its_token(neptune_server: ScriptedServer, wire: Wire, project: str) -> None:
    connection = connect(neptune_server, wire)

    def expiring() -> Iterator[AppendColumnsRequest]:
        for number in range(6):
            if number == 3:
                neptune_server.clock.advance(HOUR)
            yield batch(project, "run", number)

    acknowledged = append(wire, connection, expiring(), window=1)
    streams = neptune_server.recorder.calls("AppendColumns" if wire.http else "AppendColumnsStream")
    # Whoever was let in stays; one by one, each batch has to show a token.
    assert (len(streams), exchanges(neptune_server)) == ((6, 2) if wire.http else (1, 1))
    assert_stored(connection, project, "run", [response.request_id for response in acknowledged], 6)
    assert exchanges(neptune_server) == 2


def test_a_stream_that_goes_on_takes_a_new_token(neptune_server: ScriptedServer, wire: Wire, project: str) -> None:
    connection = connect(neptune_server, wire)
    if wire.http:
        neptune_server.faults.drop(applied=True, method="AppendColumns", after=3)
    else:
        neptune_server.faults.truncate(3, method="AppendColumnsStream")

    def expiring() -> Iterator[AppendColumnsRequest]:
        for number in range(6):
            if number == 3:
                neptune_server.clock.advance(HOUR)
            yield batch(project, "run", number)

    acknowledged = append(wire, connection, expiring(), window=1, retry=QUICK)
    assert [response.batch_id for response in acknowledged] == [f"run-{number}" for number in range(6)]
    assert exchanges(neptune_server) == 2
    assert_stored(connection, project, "run", [response.request_id for response in acknowledged], 6)


def test_a_read_outlives_its_token(neptune_server: ScriptedServer, wire: Wire, project: str) -> None:
    connection = connect(neptune_server, wire)
    acknowledged = append(wire, connection, batches(project, "run", 2))
    assert_stored(connection, project, "run", [response.request_id for response in acknowledged], 2)
    holder = AttributesHolder(identifier=f"CUSTOM/{project}/run")
    asked = ReadColumnsRequest(series=[TimeSeries(attribute=path, holder=holder) for path in ("up", "down")] * 4)
    channel: Any = connection.channel  # type: ignore[attr-defined] # both kinds have one
    neptune_server.recorder.clear()

    async def read() -> list[Any]:
        stub: Any = SeriesServiceStub(channel)
        found: list[Any] = []
        async for response in stub.ReadColumns(asked):
            if not found:
                neptune_server.clock.advance(HOUR)
            found.append(response)
        return found

    if wire.aio:
        responses = wire.loop.run(read())
    else:
        stream = SeriesServiceStub(channel).ReadColumns(asked)
        responses = [next(stream)]
        neptune_server.clock.advance(HOUR)
        responses += stream
    assert [len(points) for points in columns.collect(responses)] == [100] * 8
    assert exchanges(neptune_server) == 0
    identify(connection)
    assert exchanges(neptune_server) == 1
