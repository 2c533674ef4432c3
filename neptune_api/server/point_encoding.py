"""Points of float series as the bytes of their messages, written by numpy instead of a loop over points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api.server.store import steps

if TYPE_CHECKING:
    import numpy.typing as npt

    from neptune_api.server.store.columns import FloatArray, FloatColumns, Int64Array

# Wire format: tags of FloatSeriesValues.values and of the fields of FloatPoint.
_VALUES: Final = 0x12
_TIMESTAMP: Final = 0x08
_STEP: Final = 0x11
_VALUE: Final = 0x19
_IS_PREVIEW: Final = 0x20
_COMPLETION_RATIO: Final = 0x2D
# A negative integer is a varint of 10 bytes.
_MAX_VARINT: Final = 10


def encode_float_points(points: FloatColumns, ratios: FloatArray | None = None) -> bytes:
    """Return the fields `values` of a serialized FloatSeriesValues, equally many bytes for each point.

    `ratios` are completion ratios of previews, NaN for committed points. Every varint is written as long as the longest
    needs to be and fields are written though they are zero, both of which parsers take; a parsed message has no trace
    of it.
    """
    width = _varint_width(points.timestamps)
    record = np.dtype(
        [
            ("head", "u1", (3,)),
            ("timestamp", "u1", (width,)),
            ("step_tag", "u1"),
            ("step", "<f8"),
            ("value_tag", "u1"),
            ("value", "<f8"),
            ("preview", "u1", (2,)),
            ("ratio_tag", "u1"),
            ("ratio", "<f4"),
        ]
    )
    records = np.empty(len(points), record)
    records["head"] = (_VALUES, record.itemsize - 2, _TIMESTAMP)
    records["timestamp"] = _varints(points.timestamps, width)
    records["step_tag"] = _STEP
    records["step"] = steps.to_double(points.steps)
    records["value_tag"] = _VALUE
    records["value"] = points.values
    records["preview"] = (_IS_PREVIEW, 0)
    records["ratio_tag"] = _COMPLETION_RATIO
    records["ratio"] = 1.0
    if ratios is not None:
        is_preview = ~np.isnan(ratios)
        records["preview"][:, 1] = is_preview
        records["ratio"][is_preview] = ratios[is_preview]
    return records.tobytes()


def _varint_width(values: Int64Array) -> int:
    if not len(values):
        return 1
    if int(values.min()) < 0:
        return _MAX_VARINT
    return max(1, -(-int(values.max()).bit_length() // 7))


def _varints(values: Int64Array, width: int) -> npt.NDArray[np.uint8]:
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    groups = values.astype(np.uint64)[:, None] >> shifts
    result = (groups & np.uint64(0x7F)).astype(np.uint8)
    result[:, :-1] |= 0x80
    return result
