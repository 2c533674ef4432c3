"""AppendColumns: ten series of a million steps, until they are applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.processes import Server
from benchmarks.references import APPEND, Mlflow, append_synced
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import STEPS_PER_BATCH, Writer, batches, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.rounds import Bench

_SERIES: Final = 10
_STEPS: Final = 1_000_000
_MLFLOW_POINTS: Final = 5_000


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    names = paths(_SERIES)
    steps = bench.size(_STEPS)
    points = len(names) * steps
    bench.say(f"building batches of {len(names)} series x {STEPS_PER_BATCH:,} steps")
    requests = list(batches(names, steps))
    with Server(bench.folder / "data") as server, server.channel() as channel, Mlflow.beside(bench) as mlflow:
        writer = Writer(channel, server.workspace)
        writer.append(writer.create_run(), requests[:1])  # connects, and loads what the first call loads

        def ours() -> float:
            return points / writer.append(writer.create_run(), requests)

        def plain() -> float:
            return points / append_synced(bench.folder / "plain", (item.SerializeToString() for item in requests))

        cases: dict[str, Callable[[], float]] = {"ours": ours, APPEND: plain}
        if mlflow is not None:
            peer = mlflow
            cases[peer.name] = lambda: peer.log_batch(series=len(names), points=bench.size(_MLFLOW_POINTS, 1000))
        figures = interleave(bench, 5, cases)
    yield Row(
        name="append-columns-long",
        what=f"AppendColumns, {len(names)} series x {steps:,} steps, applied",
        unit="points/s",
        figures=figures.pop("ours"),
        budget=Budget(2e6),
        references=tuple(Reference(name, values) for name, values in figures.items()),
    )
