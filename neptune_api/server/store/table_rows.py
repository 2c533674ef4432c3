"""Rows on their way into a table by the thousand, given as columns: a snapshot of ten thousand series changes as many.

SQLite is quickest with a statement for each row, straight through its driver: SQLAlchemy's handling of parameters takes
longer than SQLite does. PostgreSQL is quickest with one statement over arrays.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from neptune_api.server.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Columns = Mapping[str, Sequence[object]]


class TableRows:
    """Insert and update rows of some columns of a table, of which the first one is the key."""

    def __init__(self, table: sa.Table, names: Sequence[str]) -> None:
        self._columns: Final = [table.c[name] for name in names]
        self._name: Final = table.name
        values = {column.name: sa.bindparam(f"b_{column.name}", type_=column.type) for column in self._columns}
        key = self._columns[0]
        self._insert: Final = table.insert().values(values)
        key_value = values.pop(key.name)
        self._update: Final = table.update().where(key == key_value).values(values)

    def insert(self, connection: sa.Connection, columns: Columns) -> None:
        """Add rows, given as columns by their names."""
        if connection.dialect.name == "postgresql":
            names, arrays = self._arrays(connection.dialect)
            self._execute(connection, f"INSERT INTO {self._name} ({names}) SELECT * FROM unnest({arrays})", columns)  # noqa: S608 # our own names
        else:
            self._execute_rows(connection, self._insert, columns)

    def update(self, connection: sa.Connection, columns: Columns) -> None:
        """Change rows that are there."""
        if connection.dialect.name == "postgresql":
            names, arrays = self._arrays(connection.dialect)
            key, *others = (column.name for column in self._columns)
            changes = ", ".join(f'"{name}" = new."{name}"' for name in others)
            rows = f"unnest({arrays}) AS new ({names}) WHERE {self._name}.{key} = new.{key}"
            self._execute(connection, f"UPDATE {self._name} SET {changes} FROM {rows}", columns)  # noqa: S608 # as above
        else:
            self._execute_rows(connection, self._update, columns)

    def _arrays(self, dialect: sa.Dialect) -> tuple[str, str]:
        """Return the names of the columns, and parameters that are arrays of their types."""
        names = ", ".join(f'"{column.name}"' for column in self._columns)
        types = (column.type.compile(dialect).partition(" COLLATE ")[0] for column in self._columns)
        return names, ", ".join(f"%s::{type_}[]" for type_ in types)

    def _execute(self, connection: sa.Connection, statement: str, columns: Columns) -> None:
        if not columns[self._columns[0].name]:
            return
        parameters = []
        for column in self._columns:
            process: Any = column.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)
            values = columns[column.name]
            parameters.append(list(values) if process is None else [process(value) for value in values])
        connection.exec_driver_sql(statement, tuple(parameters))

    def _execute_rows(self, connection: sa.Connection, statement: sa.Insert | sa.Update, columns: Columns) -> None:
        if columns[self._columns[0].name]:
            compiled = statement.compile(dialect=connection.dialect)
            names = [name.removeprefix("b_") for name in compiled.positiontup or ()]
            connection.exec_driver_sql(str(compiled), list(zip(*(columns[name] for name in names), strict=True)))


SERIES: Final = TableRows(schema.series, [column.name for column in schema.series.c if column.name != "last_payload"])
"""Summaries of float series."""

ATTRIBUTES: Final = TableRows(
    schema.attributes, [column.name for column in schema.attributes.c if column.computed is None]
)
"""Attributes and their values."""


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows, all of the same columns; those whose key is there take its place."""
    if rows:
        connection.execute(_insert_or_update(connection.dialect.name, table, rows[0]), rows)


def upserting_selected(dialect: str, table: sa.Table, query: sa.Select[Any]) -> sa.Executable:
    """Return the statement that does so with rows that a query finds, of all columns of the table."""
    names = [column.name for column in table.c]
    statement: sa.Executable = _insert_or_update(dialect, table, names).from_select(names, query)
    return statement


def _insert_or_update(dialect: str, table: sa.Table, names: Iterable[str]) -> Any:
    # Only the dialect in use: that of PostgreSQL takes long to import.
    module: Any = import_module(f"sqlalchemy.dialects.{dialect}")
    statement = module.insert(table)
    keys = [column.name for column in table.primary_key]
    values = {name: statement.excluded[name] for name in names if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=values)
