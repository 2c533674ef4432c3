"""Run the benchmarks, print what they found and bring docs/benchmarks.md up to date: `make bench`.

Each family of rows runs in a process of its own, one after the other. A family that fails leaves its last results as
they are, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import table
from benchmarks.report import Report
from benchmarks.rows import FAMILIES, LONG

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "rows",
        nargs="*",
        metavar="ROWS",
        help=f"families to run: {', '.join(FAMILIES)}, or all; default: those that take no more than minutes",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full size; less than 1 for a look")
    parser.add_argument("--rounds", type=int, help="most rounds of each row; default: what the row needs")
    parser.add_argument("--without-peers", action="store_true", help="neither install nor measure other products")
    parser.add_argument("--results", type=Path, help="folder for the results; default: benchmarks/results, at scale 1")
    parsed = parser.parse_args(arguments)
    for name in parsed.rows:
        if name not in {*FAMILIES, "all"}:
            parser.error(f"there are no rows {name!r}; choose from {', '.join(FAMILIES)}, or all")
    chosen = set(FAMILIES) if "all" in parsed.rows else set(parsed.rows) or set(FAMILIES) - LONG
    counts = parsed.scale == 1.0 and parsed.rounds is None
    results: Path | None = parsed.results or (table.RESULTS if counts else None)
    failed: list[str] = []
    found: list[Report] = []
    started = time.monotonic()
    for family in FAMILIES:
        if family not in chosen:
            continue
        print(f"{family} (after {time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
        report = run(family, parsed, results)
        if report is None:
            failed.append(family)
            continue
        found.append(report)
        print("\n".join(table.plain(report)), flush=True)
    print(f"measured in {time.monotonic() - started:.0f} s")
    if results == table.RESULTS:
        table.DOCUMENT.write_text(
            table.document(table.DOCUMENT.read_text(encoding="utf-8"), table.read_reports()), encoding="utf-8"
        )
        print(f"results are in {table.RESULTS.relative_to(table.ROOT)} and {table.DOCUMENT.relative_to(table.ROOT)}")
    elif results is None:
        print("not at full size and rounds: the results were not kept")
    if (missed := table.missed(found)) and counts:
        print(f"over budget: {', '.join(missed)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(family: str, parsed: argparse.Namespace, results: Path | None) -> Report | None:
    """Measure a family in a process of its own; None if it failed."""
    with tempfile.TemporaryDirectory(prefix="neptune-api-bench-") as folder:
        output = Path(folder, "report.json")
        command = [sys.executable, "-m", "benchmarks.rows", family, "--output", str(output)]
        command += ["--scale", str(parsed.scale)]
        if parsed.rounds is not None:
            command += ["--rounds", str(parsed.rounds)]
        if parsed.without_peers:
            command.append("--without-peers")
        if subprocess.run(command, cwd=table.ROOT, check=False).returncode:
            return None
        report = Report.read(output)
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        report.write(results / f"{family}.json")
    return report


if __name__ == "__main__":
    sys.exit(main())
