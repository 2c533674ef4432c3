"""A run as the applier holds it in memory: attributes and series with the changes not yet written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api.server.store.columns import PayloadColumns
from neptune_api.server.store.float_table import NEVER, FloatTable
from neptune_api.server.store.rules import encode_set
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType

if TYPE_CHECKING:
    import numpy.typing as npt


VALUE_COLUMNS: Final = ("int_value", "float_value", "text_value", "mime_type")
"""Where the table `attributes` has the value of an attribute."""

SERIES_TYPES: Final = frozenset(
    {
        AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES,
        AttributeType.ATTRIBUTE_TYPE_STRING_SERIES,
        AttributeType.ATTRIBUTE_TYPE_HISTOGRAM_SERIES,
        AttributeType.ATTRIBUTE_TYPE_FILE_REF_SERIES,
    }
)

# Reading a series reads all tails of its run: they are kept small, but large enough to make chunks worth writing.
_TAIL_POINTS: Final = 2_500_000
_TAILS: Final = 256

# What a single attribute holds: a number, a text, members of a set as a frozenset, or a file.
Scalar = int | float | str | frozenset[str] | pb.FileRef
# What a point of a series holds: a double, or a serialized neptune_api.v1.Value.
PointValue = float | bytes


@dataclass(slots=True)
class PayloadSeries:
    """A series of anything but floats: what is written of it, and the points that wait to be."""

    # Committed points, waiting ones included.
    count: int = 0
    first_step: int | None = None
    # Of the point with the greatest step, waiting points included.
    last_step: int | None = None
    last_value: bytes = b""
    # Of the point logged last.
    last_timestamp: int | None = None
    steps: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    # The youngest chunk while it is small enough to grow, and its key.
    tail: PayloadColumns | None = None
    tail_id: int | None = None
    # Places of the waiting points by step, as far as they have been looked up.
    _places: dict[int, int] = field(default_factory=dict)
    _placed: int = 0

    def add(self, step: int, timestamp: int, value: bytes, *, is_new: bool) -> None:
        """Take a point, which is not new when it takes the place of another at its step."""
        self.steps.append(step)
        self.timestamps.append(timestamp)
        self.payloads.append(value)
        self.count += is_new
        self.last_timestamp = timestamp
        if self.first_step is None or step < self.first_step:
            self.first_step = step
        if self.last_step is None or step >= self.last_step:
            self.last_step = step
            self.last_value = value

    def waiting_value(self, step: int) -> bytes | None:
        """Return the value that waits to be written at a step; None when there is none."""
        for place in range(self._placed, len(self.steps)):
            self._places[self.steps[place]] = place
        self._placed = len(self.steps)
        place_of_step = self._places.get(step)
        return None if place_of_step is None else self.payloads[place_of_step]

    def take_points(self) -> PayloadColumns:
        """Return the waiting points as columns and forget them."""
        columns = PayloadColumns(np.array(self.steps, np.int64), np.array(self.timestamps, np.int64), self.payloads)
        self.steps, self.timestamps, self.payloads = [], [], []
        self._places, self._placed = {}, 0
        return columns


@dataclass(slots=True)
class Attribute:
    """An attribute of a run: a single value or a series."""

    id: int
    name: str
    type: int
    value: Scalar | None = None
    # Of a float series: its place in the run's table.
    slot: int | None = None
    # Of any other series.
    series: PayloadSeries | None = None
    is_stored: bool = False

    def columns(self) -> dict[str, object]:
        """Return the value as columns of the `attributes` table."""
        row: dict[str, object] = dict.fromkeys(VALUE_COLUMNS)
        value = self.value
        if value is None:
            return row
        if isinstance(value, pb.FileRef):
            row |= {"text_value": value.path, "int_value": value.size_bytes, "mime_type": value.mime_type}
        elif isinstance(value, frozenset):
            row["text_value"] = encode_set(value)
        elif isinstance(value, str):
            row["text_value"] = value
        elif isinstance(value, float):
            row["float_value"] = None if math.isnan(value) else value
        else:
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
    # Attributes with changes that are not written, float series apart.
    changed: dict[str, Attribute] = field(default_factory=dict)
    floats: FloatTable = field(default_factory=FloatTable)
    # Slots of the series of layouts met in this run, by their keys; None for those that need a look at each path.
    layouts: dict[str, npt.NDArray[np.intp] | None] = field(default_factory=dict)
    # Points in tails, and tails.
    tail_points: int = 0
    tail_count: int = 0
    # True once a damaged chunk has kept them from being moved into chunks.
    keeps_tails: bool = False
    last_applied_ms: int = 0
    # Later than that when another run or call has changed it.
    modified_ms: int = 0

    @property
    def has_full_tail(self) -> bool:
        """True when it is time to move the points in tails into chunks."""
        return self.tail_points >= _TAIL_POINTS or self.tail_count >= _TAILS

    def first_step_of(self, attribute: Attribute) -> int | None:
        """Return the least committed step of a series; None when it has none."""
        if attribute.slot is not None:
            first = int(self.floats.first_step[attribute.slot])
            return None if first == NEVER else first
        return None if attribute.series is None else attribute.series.first_step

    def last_step_of(self, attribute: Attribute) -> int | None:
        """Return the greatest committed step of a series; None when it has none."""
        if attribute.slot is not None:
            last = int(self.floats.last_step[attribute.slot])
            return None if last == NEVER else last
        return None if attribute.series is None else attribute.series.last_step

    def last_timestamp_of(self, attribute: Attribute) -> int | None:
        """Return the timestamp of the point of a series that was logged last; None when it has none."""
        if attribute.slot is not None:
            last = int(self.floats.last_timestamp[attribute.slot])
            return None if last == NEVER else last
        return None if attribute.series is None else attribute.series.last_timestamp

    def last_step(self) -> int | None:
        """Return the greatest step of the run, inherited ones included; None when it has none."""
        steps = [step for attribute in self.attributes.values() if (step := self.last_step_of(attribute)) is not None]
        if self.fork_step is not None:
            steps.append(self.fork_step)
        return max(steps, default=None)
