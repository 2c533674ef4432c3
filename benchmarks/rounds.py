"""How a benchmark runs: the cases of a row one after the other, round by round, so that drift hits all alike."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bench:
    """How large, how often and where to measure."""

    folder: Path
    """A folder for data, removed afterwards."""
    scale: float = 1.0
    """1 for figures that count; less for a quick look."""
    most_rounds: int | None = None
    peers: bool = True
    """Whether other products may be installed and measured."""
    notes: list[str] = field(default_factory=list)

    def size(self, full: int, least: int = 1) -> int:
        """Return how many of something to use at this scale."""
        return max(least, round(full * self.scale))

    def rounds(self, full: int) -> int:
        """Return how many rounds to do."""
        return full if self.most_rounds is None else min(full, self.most_rounds)

    def say(self, text: str) -> None:
        """Show progress."""
        print(f"    {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Tell the reader of the results something."""
        self.notes.append(text)
        self.say(f"note: {text}")


def interleave(bench: Bench, rounds: int, cases: Mapping[str, Callable[[], float]]) -> dict[str, tuple[float, ...]]:
    """Return the figures of every case, one for each round; rounds alternate between first to last and back."""
    figures: dict[str, list[float]] = {name: [] for name in cases}
    total = bench.rounds(rounds)
    for turn in range(total):
        order = list(cases) if turn % 2 == 0 else list(cases)[::-1]
        started = time.monotonic()
        for name in order:
            figures[name].append(cases[name]())
        shown = ", ".join(f"{name} {figures[name][-1]:.4g}" for name in cases)
        bench.say(f"round {turn + 1} of {total}, {time.monotonic() - started:.1f} s: {shown}")
    return {name: tuple(values) for name, values in figures.items()}
