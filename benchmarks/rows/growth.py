"""Fifty million points: the memory they take on their way, their size, and what a million more costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.processes import Server, folder_bytes, peak_bytes, reset_peak
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import EPOCH, STEPS_PER_BATCH, Writer, batches, move, paths, snapshots, wait_until_idle
from neptune_api import columns
from neptune_api.models import AppendColumnsRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.rounds import Bench
    from neptune_api.models import ReadColumnsRequest, RunOperation

_POINTS: Final = 50_000_000
_MORE: Final = 1_000_000
_IRREGULAR_POINTS: Final = 5_000_000
_MEMORY: Final = Budget(600e6, at_most=True)
_EMPTY: Final = "into an empty folder"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    yield from _measure(bench, "long", paths(10), LongLoad)
    yield from _measure(bench, "wide", paths(10_000), WideLoad)
    yield _irregular(bench, "irregular steps and times", (1, 10_000_000), 0)
    # No difference fits 32 bits: steps are thousands apart, and months pass between some points.
    yield _irregular(bench, "wild steps and times", (2**32, 2**40), 30 * 24 * 3600 * 1000)


class Load(ABC):
    """Writes points to a run of its own and goes on where it was."""

    rpc: str

    def __init__(self, writer: Writer, names: Sequence[str]) -> None:
        self._writer = writer
        self._names = names
        self._run_id = writer.create_run()
        self._steps = 0

    def write(self, points: int) -> float:
        """Write so many points, rounded up to a step of all series; return how many a second were applied."""
        steps = -(-points // len(self._names))
        seconds = self._write(self._steps, steps)
        self._steps += steps
        return steps * len(self._names) / seconds

    @abstractmethod
    def _write(self, first_step: int, steps: int) -> float: ...

    @property
    def run(self) -> str:
        """The run: `workspace/project/run id`."""
        return f"{self._writer.project}/{self._run_id}"

    @property
    def points(self) -> int:
        """How many were written."""
        return self._steps * len(self._names)

    def read(self) -> None:
        """Read every point, message by message."""
        found = 0
        for response in self._writer.series.ReadColumns(self.request):
            found += len(columns.unpack(response.columns))
        if found != self.points:
            raise RuntimeError(f"{found:,} points were read instead of {self.points:,}")

    @property
    def request(self) -> ReadColumnsRequest:
        """The request for every point."""
        return self._writer.everything(self._run_id, self._names)


class LongLoad(Load):
    """Few series, in columns."""

    rpc = "AppendColumns"

    def _write(self, first_step: int, steps: int) -> float:
        return self._writer.append(self._run_id, batches(self._names, steps, first_step))


class WideLoad(Load):
    """Many series, a step at a time."""

    rpc = "Submit"

    def __init__(self, writer: Writer, names: Sequence[str]) -> None:
        super().__init__(writer, names)
        # Making a message takes as long as applying it, so they come again at other steps.
        self._operations = list(snapshots(names, 10))

    def _write(self, first_step: int, steps: int) -> float:
        return self._writer.submit(self._run_id, self._moved(first_step, steps))

    def _moved(self, first_step: int, steps: int) -> Iterator[RunOperation]:
        for step in range(first_step, first_step + steps):
            operation = self._operations[step % len(self._operations)]
            move(operation, step)
            yield operation


def _measure(bench: Bench, shape: str, names: Sequence[str], load_class: type[Load]) -> Iterator[Row]:
    points, more = bench.size(_POINTS), bench.size(_MORE)
    folder = bench.folder / shape
    with Server(folder) as server, server.channel() as channel:
        load = load_class(Writer(channel, server.workspace), names)
        bench.say(f"{shape}: writing {points:,} points")
        filled = load.write(points)
        ingest_peak = peak_bytes(server.pid)
        bench.say(f"{shape}: {filled:.3g} points/s; waiting until the server is done with them")
        wait_until_idle(bench, server.pid)
        bench.say(f"{shape}: reading them")
        reset_peak(server.pid)
        reset_peak()
        load.read()
        read_peak, client_peak = peak_bytes(server.pid), peak_bytes()
        bench.say(f"{shape}: writing {more:,} more, and as many into an empty folder")
        turn = 0

        def empty() -> float:
            nonlocal turn
            turn += 1
            with Server(bench.folder / f"{shape}-{turn}") as other, other.channel() as to_other:
                return load_class(Writer(to_other, other.workspace), names).write(more)

        figures = interleave(bench, 7, {"ours": lambda: load.write(more), _EMPTY: empty})
        wait_until_idle(bench, server.pid)
    size = folder_bytes(folder) / load.points
    series = f"{len(names):,} series"
    yield Row(
        name=f"growth-{shape}",
        what=f"{load.rpc}, {series}: {more:,} points more when {points:,} are stored",
        unit="points/s",
        figures=figures["ours"],
        budget=Budget(0.8, ratio_to=_EMPTY),
        references=(Reference(_EMPTY, figures[_EMPTY]),),
    )
    yield Row(f"growth-{shape}-fill", f"{load.rpc}, {series}: the {points:,} points before", "points/s", (filled,))
    for name, what, peak in (
        ("write", f"Memory of the server while {points:,} points come in, {load.rpc}, {series}", ingest_peak),
        ("read", f"Memory of the server while they are read, ReadColumns, {series}", read_peak),
        ("read-client", f"Memory of the client that reads them, message by message, {series}", client_peak),
    ):
        yield Row(f"memory-{shape}-{name}", what, "B", (float(peak),), _MEMORY)
    yield Row(
        name=f"size-{shape}",
        what=f"Disk for each of {load.points:,} points after merging, everything included: regular steps, {series}",
        unit="B",
        figures=(size,),
        budget=Budget(14, at_most=True),
    )


def _irregular(bench: Bench, what: str, step_gap: tuple[int, int], pause_ms: int) -> Row:
    """Measure the size of points with steps and times at random distances, other ones in each series."""
    count = bench.size(_IRREGULAR_POINTS) // 10
    folder = bench.folder / what.partition(" ")[0]
    series = {name: _scattered(count, seed, step_gap, pause_ms) for seed, name in enumerate(paths(10))}
    with Server(folder) as server, server.channel() as channel:
        writer = Writer(channel, server.workspace)
        run_id = writer.create_run()
        for begin in range(0, count, STEPS_PER_BATCH):
            request = AppendColumnsRequest()
            for name, written in series.items():
                request.series.add(path=name, columns=columns.pack(written[begin : begin + STEPS_PER_BATCH]))
            writer.append(run_id, [request])
        wait_until_idle(bench, server.pid)
    return Row(
        name=f"size-{what.partition(' ')[0]}",
        what=f"Disk for each of {10 * count:,} points after merging, everything included: {what}, 10 series",
        unit="B",
        figures=(folder_bytes(folder) / (10 * count),),
        budget=Budget(24, at_most=True),
    )


def _scattered(count: int, seed: int, step_gap: tuple[int, int], pause_ms: int) -> columns.FloatPoints:
    random = np.random.default_rng(seed)
    micros = np.cumsum(random.integers(*step_gap, count))
    # Pauses come now and then: often would be more years than times may span.
    pauses = np.where(np.arange(count) % STEPS_PER_BATCH == 1, pause_ms, 0)
    millis = EPOCH * 1000 + np.cumsum(random.integers(0, 1000, count) + pauses)
    return columns.FloatPoints(micros, millis, random.standard_normal(count))
