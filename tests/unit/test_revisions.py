"""Revisions of projects, and what PostgreSQL does to find the runs that have changed since one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from neptune_api.conformance import operations
from neptune_api.server.store import revisions, schema
from neptune_api.server.store.key_conditions import among
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgres import PostgresServer


@pytest.fixture(params=["folder", "database"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    location: Path | str = tmp_path / "data"
    if request.param == "database":
        location = request.getfixturevalue("postgres").create_database()
    with Bench(location) as opened:
        yield opened


def test_every_batch_advances_the_revision_of_its_projects_once(bench: Bench) -> None:
    bench.apply(operations.create("a"), operations.create("b"), operations.create("fork", parent="b", at=1))
    with bench.database.read() as connection:
        (first,) = revisions.current(connection, [bench.project_id])
    with bench.database.write() as connection:
        revisions.advance(connection, [])
        revisions.advance(connection, [2, 999])
    with bench.database.read() as connection:
        assert revisions.current(connection, [999, bench.project_id]) == (-1, first + 1)
        # With the fork of what has changed.
        assert revisions.changed_since(connection, bench.project_id, first, most=2) == [2, 3]
        assert revisions.changed_since(connection, bench.project_id, first, most=1) is None
        assert revisions.changed_since(connection, bench.project_id, first + 1, most=2) == []
        assert revisions.changed_since(connection, 999, 0, most=2) == []
    with bench.database.write() as connection:
        # A cycle, which only a damaged database has.
        connection.execute(schema.runs.update().where(schema.runs.c.id == 2).values(parent_id=3))
    with bench.database.read() as connection:
        assert revisions.changed_since(connection, bench.project_id, first, most=2) == [2, 3]


def explained(connection: sa.Connection, statement: sa.Select[Any]) -> str:
    text = statement.compile(dialect=connection.dialect)
    parameters = tuple(text.params[name] for name in text.positiontup or ())
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN {text}", parameters).scalars())


def test_what_has_changed_is_found_without_going_through_all_runs(postgres: PostgresServer) -> None:
    with Bench(postgres.create_database()) as bench:
        bench.apply(operations.create("a"))
        with bench.database.write() as connection:
            connection.execute(schema.runs.update().values(number=0))
            names = [column.name for column in schema.runs.c]
            own = {
                "id": "1000000 + n", "uuid": "n::text", "run_id": "n::text", "number": "n",
                "parent_id": "CASE n WHEN 1 THEN id ELSE 1000000 + n - 1 END",
            }  # fmt: skip
            values = ", ".join(own.get(name, name) for name in names)
            connection.exec_driver_sql(
                f"INSERT INTO runs ({', '.join(names)}) SELECT {values} FROM runs, generate_series(1, 20000) AS n"
            )
        found: list[Any] = []
        sa.event.listen(
            bench.database._engine, "before_cursor_execute", lambda *arguments: found.append(arguments[2:4])
        )
        for statistics in (False, True):
            if statistics:
                with bench.database.write() as connection:
                    connection.exec_driver_sql("ANALYZE")
            with bench.database.read() as connection:
                keys = range(1_000_001, 1_010_001)
                # Compared with what becomes an array as late as a row is, each key would be looked at for each row.
                plan = explained(
                    connection, sa.select(schema.runs.c.id).where(among(connection, schema.runs.c.id, keys))
                )
                assert "::bigint[]" in plan
                assert "cstring" not in plan
                found.clear()
                assert revisions.changed_since(connection, bench.project_id, 0, most=10) is None
                ((statement, parameters),) = [item for item in found if "RECURSIVE" in item[0]]
                plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
                assert "ix_runs_parent_id" in plan
                assert "Merge Join" not in plan
                assert "Hash Join" not in plan
