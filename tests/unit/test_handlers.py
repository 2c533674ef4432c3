"""The guard around every RPC, without a door: identity, deadlines, arities, faults."""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.server import limits
from neptune_api.server.errors import StatusError, invalid, unauthenticated
from neptune_api.server.handlers import Handler, collect_handlers
from neptune_api.server.identity import Caller, current_caller
from neptune_api.server.store.faults import StoreClosedError
from neptune_api.v1 import config_service_pb2_grpc, ingest_service_pb2_grpc, series_service_pb2_grpc
from neptune_api.v1.config_service_pb2 import ClientConfig, GetClientConfigRequest
from neptune_api.v1.ingest_pb2 import RequestStatus, RunOperation, SubmitResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.v1.ingest_service_pb2 import GetRequestStatusRequest

CALLER = Caller(7, "00000000-0000-0000-0000-000000000007", "seven")
SECRET = "eyJhcGlfa2V5Ijoic2VjcmV0LXNlY3JldC1zZWNyZXQifQ=="


class Call:
    """A call that came by no door."""

    def __init__(self, authorization: str | bytes | None = "Bearer good", remaining: float | None = None) -> None:
        self._metadata = () if authorization is None else (("authorization", authorization),)
        self._remaining = remaining

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return (("x-other", "1"), *self._metadata)

    def is_active(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return self._remaining


def authenticate(authorization: str | None) -> Caller:
    if authorization != "Bearer good":
        raise unauthenticated(f"no: {authorization}")
    return CALLER


# The methods of servicers are named after their RPCs.


class Ingest(ingest_service_pb2_grpc.IngestServiceServicer):
    """One RPC of every arity but a response stream alone, and one that does what the test wants."""

    def __init__(self, behave: Callable[[], Any] = lambda: None) -> None:
        self.behave = behave
        self.closed = 0

    def Submit(self, request: RunOperation, context: Any) -> SubmitResponse:  # noqa: N802
        self.behave()
        return SubmitResponse(request_ids=[request.run_id, current_caller().username])

    def SubmitStream(self, request_iterator: Iterator[RunOperation], context: Any) -> SubmitResponse:  # noqa: N802
        return SubmitResponse(request_ids=[f"{current_caller().username}/{each.run_id}" for each in request_iterator])

    def SubmitAcknowledged(self, request_iterator: Iterator[RunOperation], context: Any) -> Iterator[SubmitResponse]:  # noqa: N802
        try:
            for each in request_iterator:
                self.behave()
                yield SubmitResponse(request_ids=[f"{current_caller().username}/{each.run_id}"])
        finally:
            self.closed += 1

    def GetRequestStatus(self, request: GetRequestStatusRequest, context: Any) -> RequestStatus:  # noqa: N802
        return SubmitResponse()  # type: ignore[return-value] # the fault to be found


class Config(config_service_pb2_grpc.ConfigServiceServicer):
    """An RPC that needs no token."""

    def GetClientConfig(self, request: GetClientConfigRequest, context: Any) -> ClientConfig:  # noqa: N802
        with pytest.raises(LookupError):
            current_caller()
        return ClientConfig(api_url="there")


def handler(name: str, servicer: object | None = None) -> Handler:
    servicer = Ingest() if servicer is None else servicer
    return next(each for each in collect_handlers([servicer], authenticate).values() if each.method.name == name)


def guarded(name: str, servicer: object | None = None) -> Callable[..., Any]:
    found = handler(name, servicer)
    return found.guarded(found.parse, found.serialize)


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


RUN = RunOperation(run_id="r").SerializeToString()


def test_collects_every_rpc_of_a_servicer() -> None:
    found = collect_handlers([Ingest(), Config()], authenticate)
    assert found.keys() > {"/neptune_api.v1.IngestService/Submit", "/neptune_api.v1.ConfigService/GetClientConfig"}
    assert {path: each.path for path, each in found.items()} == {path: path for path in found}
    acknowledged = found["/neptune_api.v1.IngestService/SubmitAcknowledged"]
    assert (acknowledged.request_streaming, acknowledged.response_streaming) == (True, True)
    assert acknowledged.request_type is RunOperation
    assert acknowledged.name == "IngestService.SubmitAcknowledged"
    with pytest.raises(TypeError, match="no subclass of a generated servicer"):
        collect_handlers([object()], authenticate)


def test_calls_with_the_caller() -> None:
    assert list(SubmitResponse.FromString(guarded("Submit")(RUN, Call())).request_ids) == ["r", "seven"]
    with pytest.raises(LookupError):
        current_caller()


def test_request_stream() -> None:
    answer = guarded("SubmitStream")(iter([RUN, RUN]), Call())
    assert list(SubmitResponse.FromString(answer).request_ids) == ["seven/r", "seven/r"]


def test_response_stream_keeps_its_caller_to_itself() -> None:
    responses = guarded("SubmitAcknowledged")(iter([RUN, RUN]), Call())
    for response in responses:
        assert list(SubmitResponse.FromString(response).request_ids) == ["seven/r"]
        with pytest.raises(LookupError):
            current_caller()


def test_closing_a_response_stream_ends_the_servicer() -> None:
    servicer = Ingest()
    responses = guarded("SubmitAcknowledged", servicer)(iter([RUN, RUN]), Call())
    next(responses)
    responses.close()
    assert servicer.closed == 1


@pytest.mark.parametrize("authorization", [None, "Bearer bad", b"Bearer good"])
def test_without_identity_nothing_is_called(authorization: str | bytes | None) -> None:
    servicer = Ingest(failing(AssertionError("called")))
    for name, payload in (("Submit", RUN), ("SubmitStream", iter([RUN]))):
        with pytest.raises(StatusError) as caught:
            guarded(name, servicer)(payload, Call(authorization))
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(StatusError):
        next(guarded("SubmitAcknowledged", servicer)(iter([RUN]), Call(authorization)))


def test_anonymous_rpcs_need_no_token() -> None:
    answer = guarded("GetClientConfig", Config())(b"", Call("Bearer bad"))
    assert ClientConfig.FromString(answer).api_url == "there"


def test_expired_deadline_ends_before_it_begins() -> None:
    with pytest.raises(StatusError, match=r"IngestService\.Submit") as caught:
        guarded("Submit", Ingest(failing(AssertionError("called"))))(RUN, Call(remaining=0))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert guarded("Submit")(RUN, Call(remaining=1.5))


def test_malformed_request() -> None:
    with pytest.raises(StatusError, match="3 bytes") as caught:
        guarded("Submit")(b"\xff\xff\xff", Call())
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    responses = guarded("SubmitAcknowledged")(iter([RUN, b"\xff"]), Call())
    assert next(responses)
    with pytest.raises(StatusError):
        next(responses)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_a_status(data: bytes) -> None:
    with contextlib.suppress(StatusError):
        assert isinstance(handler("Submit").parse(data), RunOperation)


def test_oversized_request() -> None:
    with pytest.raises(StatusError, match="33,554,433 bytes, the limit is 33,554,432") as caught:
        guarded("Submit")(bytes(limits.MAX_REQUEST_BYTES + 1), Call())
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_status_errors_pass() -> None:
    with pytest.raises(StatusError) as caught:
        guarded("Submit", Ingest(failing(invalid("run_id", "is bad"))))(RUN, Call())
    assert caught.value.violations == (("run_id", "is bad"),)


def test_faults_become_incidents(caplog: pytest.LogCaptureFixture) -> None:
    servicer = Ingest(failing(KeyError(f"secret {SECRET}")))
    responses = guarded("SubmitAcknowledged", servicer)(iter([RUN]), Call())
    calls: list[Callable[[], Any]] = [lambda: guarded("Submit", servicer)(RUN, Call()), lambda: next(responses)]
    for call in calls:
        caplog.clear()
        with caplog.at_level(logging.ERROR), pytest.raises(StatusError) as caught:
            call()
        assert caught.value.code is grpc.StatusCode.INTERNAL
        assert "secret" not in str(caught.value.status())
        assert caught.value.reason == "INCIDENT"
        incident = caught.value.metadata["incident"]
        assert re.fullmatch("[0-9a-f]{32}", incident)
        assert incident in caught.value.message
        assert incident in caplog.text
        assert "KeyError" in caplog.text
        assert SECRET not in caplog.text
        assert caught.value.__cause__ is None


def test_answer_of_the_wrong_type_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL), pytest.raises(StatusError) as caught:
        guarded("GetRequestStatus")(b"", Call())
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_closed_store_is_worth_another_try() -> None:
    with pytest.raises(StatusError) as caught:
        guarded("Submit", Ingest(failing(StoreClosedError("closed"))))(RUN, Call())
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.retry_seconds


def test_caller_that_goes_away_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    def requests() -> Iterator[bytes]:
        yield RUN
        raise grpc.RpcError

    with pytest.raises(StatusError) as caught:
        guarded("SubmitStream")(requests(), Call())
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert not caplog.records


def test_rpcs_that_are_not_overridden_are_unimplemented() -> None:
    servicer = series_service_pb2_grpc.SeriesServiceServicer()
    handlers = collect_handlers([servicer], authenticate)
    assert handlers
    for each in handlers.values():
        payload: Any = iter([b""]) if each.request_streaming else b""
        with pytest.raises(StatusError, match="not part of this version") as caught:
            list(each.guarded(each.parse, bytes)(payload, Call()))
        assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
