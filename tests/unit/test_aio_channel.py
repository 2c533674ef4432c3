"""What a grpc.aio.Channel can do beyond a call: calls that tell of themselves, streams, states, on both wires."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import models
from neptune_api.exceptions import (
    CancelledException,
    InternalException,
    UnauthorizedException,
)
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.wire import (
    EMPTY,
    FAST,
    AioWire,
    FakeServer,
    fail,
    jwt,
    open_wire,
    operations,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


GRPC_ONLY = pytest.mark.parametrize("door", ["grpc"], indirect=True)
"""For streams of requests, which HTTP cannot carry."""


@pytest.fixture
def aio_wire(fake_server: FakeServer) -> Iterator[AioWire]:
    wire = open_wire("aio", api_token=fake_server.api_token, options=FAST)
    assert isinstance(wire, AioWire)
    yield wire
    wire.close()


def test_an_aio_call_tells_all_about_itself(aio_wire: AioWire) -> None:
    async def main() -> None:
        stub = AuthServiceStub(aio_wire.channel)
        for _ in range(2):  # first with a token to be fetched, then with one at hand
            call = stub.Authorize(EMPTY)
            ended = asyncio.Event()
            call.add_done_callback(lambda _, event=ended: event.set())
            assert not call.done()
            assert not call.cancelled()
            await call.wait_for_connection()
            assert (await call).username == "ada"
            assert (await call).username == "ada"
            assert await call.code() is grpc.StatusCode.OK
            assert await call.details() == ""
            assert tuple(await call.initial_metadata()) == ()
            assert tuple(await call.trailing_metadata()) == ()
            assert call.done()
            assert (call.time_remaining() or 0) > 0
            await ended.wait()

    aio_wire.run(main())


def test_an_aio_call_may_be_asked_before_it_is_awaited(fake_server: FakeServer, aio_wire: AioWire) -> None:
    async def main() -> None:
        stub = AuthServiceStub(aio_wire.channel)
        fake_server.script("ExchangeApiToken", fail(grpc.StatusCode.UNAUTHENTICATED, "revoked"))
        call: Any = stub.Authorize(EMPTY)
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in await call.details()
        assert tuple(await call.trailing_metadata()) == ()
        await ended.wait()
        assert call.done()
        with pytest.raises(UnauthorizedException, match="revoked"):
            await call
        fake_server.script("Authorize", fail(grpc.StatusCode.INTERNAL, "boom"))
        call = stub.Authorize(EMPTY)
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert await call.details() == "boom"
        assert "boom" in await call.debug_error_string()
        for _ in range(2):
            with pytest.raises(InternalException):
                await call
        with pytest.raises(InternalException):
            await call.wait_for_connection()

    aio_wire.run(main())


def test_an_aio_call_that_starts_over_is_done_once(fake_server: FakeServer, aio_wire: AioWire) -> None:
    async def main() -> None:
        stub = AuthServiceStub(aio_wire.channel)
        await stub.Authorize(EMPTY)
        fake_server.valid.clear()
        call: Any = stub.Authorize(EMPTY)
        ended: asyncio.Future[grpc.StatusCode] = asyncio.get_running_loop().create_future()
        call.add_done_callback(lambda _: ended.set_result(grpc.StatusCode.OK))
        await ended
        assert await call.code() is grpc.StatusCode.OK
        users = await asyncio.gather(_result(call), _result(call))
        assert [user.username for user in users] == ["ada", "ada"]
        fake_server.valid.clear()
        call = stub.Authorize(EMPTY)
        users = await asyncio.gather(_result(call), _result(call))
        assert [user.username for user in users] == ["ada", "ada"]

    aio_wire.run(main())
    assert fake_server.count("Authorize") == 5


async def _result(call: Any) -> Any:
    return await call


@pytest.mark.parametrize("fetching", [True, False])
def test_an_aio_call_is_cancelled_with_its_task_or_by_itself(
    fake_server: FakeServer, aio_wire: AioWire, fetching: bool
) -> None:
    async def main() -> None:
        stub = AuthServiceStub(aio_wire.channel)
        if not fetching:
            await stub.Authorize(EMPTY)
        method = "ExchangeApiToken" if fetching else "Authorize"
        fake_server.script(method, fake_server.hang)
        call: Any = stub.Authorize(EMPTY)
        task = asyncio.create_task(_result(call))
        await asyncio.to_thread(fake_server.wait_for, method, 1 if fetching else 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        if fetching:
            return
        fake_server.script(method, fake_server.hang)
        call = stub.Authorize(EMPTY)
        await asyncio.to_thread(fake_server.wait_for, method, 3)
        assert call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert "cancelled" in await call.details()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not call.cancel()

    aio_wire.run(main())


def test_an_aio_call_cancelled_before_it_has_a_token_never_starts(fake_server: FakeServer, aio_wire: AioWire) -> None:
    async def main() -> None:
        call: Any = AuthServiceStub(aio_wire.channel).Authorize(EMPTY)
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        assert call.time_remaining() is None
        assert call.cancel()
        await ended.wait()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(asyncio.CancelledError):
            await call

    aio_wire.run(main())
    assert fake_server.count("Authorize") == 0


@GRPC_ONLY
def test_aio_streams_read_and_write(fake_server: FakeServer, aio_wire: AioWire) -> None:
    async def main() -> None:
        stub: Any = IngestServiceStub(aio_wire.channel)
        call = stub.SubmitAcknowledged()
        for request in operations():
            await call.write(request)
            assert (await call.read()).request_id == request.run_id
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        call = stub.SubmitStream()
        for request in operations():
            await call.write(request)
        await call.done_writing()
        assert len((await call).request_ids) == 3

    aio_wire.run(main())


@GRPC_ONLY
def test_an_aio_stream_takes_an_async_iterator(aio_wire: AioWire) -> None:
    async def requests() -> Any:
        for request in operations():
            yield request

    async def main() -> None:
        stub: Any = IngestServiceStub(aio_wire.channel)
        assert [answer.request_id async for answer in stub.SubmitAcknowledged(requests())] == ["0", "1", "2"]

    aio_wire.run(main())


@pytest.mark.parametrize("fetching", [True, False])
def test_aio_streams_fail_with_our_exceptions(fake_server: FakeServer, aio_wire: AioWire, fetching: bool) -> None:
    async def main() -> None:
        if not fetching:
            await AuthServiceStub(aio_wire.channel).Authorize(EMPTY)
        series: Any = SeriesServiceStub(aio_wire.channel)
        fake_server.script("ReadColumns", fail(grpc.StatusCode.INTERNAL, "boom"))
        call = series.ReadColumns(models.ReadColumnsRequest())
        with pytest.raises(InternalException):
            await call.read()
        fake_server.script("ReadColumns, later", fail(grpc.StatusCode.INTERNAL, "boom"))
        call = series.ReadColumns(models.ReadColumnsRequest())
        assert (await call.read()).series_index == 0
        with pytest.raises(InternalException):
            await call.read()
        fake_server.valid.clear()
        call = series.ReadColumns(models.ReadColumnsRequest())
        assert (await call.read()).series_index == 0
        call.cancel()

    aio_wire.run(main())


@GRPC_ONLY
def test_an_aio_stream_that_has_failed_takes_no_more_requests(fake_server: FakeServer, aio_wire: AioWire) -> None:
    async def main() -> None:
        ingest: Any = IngestServiceStub(aio_wire.channel)
        fake_server.script("SubmitAcknowledged", fail(grpc.StatusCode.INTERNAL, "boom"))
        call = ingest.SubmitAcknowledged()
        assert await call.code() is grpc.StatusCode.INTERNAL
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(next(operations()))

    aio_wire.run(main())


def test_an_aio_channel_has_a_state(aio_wire: AioWire) -> None:
    async def main() -> None:
        channel = aio_wire.channel
        state = channel.get_state()
        await channel.channel_ready()
        await channel.wait_for_state_change(state)
        assert channel.get_state() is grpc.ChannelConnectivity.READY

    aio_wire.run(main())


def test_closing_an_aio_channel_ends_calls_that_wait_for_a_token(fake_server: FakeServer, aio_wire: AioWire) -> None:
    async def main() -> None:
        fake_server.script("ExchangeApiToken", fake_server.hang)
        async with aio_wire.channel as channel:
            task = asyncio.create_task(_result(AuthServiceStub(channel).Authorize(EMPTY)))
            await asyncio.to_thread(fake_server.wait_for, "ExchangeApiToken")
        with pytest.raises(CancelledException, match="closed while the call waited"):
            await task

    aio_wire.run(main())


def test_interceptors_of_others_run_below_an_aio_channel(fake_server: FakeServer) -> None:
    seen = []

    class Noting(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            seen.append(client_call_details.method)
            return await continuation(client_call_details, request)

    async def main() -> None:
        async with neptune_api.aio.channel(api_token=fake_server.api_token, interceptors=[Noting()]) as channel:
            assert (await AuthServiceStub(channel).Authorize(EMPTY)).username == "ada"

    asyncio.run(main())
    assert [bytes(method).decode().rpartition("/")[2] for method in seen] == ["ExchangeApiToken", "Authorize"]


def test_the_token_in_use_is_a_jwt_of_its_own(fake_server: FakeServer) -> None:
    assert jwt() != jwt()
