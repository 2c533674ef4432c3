"""The float series of one run as arrays, a slot per series, so that a snapshot of thousands costs a few operations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neptune_api.server.store.summaries import FloatSummary
from neptune_api.server.store.tails import Loose, Rectangle

if TYPE_CHECKING:
    import numpy.typing as npt

    from neptune_api.server.store.columns import FloatArray, Int64Array
    from neptune_api.server.store.logged_values import LoggedValues
    from neptune_api.server.store.tails import Points

NEVER: Final = int(np.iinfo(np.int64).min)
"""Stands for the step or the timestamp of a series that has no point."""


@dataclass(slots=True)
class Preview:
    """A preview of a float series."""

    timestamp: int
    value: float
    ratio: float


class SummaryTable:
    """Summaries of float series as arrays; see FloatSummary for what they mean."""

    _FLOATS: Final = ("last", "minimum", "maximum", "total", "deviations")

    def __init__(self) -> None:
        self.count = np.zeros(0, np.int64)
        self.last_step = np.zeros(0, np.int64)
        self.last = np.zeros(0)
        self.finite_count = np.zeros(0, np.int64)
        self.minimum = np.zeros(0)
        self.maximum = np.zeros(0)
        self.total = np.zeros(0)
        self.deviations = np.zeros(0)

    def grow(self, capacity: int) -> None:
        """Make room for summaries; new ones are empty."""
        self.count = _grown(self.count, capacity, 0)
        self.last_step = _grown(self.last_step, capacity, NEVER)
        self.last = _grown(self.last, capacity, math.nan)
        self.finite_count = _grown(self.finite_count, capacity, 0)
        self.minimum = _grown(self.minimum, capacity, math.inf)
        self.maximum = _grown(self.maximum, capacity, -math.inf)
        self.total = _grown(self.total, capacity, 0.0)
        self.deviations = _grown(self.deviations, capacity, 0.0)

    def put(self, slot: int, summary: FloatSummary) -> None:
        """Replace the summary of one series."""
        self.count[slot] = summary.count
        self.last_step[slot] = NEVER if summary.last_step is None else summary.last_step
        self.last[slot] = summary.last
        self.finite_count[slot] = summary.finite_count
        has_finite = summary.finite_count > 0
        self.minimum[slot] = summary.minimum if has_finite else math.inf
        self.maximum[slot] = summary.maximum if has_finite else -math.inf
        self.total[slot] = summary.total
        self.deviations[slot] = summary.deviations

    def get(self, slot: int) -> FloatSummary:
        """Return the summary of one series."""
        if not self.count[slot]:
            return FloatSummary()
        finite_count = int(self.finite_count[slot])
        return FloatSummary(
            int(self.count[slot]),
            int(self.last_step[slot]),
            float(self.last[slot]),
            finite_count,
            float(self.minimum[slot]) if finite_count else math.nan,
            float(self.maximum[slot]) if finite_count else math.nan,
            float(self.total[slot]),
            float(self.deviations[slot]),
        )

    def add_rows(self, slots: npt.NDArray[np.intp], steps: Int64Array, values: FloatArray) -> None:
        """Add points of n series at k ascending steps: values (k x n)."""
        finite = np.isfinite(values)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if bool(finite.all()):
                count = np.full(len(slots), len(steps), np.int64)
                total = values.sum(axis=0)
                deviations = np.square(values - total / len(steps)).sum(axis=0)
                minimum, maximum = values.min(axis=0), values.max(axis=0)
            else:
                count = finite.sum(axis=0)
                total = np.where(finite, values, 0.0).sum(axis=0)
                mean = total / np.maximum(count, 1)
                deviations = np.where(finite, np.square(values - mean), 0.0).sum(axis=0)
                minimum = np.where(finite, values, math.inf).min(axis=0)
                maximum = np.where(finite, values, -math.inf).max(axis=0)
            before, together = self.finite_count[slots], self.finite_count[slots] + count
            distance = total / np.maximum(count, 1) - self.total[slots] / np.maximum(before, 1)
            self.deviations[slots] += deviations + np.where(
                (before > 0) & (count > 0), distance * distance * before * count / np.maximum(together, 1), 0.0
            )
            self.total[slots] += total
        self.count[slots] += len(steps)
        self.finite_count[slots] = together
        self.minimum[slots] = np.minimum(self.minimum[slots], minimum)
        self.maximum[slots] = np.maximum(self.maximum[slots], maximum)
        later = self.last_step[slots] < steps[-1]
        self.last[slots] = np.where(later, values[-1], self.last[slots])
        self.last_step[slots] = np.maximum(self.last_step[slots], steps[-1])


@dataclass(slots=True, eq=False)
class Rows:
    """Points of n series at k steps: micro-steps and milliseconds (k), values (k x n)."""

    slots: npt.NDArray[np.intp]
    steps: Int64Array
    timestamps: Int64Array
    values: FloatArray


@dataclass(slots=True)
class FloatTable:
    """Hold what the next point of each float series of a run is judged by, and the points that wait to be written."""

    size: int = 0
    # How many of the series have a row in the `series` table.
    stored: int = 0
    attribute_ids: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    first_step: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    last_step: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    last_timestamp: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    last_value: FloatArray = field(default_factory=lambda: np.zeros(0))
    # Of the points that are written, as the `series` table has it.
    summary: SummaryTable = field(default_factory=SummaryTable)
    # Waiting to be written.
    rows: list[Rows] = field(default_factory=list)
    loose: list[tuple[int, int, int, float]] = field(default_factory=list)  # slot, step, timestamp, value
    previews: dict[int, dict[int, Preview]] = field(default_factory=dict)  # by slot and step
    # Greatest step of a preview, by slot.
    last_preview: dict[int, int] = field(default_factory=dict)
    # Values of `loose` by slot and step, as far as they have been looked up.
    _loose_values: dict[tuple[int, int], float] = field(default_factory=dict)
    _looked_up: int = 0

    def add(self, attribute_id: int) -> int:
        """Add a series without points and return its slot."""
        if self.size == len(self.attribute_ids):
            capacity = max(16, 2 * self.size)
            self.attribute_ids = _grown(self.attribute_ids, capacity, 0)
            self.first_step = _grown(self.first_step, capacity, NEVER)
            self.last_step = _grown(self.last_step, capacity, NEVER)
            self.last_timestamp = _grown(self.last_timestamp, capacity, NEVER)
            self.last_value = _grown(self.last_value, capacity, math.nan)
            self.summary.grow(capacity)
        self.attribute_ids[self.size] = attribute_id
        self.size += 1
        return self.size - 1

    def followers(
        self, slots: npt.NDArray[np.intp], steps: Int64Array, timestamps: Int64Array
    ) -> npt.NDArray[np.bool_]:
        """Tell of each series whether rows of points continue it: steps increase, timestamps do not decrease."""
        if len(steps) > 1 and not bool((np.diff(steps) > 0).all() and (np.diff(timestamps) >= 0).all()):
            return np.zeros(len(slots), np.bool_)
        follows: npt.NDArray[np.bool_] = (self.last_step[slots] < steps[0]) & (
            self.last_timestamp[slots] <= timestamps[0]
        )
        return follows

    def append_rows(self, rows: Rows) -> None:
        """Take points of series that they follow; previews up to their steps are gone."""
        slots = rows.slots
        self.rows.append(rows)
        first = self.first_step[slots]
        self.first_step[slots] = np.where(first == NEVER, rows.steps[0], np.minimum(first, rows.steps[0]))
        self.last_step[slots] = rows.steps[-1]
        self.last_timestamp[slots] = rows.timestamps[-1]
        self.last_value[slots] = rows.values[-1]

    def append(self, slot: int, step: int, timestamp: int, value: float) -> None:
        """Take one point that continues its series."""
        self.loose.append((slot, step, timestamp, value))
        if self.first_step[slot] == NEVER or step < self.first_step[slot]:
            self.first_step[slot] = step
        self.last_step[slot] = step
        self.last_timestamp[slot] = timestamp
        self.last_value[slot] = value

    def preview(self, slot: int, step: int, preview: Preview) -> None:
        """Take a preview; it replaces one of the same step."""
        self.previews.setdefault(slot, {})[step] = preview
        self.last_preview[slot] = max(step, self.last_preview.get(slot, step))

    def waiting_value(self, slot: int, step: int) -> float | None:
        """Return the value that waits to be written at a step; None when there is none."""
        for loose_slot, loose_step, _, value in self.loose[self._looked_up :]:
            self._loose_values[loose_slot, loose_step] = value
        self._looked_up = len(self.loose)
        found = self._loose_values.get((slot, step))
        if found is not None:
            return found
        for rows in self.rows:
            position = int(np.searchsorted(rows.steps, step))
            if position < len(rows.steps) and rows.steps[position] == step:
                columns = np.flatnonzero(rows.slots == slot)
                if len(columns):
                    return float(rows.values[position, columns[0]])
        return None

    def look_up(self, slot: int, known: LoggedValues) -> None:
        """Add the values of a series that wait to be written."""
        for rows in self.rows:
            columns = np.flatnonzero(rows.slots == slot)
            if len(columns):
                known.add(rows.steps, rows.values[:, columns[0]])
        mine = [(step, value) for loose_slot, step, _, value in self.loose if loose_slot == slot]
        if mine:
            steps, values = zip(*mine, strict=True)
            known.add(np.array(steps, np.int64), np.array(values, np.float64))

    @property
    def count(self) -> int:
        """Number of committed points, waiting ones included."""
        waiting = sum(rows.values.size for rows in self.rows) + len(self.loose)
        return int(self.summary.count[: self.size].sum()) + waiting

    @property
    def has_waiting(self) -> bool:
        """Tell whether there is anything to write."""
        return bool(self.rows or self.loose or self.previews)

    def take(self) -> tuple[list[Points], npt.NDArray[np.intp]]:
        """Add the waiting points to the summaries, forget them, and return them with the slots of their series."""
        groups: list[Points] = []
        touched: list[npt.NDArray[np.intp]] = [
            np.arange(self.stored, self.size),
            np.fromiter(self.previews, np.intp, len(self.previews)),
        ]
        for same in _stacks(self.rows):
            slots = same[0].slots
            steps, timestamps, values = (
                np.concatenate([getattr(rows, name) for rows in same]) for name in ("steps", "timestamps", "values")
            )
            self.summary.add_rows(slots, steps, values)
            groups.append(Rectangle(self.attribute_ids[slots], steps, timestamps, values))
            touched.append(slots)
        if self.loose:
            slots_, steps_, timestamps_, values_ = zip(*self.loose, strict=True)
            slots = np.array(slots_, np.intp)
            loose = Loose(
                self.attribute_ids[slots],
                np.array(steps_, np.int64),
                np.array(timestamps_, np.int64),
                np.array(values_, np.float64),
            )
            self._summarize(slots, loose)
            groups.append(loose)
            touched.append(slots)
        self.rows, self.loose = [], []
        self._loose_values, self._looked_up = {}, 0
        return groups, np.unique(np.concatenate(touched))

    def _summarize(self, slots: npt.NDArray[np.intp], points: Loose) -> None:
        order = np.argsort(slots, kind="stable")
        found, starts = np.unique(slots[order], return_index=True)
        for slot, places in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            self.summary.add_rows(np.array([slot]), points.steps[places], points.values[places, None])

    def columns_of(self, slots: npt.NDArray[np.intp]) -> dict[str, list[object]]:
        """Return columns of the `series` table for written series."""
        summary = self.summary
        return {
            "attribute_id": self.attribute_ids[slots].tolist(),
            "count": summary.count[slots].tolist(),
            "first_step": _nullable(self.first_step[slots], self.first_step[slots] == NEVER),
            "last_step": _nullable(self.last_step[slots], self.last_step[slots] == NEVER),
            "last_timestamp": _nullable(self.last_timestamp[slots], self.last_timestamp[slots] == NEVER),
            "last_value": _nullable(summary.last[slots], np.isnan(summary.last[slots])),
            "finite_count": summary.finite_count[slots].tolist(),
            "minimum": _nullable(summary.minimum[slots], summary.finite_count[slots] == 0),
            "maximum": _nullable(summary.maximum[slots], summary.finite_count[slots] == 0),
            # Sums of huge values overflow, those of both signs to NaN; they are lost, but the columns hold no NULL.
            "total": np.nan_to_num(summary.total[slots], nan=math.inf, posinf=math.inf, neginf=-math.inf).tolist(),
            "deviations": np.nan_to_num(summary.deviations[slots], nan=math.inf, posinf=math.inf).tolist(),
            "has_preview": [self.has_preview(slot) for slot in slots.tolist()]
            if self.last_preview
            else [False] * len(slots),
        }

    def has_preview(self, slot: int) -> bool:
        """Tell whether a preview lies after the last committed point."""
        return self.last_preview.get(slot, NEVER) > int(self.last_step[slot])


def _nullable(array: npt.NDArray[Any], is_null: npt.NDArray[np.bool_]) -> list[object]:
    values: list[object] = array.tolist()
    for place in np.flatnonzero(is_null).tolist():
        values[place] = None
    return values


def _stacks(rows: list[Rows]) -> list[list[Rows]]:
    """Return rows of the same series together, in their order."""
    alike: dict[int, list[Rows]] = {}
    for item in rows:
        alike.setdefault(id(item.slots), []).append(item)
    return list(alike.values())


def _grown(array: npt.NDArray[Any], capacity: int, filler: float) -> npt.NDArray[Any]:
    grown = np.full(capacity, filler, array.dtype)
    grown[: len(array)] = array
    return grown
