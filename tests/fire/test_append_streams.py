"""columns.append_stream: whatever happens to its connections, every batch counts once and is acknowledged in order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from neptune_api import columns
from neptune_api.conformance.operations import create
from neptune_api.exceptions import (
    AlreadyExistsException,
    DeadlineExceededException,
    InvalidArgumentException,
    UnavailableException,
)
from neptune_api.options import ChannelOptions, RetryPolicy
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.fire.streams import append, assert_stored, batch, batches
from tests.unit.raw_server import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from neptune_api.conformance.connections import Connection
    from neptune_api.server.testing import ScriptedServer
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendColumnsResponse
    from tests.fire.wires import Wire

COUNT = 12
QUICK = RetryPolicy(initial_backoff=0.01)
ONCE = ChannelOptions(retry=None)


@pytest.fixture
def connection(neptune_server: ScriptedServer, neptune_project: str, wire: Wire) -> Connection:
    """A channel to the server, which makes each call once, and a run to write to."""
    target = neptune_server.http_url if wire.http else neptune_server.grpc_url
    opened = wire.connect(target, api_token=neptune_server.api_token, options=ONCE)
    opened.stub(IngestServiceStub).Submit(create("run", project=neptune_project))
    return opened


@pytest.fixture
def method(wire: Wire) -> str:
    """The RPC by which batches go."""
    return "SeriesService.AppendColumns" if wire.http else "SeriesService.AppendColumnsStream"


def check(connection: Connection, project: str, acknowledged: list[AppendColumnsResponse], count: int = COUNT) -> None:
    assert [response.batch_id for response in acknowledged] == [f"run-{number}" for number in range(count)]
    assert_stored(connection, project, "run", [response.request_id for response in acknowledged], count)


def test_batches_are_acknowledged_in_order(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, connection: Connection, method: str
) -> None:
    check(connection, neptune_project, append(wire, connection, batches(neptune_project, "run", COUNT)))
    assert len(neptune_server.recorder.calls(method)) == (COUNT if wire.http else 1)
    assert append(wire, connection, []) == []


def test_a_stream_that_breaks_goes_on_where_it_was(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, connection: Connection, method: str
) -> None:
    inject = neptune_server.faults
    if wire.http:
        faults = [inject.drop(method=method, after=2), inject.drop(method=method, applied=True, after=4, times=2)]
    else:
        faults = [inject.truncate(messages, method=method) for messages in (0, 3, 1)]
    faults.append(inject.fail(grpc.StatusCode.UNAVAILABLE, method=method))
    acknowledged = append(wire, connection, batches(neptune_project, "run", COUNT), window=4, retry=QUICK)
    assert [fault.left for fault in faults] == [0] * len(faults)
    check(connection, neptune_project, acknowledged)


def test_what_the_server_asks_for_takes_the_place_of_the_backoff(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, connection: Connection, method: str
) -> None:
    neptune_server.faults.throttle(0.02, method=method, times=2)
    slow = RetryPolicy(initial_backoff=60, max_backoff=60)
    check(connection, neptune_project, append(wire, connection, batches(neptune_project, "run", COUNT), retry=slow))


def test_a_stream_that_stops_is_taken_for_broken(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, connection: Connection, method: str
) -> None:
    neptune_server.faults.delay(float("inf"), method=method)
    sent = batches(neptune_project, "run", COUNT)
    check(connection, neptune_project, append(wire, connection, sent, timeout=0.3, retry=QUICK))
    neptune_server.faults.delay(float("inf"), method=method, times=None)
    with pytest.raises(DeadlineExceededException):
        append(wire, connection, [batch(neptune_project, "run", COUNT)], timeout=0.1, patience=0.2, retry=QUICK)


def test_a_refused_token_is_replaced(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, connection: Connection
) -> None:
    neptune_server.clock.advance(3600)  # unknown to the channel, whose token expires
    check(connection, neptune_project, append(wire, connection, batches(neptune_project, "run", COUNT)))


def test_batches_are_read_no_further_ahead_than_the_window(
    neptune_project: str, wire: Wire, connection: Connection
) -> None:
    acknowledged: list[AppendColumnsResponse] = []
    most = 0

    def counted() -> Iterator[AppendColumnsRequest]:
        nonlocal most
        for number in range(COUNT):
            most = max(most, number - len(acknowledged))
            yield batch(neptune_project, "run", number)

    check(connection, neptune_project, append(wire, connection, counted(), acknowledged, window=3))
    assert most <= 4  # the window, and one that was acknowledged a moment ago


def test_what_the_iterator_raises_comes_after_the_acknowledgements(
    neptune_project: str, wire: Wire, connection: Connection
) -> None:
    def broken() -> Iterator[AppendColumnsRequest]:
        yield from batches(neptune_project, "run", 3)
        raise LookupError("no more data")

    acknowledged: list[AppendColumnsResponse] = []
    with pytest.raises(LookupError, match="no more data"):
        append(wire, connection, broken(), acknowledged)
    check(connection, neptune_project, acknowledged, 3)


@pytest.mark.parametrize("wire", ["grpc", "http"], indirect=True)
def test_who_wants_to_exit_may(neptune_project: str, wire: Wire, connection: Connection) -> None:
    def leaving() -> Iterator[AppendColumnsRequest]:
        yield from batches(neptune_project, "run", 2)
        raise SystemExit(7)

    with pytest.raises(SystemExit):
        append(wire, connection, leaving())


@pytest.mark.parametrize("wire", ["grpc-aio", "http-aio"], indirect=True)
def test_batches_may_come_from_a_coroutine_that_is_cancelled(
    neptune_project: str, wire: Wire, connection: Connection
) -> None:
    async def cancelled() -> AsyncIterator[AppendColumnsRequest]:
        for sent in batches(neptune_project, "run", 2):
            yield sent
        raise asyncio.CancelledError

    acknowledged: list[AppendColumnsResponse] = []
    with pytest.raises(concurrent.futures.CancelledError):
        append(wire, connection, cancelled(), acknowledged)
    check(connection, neptune_project, acknowledged, 2)


def test_a_bad_batch_ends_it_all(neptune_project: str, wire: Wire, connection: Connection) -> None:
    good = list(batches(neptune_project, "run", 3))
    acknowledged: list[AppendColumnsResponse] = []
    with pytest.raises(AlreadyExistsException, match="names another batch"):
        append(wire, connection, [*good[:2], batch(neptune_project, "run", 2, batch_id="run-0")], acknowledged)
    check(connection, neptune_project, acknowledged, 2)
    with pytest.raises(InvalidArgumentException, match="batch_id"):
        append(wire, connection, [columns.append_request(neptune_project, "run", {}, batch_id="x" * 200)])


def test_patience_comes_to_an_end(neptune_project: str, wire: Wire) -> None:
    nobody = wire.connect(wire.url(free_port()), access_token="opaque", options=ONCE)
    begin = time.monotonic()
    with pytest.raises(UnavailableException):
        append(wire, nobody, batches(neptune_project, "run", 1), patience=0.2, retry=QUICK)
    assert time.monotonic() - begin < 10  # not the default


def test_who_lets_go_sends_no_more(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, connection: Connection, method: str
) -> None:
    channel: Any = connection.channel  # type: ignore[attr-defined] # both kinds have one
    sent = batches(neptune_project, "run", COUNT)

    async def first() -> str:
        stub: Any = SeriesServiceStub(channel)
        async with aclosing(columns.aappend_stream(stub, sent, window=2)) as responses:
            async for response in responses:
                return response.batch_id
        raise AssertionError

    if wire.aio:
        assert wire.loop.run(first()) == "run-0"
    else:
        with closing(columns.append_stream(SeriesServiceStub(channel), sent, window=2)) as responses:
            assert next(responses).batch_id == "run-0"
    assert len(neptune_server.recorder.requests(method)) < COUNT


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": float("inf")}, "timeout must be a positive number"),
        ({"patience": -1}, "patience must be a number"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], problem: str) -> None:
    stub: Any = None
    for function in (columns.append_stream, columns.aappend_stream):
        with pytest.raises(ValueError, match=problem):
            function(stub, [], **arguments)
