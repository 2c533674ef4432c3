"""Leases: which server process applies the operations of a project, when several share a database.

Every process that serves a PostgreSQL database has a number that nobody had before, and holds a lock of that number for
as long as it lives: PostgreSQL lets go of it when the connection ends, however the process ends, so no clock decides
who is alive. The table `leases` says which number a project belongs to. A process takes a project when it belongs to
nobody, or to a number whose lock is free, and keeps it: what it remembers of the project's runs stays right.

A lease is confirmed in every transaction that writes for it, with a lock on its row. Whoever was taken for dead,
because only that one connection broke, finds out before it has written anything.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa

from neptune_api.server.store import schema
from neptune_api.server.store.faults import DatabaseFaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    import psycopg

    from neptune_api.server.store.database import Database
    from neptune_api.server.store.postgresql import Address

    class Leases(Protocol):
        """Say which projects this process applies."""

        def start(self) -> None:
            """Begin to hold leases and to hear of the work of other processes."""

        def stop(self) -> None:
            """Leave every project to others."""

        def claim(self, projects: sa.Select[int]) -> Collection[int] | None:
            """Return those of the queried projects that are this process's now, free ones included; None is all."""

        def confirm(self, connection: sa.Connection, projects: Collection[int]) -> None:
            """Raise LeaseLostError unless this process has the projects, and keep them its own in the transaction."""

        def suspend(self, connection: sa.Connection) -> None:
            """Keep every process from applying anything during the transaction, and let it forget what it remembers."""


_LOG: Final = logging.getLogger(__name__)
NO_PROJECT: Final = 0
"""The lease for operations without a project."""

_NUMBER_BITS: Final = 62
_RETRY_SECONDS: Final = 1.0
_LISTEN_SECONDS: Final = 1.0
# Of a process that vanished without a word, such as with its machine: seconds, seconds, times.
_SERVER_KEEPALIVE: Final = {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}


class LeaseLostError(Exception):
    """Report that a project is another process's now: what was worked out for it is void."""


class SoleOwner:
    """The leases of a process that has its database for itself: everything, always."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def claim(self, projects: sa.Select[int]) -> None:
        """Return None: all projects."""

    def confirm(self, connection: sa.Connection, projects: Collection[int]) -> None:
        """Do nothing: nobody can have taken a project."""

    def suspend(self, connection: sa.Connection) -> None:
        """Do nothing: the caller keeps this process from applying."""


class SharedLeases:
    """The leases of one of several processes."""

    def __init__(
        self,
        database: Database,
        *,
        forget: Callable[[], None],
        accepted: Callable[[], None],
        applied: Callable[[], None],
    ) -> None:
        """Take what to call: when a project is taken, when a process has accepted operations, when one has applied."""
        self._database = database
        self._address = cast("Address", database.backend)
        self._forget = forget
        self._heard: Final = {"accepted": accepted, "applied": applied}
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._number: int | None = None
        self._thread = threading.Thread(target=self._run, name="neptune-leases", daemon=True)

    def start(self) -> None:
        """Begin to hold leases and to hear of the work of other processes."""
        self._thread.start()
        self._ready.wait(_RETRY_SECONDS)

    def stop(self) -> None:
        """Leave every project to others: they find the lock of this process free."""
        self._stopping.set()
        if self._number is not None:
            with contextlib.suppress(DatabaseFaultError), self._database.write(serial=False) as connection:
                self._database.announce(connection, "accepted")  # wakes the thread, and whoever takes over
        if self._thread.is_alive():
            self._thread.join(2 * _LISTEN_SECONDS)

    def claim(self, projects: sa.Select[int]) -> Collection[int]:
        """Return those of the queried projects that are this process's now; free ones are taken."""
        number = self._number
        if number is None:
            return ()
        wanted, leases = projects.distinct().subquery(), schema.leases
        key = wanted.c[0]
        query = sa.select(key, leases.c.holder).select_from(wanted.outerjoin(leases, leases.c.project_id == key))
        with self._database.read() as connection:
            found = connection.execute(query).all()
        taken = [project for project, holder in found if holder != number and self._take(project, holder, number)]
        if taken:
            self._forget()
        return [project for project, holder in found if holder == number] + taken

    def confirm(self, connection: sa.Connection, projects: Collection[int]) -> None:
        """Raise LeaseLostError unless this process has the projects, and keep them its own in the transaction."""
        leases = schema.leases
        query = sa.select(leases.c.project_id).where(
            leases.c.project_id.in_(projects), leases.c.holder == (self._number or -1)
        )
        held = connection.scalars(query.order_by(leases.c.project_id).with_for_update()).all()
        if len(held) < len(set(projects)):
            raise LeaseLostError

    def suspend(self, connection: sa.Connection) -> None:
        """Keep every process from applying anything during the transaction, and let it forget what it remembers."""
        connection.execute(sa.text("LOCK TABLE leases IN EXCLUSIVE MODE"))
        leases = schema.leases
        connection.execute(leases.update().where(leases.c.holder != (self._number or -1)).values(holder=None))

    def _take(self, project: int, holder: int | None, number: int) -> bool:
        """Take a project from a holder that is gone, and tell whether that worked."""
        from sqlalchemy.dialects.postgresql import insert  # with it SQLite would take long to start

        leases = schema.leases
        with self._database.write(serial=False) as connection:
            if holder is not None and not connection.scalar(
                sa.select(sa.func.pg_try_advisory_xact_lock_shared(holder))
            ):
                return False
            take = insert(leases).values(project_id=project, holder=number)
            take = take.on_conflict_do_update(
                index_elements=[leases.c.project_id],
                set_={"holder": number},
                where=leases.c.holder.is_not_distinct_from(holder),
            )
            return connection.scalar(take.returning(leases.c.project_id)) is not None

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._address.connect() as connection:
                    self._introduce(connection)
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001 # nothing may end this thread
                if not self._stopping.is_set():
                    _LOG.warning("No connection to the database for leases (%s); trying again", type(error).__name__)
            had_number, self._number = self._number is not None, None
            if not had_number:
                self._stopping.wait(_RETRY_SECONDS)

    def _introduce(self, connection: psycopg.Connection[Any]) -> None:
        for name, value in _SERVER_KEEPALIVE.items():
            connection.execute(f"SET {name} = {value}")
        connection.execute(f"LISTEN {self._address.channel}")
        number = secrets.randbits(_NUMBER_BITS) + 1
        connection.execute("SELECT pg_advisory_lock(%s::bigint)", (number,))
        self._number = number
        self._ready.set()
        self._heard["accepted"]()

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        while not self._stopping.is_set():
            for message in connection.notifies(timeout=_LISTEN_SECONDS, stop_after=1):
                self._heard.get(message.payload, lambda: None)()
