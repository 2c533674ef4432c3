"""Points as arrays: made into the messages that move columns, and out of them, without a loop over points.

    from neptune_api import columns

    request = columns.append_request("local/digits", "run-1", {"loss": columns.points(losses)})
    series.AppendColumns(request)
    (loss,) = columns.collect(series.ReadColumns(ReadColumnsRequest(series=[...])))
    loss.steps, loss.values

Arrays are numpy's where numpy is installed (`pip install 'neptune-api[columns]'`). Without it they are memoryviews of
the same items, 64 bits wide (ratios 32), and anything with the buffer protocol, or a sequence of numbers, is taken.

A column of a message is a message with one packed field, so its bytes are the field's tag, the length and the array as
it lies in memory: both directions are copies of memory, about a millisecond for a million points.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neptune_api import _float_points
from neptune_api._arrays import (
    HAS_NUMPY,
    MICROS_PER_STEP,
    as_array,
    as_micros,
    concatenate,
    constant,
    from_bytes,
    to_bytes,
)
from neptune_api._wire import encode_varint, varint
from neptune_api.v1.columns_pb2 import FloatColumns
from neptune_api.v1.series_service_pb2 import AppendColumnsRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

    from neptune_api.options import RetryPolicy
    from neptune_api.v1.series_pb2 import FloatSeriesValuesResponse
    from neptune_api.v1.series_service_pb2 import AppendColumnsResponse, ReadColumnsResponse
    from neptune_api.v1.series_service_pb2_grpc import SeriesServiceAsyncStub, SeriesServiceStub

    Int64Array: TypeAlias = npt.NDArray[np.int64]
    Float64Array: TypeAlias = npt.NDArray[np.float64]
    Float32Array: TypeAlias = npt.NDArray[np.float32]
    Numbers: TypeAlias = npt.NDArray[Any] | Sequence[float] | Buffer

__all__ = [
    "FloatPage",
    "FloatPoints",
    "aappend_stream",
    "acollect",
    "append_request",
    "append_requests",
    "append_stream",
    "collect",
    "float_pages",
    "pack",
    "points",
    "unpack",
]

REQUEST_BYTES: Final = 16 * 1024 * 1024
"""About how large `append_requests` makes a request; the server takes up to `max_request_bytes` of its limits."""

WINDOW: Final = 8
"""How many batches `append_stream` has under way at most."""

# Wire format. Fields of FloatColumns are numbered in the order of FloatPoints; field 1 of a column is its array.
_LENGTH_DELIMITED: Final = 2
_ARRAY: Final = b"\x0a"
_ITEMS: Final = ("q", "q", "d", "f")
_NAN: Final = float("nan")
# What a series costs in a request beside its path and 24 bytes a point.
_SERIES_BYTES: Final = 64
_POINT_BYTES: Final = 24


@dataclass(frozen=True, slots=True, eq=False)
class FloatPoints:
    """Points of one float series as arrays of equal length, ascending by step.

    `micros` are steps in millionths (int64), `millis` times in milliseconds since the epoch (int64), `values` doubles.
    `ratios` (float32) are completion ratios of previews, NaN for committed points; None when all are committed. Arrays
    that come from a message are read-only.
    """

    micros: Int64Array
    millis: Int64Array
    values: Float64Array
    ratios: Float32Array | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.values)

    def __getitem__(self, index: slice) -> FloatPoints:
        """Return some of the points; nothing is copied."""
        ratios = None if self.ratios is None else self.ratios[index]
        return FloatPoints(self.micros[index], self.millis[index], self.values[index], ratios)

    @property
    def steps(self) -> Float64Array:
        """Steps as doubles. Raises ImportError without numpy."""
        if not HAS_NUMPY:
            raise ImportError("Steps as doubles need numpy (pip install 'neptune-api[columns]'); `micros` do not.")
        return self.micros / MICROS_PER_STEP


@dataclass(frozen=True, slots=True, eq=False)
class FloatPage:
    """Points of one float series as GetFloatSeriesValues answers them: arrays of equal length, in the order asked for.

    `total` is how many points the step range holds. `steps` and `values` are doubles, `millis` times in milliseconds
    since the epoch (int64), `ratios` (float32) completion ratios of previews, NaN for committed points; None when all
    are committed.
    """

    total: int
    steps: Float64Array
    millis: Int64Array
    values: Float64Array
    ratios: Float32Array | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.values)


def points(
    values: Numbers, *, steps: Numbers | None = None, times: Numbers | None = None, ratios: Numbers | None = None
) -> FloatPoints:
    """Return points with these values.

    `steps` are whole or not, rounded to millionths, by default 0, 1, 2...; `times` are milliseconds since the epoch, by
    default now; `ratios` make previews of them. Raises ValueError for arrays of different lengths.
    """
    size = len(values)  # type: ignore[arg-type]  # whatever has numbers has a length
    if steps is None:
        steps = range(size)
    if times is None:
        times = constant(time.time_ns() // 1_000_000, size)
    made = FloatPoints(
        as_micros(steps), as_array(times, "q"), as_array(values, "d"), None if ratios is None else as_array(ratios, "f")
    )
    _check(made)
    return made


def pack(points: FloatPoints) -> FloatColumns:
    """Return points as a message.

    Raises ValueError for arrays of different lengths, and for points of which only some are previews.
    """
    return FloatColumns.FromString(encode(points))


def encode(points: FloatPoints) -> bytes:
    """Return points as the bytes of a message; see `pack`."""
    _check(points)
    arrays: list[Any] = [points.micros, points.millis, points.values]
    if points.ratios is not None:
        arrays.append(points.ratios)
    parts: list[bytes] = []
    for number, (numbers, items) in enumerate(zip(arrays, _ITEMS, strict=False), 1):
        data = to_bytes(as_array(numbers, items), items)
        head = _ARRAY + encode_varint(len(data)) if data else b""
        parts += (bytes([number << 3 | _LENGTH_DELIMITED]), encode_varint(len(head) + len(data)), head, data)
    return b"".join(parts)


def unpack(message: FloatColumns) -> FloatPoints:
    """Return the points of a message.

    Raises ValueError for columns of different lengths.
    """
    parts = [message.steps, message.timestamps, message.values]
    if message.HasField("preview_ratios"):
        parts.append(message.preview_ratios)
    unpacked = FloatPoints(
        *(_column(part.SerializeToString(), items) for part, items in zip(parts, _ITEMS, strict=False))
    )
    _check(unpacked)
    return unpacked


def append_request(
    project: str, run_id: str, series: Mapping[str, FloatPoints], *, batch_id: str | None = None
) -> AppendColumnsRequest:
    """Return the request that appends points to series of a run, by path.

    A batch is applied once, however often it is sent under its id; by default it gets a new one. Raises as `pack`.
    """
    request = AppendColumnsRequest(project=project, run_id=run_id, batch_id=batch_id or uuid.uuid4().hex)
    for path, items in series.items():
        request.series.add(path=path).columns.MergeFromString(encode(items))
    return request


def append_requests(
    project: str,
    run_id: str,
    series: Mapping[str, FloatPoints],
    *,
    batch_id: str | None = None,
    max_bytes: int = REQUEST_BYTES,
) -> Iterator[AppendColumnsRequest]:
    """Yield requests of about `max_bytes` at most that together append any number of points; send them in this order.

    Batches are named `<batch_id>-0`, `<batch_id>-1` and so on. Series without points are left out. Raises as `pack`.
    """
    name = batch_id or uuid.uuid4().hex
    number, room = 0, max_bytes
    waiting: dict[str, FloatPoints] = {}
    for path, items in series.items():
        overhead = _SERIES_BYTES + len(path.encode())
        start = 0
        while start < len(items):
            count = min(len(items) - start, (room - overhead) // _POINT_BYTES)
            if count <= 0 and waiting:
                yield append_request(project, run_id, waiting, batch_id=f"{name}-{number}")
                number, room, waiting = number + 1, max_bytes, {}
                continue
            count = max(count, 1)
            waiting[path] = items[start : start + count]
            room -= overhead + count * _POINT_BYTES
            start += count
    if waiting:
        yield append_request(project, run_id, waiting, batch_id=f"{name}-{number}")


def append_stream(
    stub: SeriesServiceStub,
    batches: Iterable[AppendColumnsRequest],
    *,
    window: int = WINDOW,
    timeout: float = 60.0,
    patience: float = 300.0,
    retry: RetryPolicy | None = None,
    metadata: Sequence[tuple[str, str | bytes]] | None = None,
) -> Generator[AppendColumnsResponse, None, None]:
    """Send batches as a stream that outlives its connection; yield their acknowledgements in order.

    `batches` is read on another thread, as far ahead of the acknowledgements as `window` batches, which are kept until
    they are acknowledged. When the stream breaks, for want of a server or of a network, a new one begins with those;
    their ids keep them from counting twice, so send each under an id of its own. The waits in between are those of
    `retry` (codes and backoff; a new RetryPolicy by default) or what the server asks for; after `patience` seconds
    without an acknowledgement the error is raised. A stream on which nothing is acknowledged for `timeout` seconds
    counts as broken. Over HTTP, and where a server has no such stream, batches are sent one by one.

    To send no more, close the generator. Raises what AppendColumnsStream raises, when a new stream would
    end in the same way, and what `batches` raises, when all before it is acknowledged; ValueError for bad arguments.
    """
    from neptune_api._append_streams import append_stream as stream

    return stream(stub, batches, *_stream_arguments(window, timeout, patience, retry), metadata)


def aappend_stream(
    stub: SeriesServiceAsyncStub,
    batches: AsyncIterable[AppendColumnsRequest] | Iterable[AppendColumnsRequest],
    *,
    window: int = WINDOW,
    timeout: float = 60.0,
    patience: float = 300.0,
    retry: RetryPolicy | None = None,
    metadata: Sequence[tuple[str, str | bytes]] | None = None,
) -> AsyncGenerator[AppendColumnsResponse, None]:
    """Send batches over an asyncio channel; see `append_stream`. `batches` is read by a task of its own."""
    from neptune_api._append_streams import aappend_stream as stream

    return stream(stub, batches, *_stream_arguments(window, timeout, patience, retry), metadata)


def _stream_arguments(
    window: int, timeout: float, patience: float, retry: RetryPolicy | None
) -> tuple[int, float, float, RetryPolicy]:
    from neptune_api.options import RetryPolicy

    if window < 1:
        raise ValueError(f"window must be at least 1, not {window!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    if not patience >= 0:
        raise ValueError(f"patience must be a number of seconds, not {patience!r}")
    return window, timeout, patience, RetryPolicy() if retry is None else retry


def collect(responses: Iterable[ReadColumnsResponse]) -> list[FloatPoints]:
    """Return the points of each series of a ReadColumns call, in the order of the request.

    All are in memory then: 24 bytes a point. To read more than fits, `unpack` the columns of one response after the
    other. Raises whatever the call raises.
    """
    found: list[list[FloatPoints]] = []
    for response in responses:
        _add(found, response)
    return [_joined(parts) for parts in found]


async def acollect(responses: AsyncIterable[ReadColumnsResponse]) -> list[FloatPoints]:
    """Return the points of each series of a ReadColumns call of an asyncio channel; see `collect`."""
    found: list[list[FloatPoints]] = []
    async for response in responses:
        _add(found, response)
    return [_joined(parts) for parts in found]


def float_pages(response: FloatSeriesValuesResponse | bytes) -> dict[str, FloatPage]:
    """Return the points of an answer of GetFloatSeriesValues, or of its bytes, by request id.

    Bytes are read as they are, which takes half the time: to get them call the RPC with a `response_deserializer` of
    None. Raises DecodeError for bytes that are no such answer.
    """
    if isinstance(response, bytes):
        return {name: _page(series) for name, series in _float_points.split(response)}
    return {item.request_id: _page(item.series.SerializeToString()) for item in response.series}


def _page(series: bytes) -> FloatPage:
    total, (steps, millis, values, ratios) = _float_points.decode(series)
    return FloatPage(total, steps, millis, values, ratios)


def _add(found: list[list[FloatPoints]], response: ReadColumnsResponse) -> None:
    found += ([] for _ in range(response.series_index + 1 - len(found)))
    found[response.series_index].append(unpack(response.columns))


def _joined(parts: list[FloatPoints]) -> FloatPoints:
    with_points = [part for part in parts if len(part)] or parts[:1]
    if len(with_points) == 1:
        return with_points[0]
    ratios: Any = None
    if any(part.ratios is not None for part in with_points):
        ratios = concatenate(
            [constant(_NAN, len(part), "f") if part.ratios is None else part.ratios for part in with_points], "f"
        )
    return FloatPoints(
        concatenate([part.micros for part in with_points], "q"),
        concatenate([part.millis for part in with_points], "q"),
        concatenate([part.values for part in with_points], "d"),
        ratios,
    )


def _check(points: FloatPoints) -> None:
    sizes = [len(points.micros), len(points.millis), len(points.values)]
    names = "steps, times and values"
    if points.ratios is not None:
        sizes.append(len(points.ratios))
        names = "steps, times, values and ratios"
    if len(set(sizes)) > 1:
        raise ValueError(f"The columns have {', '.join(map(str, sizes))} {names}: they have to be equally long.")


def _column(message: bytes, items: str) -> Any:
    """Return the array of a serialized column: tag, length, array; nothing when it is empty."""
    if not message:
        return from_bytes(b"", 0, items)
    length, start = varint(message, len(_ARRAY))
    return from_bytes(message if start + length == len(message) else message[: start + length], start, items)
