"""Many threads and tasks in several processes log to one run at once, and nothing is lost or doubled."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from neptune_api import columns
from neptune_api.models import AttributesHolder, CreateRunRequest, ReadColumnsRequest, TimeSeries
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from neptune_api.server import LocalServer
    from tests.processes.conftest import Run

PATIENCE = 60.0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes", "each"), [("threads", 4, 16), ("tasks", 2, 64)])
def test_nothing_is_lost(server: LocalServer, project: str, run: Run, kind: str, processes: int, each: int) -> None:
    with server.channel() as channel:
        RunsServiceStub(channel).CreateRun(CreateRunRequest(project_identifier=project, run_id="crowd"))
        with ThreadPoolExecutor(processes) as pool:
            ended = pool.map(lambda number: run("writers", kind, str(number), str(each)), range(processes))
            assert [process.told()["errors"] for process in ended] == [[]] * processes
        names = [f"{process}/{number}" for process in range(processes) for number in range(each)]
        expected = {f"submitted/{name}": [float(step) for step in range(5)] for name in names}
        expected |= {f"appended/{name}": [float(step) for step in range(200)] for name in names}
        holder = AttributesHolder(identifier=f"CUSTOM/{project}/crowd", type="experiment")
        request = ReadColumnsRequest(series=[TimeSeries(attribute=path, holder=holder) for path in expected])
        count = sum(map(len, expected.values()))
        end = time.monotonic() + PATIENCE
        while True:
            found = columns.collect(SeriesServiceStub(channel).ReadColumns(request))
            if sum(len(series.values) for series in found) == count or time.monotonic() > end:
                break
            time.sleep(0.05)
    for (path, values), series in zip(expected.items(), found, strict=True):
        assert (series.steps.tolist(), series.values.tolist()) == (values, values), path
