"""Scripted faults, through both doors, as threads and as coroutines see them."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.exceptions import (
    DeadlineExceededException,
    InternalException,
    InvalidArgumentException,
    NeptuneApiError,
    NotFoundException,
    ResourceExhaustedException,
    UnauthorizedException,
    UnavailableException,
)
from neptune_api.options import ChannelOptions, RetryPolicy
from neptune_api.server.testing import ScriptedServer
from neptune_api.server.testing.scripted import cut_short
from neptune_api.v1.auth_service_pb2 import OauthToken
from neptune_api.v1.ingest_pb2 import RunOperation
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, GetProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.series_service_pb2 import ReadColumnsRequest, ReadColumnsResponse
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire

TEXTS = st.text(st.characters(codec="ascii"))
ONCE = ChannelOptions(retry=RetryPolicy(max_attempts=1))


def identify(wire: Wire, *, metadata: Any = None, timeout: float | None = None, options: Any = ONCE) -> str:
    users = wire.connect(options=options).stub(UsersServiceStub)
    name: str = users.GetUserIdentity(GetUserIdentityRequest(), metadata=metadata, timeout=timeout).username
    return name


def test_the_next_calls_fail_and_those_after_them_do_not(neptune_server: ScriptedServer, wire: Wire) -> None:
    fault = neptune_server.faults.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        "By script.",
        method="UsersService.GetUserIdentity",
        times=2,
        after=1,
        reason="SCRIPTED",
        violations=[("name", "is not to our liking")],
    )
    users = wire.connect(options=ONCE).stub(UsersServiceStub)
    users.GetUserIdentity(GetUserIdentityRequest())
    for _ in range(2):
        with pytest.raises(InvalidArgumentException) as caught:
            users.GetUserIdentity(GetUserIdentityRequest())
        assert caught.value.details() == "By script."
        assert caught.value.error_info is not None
        assert caught.value.error_info.reason == "SCRIPTED"
        assert [violation.field for violation in caught.value.violations] == ["name"]
    users.GetUserIdentity(GetUserIdentityRequest())
    assert (fault.hits, fault.left) == (2, 0)


@pytest.mark.parametrize("fault", ["fail", "throttle", "truncate"])
def test_every_fault_happens_to_as_many_calls_as_it_is_meant_for(
    neptune_server: ScriptedServer, wire: Wire, fault: str
) -> None:
    arguments = (grpc.StatusCode.ABORTED,) if fault == "fail" else ()
    planned = getattr(neptune_server.faults, fault)(
        *arguments, method="GetUserIdentity", times=2, after=1, metadata={"x-who": "a"}
    )
    users = wire.connect(options=ONCE).stub(UsersServiceStub)

    def ends_well(who: str) -> bool:
        try:
            users.GetUserIdentity(GetUserIdentityRequest(), metadata=[("x-who", who)])
        except NeptuneApiError:
            return False
        return True

    assert [ends_well(who) for who in "abaaab"] == [True, True, False, False, True, True]
    assert planned.hits == 2


def test_channels_get_over_connections_that_break(neptune_server: ScriptedServer, wire: Wire) -> None:
    planned = neptune_server.faults.drop(method="GetUserIdentity", times=2)
    assert identify(wire, options=None) == neptune_server.username
    assert planned.hits == 2
    assert len(neptune_server.recorder.calls("GetUserIdentity")) == 3


def test_over_http_a_busy_server_answers_429(neptune_server: ScriptedServer) -> None:
    """As clients of other makes see it, released ones among them."""
    neptune_server.faults.throttle(7.5, method="ConfigService.GetServerInfo")
    url = f"{neptune_server.http_url}/api/client/v1/server-info"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url)
    with caught.value as answer:
        body = json.loads(answer.read())
        assert (answer.status, answer.headers["Retry-After"]) == (429, "8")  # whole seconds
    assert body["errorType"] == "TOO_MANY_REQUESTS_PER_USER"
    assert {detail["@type"].rpartition(".")[2] for detail in body["details"]} == {"ErrorInfo", "RetryInfo"}
    urllib.request.urlopen(url).close()


def test_streams_of_requests_suffer_faults_as_well(neptune_server: ScriptedServer, wire: Wire) -> None:
    if wire.http:
        pytest.skip("HTTP carries no stream of requests")
    ingest = wire.connect(options=ONCE).stub(IngestServiceStub)
    for method in ("SubmitStream", "SubmitAcknowledged"):
        neptune_server.faults.fail(grpc.StatusCode.NOT_FOUND, "Not here.", method=method)
        neptune_server.faults.drop(method=method)
        with pytest.raises(NotFoundException, match="Not here"):
            getattr(ingest, method)([RunOperation()])
        with pytest.raises(UnavailableException):
            getattr(ingest, method)([RunOperation()])


def test_only_calls_with_the_metadata_fail(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.faults.fail(grpc.StatusCode.NOT_FOUND, metadata={"X-Tenant": "b"}, times=None)
    assert identify(wire, metadata=[("x-tenant", "a")])
    with pytest.raises(NotFoundException):
        identify(wire, metadata=[("x-tenant", "b")])


def test_a_busy_server_says_when_to_come_back(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.faults.throttle(2.0, method="GetUserIdentity")
    with pytest.raises(ResourceExhaustedException) as caught:
        identify(wire)
    assert caught.value.retry_delay == 2.0


def test_channels_get_over_faults_that_pass(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.faults.throttle(0.01, method="GetUserIdentity")
    neptune_server.faults.fail(grpc.StatusCode.UNAVAILABLE, method="GetUserIdentity")
    assert identify(wire, options=None) == neptune_server.username
    codes = [call.code for call in neptune_server.recorder.calls("GetUserIdentity")]
    assert len(neptune_server.recorder.requests("GetUserIdentity")) == len(codes)
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK]


def test_the_login_can_fail(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.faults.fail(grpc.StatusCode.UNAUTHENTICATED, "No.", method="AuthService.ExchangeApiToken")
    with pytest.raises(UnauthorizedException):
        identify(wire)


def test_a_delay_is_as_long_as_the_caller_waits(neptune_server: ScriptedServer, wire: Wire) -> None:
    users = wire.connect(options=ONCE).stub(UsersServiceStub)
    users.GetUserIdentity(GetUserIdentityRequest())
    with (
        neptune_server.faults.delay(float("inf"), method="GetUserIdentity", times=None) as fault,
        pytest.raises(DeadlineExceededException),
    ):
        users.GetUserIdentity(GetUserIdentityRequest(), timeout=0.2)
    assert fault.hits == 1
    users.GetUserIdentity(GetUserIdentityRequest(), timeout=10)


def test_a_delay_comes_on_top_of_the_next_fault(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.faults.delay(0.1, method="GetUserIdentity")
    neptune_server.faults.fail(grpc.StatusCode.NOT_FOUND, method="GetUserIdentity")
    begin = time.monotonic()
    with pytest.raises(NotFoundException):
        identify(wire)
    assert time.monotonic() - begin >= 0.1


def test_a_dropped_connection_leaves_nothing_done(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str
) -> None:
    request = CreateProjectRequest(name="dropped", organization_identifier=neptune_server.workspace)
    neptune_server.faults.drop(method="CreateProject")
    projects = wire.connect(options=ONCE).stub(ProjectsServiceStub)
    with pytest.raises(UnavailableException) as caught:
        projects.CreateProject(request)
    assert "by script" not in str(caught.value)  # nothing came, not even a status
    again = wire.connect().stub(ProjectsServiceStub)
    with pytest.raises(NotFoundException):
        again.GetProject(GetProjectRequest(project_identifier=f"{neptune_server.workspace}/dropped"))


def test_an_answer_can_be_lost_when_all_is_done(neptune_server: ScriptedServer, wire: Wire) -> None:
    name = f"lost-{wire.name}"
    request = CreateProjectRequest(name=name, organization_identifier=neptune_server.workspace)
    neptune_server.faults.drop(applied=True, method="CreateProject")
    projects = wire.connect(options=ONCE).stub(ProjectsServiceStub)
    with pytest.raises(UnavailableException):
        projects.CreateProject(request)
    again = wire.connect().stub(ProjectsServiceStub)
    found = again.GetProject(GetProjectRequest(project_identifier=f"{neptune_server.workspace}/{name}"))
    assert found.name == name


def test_half_an_answer_is_no_answer(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.faults.truncate(method="GetUserIdentity")
    with pytest.raises(InternalException):
        identify(wire)
    assert identify(wire)


def test_faults_are_for_methods_that_there_are(neptune_server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match=r"no method 'ProjectsService.GetProjekt'; did you mean .*GetProject"):
        neptune_server.faults.drop(method="ProjectsService.GetProjekt")
    with pytest.raises(ValueError, match="OK is no failure"):
        neptune_server.faults.fail(grpc.StatusCode.OK)
    with pytest.raises(ValueError, match="times must be"):
        neptune_server.faults.drop(times=0)
    with pytest.raises(ValueError, match="must not be negative"):
        neptune_server.faults.delay(-1)


def test_a_server_stops_in_spite_of_delayed_calls() -> None:
    with ScriptedServer() as server:
        server.faults.delay(float("inf"), method="GetUserIdentity")
        with server.channel() as channel:
            future = UsersServiceStub(channel).GetUserIdentity.future(GetUserIdentityRequest())
            while not server.recorder.calls("GetUserIdentity"):
                threading.Event().wait(0.01)
            begin = time.monotonic()
            server.stop()
            assert time.monotonic() - begin < 5
            with pytest.raises(NeptuneApiError):
                future.result()


@given(st.builds(OauthToken, access_token=TEXTS, refresh_token=TEXTS, username=TEXTS))
def test_what_is_left_of_a_message_cannot_be_decoded(message: OauthToken) -> None:
    encoded = message.SerializeToString()
    half = cut_short(encoded, OauthToken.FromString)
    assert encoded.startswith(half) or len(half) == 1
    with pytest.raises(DecodeError):
        OauthToken.FromString(half)


def test_a_stream_breaks_off_in_the_middle(neptune_server: ScriptedServer, wire: Wire) -> None:
    answers = [ReadColumnsResponse() for _ in range(3)]
    neptune_server.replies.add("SeriesService.ReadColumns", answers)
    neptune_server.faults.truncate(2, method="SeriesService.ReadColumns")
    series = wire.connect(options=ONCE).stub(SeriesServiceStub)
    with pytest.raises(UnavailableException):
        series.ReadColumns(ReadColumnsRequest())
    (call,) = neptune_server.recorder.calls("ReadColumns")
    assert call.responses == answers[:2]
