from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance.operations import START_MS, append, assign, counts, create, file, snapshot, update
from neptune_api.server.store import applier, schema, store
from neptune_api.server.store.faults import StoreClosedError
from neptune_api.v1.queries_pb2 import AttributeType
from tests.ingest_model import Columns, Create, Model, Snapshot, Update, columns_of
from tests.stores import TIMEOUT, Bench, Content, counts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.conformance.outcomes import Counts

ROOT = Path(__file__).resolve().parents[2]
WHOLE = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> Iterator[None]:
    """Apply without the pauses that let operations come together: here most come alone, and are waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PAUSES", 0.0)
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as opened:
        yield opened


# Accepting and applying


def test_an_accepted_operation_is_applied_and_can_be_read(bench: Bench) -> None:
    operations = [create(), assign({"lr": 0.5}), append({"loss": 1.0}, 0), append({"loss": 0.5}, 1.5)]
    assert bench.apply(*operations) == [{"OK": 1}] * 4
    content = bench.content("run")
    assert content.values["lr"] == (AttributeType.ATTRIBUTE_TYPE_FLOAT, None, 0.5, None, None)
    assert content.points == {"loss": [(0, START_MS, 1.0), (1_500_000, START_MS, 0.5)]}


def test_sixteen_threads(tmp_path: Path) -> None:
    threads, each = 16, 25
    commits = 0

    def count(_connection: sa.Connection) -> None:
        nonlocal commits
        commits += 1

    with Bench(tmp_path) as bench:
        bench.apply_one(create())
        # While nothing is applied, every commit is the log's.
        with bench.store._applier._standing_still:
            sa.event.listen(bench.database._engine, "commit", count)
            gate = threading.Barrier(threads)

            def write(thread: int) -> list[str]:
                gate.wait(TIMEOUT)
                return [
                    bench.submit(append({f"m{thread}": float(number)}, number), assign({f"last{thread}": number}))[0]
                    for number in range(each)
                ]

            with ThreadPoolExecutor(threads) as pool:
                ids = [request_id for group in pool.map(write, range(threads)) for request_id in group]
            submits, log_commits = threads * each, commits
        assert bench.results(ids) == [{"OK": 1}] * submits
        content = bench.content("run")
    assert len(set(ids)) == submits
    assert log_commits < submits
    for thread in range(threads):
        assert [(step, number) for step, _, number in content.points[f"m{thread}"]] == [
            (number * WHOLE, float(number)) for number in range(each)
        ]
        assert content.values[f"last{thread}"][1] == each - 1


def test_waiting_for_what_is_not_applied_ends(bench: Bench) -> None:
    ids = bench.submit(create())
    with bench.store._applier._standing_still:
        waiting = bench.submit(assign({"a": 1}))
        with pytest.raises(TimeoutError, match=r"1 operations were not applied in 0\.05 s"):
            bench.store.wait_applied(waiting, 0.05)
        (outcome,) = bench.store.outcomes(waiting)
        assert outcome is not None
        assert outcome.status is None
    assert bench.results(ids + waiting) == [{"OK": 1}] * 2


def test_many_wait_for_the_same_operation(bench: Bench) -> None:
    with ThreadPoolExecutor(8) as pool:
        with bench.store._applier._standing_still:
            ids = bench.submit(create())
            waiting = [pool.submit(bench.results, ids) for _ in range(8)]
        assert [future.result(TIMEOUT) for future in waiting] == [[{"OK": 1}]] * 8


# Closing and coming back


def test_a_closed_store_accepts_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path).start()
    bench.close()
    with pytest.raises(StoreClosedError):
        bench.submit(create())


def test_what_was_accepted_before_closing_is_applied_after_opening(tmp_path: Path) -> None:
    bench = Bench(tmp_path)  # not started: nothing is applied
    ids = bench.submit(create(), *(append({"m": float(number)}, number) for number in range(10)))
    bench.close()
    with Bench(tmp_path) as bench:
        assert bench.results(ids) == [{"OK": 1}] * 11
        assert [number for _, _, number in bench.content("run").points["m"]] == [float(number) for number in range(10)]


def test_closing_does_not_wait_for_all_that_was_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_STOP_SECONDS", 0.3)
    count, points = 60, 1500
    bench = Bench(tmp_path, durable=False)
    run = [update(*(snapshot({"m": 1.0}, i * points + j) for j in range(points))) for i in range(count)]
    ids = bench.submit(create(), *run)
    applying = threading.Event()
    sa.event.listen(bench.database._engine, "begin", lambda _: applying.set())
    bench.start()
    assert applying.wait(TIMEOUT)
    bench.store.close()
    # A thread that goes on would write into a folder that belongs to the next server.
    assert not bench.store._applier._thread.is_alive()
    bench.database.close()
    with Bench(tmp_path, durable=False) as bench:
        assert bench.results(ids) == [{"OK": 1}] + [{"OK": points}] * count
        assert bench.content("run").totals == {"m": count * points}


def test_closing_under_load_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, durable=False).start()
    bench.apply_one(create())
    threads = 8
    begun = threading.Barrier(threads + 1)

    def write(thread: int) -> list[str]:
        begun.wait(TIMEOUT)
        ids: list[str] = []
        with contextlib.suppress(StoreClosedError):
            while True:
                ids += bench.submit(append({f"m{thread}": float(len(ids))}, len(ids)))
        return ids

    with ThreadPoolExecutor(threads) as pool:
        writing = [pool.submit(write, thread) for thread in range(threads)]
        begun.wait(TIMEOUT)
        bench.apply_one(assign({"a": 1}))
        bench.store.close()
        accepted = [future.result(TIMEOUT) for future in writing]
    bench.database.close()
    with Bench(tmp_path, durable=False) as bench:
        for thread, ids in enumerate(accepted):
            assert bench.results(ids) == [{"OK": 1}] * len(ids)
            points = bench.content("run").points.get(f"m{thread}", [])
            assert [number for _, _, number in points] == [float(number) for number in range(len(ids))]


def test_old_outcomes_are_forgotten_at_the_start(tmp_path: Path) -> None:
    with Bench(tmp_path, durable=False) as bench:
        ids = bench.submit(create(), create())
        bench.results(ids)
        with bench.database.write() as connection:
            old = schema.requests.c.request_id == ids[0]
            connection.execute(schema.requests.update().where(old).values(accepted_ms=0))
    with Bench(tmp_path, durable=False) as bench:
        outcomes = bench.store.outcomes(ids)
        assert [outcome is None for outcome in outcomes] == [True, False]


CRASHING = """
import os, sys
from pathlib import Path
from neptune_api.conformance.operations import append, create
from tests.stores import Bench
bench = Bench(Path(sys.argv[1]))
bench.start()
for number in range(40):
    batch = [create(f"run {number}"), *(append({"m": float(i)}, i, run=f"run {number}") for i in range(5))]
    ids = bench.submit(*batch)
    sys.stdout.write(" ".join(ids) + "\\n")
    sys.stdout.flush()
os._exit(9)
"""


def test_a_crash_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert script.returncode == 9, script.stderr
    ids = script.stdout.split()
    assert len(ids) == 40 * 6
    with Bench(tmp_path) as bench:
        # Had anything been applied twice, it would have come out as a duplicate.
        assert bench.results(ids) == [{"OK": 1}] * len(ids)
        for number in range(40):
            content = bench.content(f"run {number}")
            assert [(step, logged) for step, _, logged in content.points["m"]] == [
                (step * WHOLE, float(step)) for step in range(5)
            ]
            assert content.totals == {"m": 5}


def test_a_crash_between_batches_keeps_what_the_outcomes_say(tmp_path: Path) -> None:
    script = CRASHING.replace("os._exit(9)", "bench.results(ids); os._exit(9)")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 9, done.stderr
    with Bench(tmp_path) as bench:
        # Applied already, and still known: no new work, the same answers.
        outcomes = bench.store.outcomes(done.stdout.split())
        assert [outcome and outcome.status and counts_of(outcome) for outcome in outcomes] == [{"OK": 1}] * 240
        assert bench.apply_one(append({"m": 5.0}, 5, run="run 39")) == {"OK": 1}
        assert bench.content("run 39").totals == {"m": 6}


# The law: batches and restarts make no difference, and the result is what the rules say.

RUNS = ["r1", "r2", "r3"]
PATHS = ["a", "b", "c"]
STEPS = st.sampled_from([None, 0, 1, 1.5, 2, 3, 7])
HISTOGRAMS = [counts([0, 1], [1]), counts([0, 1], [2])]
FILES = [file("x"), file("y", 2, "image/png")]
POINTS: Any = st.one_of(
    st.sampled_from([0.0, 1.0, math.nan, math.inf]),
    st.sampled_from(["s", "t"]),
    st.sampled_from(HISTOGRAMS),
    st.sampled_from(FILES),
)
VALUES: Any = st.one_of(st.sampled_from([0.5, math.nan, 7, True, "s", frozenset({"m", "n"})]), st.sampled_from(FILES))


def by_path(values: Any) -> Any:
    paths = st.sampled_from([*PATHS, *PATHS, "float", "float", "set", "", "sys/id"])
    return st.dictionaries(paths, values, max_size=2).map(lambda found: tuple(found.items()))


def plausible(found: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Keep to floats in one path, so that series grow long enough for the rules about points to matter."""
    return tuple((path, 1.0 if path == "float" and not isinstance(item, float) else item) for path, item in found)


SNAPSHOTS = st.builds(
    Snapshot,
    assign=by_path(VALUES),
    append=by_path(POINTS).map(plausible),
    sets=st.lists(
        st.tuples(st.sampled_from(["set", "a"]), st.sampled_from(["m", "n"]), st.booleans()),
        max_size=1,
        unique_by=lambda found: found[0],
    ).map(tuple),
    at=STEPS,
    ms=st.integers(0, 3),
    ratio=st.sampled_from([None, None, None, 0.5, 2.0]),
)


def burst(run: str, paths: list[str], points: list[tuple[float, int, list[float]]]) -> Update:
    """Return snapshots of the same float series, one after the other, as a training loop logs them."""
    return Update(
        run,
        tuple(Snapshot(append=tuple(zip(paths, values, strict=False)), at=at, ms=ms) for at, ms, values in points),
    )


NUMBERS = st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=3, max_size=3)
BURSTS = st.builds(
    burst,
    run=st.sampled_from(RUNS),
    paths=st.sampled_from([["float"], ["float", "m"], ["m", "a"], ["float", "m", "n"], ["m", ""], ["m", "sys/x"]]),
    points=st.one_of(
        st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 2), NUMBERS), min_size=1, max_size=6),
        st.lists(st.tuples(st.integers(0, 9).map(float), st.just(3), NUMBERS), min_size=2, max_size=8).map(
            lambda found: sorted(found, key=lambda point: point[0])
        ),
    ),
)
ROWS = st.one_of(
    st.lists(
        st.tuples(STEPS.filter(lambda at: at is not None), st.integers(0, 3), st.sampled_from([0.0, 1.0, math.nan])),
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(0, 9).map(float), st.just(3), st.sampled_from([0.0, 1.0])), max_size=8).map(sorted),
).map(tuple)
COLUMNS = st.builds(
    Columns,
    run=st.sampled_from(RUNS),
    series=st.lists(
        st.tuples(
            st.sampled_from(["float", "float", "m", "n", "a", "", "sys/id"]),
            ROWS,
            st.sampled_from([None, None, None, 0.5]),
        ),
        max_size=4,
        unique_by=lambda found: found[0],
    ).map(tuple)
    # Several series at the same steps, as they are mostly sent.
    | ROWS.map(lambda rows: tuple((path, rows, None) for path in ("float", "m", "n"))),
)
OPERATIONS = st.one_of(
    BURSTS,
    COLUMNS,
    st.builds(
        Create,
        run=st.sampled_from(RUNS),
        parent=st.sampled_from([None, None, *RUNS]),
        at=STEPS,
        experiment=st.sampled_from([None, "e"]),
        inherit=st.booleans(),
    ),
    st.builds(Update, run=st.sampled_from(RUNS), snapshots=st.lists(SNAPSHOTS, max_size=3).map(tuple)),
    st.builds(Update, run=st.just("r1"), snapshots=st.lists(SNAPSHOTS, min_size=1, max_size=4).map(tuple)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=14), cut=st.integers(0, 14))
def test_batches_and_restarts_make_no_difference(operations: list[Create | Update | Columns], cut: int) -> None:
    operations = [Create("r1"), *operations]
    model = Model()
    expected = [model.apply(operation) for operation in operations]
    messages = [operation.operation() for operation in operations]
    with tempfile.TemporaryDirectory() as folder:
        with Bench(Path(folder, "together"), durable=False) as bench:
            together = bench.apply(*messages)
            held = describe(bench, model)
        with Bench(Path(folder, "single"), durable=False) as bench:
            single = []
            for number, message in enumerate(messages):
                single.append(bench.apply_one(message))
                if number % 2:
                    bench.store.compact()
            held_single = describe(bench, model)
        with Bench(Path(folder, "reopened"), durable=False) as bench:
            reopened = bench.apply(*messages[:cut]) if messages[:cut] else []
            bench.store.compact()
        with Bench(Path(folder, "reopened"), durable=False) as bench:
            reopened += bench.apply(*messages[cut:]) if messages[cut:] else []
            held_reopened = describe(bench, model)
    assert [without_nothing(found) for found in together] == [without_nothing(found) for found in expected]
    assert single == reopened == together
    assert repr(held_single) == repr(held)  # repr: NaN equals itself in it
    assert repr(held_reopened) == repr(held)
    assert_holds(held, model)


def without_nothing(found: Counts) -> Counts:
    """Drop the entries that count nothing: of operations without changes."""
    return {name: count for name, count in found.items() if count}


def describe(bench: Bench, model: Model) -> dict[str, Content]:
    contents = {}
    for run in model.runs:
        content = contents[run] = bench.content(run)
        for path in list(content.values):
            if path.endswith(("_uuid", "_time", "_seconds", "/state")):
                del content.values[path]
    return contents


def assert_holds(contents: dict[str, Content], model: Model) -> None:
    for name, run in model.runs.items():
        content = contents[name]
        assert {path: item for path, item in content.values.items() if not path.startswith("sys/")} == {
            path: columns_of(type_, item) for path, (type_, item) in run.values.items()
        }
        points = {
            path: [(step, ms, stored(item)) for step, (ms, item) in sorted(series.by_step().items())]
            for path, series in run.series.items()
        }
        assert repr({path: content.points[path] for path in points}) == repr(points)
        assert set(content.points) == set(points)
        assert content.totals == {path: len(found) for path, found in points.items()}
        for path, series in run.series.items():
            first, last, last_ms, last_value, *_, has_preview = content.summaries[path]
            assert (first, last) == (min(series.by_step(), default=None), series.last_step())
            assert last_ms == (series.points[-1][1] if series.points else None)
            assert has_preview == bool(series.previews_left())
            if points[path] and isinstance(points[path][-1][2], float):
                assert repr(math.nan if last_value is None else last_value) == repr(points[path][-1][2])
        previews = {path: series.previews_left() for path, series in run.series.items()}
        found = {
            path: {step: (ms, math.nan if item is None else item, ratio) for step, ms, item, ratio in rows}
            for path, rows in content.previews.items()
        }
        assert repr({path: found.get(path, {}) for path in previews}) == repr(
            {path: dict(sorted(left.items())) for path, left in previews.items()}
        )
        system = {path: item[1:] for path, item in content.values.items()}
        assert system["sys/forking/depth"][0] == run.depth
        assert system["sys/diagnostics/attributes/total_count"][0] == len(run.values) + len(run.series)
        assert system["sys/diagnostics/attributes/total_series_datapoints"][0] == sum(map(len, points.values()))
        if run.experiment is not None:
            assert system["sys/experiment/is_head"][0] == (model.heads[run.experiment] == name)
        if run.parent is not None and run.fork_step is not None:
            assert system["sys/forking/step"][1] == run.fork_step / WHOLE


def stored(item: Any) -> Any:
    return item.float64 if item.WhichOneof("value") == "float64" else item.SerializeToString()


def test_the_model_is_not_the_store(bench: Bench) -> None:
    """Pin one long example, so that a rule that is wrong in both is seen."""
    operations = update(
        snapshot({"m": 1.0, "f": file("a")}, 3, START_MS + 3, assign={"tags": frozenset({"x"})}),
        snapshot({"m": 1.0, "f": file("b")}, 2, START_MS + 4),
        snapshot({"m": 1.0, "f": file("b")}, 2, START_MS + 1),
        snapshot({"m": 1.0, "f": file("a")}, 3, START_MS),
        snapshot({"m": math.nan}, None, START_MS + 3),
        snapshot({"m": 9.0}, 9, preview=0.5),
    )
    assert bench.apply(create(), operations) == [
        {"OK": 1},
        {
            "OK": 3 + 1 + 1 + 1,
            "SERIES_STEP_NON_INCREASING": 2,
            "SERIES_POINT_DUPLICATE": 3,
        },
    ]
    content = bench.content("run")
    assert [step // WHOLE for step, _, _ in content.points["m"]] == [3, 4]
    assert [(step // WHOLE, ms - START_MS) for step, ms, _ in content.points["f"]] == [(2, 4), (3, 3)]
    assert content.previews == {"m": [(9 * WHOLE, START_MS, 9.0, 0.5)]}
    assert json.loads(content.values["tags"][3]) == ["x"]
