"""Integer keys of rows that the applier writes: known before the rows are, ascending in the order of their use.

Readers rely on the order: runs of a project by number, chunks of a series by age.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from typing import Protocol

    from neptune_api.server.store.database import Database

    class Keys(Protocol):
        """Hand out keys of a table."""

        def __call__(self) -> int:
            """Return the next key."""

        def drop(self) -> None:
            """Begin anew, behind every key that another process has handed out."""


_BLOCK: Final = 1_000


class CountedKeys:
    """Keys of a table that only this process writes to."""

    def __init__(self, table: sa.Table, database: Database) -> None:
        with database.read() as connection:
            self._next = (connection.scalar(sa.select(sa.func.max(table.c.id))) or 0) + 1

    def __call__(self) -> int:
        """Return the next key."""
        self._next += 1
        return self._next - 1

    def drop(self) -> None:
        """Do nothing: nobody else hands out keys."""


class SequenceKeys:
    """Keys of a table that several processes write to, taken from its sequence in blocks.

    A block is dropped when a lease changes hands: what its new holder writes comes after what the last one wrote.
    """

    def __init__(self, table: sa.Table, database: Database) -> None:
        sequence = sa.func.pg_get_serial_sequence(table.name, "id")
        self._query = sa.select(sa.func.nextval(sequence)).select_from(sa.func.generate_series(1, _BLOCK))
        self._database = database
        self._block: deque[int] = deque()

    def __call__(self) -> int:
        """Return the next key."""
        if not self._block:
            with self._database.read() as connection:
                self._block.extend(connection.scalars(self._query))
        return self._block.popleft()

    def drop(self) -> None:
        """Take a new block when the next key is asked for."""
        self._block.clear()


def keys_of(table: sa.Table, database: Database) -> Keys:
    """Return the keys of a table, for the one thread that applies."""
    return SequenceKeys(table, database) if database.is_shared else CountedKeys(table, database)
