"""A run as the applier holds it in memory: attributes and series with the changes not yet written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from neptune_api.server.store.columns import FloatColumns, PayloadColumns
from neptune_api.server.store.rules import encode_set
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType

SERIES_TYPES: Final = frozenset(
    {
        AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES,
        AttributeType.ATTRIBUTE_TYPE_STRING_SERIES,
        AttributeType.ATTRIBUTE_TYPE_HISTOGRAM_SERIES,
        AttributeType.ATTRIBUTE_TYPE_FILE_REF_SERIES,
    }
)

# What a single attribute holds: a number, a text, members of a set as a frozenset, or a file.
Scalar = int | float | str | frozenset[str] | pb.FileRef
# What a point of a series holds: a double, or a serialized neptune_api.v1.Value.
PointValue = float | bytes


@dataclass(slots=True)
class Preview:
    """A preview of a float series."""

    timestamp: int
    value: float
    ratio: float


@dataclass(slots=True)
class Series:
    """A series: its summary as written, and the points and previews that wait to be written."""

    is_float: bool
    summary: FloatSummary = field(default_factory=FloatSummary)
    first_step: int | None = None
    # Of the point with the greatest step, waiting points included.
    last_step: int | None = None
    last_value: PointValue = math.nan
    # Of the point logged last.
    last_timestamp: int | None = None
    last_preview: int | None = None
    steps: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    # Waiting points that take the place of earlier ones at their steps.
    overwritten: int = 0
    previews: dict[int, Preview] = field(default_factory=dict)
    # The youngest chunk while it is small enough to grow, and its key.
    tail: FloatColumns | PayloadColumns | None = None
    tail_id: int | None = None
    # Places of the waiting points by step, as far as they have been looked up.
    _places: dict[int, int] = field(default_factory=dict)
    _placed: int = 0

    def add(self, step: int, timestamp: int, value: PointValue, *, is_new: bool) -> None:
        """Take a committed point, which is not new when it takes the place of another at its step."""
        self.steps.append(step)
        self.timestamps.append(timestamp)
        self.values.append(value)
        self.overwritten += not is_new
        self.last_timestamp = timestamp
        if self.first_step is None or step < self.first_step:
            self.first_step = step
        if self.last_step is None or step >= self.last_step:
            self.last_step = step
            self.last_value = value

    def waiting_value(self, step: int) -> PointValue | None:
        """Return the value that waits to be written at a step; None when there is none."""
        for place in range(self._placed, len(self.steps)):
            self._places[self.steps[place]] = place
        self._placed = len(self.steps)
        place_of_step = self._places.get(step)
        return None if place_of_step is None else self.values[place_of_step]

    def take_points(self) -> FloatColumns | PayloadColumns:
        """Return the waiting points as columns and forget them."""
        steps, timestamps = np.array(self.steps, np.int64), np.array(self.timestamps, np.int64)
        columns: FloatColumns | PayloadColumns
        if self.is_float:
            columns = FloatColumns(steps, timestamps, np.array(self.values, np.float64))
        else:
            columns = PayloadColumns(steps, timestamps, self.values)
        self.steps, self.timestamps, self.values, self.overwritten = [], [], [], 0
        self._places, self._placed = {}, 0
        return columns

    @property
    def count(self) -> int:
        """Number of committed points, waiting ones included."""
        return self.summary.count + len(self.steps) - self.overwritten

    @property
    def has_preview(self) -> bool:
        """True when a preview lies after the last committed point."""
        return self.last_preview is not None and (self.last_step is None or self.last_preview > self.last_step)


@dataclass(slots=True)
class Attribute:
    """An attribute of a run: a single value or a series."""

    id: int
    name: str
    type: int
    value: Scalar | None = None
    series: Series | None = None
    is_stored: bool = False

    def columns(self) -> dict[str, object]:
        """Return the value as columns of the `attributes` table."""
        row: dict[str, object] = {"int_value": None, "float_value": None, "text_value": None, "mime_type": None}
        value = self.value
        if isinstance(value, pb.FileRef):
            row |= {"text_value": value.path, "int_value": value.size_bytes, "mime_type": value.mime_type}
        elif isinstance(value, frozenset):
            row["text_value"] = encode_set(value)
        elif isinstance(value, str):
            row["text_value"] = value
        elif isinstance(value, float):
            row["float_value"] = None if math.isnan(value) else value
        elif value is not None:
            row["int_value"] = int(value)
        return row


@dataclass(slots=True)
class RunState:
    """A run with all its attributes by name."""

    id: int
    uuid: str
    project_id: int
    run_id: str
    number: int
    experiment: str | None
    family: str
    requested_parent: str | None
    requested_fork_step: int | None
    parent_id: int | None
    fork_step: int | None
    owner_id: int
    created_ms: int
    is_stored: bool = True
    attributes: dict[str, Attribute] = field(default_factory=dict)
    # Attributes with changes that are not written.
    changed: dict[str, Attribute] = field(default_factory=dict)
    last_applied_ms: int = 0
    # Later than that when another run or call has changed it.
    modified_ms: int = 0

    def last_step(self) -> int | None:
        """Return the greatest step of the run, inherited ones included; None when it has none."""
        steps = [
            attribute.series.last_step
            for attribute in self.attributes.values()
            if attribute.series is not None and attribute.series.last_step is not None
        ]
        if self.fork_step is not None:
            steps.append(self.fork_step)
        return max(steps, default=None)
