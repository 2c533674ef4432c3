"""The public interceptors, on channels that are not ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from neptune_api import AuthInterceptor, DeadlineInterceptor, ErrorInterceptor, models
from neptune_api.aio import auth_interceptors, deadline_interceptors, error_interceptors
from neptune_api.auth import AioProviderTokenSource, ProviderTokenSource, StaticTokenSource
from neptune_api.channels import parse_target
from neptune_api.exceptions import InternalException, NeptuneApiError, UnauthorizedException
from neptune_api.http import aio as http_aio
from neptune_api.http import channel as http_channel
from neptune_api.options import ChannelOptions
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.wire import ARITIES, PATIENCE, UNAUTHENTICATED, AioWire, FakeServer, SyncWire, fail, operations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPTIONS = ChannelOptions(timeout=50, stream_timeout=500)

Intercepted = SyncWire | AioWire


BARE = ChannelOptions(retry=None)


def sync_wire(server: FakeServer, *interceptors: Any) -> SyncWire:
    if server.target.startswith("http"):
        channel: grpc.Channel = http_channel.Wire(parse_target(server.target).endpoint(BARE), BARE)
    else:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
    return SyncWire(grpc.intercept_channel(channel, *interceptors))


def aio_wire(server: FakeServer, *interceptors: Any) -> AioWire:
    if server.target.startswith("http"):
        endpoint = parse_target(server.target).endpoint(BARE)
        return AioWire(lambda: http_aio.Wire(endpoint, BARE, interceptors))
    return AioWire(lambda: grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", interceptors=interceptors))


@pytest.fixture
def intercepted(kind: str, fake_server: FakeServer) -> Iterator[Intercepted]:
    """A plain channel of gRPC with all our interceptors."""

    def provide() -> str:
        return fake_server.grant().access_token

    wire: Intercepted
    if kind == "sync":
        source = ProviderTokenSource(provide)
        wire = sync_wire(fake_server, ErrorInterceptor(source), AuthInterceptor(source), DeadlineInterceptor(OPTIONS))
    else:
        aio_source = AioProviderTokenSource(provide)
        interceptors = (
            *error_interceptors(aio_source),
            *auth_interceptors(aio_source),
            *deadline_interceptors(OPTIONS),
        )
        wire = aio_wire(fake_server, *interceptors)
    yield wire
    wire.close()


@pytest.mark.parametrize(("method", "call"), ARITIES.items())
def test_every_kind_of_call_carries_token_and_deadline(
    fake_server: FakeServer, intercepted: Intercepted, method: str, call: str
) -> None:
    assert getattr(intercepted, call)(metadata=(("x-trace", "7"),))
    seen = fake_server.last(method)
    assert str(seen.metadata["authorization"]).removeprefix("Bearer ") in fake_server.valid
    assert seen.metadata["x-trace"] == "7"
    assert seen.seconds == pytest.approx(50 if method == "Authorize" else 500, abs=10)
    assert len(fake_server.valid) == 1


@pytest.mark.parametrize(("method", "call"), ARITIES.items())
def test_every_kind_of_call_raises_our_exception(
    fake_server: FakeServer, intercepted: Intercepted, method: str, call: str
) -> None:
    fake_server.script(method, fail(grpc.StatusCode.INTERNAL, "boom"))
    with pytest.raises(InternalException, match=f"INTERNAL: boom .*{method}") as caught:
        getattr(intercepted, call)()
    assert isinstance(caught.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize(("method", "call"), [("Authorize", "authorize"), ("ReadColumns", "read")])
def test_a_refused_token_costs_one_more_attempt(
    fake_server: FakeServer, intercepted: Intercepted, method: str, call: str
) -> None:
    intercepted.authorize()
    fake_server.valid.clear()
    assert getattr(intercepted, call)()
    fake_server.script(method, UNAUTHENTICATED, UNAUTHENTICATED)
    with pytest.raises(UnauthorizedException, match="token expired"):
        getattr(intercepted, call)()


@pytest.mark.parametrize("call", ["send", "both"])
def test_a_stream_of_requests_works_at_the_next_call(
    fake_server: FakeServer, intercepted: Intercepted, call: str
) -> None:
    intercepted.authorize()
    fake_server.valid.clear()
    with pytest.raises(UnauthorizedException):
        getattr(intercepted, call)()
    assert getattr(intercepted, call)()


def test_anonymous_methods_and_callers_with_tokens_are_left_alone(
    fake_server: FakeServer, intercepted: Intercepted
) -> None:
    intercepted.info()
    assert "authorization" not in fake_server.last("GetServerInfo").metadata
    assert fake_server.valid == set()
    token = fake_server.grant().access_token
    intercepted.authorize(metadata=(("authorization", f"Bearer {token}"),))
    assert fake_server.valid == {token}


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_futures_and_streams_are_wrapped_without_waiting(
    fake_server: FakeServer, intercepted: SyncWire, kind: str, door: str
) -> None:
    stub = AuthServiceStub(intercepted.channel)
    stub.Authorize(models.AuthorizeRequest())
    fake_server.script("Authorize", fake_server.hang)
    future: Any = stub.Authorize.future(models.AuthorizeRequest())
    assert not future.done()
    fake_server.wait_for("Authorize", 2)
    assert future.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        future.result(PATIENCE)
    fake_server.valid.clear()
    assert stub.Authorize.future(models.AuthorizeRequest()).result(PATIENCE).username == "ada"
    fake_server.script("Authorize", fail(grpc.StatusCode.INTERNAL, "boom"))
    with pytest.raises(InternalException):
        stub.Authorize.future(models.AuthorizeRequest()).result(PATIENCE)
    if door == "grpc":
        sent = IngestServiceStub(intercepted.channel).SubmitStream.future(operations())
        assert len(sent.result(PATIENCE).request_ids) == 3
    user, call = stub.Authorize.with_call(models.AuthorizeRequest())
    assert (user.username, call.code()) == ("ada", grpc.StatusCode.OK)
    stream: Any = SeriesServiceStub(intercepted.channel).ReadColumns(models.ReadColumnsRequest())
    assert next(stream).series_index == 0
    stream.cancel()


class _Raising(grpc.UnaryUnaryClientInterceptor):
    """An interceptor whose error is no call."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        raise grpc.RpcError("not now")


def test_a_bare_error_of_another_interceptor_is_translated(fake_server: FakeServer) -> None:
    wire = sync_wire(fake_server, ErrorInterceptor(), _Raising())
    with pytest.raises(NeptuneApiError, match="UNKNOWN: not now"):
        wire.authorize()
    wire.close()


def test_details_that_others_leave_out_are_no_details(fake_server: FakeServer) -> None:
    class Sparse(grpc.ClientCallDetails):
        def __init__(self, method: str) -> None:
            self.method = method

    class Dropping(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return continuation(Sparse(client_call_details.method), request)

    token = fake_server.grant().access_token
    source = StaticTokenSource(token)
    wire = sync_wire(fake_server, Dropping(), AuthInterceptor(source), DeadlineInterceptor())
    assert wire.authorize().username == "ada"
    wire.close()


@pytest.mark.parametrize("make", [auth_interceptors, error_interceptors, deadline_interceptors])
def test_aio_interceptors_come_as_one_object_per_kind_of_call(make: Callable[[Any], Any]) -> None:
    kinds = (
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    )
    made = make(None)
    assert [[isinstance(one, kind) for kind in kinds].index(True) for one in made] == [0, 1, 2, 3]
    assert all(sum(isinstance(one, kind) for kind in kinds) == 1 for one in made)


@pytest.mark.parametrize("door", ["grpc"], indirect=True)
@pytest.mark.parametrize("kind", ["aio"], indirect=True)
def test_aio_streams_can_be_written_through_interceptors(
    fake_server: FakeServer, intercepted: AioWire, kind: str
) -> None:
    async def main() -> None:
        call: Any = IngestServiceStub(intercepted.channel).SubmitAcknowledged()
        for request in operations():
            await call.write(request)
            assert (await call.read()).request_id == request.run_id
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        sent: Any = IngestServiceStub(intercepted.channel).SubmitStream()
        for request in operations():
            await sent.write(request)
        await sent.done_writing()
        assert len((await sent).request_ids) == 3
        call = AuthServiceStub(intercepted.channel).Authorize(models.AuthorizeRequest())
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        assert (await call).username == "ada"
        await ended.wait()

    intercepted.run(main())
