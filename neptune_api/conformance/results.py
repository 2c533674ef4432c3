"""What became of behaviours: as a table, as JSON and as JUnit XML."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from xml.etree import ElementTree as ET

from neptune_api.credentials import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

Outcome = Literal["holds", "fails", "skipped"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("holds", "fails", "skipped")

_WIDTH: Final = 110
_LONGEST: Final = 300  # characters of what was seen


@dataclass(frozen=True)
class Result:
    """What became of one behaviour on one wire."""

    area: str
    behaviour: str
    """The behaviour as a sentence."""
    case: str
    """Which of its cases; empty when there is one."""
    wire: str
    """Empty for what needs none."""
    outcome: Outcome
    seen: str = ""
    """What was seen instead, or why it was skipped; one line."""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """The behaviour and its case."""
        return f"{self.behaviour} ({self.case})" if self.case else self.behaviour


def one_line(text: str) -> str:
    """Return a text as one line that is not too long, without tokens and without what a terminal would obey."""
    line = "".join(
        letter if letter.isprintable() else " " for letter in redact(re.sub(r"\s+", " ", text.strip()))
    ).strip()
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


@dataclass
class Results:
    """The results of a run of the suite against a server."""

    target: str
    server_version: str
    username: str
    workspace: str
    wires: tuple[str, ...]
    results: list[Result] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Projects that the run has left behind."""
    limits: list[str] = field(default_factory=list)
    """Limits of the server that are not those the suite is written for, in words."""
    ended_early: bool = False

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """How many behaviours came out how, by area, a case on a wire counting as one."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for result in self.results:
            found[result.area][result.outcome] += 1
        return dict(found)

    @property
    def holds(self) -> bool:
        """Nothing failed, and all was tried."""
        return not self.ended_early and not any(result.outcome == "fails" for result in self.results)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        version = f", version {self.server_version}" if self.server_version else ""
        yield f"{self.target}{version}, as {self.username} in {self.workspace}, over {', '.join(self.wires)}"
        yield ""
        yield from self._table()
        yield from self._skipped()
        yield from self._failures()
        if self.limits:
            yield ""
            yield "Limits of this server that the behaviours at a limit do not expect:"
            yield from (f"    {limit}" for limit in self.limits)
        if self.left:
            yield ""
            yield f"Left behind: {', '.join(self.left)}"
        if self.ended_early:
            yield ""
            yield "Interrupted: the table has what was tried until then."

    def _table(self) -> Iterator[str]:
        counts = self.counts
        width = max(map(len, ["total", *counts]))
        yield f"{'area':{width}}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)
        for area, counted in [*counts.items(), ("total", sum(counts.values(), Counter[str]()))]:
            yield f"{area:{width}}" + "".join(f"{counted[outcome]:>9,}" for outcome in OUTCOMES)

    def _skipped(self) -> Iterator[str]:
        reasons = Counter(result.seen for result in self.results if result.outcome == "skipped")
        if reasons:
            yield ""
            yield "Skipped:"
            for reason, count in reasons.most_common():
                yield f"{count:>7,}  {reason}"

    def _failures(self) -> Iterator[str]:
        same: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for result in self.results:
            if result.outcome == "fails":
                same[result.area, result.title, result.seen].append(result.wire)
        for (area, title, seen), wires in same.items():
            yield ""
            over = ", ".join(filter(None, wires))
            yield f"{area}: {title}{f' [{over}]' if over else ''}"
            yield from textwrap.wrap(f"seen: {seen}", _WIDTH, initial_indent="    ", subsequent_indent="    ")

    def as_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            "target": self.target,
            "server_version": self.server_version,
            "username": self.username,
            "workspace": self.workspace,
            "wires": list(self.wires),
            "complete": not self.ended_early,
            "areas": {
                area: {outcome: counted[outcome] for outcome in OUTCOMES} for area, counted in self.counts.items()
            },
            "behaviours": [asdict(result) for result in self.results],
            "limits": self.limits,
            "left": self.left,
        }

    def as_junit(self) -> bytes:
        """Return a JUnit XML document: a suite for each area, a case for each behaviour, case and wire."""
        suites = ET.Element("testsuites", name="neptune-api conformance")
        for area, counted in self.counts.items():
            chosen = [result for result in self.results if result.area == area]
            suite = ET.SubElement(
                suites,
                "testsuite",
                name=area,
                tests=str(len(chosen)),
                failures=str(counted["fails"]),
                skipped=str(counted["skipped"]),
                errors="0",
                time=f"{sum(result.seconds for result in chosen):.3f}",
            )
            for result in chosen:
                case = ET.SubElement(
                    suite,
                    "testcase",
                    classname=f"{area}.{result.wire}" if result.wire else area,
                    name=result.title,
                    time=f"{result.seconds:.3f}",
                )
                if result.outcome == "fails":
                    ET.SubElement(case, "failure", message=result.seen)
                elif result.outcome == "skipped":
                    ET.SubElement(case, "skipped", message=result.seen)
        ET.indent(suites)
        return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True))
