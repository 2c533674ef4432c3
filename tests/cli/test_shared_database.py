"""Server processes that share a PostgreSQL database, and URLs that lead to none."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from signal import SIGKILL
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

import neptune_api
from neptune_api.conformance.operations import START_MS, append, create
from neptune_api.exceptions import NeptuneApiError
from neptune_api.models import CreateProjectRequest, GetUserIdentityRequest
from neptune_api.options import IDEMPOTENCY_KEY
from neptune_api.server import LocalServer
from neptune_api.server.store import schema
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests.cli.processes import COMMAND, Serving, environment, run
from tests.postgres import PASSWORD
from tests.stores import read_content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import grpc

    from neptune_api.server.store.database import Database
    from tests.postgres import PostgresServer

WRITERS, POINTS = 4, 90


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.create_database()


@pytest.fixture
def serve(url: str, tmp_path: Path) -> Iterator[Callable[[], Serving]]:
    """A function that starts one more server process on the database."""
    with ExitStack() as undo:

        def start() -> Serving:
            ready = tmp_path / f"ready{len(list(tmp_path.iterdir()))}.json"
            (tmp_path / f"taken-{ready.name}").touch()
            process = undo.enter_context(
                subprocess.Popen(
                    [*COMMAND, "serve", "--ready-file", str(ready)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=environment(NEPTUNE_API_STORE=url),
                )
            )
            undo.callback(process.kill)
            return Serving(process, ready)

        yield start


def test_a_token_of_one_server_is_valid_on_the_other(url: str) -> None:
    with LocalServer(store=url) as first, LocalServer(store=url) as second:
        assert first.grpc_target != second.grpc_target
        with neptune_api.channel(second.grpc_url, api_token=first.api_token) as channel:
            assert UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username == "owner"
        user = first.create_user("ann")
        with neptune_api.channel(second.grpc_url, api_token=user) as channel:
            assert UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username == "ann"


def test_a_killed_server_loses_nothing_and_doubles_nothing(serve: Callable[[], Serving], url: str) -> None:
    first = serve()
    with _channel(first) as channel:
        ProjectsServiceStub(channel).CreateProject(CreateProjectRequest(name="lab", organization_identifier="local"))
        IngestServiceStub(channel).Submit(create())
    second = serve()
    halfway = threading.Semaphore(0)

    def write(number: int) -> list[str]:
        """Write points in turns through both servers; what fails is sent again with its key, as our channel does."""
        ids: list[str] = []
        with _channel(first) as one, _channel(second) as other:
            stubs = [IngestServiceStub(one), IngestServiceStub(other)]
            for point in range(POINTS):
                if point == POINTS // 3:
                    halfway.release()
                operation = append({f"m{number}": float(point)}, point)
                metadata = ((IDEMPOTENCY_KEY, f"{number}-{point}"),)
                while len(ids) == point:
                    try:
                        ids += stubs[point % len(stubs)].Submit(operation, metadata=metadata, timeout=20).request_ids
                    except NeptuneApiError:
                        stubs = stubs[-1:]  # the first server is gone
        return ids

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, number) for number in range(WRITERS)]
        for _ in writers:
            assert halfway.acquire(timeout=60)
        first.end(SIGKILL)
        ids = [request_id for writer in writers for request_id in writer.result()]
    assert len(set(ids)) == WRITERS * POINTS
    with LocalServer(store=url) as third:
        outcomes = third._running._store.wait_applied(ids, 60)
        assert len(outcomes) == len(ids)
        content = read_content(third._running._database, "run")
        assert waiting(third._running._database) == 0
    for number in range(WRITERS):
        expected = [(point * 1_000_000, START_MS, float(point)) for point in range(POINTS)]
        assert content.points[f"m{number}"] == expected
    assert content.totals == {f"m{number}": POINTS for number in range(WRITERS)}


def waiting(database: Database) -> int | None:
    with database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.operations))


def _channel(server: Serving) -> grpc.Channel:
    retry = neptune_api.RetryPolicy(max_attempts=2)
    options = neptune_api.ChannelOptions(retry=retry)
    return neptune_api.channel(api_token=server.ready["api_token"], options=options)


# What cannot be served


def test_without_the_driver(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; from neptune_api.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for command in (("serve", "--store", "postgresql://h/d"), ("doctor", "postgresql://h/d")):
        done = subprocess.run(
            [sys.executable, "-c", program, *command], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            'PostgreSQL needs the package psycopg, which is not installed: pip install "neptune-api[server,postgres]"\n'
        )


def refused(folder: Path, *arguments: str, **changes: str) -> str:
    result = run(folder, "serve", *arguments, **changes)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert PASSWORD not in result.err
    return result.err


def test_a_database_that_is_not_there(postgres: PostgresServer, tmp_path: Path) -> None:
    said = refused(tmp_path, "--store", f"postgresql://ann:{PASSWORD}@127.0.0.1:1/none")
    assert said.startswith("The database postgresql://ann:***@127.0.0.1:1/none cannot be used: ")
    assert "Connection refused" in said
    assert 'database "none" does not exist' in refused(tmp_path, "--store", postgres.url("none"))


def test_a_wrong_password(postgres: PostgresServer, tmp_path: Path) -> None:
    wrong = quote("not/it")
    said = refused(tmp_path, NEPTUNE_API_STORE=postgres.url(password=wrong))
    assert "password authentication failed for user" in said
    assert wrong not in said
    assert "not/it" not in said


def test_a_database_of_a_newer_version(url: str, tmp_path: Path) -> None:
    LocalServer(store=url).start().stop()
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(schema.alembic_version.update().values(version_num="0999"))
    engine.dispose()
    said = refused(tmp_path, "--store", url)
    assert "has schema version 0999" in said
    assert "use a newer neptune-api" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Say where the data is: --data DIR, --store URL, or the URL in NEPTUNE_API_STORE."),
        (("--store", "mysql://host/data"), "The store is the URL of a PostgreSQL database: postgresql://"),
        (("--store", "postgresql://host"), "names no database"),
        (("--store", f"postgresql://ann:{PASSWORD}@host:port/data"), "The store's URL cannot be read"),
    ],
)
def test_urls_that_name_no_database(tmp_path: Path, arguments: Any, sentence: str) -> None:
    assert sentence in refused(tmp_path, *arguments)
