"""What the programs share: where to call, a run to log to, and children that tell how they fared."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import neptune_api
from neptune_api import columns
from neptune_api.models import (
    AttributesHolder,
    CreateRunRequest,
    GetUserIdentityRequest,
    ReadColumnsRequest,
    RunOperation,
    Step,
    TimeSeries,
    UpdateRunSnapshot,
    Value,
)
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

TARGET: Final = os.environ["TEST_TARGET"]
"""Address of the server on the wire under test; the API token is where it always is."""
PROJECT: Final = os.environ["TEST_PROJECT"]
PATIENCE: Final = 10.0


def tell(**facts: Any) -> None:
    """Tell the test, which reads the last line."""
    print(json.dumps(facts), flush=True)  # noqa: T201 # what the test reads


def open_channel(**arguments: Any) -> grpc.Channel:
    """Open a channel to the server."""
    return neptune_api.channel(TARGET, **arguments)


def ask(channel: grpc.Channel) -> str:
    """Make a call that needs a token; return its answer."""
    return UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username


def create_run(channel: grpc.Channel, run_id: str) -> None:
    """Create a run to log to."""
    RunsServiceStub(channel).CreateRun(CreateRunRequest(project_identifier=PROJECT, run_id=run_id))


def point(run_id: str, attribute: str, step: int, value: float) -> RunOperation:
    """Return the operation that logs a point."""
    snapshot = UpdateRunSnapshot(step=Step(whole=step), append={attribute: Value(float64=value)})
    return RunOperation(project=PROJECT, run_id=run_id, update=snapshot)


def log(channel: grpc.Channel, run_id: str, attribute: str, step: int, value: float) -> None:
    """Log a point."""
    IngestServiceStub(channel).Submit(point(run_id, attribute, step, value))


def read(channel: grpc.Channel, run_id: str, attributes: list[str], count: int) -> list[list[tuple[float, float]]]:
    """Return the points of some series as (step, value), waiting until there are `count` in all or more."""
    holder = AttributesHolder(identifier=f"CUSTOM/{PROJECT}/{run_id}", type="experiment")
    series = [TimeSeries(attribute=attribute, holder=holder) for attribute in attributes]
    end = time.monotonic() + PATIENCE
    while True:
        found = columns.collect(SeriesServiceStub(channel).ReadColumns(ReadColumnsRequest(series=series)))
        if sum(len(each.values) for each in found) >= count or time.monotonic() > end:
            return [list(zip(each.steps.tolist(), each.values.tolist(), strict=True)) for each in found]
        time.sleep(0.02)


def black_hole() -> tuple[socket.socket, str]:
    """Return a socket that takes connections and never answers, and its address on the wire under test."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen()
    return hole, f"{TARGET.partition(':')[0]}://127.0.0.1:{hole.getsockname()[1]}"


def outcome(call: Callable[[], Any]) -> dict[str, str]:
    """Return what a call returned or raised."""
    try:
        return {"answer": str(call())}
    except Exception as error:  # noqa: BLE001 # it is told
        return {"error": type(error).__name__, "text": str(error)}


@dataclass(frozen=True)
class Child:
    """How the child of a fork fared."""

    told: Any
    """What the child told; None if it ended or hung without a word."""
    code: int | None
    """How it ended; None if it hung."""


def in_child(work: Callable[[], Any], end: Callable[[int], NoReturn] = sys.exit) -> Child:
    """Fork; let the child do some work, tell what came of it and end: like any program, or with os._exit at once."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            os.write(writer, json.dumps(work()).encode())
        except Exception:  # noqa: BLE001 # it is shown
            traceback.print_exc()
            os._exit(1)
        end(0)
    os.close(writer)
    told = b""
    late = time.monotonic() + PATIENCE
    while select.select([reader], [], [], max(0.0, late - time.monotonic()))[0]:
        piece = os.read(reader, 65536)
        if not piece:
            break
        told += piece
    os.close(reader)
    while time.monotonic() < late:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return Child(json.loads(told) if told else None, os.waitstatus_to_exitcode(status))
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return Child(json.loads(told) if told else None, None)
