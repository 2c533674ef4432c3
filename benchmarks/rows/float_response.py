"""The answer that released clients read, a message per point: what a million points cost the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.processes import Server, cpu_seconds
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import Writer, batches, paths, points, wait_until_idle
from neptune_api.models import (
    FloatSeriesQuery,
    FloatSeriesValuesQuery,
    FloatSeriesValuesResponse,
    GetFloatSeriesValuesRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_POINTS: Final = 1_000_000
_CALLS: Final = 5  # the system counts CPU in hundredths of a second
_LOOP: Final = "built message by message"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    (name,) = paths(1)
    count = bench.size(_POINTS)
    written = points(count)
    steps, timestamps, values = written.micros.tolist(), written.millis.tolist(), written.values.tolist()
    with Server(bench.folder / "data") as server, server.channel() as channel:
        writer = Writer(channel, server.workspace)
        run_id = writer.create_run()
        writer.append(run_id, batches([name], count))
        wait_until_idle(bench, server.pid)
        query = FloatSeriesQuery(request_id="series", series=writer.time_series(run_id, name))
        request = GetFloatSeriesValuesRequest(
            request=FloatSeriesValuesQuery(per_series_points_limit=count, requests=[query])
        )

        def ours() -> float:
            before = cpu_seconds(server.pid)
            for _ in range(_CALLS):
                (item,) = writer.series.GetFloatSeriesValues(request).series
                if len(item.series.values) != count:
                    raise RuntimeError(f"the answer has {len(item.series.values)} points instead of {count}")
            # A quick look may be over before the system has counted anything.
            return _CALLS * count / max(cpu_seconds(server.pid) - before, 0.01)

        def loop() -> float:
            before = time.process_time()
            response = FloatSeriesValuesResponse()
            target = response.series.add(request_id="series").series
            target.total_item_count = count
            add = target.values.add
            for step, timestamp, value in zip(steps, timestamps, values, strict=True):
                add(timestamp_millis=timestamp, step=step / 1e6, value=value, completion_ratio=1.0)
            response.SerializeToString()
            return count / (time.process_time() - before)

        figures = interleave(bench, 7, {"ours": ours, _LOOP: loop})
    yield Row(
        name="float-response",
        what=f"GetFloatSeriesValues, {count:,} points, by the server's CPU time, reading and sending included",
        unit="points/s of CPU",
        figures=figures["ours"],
        budget=Budget(10e6),
        references=(Reference(_LOOP, figures[_LOOP]),),
    )
