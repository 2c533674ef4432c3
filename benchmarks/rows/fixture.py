"""What the pytest plugin costs: until its first fixture is ready, and in a run that asks for none."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.processes import environment
from benchmarks.references import IMPORTS, import_libraries
from benchmarks.report import Budget, Reference, Row
from benchmarks.rounds import interleave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_TIMES: Final = """
import time
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    started = time.perf_counter()
    made = yield
    print(f"\\n{fixturedef.argname}: {time.perf_counter() - started}")
    return made
"""
_TESTS: Final = {
    "neptune_server": "def test(neptune_server): pass",
    "project": "def test(neptune_channel, neptune_project): pass",
}
_PLUGIN: Final = """
import time
import pytest
manager = pytest.PytestPluginManager()
started = time.perf_counter()
import neptune_api.pytest_plugin
manager.register(neptune_api.pytest_plugin)
print(time.perf_counter() - started)
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    (bench.folder / "conftest.py").write_text(_TIMES, encoding="utf-8")
    for name, test in _TESTS.items():
        (bench.folder / f"test_{name}.py").write_text(test, encoding="utf-8")

    def fixtures(test: str) -> float:
        """Return the seconds that all fixtures of a test take together, in a process that runs nothing else."""
        command = [sys.executable, "-m", "pytest", "-s", "-q", "-p", "no:cacheprovider", f"test_{test}.py"]
        done = subprocess.run(command, cwd=bench.folder, capture_output=True, text=True, check=True, env=_environment())
        return sum(map(float, re.findall(r"^neptune_\w+: (\S+)$", done.stdout, re.MULTILINE)))

    def unused() -> float:
        command = [sys.executable, "-c", _PLUGIN]
        return float(subprocess.run(command, capture_output=True, check=True, env=environment()).stdout)

    cases = {
        "server": lambda: fixtures("neptune_server"),
        "project": lambda: fixtures("project"),
        "unused": unused,
        IMPORTS: import_libraries,
    }
    for case in cases.values():
        case()  # leaves the bytecode behind
    figures = interleave(bench, 9, cases)
    reference = Reference(IMPORTS, figures[IMPORTS])
    yield Row(
        name="fixture-server",
        what="`neptune_server`, the first fixture of a fresh pytest process, until calls are accepted",
        unit="s",
        figures=figures["server"],
        budget=Budget(0.3, at_most=True),
        references=(reference,),
    )
    yield Row(
        name="fixture-project",
        what="`neptune_channel` and `neptune_project` of a fresh pytest process, server included",
        unit="s",
        figures=figures["project"],
        references=(reference,),
    )
    yield Row(
        name="fixture-unused",
        what="The plugin in a run that asks for no fixture of it",
        unit="s",
        figures=figures["unused"],
        budget=Budget(0.005, at_most=True),
    )


def _environment() -> dict[str, str]:
    """Return the environment, without what changes a run of pytest."""
    return {name: value for name, value in environment().items() if not name.startswith(("PYTEST_", "NEPTUNE_"))}
