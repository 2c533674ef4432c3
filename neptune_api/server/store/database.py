"""The database under the store: engine, transactions, folder lock, schema version."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from neptune_api.server.store import schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

_BUSY_TIMEOUT_MS: Final = 10_000
_POOL_SIZE: Final = 32
_CLOSE_SECONDS: Final = 0.7


class StoreError(Exception):
    """Report in one sentence why a store cannot be opened; the command line prints it and exits with 2."""


class Database:
    """An open database: `read()` and `write()` are its only ways in.

    Writers of one process queue up on a lock instead of on SQLite's, which is neither fair nor quick to wake up.
    """

    def __init__(self, folder: Path) -> None:
        """Open, or create, the database in `folder`.

        Raises StoreError when the folder cannot be written, another server has it open, or a newer version made it.
        """
        self._folder = folder
        self._write_lock = threading.Lock()
        self._lock_file = _lock_folder(folder)
        try:
            self._engine = sa.create_engine(
                sa.URL.create("sqlite", database=str(folder / "store.sqlite3")),
                pool_size=_POOL_SIZE,
                max_overflow=_POOL_SIZE,
                connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
            )
            event.listen(self._engine, "connect", _configure)
            event.listen(self._engine, "begin", _begin)
            self._migrate()
        except BaseException:
            self._lock_file.close()
            raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one snapshot of the database."""
        with self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is on disk when the block ends, or gone when it raises."""
        with (
            self._write_lock,
            self._engine.connect().execution_options(immediate=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Close every connection and let another server open the folder, after the transaction at hand."""
        # A writer that is stuck does not keep the process alive: what it does not commit is not acknowledged.
        acquired = self._write_lock.acquire(timeout=_CLOSE_SECONDS)
        try:
            self._engine.dispose()
            self._lock_file.close()
        finally:
            if acquired:
                self._write_lock.release()

    def _migrate(self) -> None:
        try:
            with self.write() as connection:
                schema.metadata.create_all(connection)
                found = connection.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.key == "schema_version"))
                if found is None:
                    connection.execute(
                        schema.meta.insert().values(key="schema_version", value=str(schema.SCHEMA_VERSION))
                    )
                elif int(found) > schema.SCHEMA_VERSION:
                    raise StoreError(
                        f"The data folder {self._folder} has schema version {found}, this version of neptune-api "
                        f"knows up to {schema.SCHEMA_VERSION}: use a newer neptune-api."
                    )
        except sa.exc.DatabaseError as error:
            raise StoreError(f"The data folder {self._folder} cannot be used: {error.orig}.") from error


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    # Transactions begin explicitly in `_begin`; the driver's own implicit ones would hide a read's snapshot.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _lock_folder(folder: Path) -> Any:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise StoreError(f"The data folder {folder} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreError(
            f"The data folder {folder} is in use by another server: stop it, or choose another folder."
        ) from error
    os.set_inheritable(file.fileno(), False)
    return file
