"""Batches of columns are read from bytes as protobuf reads them, whatever is alike in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from neptune_api.columns import FloatPoints, pack
from neptune_api.server.store import column_batches, rules
from neptune_api.server.store.column_batches import ColumnBatch
from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendSeries

POSITIONS = st.sampled_from(
    [
        ([0], [5]),
        ([0, 1_000_000], [5, 6]),
        ([0, 1_000_000], [5, 7]),
        ([1_000_000, 0], [6, 5]),
        ([-1, 3], [5, 5]),
        ([], []),
        ([7] * 40, list(range(40))),
    ]
)
PATHS = st.sampled_from(
    ["a", "b", "c/d", "ä", "", "sys/id", "x\0", "l" * 127, "l" * 128, "l" * 200, "l" * 300, "l" * 1025]
)
SERIES = st.lists(st.tuples(PATHS, POSITIONS, st.sampled_from([None, None, None, 0.5])), max_size=12)
# The same positions many times over, with something else among them.
ALIKE = st.tuples(POSITIONS, st.lists(PATHS, min_size=2, max_size=12), SERIES, st.integers(0, 12)).map(
    lambda found: [*(rows := [(path, found[0], None) for path in found[1]])[: found[3]], *found[2], *rows[found[3] :]]
)


def request(series: list[Any]) -> AppendColumnsRequest:
    message = AppendColumnsRequest(project="w/p", run_id="r", batch_id="b")
    for number, (path, (micros, millis), ratio) in enumerate(series):
        size = len(micros)
        ratios = None if ratio is None else np.full(size, ratio, np.float32)
        points = FloatPoints(
            np.array(micros, np.int64), np.array(millis, np.int64), number + np.arange(size) / 64, ratios
        )
        message.series.add(path=path, columns=pack(points))
    return message


@given(SERIES | ALIKE)
@example([("l" * 128, ([0], [5]), None)] * 5)
def test_a_batch_is_what_protobuf_says(series: list[Any]) -> None:
    message = request(series)
    batch = ColumnBatch.parse(message.SerializeToString())
    assert (batch.project, batch.run_id, batch.batch_id) == ("w/p", "r", "b")
    assert batch.paths == [item.path for item in message.series]
    read = {item.index: item for item in batch.series}
    refused = {fault.series_index: 0 for fault in batch.faults}
    for fault in batch.faults:
        refused[fault.series_index] += fault.count
        assert fault.path == message.series[fault.series_index].path
    for index, item in enumerate(message.series):
        size = len(item.columns.values.values)
        found = read.get(index)
        assert (0 if found is None else len(found.points)) + refused.get(index, 0) == size
        if rules.path_fault(item.path):
            assert found is None
        elif found is not None:
            places = range(size) if found.places is None else found.places.tolist()
            assert found.path == item.path
            assert found.points.steps.tolist() == [item.columns.steps.micros[place] for place in places]
            assert found.points.timestamps.tolist() == [item.columns.timestamps.millis[place] for place in places]
            assert found.points.values.tolist() == [item.columns.values.values[place] for place in places]
            assert (found.ratios is not None) == item.columns.HasField("preview_ratios")
    assert batch.size == sum(len(item.columns.values.values) for item in message.series)


def test_alike_series_share_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_batches, "_read_series", None)
    batch = ColumnBatch.parse(request([(f"m/{i}", ([0, 1], [2, 3]), None) for i in range(600)]).SerializeToString())
    assert len(batch.series) == 600
    assert len({id(item.points.steps) for item in batch.series}) == 3
    assert [item.points.values[1] for item in batch.series] == [i + 1 / 64 for i in range(600)]


@given(ALIKE, st.data())
def test_cut_bytes_are_no_batch_or_another_one(series: list[Any], data: st.DataObject) -> None:
    payload = request(series).SerializeToString()
    cut = payload[: data.draw(st.integers(0, len(payload)))]
    try:
        expected = AppendColumnsRequest.FromString(cut)
    except DecodeError:
        with pytest.raises(DecodeError):
            ColumnBatch.parse(cut)
        return
    assert ColumnBatch.parse(cut).paths == [item.path for item in expected.series]


def test_a_series_without_anything() -> None:
    message = request([("a", ([0], [5]), None)] * 3)
    message.series.append(AppendSeries())
    message.series.insert(0, AppendSeries())
    assert ColumnBatch.parse(message.SerializeToString()).paths == ["", "a", "a", "a", ""]
