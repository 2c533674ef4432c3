"""SQLite in a folder, for one server process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from neptune_api.server.store.faults import DatabaseFaultError, DiskFullError, StoreError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.server.store.database import Event

DATABASE_FILE: Final = "store.sqlite3"
_BUSY_TIMEOUT_MS: Final = 10_000
_POOL_SIZE: Final = 32
_CLOSE_SECONDS: Final = 0.7
# For a database that is being made. Points lie in blobs of half a megabyte: larger pages take a third off the time of
# writing them, while the small rows of small operations hardly notice.
_FIRST_PRAGMAS: Final = ("page_size=8192", "auto_vacuum=INCREMENTAL")
_PRAGMAS: Final = (
    f"busy_timeout={_BUSY_TIMEOUT_MS}",
    "journal_mode=WAL",
    "foreign_keys=ON",
    # 64 MB: what is written and soon deleted, as the log is, mostly never gets into the database file. That is a fifth
    # of all bytes written while points come in; twice as much would save little more.
    "wal_autocheckpoint=8192",
    "journal_size_limit=67108864",
)
# What share of the pages may be free, and how many are given back before others may write.
_SPARE_PAGES: Final = 1 / 20
_PAGES_PER_TURN: Final = 1024
_INCREMENTAL: Final = 2
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

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Take the folder, which is made when it is missing; `durable` transactions are on disk. Raises StoreError."""
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
        event.listen(self.engine, "connect", partial(_configure, f"synchronous={'FULL' if durable else 'OFF'}"))
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

    def tidy(self, until: threading.Event) -> None:
        """Give space that nothing uses back to the disk, as far as it gets before the event is set."""
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()

            def ask(pragma: str) -> int:
                return int((cursor.execute(f"PRAGMA {pragma}").fetchone() or (0,))[0])

            # A folder of an earlier version keeps its free pages, for points that are still to come.
            while (
                ask("auto_vacuum") == _INCREMENTAL
                and not until.is_set()
                and ask("freelist_count") > ask("page_count") * _SPARE_PAGES
            ):
                with self._write_lock:
                    cursor.execute(f"PRAGMA incremental_vacuum({_PAGES_PER_TURN})").fetchall()
            # The long part holds up nobody, the short one waits for no reader.
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            with self._write_lock:
                cursor.execute("PRAGMA busy_timeout=0")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError:
            pass  # busy, or the disk is full: this is not the time for it
        finally:
            connection.invalidate()
            connection.close()

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


def open_read_only(folder: Path) -> sa.Engine:
    """Return an engine for the database of a folder that changes nothing and needs no lock; a server may be running.

    Raises StoreError when there is no database, or when it cannot be opened.
    """
    file = folder / DATABASE_FILE
    if not file.is_file():
        raise StoreError(f"{folder} is no data folder: it has no file {DATABASE_FILE}.")
    uri = f"{file.absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        try:
            return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise StoreError(f"The data folder {folder} cannot be read: {error}.") from error

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(synchronous: str, connection: sqlite3.Connection, _record: Any) -> None:
    # Transactions begin explicitly in `_begin`; the driver's own implicit ones would hide a read's snapshot.
    connection.isolation_level = None
    is_new = not connection.execute("PRAGMA page_count").fetchone()[0]
    for pragma in (*_FIRST_PRAGMAS, *_PRAGMAS, synchronous) if is_new else (*_PRAGMAS, synchronous):
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
