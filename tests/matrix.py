# ruff: noqa: T201 # a script prints
"""Installs the wheel beside every supported pair of protobuf and grpcio and runs it there, warnings being errors.

    python -m tests.matrix [ROW...]

A row is the minor version of protobuf, such as 4.25, or `server`, the floors of the server's dependencies. Prints a
table; exit code 1 when a row fails. Environments are kept under .tools/envs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from tests.environments import ROOT, Environment

if TYPE_CHECKING:
    from collections.abc import Sequence

# What the C part of older protobufs does to define its types draws a warning from Python 3.12 and 3.13.
PROTOBUFS_OWN = "ignore:Type google._upb._message:DeprecationWarning"
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
        environment = Environment(f"protobuf-{self.name}", pins)
        return probe(environment, "runtime", PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)


def probe(environment: Environment, command: str, **variables: str) -> dict[str, Any]:
    """Run a command of the probe in an environment and return what it found; raise RowError when it fails."""
    done = subprocess.run(
        [environment.python(), "-I", "-W", "error", "-W", PROTOBUFS_OWN, ROOT / "tests/probe.py", command],
        # Some versions of gRPC note on stderr that a server went away, which is how the probe ends.
        env={**os.environ, "GRPC_VERBOSITY": "ERROR", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode or done.stderr:
        raise RowError(f"exit code {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def floors(section: str) -> dict[str, str]:
    """Return the floor of each dependency in a list of pyproject.toml; raise ValueError for anything but a floor."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(rf"^{section} = \[(.*?)^\]", project, flags=re.MULTILINE | re.DOTALL)
    if match is None:
        raise ValueError(f"pyproject.toml has no list {section}")
    found = {}
    for requirement in map(Requirement, re.findall(r'"(.+?)"', match[1])):
        (specifier,) = requirement.specifier
        if specifier.operator != ">=":
            raise ValueError(f"{section} wants {requirement}: a dependency has a floor and nothing else")
        found[requirement.name] = specifier.version
    return found


def server_floors() -> dict[str, Any]:
    """Run the server on the floors of all its dependencies and return what the probe found; raise RowError."""
    pins = tuple(f"{name}=={version}" for name, version in {**floors("dependencies"), **floors("server")}.items())
    return probe(Environment("server-floors", pins), "server")


# The first row holds the floors of pyproject.toml.
SERVER_PYTHON = (3, 11)  # the last one that the floor of numpy has wheels for
ROWS = (
    Row("4.25.1", "1.62.3", "1.63.0", newest_python=(3, 12)),
    Row("5.29.6", "1.71.2", "1.70.0", newest_python=(3, 13)),
    Row("6.33.6", "1.81.2", "1.76.0"),
    Row("7.36.2", "1.85.1", "1.76.0"),
)


def main(names: Sequence[str]) -> int:
    """Run the named rows, or all, and print a table; return the exit code."""
    known = [*(row.name for row in ROWS), "server"]
    if unknown := set(names) - set(known):
        print(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
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
    if len(table) == 1:
        table.clear()
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if not names or "server" in names:
        try:
            found = server_floors()
        except RowError as error:
            failures.append(f"server: {error}")
        else:
            print(f"server: {', '.join(f'{name} {version}' for name, version in found['versions'].items())}")
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
