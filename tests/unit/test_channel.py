"""Channels against a real server: tokens on every kind of call, deadlines, retries, errors. Both kinds, both wires."""

from __future__ import annotations

import logging
import math
import traceback
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from neptune_api import models
from neptune_api.credentials import ApiToken
from neptune_api.exceptions import (
    STATUS_DETAILS_KEY,
    AbortedException,
    DeadlineExceededException,
    FieldViolation,
    InvalidArgumentException,
    NeptuneApiError,
    PermissionDeniedException,
    ResourceExhaustedException,
    UnauthorizedException,
    UnavailableException,
)
from neptune_api.options import ChannelOptions, RetryPolicy
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.unit.wire import (
    ARITIES,
    FAST,
    UNAUTHENTICATED,
    UNAVAILABLE,
    AioWire,
    FakeServer,
    SyncWire,
    fail,
)

if TYPE_CHECKING:
    from tests.unit.conftest import OpenWire

GRPC_ONLY = pytest.mark.parametrize("door", ["grpc"], indirect=True)
"""For streams of requests, which HTTP cannot carry."""


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
