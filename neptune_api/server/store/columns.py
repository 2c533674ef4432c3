"""Points as columns of arrays, and as the bytes of a chunk.

A chunk is a header (one byte of flags, the number of points as uint32), the steps, the timestamps and the values, all
little-endian. Each column takes the smallest form that loses nothing: steps at a regular distance are two numbers,
other steps and timestamps differences of 4 or 6 bytes where these fit, doubles that a float fits are floats. Values of
other series than floats are length-prefixed serialized messages.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neptune_api.server.store.faults import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from typing_extensions import Self

    Int64Array = npt.NDArray[np.int64]
    FloatArray = npt.NDArray[np.float64]
    BoolArray = npt.NDArray[np.bool_]

_REGULAR_STEPS: Final = 1
_SHORT_TIMESTAMPS: Final = 2
_SHORT_VALUES: Final = 4
_PAYLOADS: Final = 8
_SHORT_STEPS: Final = 16
_MEDIUM_STEPS: Final = 32
_MEDIUM_TIMESTAMPS: Final = 64
_HEADER: Final = struct.Struct("<BI")
_PAIR: Final = struct.Struct("<qq")
# Differences of 4 bytes are short, those of 6 are medium.
_INT32: Final = np.iinfo(np.int32)
_MEDIUM: Final = 6
_INT48_MAX: Final = 2**47 - 1
_KNOWN_POSITIONS: Final = 8


@dataclass(frozen=True, slots=True)
class FloatColumns:
    """Points of a float series: micro-steps, milliseconds, doubles; equally long arrays, ascending by step."""

    steps: Int64Array
    timestamps: Int64Array
    values: FloatArray

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.steps)

    def __getitem__(self, index: slice | Int64Array | BoolArray) -> FloatColumns:
        """Return some of the points."""
        return FloatColumns(self.steps[index], self.timestamps[index], self.values[index])

    def ascending(self) -> FloatColumns:
        """Return the points ascending by step."""
        if bool((np.diff(self.steps) > 0).all()):
            return self
        return self[np.argsort(self.steps, kind="stable")]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> FloatColumns:
        """Return the points of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return FloatColumns(
            _concatenate([part.steps for part in parts], np.int64),
            _concatenate([part.timestamps for part in parts], np.int64),
            _concatenate([part.values for part in parts], np.float64),
        )


@dataclass(frozen=True, slots=True)
class PayloadColumns:
    """Points of any other series: micro-steps, milliseconds, serialized neptune_api.v1.Value messages."""

    steps: Int64Array
    timestamps: Int64Array
    payloads: list[bytes]

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.steps)

    def __getitem__(self, index: slice | Int64Array) -> PayloadColumns:
        """Return some of the points."""
        payloads = self.payloads[index] if isinstance(index, slice) else [self.payloads[i] for i in index]
        return PayloadColumns(self.steps[index], self.timestamps[index], payloads)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> PayloadColumns:
        """Return the points of all parts, one after the other."""
        return PayloadColumns(
            _concatenate([part.steps for part in parts], np.int64),
            _concatenate([part.timestamps for part in parts], np.int64),
            [payload for part in parts for payload in part.payloads],
        )


def encode(columns: FloatColumns | PayloadColumns) -> bytes:
    """Return the bytes of a chunk with these points."""
    step_flag, steps = _encode_steps(columns.steps)
    timestamp_flag, timestamps = _encode_timestamps(columns.timestamps)
    if isinstance(columns, FloatColumns):
        value_flag, values = _encode_values(columns.values)
    else:
        lengths = np.fromiter(map(len, columns.payloads), np.dtype("<u4"), len(columns))
        value_flag, values = _PAYLOADS, lengths.tobytes() + b"".join(columns.payloads)
    header = _HEADER.pack(step_flag | timestamp_flag | value_flag, len(columns))
    return b"".join((header, steps, timestamps, values))


class SharedPositions:
    """Encode float series that have the same steps and timestamps, which are encoded once."""

    def __init__(self, steps: Int64Array, timestamps: Int64Array) -> None:
        self._count = len(steps)
        step_flag, encoded_steps = _encode_steps(steps)
        timestamp_flag, encoded_timestamps = _encode_timestamps(timestamps)
        self._flags = step_flag | timestamp_flag
        self._positions = encoded_steps + encoded_timestamps

    def encode(self, values: FloatArray) -> list[bytes]:
        """Return a chunk for each row of values (series x steps), the same as `encode` would."""
        with np.errstate(over="ignore", invalid="ignore"):
            short = values.astype("<f4")
            lossless = (short.astype(np.float64).view(np.int64) == values.view(np.int64)).all(axis=1)
        heads = [_HEADER.pack(self._flags | flag, self._count) + self._positions for flag in (0, _SHORT_VALUES)]
        return [
            heads[1] + short[row].tobytes() if is_short else heads[0] + values[row].astype("<f8", copy=False).tobytes()
            for row, is_short in enumerate(lossless.tolist())
        ]


def checksum(chunk: bytes) -> int:
    """Return the CRC-32 of a chunk's bytes."""
    return zlib.crc32(chunk)


def decode_floats(chunk: bytes) -> FloatColumns:
    """Return the points of a float chunk; raises CorruptChunkError for anything else."""
    return FloatDecoder().decode(chunk)


class FloatDecoder:
    """Decode float chunks; those with the same steps and timestamps as one of the last few share these arrays."""

    def __init__(self) -> None:
        self._known: deque[tuple[bytes, Int64Array, Int64Array]] = deque(maxlen=_KNOWN_POSITIONS)

    def decode(self, chunk: bytes) -> FloatColumns:
        """Return the points of a float chunk; raises CorruptChunkError for anything else."""
        for beginning, steps, timestamps in self._known:
            if chunk.startswith(beginning):
                return _float_columns(chunk, len(beginning), steps, timestamps)
        offset, steps, timestamps = _decode_positions(chunk)
        for array in (steps, timestamps):
            array.flags.writeable = False
        self._known.append((chunk[:offset], steps, timestamps))
        return _float_columns(chunk, offset, steps, timestamps)


def _float_columns(chunk: bytes, offset: int, steps: Int64Array, timestamps: Int64Array) -> FloatColumns:
    flags, count = _HEADER.unpack_from(chunk)
    width = 4 if flags & _SHORT_VALUES else 8
    if flags & _PAYLOADS or len(chunk) != offset + count * width:
        raise CorruptChunkError("The chunk is not a float chunk of the length its header tells.")
    values = np.frombuffer(chunk, f"<f{width}", count, offset).astype(np.float64, copy=False)
    return FloatColumns(steps, timestamps, values)


def decode_payloads(chunk: bytes) -> PayloadColumns:
    """Return the points of a payload chunk; raises CorruptChunkError for anything else."""
    offset, steps, timestamps = _decode_positions(chunk)
    flags, count = _HEADER.unpack_from(chunk)
    if not flags & _PAYLOADS or len(chunk) < offset + 4 * count:
        raise CorruptChunkError("The chunk is not a payload chunk of the length its header tells.")
    ends = offset + 4 * count + np.cumsum(np.frombuffer(chunk, "<u4", count, offset), dtype=np.int64)
    if count and ends[-1] != len(chunk):
        raise CorruptChunkError("The payloads of the chunk do not fill it.")
    bounds = [offset + 4 * count, *ends.tolist()]
    return PayloadColumns(steps, timestamps, [chunk[a:b] for a, b in pairwise(bounds)])


def _concatenate(arrays: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    parts = list(arrays)
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _encode_steps(steps: Int64Array) -> tuple[int, bytes]:
    if len(steps) > 1:
        stride = int(steps[1] - steps[0])
        if bool((np.diff(steps) == stride).all()):
            return _REGULAR_STEPS, _PAIR.pack(int(steps[0]), stride)
    elif len(steps) == 1:
        return _REGULAR_STEPS, _PAIR.pack(int(steps[0]), 0)
    return _encode_differences(steps, _SHORT_STEPS, _MEDIUM_STEPS)


def _encode_timestamps(timestamps: Int64Array) -> tuple[int, bytes]:
    return _encode_differences(timestamps, _SHORT_TIMESTAMPS, _MEDIUM_TIMESTAMPS)


def _encode_differences(numbers: Int64Array, short: int, medium: int) -> tuple[int, bytes]:
    """Return a flag and the first number with the differences where these are short enough, else 0 and the numbers."""
    if len(numbers):
        differences = np.diff(numbers)
        lowest, highest = (int(differences.min()), int(differences.max())) if len(differences) else (0, 0)
        first = struct.pack("<q", int(numbers[0]))
        if lowest >= _INT32.min and highest <= _INT32.max:
            return short, first + differences.astype("<i4").tobytes()
        if lowest >= -_INT48_MAX and highest <= _INT48_MAX:
            return medium, first + differences.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :_MEDIUM].tobytes()
    return 0, numbers.astype("<i8", copy=False).tobytes()


def _encode_values(values: FloatArray) -> tuple[int, bytes]:
    with np.errstate(over="ignore", invalid="ignore"):
        short = values.astype("<f4")
        lossless = np.array_equal(short.astype(np.float64).view(np.int64), values.view(np.int64))
    return (_SHORT_VALUES, short.tobytes()) if lossless else (0, values.astype("<f8", copy=False).tobytes())


def _decode_positions(chunk: bytes) -> tuple[int, Int64Array, Int64Array]:
    """Return where the values begin, steps and timestamps."""
    try:
        flags, count = _HEADER.unpack_from(chunk)
        offset = _HEADER.size
        if flags & _REGULAR_STEPS:
            first, stride = _PAIR.unpack_from(chunk, offset)
            steps = first + stride * np.arange(count, dtype=np.int64)
            offset += _PAIR.size
        else:
            steps, offset = _decode_numbers(chunk, count, offset, flags & _SHORT_STEPS, flags & _MEDIUM_STEPS)
        short, medium = flags & _SHORT_TIMESTAMPS, flags & _MEDIUM_TIMESTAMPS
        timestamps, offset = _decode_numbers(chunk, count, offset, short, medium)
    except (struct.error, ValueError) as error:
        raise CorruptChunkError("The chunk is shorter than its header tells.") from error
    return offset, steps, timestamps


def _decode_numbers(chunk: bytes, count: int, offset: int, short: int, medium: int) -> tuple[Int64Array, int]:
    """Return numbers and where they end."""
    if not (short or medium):
        return np.frombuffer(chunk, "<i8", count, offset).astype(np.int64, copy=False), offset + 8 * count
    (first,) = struct.unpack_from("<q", chunk, offset)
    offset += 8
    differences: npt.NDArray[Any]
    if short:
        differences = np.frombuffer(chunk, "<i4", count - 1, offset)
        end = offset + differences.nbytes
    else:
        end = offset + _MEDIUM * (count - 1)
        words = np.zeros((count - 1, 8), np.uint8)
        # To the upper end, from where a shift brings the sign down.
        words[:, 8 - _MEDIUM :] = np.frombuffer(chunk, np.uint8, end - offset, offset).reshape(-1, _MEDIUM)
        differences = words.view("<i8")[:, 0] >> 8 * (8 - _MEDIUM)
    numbers = np.empty(count, np.int64)
    numbers[0] = first
    np.cumsum(differences, out=numbers[1:])
    numbers[1:] += first
    return numbers, end
