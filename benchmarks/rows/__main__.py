"""Measure one family: `python -m benchmarks.rows submit --output FILE`. `python -m benchmarks` runs all of them so."""

from __future__ import annotations

import argparse
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import machine
from benchmarks.report import Report
from benchmarks.rounds import Bench
from benchmarks.rows import FAMILIES, measurement


def main() -> None:
    """Measure the family and write its report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--without-peers", action="store_true")
    arguments = parser.parse_args()
    started = datetime.now(timezone.utc)
    with tempfile.TemporaryDirectory(prefix="neptune-api-bench-") as folder:
        bench = Bench(Path(folder), arguments.scale, arguments.rounds, peers=not arguments.without_peers)
        rows = tuple(measurement(arguments.family)(bench))
    report = Report(
        family=arguments.family,
        measured_at=started.strftime("%Y-%m-%d %H:%M UTC"),
        scale=bench.scale,
        machine=machine.describe(),
        rows=rows,
        notes=tuple(dict.fromkeys(bench.notes)),
    )
    report.write(arguments.output)


if __name__ == "__main__":
    main()
