"""aio channels and forks: a channel stays with its process, its child opens another."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from typing import TYPE_CHECKING, Any

from neptune_api import aio
from neptune_api.models import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests.processes.scripts.common import TARGET, in_child, outcome, tell

if TYPE_CHECKING:
    import grpc.aio


async def ask(channel: grpc.aio.Channel) -> str:
    """Make a call that needs a token; return its answer."""
    return (await UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest())).username


async def ask_anew() -> str:
    """Do so over a channel of one's own."""
    async with aio.channel(TARGET) as channel:
        return await ask(channel)


async def leave(channel: grpc.aio.Channel) -> str:
    """Close a channel."""
    await channel.close()
    return "left"


def work(channel: grpc.aio.Channel) -> dict[str, Any]:
    """Do all that a child may try."""
    began = time.monotonic()
    return {
        "same": outcome(lambda: asyncio.run(ask(channel))),
        "new": outcome(lambda: asyncio.run(ask_anew())),
        "left": outcome(lambda: asyncio.run(leave(channel))),
        "seconds": time.monotonic() - began,
    }


async def main() -> None:
    """Tell how each went."""
    channel = aio.channel(TARGET)
    await ask(channel)
    child = in_child(functools.partial(work, channel), end=os._exit)
    still = await ask(channel)
    await channel.close()
    del channel  # what has served it ends with it
    over = in_child(lambda: outcome(lambda: asyncio.run(ask_anew())), end=os._exit)
    tell(child=child.told, code=child.code, parent=still, over=over.told, again=await ask_anew())


asyncio.run(main())
