"""Summaries of float series: what can be said of points without keeping them, and how two parts add up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neptune_api.server.store.columns import FloatColumns


def mean(total: float, count: int) -> float:
    """Return the mean of numbers from their sum; NaN when there is none."""
    return total / count if count else math.nan


# Not frozen, which takes four times as long to make: an answer makes ten thousand.
@dataclass(slots=True)
class FloatSummary:
    """Sum up the committed points of a float series.

    `last_step` (micro-steps) and `last` are of the greatest step, NaN and infinities included; the rest is about finite
    values only. `deviations` is the sum of squared distances from the mean.
    """

    count: int = 0
    last_step: int | None = None
    last: float = math.nan
    finite_count: int = 0
    minimum: float = math.nan
    maximum: float = math.nan
    total: float = 0.0
    deviations: float = 0.0

    @property
    def average(self) -> float:
        """Mean of the finite values; NaN when there is none."""
        return mean(self.total, self.finite_count)

    @property
    def variance(self) -> float:
        """Population variance of the finite values; NaN when there is none."""
        return mean(self.deviations, self.finite_count)

    @classmethod
    def of(cls, columns: FloatColumns) -> FloatSummary:
        """Return the summary of points."""
        if not len(columns):
            return cls()
        finite = columns.values[np.isfinite(columns.values)]
        position = int(columns.steps.argmax())
        last_step, last = int(columns.steps[position]), float(columns.values[position])
        if not len(finite):
            return cls(len(columns), last_step, last)
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(finite.sum())
            deviations = float(np.square(finite - total / len(finite)).sum())
        return cls(
            len(columns), last_step, last, len(finite), float(finite.min()), float(finite.max()), total, deviations
        )

    def merge(self, other: FloatSummary) -> FloatSummary:
        """Return the summary of the points of both (Chan et al.: parallel variance); no step may be in both."""
        if not other.count:
            return self
        if not self.count:
            return other
        later = self if (self.last_step or 0) > (other.last_step or 0) else other
        if not other.finite_count or not self.finite_count:
            finite = self if self.finite_count else other
            return FloatSummary(
                self.count + other.count,
                later.last_step,
                later.last,
                finite.finite_count,
                finite.minimum,
                finite.maximum,
                finite.total,
                finite.deviations,
            )
        count = self.finite_count + other.finite_count
        distance = other.average - self.average
        return FloatSummary(
            self.count + other.count,
            later.last_step,
            later.last,
            count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.total + other.total,
            self.deviations + other.deviations + distance * distance * self.finite_count * other.finite_count / count,
        )
