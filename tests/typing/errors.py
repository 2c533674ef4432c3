# ruff: noqa: TC001 # never run, so what an import costs does not matter
"""What exceptions are to a type checker: they can be caught as gRPC's and carry what the server said."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from typing_extensions import assert_type

from neptune_api import NeptuneApiError, exceptions, models
from neptune_api.exceptions import InvalidTokenError, NotFoundException, UnauthorizedException
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub


def caught(stub: UsersServiceStub) -> None:
    try:
        stub.GetUserIdentity(models.GetUserIdentityRequest())
    except NotFoundException as error:
        assert_type(error.code(), grpc.StatusCode)
        assert_type(error.details(), str)
    except NeptuneApiError as error:
        assert_type(error.error_info, exceptions.ErrorInfo | None)
        assert_type([violation.field for violation in error.violations], list[str])
        assert_type(error.retry_delay, float | None)
        for key, value in error.trailing_metadata():
            assert_type(key, str)
            assert_type(value, str | bytes)


def are_those_of_grpc(error: NeptuneApiError, unauthorized: UnauthorizedException, token: InvalidTokenError) -> None:
    rpc_error: grpc.RpcError = error
    aio_error: grpc.aio.AioRpcError = error
    base: NeptuneApiError = unauthorized
    same: UnauthorizedException = token
    value_error: ValueError = token
    assert_type((rpc_error.args, aio_error.args, base.args, same.args, value_error.args)[0], tuple[Any, ...])


def by_code(code: grpc.StatusCode) -> None:
    assert_type(exceptions.exception_class(code), type[NeptuneApiError])
    assert_type(exceptions.HTTP_STATUS[code], int)
    assert_type(exceptions.code_from_http(404), grpc.StatusCode)
