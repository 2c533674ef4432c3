"""Buckets over float series: where they begin and end, what is in them, and their messages written by numpy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neptune_api._wire import encode_varint
from neptune_api.server.point_messages import varint_width, write_varints
from neptune_api.server.store import steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from neptune_api.server.store.columns import FloatArray, Int64Array

    Places = npt.NDArray[np.intp]

# `${path}`, where a backslash stands before each backslash, `$`, `{` and `}` of the path.
_FORMULA: Final = re.compile(r"\$\{((?:[^\\${}]|\\[\\${}])+)\}", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\([\\${}])")

# Wire format: tags of TimeseriesBucketsResponse.entries, of TimeseriesBuckets.request_id and bucket, of the fields of
# TimeseriesBucket and of those of FinitePoint.
_ENTRY: Final = b"\x0a"
_REQUEST_ID: Final = b"\x0a"
_BUCKET: Final = 0x12
_INDEX: Final = 0x08
_FROM_X: Final = 0x11
_TO_X: Final = 0x19
_FIRST: Final = 0x22
_LAST: Final = 0x2A
_LOCAL_MIN: Final = 0x31
_LOCAL_MAX: Final = 0x39
_FINITE_COUNT: Final = 0x40
_NAN_COUNT: Final = 0x48
_POSITIVE_COUNT: Final = 0x50
_NEGATIVE_COUNT: Final = 0x58
_LOCAL_SUM: Final = 0x61
_X: Final = 0x09
_Y: Final = 0x11


def path_of(formula: str) -> str | None:
    """Return the path that a formula of one series names; None for any other formula."""
    found = _FORMULA.fullmatch(formula)
    return None if found is None else _ESCAPED.sub(r"\1", found[1])


def encode_buckets(entries: Mapping[str, bytes | memoryview]) -> bytes:
    """Return a serialized TimeseriesBucketsResponse of what `Buckets.encode` gave for each request id."""
    parts: list[bytes | memoryview] = []
    for request_id, buckets in entries.items():
        name = request_id.encode()
        head = _REQUEST_ID + encode_varint(len(name)) + name
        parts += (_ENTRY, encode_varint(len(head) + len(buckets)), head, buckets)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Edges:
    """Where n + 1 buckets begin and end; a point belongs to the one with `lower` < x <= `upper`.

    The first is everything up to the beginning of the range, the last everything behind its n - 1 equal parts. A range
    of one point has a single bucket, from that point on, which is included.
    """

    lower: FloatArray
    upper: FloatArray
    is_single: bool

    @classmethod
    def of(cls, begin: float, end: float, count: int) -> Edges:
        """Return the edges for a range and n = `count`, in the very doubles that clients expect."""
        if begin == end:
            return cls(np.array([begin]), np.array([math.inf]), True)
        width = (end - begin) / (count - 1)
        inner = begin + width * np.arange(count)
        return cls(np.concatenate([[-math.inf], inner]), np.concatenate([inner, [math.inf]]), False)

    def places(self, x: FloatArray) -> Places:
        """Return the bucket of each x; those before a single bucket get -1."""
        if self.is_single:
            return np.where(x >= self.lower[0], 0, -1)
        return np.searchsorted(self.upper, x, "left")


class Buckets:
    """Sum up the points of series that have the same steps; they come in ascending order.

    Only of a single series may there be values that are not finite.
    """

    def __init__(self, edges: Edges, series: int = 1) -> None:
        size = len(edges.lower)
        self._edges = edges
        # What is the same for all series, and what each has for itself.
        self._finite, self._nan, self._positive, self._negative = np.zeros((4, size), np.int64)
        self._first_x, self._last_x = np.zeros((2, size))
        self._first, self._last, self._total = np.zeros((3, series, size))
        self._minimum = np.full((series, size), math.inf)
        self._maximum = np.full((series, size), -math.inf)

    def add(self, steps_: Int64Array, values: Sequence[FloatArray]) -> None:
        """Take in points that follow those before: of each series its values at these steps."""
        x, ys = steps.to_double(steps_), values
        if self._edges.is_single or (len(ys) == 1 and not is_finite(ys[0])):
            places = self._edges.places(x)
            size = len(self._finite)
            inside = places >= 0
            if len(ys) == 1:
                (y,) = ys
                self._nan += np.bincount(places[np.isnan(y) & inside], minlength=size)
                self._positive += np.bincount(places[(y == math.inf) & inside], minlength=size)
                self._negative += np.bincount(places[(y == -math.inf) & inside], minlength=size)
                inside &= np.isfinite(y)
            x, ys = x[inside], [y[inside] for y in ys]
            # Places ascend as the points do.
            found, starts = np.unique(places[inside], return_index=True)
        else:
            # Edges are fewer than points, and all points are in some bucket.
            bounds = np.searchsorted(x, self._edges.upper, "right")
            found = np.flatnonzero(np.diff(bounds, prepend=0))
            starts = np.append(0, bounds)[found]
        if len(found):
            self._add_finite(x, ys, found, starts)

    def _add_finite(self, x: FloatArray, ys: Sequence[FloatArray], found: Places, starts: Places) -> None:
        """Take in finite points of which each bucket found has those from its start to the next one's."""
        ends = np.append(starts[1:], len(x)) - 1
        is_new = self._finite[found] == 0
        new, new_starts = _ranged(found[is_new]), starts[is_new]
        there = _ranged(found)
        self._first_x[new] = x[new_starts]
        self._last_x[there] = x[ends]
        self._finite[there] += ends - starts + 1
        for first, last, minimum, maximum, total, y in zip(
            self._first, self._last, self._minimum, self._maximum, self._total, ys, strict=True
        ):
            first[new] = y[new_starts]
            last[there] = y[ends]
            minimum[there] = np.minimum(minimum[there], np.minimum.reduceat(y, starts))
            maximum[there] = np.maximum(maximum[there], np.maximum.reduceat(y, starts))
            with np.errstate(over="ignore", invalid="ignore"):
                total[there] += np.add.reduceat(y, starts)

    def encode(self) -> list[bytes | memoryview]:
        """Return for each series the fields `bucket` of a serialized TimeseriesBuckets: those with a point, in order.

        As in `point_messages`, what is written may be longer than it needs to be, and means the same.
        """
        has_finite = self._finite > 0
        places = np.flatnonzero(has_finite | (self._nan + self._positive + self._negative > 0))
        # Those without a finite point lack some fields, so each stretch of either kind is encoded for itself.
        stretches = np.split(places, np.flatnonzero(np.diff(has_finite[places])) + 1) if len(places) else []
        encoded = [self._encode(some, with_finite=bool(has_finite[some[0]])) for some in stretches]
        if len(encoded) == 1:
            return [*encoded[0]]
        return [b"".join(parts) for parts in zip(*encoded, strict=True)] or [b""] * len(self._first)

    def _encode(self, places: Places, *, with_finite: bool) -> list[memoryview]:
        there = _ranged(places)
        counts = (
            (_FINITE_COUNT, self._finite[there]),
            (_NAN_COUNT, self._nan[there]),
            (_POSITIVE_COUNT, self._positive[there]),
            (_NEGATIVE_COUNT, self._negative[there]),
        )
        integers = [(_INDEX, places.astype(np.int64)), *((tag, count) for tag, count in counts if count.any())]
        edges = ((_FROM_X, self._edges.lower[there]), (_TO_X, self._edges.upper[there]))
        doubles: list[tuple[int, FloatArray]] = []
        ends: list[tuple[int, FloatArray, FloatArray]] = []
        if with_finite:
            doubles = [(_LOCAL_MIN, self._minimum), (_LOCAL_MAX, self._maximum), (_LOCAL_SUM, self._total)]
            ends = [(_FIRST, self._first_x[there], self._first), (_LAST, self._last_x[there], self._last)]
        layout: list[Any] = [("head", "u1", (2,))]
        layout += ((f"i{tag}", [("tag", "u1"), ("value", "u1", (varint_width(value),))]) for tag, value in integers)
        layout += ((f"d{tag}", [("tag", "u1"), ("value", "<f8")]) for tag, _ in (*edges, *doubles))
        point = [("head", "u1", (2,)), ("x_tag", "u1"), ("x", "<f8"), ("y_tag", "u1"), ("y", "<f8")]
        layout += ((f"p{tag}", point) for tag, _, _ in ends)
        records = np.empty((len(self._total), len(places)), np.dtype(layout))
        first = records[0]
        first["head"] = (_BUCKET, records.dtype.itemsize - 2)
        for tag, value in integers:
            first[f"i{tag}"]["tag"] = tag
            write_varints(first[f"i{tag}"]["value"], value)
        for tag, double in edges:
            first[f"d{tag}"]["tag"] = tag
            first[f"d{tag}"]["value"] = double
        for tag, _ in doubles:
            first[f"d{tag}"]["tag"] = tag
        for tag, x, _ in ends:
            part = first[f"p{tag}"]
            part["head"] = (tag, part.dtype.itemsize - 2)
            part["x_tag"], part["x"], part["y_tag"] = _X, x, _Y
        # So far it is the same for every series.
        raw = records.view(np.uint8)
        raw[1:] = raw[0]
        for tag, own in doubles:
            records[f"d{tag}"]["value"] = own[:, there]
        for tag, _, own in ends:
            records[f"p{tag}"]["y"] = own[:, there]
        return [record.data for record in raw]


def is_finite(values: FloatArray) -> bool:
    """Tell whether no value is NaN or infinite."""
    return bool(np.isfinite(values).all())


def _ranged(places: Places) -> Places | slice:
    """Return ascending places as a range, if they are one: there numpy reads and writes several times as fast."""
    if len(places) and places[-1] - places[0] == len(places) - 1:
        return slice(int(places[0]), int(places[-1]) + 1)
    return places
