"""Text columns that hold the same texts, in the same order, in every database.

PostgreSQL orders texts by the rules of a language unless told otherwise, and takes no NUL character. So its columns
have the collation C, which is the order of code points and that of SQLite; and NUL is stored as two characters, of
which the first one is a code point that means nothing (and is itself stored as two).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

MARK: Final = "\ufdd0"
"""The first character of every escaped one."""
ESCAPED_ENDS: Final = ("0", "1")
"""The second one: of NUL, and of the mark itself."""
_NUL, _MARK_ITSELF = (MARK + end for end in ESCAPED_ENDS)


def escape(text: str) -> str:
    """Return a text without NUL characters, from which `unescape` gets it back."""
    return text.replace(MARK, _MARK_ITSELF).replace("\0", _NUL)


def unescape(text: str) -> str:
    """Return the text that `escape` was given."""
    return text.replace(_NUL, "\0").replace(_MARK_ITSELF, MARK) if MARK in text else text


def _bind(value: str | None) -> str | None:
    return escape(value) if value is not None and ("\0" in value or MARK in value) else value


def _result(value: str | None) -> str | None:
    return unescape(value) if value is not None and MARK in value else value


class String(TypeDecorator[str]):
    """A text of limited length."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        """Return the type of the column in one database."""
        plain = cast("sa.String", self.impl_instance)
        return type(plain)(plain.length, collation="C") if dialect.name == "postgresql" else plain

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[str | None], str | None] | None:
        """Return what is done to parameters; nothing where nothing is needed, because rows are many."""
        return _bind if dialect.name == "postgresql" else None

    def result_processor(
        self,
        dialect: sa.Dialect,
        coltype: object,  # noqa: ARG002 # the signature is SQLAlchemy's
    ) -> Callable[[str | None], str | None] | None:
        """Return what is done to results."""
        return _result if dialect.name == "postgresql" else None


class Text(String):
    """A text of any length."""

    impl = sa.Text
    cache_ok = True
