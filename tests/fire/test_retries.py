"""A server that says no for a while: who asks again, how often, when, and that no write counts twice."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import code_pb2

from neptune_api.conformance.operations import START_MS, create, snapshot, update
from neptune_api.exceptions import (
    DeadlineExceededException,
    ResourceExhaustedException,
    UnavailableException,
)
from neptune_api.options import IDEMPOTENCY_KEY, ChannelOptions, RetryPolicy
from neptune_api.v1.ingest_service_pb2 import GetRequestStatusRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, GetProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2 import ListRunsRequest
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests.fire.streams import assert_stored, batch, losses, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection
    from neptune_api.server.testing import ScriptedServer
    from neptune_api.server.testing.faults import Faults
    from tests.fire.wires import Wire

    Script = Callable[[Faults, str], None]

SLOW = RetryPolicy(initial_backoff=30, max_backoff=30)
"""Whose own waits are so long that a test would not live to see their end."""
QUICK = RetryPolicy(initial_backoff=0.01)
EARLY = 0.01
"""Seconds by which clocks of a machine may differ."""


@pytest.fixture
def connect(neptune_server: ScriptedServer, wire: Wire) -> Callable[[RetryPolicy | None], Connection]:
    """A function that opens a channel to the server, which has its token."""

    def opened(retry: RetryPolicy | None) -> Connection:
        target = neptune_server.http_url if wire.http else neptune_server.grpc_url
        connection = wire.connect(target, api_token=neptune_server.api_token, options=ChannelOptions(retry=retry))
        identify(connection)
        neptune_server.recorder.clear()
        return connection

    return opened


def identify(connection: Connection, timeout: float | None = None) -> str:
    """Call a method that changes nothing."""
    name: str = connection.stub(UsersServiceStub).GetUserIdentity(GetUserIdentityRequest(), timeout=timeout).username
    return name


def waits(server: ScriptedServer, method: str = "GetUserIdentity") -> list[float]:
    """Return the seconds between the attempts of a call."""
    came = [call.came_at for call in server.recorder.calls(method)]
    return [later - earlier for earlier, later in itertools.pairwise(came)]


def busy(faults: Faults, method: str) -> None:
    """429 with Retry-After, RESOURCE_EXHAUSTED with RetryInfo."""
    faults.throttle(0.2, method=method)


def away(faults: Faults, method: str) -> None:
    """503 with Retry-After, UNAVAILABLE with RetryInfo."""
    faults.fail(grpc.StatusCode.UNAVAILABLE, method=method, retry_after=0.2)


@pytest.mark.parametrize("script", [busy, away])
def test_the_wait_that_a_server_asks_for_is_kept(
    neptune_server: ScriptedServer, connect: Callable[..., Connection], script: Script
) -> None:
    connection = connect(SLOW)
    for _ in range(2):
        script(neptune_server.faults, "GetUserIdentity")
    assert identify(connection) == neptune_server.username
    first, second = waits(neptune_server)
    assert 0.2 - EARLY <= first < 10
    assert 0.2 - EARLY <= second < 10


def test_without_a_word_of_the_server_waits_grow(
    neptune_server: ScriptedServer, connect: Callable[..., Connection]
) -> None:
    connection = connect(RetryPolicy(initial_backoff=0.1, multiplier=3, max_attempts=4, max_backoff=0.5))
    neptune_server.faults.fail(grpc.StatusCode.UNAVAILABLE, method="GetUserIdentity", times=3)
    assert identify(connection) == neptune_server.username
    for wait, least in zip(waits(neptune_server), (0.1, 0.3, 0.5), strict=True):
        assert wait >= 0.8 * least - EARLY


@pytest.mark.parametrize("attempts", [1, 3, 5])
def test_there_are_as_many_attempts_as_allowed(
    neptune_server: ScriptedServer, connect: Callable[..., Connection], attempts: int
) -> None:
    connection = connect(RetryPolicy(initial_backoff=0.01, max_attempts=attempts))
    neptune_server.faults.fail(grpc.StatusCode.UNAVAILABLE, "Closed for today.", method="GetUserIdentity", times=None)
    with pytest.raises(UnavailableException, match="Closed for today"):
        identify(connection)
    assert len(neptune_server.recorder.calls("GetUserIdentity")) == attempts


def test_a_server_can_say_that_there_is_no_use(
    neptune_server: ScriptedServer, connect: Callable[..., Connection]
) -> None:
    connection = connect(QUICK)
    neptune_server.faults.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too large.", method="GetUserIdentity", times=None)
    with pytest.raises(ResourceExhaustedException, match="Too large"):
        identify(connection)
    assert len(neptune_server.recorder.calls("GetUserIdentity")) == 1


def test_no_wait_is_longer_than_the_deadline(
    neptune_server: ScriptedServer, connect: Callable[..., Connection]
) -> None:
    connection = connect(QUICK)
    neptune_server.faults.throttle(3600, method="GetUserIdentity", times=None)
    begin = time.monotonic()
    with pytest.raises((DeadlineExceededException, ResourceExhaustedException)):
        identify(connection, timeout=0.3)
    assert time.monotonic() - begin < 5
    assert len(neptune_server.recorder.calls("GetUserIdentity")) == 1


def storm(faults: Faults, method: str) -> None:
    """Let the write be done, and its answer lost, again and again, with refusals in between."""
    faults.drop(applied=True, method=method)
    faults.throttle(0.01, method=method)
    faults.drop(applied=True, method=method)
    faults.fail(grpc.StatusCode.UNAVAILABLE, method=method)


def test_an_operation_whose_answers_are_lost_counts_once(
    neptune_server: ScriptedServer, neptune_project: str, connect: Callable[..., Connection]
) -> None:
    connection = connect(QUICK)
    ingest = connection.stub(IngestServiceStub)
    ingest.Submit(create("run", project=neptune_project))
    neptune_server.recorder.clear()
    storm(neptune_server.faults, "Submit")
    points = update(*(snapshot({"loss": s / 2}, s, START_MS + s) for s in range(3)), run="run", project=neptune_project)
    request_id = ingest.Submit(points).request_id
    calls = neptune_server.recorder.calls("Submit")
    assert len(calls) == 5
    keys = {value for call in calls for key, value in call.metadata if key.lower() == IDEMPOTENCY_KEY}
    assert len(keys) == 1
    assert_applied_once(connection, neptune_project, request_id)
    assert losses(connection, neptune_project, "run") == [(0, 0.0), (1, 0.5), (2, 1.0)]


def assert_applied_once(connection: Connection, project: str, request_id: str) -> None:
    """Check that a request of three points was applied, and that nothing of it came twice."""
    asked = GetRequestStatusRequest(project_identifier=project, request_id=request_id)
    ingest = connection.stub(IngestServiceStub)

    def outcome() -> list[tuple[int, int]]:
        return [(part.code, part.count) for part in ingest.GetRequestStatus(asked).code_by_count]

    wait_until(lambda: code_pb2.UNAVAILABLE not in dict(outcome()))
    assert outcome() == [(code_pb2.OK, 3)]


def test_a_batch_whose_answers_are_lost_counts_once(
    neptune_server: ScriptedServer, neptune_project: str, connect: Callable[..., Connection]
) -> None:
    connection = connect(QUICK)
    connection.stub(IngestServiceStub).Submit(create("run", project=neptune_project))
    storm(neptune_server.faults, "AppendColumns")
    request_id = connection.stub(SeriesServiceStub).AppendColumns(batch(neptune_project, "run", 0)).request_id
    assert len(neptune_server.recorder.calls("AppendColumns")) == 5
    assert_stored(connection, neptune_project, "run", [request_id], 1)


def test_what_must_not_be_done_twice_is_sent_once(
    neptune_server: ScriptedServer, neptune_project: str, connect: Callable[..., Connection]
) -> None:
    connection = connect(QUICK)
    projects = connection.stub(ProjectsServiceStub)
    workspace, _, _ = neptune_project.partition("/")
    name = f"once-{uuid.uuid4().hex}"
    neptune_server.faults.drop(applied=True, method="CreateProject")
    with pytest.raises(UnavailableException):
        projects.CreateProject(CreateProjectRequest(name=name, organization_identifier=workspace))
    assert len(neptune_server.recorder.calls("CreateProject")) == 1
    assert projects.GetProject(GetProjectRequest(project_identifier=f"{workspace}/{name}")).name == name
    neptune_server.faults.throttle(0.01, method="CreateProject")
    with pytest.raises(ResourceExhaustedException):
        projects.CreateProject(CreateProjectRequest(name=f"{name}-2", organization_identifier=workspace))
    assert len(neptune_server.recorder.calls("CreateProject")) == 2


def test_a_run_whose_making_is_repeated_is_one(
    neptune_server: ScriptedServer, neptune_project: str, connect: Callable[..., Connection]
) -> None:
    connection = connect(QUICK)
    storm(neptune_server.faults, "Submit")
    connection.stub(IngestServiceStub).Submit(create("run", project=neptune_project))
    runs = connection.stub(RunsServiceStub)
    listed = ListRunsRequest(project_identifier=neptune_project)
    wait_until(lambda: bool(runs.ListRuns(listed).runs))
    assert len(runs.ListRuns(listed).runs) == 1
