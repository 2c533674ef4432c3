"""Five lines, with asyncio: the same stub on a channel for coroutines.

    python examples/minimal_aio.py

A server inside this process takes the place of one elsewhere. With NEPTUNE_API_TOKEN set, `aio.channel()` needs no
arguments.
"""

from __future__ import annotations

import asyncio

from neptune_api import aio
from neptune_api.models import GetUserIdentityRequest
from neptune_api.server import LocalServer
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub


async def main(api_token: str) -> None:
    """Ask the server who is calling."""
    async with aio.channel(api_token=api_token) as channel:
        users = UsersServiceStub(channel)
        me = await users.GetUserIdentity(GetUserIdentityRequest())
        print(f"{me.username} of {', '.join(workspace.organization_name for workspace in me.workspaces)}")


with LocalServer() as server:
    asyncio.run(main(server.api_token))
