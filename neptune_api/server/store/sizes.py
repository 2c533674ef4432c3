"""What a database holds: rows and bytes table by table, and the names of projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from neptune_api.server.store.schema import chunks, metadata, operations, projects, requests, tails

if TYPE_CHECKING:
    from collections.abc import Iterator


class TableSize(NamedTuple):
    """A table; `size` is in bytes, None where the database does not tell."""

    name: str
    rows: int
    size: int | None


class Points(NamedTuple):
    """Points in a table; `size` is the bytes of their columns alone."""

    table: str
    rows: int
    number: int
    size: int


def table_sizes(connection: sa.Connection) -> Iterator[TableSize]:
    """Yield every table, with its indexes, by name."""
    for table in sorted(metadata.tables.values(), key=lambda table: table.name):
        rows = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        yield TableSize(table.name, rows, _size(connection, table))


def points(connection: sa.Connection) -> Iterator[Points]:
    """Yield the tables of points."""
    for table in (chunks, tails):
        count, length = sa.func.sum(table.c.count), sa.func.sum(sa.func.length(table.c.payload))
        query = sa.select(sa.func.count(), sa.func.coalesce(count, 0), sa.func.coalesce(length, 0))
        rows, number, size = connection.execute(query.select_from(table)).one()
        yield Points(table.name, rows, int(number), int(size))


def log(connection: sa.Connection) -> tuple[int, int]:
    """Return how many operations wait to be applied, and of how many requests the outcome is kept."""
    waiting = connection.scalar(sa.select(sa.func.count()).select_from(operations)) or 0
    kept = sa.select(sa.func.count()).select_from(requests).where(requests.c.status.is_not(None))
    return waiting, connection.scalar(kept) or 0


def project_names(connection: sa.Connection) -> dict[str, str]:
    """Return the names of all projects by their ids."""
    return {str(row.uuid): row.name for row in connection.execute(sa.select(projects.c.uuid, projects.c.name))}


def _size(connection: sa.Connection, table: sa.Table) -> int | None:
    if connection.dialect.name == "postgresql":
        return connection.scalar(sa.select(sa.func.pg_total_relation_size(table.name)))
    names = [table.name, *(index.name for index in table.indexes)]
    names += [f"sqlite_autoindex_{table.name}_{number}" for number in range(1, 8)]
    query = sa.text("SELECT sum(pgsize) FROM dbstat WHERE name IN :names").bindparams(
        sa.bindparam("names", names, expanding=True)
    )
    try:
        size: int | None = connection.scalar(query)
    except sa.exc.OperationalError:
        return None  # this SQLite was built without dbstat
    return size
