# ruff: noqa: TC003 # never run, so what an import costs does not matter
"""What stubs of a plain grpc.Channel are to a type checker."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from typing_extensions import assert_type

from neptune_api import models
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub


def unary(channel: grpc.Channel) -> None:
    stub = AuthServiceStub(channel)
    assert_type(stub, AuthServiceStub)
    assert_type(stub.Authorize(models.AuthorizeRequest()), models.AuthorizedUser)
    assert_type(stub.Authorize(models.AuthorizeRequest(), timeout=1.5).username, str)
    assert_type(stub.Authorize.future(models.AuthorizeRequest()).result(), models.AuthorizedUser)
    answer, call = stub.Authorize.with_call(models.AuthorizeRequest(), metadata=(("key", "value"),))
    assert_type(answer, models.AuthorizedUser)
    assert_type(call.code(), grpc.StatusCode)


def server_stream(channel: grpc.Channel) -> None:
    stub = SeriesServiceStub(channel)
    for message in stub.ReadColumns(models.ReadColumnsRequest()):
        assert_type(message, models.ReadColumnsResponse)
        assert_type(list(message.columns.values.values), list[float])
        assert_type(list(message.columns.steps.micros), list[int])


def client_stream(channel: grpc.Channel, operations: Iterator[models.RunOperation]) -> None:
    stub = IngestServiceStub(channel)
    assert_type(stub.SubmitStream(operations), models.SubmitResponse)
    assert_type(list(stub.SubmitStream(operations, timeout=60).request_ids), list[str])


def bidirectional_stream(channel: grpc.Channel, operations: Iterator[models.RunOperation]) -> None:
    stub = IngestServiceStub(channel)
    for receipt in stub.SubmitAcknowledged(operations):
        assert_type(receipt, models.SubmitResponse)


def intercepted(channel: grpc.Channel, interceptor: grpc.UnaryUnaryClientInterceptor) -> None:
    stub = AuthServiceStub(grpc.intercept_channel(channel, interceptor))
    assert_type(stub, AuthServiceStub)
