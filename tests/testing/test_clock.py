"""The clock of a server under test: what expires, and what is dated."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log, submit
from neptune_api.models import (
    CreateRunRequest,
    CreateSignedUrlsRequest,
    FilePermission,
    FileToSign,
    GetAttributesRequest,
    GetUserIdentityRequest,
    LeaderboardSearch,
    NqlQuery,
    SearchLeaderboardEntriesRequest,
)
from neptune_api.server.testing.clock import TestClock
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.server.testing import ScriptedServer

CENTURY = datetime(2100, 1, 1, tzinfo=timezone.utc)


def test_tokens_expire_and_channels_renew_them(neptune_server: ScriptedServer, wire: Wire) -> None:
    users = wire.connect().stub(UsersServiceStub)
    users.GetUserIdentity(GetUserIdentityRequest())
    neptune_server.recorder.clear()
    neptune_server.clock.advance(3600)
    users.GetUserIdentity(GetUserIdentityRequest())
    # The guard refuses the call before the script sees it.
    methods = [(call.method.partition(".")[2], call.code) for call in neptune_server.recorder]
    assert methods == [("ExchangeApiToken", grpc.StatusCode.OK), ("GetUserIdentity", grpc.StatusCode.OK)]


def test_what_happens_is_dated_by_the_clock(neptune_server: ScriptedServer, wire: Wire, neptune_project: str) -> None:
    neptune_server.clock.move_to(CENTURY)
    connection = wire.connect()
    runs = connection.stub(RunsServiceStub)
    with neptune_server.clock.held():
        neptune_server.clock.move_to(CENTURY)
        run = runs.CreateRun(CreateRunRequest(project_identifier=neptune_project, run_id="late"))
    assert run.creation_time.ToDatetime(timezone.utc) == CENTURY
    search = SearchLeaderboardEntriesRequest(
        project_identifier=neptune_project,
        params=LeaderboardSearch(query=NqlQuery(query='`sys/creation_time`:datetime >= "-1h"')),
    )
    entries = connection.stub(LeaderboardServiceStub)
    assert entries.SearchLeaderboardEntries(search).matching_item_count == 1
    neptune_server.clock.advance(7200)
    assert entries.SearchLeaderboardEntries(search).matching_item_count == 0


def test_what_a_run_does_is_dated_by_the_clock(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str
) -> None:
    connection = wire.connect()
    clock = neptune_server.clock
    with clock.held():
        clock.move_to(CENTURY)
        log(connection, neptune_project, "late", series={"loss": {0: 1.0}})
        clock.advance(90)
        submit(connection, operations.assign({"lr": 0.1}, run="late", project=neptune_project))
        values = read(connection, neptune_project)
    assert values["sys/creation_time"] == CENTURY
    assert values["sys/ping_time"] == values["sys/modification_time"] == CENTURY + timedelta(seconds=90)
    assert values["sys/running_time_seconds"] == 90
    # Idle after ten minutes: until then it runs.
    clock.move_to(CENTURY + timedelta(minutes=11))
    assert [found(connection, neptune_project, state) for state in ("running", "idle")] == [1, 0]
    clock.advance(60)
    assert [found(connection, neptune_project, state) for state in ("running", "idle")] == [0, 1]


def read(connection: Connection, project: str) -> dict[str, Any]:
    """Return the times and numbers among the values of the run."""
    holder = f"CUSTOM/{project}/late"
    answer = connection.stub(AttributesServiceStub).GetAttributes(GetAttributesRequest(holder_identifier=holder))
    values: dict[str, Any] = {}
    for attribute in answer.attributes:
        if attribute.HasField("datetime_properties"):
            millis = attribute.datetime_properties.value
            values[attribute.name] = datetime.fromtimestamp(millis / 1000, timezone.utc)
        elif attribute.HasField("float_properties"):
            values[attribute.name] = attribute.float_properties.value
    return values


def found(connection: Connection, project: str, state: str) -> int:
    """Return how many runs are in a state."""
    query = NqlQuery(query=f"`sys/state`:experimentState = {state}")
    request = SearchLeaderboardEntriesRequest(project_identifier=project, params=LeaderboardSearch(query=query))
    count: int = connection.stub(LeaderboardServiceStub).SearchLeaderboardEntries(request).matching_item_count
    return count


def test_signed_urls_expire(neptune_server: ScriptedServer, wire: Wire, neptune_project: str) -> None:
    storage = wire.connect().stub(StorageServiceStub)
    file = FileToSign(path="a", project_identifier=neptune_project, permission=FilePermission.FILE_PERMISSION_READ)
    (signed,) = storage.CreateSignedUrls(CreateSignedUrlsRequest(files=[file])).files
    assert "expired" not in _refusal(signed.url)  # there is no such file
    neptune_server.clock.advance(30 * 86400)
    assert "The URL has expired" in _refusal(signed.url)


def _refusal(url: str) -> str:
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(url)
    with answer.value:
        return answer.value.read().decode()


def test_a_clock_goes_by_the_machine_until_it_is_set() -> None:
    clock = TestClock()
    before = datetime.now(timezone.utc)
    assert before <= clock.now() <= datetime.now(timezone.utc)
    clock.advance(60)
    assert clock.now() >= before + timedelta(seconds=60)
    clock.move_to(CENTURY)
    assert CENTURY <= clock.now() < CENTURY + timedelta(minutes=1)
    with clock.held():
        assert clock() == clock()
        clock.move_to(5.0)
        clock.advance(1.5)
        assert clock() == 6.5
    clock.reset()
    assert before <= clock.now() <= datetime.now(timezone.utc)
    with pytest.raises(ValueError, match="no time zone"):
        clock.move_to(CENTURY.replace(tzinfo=None))
