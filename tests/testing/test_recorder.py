"""The recorder and canned replies."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import message_factory

from neptune_api.exceptions import InvalidArgumentException, NotFoundException
from neptune_api.http.rules import all_rules
from neptune_api.models import (
    CreateUserRequest,
    CreateUserResponse,
    GetProjectRequest,
    GetUserIdentityRequest,
    RequestStatus,
    RunOperation,
    SubmitResponse,
    UserIdentity,
)
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire
    from neptune_api.server.testing import ScriptedServer


def test_calls_come_with_their_messages_and_their_end(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str
) -> None:
    projects = wire.connect().stub(ProjectsServiceStub)
    found = projects.GetProject(GetProjectRequest(project_identifier=neptune_project), metadata=[("x-shift", "late")])
    with pytest.raises(NotFoundException):
        projects.GetProject(GetProjectRequest(project_identifier="local/nowhere"))
    good, bad = neptune_server.recorder.calls("ProjectsService.GetProject")
    assert (good.request, good.response) == (GetProjectRequest(project_identifier=neptune_project), found)
    assert (good.code, good.door) == (grpc.StatusCode.OK, "http" if wire.http else "grpc")
    assert ("x-shift", "late") in good.metadata
    assert bad.request == GetProjectRequest(project_identifier="local/nowhere")
    assert (bad.code, bad.responses) == (grpc.StatusCode.NOT_FOUND, [])
    # What the fixture has called is not among them.
    assert {call.method for call in neptune_server.recorder} == {
        "AuthService.ExchangeApiToken",
        "ProjectsService.GetProject",
    }
    with pytest.raises(ValueError, match="no method"):
        neptune_server.recorder.calls("Nothing")


def test_no_token_is_in_what_was_recorded(neptune_server: ScriptedServer, wire: Wire) -> None:
    users = wire.connect().stub(UsersServiceStub)
    request = CreateUserRequest(username=f"kept-{wire.name}", organization_identifier=neptune_server.workspace)
    created = users.CreateUser(request)
    shown = "".join(repr((call, call.metadata)) for call in neptune_server.recorder)
    assert "<redacted>" in shown
    for secret in (neptune_server.api_token, created.api_token, "eyJ"):
        assert secret not in shown
    assert created.api_token.startswith("eyJ")


def test_a_stream_of_requests_is_noted_as_it_is_read(neptune_server: ScriptedServer, wire: Wire) -> None:
    if wire.http:
        pytest.skip("HTTP carries no stream of requests")
    ingest = wire.connect().stub(IngestServiceStub)
    operations = [RunOperation(project=f"local/p{number}", run_id="r") for number in range(3)]
    with pytest.raises(InvalidArgumentException):
        ingest.SubmitStream(operations)
    (call,) = neptune_server.recorder.calls("SubmitStream")
    assert call.requests == operations[: len(call.requests)]
    assert call.requests


def test_a_canned_reply_answers_as_often_as_it_is_meant_to(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.replies.add("UsersService.GetUserIdentity", UserIdentity(username="nobody"), times=2)
    users = wire.connect().stub(UsersServiceStub)
    names = [users.GetUserIdentity(GetUserIdentityRequest()).username for _ in range(3)]
    assert names == ["nobody", "nobody", neptune_server.username]


def test_replies_are_picked_by_request_and_metadata(neptune_server: ScriptedServer, wire: Wire) -> None:
    asked = CreateUserRequest(username="ada", organization_identifier="x")
    add = neptune_server.replies.add
    add("CreateUser", CreateUserResponse(user=UserIdentity(username="by metadata")), metadata={"x-who": "grace"})
    add("CreateUser", CreateUserResponse(user=UserIdentity(username="by request")), when=asked)
    add(
        "CreateUser",
        CreateUserResponse(user=UserIdentity(username="by function")),
        when=lambda request: request.username.startswith("b"),
    )
    users = wire.connect().stub(UsersServiceStub)
    assert users.CreateUser(CreateUserRequest(username="bob")).user.username == "by function"
    assert users.CreateUser(asked).user.username == "by request"
    assert users.CreateUser(asked, metadata=[("x-who", "grace")]).user.username == "by metadata"


def test_streams_are_answered_in_full(neptune_server: ScriptedServer, wire: Wire) -> None:
    if wire.http:
        pytest.skip("HTTP carries no stream of requests")
    answers = [SubmitResponse(request_ids=[name]) for name in "ab"]
    neptune_server.replies.add("SubmitAcknowledged", answers, when=lambda requests: len(requests) == 1)
    ingest = wire.connect().stub(IngestServiceStub)
    assert ingest.SubmitAcknowledged([RunOperation(run_id="r")]) == answers


def test_every_rpc_can_be_answered_by_script(neptune_server: ScriptedServer, wire: Wire) -> None:
    """Over HTTP those whose URL says nothing of the request: what goes into it is the business of the channel."""
    connection = wire.connect()
    answered = 0
    for rpc in sorted(collected := {rule.name: rule for rules in all_rules().values() for rule in rules}):
        method = collected[rpc].method
        if wire.http and (method.client_streaming or collected[rpc].template.variables):
            continue
        response = message_factory.GetMessageClass(method.output_type)()
        request = message_factory.GetMessageClass(method.input_type)()
        module = method.containing_service.file.name.removesuffix(".proto").replace("/", ".")
        stub_class = getattr(importlib.import_module(f"{module}_pb2_grpc"), f"{method.containing_service.name}Stub")
        call = getattr(connection.stub(stub_class), method.name)
        canned = [response, response] if method.server_streaming else response
        neptune_server.replies.add(rpc, canned)
        assert call([request] if method.client_streaming else request) == canned, rpc
        answered += 1
    neptune_server.replies.verify()
    assert answered > 30


def test_replies_have_to_fit_the_contract(neptune_server: ScriptedServer) -> None:
    add = neptune_server.replies.add
    with pytest.raises(TypeError, match=r"GetUserIdentity answers neptune_api.v1.UserIdentity, not .*RequestStatus"):
        add("GetUserIdentity", RequestStatus())
    with pytest.raises(TypeError, match="answers with one message"):
        add("GetUserIdentity", [UserIdentity()])
    with pytest.raises(TypeError, match="answers with a stream"):
        add("SubmitAcknowledged", SubmitResponse())
    with pytest.raises(TypeError, match=r"takes .*GetUserIdentityRequest, not"):
        add("GetUserIdentity", UserIdentity(), when=UserIdentity())
    with pytest.raises(ValueError, match="there is no method"):
        add("GetUser", UserIdentity())
    neptune_server.replies.verify()


def test_replies_left_over_are_told(neptune_server: ScriptedServer, wire: Wire) -> None:
    neptune_server.replies.add("GetUserIdentity", UserIdentity(), times=2)
    wire.connect().stub(UsersServiceStub).GetUserIdentity(GetUserIdentityRequest())
    with pytest.raises(AssertionError, match="GetUserIdentity: used 1 of 2 times"):
        neptune_server.replies.verify()
    neptune_server.replies.clear()
