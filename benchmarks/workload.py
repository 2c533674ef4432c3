"""What the benchmarks write: runs, points of many paths or of few, and the wait until they are applied."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Final

import numpy as np
from google.rpc import code_pb2

from benchmarks.processes import cpu_seconds, written_bytes
from neptune_api import columns
from neptune_api.models import (
    AppendColumnsRequest,
    AttributesHolder,
    CreateRun,
    GetRequestStatusRequest,
    ReadColumnsRequest,
    RunOperation,
    TimeSeries,
)
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import grpc
    import numpy.typing as npt

    from benchmarks.rounds import Bench
    from neptune_api.columns import FloatPoints
    from neptune_api.models import RequestStatus

    FloatArray = npt.NDArray[np.float64]

PROJECT: Final = "bench"
EPOCH: Final = 1_700_000_000
"""When the first point was logged, seconds since 1970; one a second follows."""

STEPS_PER_BATCH: Final = 10_000

_APPLY_SECONDS: Final = 600.0
_POLL_SECONDS: Final = 0.005
_IDLE_SECONDS: Final = 2.5  # it begins to tidy up after one
_IDLE_CPU: Final = 0.1
_IDLE_BYTES: Final = 256 * 1024


class Writer:
    """Writes to runs of one project through one channel."""

    def __init__(self, channel: grpc.Channel, workspace: str, project: str = PROJECT) -> None:
        self.project = f"{workspace}/{project}"
        self.ingest = IngestServiceStub(channel)
        self.series = SeriesServiceStub(channel)

    def create_run(self) -> str:
        """Create a run, wait for it and return its id."""
        run_id = f"run-{uuid.uuid4().hex[:12]}"
        operation = RunOperation(project=self.project, run_id=run_id, create_missing_project=True, create=CreateRun())
        self.wait(self.ingest.Submit(operation).request_id)
        return run_id

    def submit(self, run_id: str, operations: Iterable[RunOperation]) -> float:
        """Submit operations to a run one after the other; return the seconds until the last one is applied."""
        started = time.perf_counter()
        request_id = ""
        for operation in operations:
            operation.project, operation.run_id = self.project, run_id
            request_id = self.ingest.Submit(operation).request_id
        self.wait(request_id)
        return time.perf_counter() - started

    def append(self, run_id: str, batches: Iterable[AppendColumnsRequest]) -> float:
        """Append batches to a run one after the other; return the seconds until the last one is applied."""
        started = time.perf_counter()
        request_id = ""
        for batch in batches:
            batch.project, batch.run_id, batch.batch_id = self.project, run_id, uuid.uuid4().hex
            response = self.series.AppendColumns(batch)
            if response.errors:
                raise RuntimeError(f"the server refused some of a batch: {response.errors[0]}")
            request_id = response.request_id
        self.wait(request_id)
        return time.perf_counter() - started

    def wait(self, request_id: str) -> None:
        """Wait until a request is applied, and with it all before it; raise RuntimeError if any of it was refused."""
        end = time.monotonic() + _APPLY_SECONDS
        query = GetRequestStatusRequest(project_identifier=self.project, request_id=request_id)
        while True:
            status: RequestStatus = self.ingest.GetRequestStatus(query)
            codes = {entry.code for entry in status.code_by_count}
            if code_pb2.UNAVAILABLE not in codes:
                if codes != {code_pb2.OK}:
                    raise RuntimeError(f"the server refused some of a request: {status}")
                return
            if time.monotonic() > end:
                raise RuntimeError(f"request {request_id} was not applied within {_APPLY_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def everything(self, run_id: str, names: Iterable[str]) -> ReadColumnsRequest:
        """Return the request for every point of some series."""
        return ReadColumnsRequest(series=[self.time_series(run_id, name) for name in names])

    def time_series(self, run_id: str, path: str) -> TimeSeries:
        """Return how queries name a series."""
        holder = AttributesHolder(identifier=f"CUSTOM/{self.project}/{run_id}", type="experiment")
        return TimeSeries(attribute=path, holder=holder)


def wait_until_idle(bench: Bench, pid: int) -> None:
    """Wait until a server has tidied up: until it neither computes nor writes to speak of.

    Figures of small scale count for nothing and need no tidy server: then the wait is short.
    """
    seconds = _IDLE_SECONDS * min(1.0, 10 * bench.scale)
    used, written = cpu_seconds(pid), written_bytes(pid)
    while True:
        time.sleep(seconds)
        used_before, used = used, cpu_seconds(pid)
        written_before, written = written, written_bytes(pid)
        if used - used_before < _IDLE_CPU and written - written_before < _IDLE_BYTES:
            return


def paths(count: int) -> list[str]:
    """Return attribute paths of about 40 characters."""
    return [f"metrics/validation/layer-{index // 100:03}/weight-{index % 100:02}/norm" for index in range(count)]


def snapshots(names: Sequence[str], steps: int) -> Iterator[RunOperation]:
    """Yield operations as clients send them, each of which appends one step to every path, from step 0 on."""
    numbers = np.random.default_rng(steps)
    for step in range(steps):
        operation = RunOperation()
        update = operation.update_batch.snapshots.add()
        append = update.append
        for name, value in zip(names, numbers.standard_normal(len(names)).tolist(), strict=True):
            append[name].float64 = value
        move(operation, step)
        yield operation


def move(operation: RunOperation, step: int) -> None:
    """Give an operation of `snapshots` another step and time."""
    (update,) = operation.update_batch.snapshots
    update.step.whole = step
    update.timestamp.seconds = EPOCH + step


def points(count: int, seed: int = 0, first_step: int = 0) -> FloatPoints:
    """Return points at consecutive whole steps, a second apart, with random values."""
    index = np.arange(first_step, first_step + count, dtype=np.int64)
    values = np.random.default_rng((seed, first_step)).standard_normal(count)
    return columns.points(values, steps=index, times=EPOCH * 1000 + index * 1000)


def batches(names: Sequence[str], steps: int, first_step: int = 0) -> Iterator[AppendColumnsRequest]:
    """Yield batches that append `points` to every path, STEPS_PER_BATCH at a time; Writer.append fills in the rest."""
    for begin in range(first_step, first_step + steps, STEPS_PER_BATCH):
        count = min(STEPS_PER_BATCH, first_step + steps - begin)
        request = AppendColumnsRequest()
        for seed, name in enumerate(names):
            request.series.add(path=name, columns=columns.pack(points(count, seed, begin)))
        yield request


def values(steps: int) -> FloatArray:
    """Return the values that `batches` appends to the first path."""
    parts = [points(min(STEPS_PER_BATCH, steps - begin), 0, begin) for begin in range(0, steps, STEPS_PER_BATCH)]
    return np.concatenate([part.values for part in parts])
