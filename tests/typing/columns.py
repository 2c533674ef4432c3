# ruff: noqa: TC001 # never run, so what an import costs does not matter
"""Types of neptune_api.columns: what goes in, what comes out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from neptune_api import RetryPolicy, columns, models
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceAsyncStub, SeriesServiceStub


def write(stub: SeriesServiceStub, values: npt.NDArray[np.float64]) -> str:
    points = columns.points(values, steps=np.arange(len(values)), times=[0.0] * len(values))
    assert_type(points[:5], columns.FloatPoints)
    assert_type(columns.pack(points), models.FloatColumns)
    for request in columns.append_requests("w/p", "run", {"loss": points}):
        stub.AppendColumns(request)
    return stub.AppendColumns(columns.append_request("w/p", "run", {"loss": points})).request_id


def read(stub: SeriesServiceStub) -> npt.NDArray[np.float64]:
    (points,) = assert_type(columns.collect(stub.ReadColumns(models.ReadColumnsRequest())), list[columns.FloatPoints])
    assert_type(points.micros, npt.NDArray[np.int64])
    pages = columns.float_pages(stub.GetFloatSeriesValues(models.GetFloatSeriesValuesRequest()))
    assert_type(pages["0"].total, int)
    return points.values


async def read_later(stub: SeriesServiceAsyncStub) -> list[columns.FloatPoints]:
    return await columns.acollect(stub.ReadColumns(models.ReadColumnsRequest()))


def stream(stub: SeriesServiceStub, values: npt.NDArray[np.float64]) -> int:
    batches = columns.append_requests("w/p", "run", {"loss": columns.points(values)})
    responses = columns.append_stream(stub, batches, window=2, timeout=10, retry=RetryPolicy(max_backoff=1))
    return sum(assert_type(response, models.AppendColumnsResponse).accepted_points for response in responses)


async def stream_later(stub: SeriesServiceAsyncStub) -> None:
    async for response in columns.aappend_stream(stub, [columns.append_request("w/p", "run", {})]):
        assert_type(response, models.AppendColumnsResponse)
