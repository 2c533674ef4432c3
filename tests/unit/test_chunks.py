"""How points lie after they have been merged: few chunks, small ones, however the points came. Sizes, never times."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.columns import FloatPoints, append_requests
from neptune_api.conformance.operations import PROJECT, START_MS, append, counts, create, file, snapshot, update
from neptune_api.server.store import applier, columns, compaction, payload_chunks, point_pages, schema
from neptune_api.server.store.column_batches import ColumnBatch
from neptune_api.server.store.columns import PayloadColumns
from neptune_api.server.store.keys import CountedKeys
from neptune_api.server.store.payload_chunks import Arrival
from neptune_api.server.store.point_pages import Walk, payload_blocks
from neptune_api.server.store.points import read_payloads
from neptune_api.server.store.series import Segment, chunk_spans
from neptune_api.server.store.tails import Rectangle
from neptune_api.v1 import ingest_pb2 as pb
from tests.stores import TIMEOUT, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WHOLE = 1_000_000
RNG = np.random.default_rng(7)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PAUSES", 0.0)
        with Bench(tmp_path, durable=False) as opened:
            opened.apply_one(create())
            yield opened


def chunk_rows(bench: Bench) -> list[Any]:
    with bench.database.read() as connection:
        return list(connection.execute(sa.select(schema.chunks).order_by(schema.chunks.c.id)))


def append_columns(
    bench: Bench, path: str, micros: Any, values: Any, millis: Any = None, max_bytes: int = 16 * 1024 * 1024
) -> None:
    times = START_MS + 17 * np.arange(len(micros)) if millis is None else millis
    ids = [
        bench.store.append_columns(
            ColumnBatch.parse(request.SerializeToString()), user_id=bench.user_id, project_id=bench.project_id
        )
        for request in append_requests(PROJECT, "run", {path: FloatPoints(micros, times, values)}, max_bytes=max_bytes)
    ]
    assert sum(result["OK"] for result in bench.results(ids)) == len(micros)


# Float series


@pytest.mark.parametrize(("stride", "limit"), [("regular", 12.1), ("irregular", 16.1), ("wild", 22.1)])
def test_bytes_a_point(bench: Bench, stride: str, limit: float) -> None:
    count = 200_000
    micros = {
        "regular": np.arange(count) * WHOLE,
        "irregular": np.cumsum(RNG.integers(1, 1000, count)) * WHOLE,
        "wild": np.cumsum(RNG.integers(2**32, 2**42, count)),
    }[stride]
    millis = None if stride != "wild" else START_MS + np.cumsum(RNG.integers(0, 10**7, count))
    append_columns(bench, "m", micros, RNG.random(count), millis)
    bench.store.compact()
    chunks = chunk_rows(bench)
    assert sum(row.count for row in chunks) == count
    assert sum(len(row.payload) for row in chunks) <= limit * count


def test_the_folder_after_a_million_points(bench: Bench, tmp_path: Path) -> None:
    count = 1_000_000
    append_columns(bench, "m", np.arange(count) * WHOLE, RNG.random(count), max_bytes=200_000)
    bench.store.compact()
    bench.database.tidy(threading.Event())
    end = time.monotonic() + TIMEOUT
    # The applier may be tidying up itself, and only one can.
    while (size := sum(item.stat().st_size for item in tmp_path.iterdir())) > 14 * count and time.monotonic() < end:
        bench.database.tidy(threading.Event())
    assert size <= 14 * count


def test_a_folder_that_cannot_give_pages_back_is_left_as_it_is(tmp_path: Path) -> None:
    with Bench(tmp_path, durable=False) as bench:
        bench.apply_one(create())
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite3")) as connection:
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")
    with Bench(tmp_path, durable=False) as bench:
        append_columns(bench, "m", np.arange(50_000) * WHOLE, RNG.random(50_000), max_bytes=200_000)
        with bench.database.write() as connection:
            connection.execute(schema.chunks.delete())
        bench.database.tidy(threading.Event())


def test_no_chunk_is_larger_than_the_largest(bench: Bench) -> None:
    count = 200_000
    append_columns(bench, "m", np.arange(count) * WHOLE, RNG.random(count))
    chunks = chunk_rows(bench)
    assert len(chunks) == math.ceil(count / compaction.CHUNK_POINTS)
    assert max(row.count for row in chunks) == compaction.CHUNK_POINTS


@pytest.mark.parametrize("at_once", [1, 7, 64, 1000])
def test_many_compactions_make_few_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(compaction, "CHUNK_POINTS", 1024)
    append_columns(bench, "m", np.array([0]), np.zeros(1))
    bench.store.compact()
    turns = 300
    with bench.store.exclusive() as connection:
        (row,) = connection.execute(sa.select(schema.chunks))
        keys = CountedKeys(schema.chunks, bench.database)
        for turn in range(turns):
            steps = 1 + turn * at_once + np.arange(at_once)
            values = np.zeros((at_once, 1))
            group = Rectangle(np.array([row.attribute_id]), steps, np.full(at_once, START_MS), values)
            compaction.store(connection, [group], keys)
    chunks = chunk_rows(bench)
    points = turns * at_once + 1
    assert sum(item.count for item in chunks) == points
    assert len(chunks) <= 2 * points / 1024 + math.log2(1024)
    in_order = sorted(chunks, key=lambda item: item.first_step)
    assert all(left.last_step < right.first_step for left, right in pairwise(in_order))


def test_many_series_are_merged_some_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    series, steps = 50, 40
    names = [f"m/{number:02}" for number in range(series)]
    for step in range(4):
        bench.apply_one(append(dict.fromkeys(names, 0.5), step))
    bench.store.compact()
    held: list[int] = []
    take = compaction._take

    def watched(connection: sa.Connection, merged: Sequence[int]) -> dict[int, list[columns.FloatColumns]]:
        found = take(connection, merged)
        held.append(sum(len(part) for parts in found.values() for part in parts))
        return found

    monkeypatch.setattr(compaction, "_OLDER_POINTS", 30)
    monkeypatch.setattr(compaction, "_take", watched)
    with bench.store.exclusive() as connection:
        ids = np.array(sorted({row.attribute_id for row in chunk_rows(bench)}))
        at = (4 + np.arange(steps)) * WHOLE
        group = Rectangle(
            ids, at, np.full(steps, START_MS), np.arange(steps * series, dtype=float).reshape(steps, series)
        )
        compaction.store(connection, [group], CountedKeys(schema.chunks, bench.database))
    assert sum(held) == series * 4
    assert max(held) < 30 + 4
    chunks = chunk_rows(bench)
    assert [row.count for row in chunks] == [steps + 4] * series
    for position, row in enumerate(sorted(chunks, key=lambda row: row.attribute_id)):
        points = columns.decode_floats(row.payload)
        assert points.values.tolist() == [0.5] * 4 + [step * series + position for step in range(steps)]


# Other series


def text(number: int) -> str:
    return f"line {number}"


def test_texts_one_by_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "_BATCH_OPERATIONS", 5)  # as if they came five by five
    monkeypatch.setattr(payload_chunks, "CHUNK_POINTS", 128)
    count = 600
    bench.apply(*(append({"m": text(number)}, number) for number in range(count)))
    chunks = chunk_rows(bench)
    assert len(chunks) <= 2 * count / 128 + math.log2(128)
    assert max(row.count for row in chunks) <= 128
    found = bench.content("run").points["m"]
    assert [pb.Value.FromString(value).string for _, _, value in found] == [text(number) for number in range(count)]


def test_large_texts_are_not_written_over_and_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "_BATCH_OPERATIONS", 1)
    written = 0

    def count(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        nonlocal written
        if statement.startswith("INSERT INTO chunks"):
            rows = parameters if isinstance(parameters, list) else [parameters]
            written += sum(len(value) for row in rows for value in row if isinstance(value, bytes))

    sa.event.listen(bench.database._engine, "before_cursor_execute", count)
    size = 300_000
    bench.apply(*(append({"m": str(number) * size}, number) for number in range(9)))
    assert len(chunk_rows(bench)) <= 9
    assert written <= 4 * 9 * size


def test_late_points_are_merged_with_those_they_lie_among(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_chunks, "CHUNK_POINTS", 256)
    monkeypatch.setattr(applier, "_BATCH_OPERATIONS", 4)
    count = 4000
    order = list(range(count))
    random.Random(3).shuffle(order)
    operations = []
    for start in range(0, count, 40):
        snapshots = [
            snapshot({"f": file(f"{number}"), "h": counts([0, 1], [number])}, number)
            for number in order[start : start + 40]
        ]
        operations.append(update(*snapshots))
    assert bench.apply(*operations) == [{"OK": 80}] * 100
    again = [snapshot({"f": file(f"again {number}")}, number) for number in range(0, count, 40)]
    bench.apply(update(*again))
    with bench.database.read() as connection:
        spans = chunk_spans(connection, set(connection.scalars(sa.select(schema.chunks.c.attribute_id).distinct())))
    for of_series in spans.values():
        assert len(of_series) <= 4 * count / 256
        depth = max(sum(span.first_step <= at.first_step <= span.last_step for span in of_series) for at in of_series)
        assert depth <= math.log2(count)
    content = bench.content("run")
    expected = [f"again {number}" if number % 40 == 0 else f"{number}" for number in range(count)]
    assert [pb.Value.FromString(value).file_ref.path for _, _, value in content.points["f"]] == expected
    histograms = [pb.Value.FromString(value).histogram for _, _, value in content.points["h"]]
    assert [histogram.counts.values[0] for histogram in histograms] == list(range(count))
    assert content.totals == {"f": count, "h": count}


def test_a_late_point_is_read_with_its_neighbours_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_chunks, "CHUNK_POINTS", 64)
    monkeypatch.setattr(point_pages, "_BYTES_PER_BLOCK", 4096)
    count = 2000
    bench.apply(update(*(snapshot({"f": file(f"{number}")}, number + 1) for number in range(count))))
    bench.apply(update(*(snapshot({"f": file("late")}, at) for at in (0, count + 1))))
    with bench.database.read() as connection:
        (key,) = connection.scalars(sa.select(schema.chunks.c.attribute_id).distinct())
        row = connection.execute(sa.select(schema.series, schema.attributes.c.id).join(schema.attributes)).first()
        spans = chunk_spans(connection, [key])
        assert row is not None
        for descending in (False, True):
            blocks = list(payload_blocks(connection, [Segment(row, 10**18)], Walk(descending=descending), spans))
            assert len(blocks) > 10
            found = [step // WHOLE for block in blocks for step in block.steps.tolist()]
            assert found == (list(range(count + 2)) if not descending else list(range(count + 1, -1, -1)))


Logged = list[list[tuple[int, int]]]
"""Groups of (step, value) that were logged together."""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=12), max_size=12))
def test_the_point_logged_last_stays_however_chunks_are_merged(series: tuple[Bench, int], logged: Logged) -> None:
    bench, attribute = series
    expected: dict[int, bytes] = {}
    with pytest.MonkeyPatch.context() as patch, bench.store.exclusive() as connection:
        patch.setattr(payload_chunks, "CHUNK_POINTS", 8)
        connection.execute(schema.chunks.delete())
        keys = CountedKeys(schema.chunks, bench.database)
        for group in logged:
            points = payloads(group)
            payload_chunks.store(connection, {attribute: Arrival(points, None)}, keys)
            expected |= dict(zip(points.steps.tolist(), points.payloads, strict=True))
            found = read_payloads(connection, attribute)
            assert dict(zip(found.steps.tolist(), found.payloads, strict=True)) == expected
        for (payload,) in connection.execute(sa.select(schema.chunks.c.payload)):
            chunk = columns.decode_payloads(payload)
            assert len(chunk) <= 8
            assert bool((np.diff(chunk.steps) > 0).all())


@pytest.fixture
def series(bench: Bench) -> tuple[Bench, int]:
    """A store, and the key of a histogram series without points of consequence."""
    bench.apply_one(append({"h": counts([0, 1], [1])}, 0))
    with bench.database.read() as connection:
        return bench, connection.scalars(sa.select(schema.chunks.c.attribute_id)).one()


def payloads(group: Sequence[tuple[int, int]]) -> PayloadColumns:
    steps = np.array([step for step, _ in group], np.int64)
    return PayloadColumns(steps, np.full(len(group), START_MS), [b"%d" % value for _, value in group])


def test_a_damaged_chunk_stops_nothing_that_follows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_chunks, "SMALL_POINTS", 2)
    bench.apply(update(*(snapshot({"m": text(number)}, number) for number in range(4))))
    with bench.database.write() as connection:
        connection.execute(schema.chunks.update().values(checksum=1))
    results = bench.apply(
        update(*(snapshot({"m": text(number), "n": text(number)}, number) for number in range(4, 12)))
    )
    assert results == [{"OK": 16}]
    assert sorted(row.count for row in chunk_rows(bench)) == [4, 8, 8]


def test_long_columns_after_a_damaged_chunk_stay_in_tails(bench: Bench) -> None:
    few = 1000
    append_columns(bench, "m", np.arange(few) * WHOLE, RNG.random(few))
    bench.store.compact()
    with bench.database.write() as connection:
        connection.execute(schema.chunks.update().values(checksum=1))
    many = 40_000
    append_columns(
        bench, "m", np.arange(few, few + many) * WHOLE, RNG.random(many), START_MS + 17 * few + np.arange(many)
    )
    append_columns(bench, "n", np.arange(many) * WHOLE, RNG.random(many))
    assert sum(row.count for row in chunk_rows(bench)) == few
    with bench.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.sum(schema.tails.c.count))) == 2 * many
