"""Installs the wheel beside every supported pair of protobuf and grpcio and runs it there, warnings being errors.

    python -m tests.matrix [ROW...]

A row is the minor version of protobuf, such as 4.25. Prints a table; exit code 1 when a row fails. Environments are kept
under .tools/envs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.environments import ROOT, Environment

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLEMENTATIONS = ("upb", "python")
COLUMNS = ("row", "protobuf", "implementation", "grpcio", "modules", "messages", "calls")


class RowError(Exception):
    """The package does not run in an environment; the text is the traceback from there."""


@dataclass(frozen=True)
class Row:
    """A minor version of protobuf with the newest grpcio and googleapis-common-protos of its time."""

    protobuf: str
    grpcio: str
    common_protos: str
    newest_python: tuple[int, int] | None = None
    """Last Python that grpcio has wheels for; None when nothing newer is out."""

    @property
    def name(self) -> str:
        """The minor version of protobuf."""
        return self.protobuf.rpartition(".")[0]

    @property
    def runs_here(self) -> bool:
        """This Python can install the row."""
        return self.newest_python is None or sys.version_info[:2] <= self.newest_python

    def run(self, implementation: str) -> dict[str, Any]:
        """Run the probe with an implementation of protobuf and return what it found; raise RowError when it fails."""
        pins = (
            f"protobuf=={self.protobuf}",
            f"grpcio=={self.grpcio}",
            f"googleapis-common-protos=={self.common_protos}",
        )
        python = Environment(f"protobuf-{self.name}", pins).python()
        done = subprocess.run(
            [python, "-I", "-W", "error", ROOT / "tests/probe.py", "runtime"],
            env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode or done.stderr:
            raise RowError(f"exit code {done.returncode}\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


# The first row holds the floors of pyproject.toml.
ROWS = (
    Row("4.25.1", "1.62.3", "1.63.0", newest_python=(3, 12)),
    Row("5.29.6", "1.71.2", "1.70.0", newest_python=(3, 13)),
    Row("6.33.6", "1.81.2", "1.76.0"),
    Row("7.36.2", "1.85.1", "1.76.0"),
)


def main(names: Sequence[str]) -> int:
    """Run the named rows, or all, and print a table; return the exit code."""
    if unknown := set(names) - {row.name for row in ROWS}:
        print(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
        return 2
    table: list[tuple[str, ...]] = [COLUMNS]
    failures = []
    for row in ROWS:
        if names and row.name not in names:
            continue
        if not row.runs_here:
            table.append((row.name, row.protobuf, "no wheels for this Python", row.grpcio, "-", "-", "-"))
            continue
        for implementation in IMPLEMENTATIONS:
            try:
                found = row.run(implementation)
            except RowError as error:
                failures.append(f"{row.name} {implementation}: {error}")
                table.append((row.name, row.protobuf, implementation, row.grpcio, "failed", "-", "-"))
            else:
                found["calls"] = len(found["calls"])
                table.append((row.name, *(str(found[column]) for column in COLUMNS[1:])))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
