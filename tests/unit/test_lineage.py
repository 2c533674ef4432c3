"""Lineage: which ancestors contribute to the series of a run, and up to which step."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.server.store import schema
from neptune_api.server.store.lineage import Ancestor, Scope, lineages
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

# (experiment, parent, fork step in micro-steps); a run's key is its position, from 1.
Row = tuple["str | None", "int | None", "int | None"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("store")) as opened:
        yield opened


def write(bench: Bench, rows: list[Row]) -> None:
    """Make these the only runs."""
    with bench.store.exclusive() as connection:
        connection.execute(schema.runs.delete())
        for key, (experiment, parent, fork_step) in enumerate(rows, 1):
            connection.execute(
                schema.runs.insert().values(
                    id=key,
                    uuid=f"{key:032}",
                    project_id=bench.project_id,
                    run_id=f"run-{key}",
                    number=key,
                    experiment=experiment,
                    family="f",
                    parent_id=parent if parent is None or parent < key else None,
                    fork_step=fork_step,
                    owner_id=bench.user_id,
                    created_ms=0,
                )
            )
        for key, (_, parent, _) in enumerate(rows, 1):
            connection.execute(schema.runs.update().where(schema.runs.c.id == key).values(parent_id=parent))


def read(bench: Bench, scope: Scope, *keys: int) -> dict[int, list[tuple[int, int | None]]]:
    with bench.database.read() as connection:
        return {
            key: [(item.run_key, item.upper) for item in line]
            for key, line in lineages(connection, keys, scope).items()
        }


def test_a_run_without_a_parent_is_alone(bench: Bench) -> None:
    write(bench, [("a", None, None)])
    for scope in Scope:
        assert read(bench, scope, 1) == {1: [(1, None)]}


def test_an_unknown_run_is_alone(bench: Bench) -> None:
    write(bench, [])
    for scope in Scope:
        assert read(bench, scope, 99) == {99: [(99, None)]}


def test_upper_ends_are_the_least_fork_steps_along_the_path(bench: Bench) -> None:
    write(bench, [(None, None, None), (None, 1, 30), (None, 2, 10), (None, 3, 20)])
    assert read(bench, Scope.FULL, 4) == {4: [(4, None), (3, 20), (2, 10), (1, 10)]}


def test_several_runs_at_once(bench: Bench) -> None:
    write(bench, [(None, None, None), (None, 1, 5), (None, 1, 7)])
    assert read(bench, Scope.FULL, 2, 3, 1) == {2: [(2, None), (1, 5)], 3: [(3, None), (1, 7)], 1: [(1, None)]}


def test_a_parent_without_steps_passes_nothing_on(bench: Bench) -> None:
    write(bench, [(None, None, None), (None, 1, 5), (None, 2, None)])
    assert read(bench, Scope.FULL, 3) == {3: [(3, None)]}


def test_scope_run_is_the_run_alone(bench: Bench) -> None:
    write(bench, [("a", None, None), ("a", 1, 5)])
    assert read(bench, Scope.RUN, 2) == {2: [(2, None)]}


def test_scope_experiment_ends_at_the_first_of_another_experiment(bench: Bench) -> None:
    write(bench, [("a", None, None), ("b", 1, 4), ("a", 2, 6), ("a", 3, 9)])
    assert read(bench, Scope.EXPERIMENT, 4) == {4: [(4, None), (3, 9)]}


def test_scope_experiment_of_a_run_without_an_experiment_is_the_run_alone(bench: Bench) -> None:
    write(bench, [(None, None, None), (None, 1, 4)])
    assert read(bench, Scope.EXPERIMENT, 2) == {2: [(2, None)]}


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_cycle_ends(bench: Bench, length: int) -> None:
    write(bench, [("a", key % length + 1, 5) for key in range(1, length + 1)])
    for scope in (Scope.FULL, Scope.EXPERIMENT):
        line = read(bench, scope, 1)[1]
        assert len(line) == length
        assert len({key for key, _ in line}) == length
    write(bench, [])


def test_more_runs_than_a_statement_takes(bench: Bench) -> None:
    count = 33_000
    with bench.store.exclusive() as connection:
        connection.execute(schema.runs.delete())
        row = {"project_id": bench.project_id, "family": "f", "owner_id": bench.user_id, "created_ms": 0}
        connection.execute(
            schema.runs.insert(),
            [
                row
                | {"id": key, "uuid": str(key), "run_id": str(key), "number": key}
                | {"parent_id": 1 if key > 1 else None, "fork_step": key if key > 1 else None}
                for key in range(1, count + 1)
            ],
        )
    found = read(bench, Scope.FULL, *range(1, count + 1))
    assert len(found) == count
    assert found[count] == [(count, None), (1, count)]


@st.composite
def trees(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    for key in range(1, draw(st.integers(1, 12)) + 1):
        parent = draw(st.none() | st.integers(1, key - 1)) if key > 1 else None
        fork_step = draw(st.none() | st.integers(0, 20)) if parent is not None else None
        rows.append((draw(st.sampled_from(["a", "b", None])), parent, fork_step))
    return rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=trees())
def test_the_definition(bench: Bench, rows: list[Row]) -> None:
    """FULL(run) = the run and FULL(parent), every upper end of that cut at the fork step."""

    def full(key: int) -> list[tuple[int, int | None]]:
        _, parent, fork_step = rows[key - 1]
        if parent is None or fork_step is None:
            return [(key, None)]
        behind = [(run, fork_step if upper is None else min(upper, fork_step)) for run, upper in full(parent)]
        return [(key, None), *behind]

    def same_experiment(key: int) -> list[tuple[int, int | None]]:
        name = rows[key - 1][0]
        line = full(key)
        return [line[0], *itertools.takewhile(lambda item: name is not None and rows[item[0] - 1][0] == name, line[1:])]

    write(bench, rows)
    keys = range(1, len(rows) + 1)
    assert read(bench, Scope.FULL, *keys) == {key: full(key) for key in keys}
    assert read(bench, Scope.EXPERIMENT, *keys) == {key: same_experiment(key) for key in keys}


def test_lineage_is_of_named_tuples(bench: Bench) -> None:
    write(bench, [(None, None, None)])
    with bench.database.read() as connection:
        assert lineages(connection, [1])[1] == (Ancestor(1, None),)
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.runs)) == 1
