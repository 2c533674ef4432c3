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
    dialect = connection.dialect.name
    return is_listed(dialect, column, sa.literal(listing(dialect, keys), sa.types.NullType()))


def listing(dialect: str, keys: Iterable[int]) -> str:
    """Return the text of keys that the parameter of `is_listed` is to be."""
    text = ",".join(map(str, keys))
    return f"{{{text}}}" if dialect == "postgresql" else f"[{text}]"


def is_listed(dialect: str, column: sa.ColumnElement[Any], parameter: sa.BindParameter[str]) -> sa.ColumnElement[bool]:
    """Return the condition that a column has one of the keys that a parameter lists."""
    if dialect == "postgresql":
        # A parameter without a type of its own is an array before the statement is planned. With a text that becomes
        # one later, PostgreSQL would compare each row with each key, one after the other.
        return column == sa.any_(sa.cast(parameter, sa.ARRAY(sa.BigInteger)))
    members = sa.func.json_each(parameter).table_valued("value")
    return column.in_(sa.select(members.c.value))


def about(connection: sa.Connection, column: sa.ColumnElement[Any], keys: Sequence[int]) -> sa.ColumnElement[bool]:
    """Return a condition that holds for ascending keys, and for few others where that is faster."""
    if keys and keys[-1] - keys[0] < _DENSITY * len(keys):
        return column.between(keys[0], keys[-1])
    return among(connection, column, keys)
