"""Summaries of float series on their way into the table `series`: a snapshot of thousands changes as many rows.

SQLite is quickest with a statement for each row, straight through its driver: SQLAlchemy's handling of parameters takes
longer than SQLite does. PostgreSQL is quickest with one statement over arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.server.store.schema import series

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY: Final = series.c.attribute_id
_COLUMNS: Final = tuple(column for column in series.c if column.name not in {"attribute_id", "last_payload"})
_VALUES: Final = {column.name: sa.bindparam(f"b_{column.name}", type_=column.type) for column in _COLUMNS}
_INSERT: Final = series.insert().values(attribute_id=sa.bindparam("b_attribute_id"), **_VALUES)
_UPDATE: Final = series.update().where(sa.bindparam("b_attribute_id") == _KEY).values(**_VALUES)


def insert(connection: sa.Connection, columns: Mapping[str, list[object]]) -> None:
    """Add rows, given as columns by their names, all but `last_payload`."""
    if connection.dialect.name == "postgresql":
        names, arrays = _arrays(connection.dialect)
        _execute(connection, f"INSERT INTO series ({names}) SELECT * FROM unnest({arrays})", columns)  # noqa: S608 # our own names
    else:
        _execute_rows(connection, _INSERT, columns)


def update(connection: sa.Connection, columns: Mapping[str, list[object]]) -> None:
    """Change rows that are there."""
    if connection.dialect.name == "postgresql":
        names, arrays = _arrays(connection.dialect)
        changes = ", ".join(f'"{column.name}" = new."{column.name}"' for column in _COLUMNS)
        rows = f"unnest({arrays}) AS new ({names})"
        where = "series.attribute_id = new.attribute_id"
        _execute(connection, f"UPDATE series SET {changes} FROM {rows} WHERE {where}", columns)  # noqa: S608 # as above
    else:
        _execute_rows(connection, _UPDATE, columns)


def _arrays(dialect: sa.Dialect) -> tuple[str, str]:
    """Return the names of the columns, and parameters that are arrays of their types."""
    columns = (_KEY, *_COLUMNS)
    names = ", ".join(f'"{column.name}"' for column in columns)
    return names, ", ".join(f"%s::{column.type.compile(dialect)}[]" for column in columns)


def _execute(connection: sa.Connection, statement: str, columns: Mapping[str, list[object]]) -> None:
    if columns[_KEY.name]:
        parameters = tuple(columns[column.name] for column in (_KEY, *_COLUMNS))
        connection.exec_driver_sql(statement, parameters)


def _execute_rows(
    connection: sa.Connection, statement: sa.Insert | sa.Update, columns: Mapping[str, list[object]]
) -> None:
    if columns[_KEY.name]:
        compiled = statement.compile(dialect=connection.dialect)
        names = [name.removeprefix("b_") for name in compiled.positiontup or ()]
        connection.exec_driver_sql(str(compiled), list(zip(*(columns[name] for name in names), strict=True)))
