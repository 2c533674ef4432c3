"""How long a server takes to start: as a process, and inside one."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from benchmarks.processes import Server, environment
from benchmarks.references import IMPORTS, import_libraries
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_LOCAL: Final = """
import time
from neptune_api.server import LocalServer
started = time.perf_counter()
server = LocalServer().start()
print(time.perf_counter() - started)
server.stop()
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    turn = 0

    def process() -> float:
        nonlocal turn
        turn += 1
        started = time.perf_counter()
        with Server(bench.folder / f"data-{turn}"):
            return time.perf_counter() - started

    def local() -> float:
        command = [sys.executable, "-c", _LOCAL]
        return float(subprocess.run(command, capture_output=True, check=True, env=environment()).stdout)

    cases = {"process": process, "local": local, IMPORTS: import_libraries}
    for case in cases.values():
        case()  # leaves the bytecode behind
    figures = interleave(bench, 11, cases)
    reference = Reference(IMPORTS, figures[IMPORTS])
    yield Row(
        name="start-process",
        what="`neptune-api serve` on a new folder, until calls are accepted",
        unit="s",
        figures=figures["process"],
        budget=Budget(0.6, at_most=True),
        references=(reference,),
    )
    yield Row(
        name="start-local",
        what="`LocalServer().start()` in a process that has just imported it",
        unit="s",
        figures=figures["local"],
        budget=Budget(0.3, at_most=True),
        references=(reference,),
    )
