from __future__ import annotations

import logging
import math
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from neptune_api.conformance.operations import PROJECT, START_MS, append, assign, change, create, file, snapshot, update
from neptune_api.server.store import applier, run_store, schema
from neptune_api.v1 import ingest_pb2 as pb
from tests.stores import TIMEOUT, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.conformance.operations import Plain

WHOLE = 1_000_000
GARBAGE = b"\xff\xff\xff"


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> Iterator[None]:
    """Apply without the pauses that let operations come together: here most come alone, and are waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PAUSES", 0.0)
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, durable=False) as opened:
        yield opened


class Statements:
    """Count the statements about a table, and fail some on request."""

    def __init__(self, bench: Bench, text: str) -> None:
        self.count = 0
        self.failures = 0
        self._text = text
        sa.event.listen(bench.database._engine, "before_cursor_execute", self._execute)

    def _execute(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if self._text in statement:
            self.count += 1
            if self.failures > 0:
                self.failures -= 1
                raise sqlite3.OperationalError("disk I/O error")


def rows(bench: Bench, table: sa.Table) -> list[Any]:
    with bench.database.read() as connection:
        return list(connection.execute(sa.select(table)))


# Faults


def test_garbage_costs_itself_only(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.apply_one(create())
    before, after = append({"m": 1.0}, 1), append({"m": 2.0}, 2)
    with caplog.at_level(logging.CRITICAL):
        results = bench.apply(before, GARBAGE, after, GARBAGE, assign({"a": 1}))
    assert results == [{"OK": 1}, {"INTERNAL": 1}, {"OK": 1}, {"INTERNAL": 1}, {"OK": 1}]
    assert [(step // WHOLE, value) for step, _, value in bench.content("run").points["m"]] == [(1, 1.0), (2, 2.0)]
    assert bench.content("run").totals == {"m": 2}
    assert bench.apply_one(append({"m": 3.0}, 3)) == {"OK": 1}


def test_the_log_tells_of_garbage_and_the_user_of_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ids = bench.submit(GARBAGE)
    bench.results(ids)
    assert any(ids[0] in record.getMessage() and record.exc_info for record in caplog.records)
    (outcome,) = bench.store.outcomes(ids)
    assert outcome is not None
    assert outcome.status is not None
    assert outcome.details is not None
    status = pb.RequestStatus.FromString(outcome.status)
    (detail,) = pb.BulkIngestResultDetail.FromString(outcome.details).details
    assert status.shared_error_message == detail.error_detail == "The server failed to apply this; its log says why."
    assert detail.request_id.value == ids[0]


def test_an_operation_without_changes_ends_well(bench: Bench) -> None:
    bench.apply_one(create())
    without_kind = pb.RunOperation(project=PROJECT, run_id="run")
    assert bench.apply(update(), update(snapshot()), without_kind) == [{"OK": 0}] * 3
    assert bench.apply_one(update(run="unknown")) == {"RUN_NOT_FOUND": 0}


def test_a_failing_database_delays_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "_RETRY_SECONDS", 0.01)
    bench.apply_one(create())
    statements = Statements(bench, "INTO tails")
    statements.failures = 3
    logging.disable(logging.CRITICAL)
    try:
        assert bench.apply(append({"m": 1.0}, 1), append({"m": 2.0}, 2)) == [{"OK": 1}] * 2
    finally:
        logging.disable(logging.NOTSET)
    assert statements.count == 4
    assert bench.content("run").totals == {"m": 2}
    assert [value for _, _, value in bench.content("run").points["m"]] == [1.0, 2.0]


def test_details_of_one_request_have_an_end(bench: Bench) -> None:
    bench.apply_one(create())
    ids = bench.submit(update(*(snapshot({"": 1.0, "sys/id": 1.0}, number) for number in range(6000))))
    assert bench.results(ids) == [{"FIELD_PATH_EMPTY": 6000, "FIELD_PATH_NON_WRITABLE": 6000}]
    (outcome,) = bench.store.outcomes(ids)
    assert outcome is not None
    assert outcome.details is not None
    assert len(pb.BulkIngestResultDetail.FromString(outcome.details).details) == 10_000


def test_a_time_that_no_clock_shows_costs_its_points_only(bench: Bench) -> None:
    bench.apply_one(create())
    far = pb.UpdateRunSnapshot(step=pb.Step(whole=2))
    far.timestamp.seconds = 2**62
    far.append["m"].float64 = 2.0
    far.assign["a"].int64 = 1
    assert bench.apply_one(update(snapshot({"m": 1.0}, 1), far, snapshot({"m": 3.0}, 3))) == {
        "OK": 3,
        "DATETIME_VALUE_OUT_OF_RANGE": 1,
    }


def test_no_step_follows_the_last_one_there_is(bench: Bench) -> None:
    bench.apply_one(create())
    last = pb.Step(whole=10**12 - 1, micro=999_999)
    assert bench.apply(append({"m": 1.0}, last), append({"m": 2.0})) == [{"OK": 1}, {"SERIES_STEP_TOO_LARGE": 1}]


# Standing still


def test_exclusive_means_that_nothing_is_applied(bench: Bench) -> None:
    bench.apply_one(create())
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.store.exclusive() as connection:
            connection.execute(schema.runs.update().values(family="changed"))
            entered.set()
            assert leave.wait(TIMEOUT)

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        assert entered.wait(TIMEOUT)
        submitting = pool.submit(bench.submit, assign({"a": 1}))
        assert "a" not in bench.content("run").values
        leave.set()
        holding.result(TIMEOUT)
        assert bench.results(submitting.result(TIMEOUT)) == [{"OK": 1}]


def test_what_was_done_exclusively_is_known_after(bench: Bench) -> None:
    bench.apply(create(), append({"m": 1.0}, 1), assign({"a": 1}))
    with bench.store.exclusive() as connection:
        connection.execute(schema.attributes.delete().where(schema.attributes.c.name == "a"))
    assert bench.apply_one(assign({"a": "now a text"})) == {"OK": 1}
    with bench.store.exclusive() as connection:
        connection.execute(schema.runs.delete())
    assert bench.apply(assign({"a": 1}), create(), append({"m": 1.0}, 1)) == [
        {"RUN_NOT_FOUND": 1},
        {"OK": 1},
        {"OK": 1},
    ]


def test_what_failed_exclusively_did_not_happen(bench: Bench) -> None:
    bench.apply(create(), assign({"a": 1}))

    def fail() -> None:
        with bench.store.exclusive() as connection:
            connection.execute(schema.runs.delete())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert bench.apply_one(assign({"a": 2})) == {"OK": 1}
    assert bench.content("run").values["a"][1] == 2


# What is remembered, and what is read again


def test_forgetting_runs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"run {number}" for number in range(6)]
    operations = [create(name, experiment="e") for name in names]
    children = [f"child of {name}" for name in names]
    operations += [create(child, parent=name, at=1, inherit=True) for child, name in zip(children, names, strict=True)]
    names += children
    for number in range(4):
        for name in names:
            operations.append(
                update(
                    snapshot({"m": float(number), "t": f"{number}"}, number, START_MS + number),
                    snapshot({"m": 9.0}, 9, preview=0.5),
                    snapshot(assign={"a": number}, sets={"sys/tags": change(add=[f"{number}"])}),
                    run=name,
                )
            )
    with Bench(tmp_path / "all", durable=False) as bench:
        kept = [bench.apply_one(operation) for operation in operations]
        contents = [bench.content(name) for name in names]
    monkeypatch.setattr(run_store, "_CACHED_ATTRIBUTES", 1)
    with Bench(tmp_path / "few", durable=False) as bench:
        forgotten = [bench.apply_one(operation) for operation in operations]
        assert len(bench.store._applier._runs._by_id) == 1
        assert forgotten == kept
        for name, content in zip(names, contents, strict=True):
            again = bench.content(name)
            assert (again.points, again.previews, again.totals) == (content.points, content.previews, content.totals)
            assert {path: value for path, value in again.values.items() if not is_own(path)} == {
                path: value for path, value in content.values.items() if not is_own(path)
            }


def is_own(path: str) -> bool:
    return path.endswith(("_uuid", "_time", "_seconds", "_time_ms", "/state"))


def test_batches_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = [create(), *(append({"m": float(number)}, number) for number in range(50))]
    for name, value in {"_BATCH_OPERATIONS": 7, "_BATCH_BYTES": 1}.items():
        with monkeypatch.context() as patch, Bench(tmp_path / name, durable=False) as bench:
            patch.setattr(applier, name, value)
            assert bench.apply(*operations) == [{"OK": 1}] * 51
            assert [value for _, _, value in bench.content("run").points["m"]] == [float(i) for i in range(50)]


def test_a_taken_over_experiment_keeps_its_times(tmp_path: Path) -> None:
    with Bench(tmp_path, durable=False) as bench:
        bench.apply_one(create("first", experiment="e", created=START_MS))
        ping = bench.content("first").values["sys/ping_time"][1]
        running = bench.content("first").values["sys/running_time_seconds"][2]
    with Bench(tmp_path, durable=False) as bench:
        bench.apply_one(create("second", experiment="e", created=0))
        values = bench.content("first").values
        assert values["sys/experiment/is_head"][1] == 0
        assert values["sys/ping_time"][1] == ping
        assert values["sys/running_time_seconds"][2] == running
        assert values["sys/modification_time"][1] >= ping
        assert bench.content("second").values["sys/experiment/is_head"][1] == 1


# Points and chunks


@pytest.mark.parametrize("kind", ["float", "text"])
def test_a_thousand_single_appends_make_few_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(applier, "_BATCH_OPERATIONS", 5)  # as if they came five by five
    count = 1000
    values: list[Plain] = [number + 0.1 if kind == "float" else f"line {number}" for number in range(count)]
    points = [append({"m": value}, number, START_MS + number) for number, value in enumerate(values)]
    assert bench.apply(create(), *points) == [{"OK": 1}] * (count + 1)
    bench.store.compact()
    assert rows(bench, schema.tails) == []
    chunks = rows(bench, schema.chunks)
    assert len(chunks) <= math.log2(count)
    assert sum(chunk.count for chunk in chunks) == count
    content = bench.content("run")
    assert content.totals == {"m": count}
    assert [(step // WHOLE, ms - START_MS) for step, ms, _ in content.points["m"]] == [(i, i) for i in range(count)]
    logged = [value if kind == "float" else pb.Value.FromString(value).string for _, _, value in content.points["m"]]
    assert logged == values


def test_many_points_after_few(bench: Bench) -> None:
    bench.apply_one(create())
    sizes = [1, 5, 63, 1, 500, 3, 64, 65, 1]
    start = 0
    for size in sizes:
        numbers = range(start, start + size)
        bench.apply_one(update(*(snapshot({"m": float(number)}, number) for number in numbers)))
        start += size
    assert [value for _, _, value in bench.content("run").points["m"]] == [float(number) for number in range(start)]


def test_a_series_in_any_order_counts_each_step_once(bench: Bench) -> None:
    bench.apply_one(create())
    steps = [3, 2, 1, 2, 5, 2]
    operations = [
        append({"f": file(f"{position}")}, number, START_MS + position) for position, number in enumerate(steps)
    ]
    assert bench.apply_one(update(*(item.update_batch.snapshots[0] for item in operations[:4]))) == {"OK": 4}
    assert bench.apply(*operations[4:]) == [{"OK": 1}] * 2
    content = bench.content("run")
    assert [(step // WHOLE, pb.Value.FromString(value).file_ref.path) for step, _, value in content.points["f"]] == [
        (1, "2"),
        (2, "5"),
        (3, "0"),
        (5, "4"),
    ]
    assert content.totals == {"f": 4}
    assert content.values["sys/diagnostics/attributes/total_series_datapoints"][1] == 4
    (series,) = rows(bench, schema.series)
    assert (series.first_step, series.last_step) == (1 * WHOLE, 5 * WHOLE)


@pytest.mark.parametrize("kind", ["float", "text", "file"])
def test_what_is_sent_again_is_absorbed_without_reading_much(bench: Bench, kind: str) -> None:
    def value(number: int) -> Plain:
        if kind == "float":
            return float(number)
        return f"{number}" if kind == "text" else file(f"{number}")

    count, sizes = 5000, 10
    bench.apply_one(create())
    operations = [
        update(*(snapshot({"m": value(i), "n": value(-i)}, i, START_MS + i) for i in range(start, start + count // 10)))
        for start in range(0, count, count // sizes)
    ]
    assert bench.apply(*operations) == [{"OK": 2 * count // sizes}] * sizes
    chunks = rows(bench, schema.chunks)
    statements = Statements(bench, "FROM chunks")
    again = bench.apply(*operations)
    assert again == [{"SERIES_POINT_DUPLICATE": 2 * count // sizes}] * sizes
    assert statements.count <= 2 * (2 + len(chunks))
    assert bench.content("run").totals == {"m": count, "n": count}


def test_a_damaged_chunk_costs_the_operation_that_needs_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.apply(create(), append({"m": 1.0}, 1), append({"m": 2.0}, 2))
    bench.store.compact()
    with bench.store.exclusive() as connection:
        connection.execute(schema.chunks.update().values(checksum=schema.chunks.c.checksum + 1))
    assert bench.apply(append({"m": 1.0}, 1), append({"m": 3.0}, 3)) == [{"INTERNAL": 1}, {"OK": 1}]
    assert "Points of the series m of run run are damaged" in caplog.text


# Summaries

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 0.0]), st.integers(-5, 5).map(float)
)


@settings(max_examples=20, deadline=None)
@given(groups=st.lists(st.lists(NUMBERS, min_size=1, max_size=8), min_size=1, max_size=6))
def test_a_summary_is_that_of_all_points(tmp_path_factory: pytest.TempPathFactory, groups: list[list[float]]) -> None:
    with Bench(tmp_path_factory.mktemp("summary"), durable=False) as bench:
        bench.apply_one(create())
        start = 0
        for group in groups:
            bench.apply_one(update(*(snapshot({"m": value}, start + i) for i, value in enumerate(group))))
            start += len(group)
        (row,) = rows(bench, schema.series)
    numbers = np.array([value for group in groups for value in group])
    finite = numbers[np.isfinite(numbers)]
    assert (row.count, row.finite_count) == (len(numbers), len(finite))
    assert (row.first_step, row.last_step) == (0, (len(numbers) - 1) * WHOLE)
    assert row.last_value == pytest.approx(numbers[-1], abs=0) or (row.last_value is None and np.isnan(numbers[-1]))
    if len(finite):
        assert (row.minimum, row.maximum) == (finite.min(), finite.max())
        assert row.total == pytest.approx(finite.sum(), rel=1e-9, abs=1e-6)
        assert row.deviations == pytest.approx(np.square(finite - finite.mean()).sum(), rel=1e-6, abs=1e-6)
    else:
        assert (row.minimum, row.maximum) == (None, None)


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_sums_that_no_double_holds_cost_nothing_else(bench: Bench, signs: tuple[int, int]) -> None:
    bench.apply_one(create())
    for number, sign in enumerate([*signs, *signs]):
        points = [snapshot({"m": sign * 1.5e308}, 10 * number + i) for i in range(2)]
        assert bench.apply_one(update(*points)) == {"OK": 2}
    assert bench.content("run").totals == {"m": 8}
    (row,) = rows(bench, schema.series)
    assert (row.minimum, row.maximum) == (min(signs) * 1.5e308, max(signs) * 1.5e308)


# Previews


def test_previews_come_and_go_across_batches_and_restarts(tmp_path: Path) -> None:
    with Bench(tmp_path, durable=False) as bench:
        bench.apply_one(create())
        bench.apply_one(append({"m": 5.0}, 5, preview=0.5))
        bench.apply_one(append({"m": 9.0}, 9, preview=0.75))
        bench.apply_one(append({"m": 4.0}, 5, preview=0.25))
    with Bench(tmp_path, durable=False) as bench:
        assert bench.content("run").previews["m"] == [
            (5 * WHOLE, START_MS, 4.0, 0.25),
            (9 * WHOLE, START_MS, 9.0, 0.75),
        ]
        assert bench.content("run").totals == {"m": 0}
        bench.apply_one(update(snapshot({"m": 6.5}, 6.5, preview=0), snapshot({"m": 6.0}, 6)))
        assert [step for step, *_ in bench.content("run").previews["m"]] == [6_500_000, 9 * WHOLE]
        (row,) = rows(bench, schema.series)
        assert row.has_preview
    with Bench(tmp_path, durable=False) as bench:
        assert bench.apply_one(append({"m": 9.5}, 9)) == {"OK": 1}
        assert bench.content("run").previews == {}
        (row,) = rows(bench, schema.series)
        assert not row.has_preview
        assert rows(bench, schema.previews) == []
