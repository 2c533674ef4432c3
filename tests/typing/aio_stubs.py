# ruff: noqa: TC003 # never run, so what an import costs does not matter
"""What stubs of a plain grpc.aio.Channel are to a type checker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
from typing_extensions import assert_type

from neptune_api import models
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceAsyncStub, AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub


async def unary(channel: grpc.aio.Channel) -> None:
    stub = AuthServiceStub(channel)
    assert_type(stub, AuthServiceAsyncStub)
    assert_type(await stub.Authorize(models.AuthorizeRequest()), models.AuthorizedUser)
    call = stub.Authorize(models.AuthorizeRequest(), timeout=1.5)
    assert_type((await call).username, str)
    assert_type(await call.code(), grpc.StatusCode)


async def server_stream(channel: grpc.aio.Channel) -> None:
    stub = SeriesServiceStub(channel)
    async for message in stub.ReadColumns(models.ReadColumnsRequest()):
        assert_type(message, models.ReadColumnsResponse)
        assert_type(list(message.columns.values.values), list[float])


async def client_stream(
    channel: grpc.aio.Channel, operations: AsyncIterator[models.RunOperation], ready: Iterator[models.RunOperation]
) -> None:
    stub = IngestServiceStub(channel)
    assert_type(await stub.SubmitStream(operations), models.SubmitResponse)
    assert_type(await stub.SubmitStream(ready), models.SubmitResponse)


async def bidirectional_stream(channel: grpc.aio.Channel, operations: AsyncIterator[models.RunOperation]) -> None:
    stub = IngestServiceStub(channel)
    async for receipt in stub.SubmitAcknowledged(operations):
        assert_type(receipt, models.SubmitResponse)
