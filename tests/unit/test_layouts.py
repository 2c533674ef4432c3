"""Operations of points in the log, of which it keeps once what they have in common."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.conformance.operations import START_MS, create, snapshot, update
from neptune_api.server.store import layouts as layouts_
from neptune_api.server.store import schema
from neptune_api.server.store.blocks import Block, Layout
from neptune_api.server.store.layouts import BlockRecord, LayoutShelf
from neptune_api.server.store.oplog import Kind
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from neptune_api.server.store.oplog import Operation
    from neptune_api.v1 import ingest_pb2 as pb

PATHS = [f"metrics/layer-{number:03}/norm" for number in range(200)]
FIRST_KEPT = 2
"""Of operations of one layout, which is the first that the log keeps by it, from 0."""


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres").create_database
        return make()
    return tmp_path / "data"


@pytest.fixture
def bench(location: Path | str) -> Iterator[Bench]:
    """A store that accepts and does not apply."""
    opened = Bench(location, durable=False)
    yield opened
    opened.close()


def wide(step: int, paths: list[str] = PATHS, run: str = "run") -> pb.RunOperation:
    """Return an operation that appends one point to each path, by which path and step can be told."""
    values = {path: step + place / 1000 for place, path in enumerate(paths)}
    return update(snapshot(values, step, START_MS + step), run=run)


def submit(bench: Bench, *operations: pb.RunOperation) -> list[str]:
    """Accept operations as the servicer does, each in a transaction of its own."""
    return [bench.store.submit_many([bench.read(operation)])[0] for operation in operations]


def pending(bench: Bench) -> list[Operation]:
    return bench.store._log.pending(1000, 1_000_000_000)


def kinds(bench: Bench) -> list[Kind]:
    return [operation.kind for operation in pending(bench)]


def stored(bench: Bench) -> int:
    with bench.database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.layouts)) or 0


# Records


def layout_of(paths: list[str]) -> Layout:
    operation = update(snapshot(dict.fromkeys(paths, 1.0), 0))
    (item,) = operation.update_batch.snapshots
    head = snapshot({}, 0).SerializeToString()
    layout = Layout.learn(item.SerializeToString()[len(head) :])
    assert layout is not None
    return layout


NUMBERS = st.floats() | st.sampled_from([math.nan, -0.0, math.inf])


@given(
    st.text(),
    st.text(),
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), NUMBERS, NUMBERS)),
)
def test_a_record_is_read_as_it_was_written(
    project: str, run: str, points: list[tuple[int, int, float, float]]
) -> None:
    layout = layout_of(["a", "b"])
    steps, timestamps = (np.array([point[place] for point in points], np.int64) for place in range(2))
    values = np.array([point[2:] for point in points], np.float64).reshape(len(points), 2)
    payload = BlockRecord(project, run, Block(layout, steps, timestamps, values)).serialize()
    found = BlockRecord.parse(payload, layout)
    assert (found.project, found.run_id, found.size) == (project, run, 2 * len(points))
    assert found.block.layout is layout
    assert found.block.steps.tolist() == steps.tolist()
    assert found.block.timestamps.tolist() == timestamps.tolist()
    assert found.block.values.tobytes() == values.tobytes()
    assert found.serialize() == payload
    for end in range(len(payload)):
        with pytest.raises(ValueError, match="A block has"):
            BlockRecord.parse(payload[:end], layout)
    with pytest.raises(ValueError, match="another size"):
        BlockRecord.parse(payload + b"\0", layout)


# The log


def test_what_comes_often_is_kept_by_its_layout(bench: Bench) -> None:
    operations = [wide(step) for step in range(6)]
    submit(bench, *operations)
    found = pending(bench)
    assert [item.kind for item in found] == [Kind.RUN_OPERATION] * FIRST_KEPT + [Kind.BLOCK] * 4
    assert [item.payload for item in found[:FIRST_KEPT]] == [item.SerializeToString() for item in operations[:2]]
    assert len(found[-1].payload) < len(found[0].payload) / 3
    with bench.database.read() as connection:
        for step, item in enumerate(found[FIRST_KEPT:], FIRST_KEPT):
            assert item.layout_key is not None
            # Another process finds the layout in the database.
            for shelf in (bench.store._log.layouts, LayoutShelf()):
                record = BlockRecord.parse(item.payload, shelf.get(connection, item.layout_key))
                assert (record.project, record.run_id) == (operations[0].project, "run")
                assert record.block.steps.tolist() == [step * 1_000_000]
                assert record.block.timestamps.tolist() == [START_MS + step]
                points = dict(zip(record.block.layout.paths, record.block.values[0].tolist(), strict=True))
                assert points == {path: step + place / 1000 for place, path in enumerate(PATHS)}
    assert stored(bench) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda step: wide(step, PATHS[:20]),
        lambda step: update(snapshot(dict.fromkeys(PATHS, 1.0), step, assign={"lr": 1.0})),
        lambda step: update(snapshot(dict.fromkeys(PATHS, 1.0), step), snapshot(dict.fromkeys(PATHS[1:], 1.0), step)),
        lambda step: update(snapshot(dict.fromkeys(PATHS, 1.0), None, START_MS + step)),
        lambda step: wide(0, [f"{step}/{path}" for path in PATHS]),
    ],
    ids=["small", "not only points", "two layouts", "no step", "never the same"],
)
def test_other_operations_are_kept_as_they_came(bench: Bench, make: Callable[[int], pb.RunOperation]) -> None:
    operations = [make(step) for step in range(5)]
    submit(bench, *operations)
    assert [item.payload for item in pending(bench)] == [item.SerializeToString() for item in operations]
    assert set(kinds(bench)) == {Kind.RUN_OPERATION}
    assert stored(bench) == 0


def test_several_steps_are_one_record(bench: Bench) -> None:
    for first in range(0, 20, 5):
        submit(bench, update(*(wide(step).update_batch.snapshots[0] for step in range(first, first + 5))))
    last = pending(bench)[-1]
    assert last.kind is Kind.BLOCK
    with bench.database.read() as connection:
        record = BlockRecord.parse(last.payload, bench.store._log.layouts.get(connection, str(last.layout_key)))
    assert (record.size, record.block.steps.tolist()) == (5 * len(PATHS), [1_000_000 * step for step in range(15, 20)])


def test_a_server_that_is_started_again_applies_them(location: Path | str) -> None:
    with Bench(location, durable=False) as bench:
        bench.apply_one(create())
    bench = Bench(location, durable=False)
    ids = submit(bench, *(wide(step) for step in range(8)))
    ids += submit(bench, wide(3), *(wide(step, run="nobody") for step in range(2)))
    assert Kind.BLOCK in kinds(bench)
    bench.close()
    with Bench(location, durable=False) as bench:
        results = bench.results(ids)
        content = bench.content("run")
    size = len(PATHS)
    assert results[:8] == [{"OK": size}] * 8
    assert results[8:] == [{"SERIES_POINT_DUPLICATE": size}, *[{"RUN_NOT_FOUND": size}] * 2]
    assert content.points == {
        path: [(step * 1_000_000, START_MS + step, step + place / 1000) for step in range(8)]
        for place, path in enumerate(PATHS)
    }


def test_a_project_that_is_not_there_is_told(location: Path | str) -> None:
    with Bench(location, durable=False) as bench:
        submissions = [replace(bench.read(wide(step)), project_id=None) for step in range(4)]
        ids = [bench.store.submit_many([submission])[0] for submission in submissions]
        assert bench.results(ids) == [{"PROJECT_NOT_FOUND": len(PATHS)}] * 4


def test_a_layout_that_another_process_removed_is_stored_again(bench: Bench) -> None:
    submit(bench, *(wide(step) for step in range(3)))
    assert stored(bench) == 1
    settle_all(bench)
    with bench.database.write() as connection:
        LayoutShelf().clean(connection)
    assert stored(bench) == 0
    submit(bench, wide(3))
    submit(bench, *(wide(step) for step in range(4, 7)))
    assert kinds(bench)[-1] is Kind.BLOCK
    assert stored(bench) == 1


def test_a_transaction_that_fails_leaves_no_doubt(bench: Bench) -> None:
    submit(bench, *(wide(step) for step in range(FIRST_KEPT)))

    def fail(_: sa.Connection) -> None:
        raise OSError("disk full")

    sa.event.listen(bench.database._engine, "commit", fail)
    with pytest.raises(OSError, match="disk full"):
        submit(bench, wide(2))
    sa.event.remove(bench.database._engine, "commit", fail)
    assert stored(bench) == 0
    submit(bench, *(wide(step) for step in range(2, 4)))
    assert kinds(bench) == [Kind.RUN_OPERATION, Kind.RUN_OPERATION, Kind.BLOCK, Kind.BLOCK]
    assert stored(bench) == 1


def test_layouts_take_bounded_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts_, "_MOST_BYTES", 120_000)
    log = bench.store._log
    for turn in range(4):
        submit(bench, *(wide(step, [f"{turn}/{path}" for path in PATHS]) for step in range(4)))
    assert log.layouts.is_full
    assert 0 < stored(bench) < 4
    before = kinds(bench)
    # Those that operations refer to stay.
    log.make_room()
    assert (kinds(bench), stored(bench) > 0) == (before, True)
    settle_all(bench)
    log.make_room()
    assert (stored(bench), log.layouts.is_full) == (0, False)
    submit(bench, *(wide(step, [f"3/{path}" for path in PATHS]) for step in range(4)))
    assert kinds(bench)[-1] is Kind.BLOCK


def test_a_layout_larger_than_the_room_for_all_takes_it_from_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts_, "_MOST_BYTES", 120_000)
    submit(bench, *(wide(step) for step in range(4)))
    submit(bench, *(wide(step, [f"{path}/{number}" for path in PATHS for number in range(5)]) for step in range(4)))
    assert kinds(bench) == [Kind.RUN_OPERATION] * FIRST_KEPT + [Kind.BLOCK] * 2 + [Kind.RUN_OPERATION] * 4
    assert not bench.store._log.layouts.is_full


def test_a_busy_server_makes_room(location: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts_, "_MOST_BYTES", 120_000)
    with Bench(location, durable=False) as bench:
        bench.apply_one(create())
        for turn in range(6):
            ids = submit(bench, *(wide(step, [f"{turn}/{path}" for path in PATHS]) for step in range(4)))
            assert bench.results(ids) == [{"OK": len(PATHS)}] * 4
        assert stored(bench) <= 3


def test_starting_removes_what_nothing_refers_to(location: Path | str) -> None:
    with Bench(location, durable=False) as bench:
        bench.apply_one(create())
        bench.results(submit(bench, *(wide(step) for step in range(4))))
        assert stored(bench) == 1
    with Bench(location, durable=False) as bench:
        assert stored(bench) == 0


def test_a_disk_without_space_to_remove_something_does_not_keep_a_server_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Bench(tmp_path, durable=False) as bench:
        bench.apply_one(create())
        bench.results(submit(bench, *(wide(step) for step in range(4))))
    bench = Bench(tmp_path, durable=False)
    with bench.database.write() as connection:
        fail = "SELECT RAISE(ABORT, 'database or disk is full')"
        connection.exec_driver_sql(f"CREATE TRIGGER full BEFORE DELETE ON layouts BEGIN {fail}; END")
    with bench:
        assert "disk is full" in caplog.text
        assert len(bench.content("run").points[PATHS[0]]) == 4
        assert stored(bench) == 1


def test_what_another_process_stored_is_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for turn in range(3):
        submit(bench, *(wide(step, PATHS[turn:]) for step in range(3)))
    keys = [str(item.layout_key) for item in pending(bench) if item.kind is Kind.BLOCK]
    assert len(keys) == 3
    shelf = LayoutShelf()
    with bench.database.read() as connection:
        first = [shelf.get(connection, key) for key in keys]
        assert all(shelf.get(connection, key) is layout for key, layout in zip(keys, first, strict=True))
        shelf.doubt()
        assert shelf.get(connection, keys[0]) is first[0]
        # Of those that find no room the ones that were used last stay.
        monkeypatch.setattr(layouts_, "_MOST_BYTES", first[0].size + first[1].size)
        shelf = LayoutShelf()
        first = [shelf.get(connection, keys[place]) for place in (0, 1, 0, 2)]
        assert first[2] is first[0]
        assert shelf.get(connection, keys[0]) is first[0]
        assert shelf.get(connection, keys[2]) is first[3]
        assert shelf.get(connection, keys[1]) is not first[1]


def test_a_run_remembers_a_layout_once(location: Path | str) -> None:
    with Bench(location, durable=False) as bench:
        bench.apply_one(create())
    with contextlib.closing(Bench(location, durable=False)) as bench:
        ids = submit(bench, *(wide(step) for step in range(8)))
    with Bench(location, durable=False) as bench:
        bench.results(ids)
        (run,) = bench.store._applier._runs._by_id.values()
        assert len(run.layouts) == 1


def test_a_damaged_layout_is_told(bench: Bench) -> None:
    submit(bench, *(wide(step) for step in range(3)))
    key = str(pending(bench)[-1].layout_key)
    for region in (b"", b"nothing", bytes(layout_of(PATHS[1:]).fixed)):
        with bench.database.write() as connection:
            connection.execute(schema.layouts.update().values(region=region))
            with pytest.raises(ValueError, match="damaged"):
                LayoutShelf().get(connection, key)


def test_a_damaged_layout_is_mended_by_the_next_operation_of_its_kind(location: Path | str) -> None:
    with Bench(location, durable=False) as bench:
        bench.apply_one(create())
    with contextlib.closing(Bench(location, durable=False)) as bench:
        ids = submit(bench, *(wide(step) for step in range(4)))
        with bench.database.write() as connection:
            connection.execute(schema.layouts.update().values(region=b"nothing"))
    with contextlib.closing(Bench(location, durable=False)) as bench:
        ids += submit(bench, *(wide(step) for step in range(4, 8)))
    with Bench(location, durable=False) as bench:
        assert bench.results(ids) == [{"OK": len(PATHS)}] * 8


def settle_all(bench: Bench) -> None:
    with bench.database.write() as connection:
        bench.store._log.settle(connection, [(item, b"", None) for item in pending(bench)])
