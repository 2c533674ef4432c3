"""Conditions on keys, of which there may be thousands: with a parameter for each, a statement takes long to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Where the keys of a range are at least so close to each other on average, it is read as a whole.
_DENSITY: Final = 2


def among(connection: sa.Connection, column: sa.ColumnElement[Any], keys: Iterable[int]) -> sa.ColumnElement[bool]:
    """Return the condition that a column has one of some keys, all of which are one parameter."""
    text = ",".join(map(str, keys))
    if connection.dialect.name == "postgresql":
        listed = sa.cast(sa.literal(f"{{{text}}}", sa.Text), sa.ARRAY(sa.BigInteger))
        return column == sa.any_(listed)
    members = sa.func.json_each(f"[{text}]").table_valued("value")
    return column.in_(sa.select(members.c.value))


def about(connection: sa.Connection, column: sa.ColumnElement[Any], keys: Sequence[int]) -> sa.ColumnElement[bool]:
    """Return a condition that holds for ascending keys, and for few others where that is faster."""
    if keys and keys[-1] - keys[0] < _DENSITY * len(keys):
        return column.between(keys[0], keys[-1])
    return among(connection, column, keys)
