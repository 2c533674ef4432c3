# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (what cannot be found is of unknown type too)
"""Mistakes that type checkers must find: each line expects exactly the errors that its two comments name.

A comment whose error does not come up is an error of its own, under mypy --strict and under pyright as
tests/test_typing.py sets it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import neptune_api
from neptune_api import models
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc
    import grpc.aio

    from neptune_api.api.client import Client


def use(*values: object) -> None:
    """Take values, so that an expression is worth writing."""


def wrong_messages(operation: models.RunOperation) -> None:
    models.RunOperation(projct="w/p")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no such field
    models.RunOperation(project=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a text
    models.RunOperation(update=models.Step())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a snapshot
    models.ProjectMember(role="manager")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a value
    owner = models.WorkspaceRole.WORKSPACE_ROLE_OWNER
    models.ProjectMember(role=owner)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # of another enum
    models.NoSuchMessage()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # not there
    operation.runid = "run"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # run_id
    operation.update = models.UpdateRunSnapshot()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # CopyFrom
    operation.HasField("run_id")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no presence
    operation.WhichOneof("op")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # no oneof


def wrong_calls(channel: grpc.Channel, operation: models.RunOperation) -> None:
    stub = AuthServiceStub(channel)
    stub.Authorise()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # Authorize
    stub.Authorize()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a request
    stub.Authorize(models.GetApiTokenRequest())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another's
    user = stub.Authorize(models.AuthorizeRequest())
    use(user.user_name)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # username
    ingest = IngestServiceStub(channel)
    ingest.SubmitStream(operation)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an iterator
    answer = ingest.SubmitStream(iter([operation]))
    use(*answer)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # a single message
    columns = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
    use(columns.columns)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # a stream
    AuthServiceStub("grpc://h:1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # a channel


async def missing_await(channel: grpc.aio.Channel, operations: Iterator[models.RunOperation]) -> None:
    stub = AuthServiceStub(channel)
    call = stub.Authorize(models.AuthorizeRequest())
    use(call.username)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # await call
    receipts = IngestServiceStub(channel).SubmitAcknowledged(operations)
    use(*receipts)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # async for
    use(stub.Authorize.future)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # not in aio


def wrong_channels(token: bytes) -> None:
    neptune_api.channel(api_token=token)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a text
    neptune_api.channel(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # in ChannelOptions
    neptune_api.chanel()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # channel


async def mixed_up_channels() -> None:
    async with neptune_api.channel():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]  # with
        pass
    with neptune_api.aio.channel():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]  # async with
        pass


def wrong_facade(client: Client) -> None:
    client.post_create_run(project="w/p")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # project_identifier
    request = models.GetRunRequest()
    client.post_create_run(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another's
    client.post_create_run("w/p")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # keywords only
    client.post_submit_stream()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # stubs
    user = client.post_get_user_identity()
    use(user.user_id)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # id
