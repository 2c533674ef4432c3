"""What is made when it is first needed, because what it is made of takes long to import.

A server answers its first call sooner by as much, and a test that never searches never pays for searching.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import sqlalchemy as sa

from neptune_api.server.store import schema
from neptune_api.server.store.faults import StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.server.store.database import Database
    from neptune_api.server.store.store import Store

T = TypeVar("T")


class Deferred(Generic[T]):
    """Something that is made once, by the first who asks for it, while others wait."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._lock = threading.Lock()
        self._make = make
        self._made: list[T] = []

    def get(self) -> T:
        """Return it. Raises what making it raises, and tries again the next time."""
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]


class DeferredServicer(Deferred[object]):
    """A servicer that is made when one of its RPCs is called."""

    def __init__(self, base: type, make: Callable[[], object]) -> None:
        """Take the generated class it is a subclass of, and what makes it."""
        super().__init__(make)
        self.base = base


class DeferredStore:
    """The store of a server, opened when it is first needed; at the start, when there is something to apply."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._started = False
        self._closed = False

    def get(self) -> Store:
        """Return the store. Raises StoreClosedError after close()."""
        if self._store is None:
            with self._lock:
                if self._store is None:
                    if self._closed:
                        raise StoreClosedError
                    self._store = self._open()
        return self._store

    def start(self) -> None:
        """Begin to apply, what an earlier server left in the log first."""
        with self._lock:
            self._started = True
            if self._store is not None:
                self._store.start()
        if self._may_have_work():
            self.get()

    def close(self) -> None:
        """Accept no more, commit what waits, stop applying. What is accepted stays in the log for the next start."""
        with self._lock:
            self._closed = True
        if self._store is not None:
            self._store.close()

    @property
    def applying(self) -> bool:
        """True while accepted operations are, or would be, applied."""
        return self._started and not self._closed if self._store is None else self._store.applying

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[sa.Connection]:
        """Give a write connection while nothing is applied."""
        with self._lock:
            if self._store is None and not self._closed and not self._database.is_shared:
                # Nothing is, before the store is opened, and that has to wait.
                with self._database.write() as connection:
                    yield connection
                return
        with self.get().exclusive() as connection:
            yield connection

    def _open(self) -> Store:
        from neptune_api.server.store.store import Store

        store = Store(self._database, self._clock)
        if self._started:
            store.start()
        return store

    def _may_have_work(self) -> bool:
        """Tell whether operations wait, or points that are to be moved; others may leave them in a shared database."""
        if self._database.is_shared:
            return True
        anything = sa.or_(sa.exists(sa.select(schema.operations)), sa.exists(sa.select(schema.runs)))
        with self._database.read() as connection:
            return bool(connection.scalar(sa.select(anything)))
