"""What a benchmark found: figures of every round, what stood beside them, and what was to be reached."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from typing_extensions import Self

_PREFIXES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_SYMBOLS: Final = ("s", "B")
"""Units to which a prefix is attached: ms, MB."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What stands beside a row: the figures of the same rounds, in the row's unit."""

    name: str
    figures: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """What the median has to reach: of the row's figures, or of their ratio to a reference."""

    limit: float
    at_most: bool = False
    ratio_to: str | None = None

    def met(self, row: Row) -> bool:
        """Tell whether a row keeps it."""
        reached = statistics.median(row.figures if self.ratio_to is None else row.ratios(self.ratio_to))
        return reached <= self.limit if self.at_most else reached >= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured: one figure for each round."""

    name: str
    """Stable and unique: `submit-wide`."""
    what: str
    """What was done, in the words of a table."""
    unit: str
    figures: tuple[float, ...]
    budget: Budget | None = None
    references: tuple[Reference, ...] = ()

    def ratios(self, reference: str) -> list[float]:
        """Return figure / reference of each round."""
        (beside,) = (item for item in self.references if item.name == reference)
        return [mine / theirs for mine, theirs in zip(self.figures, beside.figures, strict=True)]


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of one family, with where, when and how they were measured."""

    family: str
    measured_at: str
    scale: float
    machine: dict[str, str]
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What the reader has to know, such as that a reference is missing."""

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(_row(row) for row in found.pop("rows"))
        return cls(**{**found, "notes": tuple(found["notes"]), "rows": rows})


def _row(found: dict[str, Any]) -> Row:
    budget = found["budget"]
    return Row(
        **{
            **found,
            "figures": tuple(found["figures"]),
            "budget": None if budget is None else Budget(**budget),
            "references": tuple(Reference(item["name"], tuple(item["figures"])) for item in found["references"]),
        }
    )


def quantity(value: float, unit: str) -> str:
    """Return a number with three digits, a prefix and its unit: `1.36 M points/s`, `600 ms`."""
    return spread([value], unit)


def spread(figures: Sequence[float], unit: str) -> str:
    """Return the median and, in the same unit, the range: `1.36 M points/s (1.20..1.41)`."""
    middle = statistics.median(figures)
    factor, prefix = next((item for item in _PREFIXES if abs(middle) >= item[0]), (1.0, ""))
    if unit in _SYMBOLS:
        unit = f"{prefix}{unit}"
    elif prefix:
        unit = f"{prefix} {unit}"
    text = f"{_digits(middle / factor)} {unit}"
    return text if len(figures) == 1 else f"{text} {_range(figures, lambda value: _digits(value / factor))}"


def ratios(figures: Sequence[float]) -> str:
    """Return the median and the range of ratios: `0.93 (0.88..1.02)`."""
    return f"{_digits(statistics.median(figures))} {_range(figures, _digits)}"


def _range(figures: Sequence[float], show: Callable[[float], str]) -> str:
    return f"({show(min(figures))}..{show(max(figures))})"


def _digits(value: float) -> str:
    if abs(value) < 0.0995:
        return f"{value:.2g}"
    return f"{value:,.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2}f}"
