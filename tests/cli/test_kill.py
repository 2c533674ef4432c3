"""A server that is killed at any moment loses nothing it acknowledged and doubles nothing that is sent again."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

import neptune_api
from neptune_api import ChannelOptions
from neptune_api.columns import FloatPoints, append_request, collect
from neptune_api.conformance.operations import START_MS, create, snapshot, update
from neptune_api.conformance.outcomes import name_of
from neptune_api.exceptions import NeptuneApiError
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.ingest_service_pb2 import BulkGetRequestStatusRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.series_service_pb2 import ReadColumnsRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.cli.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy.typing as npt

    from tests.cli.processes import Serving

    Send = Callable[[grpc.Channel, int], str]

KILLS = 20
WHOLE = 1_000_000
STEPS = 20
"""Steps of an operation."""
SERIES = 3
WIDE_SERIES = 150
"""So many that the log keeps what their operations have in common once."""
LONG_STEPS = 400
"""Steps of a batch of columns."""


class Load:
    """Operations sent one after the other, each until it is acknowledged."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.acknowledged: list[str] = []

    def run(self, channel: grpc.Channel) -> None:
        """Send until the server is gone; what it has not acknowledged then is sent again the next time."""
        while True:
            try:
                self.acknowledged.append(self._send(channel, len(self.acknowledged)))
            except NeptuneApiError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return
                raise


def values(series: int, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return what is logged at steps."""
    return np.asarray(series + steps / 2, np.float64)


def submit(project: str, run: str, series: int, steps: int) -> Send:
    def send(channel: grpc.Channel, number: int) -> str:
        first = number * steps
        operation = update(
            *(
                snapshot({f"m/{i}": i + step / 2 for i in range(series)}, step, START_MS + step)
                for step in range(first, first + steps)
            ),
            run=run,
            project=project,
        )
        key = (("x-idempotency-key", f"{run}-{number}"),)
        return IngestServiceStub(channel).Submit(operation, metadata=key, timeout=PATIENCE).request_id

    return send


def append(project: str) -> Send:
    def send(channel: grpc.Channel, number: int) -> str:
        steps = np.arange(number * LONG_STEPS, (number + 1) * LONG_STEPS)
        points = {f"m/{i}": FloatPoints(steps * WHOLE, START_MS + steps, values(i, steps)) for i in range(SERIES)}
        request = append_request(project, "appended", points, batch_id=f"batch-{number}")
        stub = SeriesServiceStub(channel)
        if number % 2:
            return stub.AppendColumns(request, timeout=PATIENCE).request_id
        (response,) = stub.AppendColumnsStream(iter([request]), timeout=PATIENCE)
        return response.request_id

    return send


@pytest.mark.slow
def test_twenty_kills_during_a_load(serving: Callable[..., AbstractContextManager[Serving]], tmp_path: Path) -> None:
    chance = random.Random(20)
    loads: dict[str, Load] = {}
    project = ""
    for turn in range(KILLS):
        with serving() as server, connect(server) as channel, ThreadPoolExecutor(3) as pool:
            if not loads:
                project = create_project(channel, server.ready["workspace"])
                loads = {
                    "submitted": Load(submit(project, "submitted", SERIES, STEPS)),
                    "wide": Load(submit(project, "wide", WIDE_SERIES, 1)),
                    "appended": Load(append(project)),
                }
            done = [pool.submit(load.run, channel) for load in loads.values()]
            # From the first moment, when the log of the last server is applied, to the midst of merging chunks.
            pause = chance.choice([0.0, 0.02, 0.1, 0.5]) * chance.random()
            target = sum(len(load.acknowledged) for load in loads.values()) + (turn % 4)
            end = time.monotonic() + PATIENCE
            threading.Event().wait(pause)
            while sum(len(load.acknowledged) for load in loads.values()) < target:
                assert time.monotonic() < end, "nothing is acknowledged"
                threading.Event().wait(0.002)
            server.process.kill()
            for future in done:
                future.result(PATIENCE)
        (tmp_path / "ready.json").unlink()
    with serving() as server, connect(server) as channel:
        for run, width, steps in (
            ("submitted", SERIES, STEPS),
            ("wide", WIDE_SERIES, 1),
            ("appended", SERIES, LONG_STEPS),
        ):
            number = len(loads[run].acknowledged)
            assert number > KILLS // 2
            assert_complete(channel, project, run, loads[run].acknowledged, width, number * steps)


def connect(server: Serving) -> grpc.Channel:
    target, token = f"grpc://{server.ready['grpc_target']}", server.ready["api_token"]
    return neptune_api.channel(target, api_token=token, options=ChannelOptions(retry=None))


def create_project(channel: grpc.Channel, workspace: str) -> str:
    """Create a project with the runs to write to and return its name."""
    project = f"{workspace}/killed"
    ProjectsServiceStub(channel).CreateProject(CreateProjectRequest(name="killed", organization_identifier=workspace))
    for run in ("submitted", "wide", "appended"):
        IngestServiceStub(channel).Submit(create(run, project=project))
    return project


def assert_complete(
    channel: grpc.Channel, project: str, run: str, acknowledged: list[str], width: int, count: int
) -> None:
    """Check that every acknowledged request was applied as a whole, and compare every point."""
    ids = pb.RequestIdList(ids=[pb.RequestId(value=request_id) for request_id in acknowledged])
    request = BulkGetRequestStatusRequest(project_identifier=project, request_ids=ids)
    end = time.monotonic() + PATIENCE
    while True:
        statuses = IngestServiceStub(channel).BulkGetRequestStatus(request).statuses
        if not any(item.code == code_pb2.UNAVAILABLE for status in statuses for item in status.code_by_count):
            break
        assert time.monotonic() < end, "operations are not applied"
        threading.Event().wait(0.01)
    outcomes = [[(name_of(item.detail), item.count) for item in status.code_by_count] for status in statuses]
    assert outcomes == [[("OK", width * count // len(acknowledged))]] * len(acknowledged)
    holder = AttributesHolder(identifier=f"CUSTOM/{project}/{run}")
    series = [TimeSeries(attribute=f"m/{i}", holder=holder) for i in range(width)]
    # What was under way when the server was killed may have been accepted: the next one begins behind it.
    for i, found in enumerate(collect(SeriesServiceStub(channel).ReadColumns(ReadColumnsRequest(series=series)))):
        steps = np.arange(len(found))
        assert len(found) >= count
        assert found.micros.tolist() == (steps * WHOLE).tolist()
        assert found.millis.tolist() == (START_MS + steps).tolist()
        assert found.values.tolist() == values(i, steps).tolist()
