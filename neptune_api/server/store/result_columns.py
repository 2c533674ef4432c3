"""What queries find, as columns: attributes of all runs of a project are a hundred thousand rows each.

Rows come as the driver makes them: to make SQLAlchemy's of them takes a third longer. Keys alone come as one text that
the database puts together, in a quarter of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    Keys = npt.NDArray[np.int64]

_ROWS: Final = 16_384


def read_columns(
    connection: sa.Connection, query: sa.Select[Any], *, is_long: bool = False
) -> Generator[Sequence[Sequence[Any]], None, None]:
    """Yield the columns that a query selects, of some thousand rows at a time, of one at least.

    The driver may hold all of them, unless the result `is_long`: then close the generator while the connection is open.
    """
    dialect = connection.dialect
    options = {"stream_results": is_long and dialect.supports_server_side_cursors}
    with connection.execute(query, execution_options=options) as result:
        types = zip(query.selected_columns, result.cursor.description, strict=True)
        processors = [
            column.type.dialect_impl(dialect).result_processor(dialect, described[1]) for column, described in types
        ]
        # What SQLAlchemy itself makes rows of; errors are its own.
        while rows := result.cursor_strategy.fetchmany(result, result.cursor, _ROWS):
            yield [
                values if process is None else list(map(process, values))
                for values, process in zip(zip(*rows, strict=True), processors, strict=True)
            ]


def read_keys(connection: sa.Connection, query: sa.Select[Any]) -> Keys:
    """Return the keys that a query selects, ascending."""
    (key,) = query.subquery().c
    if connection.dialect.name == "postgresql":
        listed = sa.func.string_agg(sa.cast(key, sa.Text), ",")
    else:
        listed = sa.func.group_concat(key)
    text = connection.scalar(sa.select(listed))
    if text is None:
        return np.zeros(0, np.int64)
    keys = np.fromstring(text, np.int64, sep=",")
    keys.sort()
    return keys
