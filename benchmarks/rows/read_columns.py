"""ReadColumns: one series of a million points into numpy arrays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.processes import Server
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import Writer, batches, paths, values, wait_until_idle
from neptune_api import columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_POINTS: Final = 1_000_000
_NUMPY: Final = "numpy.load of the same arrays"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    (name,) = paths(1)
    count = bench.size(_POINTS)
    files = [bench.folder / f"column-{index}.npy" for index in range(3)]
    with Server(bench.folder / "data") as server, server.channel() as channel:
        writer = Writer(channel, server.workspace)
        run_id = writer.create_run()
        writer.append(run_id, batches([name], count))
        wait_until_idle(bench, server.pid)
        request = writer.everything(run_id, [name])
        (found,) = columns.collect(writer.series.ReadColumns(request))
        arrays = (found.micros, found.millis, found.values)
        if not np.array_equal(found.values, values(count)):
            raise RuntimeError("the points that were read are not those that were written")
        for file, array in zip(files, arrays, strict=True):
            np.save(file, array)

        def ours() -> float:
            started = time.perf_counter()
            (found,) = columns.collect(writer.series.ReadColumns(request))
            return len(found) / (time.perf_counter() - started)

        def plain() -> float:
            started = time.perf_counter()
            for file in files:
                np.load(file)
            return count / (time.perf_counter() - started)

        figures = interleave(bench, 15, {"ours": ours, _NUMPY: plain})
    yield Row(
        name="read-columns",
        what=f"ReadColumns, 1 series x {count:,} points into numpy",
        unit="points/s",
        figures=figures["ours"],
        budget=Budget(10e6),
        references=(Reference(_NUMPY, figures[_NUMPY]),),
    )
