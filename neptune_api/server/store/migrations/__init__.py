"""Migrations: what brings the tables of an older version up to date, a revision of Alembic each, in `versions`.

Every revision runs in the transaction that opens the database: all of them happen or none. They only go forward. A
revision that changes a table which others refer to must not drop it: SQLite would delete the rows that refer to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config

from neptune_api.server.store.versions import BASELINE

if TYPE_CHECKING:
    import sqlalchemy as sa


def upgrade(connection: sa.Connection, found: str, target: str = "head") -> None:
    """Bring a database from one revision to another, in the transaction of the connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if found == BASELINE:
        command.stamp(config, BASELINE)
    command.upgrade(config, target)


def build(connection: sa.Connection, target: str = "head") -> None:
    """Make the tables of a revision in an empty database."""
    upgrade(connection, "", target)
