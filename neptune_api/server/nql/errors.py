"""What is wrong with a query, and where."""

from __future__ import annotations

from typing import Final

_SHOWN: Final = 40


class QueryError(ValueError):
    """Say what is wrong with a query.

    `position` counts characters from 0; `line` and `column` count from 1. `expected` says what would have been right.
    """

    def __init__(self, text: str, position: int, problem: str, expected: str) -> None:
        before = text[:position]
        self.position = position
        self.line = before.count("\n") + 1
        self.column = position - (before.rfind("\n") + 1) + 1
        self.expected = expected
        super().__init__(f"line {self.line}, column {self.column}: {problem}; expected {expected}")


def quoted(text: str) -> str:
    """Return a piece of a query as an error may repeat it: on one line, without control characters, not long."""
    visible = "".join(character if character.isprintable() else "?" for character in text[: _SHOWN + 1])
    return f"«{visible if len(visible) <= _SHOWN else visible[: _SHOWN - 3] + '...'}»"
