"""Logging with copies to a second server, and without: what the first server's callers pay for a mirror."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

import neptune_api
from benchmarks.processes import Server
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from neptune_api import Mirror
from neptune_api.models import CreateProjectRequest, RunOperation, Step, UpdateRunSnapshot, Value
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

    from benchmarks.rounds import Bench

_CALLS: Final = 300
_ALONE: Final = "no mirror"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the row. The second server takes connections and never answers, so that only the copying counts."""
    calls = bench.size(_CALLS, least=20)
    with Server(bench.folder / "data") as server, server.channel() as alone, socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        request = CreateProjectRequest(name="mirror", organization_identifier="local")
        project = ProjectsServiceStub(alone).CreateProject(request)
        snapshot = UpdateRunSnapshot(step=Step(whole=1), append={f"m/{i}": Value(float64=0.5) for i in range(20)})
        operation = RunOperation(project=project.id, run_id="run", update=snapshot)

        def submit(channel: grpc.Channel) -> float:
            stub = IngestServiceStub(channel)
            started = time.perf_counter()
            for _ in range(calls):
                stub.Submit(operation)
            return calls / (time.perf_counter() - started)

        target = f"grpc://127.0.0.1:{hole.getsockname()[1]}"
        with (
            Mirror(target, access_token="-", max_calls=1_000_000) as mirror,  # noqa: S106 # no token is asked for
            neptune_api.channel(f"grpc://{server.grpc_target}", api_token=server.api_token, mirror=mirror) as mirrored,
        ):
            cases: dict[str, Callable[[], float]] = {
                "mirrored": lambda: submit(mirrored),
                _ALONE: lambda: submit(alone),
            }
            for case in cases.values():
                case()  # connects, and fetches a token
            figures = interleave(bench, 15, cases)
    yield Row(
        name="mirror",
        what="Submit of 20 values, one call after the other, with a mirror whose server never answers",
        unit="calls/s",
        figures=figures["mirrored"],
        budget=Budget(0.9, ratio_to=_ALONE),
        references=(Reference(_ALONE, figures[_ALONE]),),
    )
