"""Channels against a real server: tokens on every kind of call, deadlines, retries, errors. Sync and aio alike."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import queue
import threading
import traceback
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import neptune_api
from neptune_api import models
from neptune_api.credentials import ApiToken
from neptune_api.exceptions import (
    STATUS_DETAILS_KEY,
    AbortedException,
    CancelledException,
    DeadlineExceededException,
    FieldViolation,
    InternalException,
    InvalidArgumentException,
    NeptuneApiError,
    PermissionDeniedException,
    ResourceExhaustedException,
    UnauthorizedException,
    UnavailableException,
)
from neptune_api.options import ChannelOptions, RetryPolicy
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.conftest import REQUEST_STREAMS
from tests.unit.wire import PATIENCE, AioWire, FakeServer, SyncWire, fail, jwt, open_wire, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.conftest import OpenWire

UNAVAILABLE = fail(grpc.StatusCode.UNAVAILABLE)
UNAUTHENTICATED = fail(grpc.StatusCode.UNAUTHENTICATED, "token expired")
FAST = ChannelOptions(retry=RetryPolicy(initial_backoff=0.01))
EMPTY = models.AuthorizeRequest()

GRPC_ONLY = pytest.mark.parametrize("door", ["grpc"], indirect=True)
"""For streams of requests, which HTTP cannot carry."""

Calls = dict[str, Any]
ARITIES = {"Authorize": "authorize", "ReadColumns": "read", "SubmitStream": "send", "SubmitAcknowledged": "both"}


@pytest.fixture
def arities(door: str) -> dict[str, str]:
    """A call of each kind that the wire can carry, by its method."""
    return {method: call for method, call in ARITIES.items() if door == "grpc" or call not in REQUEST_STREAMS}


@pytest.fixture
def sync_channel(fake_server: FakeServer) -> Iterator[grpc.Channel]:
    with neptune_api.channel(api_token=fake_server.api_token, options=FAST) as channel:
        yield channel


# Tokens.


@pytest.mark.parametrize(("method", "call"), ARITIES.items())
def test_every_kind_of_call_carries_the_token(
    fake_server: FakeServer, wire: SyncWire | AioWire, method: str, call: str
) -> None:
    assert getattr(wire, call)()
    assert str(fake_server.last(method).metadata["authorization"]).removeprefix("Bearer ") in fake_server.valid
    assert fake_server.count("ExchangeApiToken") == 1
    assert "authorization" not in fake_server.last("ExchangeApiToken").metadata


def test_responses_arrive_whole(wire: SyncWire | AioWire) -> None:
    assert wire.authorize().username == "ada"
    assert [response.series_index for response in wire.read()] == [0, 1, 2]


@GRPC_ONLY
def test_streams_of_requests_arrive_whole(wire: SyncWire | AioWire) -> None:
    assert list(wire.send().request_ids) == ["0", "1", "2"]
    assert [response.request_id for response in wire.both()] == ["0", "1", "2"]


def test_anonymous_methods_go_without_a_token(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    assert wire.info().version == "1"
    assert "authorization" not in fake_server.last("GetServerInfo").metadata
    assert fake_server.count("ExchangeApiToken") == 0


def test_an_anonymous_channel_calls_what_needs_no_token(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(fake_server.target, api_token="")
    assert wire.info().version == "1"
    with pytest.raises(UnauthorizedException, match="no valid access token"):
        wire.authorize()
    assert fake_server.count("Authorize") == 1


def test_metadata_of_the_caller_is_kept(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    wire.authorize(metadata=(("x-trace", "7"),))
    seen = fake_server.last("Authorize").metadata
    assert seen["x-trace"] == "7"
    assert "authorization" in seen


def test_a_token_of_the_caller_wins(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    token = fake_server.grant().access_token
    wire.authorize(metadata=(("authorization", f"Bearer {token}"),))
    assert fake_server.last("Authorize").metadata["authorization"] == f"Bearer {token}"
    assert fake_server.count("ExchangeApiToken") == 0


def test_200_calls_on_an_expired_token_refresh_it_once(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    fake_server.lifetime = 0
    wire.authorize()
    fake_server.lifetime = 300
    assert len(wire.together(200)) == 200
    assert fake_server.count("ExchangeApiToken") == 1
    assert fake_server.count("RefreshToken") == 1


def test_200_calls_with_a_refused_token_exchange_once(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    wire.authorize()
    fake_server.valid.clear()
    assert len(wire.together(200)) == 200
    assert fake_server.count("ExchangeApiToken") == 2
    assert fake_server.count("RefreshToken") == 0


@pytest.mark.parametrize("call", ["authorize", "submit", "read"])
def test_a_refused_token_costs_one_more_attempt(fake_server: FakeServer, wire: SyncWire | AioWire, call: str) -> None:
    wire.authorize()
    fake_server.valid.clear()
    assert getattr(wire, call)()
    assert fake_server.count("ExchangeApiToken") == 2


def test_a_second_refusal_is_final(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    fake_server.script("Authorize", UNAUTHENTICATED, UNAUTHENTICATED)
    with pytest.raises(UnauthorizedException, match="token expired"):
        wire.authorize()
    assert fake_server.count("Authorize") == 2
    assert fake_server.count("ExchangeApiToken") == 2


@pytest.mark.parametrize(("call", "method"), [("send", "SubmitStream"), ("both", "SubmitAcknowledged")])
def test_a_stream_of_requests_is_not_sent_twice_but_the_next_call_works(
    fake_server: FakeServer, wire: SyncWire | AioWire, call: str, method: str
) -> None:
    wire.authorize()
    fake_server.valid.clear()
    with pytest.raises(UnauthorizedException):
        getattr(wire, call)()
    assert fake_server.count(method) == 1
    assert getattr(wire, call)()
    assert fake_server.count("ExchangeApiToken") == 2


def test_a_stream_that_has_begun_is_not_started_over(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    fake_server.script("ReadColumns, later", UNAUTHENTICATED)
    with pytest.raises(UnauthorizedException):
        wire.read()
    assert fake_server.count("ReadColumns") == 1


def test_a_rejected_api_token_says_so(fake_server: FakeServer, open_channel: OpenWire, arities: dict[str, str]) -> None:
    wire = open_channel(fake_server.target, api_token=ApiToken.mint(api_url="x"))
    for call in arities.values():
        with pytest.raises(UnauthorizedException, match="The server refused the API token: unknown API key"):
            getattr(wire, call)()
    assert fake_server.count("Authorize") == 0


def test_a_server_without_exchange_is_not_mistaken_for_one_that_is_down(
    fake_server: FakeServer, wire: SyncWire | AioWire
) -> None:
    fake_server.script("ExchangeApiToken", fail(grpc.StatusCode.UNIMPLEMENTED, "what?"))
    with pytest.raises(NeptuneApiError, match=r"UNIMPLEMENTED: Exchanging the API token .* failed: what\?") as caught:
        wire.authorize()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("call", ["authorize", "both"])
@pytest.mark.parametrize("provided", [False, True])
def test_access_tokens_from_elsewhere(
    fake_server: FakeServer, open_channel: OpenWire, provided: bool, call: str
) -> None:
    token = fake_server.grant().access_token
    wire = open_channel(fake_server.target, access_token=(lambda: token) if provided else token)
    assert getattr(wire, call)()
    assert fake_server.count("ExchangeApiToken") == 0


def test_a_static_token_that_is_refused_is_not_tried_again(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(fake_server.target, access_token="opaque")
    with pytest.raises(UnauthorizedException):
        wire.authorize()
    assert fake_server.count("Authorize") == 1


# Deadlines.


@pytest.mark.parametrize(("method", "call"), ARITIES.items())
def test_default_deadlines_reach_the_server(
    fake_server: FakeServer, open_channel: OpenWire, method: str, call: str
) -> None:
    wire = open_channel(
        api_token=fake_server.api_token, options=ChannelOptions(timeout=50, stream_timeout=500, exchange_timeout=20)
    )
    getattr(wire, call)()
    assert fake_server.last(method).seconds == pytest.approx(50 if method == "Authorize" else 500, abs=10)
    assert fake_server.last("ExchangeApiToken").seconds == pytest.approx(20, abs=10)


def test_a_deadline_of_the_caller_wins(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    wire.authorize(timeout=200)
    assert fake_server.last("Authorize").seconds == pytest.approx(200, abs=10)
    wire.authorize(timeout=math.inf)
    assert fake_server.last("Authorize").seconds is None
    wire.read(timeout=math.inf)
    assert fake_server.last("ReadColumns").seconds is None


@pytest.mark.parametrize(("method", "call"), ARITIES.items())
def test_a_server_that_hangs_ends_at_the_deadline(
    fake_server: FakeServer, open_channel: OpenWire, method: str, call: str
) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=ChannelOptions(timeout=0.2, stream_timeout=0.2))
    fake_server.script(method, fake_server.hang)
    with pytest.raises(DeadlineExceededException) as caught:
        getattr(wire, call)()
    assert isinstance(caught.value, grpc.aio.AioRpcError)


def test_an_exchange_that_hangs_ends_at_the_deadline_of_the_call(
    fake_server: FakeServer, wire: SyncWire | AioWire
) -> None:
    fake_server.script("ExchangeApiToken", fake_server.hang)
    with pytest.raises(DeadlineExceededException):
        wire.authorize(timeout=0.2)


@pytest.mark.parametrize("timeout", [0, -1, 0.0])
def test_a_deadline_in_the_past_is_exceeded(wire: SyncWire | AioWire, arities: dict[str, str], timeout: float) -> None:
    wire.authorize()
    for call in arities.values():
        with pytest.raises(DeadlineExceededException, match=r"passed before it was sent. \(neptune_api\.v1\."):
            getattr(wire, call)(timeout=timeout)


# Retries.


def test_idempotent_methods_are_tried_five_times(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=FAST)
    fake_server.script("Authorize", *[UNAVAILABLE] * 4)
    assert wire.authorize().username == "ada"
    assert fake_server.count("Authorize") == 5
    assert fake_server.last("Authorize").metadata["grpc-previous-rpc-attempts"] == "4"
    fake_server.script("Authorize", *[UNAVAILABLE] * 5)
    with pytest.raises(UnavailableException):
        wire.authorize()
    assert fake_server.count("Authorize") == 10


@pytest.mark.parametrize(
    ("method", "call"),
    [("RevokeApiToken", "revoke"), ("SubmitStream", "send"), ("SubmitAcknowledged", "both")],
)
def test_other_methods_are_tried_once(fake_server: FakeServer, open_channel: OpenWire, method: str, call: str) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=FAST)
    fake_server.script(method, UNAVAILABLE)
    with pytest.raises(UnavailableException):
        getattr(wire, call)()
    assert fake_server.count(method) == 1


def test_other_errors_are_not_worth_another_attempt(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    fake_server.script("Submit", fail(grpc.StatusCode.ABORTED))
    with pytest.raises(AbortedException):
        wire.submit()
    assert fake_server.count("Submit") == 1


def test_no_policy_means_no_retries(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=ChannelOptions(retry=None))
    fake_server.script("Authorize", UNAVAILABLE)
    with pytest.raises(UnavailableException):
        wire.authorize()
    assert fake_server.count("Authorize") == 1


def test_a_busy_server_says_when_to_come_back(fake_server: FakeServer, open_channel: OpenWire) -> None:
    slow = ChannelOptions(retry=RetryPolicy(initial_backoff=60, max_backoff=60))
    wire = open_channel(api_token=fake_server.api_token, options=slow)
    pushback = (("grpc-retry-pushback-ms", "1"),)
    fake_server.script("Submit", fail(grpc.StatusCode.RESOURCE_EXHAUSTED, trailing=pushback))
    assert wire.submit().request_id == "r"
    assert fake_server.count("Submit") == 2


def test_a_server_can_say_that_there_is_no_use(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    pushback = (("grpc-retry-pushback-ms", "-1"),)
    fake_server.script("Submit", fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", pushback))
    with pytest.raises(ResourceExhaustedException, match="quota"):
        wire.submit()
    assert fake_server.count("Submit") == 1


def test_writes_keep_one_idempotency_key_over_all_attempts(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=FAST)
    fake_server.script("Submit", UNAVAILABLE, UNAVAILABLE, UNAUTHENTICATED, UNAVAILABLE)
    wire.submit()
    wire.submit()
    keys = [call.metadata["x-idempotency-key"] for call in fake_server.calls if call.method == "Submit"]
    assert len(keys) == 6
    assert len(set(keys[:5])) == 1
    assert keys[5] != keys[0]
    assert len(str(keys[0])) == 32
    wire.authorize()
    assert "x-idempotency-key" not in fake_server.last("Authorize").metadata


def test_an_idempotency_key_of_the_caller_is_kept(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    wire.submit(metadata=(("x-idempotency-key", "mine"),))
    assert fake_server.last("Submit").metadata["x-idempotency-key"] == "mine"


def test_a_large_request_is_retried_too(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=FAST)
    fake_server.script("Submit", UNAVAILABLE)
    wire.submit("x" * 5_000_000)
    assert fake_server.count("Submit") == 2


# Sizes.


def test_20_mb_pass_both_ways(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    assert wire.submit("x" * 20_000_000).request_id == "x" * 20
    assert len(wire.big().token) == 20_000_000


def test_a_request_over_the_limit_is_not_sent(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=ChannelOptions(max_send_bytes=1000))
    with pytest.raises(ResourceExhaustedException, match=r"The request has 1,00\d bytes, the limit is 1,000"):
        wire.submit("x" * 996)
    assert fake_server.calls == []
    assert wire.submit("x" * 900)


def test_a_response_over_the_limit_is_an_error(fake_server: FakeServer, open_channel: OpenWire) -> None:
    wire = open_channel(api_token=fake_server.api_token, options=ChannelOptions(max_receive_bytes=1_000_000))
    with pytest.raises(ResourceExhaustedException, match="larger than max"):
        wire.big()
    assert fake_server.count("GetApiToken") == 1


def test_the_server_knows_who_calls(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    wire.info()
    assert str(fake_server.last("GetServerInfo").metadata["user-agent"]).startswith("neptune-api/")


# Errors.


@pytest.mark.parametrize(("method", "call"), ARITIES.items())
def test_every_kind_of_call_raises_our_exception_from_the_original(
    fake_server: FakeServer, wire: SyncWire | AioWire, method: str, call: str
) -> None:
    fake_server.script(method, fail(grpc.StatusCode.PERMISSION_DENIED, "viewers may not", (("x-why", "role"),)))
    with pytest.raises(PermissionDeniedException) as caught:
        getattr(wire, call)()
    error = caught.value
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == "viewers may not"
    assert ("x-why", "role") in tuple(error.trailing_metadata())
    assert str(error).startswith("PERMISSION_DENIED: viewers may not (neptune_api.v1.")
    assert method in str(error)
    assert isinstance(error, grpc.aio.AioRpcError)
    assert isinstance(error.__cause__, grpc.RpcError)
    assert not isinstance(error.__cause__, NeptuneApiError)


@pytest.mark.parametrize(("method", "call"), [("SubmitStream", "send"), ("SubmitAcknowledged", "both")])
def test_a_status_that_comes_while_requests_are_sent_is_the_servers(
    fake_server: FakeServer, wire: SyncWire | AioWire, method: str, call: str
) -> None:
    fake_server.script(method, *[fail(grpc.StatusCode.ABORTED, "stop")] * 30)
    for _ in range(30):  # grpc.aio alone gets half of them wrong
        with pytest.raises(AbortedException, match="stop"):
            getattr(wire, call)()


@GRPC_ONLY
@pytest.mark.parametrize("kind", ["sync", "aio"], indirect=True)
def test_a_server_may_end_a_call_well_before_it_has_all_requests(wire: SyncWire | AioWire, kind: str) -> None:
    requests = [models.RunOperation(run_id=name) for name in ("0", "last", *"x" * 20)]
    for _ in range(30):
        if isinstance(wire, SyncWire):
            answers = list(IngestServiceStub(wire.channel).SubmitAcknowledged(iter(requests)))
        else:
            answers = wire.run(_all(IngestServiceStub(wire.channel).SubmitAcknowledged, requests))
        assert [answer.request_id for answer in answers] == ["0"]


async def _all(method: Any, requests: list[models.RunOperation]) -> list[Any]:
    call = method(iter(requests))
    answers = [answer async for answer in call]
    assert await call.code() is grpc.StatusCode.OK
    return answers


def test_field_violations_arrive(fake_server: FakeServer, wire: SyncWire | AioWire) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="run_id", description="must not be empty")
    packed = any_pb2.Any()
    packed.Pack(bad)
    status = status_pb2.Status(code=3, message="wrong", details=[packed])
    trailing = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    fake_server.script("Submit", fail(grpc.StatusCode.INVALID_ARGUMENT, "wrong", trailing))
    with pytest.raises(InvalidArgumentException) as caught:
        wire.submit()
    assert caught.value.violations == (FieldViolation("run_id", "must not be empty"),)
    assert str(caught.value).endswith("[run_id: must not be empty]")


def test_nobody_there_is_unavailable(open_channel: OpenWire) -> None:
    server = FakeServer()
    server.stop()
    wire = open_channel(api_token=server.api_token, options=FAST)
    with pytest.raises(UnavailableException, match="Exchanging the API token"):
        wire.authorize()
    with pytest.raises(UnavailableException):
        wire.info()


def test_tokens_that_a_server_echoes_are_cut_out(
    fake_server: FakeServer, open_channel: OpenWire, arities: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [fake_server.api_token.encode(), fake_server.api_token.api_key]

    def echo(context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        token = str(metadata.get("authorization", fake_server.api_token.encode())).removeprefix("Bearer ")
        secrets.append(token)
        status = status_pb2.Status(code=7, message=f"what is {token}?").SerializeToString()
        context.set_trailing_metadata(((STATUS_DETAILS_KEY, status), ("x-echo", token)))
        context.abort(grpc.StatusCode.PERMISSION_DENIED, f"what is {token}?")

    def shown(call: Any) -> str:
        with pytest.raises(NeptuneApiError) as caught:
            call()
        error = caught.value
        assert error.__context__ is None
        assert error.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
        parts = [str(error), repr(error), error.debug_error_string(), list(error.trailing_metadata())]
        return str(parts) + "".join(traceback.format_exception(error))

    wire = open_channel(api_token=fake_server.api_token)
    fake_server.script("ExchangeApiToken", echo)
    texts = [shown(wire.authorize)]
    for method, call in arities.items():
        fake_server.script(method, echo)
        texts.append(shown(getattr(wire, call)))
    static = open_channel(fake_server.target, access_token="opaque-but-secret")
    fake_server.script("Authorize", echo)
    texts.append(shown(static.authorize))
    assert "opaque-but-secret" in secrets
    assert len(secrets) == 4 + len(arities)
    # gRPC's own logger shows errors of request streams at level DEBUG, which is not ours to change.
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("neptune_api")]
    for text in [*texts, *logged]:
        for secret in secrets:
            assert secret not in text


# grpc.Channel in full.


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


# grpc.aio.Channel in full.


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
