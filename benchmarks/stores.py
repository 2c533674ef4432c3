"""The stores that queries are measured on: a folder, and a PostgreSQL server of the benchmarks' own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.processes import Server
from neptune_api.server.store.database import Database
from tests.postgres import PostgresMissingError, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.rounds import Bench


@dataclass(frozen=True, slots=True)
class MeasuredStore:
    """A new, empty store."""

    name: str
    folder: Path
    url: str | None = None

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open it, while no server does."""
        database = Database(self.url or self.folder)
        try:
            yield database
        finally:
            database.close()

    def server(self) -> AbstractContextManager[Server]:
        """Return a server over it, as a process of its own."""
        return Server(self.folder, store=self.url)


def sqlite(bench: Bench) -> MeasuredStore:
    """Return a folder of its own."""
    return MeasuredStore("SQLite", bench.folder / "sqlite")


@contextmanager
def postgresql(bench: Bench) -> Iterator[MeasuredStore | None]:
    """Give a database of a PostgreSQL server of its own; None, with a note, where there is no PostgreSQL."""
    try:
        postgres = PostgresServer()
    except PostgresMissingError as error:
        bench.note(f"PostgreSQL was not measured: it cannot be started ({error}).")
        yield None
        return
    try:
        yield MeasuredStore("PostgreSQL", bench.folder / "postgresql", postgres.create_database())
    finally:
        postgres.stop()


def stores(bench: Bench) -> Iterator[MeasuredStore]:
    """Yield the stores one after the other; what is in one is gone when the next one comes."""
    yield sqlite(bench)
    with postgresql(bench) as store:
        if store is not None:
            yield store
