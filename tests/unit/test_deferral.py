"""What a server makes when it is first needed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from neptune_api.server.deferral import Deferred, DeferredStore
from neptune_api.server.store.database import Database
from neptune_api.server.store.faults import StoreClosedError
from neptune_api.server.store.store import Store, Submission

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
import sys, urllib.request
from neptune_api.server.testing import ScriptedServer
from neptune_api.models import CreateProjectRequest, CreateRunRequest, DeleteProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

def loaded():
    return sorted({"numpy", "re2", "uvicorn"} & set(sys.modules))

with ScriptedServer() as server, server.channel() as channel:
    projects = ProjectsServiceStub(channel)
    for name in "ab":
        projects.CreateProject(CreateProjectRequest(name=name, organization_identifier="local"))
    projects.DeleteProject(DeleteProjectRequest(project_identifier="local/b"))
    print(loaded())
    RunsServiceStub(channel).CreateRun(CreateRunRequest(project_identifier="local/a", run_id="r"))
    print(loaded())
    urllib.request.urlopen(f"{server.http_url}/healthz").close()
    print(loaded())
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path)
    yield opened
    opened.close()


def test_calls_load_what_they_need() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['numpy']", "['numpy', 'uvicorn']"]


def test_many_who_ask_get_the_same() -> None:
    def make() -> object:
        time.sleep(0.05)  # so that the others come in between
        return object()

    deferred = Deferred(make)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: deferred.get(), range(8)))
    assert len(set(map(id, made))) == 1


def test_what_fails_is_tried_again() -> None:
    results: Iterator[object] = iter([ValueError("not yet"), 5])

    def make() -> object:
        result = next(results)
        if isinstance(result, ValueError):
            raise result
        return result

    deferred = Deferred(make)
    with pytest.raises(ValueError, match="not yet"):
        deferred.get()
    assert deferred.get() == 5


def test_a_store_with_something_to_apply_is_opened_at_the_start(database: Database) -> None:
    left = Store(database)
    (request,) = left.submit_many([Submission(b"\xff", user_id=1, project_id=None)])
    left.close()
    deferred = DeferredStore(database, time.time)
    deferred.start()
    try:
        assert deferred._store is not None
        assert deferred.get().wait_applied([request], 10)
    finally:
        deferred.close()


def test_a_store_with_nothing_to_apply_is_opened_by_the_first_who_needs_it(database: Database) -> None:
    deferred = DeferredStore(database, time.time)
    applying = [deferred.applying]
    deferred.start()
    assert deferred._store is None
    applying.append(deferred.applying)
    applying.append(deferred.get().applying)
    deferred.close()
    assert [*applying, deferred.applying] == [False, True, True, False]


def test_while_somebody_writes_alone_the_store_is_not_opened(database: Database) -> None:
    deferred = DeferredStore(database, time.time)
    deferred.start()
    opening = threading.Thread(target=deferred.get)
    with deferred.exclusive() as connection:
        opening.start()
        opening.join(0.1)
        assert opening.is_alive()
        assert connection.in_transaction()
    opening.join(10)
    assert deferred._store is not None
    with deferred.exclusive() as connection:
        assert connection.in_transaction()
    deferred.close()


def test_a_closed_store_is_not_opened(database: Database) -> None:
    deferred = DeferredStore(database, time.time)
    deferred.start()
    deferred.close()
    with pytest.raises(StoreClosedError):
        deferred.get()
    with pytest.raises(StoreClosedError), deferred.exclusive():
        pass
