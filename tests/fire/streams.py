"""columns.append_stream, called in one way over all kinds of channel, and what it should have stored."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from google.rpc import code_pb2

from neptune_api import columns
from neptune_api.conformance.operations import START_MS
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.ingest_service_pb2 import BulkGetRequestStatusRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.series_service_pb2 import ReadColumnsRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.conformance.connections import Connection
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendColumnsResponse
    from tests.fire.wires import Wire

STEPS = 50
"""Steps of a batch."""
WHOLE = 1_000_000


def batch(project: str, run: str, number: int, *, batch_id: str | None = None) -> AppendColumnsRequest:
    """Return a batch with its part of the points of two series."""
    steps = np.arange(number * STEPS, (number + 1) * STEPS)
    points = {
        path: columns.FloatPoints(steps * WHOLE, START_MS + steps, np.asarray(sign * steps / 2, np.float64))
        for path, sign in (("up", 1), ("down", -1))
    }
    return columns.append_request(project, run, points, batch_id=batch_id or f"{run}-{number}")


def batches(project: str, run: str, count: int) -> Iterator[AppendColumnsRequest]:
    """Yield the first batches of a run."""
    return (batch(project, run, number) for number in range(count))


def append(
    wire: Wire,
    connection: Connection,
    sent: Any,
    acknowledged: list[AppendColumnsResponse] | None = None,
    **arguments: Any,
) -> list[AppendColumnsResponse]:
    """Send an iterable of batches; return the acknowledgements, which are added to `acknowledged` as they come."""
    found = [] if acknowledged is None else acknowledged
    channel: Any = connection.channel  # type: ignore[attr-defined] # both kinds have one
    if not wire.aio:
        stub = SeriesServiceStub(channel)
        found.extend(columns.append_stream(stub, sent, **arguments))
        return found

    async def collect() -> None:
        stub: Any = SeriesServiceStub(channel)
        async for response in columns.aappend_stream(stub, sent, **arguments):
            found.append(response)

    wire.loop.run(collect())
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that is going to happen."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def assert_stored(connection: Connection, project: str, run: str, acknowledged: list[str], count: int) -> None:
    """Check that so many batches are stored, each once, and compare every point."""
    ingest = connection.stub(IngestServiceStub)
    ids = pb.RequestIdList(ids=[pb.RequestId(value=request_id) for request_id in acknowledged])
    request = BulkGetRequestStatusRequest(project_identifier=project, request_ids=ids)

    def codes() -> list[set[int]]:
        statuses = ingest.BulkGetRequestStatus(request).statuses
        return [{item.code for item in status.code_by_count} for status in statuses]

    wait_until(lambda: not any(code_pb2.UNAVAILABLE in found for found in codes()))
    assert codes() == [{code_pb2.OK}] * len(acknowledged)
    holder = AttributesHolder(identifier=f"CUSTOM/{project}/{run}")
    asked = ReadColumnsRequest(series=[TimeSeries(attribute=path, holder=holder) for path in ("up", "down")])
    steps = np.arange(count * STEPS)
    found = columns.collect(connection.stub(SeriesServiceStub).ReadColumns(asked))
    for points, sign in zip(found, (1, -1), strict=True):
        assert points.micros.tolist() == (steps * WHOLE).tolist()
        assert points.millis.tolist() == (START_MS + steps).tolist()
        assert points.values.tolist() == (sign * steps / 2).tolist()


def losses(connection: Connection, project: str, run: str) -> list[tuple[int, float]]:
    """Return the points of a run."""
    holder = AttributesHolder(identifier=f"CUSTOM/{project}/{run}")
    asked = ReadColumnsRequest(series=[TimeSeries(attribute="loss", holder=holder)])
    (points,) = columns.collect(connection.stub(SeriesServiceStub).ReadColumns(asked))
    return list(zip((points.micros // 1_000_000).tolist(), points.values.tolist(), strict=True))
