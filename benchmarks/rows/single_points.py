"""A series logged point by point, and one that came at once: how fast each is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.processes import Server
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import EPOCH, Writer, batches, paths, values, wait_until_idle
from neptune_api import columns
from neptune_api.models import RunOperation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_POINTS: Final = 1_000_000
_SNAPSHOTS: Final = 10  # in a message, as clients put together what is logged while one is under way
_AT_ONCE: Final = "logged at once"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    (name,) = paths(1)
    count = bench.size(_POINTS)
    with Server(bench.folder / "data") as server, server.channel() as channel:
        writer = Writer(channel, server.workspace)
        single, whole = writer.create_run(), writer.create_run()
        bench.say(f"logging {count:,} points one by one")
        started = time.perf_counter()
        accepted = writer.ingest.SubmitStream(_operations(writer.project, single, name, count))
        writer.wait(accepted.request_id)
        seconds = time.perf_counter() - started
        writer.append(whole, batches([name], count))
        wait_until_idle(bench, server.pid)
        expected = values(count)

        def read(run_id: str) -> float:
            request = writer.everything(run_id, [name])
            started = time.perf_counter()
            (found,) = columns.collect(writer.series.ReadColumns(request))
            seconds = time.perf_counter() - started
            if not (found.values == expected).all():
                raise RuntimeError("the points that were read are not those that were written")
            return seconds

        figures = interleave(bench, 11, {"ours": lambda: read(single), _AT_ONCE: lambda: read(whole)})
    yield Row(
        name="single-points-read",
        what=f"ReadColumns, {count:,} points that were logged one by one, {_SNAPSHOTS} snapshots a message",
        unit="s",
        figures=figures["ours"],
        budget=Budget(2.0, at_most=True, ratio_to=_AT_ONCE),
        references=(Reference(_AT_ONCE, figures[_AT_ONCE]),),
    )
    yield Row(
        name="single-points-write",
        what=f"SubmitStream, {count:,} points, {_SNAPSHOTS} snapshots of one point a message, applied",
        unit="points/s",
        figures=(count / seconds,),
    )


def _operations(project: str, run_id: str, path: str, count: int) -> Iterator[RunOperation]:
    logged = values(count).tolist()
    for first in range(0, count, _SNAPSHOTS):
        operation = RunOperation(project=project, run_id=run_id)
        for step in range(first, min(first + _SNAPSHOTS, count)):
            update = operation.update_batch.snapshots.add()
            update.step.whole = step
            update.timestamp.seconds = EPOCH + step
            update.append[path].float64 = logged[step]
        yield operation
