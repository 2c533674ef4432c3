"""Submit: messages of 10,000 paths at one step each, until they are applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.processes import Server
from benchmarks.references import APPEND, Mlflow, append_synced
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.workload import Writer, paths, snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.rounds import Bench

_PATHS: Final = 10_000
_STEPS: Final = 100
_MLFLOW_POINTS: Final = 5_000


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    names = paths(_PATHS)
    steps = bench.size(_STEPS, least=2)
    points = len(names) * steps
    bench.say(f"building {steps} messages of {len(names):,} paths")
    operations = list(snapshots(names, steps))
    with Server(bench.folder / "data") as server, server.channel() as channel, Mlflow.beside(bench) as mlflow:
        writer = Writer(channel, server.workspace)
        writer.submit(writer.create_run(), operations[:2])  # connects, and loads what the first call loads

        def ours() -> float:
            return points / writer.submit(writer.create_run(), operations)

        def plain() -> float:
            return points / append_synced(bench.folder / "plain", (item.SerializeToString() for item in operations))

        cases: dict[str, Callable[[], float]] = {"ours": ours, APPEND: plain}
        if mlflow is not None:
            peer = mlflow
            cases[peer.name] = lambda: peer.log_batch(series=len(names), points=bench.size(_MLFLOW_POINTS, 1000))
        figures = interleave(bench, 5, cases)
    yield Row(
        name="submit-wide",
        what=f"Submit, {len(names):,} paths x 1 step per message, applied",
        unit="points/s",
        figures=figures.pop("ours"),
        budget=Budget(0.7e6),
        references=tuple(Reference(name, values) for name, values in figures.items()),
    )
