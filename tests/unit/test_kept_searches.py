"""With what searches keep they find what they find without it: after any change, over both stores, beside others."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance import operations
from neptune_api.server import nql
from neptune_api.server.nql.evaluation import Column
from neptune_api.server.nql.parser import TYPES
from neptune_api.server.recent import Recent
from neptune_api.server.store import kept_searches, result_columns, runs, schema, search, search_columns
from neptune_api.server.store.directory import Directory
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.kept_columns import HEADS, KeptColumn, Renewal
from neptune_api.server.store.kept_searches import KeptSearches
from neptune_api.server.store.search import Order
from neptune_api.server.store.search_columns import ColumnReader
from neptune_api.server.store.series import FloatSummaries
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from neptune_api.server.store.kept_columns import What
    from tests.postgres import PostgresServer

FLOAT, STRING = TYPES["float"], TYPES["string"]
BY_X = Order("x", FLOAT, None, descending=True)
BY_CREATION = Order("sys/creation_time", TYPES["datetime"], None, descending=False)


class Question(NamedTuple):
    query: str
    order: Order
    heads_only: bool = False


QUESTIONS = [
    Question('x:float >= 0 AND s:string MATCHES "a"', BY_X),
    Question("", Order("s", STRING, None, descending=False)),
    Question('s:string MATCHES "^a" OR s:string MATCHES "b"', BY_CREATION),
    Question("average(m:floatSeries) > 0", Order("m", TYPES["floatSeries"], nql.Aggregate.MAX, descending=True)),
    Question("NOT t:stringSet CONTAINS a", BY_X),
    Question("sys/trashed:bool = false", BY_X, heads_only=True),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "data", durable=False) as opened:
        yield opened


def ask(
    bench: Bench, question: Question, kept: KeptSearches | None = None, check: Callable[[], None] = lambda: None
) -> tuple[int, list[int]]:
    """Return how many runs are found, and their keys in order."""
    with bench.database.read() as connection:
        found = search.search(
            connection,
            [bench.project_id],
            nql.parse(question.query),
            question.order,
            heads_only=question.heads_only,
            offset=0,
            limit=10_000,
            summaries=FloatSummaries(),
            now=time.time(),
            check=check,
            kept=kept,
        )
        return found.total, [run.key for run in search.entries(connection, found.keys)]


def keep(bench: Bench, kept: KeptSearches, *questions: Question) -> None:
    """Ask often enough for columns to be kept."""
    with pytest.MonkeyPatch.context() as patch:
        rank_nothing(patch)
        for question in (*questions, *questions):
            ask(bench, question, kept)


def rank_nothing(patch: pytest.MonkeyPatch) -> None:
    """Keep no order that has been found: it would answer as well."""
    patch.setattr(search, "_MAX_TERMS", -1)


@pytest.fixture
def unranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns alone answer."""
    rank_nothing(monkeypatch)


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Names of columns that are read, and of how many runs."""
    read: list[tuple[str, int]] = []
    column = ColumnReader.column

    def noted(reader: ColumnReader, name: str, type_: int, aggregate: Any, keys: Any) -> Any:
        read.append((name, len(keys)))
        return column(reader, name, type_, aggregate, keys)

    monkeypatch.setattr(ColumnReader, "column", noted)
    return read


numbers = st.sampled_from([-1.0, 0.0, 1.0, 2.0, float("nan")])
names = st.integers(0, 7)
values = st.fixed_dictionaries({}, optional={"x": numbers, "s": st.sampled_from(["", "a", "ab", "b" * 300])})
STEPS = st.one_of(
    st.tuples(st.just("create"), names, st.none() | names, st.sampled_from([None, "e", "f"])),
    st.tuples(st.just("assign"), names, values),
    st.tuples(st.just("set"), names, st.sampled_from([{"a"}, {"b"}, {"a", "b"}])),
    st.tuples(st.just("append"), names, numbers),
    st.tuples(st.just("flag"), names, st.sampled_from(["trashed", "archived"]), st.booleans()),
    st.tuples(st.just("delete"), st.lists(names, max_size=3)),
)


def take(bench: Bench, step: tuple[Any, ...], points: Iterator[int]) -> None:
    """Change runs in one of the ways there are."""
    what, name, *rest = step
    if what == "create":
        parent, experiment = rest
        # What the parent logs later is seen by the fork as well.
        fork: dict[str, Any] = {} if parent is None else {"parent": f"r{parent}", "at": 1_000}
        bench.apply(operations.create(f"r{name}", experiment=experiment, **fork))
    elif what == "assign":
        bench.apply(operations.assign(rest[0], run=f"r{name}"))
    elif what == "set":
        bench.apply(operations.assign({"t": frozenset(rest[0])}, run=f"r{name}"))
    elif what == "append":
        bench.apply(operations.append({"m": rest[0]}, float(next(points)), run=f"r{name}"))
    else:
        wanted = [f"r{one}" for one in (name if what == "delete" else [name])]
        with bench.store.exclusive() as connection:
            is_one = schema.runs.c.run_id.in_(wanted)
            keys = connection.scalars(sa.select(schema.runs.c.id).where(is_one)).all()
            if what == "delete":
                runs.delete(connection, keys, 0)
            else:
                runs.set_flag(connection, keys, rest[0], rest[1], 0)


def check_all_that_is_found(bench: Bench, steps: Sequence[tuple[Any, ...]], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_columns, "_RUNS", at_once)
        patch.setattr(result_columns, "_ROWS", at_once)
        check_found(bench, steps)


def check_found(bench: Bench, steps: Sequence[tuple[Any, ...]]) -> None:
    kept = KeptSearches()
    points = iter(range(1, 1_000))
    bench.apply(*(operations.create(f"r{number}", experiment="e") for number in range(3)))
    keep(bench, kept, *QUESTIONS)
    for number, step in enumerate(steps):
        take(bench, step, points)
        # Some columns are left behind, and come up to date when they are needed.
        some = QUESTIONS if number % 3 == 2 else [QUESTIONS[number % len(QUESTIONS)]]
        for question in some:
            assert ask(bench, question, kept) == ask(bench, question), question
    for question in QUESTIONS:
        assert ask(bench, question, kept) == ask(bench, question), question
    names_ = {name for _, (name, _, _) in kept._columns}
    assert names_ == {"", "x", "s", "m", "t", "sys/creation_time", "sys/trashed"}
    with bench.store.exclusive() as connection:
        runs.delete(connection, connection.scalars(sa.select(schema.runs.c.id)).all(), 0)
    for question in QUESTIONS:
        assert ask(bench, question, kept) == (0, [])


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=12), at_once=st.sampled_from([2, 10_000]))
def test_whatever_changes_the_same_is_found_in_a_folder(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], at_once: int
) -> None:
    with Bench(tmp_path_factory.mktemp("kept"), durable=False) as bench:
        check_all_that_is_found(bench, steps, at_once)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=5, max_size=12), at_once=st.sampled_from([2, 10_000]))
def test_whatever_changes_the_same_is_found_in_a_database(
    postgres: PostgresServer, steps: list[tuple[Any, ...]], at_once: int
) -> None:
    with Bench(postgres.create_database()) as bench:
        check_all_that_is_found(bench, steps, at_once)


def test_only_what_has_changed_is_read_again(bench: Bench, read_again: list[tuple[str, int]]) -> None:
    names_ = [f"r{number}" for number in range(20)]
    bench.apply(*(operations.create(name) for name in names_))
    bench.apply(*(operations.assign({"x": 1.0, "s": "a"}, run=name) for name in names_))
    kept, question = KeptSearches(), QUESTIONS[0]
    keep(bench, kept, question)
    assert ask(bench, question, kept)[0] == 20
    assert sorted(read_again[-2:]) == [("s", 20), ("x", 20)]
    read_again.clear()
    # What is in the same order is not sorted again, and what does not concern runs changes nothing.
    Directory(bench.database).ensure_workspace("other")
    assert bench.apply(operations.assign({"x": 0.0}, run="none")) == [{"RUN_NOT_FOUND": 1}]
    assert ask(bench, question, kept)[0] == 20
    assert read_again == []
    bench.apply(operations.assign({"x": -1.0}, run="r3"), operations.create("new"))
    assert ask(bench, question, kept)[0] == 19
    assert sorted(read_again) == [("s", 2), ("x", 2)]
    read_again.clear()
    bench.apply(operations.append({"m": 1.0}, 1, run="r3"))
    assert ask(bench, question, kept)[0] == 19
    assert sorted(read_again) == [("s", 1), ("x", 1)]


def test_what_was_taken_over_by_a_fork_is_read_again_with_it(bench: Bench) -> None:
    bench.apply(operations.create("parent"), operations.append({"m": 1.0}, 1, run="parent"))
    bench.apply(operations.create("child", parent="parent", at=100))
    bench.apply(operations.create("grandchild", parent="child", at=100))
    kept = KeptSearches()
    question = Question("last(m:floatSeries) > 2", BY_X)
    keep(bench, kept, question)
    bench.apply(operations.append({"m": 3.0}, 2, run="parent"))
    assert ask(bench, question, kept) == (3, [3, 2, 1])
    with bench.store.exclusive() as connection:
        runs.delete(connection, [1], 0)
    assert ask(bench, question, kept) == (0, [])


@pytest.mark.usefixtures("unranked")
def test_which_runs_represent_an_experiment_is_read_when_it_is_asked(
    bench: Bench, read_again: list[tuple[str, int]]
) -> None:
    bench.apply(*(operations.create(name, experiment="e") for name in ("a", "b")))
    kept, by_x = KeptSearches(), Question("", BY_X)
    keep(bench, kept, by_x)
    assert ask(bench, by_x, kept) == (2, [2, 1])
    assert (bench.project_id, HEADS) not in kept._columns
    read_again.clear()
    assert ask(bench, by_x._replace(heads_only=True), kept) == (1, [2])
    assert (bench.project_id, HEADS) in kept._columns
    # In memory, with a column that was there.
    assert read_again == []
    bench.apply(operations.create("c", experiment="e"))
    assert ask(bench, by_x._replace(heads_only=True), kept) == (1, [3])


def test_a_reader_that_began_before_a_change_sees_nothing_of_it(bench: Bench) -> None:
    bench.apply(operations.create("a"), operations.assign({"x": 1.0, "s": "a"}, run="a"))
    kept, question = KeptSearches(), QUESTIONS[0]
    keep(bench, kept, question)
    needed: frozenset[What] = frozenset({("x", FLOAT, None), ("s", STRING, None)})
    with bench.database.read() as connection:
        before = kept.snapshot(connection, [bench.project_id], needed)
        bench.apply(operations.create("b"), operations.assign({"x": 2.0, "s": "a"}, run="b"))
        assert ask(bench, question, kept) == (2, [2, 1])
        reader = ColumnReader(connection, [bench.project_id], FloatSummaries(), idle_before=0)
        project = before.project(reader, nql.parse(question.query), lambda: None)
        assert project is not None
        assert project.keys.tolist() == [1]
        assert project.columns["x", FLOAT, None].column.numbers == [1.0]
    # What the late reader kept has not taken the place of what is newer.
    assert ask(bench, question, kept) == (2, [2, 1])
    assert {column.revision for column in kept._columns.values()} == {max(c.revision for c in kept._columns.values())}


def test_a_search_of_a_project_that_is_being_deleted_finds_nothing(bench: Bench) -> None:
    bench.apply(operations.create("a"), operations.assign({"x": 1.0, "s": "a"}, run="a"))
    kept, question = KeptSearches(), QUESTIONS[0]
    keep(bench, kept, question)
    assert ask(bench, question, kept) == (1, [1])
    with bench.store.exclusive() as connection:
        assert Directory(bench.database).delete_project(connection, bench.project_id)
    assert ask(bench, question, kept) == (0, [])
    with bench.database.read() as connection:
        assert connection.scalars(sa.select(schema.run_revisions.c.run_id)).all() == []


@pytest.mark.usefixtures("unranked")
def test_after_many_changes_the_database_is_asked(
    bench: Bench, read_again: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_searches, "_MAX_CHANGED", 5)
    names_ = [f"r{number}" for number in range(20)]
    bench.apply(*(operations.create(name) for name in names_))
    kept, question = KeptSearches(), QUESTIONS[0]
    keep(bench, kept, question)
    keep(bench, kept, question)
    # Everything is read once more as soon as less changes between two searches.
    for count, read in ((5, [5, 5]), (6, []), (6, []), (1, [20, 20]), (0, []), (2, [2, 2])):
        bench.apply(*(operations.assign({"x": 1.0, "s": f"a{count}"}, run=name) for name in names_[:count]))
        expected = ask(bench, question)
        read_again.clear()
        assert ask(bench, question, kept) == expected
        assert [size for _, size in read_again] == read


@pytest.mark.usefixtures("unranked")
def test_after_fewer_changes_the_database_is_asked_what_it_answers_quickly(
    bench: Bench, read_again: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_searches, "_MAX_CHANGED", 6)
    monkeypatch.setattr(kept_searches, "_MAX_CHANGED_PLAIN", 2)
    names_ = [f"r{number}" for number in range(20)]
    bench.apply(*(operations.create(name) for name in names_))
    kept = KeptSearches()
    plain, series = Question('x:float > 0 OR s:string = "a"', BY_X), QUESTIONS[3]
    keep(bench, kept, plain, QUESTIONS[0], series)
    for count, again in ((2, 2), (3, 0), (1, 4), (4, 0)):
        some = names_[:count] if count > 1 else names_[-1:]
        bench.apply(*(operations.assign({"x": 1.0, "s": f"a{count}"}, run=name) for name in some))
        read_again.clear()
        assert ask(bench, plain, kept) == ask(bench, plain)
        # What was passed over is not forgotten.
        assert sorted(read_again) == ([("s", again), ("x", again)] if again else [])
    for question, read in ((series, [("m", 5), ("m", 5)]), (QUESTIONS[0], [("s", 4), ("x", 4)])):
        read_again.clear()
        ask(bench, question, kept)
        assert sorted(read_again) == read


@pytest.mark.usefixtures("unranked")
def test_damage_concerns_only_searches_that_find_it(bench: Bench, read_again: list[tuple[str, int]]) -> None:
    bench.apply(operations.create("a"), *(operations.append({"m": 1.0}, step, run="a") for step in (1, 2, 3)))
    bench.apply(operations.create("fork", parent="a", at=2), operations.create("b"))
    bench.apply(operations.append({"m": 1.0}, 1, run="b"), operations.assign({"x": 1.0}, run="b"))
    bench.store.close()
    with bench.database.write() as connection:
        for table in (schema.tails, schema.chunks):
            connection.execute(table.update().values(checksum=0))
    kept = KeptSearches()
    by_m = Order("m", TYPES["floatSeries"], nql.Aggregate.MAX, descending=True)
    with pytest.raises(CorruptChunkError):
        ask(bench, Question("", by_m), kept)
    for _ in range(3):
        read_again.clear()
        assert ask(bench, Question("x:float > 0", by_m), kept) == (1, [3])
    # It is not tried every time.
    assert ("m", 3) not in read_again
    assert kept._columns == {}


@pytest.mark.usefixtures("unranked")
def test_what_is_too_large_to_be_kept_is_not_read_time_and_again(
    bench: Bench, read_again: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(*(operations.create(name) for name in "abc"), operations.assign({"x": 1.0, "s": "a"}, run="a"))
    question = QUESTIONS[0]
    for limit, value, reads in (("_MAX_BYTES", 150, 1), ("_MAX_LONG_TEXTS", 2, 0), ("_MAX_RUNS", 2, 0)):
        kept = KeptSearches()
        bench.apply(operations.assign({"s": "a" * 300}, run="a"), operations.assign({"s": "b" * 300}, run="b"))
        read_again.clear()
        with monkeypatch.context() as changed:
            changed.setattr(kept_searches, limit, value)
            for _ in range(5):
                assert ask(bench, question, kept) == (1, [1])
            assert read_again.count(("s", 3)) == reads
            assert kept._columns == {}
        # After some time it is tried again.
        kept._refused = Recent(1)
        keep(bench, kept, question)
        assert {name for _, (name, _, _) in kept._columns} == {"", "s", "x"}


@pytest.mark.usefixtures("unranked")
def test_columns_that_had_to_go_are_read_when_they_have_been_asked_for_twice_again(
    bench: Bench, read_again: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(operations.create("a"), operations.assign({"x": 1.0, "s": "a"}, run="a"))
    # All runs and one more, not both.
    monkeypatch.setattr(kept_searches, "_MAX_COLUMNS", 2)
    kept, by_s = KeptSearches(), Order("s", STRING, None, descending=False)
    keep(bench, kept, Question("", BY_X))
    keep(bench, kept, Question("", by_s))
    assert [name for name, _ in read_again] == ["x", "s"]
    for order, read in ((BY_X, []), (by_s, []), (BY_X, ["x"]), (BY_X, []), (by_s, []), (BY_X, []), (by_s, ["s"])):
        read_again.clear()
        assert ask(bench, Question("", order), kept) == (1, [1])
        assert [name for name, _ in read_again] == read


def test_names_that_callers_make_up_take_bounded_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_searches, "_MAX_COLUMNS", 5)
    monkeypatch.setattr(kept_searches, "_MAX_ASKED", 7)
    monkeypatch.setattr(kept_searches, "_MAX_REFUSED", 2)
    kept = KeptSearches()
    for number in range(10):
        keep(bench, kept, Question(f"none{number}:float > 1", BY_X))
        kept.refuse(bench.project_id, frozenset({(f"none{number}", FLOAT, None)}))
    assert len(kept._columns) == 5
    assert len(kept._asked) <= 9
    assert len(kept._refused) == 2


@pytest.mark.usefixtures("unranked")
def test_a_caller_who_no_longer_waits_ends_a_search_in_memory(bench: Bench) -> None:
    bench.apply(operations.create("a"), operations.assign({"x": 1.0, "s": "a"}, run="a"))
    kept, question = KeptSearches(), QUESTIONS[0]

    def check() -> None:
        raise InterruptedError

    for _ in range(2):
        ask(bench, question, kept)
        with pytest.raises(InterruptedError):
            ask(bench, question, kept, check)
    assert {name for _, (name, _, _) in kept._columns} == {"", "x", "s"}


@pytest.mark.parametrize("text", ["a", "é", "人", "😀", "a" * 1_000 + "😀"])
def test_what_columns_are_said_to_take_is_no_less_than_they_do(text: str) -> None:
    keys_ = np.arange(8, dtype=np.int64)
    present = np.ones(8, np.bool_)
    texts = [f"{text}{number}" for number in range(8)]
    sets = [frozenset(f"{text}{number}" for number in range(size)) for size in range(8)]
    of_texts = KeptColumn.of(0, keys_, Column(present, texts=texts))
    of_sets = KeptColumn.of(0, keys_, Column(present, sets=sets))
    assert of_texts.size >= sum(map(sys.getsizeof, texts))
    assert of_sets.size >= sum(sys.getsizeof(members) + sum(map(sys.getsizeof, members)) for members in sets)


def test_what_is_kept_takes_bounded_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    names_ = [f"r{number}" for number in range(50)]
    bench.apply(*(operations.create(name) for name in names_))
    kept = KeptSearches()
    for round_ in range(4):
        bench.apply(*(operations.assign({"x": 1.0, "s": "a" * (50 * round_ + 1)}, run=name) for name in names_))
        keep(bench, kept, QUESTIONS[0], QUESTIONS[2])
        for question in (QUESTIONS[0], QUESTIONS[2]):
            assert ask(bench, question, kept) == ask(bench, question)
        for (_, (name, _, _)), column in kept._columns.items():
            # What it is said to take after changes is what it would be said to take if it were read.
            assert column.size == type(column).of(0, column.keys, column.column).size, name
    sizes = {name: column.size for (_, (name, _, _)), column in kept._columns.items()}
    monkeypatch.setattr(kept_searches, "_MAX_BYTES", sum(sizes.values()) - 1)
    for question in (QUESTIONS[1], QUESTIONS[0]):
        keep(bench, kept, question)
        assert ask(bench, question, kept) == ask(bench, question)
    assert sum(column.size for column in kept._columns.values()) < sum(sizes.values())
    assert {"x", "s"} <= {name for _, (name, _, _) in kept._columns}
    assert "sys/creation_time" not in {name for _, (name, _, _) in kept._columns}


def test_what_another_server_changes_is_read_again(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with Bench(url) as bench, Bench(url) as other:
        bench.apply(*(operations.create(name) for name in "ab"), operations.assign({"x": 1.0, "s": "a"}, run="a"))
        kept, question = KeptSearches(), QUESTIONS[0]
        keep(other, kept, question)
        assert ask(other, question, kept) == (1, [1])
        for number in range(5):
            bench.apply(operations.assign({"x": float(number), "s": "a"}, run="b"))
            assert ask(other, question, kept) == ask(other, question)
            assert ask(other, question, kept)[0] == 2
            with other.store.exclusive() as connection:
                runs.set_flag(connection, [1], "trashed", bool(number % 2), 0)
            assert ask(other, QUESTIONS[5], kept) == ask(other, QUESTIONS[5])


keys = st.sets(st.integers(0, 30))


@given(old=keys, gone=keys, came=keys, changed=keys)
def test_a_renewal_puts_every_value_in_its_place(
    old: set[int], gone: set[int], came: set[int], changed: set[int]
) -> None:
    new = (old - gone) | came
    others = gone | (came - old) | changed
    before, after = sorted(old), sorted(new)
    renewal = Renewal(*(np.array(sorted(some), np.int64) for some in (old, new, others)))
    fresh = [-key for key in after if key in others]
    expected = [-key if key in others else key for key in after]
    assert renewal.array(np.array(before, np.int64), np.array(fresh, np.int64)).tolist() == expected
    assert renewal.list(before, fresh) == expected
    assert [before[place] for place in renewal.left] == [key for key in before if key in others]
