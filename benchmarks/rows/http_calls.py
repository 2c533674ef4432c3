"""One small call over the HTTP wire, beside the client of neptune-api 0.26 and the gRPC wire, to the same server."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import neptune_api
from benchmarks.processes import Server
from benchmarks.references import NeptuneApi
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from neptune_api.models import GetClientConfigRequest
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.rounds import Bench

_CALLS: Final = 500
_IN_FLIGHT: Final = 32
_GRPC: Final = "the gRPC wire"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    calls = bench.size(_CALLS, least=2 * _IN_FLIGHT)
    request = GetClientConfigRequest()
    loop = asyncio.new_event_loop()
    with Server(bench.folder / "data") as server, NeptuneApi.beside(bench, server.http_url) as peer:
        grpc_url = f"grpc://{server.grpc_target}"

        def one_by_one(url: str) -> Callable[[], float]:
            stub = ConfigServiceStub(neptune_api.channel(url, api_token=""))

            def run() -> float:
                started = time.perf_counter()
                for _ in range(calls):
                    stub.GetClientConfig(request)
                return calls / (time.perf_counter() - started)

            return run

        def in_flight(url: str) -> Callable[[], float]:
            async def connect() -> Any:
                return neptune_api.aio.channel(url, api_token="")

            stub = ConfigServiceStub(loop.run_until_complete(connect()))

            async def run() -> float:
                left = iter(range(calls))

                async def work() -> None:
                    for _ in left:
                        await stub.GetClientConfig(request)

                started = time.perf_counter()
                await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
                return calls / (time.perf_counter() - started)

            return lambda: loop.run_until_complete(run())

        sync: dict[str, Callable[[], float]] = {"ours": one_by_one(server.http_url), _GRPC: one_by_one(grpc_url)}
        aio: dict[str, Callable[[], float]] = {"ours": in_flight(server.http_url), _GRPC: in_flight(grpc_url)}
        if peer is not None:
            other = peer
            sync[other.name] = lambda: other.calls(calls)
            aio[other.name] = lambda: other.calls(calls, in_flight=_IN_FLIGHT)
        for case in (*sync.values(), *aio.values()):
            case()
        found = {"sync": interleave(bench, 15, sync), "aio": interleave(bench, 15, aio)}
    loop.close()
    sync_over, aio_over = found["sync"].pop("ours"), found["aio"].pop("ours")
    sync_beside, aio_beside = (
        {name: Reference(name, values) for name, values in found[kind].items()} for kind in ("sync", "aio")
    )
    yield Row(
        name="http-calls-grpc",
        what="GetClientConfig over HTTP, one call after the other, threads",
        unit="calls/s",
        figures=sync_over,
        budget=Budget(1.0, ratio_to=_GRPC),
        references=(sync_beside.pop(_GRPC),),
    )
    if peer is not None:
        yield Row(
            name="http-calls-sync",
            what="the same, beside the older package",
            unit="calls/s",
            figures=sync_over,
            budget=Budget(2.0, ratio_to=peer.name),
            references=tuple(sync_beside.values()),
        )
    yield Row(
        name="http-calls-aio",
        what=f"GetClientConfig over HTTP, {_IN_FLIGHT} in flight, asyncio",
        unit="calls/s",
        figures=aio_over,
        budget=None if peer is None else Budget(10.0, ratio_to=peer.name),
        references=tuple(aio_beside.values()),
    )
