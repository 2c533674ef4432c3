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
    from collections.abc import Mapping

    import numpy.typing as npt

    from neptune_api.server.store.columns import FloatArray, FloatColumns

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


def encode_buckets(entries: Mapping[str, bytes]) -> bytes:
    """Return a serialized TimeseriesBucketsResponse of what `Buckets.encode` gave for each request id."""
    parts: list[bytes] = []
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

    def places(self, x: FloatArray) -> npt.NDArray[np.intp]:
        """Return the bucket of each x; those before a single bucket get -1."""
        if self.is_single:
            return np.where(x >= self.lower[0], 0, -1)
        return np.searchsorted(self.upper, x, "left")


class Buckets:
    """Sum up the points of one series, which come in ascending order."""

    def __init__(self, edges: Edges) -> None:
        size = len(edges.lower)
        self._edges = edges
        self._finite = np.zeros(size, np.int64)
        self._nan = np.zeros(size, np.int64)
        self._positive = np.zeros(size, np.int64)
        self._negative = np.zeros(size, np.int64)
        self._minimum = np.full(size, math.inf)
        self._maximum = np.full(size, -math.inf)
        self._total = np.zeros(size)
        self._first = np.zeros((size, 2))
        self._last = np.zeros((size, 2))

    def add(self, points: FloatColumns) -> None:
        """Take in points that follow those before."""
        x, y = steps.to_double(points.steps), points.values
        if self._edges.is_single or not bool(np.isfinite(y).all()):
            places = self._edges.places(x)
            size = len(self._finite)
            inside = places >= 0
            finite = np.isfinite(y) & inside
            self._nan += np.bincount(places[np.isnan(y) & inside], minlength=size)
            self._positive += np.bincount(places[(y == math.inf) & inside], minlength=size)
            self._negative += np.bincount(places[(y == -math.inf) & inside], minlength=size)
            x, y = x[finite], y[finite]
            # Places ascend as the points do.
            found, starts = np.unique(places[finite], return_index=True)
        else:
            # Edges are fewer than points, and all points are in some bucket.
            bounds = np.searchsorted(x, self._edges.upper, "right")
            found = np.flatnonzero(np.diff(bounds, prepend=0))
            starts = np.append(0, bounds)[found]
        if len(found):
            self._add_finite(x, y, found, starts)

    def _add_finite(
        self, x: FloatArray, y: FloatArray, found: npt.NDArray[np.intp], starts: npt.NDArray[np.intp]
    ) -> None:
        """Take in finite points of which each bucket found has those from its start to the next one's."""
        ends = np.append(starts[1:], len(x)) - 1
        is_new = self._finite[found] == 0
        self._first[found[is_new]] = np.column_stack([x[starts], y[starts]])[is_new]
        self._last[found] = np.column_stack([x[ends], y[ends]])
        self._finite[found] += ends - starts + 1
        self._minimum[found] = np.minimum(self._minimum[found], np.minimum.reduceat(y, starts))
        self._maximum[found] = np.maximum(self._maximum[found], np.maximum.reduceat(y, starts))
        with np.errstate(over="ignore", invalid="ignore"):
            self._total[found] += np.add.reduceat(y, starts)

    def encode(self) -> bytes:
        """Return the fields `bucket` of a serialized TimeseriesBuckets: the buckets with a point, in order.

        As in `point_messages`, what is written is longer than it needs to be, and means the same.
        """
        there = self._finite + self._nan + self._positive + self._negative > 0
        has_finite = self._finite > 0
        if bool((there == has_finite).all()):
            return self._encode(np.flatnonzero(there), with_finite=True)
        # Those without a finite point lack some fields, so each stretch of either kind is encoded for itself.
        places = np.flatnonzero(there)
        stretches = np.split(places, np.flatnonzero(np.diff(has_finite[places])) + 1)
        return b"".join(self._encode(some, with_finite=bool(has_finite[some[0]])) for some in stretches)

    def _encode(self, places: npt.NDArray[np.intp], *, with_finite: bool) -> bytes:
        counts = (
            (_FINITE_COUNT, self._finite[places]),
            (_NAN_COUNT, self._nan[places]),
            (_POSITIVE_COUNT, self._positive[places]),
            (_NEGATIVE_COUNT, self._negative[places]),
        )
        doubles: list[tuple[int, FloatArray]] = [
            (_FROM_X, self._edges.lower[places]),
            (_TO_X, self._edges.upper[places]),
        ]
        ends: list[tuple[int, FloatArray]] = []
        if with_finite:
            doubles += (
                (_LOCAL_MIN, self._minimum[places]),
                (_LOCAL_MAX, self._maximum[places]),
                (_LOCAL_SUM, self._total[places]),
            )
            ends = [(_FIRST, self._first[places]), (_LAST, self._last[places])]
        integers = [(_INDEX, places.astype(np.int64)), *counts]
        layout: list[Any] = [("head", "u1", (2,))]
        layout += ((f"i{tag}", [("tag", "u1"), ("value", "u1", (varint_width(value),))]) for tag, value in integers)
        layout += ((f"d{tag}", [("tag", "u1"), ("value", "<f8")]) for tag, _ in doubles)
        point = [("head", "u1", (2,)), ("x_tag", "u1"), ("x", "<f8"), ("y_tag", "u1"), ("y", "<f8")]
        layout += ((f"p{tag}", point) for tag, _ in ends)
        records = np.empty(len(places), np.dtype(layout))
        records["head"] = (_BUCKET, records.dtype.itemsize - 2)
        for tag, value in integers:
            records[f"i{tag}"]["tag"] = tag
            write_varints(records[f"i{tag}"]["value"], value)
        for tag, double in doubles:
            records[f"d{tag}"]["tag"] = tag
            records[f"d{tag}"]["value"] = double
        for tag, end in ends:
            part = records[f"p{tag}"]
            part["head"] = (tag, part.dtype.itemsize - 2)
            part["x_tag"], part["y_tag"] = _X, _Y
            part["x"], part["y"] = end[:, 0], end[:, 1]
        return records.tobytes()
