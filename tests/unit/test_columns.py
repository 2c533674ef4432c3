"""neptune_api.columns: arrays into messages and out of them, with numpy and without, and the REST API's points."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from neptune_api import columns
from neptune_api._wire import encode_varint
from neptune_api.columns import FloatPoints
from neptune_api.server.point_messages import encode_float_points
from neptune_api.server.store import columns as stored
from neptune_api.v1.columns_pb2 import FloatColumn, FloatColumns, StepColumn, TimestampColumn
from neptune_api.v1.series_pb2 import FloatSeriesValues, FloatSeriesValuesResponse
from neptune_api.v1.series_service_pb2 import ReadColumnsResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INT64 = st.integers(-(2**63), 2**63 - 1)
POINTS = st.lists(st.tuples(INT64, INT64, st.floats(), st.floats(width=32)), max_size=30)


def made(rows: list[tuple[int, int, float, float]], *, ratios: bool = False) -> FloatPoints:
    kinds = (np.int64, np.int64, np.float64, np.float32)
    arrays: list[Any] = [np.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
    return FloatPoints(*(arrays if ratios else arrays[:3]))


def assert_same(left: FloatPoints, right: FloatPoints) -> None:
    assert left.micros.tobytes() == right.micros.tobytes()
    assert left.millis.tobytes() == right.millis.tobytes()
    assert left.values.tobytes() == right.values.tobytes()
    assert (left.ratios is None) == (right.ratios is None)
    if left.ratios is not None and right.ratios is not None:
        assert left.ratios.tobytes() == right.ratios.tobytes()


@given(POINTS, st.booleans())
def test_nothing_is_lost_on_the_way(rows: list[tuple[int, int, float, float]], ratios: bool) -> None:
    points = made(rows, ratios=ratios)
    message = columns.pack(points)
    assert list(message.steps.micros) == points.micros.tolist()
    assert list(message.timestamps.millis) == points.millis.tolist()
    assert len(message.values.values) == len(points)
    assert message.HasField("preview_ratios") == ratios
    assert_same(columns.unpack(FloatColumns.FromString(message.SerializeToString())), points)
    built = FloatColumns(
        steps=StepColumn(micros=points.micros.tolist()),
        timestamps=TimestampColumn(millis=points.millis.tolist()),
        values=FloatColumn(values=points.values.tolist()),
    )
    if not ratios:
        assert_same(columns.unpack(built), points)


def test_points_have_steps_and_parts() -> None:
    points = columns.points([1.0, 2.0, 3.0], steps=[0, 0.1, 2.5], times=[1, 2, 3])
    assert points.micros.tolist() == [0, 100_000, 2_500_000]
    assert points.steps.tolist() == [0.0, 0.1, 2.5]
    part = points[1:]
    assert (len(part), part.micros.tolist(), part.ratios) == (2, [100_000, 2_500_000], None)


def test_defaults_of_points() -> None:
    points = columns.points(range(3))
    assert points.micros.tolist() == [0, 1_000_000, 2_000_000]
    assert len(set(points.millis.tolist())) == 1
    assert columns.points([1.0], ratios=[0.5]).ratios == np.float32(0.5)


ONE_TWO = [np.array([1, 2], np.int32), array("q", [1, 2]), memoryview(array("q", [1, 2])), (1, 2)]


@pytest.mark.parametrize("numbers", ONE_TWO)
def test_any_numbers_will_do(numbers: Any) -> None:
    message = columns.pack(FloatPoints(numbers, numbers, numbers))
    assert list(message.steps.micros) == [1, 2]
    assert list(message.values.values) == [1.0, 2.0]


def test_numbers_that_are_none() -> None:
    good = np.array([1])
    with pytest.raises(TypeError, match="whole numbers, not float64"):
        columns.pack(FloatPoints(np.array([0.5]), good, good))
    with pytest.raises(ValueError, match="one dimension, not 2"):
        columns.pack(FloatPoints(good, good, np.zeros((1, 1))))
    with pytest.raises(ValueError, match=r"1, 1, 2 steps, times and values: they have to be equally long"):
        columns.pack(FloatPoints(good, good, np.zeros(2)))
    with pytest.raises(ValueError, match="0, 0, 1, 1 steps, times, values and ratios"):
        columns.unpack(FloatColumns(values={"values": [1]}, preview_ratios={"ratios": [1]}))  # type: ignore[arg-type]


def test_requests_of_limited_size() -> None:
    series = {"a": columns.points(range(1000)), "none": columns.points([]), "b": columns.points(range(10))}
    series["c"] = columns.points([1.0])
    requests = list(columns.append_requests("w/p", "r", series, batch_id="x", max_bytes=5000))
    assert [request.batch_id for request in requests] == [f"x-{number}" for number in range(len(requests))]
    assert all(request.ByteSize() <= 5200 for request in requests)
    found: dict[str, list[float]] = {}
    for request in requests:
        assert (request.project, request.run_id) == ("w/p", "r")
        for item in request.series:
            found.setdefault(item.path, []).extend(item.columns.values.values)
    assert found == {"a": list(range(1000)), "b": list(range(10)), "c": [1.0]}
    assert list(columns.append_requests("w/p", "r", {})) == []
    assert len({columns.append_request("w/p", "r", {}).batch_id for _ in range(3)}) == 3


def test_collecting_the_responses_of_a_call() -> None:
    first, second = columns.points([1.0, 2.0]), columns.points([3.0], steps=[2])
    preview = columns.points([4.0], steps=[3], ratios=[0.5])
    responses = [
        ReadColumnsResponse(series_index=0, columns=columns.pack(first)),
        ReadColumnsResponse(series_index=0, columns=columns.pack(second)),
        ReadColumnsResponse(series_index=0, columns=columns.pack(preview), last=True),
        ReadColumnsResponse(series_index=1, columns=columns.pack(columns.points([])), last=True),
        ReadColumnsResponse(series_index=2, columns=columns.pack(second), last=True),
    ]
    found = columns.collect(responses)
    assert [points.values.tolist() for points in found] == [[1.0, 2.0, 3.0, 4.0], [], [3.0]]
    assert found[0].ratios is not None
    assert [None if math.isnan(ratio) else ratio for ratio in found[0].ratios.tolist()] == [None, None, None, 0.5]
    assert found[1].ratios is found[2].ratios is None

    async def stream() -> AsyncIterator[ReadColumnsResponse]:
        for response in responses:
            yield response

    for left, right in zip(asyncio.run(columns.acollect(stream())), found, strict=True):
        assert_same(left, right)


# Points of the REST API

ROWS = st.lists(
    st.tuples(
        INT64 | st.just(0),
        st.floats(allow_nan=False) | st.just(0.0),
        st.floats() | st.just(0.0),
        st.none() | st.floats(0, 1, width=32),
    ),
    max_size=40,
)


def messages(rows: list[tuple[int, float, float, float | None]], repeat: int) -> FloatSeriesValues:
    series = FloatSeriesValues(total_item_count=12345)
    for _ in range(repeat):
        for millis, step, value, ratio in rows:
            point = series.values.add(timestamp_millis=millis, step=step, value=value, completion_ratio=1.0)
            if ratio is not None:
                point.is_preview, point.completion_ratio = True, ratio
    return series


@given(ROWS, st.integers(1, 60))
def test_points_of_messages_are_read_as_protobuf_reads_them(rows: Any, repeat: int) -> None:
    series = messages(rows, repeat)
    response = FloatSeriesValuesResponse()
    response.series.add(request_id="a", series=series)
    response.series.add(request_id="b")
    for given_response in (response, response.SerializeToString()):
        pages = columns.float_pages(given_response)
        assert list(pages) == ["a", "b"]
        page = pages["a"]
        assert (page.total, len(page), len(pages["b"])) == (12345, len(series.values), 0)
        assert page.steps.tobytes() == np.array([point.step for point in series.values]).tobytes()
        assert page.millis.tolist() == [point.timestamp_millis for point in series.values]
        assert page.values.tobytes() == np.array([point.value for point in series.values]).tobytes()
        if not any(point.is_preview for point in series.values):
            assert page.ratios is None
        else:
            assert page.ratios is not None
            expected = [point.completion_ratio if point.is_preview else math.nan for point in series.values]
            assert page.ratios.tobytes() == np.array(expected, np.float32).tobytes()


def test_what_the_server_encodes_is_read_without_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neptune_api._float_points._parsed", None)
    count = 1000
    points = stored.FloatColumns(np.arange(count) * 10**6, 1_700_000_000_000 + np.arange(count), np.arange(count) / 7)
    response = FloatSeriesValuesResponse()
    response.series.add(request_id="a").series.MergeFromString(bytes(encode_float_points(points)))
    page = columns.float_pages(response.SerializeToString())["a"]
    assert page.steps.tolist() == list(range(count))
    assert page.values.tobytes() == points.values.tobytes()


@given(ROWS.filter(bool), st.data())
def test_cut_bytes_are_refused_or_read_as_protobuf_reads_them(rows: Any, data: st.DataObject) -> None:
    whole = messages(rows, 1).SerializeToString()
    message = whole[: data.draw(st.integers(0, len(whole)))] + data.draw(st.binary(max_size=3))
    item = b"\x0a\x01a\x12" + encode_varint(len(message)) + message
    response = b"\x0a" + encode_varint(len(item)) + item
    try:
        expected = FloatSeriesValues.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            columns.float_pages(response)
        return
    page = columns.float_pages(response)["a"]
    assert (page.total, page.millis.tolist()) == (
        expected.total_item_count,
        [point.timestamp_millis for point in expected.values],
    )
    assert page.values.tobytes() == np.array([point.value for point in expected.values], np.float64).tobytes()


# Without numpy

WITHOUT = """
import sys
sys.modules["numpy"] = None
from array import array
from neptune_api import columns
from neptune_api.v1.series_pb2 import FloatSeriesValuesResponse
from neptune_api.v1.series_service_pb2 import ReadColumnsResponse

made = columns.points([0.5, 1.5], steps=[0, 0.25], times=range(2), ratios=[0.5, 1])
assert (made.micros.tolist(), made.millis.tolist()) == ([0, 250_000], [0, 1])
found = columns.unpack(columns.pack(made))
assert isinstance(found.values, memoryview) and found.values.format == "d"
assert (found.micros.tolist(), found.values.tolist(), found.ratios.tolist()) == ([0, 250_000], [0.5, 1.5], [0.5, 1.0])
own = columns.FloatPoints(array("q", [1]), memoryview(array("q", [2, 9]))[::2], array("f", [0.5]))
assert columns.unpack(columns.pack(own)).values.tolist() == [0.5]
parts = [ReadColumnsResponse(columns=columns.pack(item)) for item in (made[:1], columns.points([2.0]))]
(whole,) = columns.collect(parts)
assert whole.values.tolist() == [0.5, 2.0] and whole.ratios[0] == 0.5 and whole.ratios[1] != whole.ratios[1]
assert [len(item.series) for item in columns.append_requests("w/p", "r", {"a": made, "b": made})] == [2]
response = FloatSeriesValuesResponse()
series = response.series.add(request_id="x").series
series.values.add(step=1, value=2, timestamp_millis=3, completion_ratio=1)
series.values.add(step=2, value=3, timestamp_millis=-4, completion_ratio=0.5, is_preview=True)
page = columns.float_pages(response.SerializeToString())["x"]
assert (page.steps.tolist(), page.millis.tolist(), page.values.tolist()) == ([1.0, 2.0], [3, -4], [2.0, 3.0])
assert page.ratios[1] == 0.5
try:
    made.steps
except ImportError as error:
    assert "neptune-api[columns]" in str(error)
else:
    raise AssertionError("steps without numpy")
"""


def test_memoryviews_take_the_place_of_arrays() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
