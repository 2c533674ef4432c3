"""The facade: every method reaches its RPC, with a request or with the fields of one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from neptune_api import models
from neptune_api.api.client import Client
from neptune_api.v1 import (
    attributes_service_pb2,
    auth_service_pb2,
    config_service_pb2,
    ingest_service_pb2,
    leaderboard_service_pb2,
    projects_service_pb2,
    runs_service_pb2,
    series_service_pb2,
    storage_service_pb2,
    users_service_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

FILES = (
    attributes_service_pb2,
    auth_service_pb2,
    config_service_pb2,
    ingest_service_pb2,
    leaderboard_service_pb2,
    projects_service_pb2,
    runs_service_pb2,
    series_service_pb2,
    storage_service_pb2,
    users_service_pb2,
)
RPCS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
}
METHODS = sorted(name for name in vars(Client) if not name.startswith("_"))


class Recorder(grpc.GenericRpcHandler):
    """Answers every unary RPC with an empty response and keeps what arrived."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Message]] = []
        self.metadata: dict[str, str | bytes] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        if path not in RPCS:
            return None
        self.metadata = dict(handler_call_details.invocation_metadata)

        def answer(request: Message, _: grpc.ServicerContext) -> Message:
            self.calls.append((path, request))
            return GetMessageClass(RPCS[path].output_type)()

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=GetMessageClass(RPCS[path].input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Recorder]]:
    recorder = Recorder()
    server = grpc.server(ThreadPoolExecutor(), handlers=[recorder], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}", recorder
    server.stop(grace=None).wait()


@pytest.fixture
def recorder(server: tuple[str, Recorder]) -> Recorder:
    _, recorder = server
    recorder.calls.clear()
    return recorder


@pytest.fixture
def client(server: tuple[str, Recorder]) -> Iterator[Client]:
    with Client(api_token="", target=server[0]) as client:
        yield client


def test_every_unary_rpc_has_a_method(client: Client, recorder: Recorder) -> None:
    for name in METHODS:
        response = getattr(client, name)()
        path, request = recorder.calls[-1]
        assert path.rpartition("/")[2] in name.title().replace("_", ""), name
        assert type(request).DESCRIPTOR is RPCS[path].input_type
        assert type(response).DESCRIPTOR is RPCS[path].output_type
    assert {path for path, _ in recorder.calls} == set(RPCS)


def test_fields_make_the_request(client: Client, recorder: Recorder) -> None:
    client.post_create_run(project_identifier="team/project", run_id="r-1")
    assert recorder.calls[-1][1] == models.CreateRunRequest(project_identifier="team/project", run_id="r-1")


def test_a_request_is_sent_as_it_is(client: Client, recorder: Recorder) -> None:
    request = models.GetProjectRequest(project_identifier="team/project")
    client.get_project(request)
    assert recorder.calls[-1] == ("/neptune_api.v1.ProjectsService/GetProject", request)


def test_metadata_and_timeout_travel_with_the_call(client: Client, recorder: Recorder) -> None:
    client.post_get_user_identity(timeout=5, metadata=[("x-request-source", "test")])
    assert recorder.metadata["x-request-source"] == "test"


def test_an_absent_field_stays_absent(client: Client, recorder: Recorder) -> None:
    client.post_create_run(project_identifier="team/project", run_id=None, experiment_name="")
    request = recorder.calls[-1][1]
    assert not request.HasField("run_id")
    assert request.HasField("experiment_name")


def test_a_request_and_fields_together_are_refused(client: Client, recorder: Recorder) -> None:
    with pytest.raises(TypeError, match=r"either a GetProjectRequest or its fields, not both.*project_identifier"):
        client.get_project(models.GetProjectRequest(), project_identifier="team/project")
    assert recorder.calls == []


def test_another_rpcs_request_is_refused(client: Client, recorder: Recorder) -> None:
    with pytest.raises(TypeError, match="the request must be a GetProjectRequest, not a GetRunRequest"):
        client.get_project(models.GetRunRequest())  # type: ignore[arg-type]  # the mistake under test
    assert recorder.calls == []


def test_a_value_of_the_wrong_type_is_refused_by_field(client: Client, recorder: Recorder) -> None:
    with pytest.raises(TypeError, match=r"^CreateRunRequest\.run_id does not take this int: "):
        client.post_create_run(project_identifier="team/project", run_id=7)  # type: ignore[arg-type]  # the mistake
    assert recorder.calls == []


def test_a_value_out_of_range_is_refused_by_field(client: Client, recorder: Recorder) -> None:
    with pytest.raises(ValueError, match=r"^CreateProjectRequest\.version does not take this int: "):
        client.post_create_project(name="project", version=2**70)
    assert recorder.calls == []


def test_a_closed_client_refuses_calls(server: tuple[str, Recorder]) -> None:
    with Client(api_token="", target=server[0]) as client:
        pass
    with pytest.raises(ValueError, match="closed"):
        client.post_get_user_identity()


def test_a_token_that_cannot_be_decoded_is_refused_at_once_and_not_shown() -> None:
    with pytest.raises(ValueError, match="token") as raised:
        Client(api_token="not-a-token-7f3a")
    assert "not-a-token-7f3a" not in str(raised.value)
