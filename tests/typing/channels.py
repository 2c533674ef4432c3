"""What neptune_api.channel(), its asyncio twin and the other public names are to a type checker."""

from __future__ import annotations

import grpc
import grpc.aio
from typing_extensions import assert_type

import neptune_api
from neptune_api import ApiToken, ChannelOptions, RetryPolicy, models
from neptune_api.v1.users_service_pb2_grpc import UsersServiceAsyncStub, UsersServiceStub


def sync(token: str) -> None:
    assert_type(neptune_api.channel(), grpc.Channel)
    with neptune_api.channel("grpcs://example.com:443", api_token=token) as channel:
        assert_type(channel, grpc.Channel)
        stub = UsersServiceStub(channel)
        assert_type(stub, UsersServiceStub)
        identity = stub.GetUserIdentity(models.GetUserIdentityRequest())
        assert_type(identity, models.UserIdentity)
        assert_type(identity.id, str)
        assert_type([membership.role for membership in identity.workspaces], list[models.WorkspaceRole.ValueType])


async def asynchronous(token: ApiToken) -> None:
    assert_type(neptune_api.aio.channel(), grpc.aio.Channel)
    options = ChannelOptions(timeout=None, retry=RetryPolicy(max_attempts=1))
    async with neptune_api.aio.channel(api_token=token, options=options) as channel:
        assert_type(channel, grpc.aio.Channel)
        stub = UsersServiceStub(channel)
        assert_type(stub, UsersServiceAsyncStub)
        assert_type((await stub.GetUserIdentity(models.GetUserIdentityRequest())).id, str)


def tokens(text: str) -> None:
    token = ApiToken.parse(text)
    assert_type(token, ApiToken)
    assert_type(token.grpc_url, str | None)
    assert_type(token.encode(), str)
    assert_type(neptune_api.__version__, str)
