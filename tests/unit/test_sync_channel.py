"""What a grpc.Channel can do beyond a call: futures, streams, interceptors, states, on both wires."""

from __future__ import annotations

import inspect
import queue
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import models
from neptune_api.credentials import ApiToken
from neptune_api.exceptions import (
    CancelledException,
    InternalException,
    UnauthorizedException,
)
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.wire import (
    EMPTY,
    PATIENCE,
    UNAUTHENTICATED,
    FakeServer,
    fail,
    operations,
)

GRPC_ONLY = pytest.mark.parametrize("door", ["grpc"], indirect=True)
"""For streams of requests, which HTTP cannot carry."""


def test_with_call_and_future(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    stub = AuthServiceStub(sync_channel)
    user, call = stub.Authorize.with_call(EMPTY)
    assert (user.username, call.code()) == ("ada", grpc.StatusCode.OK)
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    future: Any = stub.Authorize.future(EMPTY)
    future.add_done_callback(ended.put)
    assert future.result(PATIENCE).username == "ada"
    assert ended.get(timeout=PATIENCE) is future
    assert (future.done(), future.running(), future.cancelled(), future.is_active()) == (True, False, False, False)
    assert (future.exception(), future.traceback(), future.code()) == (None, None, grpc.StatusCode.OK)
    assert (future.details(), tuple(future.initial_metadata()), tuple(future.trailing_metadata())) == ("", (), ())
    assert not future.add_callback(lambda: None)
    assert not future.cancel()


@GRPC_ONLY
def test_with_call_and_future_of_a_stream(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    ingest = IngestServiceStub(sync_channel)
    sent, call = ingest.SubmitStream.with_call(operations())
    assert (len(sent.request_ids), call.code()) == (3, grpc.StatusCode.OK)
    assert len(ingest.SubmitStream.future(operations()).result(PATIENCE).request_ids) == 3


def test_a_failed_future_raises_our_exception(
    fake_server: FakeServer, sync_channel: grpc.Channel, arities: dict[str, str]
) -> None:
    fake_server.script("Authorize", fail(grpc.StatusCode.INTERNAL, "boom"))
    futures: list[Any] = [AuthServiceStub(sync_channel).Authorize.future(EMPTY)]
    if "SubmitStream" in arities:
        fake_server.script("SubmitStream", fail(grpc.StatusCode.INTERNAL, "boom"))
        futures.append(IngestServiceStub(sync_channel).SubmitStream.future(operations()))
    for future in futures:
        with pytest.raises(InternalException, match="boom"):
            future.result(PATIENCE)
        assert isinstance(future.exception(PATIENCE), InternalException)
        assert future.traceback(PATIENCE) is not None
        assert (future.code(), future.details()) == (grpc.StatusCode.INTERNAL, "boom")


def test_a_future_with_a_refused_token_starts_over(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    stub = AuthServiceStub(sync_channel)
    stub.Authorize(EMPTY)
    fake_server.valid.clear()
    assert stub.Authorize.future(EMPTY).result(PATIENCE).username == "ada"
    fake_server.script("Authorize", UNAUTHENTICATED, UNAUTHENTICATED)
    with pytest.raises(UnauthorizedException):
        stub.Authorize.future(EMPTY).result(PATIENCE)
    fake_server.valid.clear()
    fake_server.script("ExchangeApiToken", fail(grpc.StatusCode.UNAUTHENTICATED, "revoked"))
    with pytest.raises(UnauthorizedException, match="refused the API token: revoked"):
        stub.Authorize.future(EMPTY).result(PATIENCE)


def test_a_future_that_cannot_start_is_its_error(fake_server: FakeServer) -> None:
    with neptune_api.channel(fake_server.target, api_token=ApiToken.mint(api_url="x")) as channel:
        future = AuthServiceStub(channel).Authorize.future(EMPTY)
        with pytest.raises(UnauthorizedException):
            future.result()


def test_what_a_provider_raises_comes_out_of_the_future(fake_server: FakeServer) -> None:
    tokens = [fake_server.grant().access_token]

    def provide() -> str:
        return tokens.pop()

    with neptune_api.channel(fake_server.target, access_token=provide) as channel:
        stub = AuthServiceStub(channel)
        stub.Authorize(EMPTY)
        fake_server.valid.clear()
        with pytest.raises(IndexError):
            stub.Authorize.future(EMPTY).result(PATIENCE)
        with pytest.raises(IndexError):
            stub.Authorize(EMPTY)


def test_a_future_can_time_out_and_be_cancelled(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    fake_server.script("Authorize", fake_server.hang)
    future: Any = AuthServiceStub(sync_channel).Authorize.future(EMPTY, timeout=PATIENCE)
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(0.01)
    assert future.running()
    assert 0 < future.time_remaining() <= PATIENCE
    called = threading.Event()
    assert future.add_callback(called.set)
    assert future.cancel()
    assert called.wait(PATIENCE)
    assert future.cancelled()
    assert future.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.FutureCancelledError):
        future.result(PATIENCE)


def test_a_stream_is_a_call_as_well(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    stream: Any = SeriesServiceStub(sync_channel).ReadColumns(models.ReadColumnsRequest())
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stream.add_done_callback(ended.put)
    assert next(stream).series_index == 0
    assert tuple(stream.initial_metadata()) == ()
    assert len(list(stream)) == 2
    assert ended.get(timeout=PATIENCE) is stream
    assert (stream.code(), stream.details(), tuple(stream.trailing_metadata())) == (grpc.StatusCode.OK, "", ())
    assert (stream.done(), stream.running(), stream.cancelled(), stream.is_active()) == (True, False, False, False)
    assert stream.exception() is None
    assert stream.traceback() is None
    assert not stream.add_callback(lambda: None)


def test_a_stream_can_be_cancelled(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    fake_server.script("ReadColumns, later", fake_server.hang)
    stream: Any = SeriesServiceStub(sync_channel).ReadColumns(models.ReadColumnsRequest(), timeout=PATIENCE)
    assert next(stream).series_index == 0
    called = threading.Event()
    assert stream.add_callback(called.set)
    assert 0 < stream.time_remaining() <= PATIENCE
    assert stream.cancel()
    with pytest.raises(CancelledException):
        next(stream)
    assert called.wait(PATIENCE)
    assert stream.cancelled()


def test_a_stream_that_starts_over_is_done_once(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    stub = SeriesServiceStub(sync_channel)
    list(stub.ReadColumns(models.ReadColumnsRequest()))
    fake_server.valid.clear()
    stream: Any = stub.ReadColumns(models.ReadColumnsRequest())
    codes: queue.SimpleQueue[grpc.StatusCode] = queue.SimpleQueue()
    stream.add_done_callback(lambda call: codes.put(call.code()))
    assert len(list(stream)) == 3
    assert codes.get(timeout=PATIENCE) is grpc.StatusCode.OK
    assert codes.empty()


def test_a_failed_stream_says_so_every_way(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    fake_server.script("ReadColumns", fail(grpc.StatusCode.INTERNAL, "boom"))
    stream: Any = SeriesServiceStub(sync_channel).ReadColumns(models.ReadColumnsRequest())
    with pytest.raises(InternalException):
        stream.result(PATIENCE)
    assert isinstance(stream.exception(PATIENCE), InternalException)
    assert stream.exception() is stream.exception()
    assert (stream.code(), stream.details()) == (grpc.StatusCode.INTERNAL, "boom")
    with pytest.raises(InternalException, match="ReadColumns"):
        list(stream)


class _Tagging(grpc.UnaryUnaryClientInterceptor):
    """Somebody else's interceptor."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        call.add_done_callback(lambda ended: self.codes.append(ended.code()))
        return call


def test_interceptors_of_others_stack_on_our_channel(fake_server: FakeServer, sync_channel: grpc.Channel) -> None:
    tagging = _Tagging()
    stub = AuthServiceStub(grpc.intercept_channel(sync_channel, tagging))
    assert stub.Authorize(EMPTY).username == "ada"
    fake_server.script("Authorize", fail(grpc.StatusCode.INTERNAL))
    with pytest.raises(InternalException):
        stub.Authorize(EMPTY)
    assert stub.Authorize.future(EMPTY).result(PATIENCE).username == "ada"
    assert tagging.codes == [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.OK]


def test_channel_ready_future_and_subscribe(sync_channel: grpc.Channel) -> None:
    before = set(threading.enumerate())
    grpc.channel_ready_future(sync_channel).result(PATIENCE)
    ready = threading.Event()

    def changed(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            ready.set()

    sync_channel.subscribe(changed, try_to_connect=True)
    assert ready.wait(PATIENCE)
    sync_channel.unsubscribe(changed)
    for thread in set(threading.enumerate()) - before:
        if "process_request_thread" not in thread.name:  # the server's, for the connection
            thread.join(PATIENCE)  # gRPC polls the state on a thread that dies loudly when the channel is closed first


@pytest.mark.skipif(
    "_registered_method" not in inspect.signature(grpc.Channel.unary_unary).parameters,
    reason="this grpcio knows no registered methods",
)
def test_methods_may_be_registered(fake_server: FakeServer, sync_channel: Any) -> None:
    serialize, deserialize = models.AuthorizeRequest.SerializeToString, models.AuthorizedUser.FromString
    path = "/neptune_api.v1.AuthService/Authorize"
    call = sync_channel.unary_unary(path, serialize, deserialize, _registered_method=True)
    assert call(EMPTY).username == "ada"


def test_bytes_need_no_serializer(sync_channel: grpc.Channel) -> None:
    call: Any = sync_channel.unary_unary("/neptune_api.v1.AuthService/Authorize")
    assert models.AuthorizedUser.FromString(call(b"")).username == "ada"


def test_a_closed_channel_says_so(fake_server: FakeServer) -> None:
    channel = neptune_api.channel(api_token=fake_server.api_token)
    stub = ConfigServiceStub(channel)
    stub.GetServerInfo(models.GetServerInfoRequest())
    channel.close()
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        stub.GetServerInfo(models.GetServerInfoRequest())
