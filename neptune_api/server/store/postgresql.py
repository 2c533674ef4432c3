"""PostgreSQL at a URL, for one server process or several."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from neptune_api.server.store.faults import DatabaseFaultError, DiskFullError, StoreError, UnavailableError

try:
    import psycopg
except ModuleNotFoundError as missing:
    raise StoreError(
        'PostgreSQL needs the package psycopg, which is not installed: pip install "neptune-api[server,postgres]"'
    ) from missing

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from neptune_api.server.store.database import Event

# PostgreSQL allows 100 connections unless told otherwise, and several servers share them. A stream keeps one.
_POOL_SIZE: Final = 8
_OVERFLOW: Final = 32
# Any number that no other program takes: "neptune" in ASCII.
_SERIAL_LOCK: Final = 0x6E657074756E65
_DISK_FULL: Final = "53100"
# Classes of SQLSTATE that tell of the server's condition: no connection, no resources, an operator steps in, an error
# of the system; then single ones: deadlock, serialization, lock not available, a standby that takes no writes.
_CONDITIONS: Final = ("08", "53", "57P", "58", "40P01", "40001", "55P03", "25006")
_PARAMETERS: Final[dict[str, Any]] = {
    "application_name": "neptune-api",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class _BinaryCursor(psycopg.Cursor[Any]):
    """Ask for results in binary: in text, bytes have twice their size and take ten times as long."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.format = psycopg.pq.Format.BINARY


class _BinaryServerCursor(psycopg.ServerCursor[Any]):
    """Do as _BinaryCursor, for results that come in parts."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.format = psycopg.pq.Format.BINARY


class Address:
    """The database at a URL: `postgresql://user:password@host:port/database`, with libpq's parameters in its query.

    Whoever reads sees one snapshot (REPEATABLE READ). Whoever writes sees what is committed before each of its
    statements (READ COMMITTED), so that what a lock has protected is seen once the lock is there.
    """

    channel: Final = "neptune_api"
    """Of NOTIFY; the payload is an Event."""

    def __init__(self, url: str) -> None:
        """Take a URL; nothing is connected yet. Raises StoreError when it is none."""
        try:
            self._url = sa.make_url(url).set(drivername="postgresql+psycopg")
        except (sa.exc.ArgumentError, ValueError) as error:
            raise StoreError(
                "The store's URL cannot be read; it looks like postgresql://user:password@host:port/database, with "
                "special characters of the password percent-encoded."
            ) from error
        if not self._url.database:
            raise StoreError(f"The store's URL {self.url} names no database: put its name after the last slash.")
        self.label: Final = f"The database {self.url}"
        self.engine: Final = sa.create_engine(
            self._url,
            pool_size=_POOL_SIZE,
            max_overflow=_OVERFLOW,
            isolation_level="REPEATABLE READ",
            # So that statements can go to the driver with their parameters in order, as with SQLite.
            paramstyle="format",
            use_native_hstore=False,
            connect_args=_PARAMETERS,
        )
        event.listen(self.engine, "connect", _configure)

    @property
    def url(self) -> str:
        """The URL without its password."""
        return self._url.set(drivername="postgresql", password=None).render_as_string()

    @contextlib.contextmanager
    def writing(self, *, serial: bool) -> Iterator[sa.Connection]:
        """Give a connection in a transaction."""
        with (
            self.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
            connection.begin(),
        ):
            if serial:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SERIAL_LOCK)))
            yield connection

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection outside of the pool, in autocommit; the caller closes it."""
        _, options = self.engine.dialect.create_connect_args(self._url)
        options.update(_PARAMETERS, autocommit=True)
        connection: psycopg.Connection[Any] = psycopg.connect(**options)
        return connection

    def fault(self, error: sa.exc.DBAPIError) -> DatabaseFaultError | None:
        """Return what an error says of the database; None when the statement is at fault."""
        state: str | None = getattr(error.orig, "sqlstate", None)
        if state == _DISK_FULL:
            return DiskFullError(
                "The database's disk is full: nothing that was acknowledged is lost, but nothing more is taken until "
                "there is space."
            )
        no_state = state is None and isinstance(error.orig, psycopg.OperationalError)
        if error.connection_invalidated or no_state or (state or "").startswith(_CONDITIONS):
            return UnavailableError(f"The database does not answer as it should: {self.reason(error)}.")
        return None

    def reason(self, error: sa.exc.DBAPIError) -> str:
        """Return what the driver says, on one line, without a full stop or the password."""
        lines = [line.strip(" \t-") for line in str(error.orig).strip().splitlines()] or [type(error.orig).__name__]
        # A host with several addresses: a headline, then a line each.
        text = (lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]).rstrip(".")
        text = text.removeprefix("connection failed: ")
        password = self._url.password
        return text.replace(str(password), "***") if password else text

    def announce(self, connection: sa.Connection, event: Event) -> None:
        """Notify every process that shares the database, this one included."""
        connection.execute(sa.select(sa.func.pg_notify(self.channel, event)))

    def tidy(self, until: threading.Event) -> None:
        """Do nothing: the database's own vacuum does."""

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _configure(connection: psycopg.Connection[Any], _record: Any) -> None:
    connection.cursor_factory = _BinaryCursor
    connection.server_cursor_factory = _BinaryServerCursor
