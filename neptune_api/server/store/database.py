"""The database under the store: connections that read, transactions that write, faults in one language."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa

from neptune_api.server.store import versions
from neptune_api.server.store.faults import StoreError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Protocol

    from neptune_api.server.store.faults import DatabaseFaultError

    class Backend(Protocol):
        """What SQLite and PostgreSQL do differently; see `sqlite.Folder` and `postgresql.Address`."""

        @property
        def label(self) -> str:
            """What the database is called in sentences; without a password."""

        @property
        def engine(self) -> sa.Engine:
            """The engine, whose connections read one snapshot each."""

        def writing(self, *, serial: bool) -> AbstractContextManager[sa.Connection]:
            """Give a connection in a transaction."""

        def fault(self, error: sa.exc.DBAPIError, /) -> DatabaseFaultError | None:
            """Return what an error says of the database; None when the statement is at fault."""

        def reason(self, error: sa.exc.DBAPIError, /) -> str:
            """Return what the driver says, on one line, without a full stop or a password."""

        def announce(self, connection: sa.Connection, event: Event, /) -> None:
            """Tell every process that shares the database, when the transaction is committed."""

        def tidy(self, until: threading.Event, /) -> None:
            """Give space that nothing uses back, as far as it gets before the event is set."""

        def close(self) -> None:
            """Close every connection, after the transaction at hand."""


__all__ = ["Database", "StoreError"]

Event = Literal["accepted", "applied"]
"""What processes that share a database tell one another: operations were accepted, a batch of them was applied."""

# Whoever writes a lot writes again within this time, also when the machine has too much to do.
_BUSY_SECONDS: Final = 1.0
URL_SCHEMES: Final = ("postgresql://", "postgres://")
"""How a database's URL begins."""


class Database:
    """An open database: `read()` and `write()` are its only ways in.

    Both raise a DatabaseFaultError where the database is at fault.
    """

    def __init__(self, location: Path | str, *, durable: bool = True) -> None:
        """Open, or create, the database in a folder, or at the URL of a PostgreSQL database.

        `durable` transactions are on disk when they end; those of a folder that goes with its process need not be.
        Raises StoreError when it cannot be used, another server has the folder open, or a newer version made it.
        """
        self.backend: Final = _backend(location, durable=durable)
        self.durable: Final = durable
        self._counting = threading.Lock()
        self._writers = 0
        self._written_at = -math.inf
        self._engine = self.backend.engine
        try:
            with self.backend.writing(serial=True) as connection:
                versions.prepare(connection, self.backend.label)
        except BaseException as error:
            self.backend.close()
            if isinstance(error, sa.exc.DBAPIError):
                raise StoreError(f"{self.backend.label} cannot be used: {self.backend.reason(error)}.") from error
            raise

    @property
    def folder(self) -> Path | None:
        """The folder that this process has for itself; None for a shared database."""
        return getattr(self.backend, "path", None)

    @property
    def is_shared(self) -> bool:
        """Tell whether other processes may write to the database as well."""
        return self.folder is None

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection that sees one snapshot of the database."""
        with self._translating(), self._engine.connect() as connection:
            yield connection

    def answers(self) -> bool:
        """Tell whether the database can be read."""
        try:
            with self.read() as connection:
                return connection.scalar(sa.select(sa.literal(1))) == 1
        except Exception:  # noqa: BLE001 # whatever it is, the database does not work
            return False

    @contextlib.contextmanager
    def write(self, *, serial: bool = True) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is on disk when the block ends, or gone when it raises.

        Such transactions run one after the other, in all processes together: what one has looked up is still so when it
        writes. Those that are not `serial` may run at the same time; they must be right whatever the others do.
        """
        with self._counting:
            self._writers += 1
            self._written_at = time.monotonic()
        try:
            with self._translating(), self.backend.writing(serial=serial) as connection:
                yield connection
        finally:
            with self._counting:
                self._writers -= 1

    @property
    def is_busy(self) -> bool:
        """Tell whether this process is writing, or was a moment ago."""
        return self._writers > 0 or time.monotonic() - self._written_at < _BUSY_SECONDS

    def announce(self, connection: sa.Connection, event: Event) -> None:
        """Tell every process that shares the database of an event, when the transaction is committed."""
        self.backend.announce(connection, event)

    def tidy(self, until: threading.Event) -> None:
        """Give space that nothing uses back to the disk, as far as it gets before the event is set."""
        self.backend.tidy(until)

    def close(self) -> None:
        """Close every connection and let another server open the folder, after the transaction at hand."""
        self.backend.close()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            fault = self.backend.fault(error)
            if fault is None:
                raise
            raise fault from error
        except sa.exc.TimeoutError as error:
            raise UnavailableError("Too many calls use the database at the same time: try again.") from error


def is_url(location: object) -> bool:
    """Tell whether a location is the URL of a database."""
    return isinstance(location, str) and location.startswith(URL_SCHEMES)


def _backend(location: Path | str, *, durable: bool) -> Backend:
    if isinstance(location, Path):
        from neptune_api.server.store.sqlite import Folder

        return Folder(location, durable=durable)
    from neptune_api.server.store.postgresql import Address

    return Address(location)
