"""Laws of points: chunks lose nothing, summaries add up, steps and messages keep their values."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neptune_api.server.point_messages import encode_float_points
from neptune_api.server.store import columns, steps
from neptune_api.server.store.columns import FloatColumns, PayloadColumns
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1.series_pb2 import FloatSeriesValues

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = st.integers(0, steps.END - 1)
TIMESTAMPS = st.integers(-(2**63), 2**63 - 1) | st.integers(1_700_000_000_000, 1_700_000_100_000)
VALUES = st.floats() | st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf])


@st.composite
def float_columns(draw: st.DrawFn, *, max_size: int = 40) -> FloatColumns:
    size = draw(st.integers(0, max_size))
    if draw(st.booleans()):
        first, stride = draw(st.integers(0, 10**12)), draw(st.integers(1, 10**9))
        points = first + stride * np.arange(size, dtype=np.int64)
    elif draw(st.booleans()):
        points = np.cumsum(
            draw(st.lists(st.integers(1, 2**32) | st.integers(2**46, 2**48), min_size=size, max_size=size)),
            dtype=np.int64,
        )
    else:
        points = np.array(sorted(draw(st.sets(STEPS, min_size=size, max_size=size))), np.int64)
    timestamps = draw(st.lists(TIMESTAMPS, min_size=size, max_size=size))
    values = draw(st.lists(VALUES, min_size=size, max_size=size))
    return FloatColumns(points, np.array(timestamps, np.int64), np.array(values, np.float64))


@st.composite
def payload_columns(draw: st.DrawFn) -> PayloadColumns:
    payloads = draw(st.lists(st.binary(max_size=40), max_size=20))
    size = len(payloads)
    points = draw(st.lists(STEPS, min_size=size, max_size=size))
    timestamps = draw(st.lists(TIMESTAMPS, min_size=size, max_size=size))
    return PayloadColumns(np.array(points, np.int64), np.array(timestamps, np.int64), payloads)


def assert_same_bits(left: FloatColumns, right: FloatColumns) -> None:
    assert left.steps.tolist() == right.steps.tolist()
    assert left.timestamps.tolist() == right.timestamps.tolist()
    assert left.values.tobytes() == right.values.tobytes()


@given(float_columns())
def test_float_chunks_lose_nothing(points: FloatColumns) -> None:
    assert_same_bits(columns.decode_floats(columns.encode(points)), points)


@given(st.data(), st.lists(float_columns(max_size=4), min_size=1, max_size=12))
def test_chunks_that_share_steps_and_timestamps_lose_nothing(data: st.DataObject, some: list[FloatColumns]) -> None:
    positions = data.draw(st.lists(st.sampled_from(some), max_size=30))
    series = [
        FloatColumns(
            points.steps,
            points.timestamps,
            np.array(data.draw(st.lists(VALUES, min_size=len(points), max_size=len(points))), np.float64),
        )
        for points in positions
    ]
    decoder = columns.FloatDecoder()
    for points in series:
        assert_same_bits(decoder.decode(columns.encode(points)), points)


@given(payload_columns())
def test_payload_chunks_lose_nothing(points: PayloadColumns) -> None:
    decoded = columns.decode_payloads(columns.encode(points))
    assert decoded.steps.tolist() == points.steps.tolist()
    assert decoded.timestamps.tolist() == points.timestamps.tolist()
    assert decoded.payloads == points.payloads


@given(float_columns(), payload_columns(), st.data())
def test_a_cut_chunk_is_refused(floats: FloatColumns, payloads: PayloadColumns, data: st.DataObject) -> None:
    decoders: list[tuple[FloatColumns | PayloadColumns, Callable[[bytes], object]]] = [
        (floats, columns.decode_floats),
        (payloads, columns.decode_payloads),
    ]
    for points, decode in decoders:
        chunk = columns.encode(points)
        with pytest.raises(CorruptChunkError):
            decode(chunk[: data.draw(st.integers(0, len(chunk) - 1))])


@given(float_columns(), payload_columns())
def test_a_chunk_of_the_other_kind_is_refused(floats: FloatColumns, payloads: PayloadColumns) -> None:
    with pytest.raises(CorruptChunkError):
        columns.decode_payloads(columns.encode(floats))
    with pytest.raises(CorruptChunkError):
        columns.decode_floats(columns.encode(payloads))


MODERATE = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(MODERATE, max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_summaries_of_parts_add_up_to_that_of_the_whole(values: list[float], cuts: list[int]) -> None:
    size = len(values)
    points = FloatColumns(np.arange(size, dtype=np.int64) * 7, np.zeros(size, np.int64), np.array(values, np.float64))
    merged = FloatSummary()
    bounds = [0, *sorted(min(cut, size) for cut in cuts), size]
    for start, end in itertools.pairwise(bounds):
        merged = merged.merge(FloatSummary.of(points[start:end]))
    assert_is_summary(merged, points)


@given(st.lists(MODERATE, max_size=30), st.lists(MODERATE, max_size=30))
def test_the_order_of_merging_makes_no_difference(first: list[float], second: list[float]) -> None:
    split = len(first)
    values = np.array([*first, *second], np.float64)
    points = FloatColumns(np.arange(len(values), dtype=np.int64), np.zeros(len(values), np.int64), values)
    left, right = FloatSummary.of(points[:split]), FloatSummary.of(points[split:])
    assert_is_summary(left.merge(right), points)
    assert_is_summary(right.merge(left), points)


def assert_is_summary(summary: FloatSummary, points: FloatColumns) -> None:
    finite = points.values[np.isfinite(points.values)]
    assert summary.count == len(points)
    assert summary.finite_count == len(finite)
    assert summary.last_step == (int(points.steps[-1]) if len(points) else None)
    np.testing.assert_equal(summary.last, points.values[-1] if len(points) else math.nan)
    if not len(finite):
        assert all(map(math.isnan, (summary.minimum, summary.maximum, summary.average, summary.variance)))
        return
    assert summary.minimum == finite.min()
    assert summary.maximum == finite.max()
    scale = float(np.abs(finite).max())
    assert summary.average == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12 * scale)
    assert summary.variance == pytest.approx(finite.var(), rel=1e-9, abs=1e-12 * scale * scale)


def test_the_mean_of_the_first_squares_is_exact() -> None:
    values = np.arange(10, dtype=np.float64) ** 2
    points = FloatColumns(np.arange(10, dtype=np.int64), np.zeros(10, np.int64), values)
    merged = FloatSummary()
    for position in range(10):
        merged = merged.merge(FloatSummary.of(points[position : position + 1]))
    assert merged.average == FloatSummary.of(points).average == 28.5


@given(float_columns(), st.data())
def test_encoded_points_are_those_of_a_message_built_field_by_field(points: FloatColumns, data: st.DataObject) -> None:
    size = len(points)
    ratios = data.draw(
        st.none() | st.lists(st.just(math.nan) | st.floats(0, 1, width=32), min_size=size, max_size=size)
    )
    built = FloatSeriesValues()
    for position in range(size):
        is_preview = ratios is not None and not math.isnan(ratios[position])
        built.values.add(
            timestamp_millis=int(points.timestamps[position]),
            step=int(points.steps[position]) / 1e6,
            value=float(points.values[position]),
            is_preview=is_preview,
            completion_ratio=ratios[position] if is_preview and ratios is not None else 1.0,
        )
    encoded = bytes(encode_float_points(points, None if ratios is None else np.array(ratios, np.float64)))
    assert len(encoded) % max(1, size) == 0
    parsed = FloatSeriesValues.FromString(encoded)
    assert parsed.SerializeToString(deterministic=True) == built.SerializeToString(deterministic=True)


def test_points_of_today_are_encoded_without_a_spare_byte() -> None:
    now = 1_700_000_000_000
    points = FloatColumns(np.array([1, 2]), np.array([now, now + 1]), np.array([0.5, 0.25]))
    encoded = bytes(encode_float_points(points))
    assert encoded == FloatSeriesValues.FromString(encoded).SerializeToString()


@given(STEPS)
@example(4_503_599_627_365_043)  # times a million in doubles it is half a micro-step off
def test_bounds_of_the_double_of_a_step_include_the_step(micros: int) -> None:
    double = steps.to_double(micros)
    assert steps.first_from(double) <= micros <= steps.last_until(double)
    if double < 2**33:  # beyond, neighbouring doubles are more than a micro-step apart
        assert steps.first_from(double) == micros == steps.last_until(double) == steps.nearest(double)


@given(st.floats(allow_nan=False))
def test_bounds_of_any_double_part_the_steps(double: float) -> None:
    first, last = steps.first_from(double), steps.last_until(double)
    assert 0 <= first <= steps.END
    assert -1 <= last < steps.END
    assert last + 1 >= first
    for micros in (first - 1, first):
        if 0 <= micros < steps.END:
            assert (steps.to_double(micros) >= double) == (micros >= first)
    for micros in (last, last + 1):
        if 0 <= micros < steps.END:
            assert (steps.to_double(micros) <= double) == (micros <= last)


def test_steps_of_arrays_and_of_single_numbers_are_the_same_doubles() -> None:
    micros = np.array([0, 1, 300_000, 2**53 + 1, steps.END - 1], np.int64)
    assert steps.to_double(micros).tolist() == [steps.to_double(value) for value in micros.tolist()]
