"""Readers beside a writer, and small questions beside large ones, over both stores."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks import generated_project
from benchmarks.generated_project import many_runs
from benchmarks.processes import environment
from benchmarks.readers import Questions
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave
from benchmarks.rows.growth import WideLoad
from benchmarks.stores import stores
from benchmarks.table import ROOT
from benchmarks.workload import Writer, paths, wait_until_idle
from neptune_api.credentials import TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.processes import Server
    from benchmarks.rounds import Bench

_RUNS: Final = 10_000
_LIGHT: Final = 28
_HEAVY: Final = 4
_POINTS: Final = 500_000
_SERIES: Final = 10_000
_SECONDS: Final = 4.0
_ALONE: Final = "alone"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    for store in stores(bench):
        shape = many_runs(bench.size(_RUNS, least=40))
        with store.database() as database:
            bench.say(f"{store.name}: generating {shape.project}")
            generated_project.generate(database, shape)
        with store.server() as server, server.channel() as channel:
            load = WideLoad(Writer(channel, server.workspace), paths(bench.size(_SERIES, least=10)))
            load.write(1)
            wait_until_idle(bench, server.pid)
            readers = Readers(server, f"{server.workspace}/{shape.project}", shape.runs, load.run)
            yield from _writing(bench, store.name, load, readers)
            yield _searching(bench, store.name, Questions(channel, readers.project, shape.runs, load.run), readers)


def _writing(bench: Bench, store: str, load: WideLoad, readers: Readers) -> Iterator[Row]:
    points = bench.size(_POINTS, least=10)
    light, heavy = bench.size(_LIGHT, least=4), bench.size(_HEAVY, least=2)

    def alone() -> float:
        return load.write(points)

    def beside() -> float:
        with readers.asking(light, heavy):
            return load.write(points)

    bench.say(f"{store}: {light + heavy} readers beside a writer")
    figures = interleave(bench, 5, {"beside": beside, _ALONE: alone})
    name = store.lower()
    yield Row(
        name=f"readers-writer-{name}",
        what=f"{store}: Submit, 10,000 paths x 1 step per message, beside {light + heavy} readers that never pause, "
        f"{heavy} of whom ask for everything or by an expression made to be slow; {readers.runs:,} runs",
        unit="points/s",
        figures=figures["beside"],
        budget=Budget(0.5, ratio_to=_ALONE),
        references=(Reference(_ALONE, figures[_ALONE]),),
    )
    yield Row(f"readers-answers-{name}", f"{store}: answers to them meanwhile", "answers/s", tuple(readers.rates))
    right = readers.answers - readers.wrong
    what = f"{store}: right answers among {readers.answers:,}"
    yield Row(f"readers-right-{name}", what, "answers", (float(right),), Budget(readers.answers))


def _searching(bench: Bench, store: str, questions: Questions, readers: Readers) -> Row:
    def alone() -> float:
        started = time.perf_counter()
        if not questions.search():
            raise RuntimeError("the search does not find what it should")
        return time.perf_counter() - started

    def beside() -> float:
        with readers.asking(0, _HEAVY):
            end = time.monotonic() + _SECONDS * bench.scale
            times = [alone()]
            while time.monotonic() < end:
                times.append(alone())
        return statistics.median(times)

    bench.say(f"{store}: small questions beside large ones")
    figures = interleave(bench, 3, {"beside": beside, _ALONE: alone})
    return Row(
        name=f"readers-heavy-{store.lower()}",
        what=f"{store}: a search, page of 20 of {readers.runs:,} runs, while {_HEAVY} others ask for everything or by "
        "an expression made to be slow",
        unit="s",
        figures=figures["beside"],
        references=(Reference(_ALONE, figures[_ALONE]),),
    )


class Readers:
    """Starts readers and counts their answers."""

    def __init__(self, server: Server, project: str, runs: int, written: str) -> None:
        self.project, self.runs = project, runs
        self.answers = self.wrong = 0
        self.rates: list[float] = []
        self._server = server
        self._arguments = [project, str(runs), written]

    @contextmanager
    def asking(self, light: int, heavy: int) -> Iterator[None]:
        """Let so many ask questions for the length of a block."""
        command = [sys.executable, "-m", "benchmarks.readers", f"grpc://{self._server.grpc_target}", *self._arguments]
        with subprocess.Popen(
            [*command, str(light), str(heavy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environment(), TOKEN_VARIABLE: self._server.api_token},
        ) as process:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("the process has no pipes")
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the readers do not start")
            started = time.monotonic()
            print(file=process.stdin, flush=True)
            try:
                yield
            finally:
                seconds = time.monotonic() - started
                print(file=process.stdin, flush=True)
                found = json.loads(process.stdout.readline())
        self.answers += found["answers"]
        self.wrong += found["wrong"]
        self.rates.append(found["answers"] / seconds)
