"""SQLite in a folder, for one server process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from neptune_api.server.store.faults import DatabaseFaultError, DiskFullError, StoreError, UnavailableError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.server.store.database import Event

DATABASE_FILE: Final = "store.sqlite3"
_BUSY_TIMEOUT_MS: Final = 10_000
_POOL_SIZE: Final = 32
_CLOSE_SECONDS: Final = 0.7
# What SQLite says when the folder, not the statement, is at fault. The error codes have names since Python 3.11 only.
_FULL: Final = "database or disk is full"
_FAULTS: Final = (
    "attempt to write a readonly database",
    "database is locked",
    "disk I/O error",
    "unable to open database file",
)


class Folder:
    """The database in a folder.

    Writers of one process queue up on a lock instead of on SQLite's, which is neither fair nor quick to wake up.
    """

    def __init__(self, path: Path) -> None:
        """Take the folder, which is made when it is missing. Raises StoreError."""
        self.path: Final = path
        self.label: Final = f"The data folder {path}"
        self._write_lock = threading.Lock()
        self._lock_file = _lock_folder(path)
        self.engine: Final = sa.create_engine(
            sa.URL.create("sqlite", database=str(path / DATABASE_FILE)),
            pool_size=_POOL_SIZE,
            max_overflow=_POOL_SIZE,
            connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    @contextlib.contextmanager
    def writing(self, *, serial: bool) -> Iterator[sa.Connection]:  # noqa: ARG002 # SQLite's writers always are
        """Give a connection in a transaction."""
        with (
            self._write_lock,
            self.engine.connect().execution_options(immediate=True) as connection,
            connection.begin(),
        ):
            yield connection

    def fault(self, error: sa.exc.DBAPIError) -> DatabaseFaultError | None:
        """Return what an error says of the folder; None when the statement is at fault."""
        text = self.reason(error)
        if _FULL in text:
            return DiskFullError(
                "The server's disk is full: nothing that was acknowledged is lost, but nothing more is taken until "
                "there is space."
            )
        if any(fault in text for fault in _FAULTS):
            return UnavailableError(f"The server's data folder cannot be used now ({text}): its log says more.")
        return None

    def reason(self, error: sa.exc.DBAPIError) -> str:
        """Return what SQLite says, without a full stop."""
        return str(error.orig).strip().rstrip(".")

    def announce(self, connection: sa.Connection, event: Event) -> None:
        """Do nothing: no other process shares the folder."""

    def close(self) -> None:
        """Close every connection and let another server open the folder."""
        # A writer that is stuck does not keep the process alive: what it does not commit is not acknowledged.
        acquired = self._write_lock.acquire(timeout=_CLOSE_SECONDS)
        try:
            self.engine.dispose()
            self._lock_file.close()
        finally:
            if acquired:
                self._write_lock.release()


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
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"The data folder {folder} cannot be written: there is a file in its place.") from error
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
