"""The benchmarks: each runs, at a thousandth of its size, and the document shows what was measured."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import table
from benchmarks.report import Budget, Reference, Report, Row
from benchmarks.rows import FAMILIES, LONG

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]


def row(figures: Iterable[float], budget: Budget | None = None, **references: tuple[float, ...]) -> Row:
    beside = tuple(Reference(name, values) for name, values in references.items())
    return Row("name", "what", "calls/s", tuple(figures), budget, beside)


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time and memory of processes are read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_measured(family: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", family, "--scale", "0.001", "--rounds", "2", "--without-peers"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = Report.read(tmp_path / f"{family}.json")
    assert report.rows
    for found in report.rows:
        assert all(0 < figure < math.inf for figure in found.figures), found
        assert found.what in done.stdout
        for reference in found.references:
            assert len(reference.figures) == len(found.figures)
            assert all(0 < figure < math.inf for figure in reference.figures), found
    assert len({found.name for found in report.rows}) == len(report.rows)


def test_the_document_shows_the_results() -> None:
    text = table.DOCUMENT.read_text(encoding="utf-8")
    assert text == table.document(text, table.read_reports())


def test_results_are_of_full_size() -> None:
    reports = table.read_reports()
    found = {report.family for report in reports}
    assert set(FAMILIES) - LONG <= found
    assert {report.scale for report in reports} == {1.0}


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = (row([1.5, 2.5], Budget(2.0, ratio_to="peer"), peer=(1.0, 1.0)), row([3.0]))
    report = Report("calls", "2026-01-01 00:00 UTC", 1.0, {"python": "3.12"}, rows, ("a note",))
    report.write(tmp_path / "calls.json")
    assert Report.read(tmp_path / "calls.json") == report
    assert table.read_reports(tmp_path) == [report]


@pytest.mark.parametrize(
    ("figures", "budget", "met"),
    [
        ([1, 2, 3], Budget(2), True),
        ([1, 2, 3], Budget(2.1), False),
        ([1, 2, 3], Budget(2, at_most=True), True),
        ([1, 2, 3], Budget(1.9, at_most=True), False),
        ([9, 2, 3], Budget(1, ratio_to="peer"), True),
        # The median of the ratios, which is not the ratio of the medians.
        ([1, 5, 9], Budget(1, ratio_to="peer"), False),
    ],
)
def test_a_budget_is_held_against_the_median(figures: list[float], budget: Budget, met: bool) -> None:
    assert budget.met(row(figures, budget, peer=(9, 1, 10))) is met


def test_tables_hold_figures_and_ratios_of_rounds() -> None:
    measured = row([1.2e6, 1.0e6, 1.5e6], Budget(0.7e6), peer=(2.4e6, 1.0e6, 3.0e6))
    report = Report("calls", "2026-01-01 00:00 UTC", 1.0, {"python": "3.12"}, (measured,), ("a note",))
    text = table.document("before\n<!-- begin results -->\nold\n<!-- end results -->\nafter\n", [report])
    assert text.startswith("before\n<!-- begin results -->\n")
    assert text.endswith("<!-- end results -->\nafter\n")
    assert "old" not in text
    assert (
        "| what | 1.20 M calls/s (1.00..1.50) | at least 700 k calls/s: met "
        "| peer: 2.40 M calls/s (1.00..3.00) | 0.50 (0.50..1.00) |"
    ) in text
    assert "a note" in text
