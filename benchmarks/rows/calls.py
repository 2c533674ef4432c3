"""One small call through our channel and through a bare stub, to the same server."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from benchmarks.processes import Server
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from neptune_api.models import ExchangeApiTokenRequest, GetUserIdentityRequest
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.rounds import Bench

_CALLS: Final = 500
_SYNC: Final = "bare stub, token as metadata"
_AIO: Final = "bare asyncio stub, token as metadata"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    calls = bench.size(_CALLS, least=20)
    request = GetUserIdentityRequest()
    runner = asyncio.new_event_loop()
    with (
        Server(bench.folder / "data") as server,
        server.channel() as channel,
        grpc.insecure_channel(server.grpc_target) as bare_channel,
    ):
        answer = AuthServiceStub(bare_channel).ExchangeApiToken(ExchangeApiTokenRequest(api_token=server.api_token))
        metadata = (("authorization", f"Bearer {answer.access_token}"),)
        ours, bare = UsersServiceStub(channel), UsersServiceStub(bare_channel)

        def sync_ours() -> float:
            started = time.perf_counter()
            for _ in range(calls):
                ours.GetUserIdentity(request)
            return calls / (time.perf_counter() - started)

        def sync_bare() -> float:
            started = time.perf_counter()
            for _ in range(calls):
                bare.GetUserIdentity(request, metadata=metadata)
            return calls / (time.perf_counter() - started)

        async def connect() -> tuple[grpc.aio.Channel, grpc.aio.Channel]:
            return server.aio_channel(), grpc.aio.insecure_channel(server.grpc_target)

        aio_channel, aio_bare_channel = runner.run_until_complete(connect())
        aio_ours_stub, aio_bare_stub = UsersServiceStub(aio_channel), UsersServiceStub(aio_bare_channel)

        async def aio_ours() -> float:
            started = time.perf_counter()
            for _ in range(calls):
                await aio_ours_stub.GetUserIdentity(request)
            return calls / (time.perf_counter() - started)

        async def aio_bare() -> float:
            started = time.perf_counter()
            for _ in range(calls):
                await aio_bare_stub.GetUserIdentity(request, metadata=metadata)
            return calls / (time.perf_counter() - started)

        cases: dict[str, Callable[[], float]] = {
            "sync": sync_ours,
            _SYNC: sync_bare,
            "aio": lambda: runner.run_until_complete(aio_ours()),
            _AIO: lambda: runner.run_until_complete(aio_bare()),
        }
        for case in cases.values():
            case()  # connects, and fetches a token
        figures = interleave(bench, 21, cases)

        async def disconnect() -> None:
            await aio_channel.close()
            await aio_bare_channel.close()

        runner.run_until_complete(disconnect())
    runner.close()
    for name, reference, least in (("sync", _SYNC, 0.9), ("aio", _AIO, 0.85)):
        yield Row(
            name=f"calls-{name}",
            what=f"GetUserIdentity, one call after the other, {'threads' if name == 'sync' else 'asyncio'}",
            unit="calls/s",
            figures=figures[name],
            budget=Budget(least, ratio_to=reference),
            references=(Reference(reference, figures[reference]),),
        )
