"""The version of a database's tables: made new, brought up to date, or refused.

Alembic does the work on databases of older versions (`migrations`). Its import takes longer than a server has for its
start, so that it is imported only when there is something to do.
"""

from __future__ import annotations

import logging
from typing import Final

import sqlalchemy as sa

from neptune_api.server.store import schema
from neptune_api.server.store.faults import StoreError

_LOG: Final = logging.getLogger(__name__)

BASELINE: Final = "0001"
"""The version before there were migrations, which kept its number in the table `meta`."""

_OLD_KEY: Final = "schema_version"
# What versions that know no migrations find in `meta`, so that they refuse.
_BEYOND_BASELINE: Final = "2"


def prepare(connection: sa.Connection, label: str) -> None:
    """Bring the tables of a database to the version of this program, in the transaction of the connection.

    Raises StoreError when a newer program made them; `label` begins the sentence.
    """
    found = version_of(connection)
    if found == schema.VERSION:
        return
    if found is None:
        create(connection)
        return
    check_known(found, label)
    _LOG.info("%s has schema version %s: bringing it to %s", label, found, schema.VERSION)
    from neptune_api.server.store import migrations

    migrations.upgrade(connection, found)


def version_of(connection: sa.Connection) -> str | None:
    """Return the version of a database's tables; None when it has none."""
    tables = set(sa.inspect(connection).get_table_names())
    version, meta = schema.alembic_version, schema.meta
    if version.name in tables:
        found: str | None = connection.scalar(sa.select(version.c.version_num))
        return found
    if meta.name in tables:
        number = connection.scalar(sa.select(meta.c.value).where(meta.c.key == _OLD_KEY))
        return None if number is None else f"{int(number):04}"
    return None


def check_known(found: str, label: str) -> None:
    """Raise StoreError for a version that is newer than this program."""
    if found > schema.VERSION:
        raise StoreError(
            f"{label} has schema version {found}, this version of neptune-api knows up to {schema.VERSION}: use a "
            "newer neptune-api."
        )


def create(connection: sa.Connection) -> None:
    """Create all tables, as the newest migration leaves them."""
    # Looking for each table alone takes a tenth of the time that a server needs to start.
    schema.metadata.create_all(connection, checkfirst=bool(sa.inspect(connection).get_table_names()))
    connection.execute(schema.alembic_version.insert().values(version_num=schema.VERSION))
    connection.execute(schema.meta.insert().values(key=_OLD_KEY, value=_BEYOND_BASELINE))
