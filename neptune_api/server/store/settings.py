"""What a data folder, or a database, remembers of how it was served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.server.store.schema import meta

if TYPE_CHECKING:
    from neptune_api.server.store.database import Database

_PREFIX: Final = "server."
DATA_FILES: Final = "data"
"""Says of files that they are kept in the data folder."""


class Settings:
    """Settings by name, as they were when they were read; those that are remembered are written at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as connection:
            self._values = read_settings(connection)

    def get(self, name: str) -> str | None:
        """Return a setting, None when there is none."""
        return self._values.get(name)

    def choose(self, name: str, given: str | None, default: str) -> str:
        """Return what is given, else what is remembered, else the default."""
        return given if given is not None else self.get(name) or default

    def remember(self, **values: str) -> None:
        """Write settings that are new or have changed."""
        changed = {name: value for name, value in values.items() if self.get(name) != value}
        if not changed:
            return
        rows = [{"key": _PREFIX + name, "value": value} for name, value in changed.items()]
        with self._database.write() as connection:
            connection.execute(meta.delete().where(meta.c.key.in_([row["key"] for row in rows])))
            connection.execute(meta.insert(), rows)


def read_settings(connection: sa.Connection) -> dict[str, str]:
    """Return all settings by name."""
    query = sa.select(meta).where(meta.c.key.startswith(_PREFIX, autoescape=True))
    return {row.key.removeprefix(_PREFIX): row.value for row in connection.execute(query)}
