"""The exception per status code: what it is, what it says, what it carries."""

from __future__ import annotations

import copy
import http
import pickle
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from neptune_api import exceptions
from neptune_api.exceptions import (
    HTTP_STATUS,
    STATUS_DETAILS_KEY,
    ErrorInfo,
    FieldViolation,
    InvalidArgumentException,
    InvalidTokenError,
    NeptuneApiError,
    NotFoundException,
    UnauthorizedException,
    UnavailableException,
    code_from_http,
    exception_class,
)

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def details_metadata(*details: Any) -> tuple[tuple[str, str | bytes], ...]:
    status = status_pb2.Status(code=3, message="wrong")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (("server", "x"), (STATUS_DETAILS_KEY, status.SerializeToString()))


@pytest.mark.parametrize("code", FAILURES)
def test_every_code_has_a_class_of_its_own(code: grpc.StatusCode) -> None:
    cls = exception_class(code)
    assert cls.status_code is code
    assert cls("x").code() is code
    assert issubclass(cls, NeptuneApiError)
    assert cls.__doc__
    assert cls.__name__ in exceptions.__all__
    assert sum(exception_class(other) is cls for other in FAILURES) == 1


def test_what_is_no_error_has_the_class_of_the_unknown() -> None:
    assert exception_class(grpc.StatusCode.OK) is exception_class(grpc.StatusCode.UNKNOWN)


def test_an_exception_is_what_callers_of_either_api_catch() -> None:
    error = NotFoundException("no such run", method="s/M", trailing_metadata=(("a", "b"),))
    assert isinstance(error, (grpc.RpcError, grpc.aio.AioRpcError, grpc.Call, grpc.Future))
    assert isinstance(error, grpc.aio.AioRpcError)
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such run"
    assert tuple(error.trailing_metadata()) == (("a", "b"),)
    assert tuple(error.initial_metadata()) == ()


def test_an_undecodable_token_is_unauthenticated_and_a_value_error() -> None:
    error = InvalidTokenError("not base64")
    assert isinstance(error, UnauthorizedException)
    assert isinstance(error, ValueError)
    assert str(error) == "not base64"
    assert exception_class(grpc.StatusCode.UNAUTHENTICATED) is UnauthorizedException


def test_an_exception_is_a_call_that_has_ended() -> None:
    error = NotFoundException("gone")
    called: list[object] = []
    error.add_done_callback(called.append)
    assert called == [error]
    assert error.exception() is error
    with pytest.raises(NotFoundException):
        error.result()
    assert error.traceback() is not None
    assert (error.done(), error.running(), error.is_active(), error.cancelled()) == (True, False, False, False)
    assert (error.cancel(), error.add_callback(lambda: None), error.time_remaining()) == (False, False, 0.0)


def test_str_says_code_sentence_and_method() -> None:
    assert str(UnavailableException("down", method="a.B/C")) == "UNAVAILABLE: down (a.B/C)"
    assert str(UnavailableException()) == "UNAVAILABLE"
    assert repr(UnavailableException("down")) == "<UnavailableException UNAVAILABLE: down>"


def test_str_names_the_fields_that_the_sentence_does_not() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="run_id", description="is empty")
    bad.field_violations.add(field="project", description="has no slash")
    error = InvalidArgumentException("run_id: is empty", method="a.B/C", trailing_metadata=details_metadata(bad))
    assert str(error) == "INVALID_ARGUMENT: run_id: is empty (a.B/C) [project: has no slash]"
    assert error.violations == (FieldViolation("run_id", "is empty"), FieldViolation("project", "has no slash"))


def test_status_details_are_decoded() -> None:
    error = UnavailableException(
        trailing_metadata=details_metadata(
            error_details_pb2.ErrorInfo(reason="BUSY", domain="neptune-api", metadata={"queue": "7"}),
            error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
        )
    )
    assert error.error_info == ErrorInfo("BUSY", "neptune-api", {"queue": "7"})
    assert error.retry_delay == 1.5
    assert error.violations == ()


@pytest.mark.parametrize(
    "trailing",
    [
        (),
        ((STATUS_DETAILS_KEY, b"\xff\xff\xff"),),
        ((STATUS_DETAILS_KEY, "text"),),
        (
            (
                STATUS_DETAILS_KEY,
                status_pb2.Status(
                    details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")]
                ).SerializeToString(),
            ),
        ),
        details_metadata(error_details_pb2.RetryInfo()),
    ],
)
def test_missing_and_malformed_details_are_no_details(trailing: tuple[tuple[str, str | bytes], ...]) -> None:
    error = UnavailableException("down", trailing_metadata=trailing)
    assert (error.error_info, error.violations, error.retry_delay) == (None, (), None)
    assert str(error) == "UNAVAILABLE: down"


@pytest.mark.parametrize("twin_of", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
@pytest.mark.parametrize("cls", [NotFoundException, InvalidTokenError])
def test_exceptions_survive_pickling_and_copying(cls: type[NeptuneApiError], twin_of: Any) -> None:
    error = cls(
        "gone",
        method="a.B/C",
        initial_metadata=grpc.aio.Metadata(("i", "1")),
        trailing_metadata=details_metadata(error_details_pb2.ErrorInfo(reason="R")),
        debug_error_string="debug",
    )
    twin = twin_of(error)
    assert type(twin) is cls
    assert str(twin) == str(error)
    assert twin.error_info == error.error_info
    assert tuple(twin.initial_metadata()) == (("i", "1"),)
    assert twin.debug_error_string() == "debug"


def test_every_code_has_an_http_status_that_released_clients_know() -> None:
    assert set(HTTP_STATUS) == set(grpc.StatusCode)
    for status in HTTP_STATUS.values():
        http.HTTPStatus(status)
    # Only what may go better the next time has a status that they repeat.
    repeated = {code for code, status in HTTP_STATUS.items() if status == 429 or status >= 500}
    assert repeated == {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DATA_LOSS,
    }


# The codes that come back as they went; the rest share a status with one of these.
LOSSLESS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
}


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_the_way_back_from_http_is_lossy_where_it_says_so(code: grpc.StatusCode) -> None:
    assert (code_from_http(HTTP_STATUS[code]) is code) == (code in LOSSLESS)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (204, grpc.StatusCode.OK),
        (302, grpc.StatusCode.UNKNOWN),
        (418, grpc.StatusCode.FAILED_PRECONDITION),
        (422, grpc.StatusCode.INVALID_ARGUMENT),
        (499, grpc.StatusCode.CANCELLED),
        (502, grpc.StatusCode.UNAVAILABLE),
        (520, grpc.StatusCode.UNAVAILABLE),
        (0, grpc.StatusCode.UNKNOWN),
    ],
)
def test_statuses_of_proxies_have_a_code(status: int, code: grpc.StatusCode) -> None:
    assert code_from_http(status) is code
