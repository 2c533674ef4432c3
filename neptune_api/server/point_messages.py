"""Points as messages: those of float series written by numpy instead of a loop, others one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api._wire import encode_varint
from neptune_api.columns import FloatPoints, encode
from neptune_api.server.store import steps
from neptune_api.server.store.columns import FloatColumns
from neptune_api.v1 import ingest_pb2
from neptune_api.v1.series_pb2 import FileRefValue, HistogramValue, SeriesPointValue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from neptune_api.server.store.column_reads import Piece
    from neptune_api.server.store.columns import FloatArray, Int64Array
    from neptune_api.server.store.point_pages import FloatPage

# Wire format: tags of the fields of FloatSeriesValuesResponse, of its items and of their FloatSeriesValues.
_ITEM: Final = b"\x0a"
_REQUEST_ID: Final = b"\x0a"
_SERIES: Final = b"\x12"
_TOTAL: Final = b"\x08"
# Tags of FloatSeriesValues.values and of the fields of FloatPoint.
_VALUES: Final = 0x12
_TIMESTAMP: Final = 0x08
_STEP: Final = 0x11
_VALUE: Final = 0x19
_IS_PREVIEW: Final = 0x20
_COMPLETION_RATIO: Final = 0x2D
# The same of ReadColumnsResponse; the last one with its value, true.
_SERIES_INDEX: Final = b"\x08"
_COLUMNS: Final = b"\x12"
_LAST: Final = b"\x18\x01"
# A negative integer is a varint of 10 bytes.
_MAX_VARINT: Final = 10
# Every field is written for itself: of so many points what one leaves in the processor's cache is there for the next.
_RECORDS_AT_ONCE: Final = 65_536


def encode_float_series(request_ids: Sequence[str], pages: Sequence[FloatPage]) -> Iterator[bytes | memoryview]:
    """Yield the parts of a serialized FloatSeriesValuesResponse, or of a stretch of it: an item for each page.

    The points are encoded together, because each encoding has its price.
    """
    points = FloatColumns.concatenate([page.points for page in pages])
    ratios: FloatArray | None = None
    if any(page.ratios is not None for page in pages):
        ratios = np.concatenate(
            [np.full(len(page.points), np.nan) if page.ratios is None else page.ratios for page in pages]
        )
    encoded = encode_float_points(points, ratios)
    width = len(encoded) // max(1, len(points))
    start = 0
    for request_id, page in zip(request_ids, pages, strict=True):
        end = start + width * len(page.points)
        name = request_id.encode()
        total = _TOTAL + encode_varint(page.total)
        series = _SERIES + encode_varint(len(total) + end - start) + total
        head = _REQUEST_ID + encode_varint(len(name)) + name + series
        yield _ITEM + encode_varint(len(head) + end - start) + head
        yield encoded[start:end]
        start = end


def encode_float_page(page: FloatPage) -> bytes:
    """Return a serialized FloatSeriesValues."""
    return b"".join((_TOTAL, encode_varint(page.total), encode_float_points(page.points, page.ratios)))


def encode_float_points(points: FloatColumns, ratios: FloatArray | None = None) -> memoryview:
    """Return the fields `values` of a serialized FloatSeriesValues, equally many bytes for each point.

    `ratios` are completion ratios of previews, NaN for committed points. Every varint is written as long as the longest
    needs to be and fields are written though they are zero, both of which parsers take; a parsed message has no trace
    of it.
    """
    width = varint_width(points.timestamps)
    record = np.dtype(
        [
            ("head", "u1", (3,)),
            ("timestamp", "u1", (width,)),
            ("step_tag", "u1"),
            ("step", "<f8"),
            ("value_tag", "u1"),
            ("value", "<f8"),
            ("preview", "u1", (0 if ratios is None else 2,)),
            ("ratio_tag", "u1"),
            ("ratio", "<f4"),
        ]
    )
    records = np.empty(len(points), record)
    for first in range(0, len(points), _RECORDS_AT_ONCE):
        some = slice(first, first + _RECORDS_AT_ONCE)
        _fill(records[some], points[some], None if ratios is None else ratios[some])
    return records.view(np.uint8).data


def _fill(records: npt.NDArray[np.void], points: FloatColumns, ratios: FloatArray | None) -> None:
    records["head"] = (_VALUES, records.itemsize - 2, _TIMESTAMP)
    write_varints(records["timestamp"], points.timestamps)
    records["step_tag"] = _STEP
    records["step"] = steps.to_double(points.steps)
    records["value_tag"] = _VALUE
    records["value"] = points.values
    records["ratio_tag"] = _COMPLETION_RATIO
    records["ratio"] = 1.0
    if ratios is not None:
        is_preview = ~np.isnan(ratios)
        records["preview"][:, 0] = _IS_PREVIEW
        records["preview"][:, 1] = is_preview
        records["ratio"][is_preview] = ratios[is_preview]


def encode_piece(piece: Piece) -> bytes:
    """Return a serialized ReadColumnsResponse."""
    points = piece.points
    columns = encode(FloatPoints(points.steps, points.timestamps, points.values, piece.ratios))
    head = _SERIES_INDEX + encode_varint(piece.series_index) + _COLUMNS + encode_varint(len(columns))
    return b"".join((head, columns, _LAST if piece.last else b""))


def point_value(payload: bytes) -> SeriesPointValue:
    """Return what readers get for a stored neptune_api.v1.Value of a string, histogram or file series."""
    value = ingest_pb2.Value.FromString(payload)
    kind = value.WhichOneof("value")
    if kind == "string":
        return SeriesPointValue(string_value=value.string)
    if kind == "file_ref":
        file = value.file_ref
        return SeriesPointValue(
            file_ref=FileRefValue(path=file.path, size_bytes=file.size_bytes, mime_type=file.mime_type)
        )
    histogram = value.histogram
    if histogram.WhichOneof("values") == "counts":
        counts = map(float, histogram.counts.values)
        return SeriesPointValue(histogram=HistogramValue(type="COUNTING", edges=histogram.bin_edges, values=counts))
    return SeriesPointValue(
        histogram=HistogramValue(type="DENSITY", edges=histogram.bin_edges, values=histogram.densities.values)
    )


def varint_width(values: Int64Array) -> int:
    """Return how many bytes the longest of varints needs."""
    if not len(values):
        return 1
    if int(values.min()) < 0:
        return _MAX_VARINT
    return max(1, -(-int(values.max()).bit_length() // 7))


def write_varints(target: npt.NDArray[np.uint8], values: Int64Array) -> None:
    """Write each value into its row of bytes, seven bits a byte from the lowest; all but the last byte are marked."""
    rest = values.astype(np.uint64)
    last = target.shape[1] - 1
    for position in range(last + 1):
        group = (rest >> np.uint64(7 * position)).astype(np.uint8)
        target[:, position] = group & 0x7F if position == last else group | 0x80
