"""Snapshots of float points as blocks of arrays, straight from the bytes of an operation.

A client that logs the same series step after step sends the same bytes again but for the values: map entries come in
the same order, keys and lengths are equal. So the first snapshot of a kind is parsed and its bytes become a layout, and
those that follow are compared with it and their values are gathered, all at once, without an object per point.
Whatever does not fit (other values than floats, assignments, previews, a missing step) is left to protobuf.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from neptune_api._wire import fields, varint
from neptune_api.server.recent import Recent
from neptune_api.server.store import rules
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from typing_extensions import Self

    from neptune_api.server.store.columns import FloatArray, Int64Array

    _Sign = tuple[int, bytes]

# Wire format: tags of the fields of UpdateRunSnapshots, UpdateRunSnapshot and of an entry of its map `append`.
_SNAPSHOT: Final = 0x0A
_STEP: Final = 0x0A
_TIMESTAMP: Final = 0x12
_APPEND: Final = 0x42
_KEY: Final = 0x0A
_FLOAT_VALUE: Final = b"\x12\x09\x09"  # Value value = 2, of 9 bytes; double float64 = 1
_DOUBLE: Final = 8
# Of the first path of a layout, how much tells it from others.
_SIGN_BYTES: Final = 1024
# Layouts of ten thousand series take about 3 MB each.
_LAYOUT_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The bytes that snapshots of the same series share, and where the values lie among them."""

    paths: tuple[str, ...]
    # What the bytes are, with zeros for those of values; and 255 for every byte that is not of a value.
    fixed: bytearray
    mask: npt.NDArray[np.uint8]
    # Positions of the values' bytes.
    positions: npt.NDArray[np.intp]
    # What the fixed bytes are known by.
    key: str

    @classmethod
    def learn(cls, region: bytes) -> Self | None:
        """Return the layout of a region of appends; None when it has anything but floats of distinct paths."""
        paths: list[str] = []
        ends: list[int] = []
        position = 0
        try:
            while position < len(region):
                if region[position] != _APPEND:
                    return None
                length, position = varint(region, position + 1)
                end = position + length
                if region[position] != _KEY:
                    return None
                key_length, key = varint(region, position + 1)
                if key + key_length + len(_FLOAT_VALUE) + _DOUBLE != end or end > len(region):
                    return None
                if region[key + key_length : end - _DOUBLE] != _FLOAT_VALUE:
                    return None
                paths.append(region[key : key + key_length].decode())
                ends.append(end)
                position = end
        except (IndexError, UnicodeDecodeError):
            return None
        if len(set(paths)) != len(paths) or not paths:
            return None
        positions = np.add.outer(np.array(ends, np.intp), np.arange(-_DOUBLE, 0)).ravel()
        mask = np.full(len(region), 255, np.uint8)
        mask[positions] = 0
        fixed = bytearray(np.bitwise_and(np.frombuffer(region, np.uint8), mask))
        return cls(tuple(paths), fixed, mask, positions, hashlib.blake2b(fixed, digest_size=16).hexdigest())

    @property
    def size(self) -> int:
        """Size in memory, about, in bytes."""
        return len(self.fixed) + self.mask.nbytes + self.positions.nbytes + 100 * len(self.paths)

    def values(self, rows: npt.NDArray[np.uint8]) -> FloatArray | None:
        """Return the values of snapshots, one per row of bytes; None unless every row has this layout."""
        # A bytearray compares itself with any bytes as quickly as memory is read.
        if any(self.fixed != fixed for fixed in np.bitwise_and(rows, self.mask)):
            return None
        values: FloatArray = rows.take(self.positions, axis=1).view("<f8").astype(np.float64, copy=False)
        return values


@dataclass(frozen=True, slots=True)
class Block:
    """Points of n series at k steps: micro-steps and milliseconds (k), values (k x n)."""

    layout: Layout
    steps: Int64Array
    timestamps: Int64Array
    values: FloatArray


@dataclass(slots=True)
class _Rows:
    layout: Layout
    steps: list[int]
    timestamps: list[int]
    regions: list[memoryview]

    def block(self) -> Block | None:
        region = self.regions[0] if len(self.regions) == 1 else b"".join(self.regions)
        rows = np.frombuffer(region, np.uint8).reshape(len(self.regions), -1)
        values = self.layout.values(rows)
        if values is None:
            return None
        return Block(self.layout, np.array(self.steps, np.int64), np.array(self.timestamps, np.int64), values)


class BlockDecoder:
    """Turn serialized UpdateRunSnapshots into blocks and, for what is not in blocks, snapshots; in their order.

    Remembers the layouts it has met; safe for threads.
    """

    def __init__(self) -> None:
        # The layout met last for each sign of a region of appends.
        self._layouts: Recent[_Sign, Layout] = Recent(_LAYOUT_BYTES, attrgetter("size"))

    def decode(self, batch: bytes | memoryview) -> Iterator[Block | pb.UpdateRunSnapshot]:
        """Yield what a batch holds; raises DecodeError for bytes that are not UpdateRunSnapshots."""
        waiting: list[tuple[memoryview, _Rows | None]] = []
        # Views, because copies of half a megabyte cost more than all that is done with them.
        view = memoryview(batch)
        for tag, begin, end in fields(view):
            if tag != _SNAPSHOT:
                continue
            snapshot = view[begin:end]
            head = _head(snapshot)
            layout = None if head is None else self._layout(snapshot, head[2])
            if head is None or layout is None:
                yield from self._flush(waiting)
                waiting = []
                yield pb.UpdateRunSnapshot.FromString(bytes(snapshot))
                continue
            step, timestamp, start = head
            rows = waiting[-1][1] if waiting else None
            if rows is None or rows.layout is not layout:
                yield from self._flush(waiting)
                rows = _Rows(layout, [], [], [])
                waiting = []
            rows.steps.append(step)
            rows.timestamps.append(timestamp)
            rows.regions.append(snapshot[start:])
            waiting.append((snapshot, rows))
        yield from self._flush(waiting)

    def _flush(self, waiting: list[tuple[memoryview, _Rows | None]]) -> Iterator[Block | pb.UpdateRunSnapshot]:
        if not waiting:
            return
        rows = waiting[-1][1]
        block = None if rows is None else rows.block()
        if block is not None:
            yield block
            return
        # The signs were equal by chance: the layout is of other series.
        if rows is not None:
            self._layouts.drop(_sign(rows.regions[0]))
        for snapshot, _ in waiting:
            yield pb.UpdateRunSnapshot.FromString(bytes(snapshot))

    def _layout(self, snapshot: memoryview, start: int) -> Layout | None:
        sign = _sign(snapshot[start:])
        layout = self._layouts.get(sign)
        if layout is None:
            layout = Layout.learn(bytes(snapshot[start:]))
            if layout is not None:
                self._layouts.put(sign, layout)
        return layout


def _sign(region: memoryview) -> _Sign:
    """Return what regions of the same series have in common and others mostly do not: their length, the first path.

    Of processes that log the same under names of their own, such as ranks, regions are equally long.
    """
    try:
        _, position = varint(region, 1)
        length, position = varint(region, position + 1)
    except IndexError:
        return len(region), b""
    return len(region), bytes(region[position : position + min(length, _SIGN_BYTES)])


def _head(snapshot: memoryview) -> tuple[int, int, int] | None:
    """Return micro-step, milliseconds and where the appends begin; None for a snapshot that is not of this kind."""
    try:
        if snapshot[0] != _STEP:
            return None
        length, position = varint(snapshot, 1)
        step = pb.Step.FromString(bytes(snapshot[position : position + length]))
        position += length
        if snapshot[position] != _TIMESTAMP or rules.step_fault(step) != pb.INGEST_CODE_OK:
            return None
        length, position = varint(snapshot, position + 1)
        timestamp = Timestamp.FromString(bytes(snapshot[position : position + length]))
        position += length
        if snapshot[position] != _APPEND:
            return None
    except IndexError:
        return None
    milliseconds = rules.timestamp_ms(timestamp)
    if rules.time_fault(milliseconds) != pb.INGEST_CODE_OK:
        return None
    return rules.step_micros(step), milliseconds, position
