"""Several stores on one database, as several server processes have them."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from neptune_api.conformance.operations import START_MS, append, assign, create
from neptune_api.server.identity import Secrets
from neptune_api.server.store import applier, leases, runs, schema
from neptune_api.server.store.database import Database
from neptune_api.server.store.directory import Directory, ensure_owner
from neptune_api.server.store.faults import DatabaseFaultError
from neptune_api.server.store.store import Submission
from tests.postgres import PostgresServer
from tests.stores import TIMEOUT, Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.server.store.leases import SharedLeases

OTHER = "local/other"


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PAUSES", 0.0)
        yield


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.create_database()


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Bench, Bench]]:
    """Two stores, of which the first one has the project's lease."""
    with Bench(url) as first:
        first.apply_one(create())
        with Bench(url) as second:
            yield first, second


def number_of(bench: Bench) -> int | None:
    found: SharedLeases = bench.store._applier._leases  # type: ignore[assignment]  # the database is shared
    return found._number


def holders(bench: Bench) -> dict[int, int]:
    with bench.database.read() as connection:
        return {row.project_id: row.holder for row in connection.execute(sa.select(schema.leases))}


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread of the store does next."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it does not happen")


def cut_off(bench: Bench) -> None:
    """Break the connection by which a store is known to live, and no other."""
    number = number_of(bench)
    with bench.database.write() as connection:
        lock = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        lock += " AND (classid::bigint << 32) + objid::bigint = :number AND granted"
        assert connection.execute(sa.text(lock), {"number": number}).all() == [(True,)]
    wait_until(lambda: number_of(bench) != number)


@contextlib.contextmanager
def stopped_before_writing(bench: Bench) -> Iterator[threading.Event]:
    """Let the store work its next batch out but not write it until the block ends; the event tells that it is there."""
    held = bench.store._applier._leases
    confirm, there, go = held.confirm, threading.Event(), threading.Event()

    def wait(connection: sa.Connection, projects: Any) -> None:
        there.set()
        go.wait(TIMEOUT)
        confirm(connection, projects)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "confirm", wait)
        try:
            yield there
        finally:
            patch.undo()
            go.set()


def steps_of(bench: Bench, run: str = "run", path: str = "m") -> list[int]:
    return [point[0] // 1_000_000 for point in bench.content(run).points.get(path, [])]


# Accepting and applying


def test_what_both_accept_is_applied_once_and_in_order(pair: tuple[Bench, Bench]) -> None:
    each = 60
    gate = threading.Barrier(2)

    def write(bench: Bench, path: str) -> list[dict[str, int]]:
        gate.wait(TIMEOUT)
        ids = [bench.submit(append({path: float(number)}, number))[0] for number in range(each)]
        return bench.results(ids)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(write, pair, ("a", "b")))
    assert results == [[{"OK": 1}] * each] * 2
    for bench in pair:
        content = bench.content("run")
        for path in "ab":
            assert content.points[path] == [(number * 1_000_000, START_MS, float(number)) for number in range(each)]
        assert content.totals == {"a": each, "b": each}
    # Whoever has a project keeps it, and with it what is remembered of its runs.
    assert holders(pair[0]) == {pair[0].project_id: number_of(pair[0])}


def test_one_operation_after_the_other_through_changing_stores(pair: tuple[Bench, Bench]) -> None:
    ids = [pair[number % 2].submit(append({"m": 1.0}, number))[0] for number in range(40)]
    assert pair[1].results(ids) == [{"OK": 1}] * 40
    assert steps_of(pair[0]) == list(range(40))


def test_projects_may_have_different_holders(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    directory = Directory(first.database)
    workspace = directory.ensure_workspace("local")
    other = directory.create_project("other", workspace_id=workspace, creator_id=first.user_id)
    with first.store._applier._standing_still:  # the first one is busy for a while
        submission = Submission(create(project=OTHER).SerializeToString(), second.user_id, other)
        second.results(second.store.submit_many([submission]))
    assert holders(first) == {first.project_id: number_of(first), other: number_of(second)}


def test_operations_without_a_project_are_settled_once(pair: tuple[Bench, Bench]) -> None:
    payload = create(project="local/missing").SerializeToString()
    ids = [bench.store.submit_many([Submission(payload, bench.user_id, None)])[0] for bench in pair]
    assert pair[1].results(ids) == [{"PROJECT_NOT_FOUND": 1}] * 2


def test_the_same_idempotency_key_is_the_same_request_everywhere(pair: tuple[Bench, Bench]) -> None:
    threads, gate = 8, threading.Barrier(8)

    def write(number: int) -> list[str]:
        bench = pair[number % 2]
        gate.wait(TIMEOUT)
        return [bench.store.submit_many([bench.submission(append({"m": 1.0}), f"k{key}")])[0] for key in range(10)]

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(write, range(threads)))
    assert found == [found[0]] * threads
    assert pair[0].results(found[0]) == [{"OK": 1}] * 10
    assert steps_of(pair[1]) == list(range(10))


# Changing hands


def test_a_store_that_closes_leaves_its_projects_to_others(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    assert first.apply(*(append({"m": 1.0}, number) for number in range(5))) == [{"OK": 1}] * 5
    first.close()
    # Steps and values of before are known to the new holder.
    again = second.apply(append({"m": 1.0}, 4), append({"m": 2.0}, 3), append({"m": 1.0}, 5))
    assert again == [{"SERIES_POINT_DUPLICATE": 1}, {"SERIES_STEP_NON_INCREASING": 1}, {"OK": 1}]
    assert steps_of(second) == list(range(6))
    assert holders(second) == {second.project_id: number_of(second)}


def test_what_a_closed_store_has_accepted_is_applied_by_another(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    with stopped_before_writing(first) as there:
        ids = first.submit(*(append({"m": 1.0}, number) for number in range(50)))
        assert there.wait(TIMEOUT)
        first.store._applier._stopping.set()
        cut_off(first)
        assert second.results(ids) == [{"OK": 1}] * 50
    first.close()
    assert steps_of(second) == list(range(50))


def test_a_batch_of_a_lost_lease_is_not_written(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    with stopped_before_writing(first) as there:
        ids = first.submit(append({"m": 1.0}, 1), append({"m": 2.0}, 2))
        assert there.wait(TIMEOUT)
        cut_off(first)  # now it is taken for dead
        assert second.results(ids) == [{"OK": 1}] * 2
        assert holders(second) == {second.project_id: number_of(second)}
    # The first one finds out, and goes on as one of two.
    assert first.apply(append({"m": 3.0}, 3), append({"m": 5.0}, 2)) == [{"OK": 1}, {"SERIES_STEP_NON_INCREASING": 1}]
    assert first.content("run").points["m"] == [(step * 1_000_000, START_MS, float(step)) for step in (1, 2, 3)]
    assert first.content("run").totals == {"m": 3}
    with first.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.operations)) == 0


def test_keys_ascend_when_holders_change(url: str) -> None:
    # Pages of runs and the age of chunks go by their keys.
    for number in range(3):
        with Bench(url) as bench:
            bench.apply(create(f"r{number}"), append({"note": f"v{number}"}, number, run="r0"))
            cut_off(bench)
            bench.apply(create(f"s{number}"), append({"note": f"w{number}"}, number + 0.5, run="r0"))
    with Bench(url) as bench, bench.database.read() as connection:
        found = connection.execute(
            sa.select(schema.runs.c.run_id, schema.runs.c.number).order_by(schema.runs.c.id)
        ).all()
        notes = bench.content("r0").points["note"]
    names = ["r0", "s0", "r1", "s1", "r2", "s2"]
    assert [tuple(row) for row in found] == [(name, number) for number, name in enumerate(names, 1)]
    assert [note[0] for note in notes] == [number * 500_000 for number in range(6)]


def test_what_another_process_changes_is_not_remembered(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    assert first.apply(assign({"a": 1}), append({"m": 1.0}, 5)) == [{"OK": 1}] * 2
    with second.store.exclusive() as connection:
        (key,) = connection.scalars(sa.select(schema.runs.c.id))
        runs.delete(connection, [key], START_MS)
    assert first.apply_one(assign({"a": 2})) == {"RUN_NOT_FOUND": 1}
    assert first.apply(create(), assign({"a": "now a text"}), append({"m": 1.0}, 1)) == [{"OK": 1}] * 3
    assert first.content("run").values["a"][3] == "now a text"


def test_a_deleted_project_leaves_nothing(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    assert first.apply(append({"m": 1.0}, 1)) == [{"OK": 1}]
    with second.store.exclusive() as connection:
        assert Directory(second.database).delete_project(connection, second.project_id)
    assert holders(first) == {}
    assert first.apply_one(append({"m": 1.0}, 2)) == {"PROJECT_NOT_FOUND": 1}


def test_nothing_is_applied_while_another_process_is_exclusive(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    with second.store.exclusive() as connection:
        (ids,) = (first.submit(append({"m": 1.0}, 1)),)
        with pytest.raises(TimeoutError):
            first.store.wait_applied(ids, 0.3)
        (key,) = connection.scalars(sa.select(schema.runs.c.id))
        runs.delete(connection, [key], START_MS)
    assert first.results(ids) == [{"RUN_NOT_FOUND": 1}]


def test_tails_are_compacted_by_one_of_them(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    assert second.apply(*(append({"m": float(number)}, number) for number in range(20))) == [{"OK": 1}] * 20
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda bench: bench.store.compact(), pair))
    wait_until(lambda: not tails(first))
    assert steps_of(second) == list(range(20))


def test_compaction_goes_on_after_a_lost_lease(pair: tuple[Bench, Bench]) -> None:
    first, second = pair
    with first.store._applier._standing_still:
        first.submit(*(append({"m": float(number)}, number) for number in range(20)))
        first.store._applier._apply_batch()
        confirm, lost = first.store._applier._leases.confirm, iter((True,))

        def lose_once(connection: sa.Connection, projects: Any) -> None:
            if next(lost, False):
                raise leases.LeaseLostError
            confirm(connection, projects)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first.store._applier._leases, "confirm", lose_once)
            first.store.compact()
    assert tails(second) == []
    assert steps_of(second) == list(range(20))


def tails(bench: Bench) -> list[Any]:
    with bench.database.read() as connection:
        return list(connection.execute(sa.select(schema.tails.c.id)))


# Beginning and ending


def test_stores_that_open_an_empty_database_together(url: str) -> None:
    gate = threading.Barrier(4)

    def opened(_number: int) -> tuple[int, Secrets]:
        gate.wait(TIMEOUT)
        database = Database(url)
        try:
            return ensure_owner(Directory(database), "local", "owner").id, Secrets.of(database)
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(opened, range(4)))
    assert found == [found[0]] * 4


def test_a_database_that_goes_away_and_comes_back() -> None:
    with contextlib.ExitStack() as undo:
        server = PostgresServer()
        undo.callback(server.stop)
        bench = undo.enter_context(Bench(server.create_database()))
        assert bench.apply(create(), append({"m": 1.0}, 0)) == [{"OK": 1}] * 2
        known = number_of(bench)
        server.halt()
        with pytest.raises(DatabaseFaultError, match="The database does not answer"):
            bench.submit(append({"m": 1.0}, 1))
        with pytest.raises(DatabaseFaultError, match="The database does not answer"):
            bench.store.outcomes(["x"])
        server.start()
        wait_until(lambda: number_of(bench) not in {known, None})
        assert bench.apply(append({"m": 1.0}, 1), append({"m": 1.0}, 0)) == [{"OK": 1}, {"SERIES_POINT_DUPLICATE": 1}]
        assert steps_of(bench) == [0, 1]


def test_a_number_is_held_as_long_as_the_store_is_open(url: str) -> None:
    bench = Bench(url).start()
    number = number_of(bench)
    assert number is not None
    query = sa.select(sa.func.pg_try_advisory_xact_lock_shared(number))
    with bench.database.read() as connection:
        assert connection.scalar(query) is False
    bench.close()
    with Bench(url) as other, other.database.read() as connection:
        assert connection.scalar(query) is True
        assert leases.NO_PROJECT not in connection.scalars(sa.select(schema.projects.c.id)).all()
