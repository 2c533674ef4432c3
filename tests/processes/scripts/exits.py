"""A program that ends in some way with everything open: channels, calls, streams, a server, an event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

import neptune_api
from neptune_api import aio
from neptune_api.models import GetUserIdentityRequest, ReadColumnsRequest
from neptune_api.server import LocalServer
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests.processes.scripts.common import TARGET, ask, open_channel

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE, WAY, HOLE = sys.argv[1:]
WHO: Final = GetUserIdentityRequest()
kept: Final[list[Any]] = []
"""What is still there when the program ends."""


def end() -> None:
    """End as asked for; for a signal, wait."""
    print("ready", flush=True)  # noqa: T201 # the test counts from here
    if WAY == "error":
        raise ValueError("the end")
    if WAY == "exit":
        sys.exit(3)


def in_thread(work: Any) -> None:
    """Do something on a thread that nobody waits for."""
    threading.Thread(target=work, daemon=True).start()


def never() -> Iterator[Any]:
    """Yield nothing, and do not end."""
    threading.Event().wait()
    yield


def calls() -> None:
    """Leave channels open, and calls that are never answered: in threads, as futures, as streams."""
    channel, nowhere = open_channel(), neptune_api.channel(HOLE, access_token="x")  # guards nothing
    ask(channel)
    users, series = UsersServiceStub(nowhere), SeriesServiceStub(nowhere)
    in_thread(lambda: users.GetUserIdentity(WHO))
    read, asked = series.ReadColumns(ReadColumnsRequest()), series.ReadColumns(ReadColumnsRequest())
    in_thread(lambda: next(read))
    in_thread(asked.code)
    channel.subscribe(kept.append, try_to_connect=True)
    ready = grpc.channel_ready_future(nowhere)
    kept.extend((channel, nowhere, users.GetUserIdentity.future(WHO), read, asked, ready))
    if TARGET.startswith("grpc"):
        kept.append(series.AppendColumnsStream(never()))
    time.sleep(0.1)


def server() -> None:
    """Leave a server running, with channels to it."""
    running = LocalServer().start()
    channels = [neptune_api.channel(url, api_token=running.api_token) for url in (running.grpc_url, running.http_url)]
    for channel in channels:
        ask(channel)
    ingest = IngestServiceStub(channels[0])
    # First one that ends: Python forgets the signal it dies of when another thread is importing at that moment.
    list(ingest.SubmitAcknowledged(iter(())))
    stream = ingest.SubmitAcknowledged(never())
    in_thread(lambda: next(stream))
    kept.extend((running, stream, *channels))
    time.sleep(0.1)


async def loop() -> None:
    """Leave calls and tasks on an event loop."""
    async with aio.channel(TARGET) as channel, aio.channel(HOLE, access_token="x") as nowhere:  # as above
        await UsersServiceStub(channel).GetUserIdentity(WHO)
        users, series = UsersServiceStub(nowhere), SeriesServiceStub(nowhere)

        async def read() -> NoReturn:
            async for _ in series.ReadColumns(ReadColumnsRequest()):
                pass
            raise AssertionError

        async def call() -> None:
            await users.GetUserIdentity(WHO)

        kept.extend((asyncio.ensure_future(call()), asyncio.ensure_future(read()), users.GetUserIdentity(WHO)))
        await asyncio.sleep(0.1)
        end()
        if WAY == "signal":
            await asyncio.sleep(60)


if STATE == "loop":
    asyncio.run(loop())
else:
    if STATE == "calls":
        calls()
    elif STATE == "server":
        server()
    end()
    if WAY == "signal":
        time.sleep(60)
