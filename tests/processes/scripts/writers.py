"""One of several processes that log to one run at once, from many threads or tasks."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

from neptune_api import aio, columns
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.processes.scripts.common import PROJECT, TARGET, open_channel, point, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc
    import grpc.aio

    from neptune_api.models import AppendColumnsRequest, RunOperation

POINTS = 5
"""What each thread or task submits one by one."""
LONG = 100
"""Points of each of its batches of columns, of which there are two."""


def operations(name: str) -> Iterator[RunOperation]:
    """Yield what one of them submits."""
    for step in range(POINTS):
        yield point("crowd", f"submitted/{name}", step, float(step))


def batches(name: str) -> Iterator[AppendColumnsRequest]:
    """Yield what one of them appends."""
    for part in range(2):
        steps = range(part * LONG, (part + 1) * LONG)
        points = columns.points([float(step) for step in steps], steps=[*steps])
        yield columns.append_request(PROJECT, "crowd", {f"appended/{name}": points})


def threads(process: str, count: int) -> None:
    """Log from threads that share a channel."""
    errors = []

    def write(channel: grpc.Channel, name: str) -> None:
        try:
            for operation in operations(name):
                IngestServiceStub(channel).Submit(operation)
            for batch in batches(name):
                SeriesServiceStub(channel).AppendColumns(batch)
        except Exception as error:  # noqa: BLE001 # it is told
            errors.append(repr(error))

    with open_channel() as channel:
        workers = [threading.Thread(target=write, args=(channel, f"{process}/{number}")) for number in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    tell(errors=errors)


async def tasks(process: str, count: int) -> None:
    """Log from tasks that share a channel."""

    async def write(channel: grpc.aio.Channel, name: str) -> None:
        for operation in operations(name):
            await IngestServiceStub(channel).Submit(operation)
        for batch in batches(name):
            await SeriesServiceStub(channel).AppendColumns(batch)

    async with aio.channel(TARGET) as channel:
        work = [write(channel, f"{process}/{number}") for number in range(count)]
        done = await asyncio.gather(*work, return_exceptions=True)
    tell(errors=[repr(error) for error in done if error is not None])


if __name__ == "__main__":
    kind, name, number = sys.argv[1:]
    if kind == "threads":
        threads(name, int(number))
    else:
        asyncio.run(tasks(name, int(number)))
