"""A disk that is full, a database that refuses to be written, a clock that goes backwards: nothing is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

import neptune_api
from neptune_api import exceptions
from neptune_api.conformance.operations import append, assign, create
from neptune_api.models import CreateProjectRequest, GetProjectRequest
from neptune_api.server import LocalServer
from neptune_api.server.store import schema
from neptune_api.server.store.faults import DiskFullError, UnavailableError
from neptune_api.server.store.postgresql import Address
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.server.store.database import Database
    from tests.postgres import PostgresServer

KIB = "x" * 1024


class Disk:
    """The size of the disk, as SQLite sees it: its own limit of pages, whose excess is the same error."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limit = 1 << 30
        sa.event.listen(database._engine, "checkout", self._apply)

    def fill(self) -> None:
        """Leave room for a few pages more."""
        with self._database.read() as connection:
            self._limit = int(connection.exec_driver_sql("PRAGMA page_count").scalar_one()) + 12

    def clear(self) -> None:
        self._limit = 1 << 30

    def _apply(self, connection: Any, _record: Any, _proxy: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={self._limit}")


def reason_of(error: pytest.ExceptionInfo[exceptions.NeptuneApiError]) -> str:
    info = error.value.error_info
    assert info is not None
    return info.reason


# A full disk


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as server, server.channel() as channel:
        projects, ingest = ProjectsServiceStub(channel), IngestServiceStub(channel)
        projects.CreateProject(CreateProjectRequest(name="lab", organization_identifier="local"))
        ingest.Submit(create())
        disk = Disk(server._running._database)
        disk.fill()
        accepted: list[str] = []
        with pytest.raises(neptune_api.exceptions.ResourceExhaustedException) as error:  # noqa: PT012 # at some point
            for number in range(1000):
                accepted += ingest.Submit(assign({f"a{number}": KIB})).request_ids
        assert reason_of(error) == "DISK_FULL"
        assert "The server's disk is full: nothing that was acknowledged is lost" in (error.value.details() or "")
        with pytest.raises(neptune_api.exceptions.ResourceExhaustedException):  # noqa: PT012 # as above
            for number in range(1000):
                request = CreateProjectRequest(name=f"p{number}", organization_identifier="local", description=KIB)
                projects.CreateProject(request)
        # Reading goes on.
        assert projects.GetProject(GetProjectRequest(project_identifier="local/lab")).name == "lab"
        disk.clear()
        accepted += ingest.Submit(assign({"last": KIB})).request_ids
        outcomes = server._running._store.wait_applied(accepted, 30)
        assert len(outcomes) == len(accepted) > 1
        with server._running._database.read() as connection:
            names = set(connection.scalars(sa.select(schema.attributes.c.name)))
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        assert names >= {*(f"a{number}" for number in range(len(accepted) - 1)), "last"}


def test_applying_waits_for_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Bench(tmp_path) as bench:
        bench.apply_one(create())
        disk = Disk(bench.database)
        with bench.store._applier._standing_still:
            ids = bench.submit(*(append({"m": float(number)}, number) for number in range(20)), *big_values())
            disk.fill()
        with pytest.raises(TimeoutError):
            bench.store.wait_applied(ids, 0.5)
        disk.clear()
        assert bench.results(ids) == [{"OK": 1}] * len(ids)
        assert [point[2] for point in bench.content("run").points["m"]] == [float(number) for number in range(20)]
    waits = [record.getMessage() for record in caplog.records if "Applying" in record.getMessage()]
    assert waits[0].startswith("Applying waits for the database: The server's disk is full")
    assert waits[1:] == ["Applying goes on"]


def big_values() -> Iterator[Any]:
    return (assign({f"v{number}": KIB * 10}) for number in range(20))


def test_every_way_to_write_says_so(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        bench.store._applier.stop(5)
        disk = Disk(bench.database)
        disk.fill()
        with pytest.raises(DiskFullError, match="disk is full"):
            bench.submit(*(assign({"a": KIB * 100}) for _ in range(10)))
        with pytest.raises(DiskFullError), bench.database.write() as connection:
            connection.execute(schema.meta.insert(), [{"key": f"k{n}", "value": KIB * 10} for n in range(100)])
        with bench.database.read() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(schema.operations)) == 0


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        bench.apply_one(create())
        read_only = True

        def refuse(connection: Any, _record: Any, _proxy: Any) -> None:
            connection.execute(f"PRAGMA query_only={read_only}")

        sa.event.listen(bench.database._engine, "checkout", refuse)
        with pytest.raises(UnavailableError, match="attempt to write a readonly database"):
            bench.submit(assign({"a": 1}))
        assert bench.content("run").values
        read_only = False
        assert bench.apply_one(assign({"a": 1})) == {"OK": 1}


def test_the_status_of_a_database_that_cannot_be_written() -> None:
    with LocalServer() as server, server.channel(options=neptune_api.ChannelOptions(retry=None)) as channel:
        sa.event.listen(
            server._running._database._engine,
            "checkout",
            lambda connection, *_: connection.execute("PRAGMA query_only=1"),
        )
        with pytest.raises(exceptions.UnavailableException) as error:
            ProjectsServiceStub(channel).CreateProject(
                CreateProjectRequest(name="lab", organization_identifier="local"), timeout=20
            )
        assert reason_of(error) == "DATABASE_UNAVAILABLE"
        assert "data folder cannot be used now" in (error.value.details() or "")


def connect_anew(bench: Bench) -> None:
    # Of a pool that is gone nobody closes the connections that are in use.
    with bench.store._applier._standing_still:
        bench.database._engine.dispose()


def test_a_postgresql_database_that_takes_no_writes(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with Bench(url) as bench:
        bench.apply_one(create())
        name = url.rpartition("/")[2]
        with psycopg.connect(postgres.url(), autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
            connect_anew(bench)
            with pytest.raises(UnavailableError, match="read-only transaction"):
                bench.submit(assign({"a": 1}))
            assert bench.content("run").values
            admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        connect_anew(bench)
        assert bench.apply_one(assign({"a": 1})) == {"OK": 1}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.DiskFull("no space left"), DiskFullError),
        (psycopg.errors.AdminShutdown("terminating connection"), UnavailableError),
        (psycopg.errors.TooManyConnections("too many clients"), UnavailableError),
        (psycopg.errors.DeadlockDetected("deadlock"), UnavailableError),
        (psycopg.OperationalError("server closed the connection"), UnavailableError),
        (psycopg.errors.UniqueViolation("duplicate key"), type(None)),
        (psycopg.errors.UndefinedTable("no such table"), type(None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_postgresql_says(error: psycopg.Error, expected: type) -> None:
    address = Address("postgresql://ann:secret@127.0.0.1:1/none")
    fault = address.fault(sa.exc.DBAPIError("SELECT 1", {}, error))
    assert type(fault) is expected
    address.close()


# The clock


@dataclass
class Clock:
    """A clock that a test sets back by hours."""

    hours: int = 0

    def __call__(self) -> float:
        return time.time() - self.hours * 3600


def test_points_without_a_time_are_taken_after_the_clock_was_set_back(tmp_path: Path) -> None:
    clock = Clock()
    with Bench(tmp_path, clock=clock) as bench:
        bench.apply(create(), append({"m": 1.0, "t": "a"}, 1, None))
        clock.hours = 24
        assert bench.apply(append({"m": 2.0, "t": "b"}, 2, None), append({"n": 1.0}, 1, None)) == [{"OK": 2}, {"OK": 1}]
        points = bench.content("run").points
        assert points["m"][0][1] == points["m"][1][1] == points["t"][1][1]
        # A series of its own begins at the time it is now.
        assert points["n"][0][1] <= points["m"][0][1] - 23 * 3_600_000
        # Times that a client sends are its own affair.
        assert bench.apply_one(append({"m": 3.0}, 3, points["n"][0][1])) == {"SERIES_TIMESTAMP_DECREASING": 1}


def test_times_of_a_run_do_not_go_backwards(tmp_path: Path) -> None:
    names = ("sys/modification_time", "sys/ping_time")
    clock = Clock()
    with Bench(tmp_path, clock=clock) as bench:
        bench.apply(create(), assign({"a": 1}))
        before = [bench.content("run").values[name] for name in names]
        clock.hours = 24
        assert bench.apply_one(assign({"a": 2})) == {"OK": 1}
        assert [bench.content("run").values[name] for name in names] == before


def test_order_and_ids_do_not_depend_on_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    with Bench(tmp_path, clock=clock) as bench:
        with bench.store._applier._standing_still:
            ids = bench.submit(create())
            clock.hours = 48
            ids += bench.submit(append({"m": 1.0}, 1), assign({"a": 1}))
            clock.hours = 24
            ids += bench.submit(append({"m": 2.0}, 2), assign({"a": 2}))
        assert bench.results(ids) == [{"OK": 1}] * 5
        content = bench.content("run")
        assert [point[2] for point in content.points["m"]] == [1.0, 2.0]
        assert content.values["a"][1] == 2
        assert len(set(ids)) == 5


def test_outcomes_outlive_a_clock_that_went_backwards(tmp_path: Path) -> None:
    clock = Clock()
    with Bench(tmp_path, clock=clock) as bench:
        ids = bench.submit(create())
        bench.results(ids)
        clock.hours = 24 * 365
        bench.store._log.forget()
        assert bench.store.outcomes(ids) != [None]
