"""The table of results: for the terminal, and in docs/benchmarks.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.report import Report, quantity, ratios, spread
from benchmarks.rows import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.report import Row

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks/results"
DOCUMENT: Final = ROOT / "docs/benchmarks.md"

_GENERATED: Final = re.compile(r"(?<=<!-- begin results -->\n).*?(?=<!-- end results -->)", re.DOTALL)


def read_reports(folder: Path = RESULTS) -> list[Report]:
    """Return the reports of a folder, in the order of the families."""
    return [Report.read(path) for name in FAMILIES if (path := folder / f"{name}.json").exists()]


def document(text: str, reports: Iterable[Report]) -> str:
    """Return the document with its generated part made anew."""
    return _GENERATED.sub(lambda _: "\n".join(["", *_lines(list(reports)), "", ""]), text)


def plain(report: Report) -> Iterator[str]:
    """Yield the lines of a report for the terminal."""
    for row in report.rows:
        yield f"  {row.what}"
        yield f"      {spread(row.figures, row.unit)}{_verdict(row)}"
        for reference in row.references:
            beside = spread(reference.figures, row.unit)
            yield f"      {ratios(row.ratios(reference.name))} of {reference.name}: {beside}"
    for note in report.notes:
        yield f"  note: {note}"


def _verdict(row: Row) -> str:
    if row.budget is None:
        return ""
    return f", budget {_limit(row)}: {'met' if row.budget.met(row) else 'MISSED'}"


def _limit(row: Row) -> str:
    if row.budget is None:
        return ""
    bound = "at most" if row.budget.at_most else "at least"
    if row.budget.ratio_to is not None:
        return f"{bound} {row.budget.limit:g} of {row.budget.ratio_to}"
    return f"{bound} {quantity(row.budget.limit, row.unit)}"


def _lines(reports: list[Report]) -> Iterator[str]:
    for report in reports:
        yield f"## {_title(report)}"
        yield ""
        yield "| what | measured | budget | beside | ratio |"
        yield "| --- | --- | --- | --- | --- |"
        for row in report.rows:
            yield from _row(row)
        yield ""
        yield from (f"{note}\n" for note in report.notes)
    yield "## Machines"
    yield ""
    machines = {tuple(report.machine.items()) for report in reports}
    for machine in sorted(machines):
        measured = [report for report in reports if tuple(report.machine.items()) == machine]
        times = sorted(report.measured_at for report in measured)
        when = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
        facts = ", ".join(f"{name} {value}" for name, value in machine)
        yield f"- {', '.join(_title(report) for report in measured)}: {when}; {facts}."


def _title(report: Report) -> str:
    return report.family.replace("_", " ").capitalize()


def _row(row: Row) -> Iterator[str]:
    budget = "" if row.budget is None else f"{_limit(row)}: {'met' if row.budget.met(row) else '**missed**'}"
    first = f"| {row.what} | {spread(row.figures, row.unit)} | {budget} "
    if not row.references:
        yield f"{first}| | |"
    for reference in row.references:
        beside = spread(reference.figures, row.unit)
        yield f"{first}| {reference.name}: {beside} | {ratios(row.ratios(reference.name))} |"
        first = "| | | "


def missed(reports: Iterable[Report]) -> list[str]:
    """Return the names of the rows that miss their budget."""
    return [row.name for report in reports for row in report.rows if row.budget and not row.budget.met(row)]
