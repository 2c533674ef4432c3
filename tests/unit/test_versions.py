"""Versions of the schema: new databases, those of earlier versions, those of later ones."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from neptune_api.server.store import migrations, schema, versions
from neptune_api.server.store.database import Database, StoreError
from tests import earlier
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stores import Content

NEWER = "0999"


@pytest.fixture(params=["sqlite", "postgresql"])
def make_location(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path | str]:
    """A function that makes an empty place for a database."""
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres").create_database
        return make
    numbers = iter(range(10))
    return lambda: tmp_path / f"data{next(numbers)}"


def built(location: Path | str, revision: str) -> None:
    """Make the tables of a revision, as Alembic does."""
    engine = engine_of(location)
    with engine.begin() as connection:
        migrations.build(connection, revision)
    engine.dispose()


def engine_of(location: Path | str) -> sa.Engine:
    if isinstance(location, str):
        return sa.create_engine(sa.make_url(location).set(drivername="postgresql+psycopg"))
    location.mkdir(exist_ok=True)
    return sa.create_engine(f"sqlite:///{location / 'store.sqlite3'}")


def shape(connection: sa.Connection) -> dict[str, Any]:
    """Return everything that a database says of its tables."""
    found: dict[str, Any] = {}
    inspector = sa.inspect(connection)
    for table in inspector.get_table_names():
        columns = {
            column["name"]: (
                repr(column["type"]),
                getattr(column["type"], "collation", None),
                column["nullable"],
                column["default"],
            )
            for column in inspector.get_columns(table)
        }
        found[table] = (
            columns,
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(map(repr, inspector.get_foreign_keys(table))),
            sorted(repr(sorted(item["column_names"])) for item in inspector.get_unique_constraints(table)),
            sorted((item["name"], item["column_names"]) for item in inspector.get_indexes(table)),
        )
    if connection.dialect.name == "postgresql":
        storage = "SELECT attrelid::regclass::text, attname, attstorage::text FROM pg_attribute JOIN pg_class c"
        storage += " ON c.oid = attrelid WHERE c.relkind = 'r' AND relnamespace = 'public'::regnamespace AND attnum > 0"
        found["storage"] = sorted(map(tuple, connection.exec_driver_sql(storage)))
        options = "SELECT relname, reloptions::text FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
        options += " AND relnamespace = 'public'::regnamespace"
        found["options"] = sorted(map(tuple, connection.exec_driver_sql(options)))
    else:
        autoincrement = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
        found["autoincrement"] = sorted(map(tuple, connection.exec_driver_sql(autoincrement)))
    return found


def test_migrated_tables_are_those_created(make_location: Callable[[], Path | str]) -> None:
    shapes = []
    migrated, created = make_location(), make_location()
    built(migrated, "head")
    Database(created).close()
    for location in (migrated, created):
        engine = engine_of(location)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
            assert versions.version_of(connection) == schema.VERSION
            shapes.append(shape(connection))
        engine.dispose()
    assert shapes[0] == shapes[1]
    assert shapes[0].keys() > set(schema.metadata.tables)


def test_texts_are_ordered_by_code_points_everywhere() -> None:
    # By default PostgreSQL sorts by the rules of a language.
    texts = [
        column
        for table in schema.metadata.sorted_tables
        if table is not schema.alembic_version
        for column in table.columns
        if isinstance(column.type, sa.String) or isinstance(getattr(column.type, "impl", None), sa.String)
    ]
    assert len(texts) > 20
    dialect = sa.make_url("postgresql+psycopg://").get_dialect()()
    assert {getattr(column.type.dialect_impl(dialect), "impl", None).collation for column in texts} == {"C"}  # type: ignore[union-attr]  # each has one


def test_a_folder_of_the_version_before_migrations_opens(tmp_path: Path) -> None:
    earlier.restore(tmp_path / "old")
    with Bench(tmp_path / "new", durable=False) as bench:
        bench.apply(*earlier.COMPACTED, *earlier.IN_TAILS, *earlier.ACCEPTED)
        expected = {run: of_users(bench.content(run)) for run in earlier.RUNS}
    with Bench(tmp_path / "old") as bench:
        bench.store.wait_applied(pending(bench), 30)
        found = {run: of_users(bench.content(run)) for run in earlier.RUNS}
        bench.apply_one(earlier.ACCEPTED[1])
    assert repr(found) == repr(expected)  # NaN is there
    assert len(found["run"].points["loss"]) == 50
    assert [point[2] for point in found["late"].points["loss"]] == [1.0]


def pending(bench: Bench) -> list[str]:
    with bench.database.read() as connection:
        return list(connection.scalars(sa.select(schema.requests.c.request_id)))


def of_users(content: Content) -> Content:
    """Leave out what the server writes, which is of its time."""
    for part in (content.values, content.points, content.previews, content.totals, content.summaries):
        for path in [path for path in part if path.startswith("sys/")]:
            del part[path]
    return content


def test_a_database_of_the_version_before_migrations_is_migrated_once(make_location: Callable[[], Path | str]) -> None:
    location = make_location()
    built(location, versions.BASELINE)
    engine = engine_of(location)
    with engine.begin() as connection:
        # As that version left it.
        connection.execute(sa.text("DROP TABLE alembic_version"))
        connection.execute(sa.text("INSERT INTO meta (key, value) VALUES ('schema_version', '1')"))
        connection.execute(sa.text("INSERT INTO workspaces VALUES (1, 'u', 'kept', 5)"))
        assert versions.version_of(connection) == versions.BASELINE
    for _ in range(2):
        database = Database(location)
        with database.read() as connection:
            assert versions.version_of(connection) == schema.VERSION
            assert connection.scalars(sa.select(schema.workspaces.c.name)).all() == ["kept"]
            # What that version reads, to refuse.
            meta = schema.meta.c
            assert connection.scalar(sa.select(meta.value).where(meta.key == "schema_version")) == "2"
        database.close()
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    earlier.restore(tmp_path / "data")
    file = sqlite3.connect(tmp_path / "data" / "store.sqlite3")
    file.execute("CREATE TABLE leases (in_the_way INTEGER)")
    before = sorted(file.execute("SELECT name FROM sqlite_master"))
    with pytest.raises(StoreError, match="table leases already exists"):
        Database(tmp_path / "data")
    assert sorted(file.execute("SELECT name FROM sqlite_master")) == before
    file.execute("DROP TABLE leases")
    file.close()
    Database(tmp_path / "data").close()


def test_a_database_of_a_newer_version_is_refused(make_location: Callable[[], Path | str]) -> None:
    location = make_location()
    database = Database(location)
    with database.write() as connection:
        connection.execute(schema.alembic_version.update().values(version_num=NEWER))
    database.close()
    with pytest.raises(StoreError, match=f"has schema version {NEWER}, .* knows up to {schema.VERSION}: use a newer"):
        Database(location)
    engine = engine_of(location)
    with engine.connect() as connection:
        assert versions.version_of(connection) == NEWER
    engine.dispose()


def test_opening_takes_no_import_of_alembic(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from neptune_api.server.store.database import Database;"
        "Database(Path('data')).close(); Database(Path('data')).close(); print('alembic' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
