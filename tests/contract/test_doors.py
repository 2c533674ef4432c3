"""The gRPC door: health, reflection, threads, faults, ports, the life of a server."""

from __future__ import annotations

import queue
import re
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped] # ships no types
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped] # ships no types
    reflection_pb2,
    reflection_pb2_grpc,
)

import neptune_api
from neptune_api import exceptions
from neptune_api.credentials import ApiToken
from neptune_api.options import ChannelOptions
from neptune_api.server import LocalServer
from neptune_api.server.grpc_door import GrpcDoor
from neptune_api.server.handlers import collect_handlers
from neptune_api.server.identity import Caller
from neptune_api.server.pools import CALL_THREADS
from neptune_api.server.query_threads import QueryThreads
from neptune_api.server.server import Server, ServerError, TlsFiles
from neptune_api.server.store.database import StoreError
from neptune_api.v1 import ingest_service_pb2_grpc
from neptune_api.v1.config_service_pb2 import GetServerInfoRequest
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_pb2 import CreateRun, RunOperation, SubmitResponse
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, GetProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLER = Caller(1, "00000000-0000-0000-0000-000000000001", "tester")


class Ingest(ingest_service_pb2_grpc.IngestServiceServicer):
    """Does what the test wants with each operation."""

    def __init__(self, behave: Callable[[RunOperation], None]) -> None:
        self._behave = behave

    def Submit(self, request: RunOperation, context: Any) -> SubmitResponse:  # noqa: N802 # named after its RPC
        self._behave(request)
        return SubmitResponse(request_ids=["done"])

    def SubmitStream(self, request_iterator: Iterator[RunOperation], context: Any) -> SubmitResponse:  # noqa: N802
        for request in request_iterator:
            self._behave(request)
        return SubmitResponse(request_ids=["done"])

    def SubmitAcknowledged(  # noqa: N802
        self, request_iterator: Iterator[RunOperation], context: Any
    ) -> Iterator[SubmitResponse]:
        for request in request_iterator:
            self._behave(request)
            yield SubmitResponse(request_ids=["done"])


@contextmanager
def door(behave: Callable[[RunOperation], None] = lambda _: None, **options: Any) -> Iterator[GrpcDoor]:
    """A door with nothing behind it but `behave`."""
    opened = GrpcDoor("127.0.0.1:0", QueryThreads(lambda: False), **options)
    opened.start(collect_handlers([Ingest(behave)], lambda _: CALLER))
    try:
        yield opened
    finally:
        opened.stop(0)


class Requests:
    """A request stream that is fed by the test."""

    def __init__(self) -> None:
        self._queue: queue.Queue[RunOperation | None] = queue.Queue()

    def __iter__(self) -> Iterator[RunOperation]:
        while (request := self._queue.get()) is not None:
            yield request

    def send(self) -> None:
        self._queue.put(RunOperation(run_id="r"))

    def end(self) -> None:
        self._queue.put(None)


def address(opened: GrpcDoor) -> str:
    return f"grpc://127.0.0.1:{opened.port}"


def test_faults_of_servicers_stay_inside(wire: Any) -> None:
    def fail(_: RunOperation) -> None:
        raise KeyError("secret")

    with door(fail) as opened:
        ingest = wire.connect("", target=address(opened)).stub(IngestServiceStub)
        for call, request in (
            (ingest.Submit, RunOperation()),
            (ingest.SubmitStream, [RunOperation()]),
            (ingest.SubmitAcknowledged, [RunOperation()]),
        ):
            with pytest.raises(exceptions.InternalException) as caught:
                call(request)
            assert re.search(r"incident [0-9a-f]{32}", caught.value.details())
            assert caught.value.error_info is not None
            assert caught.value.error_info.metadata["incident"] in caught.value.details()
            text = f"{caught.value!r} {caught.value.trailing_metadata()}"
            assert "secret" not in text
            assert "KeyError" not in text
        wire.close()


def test_plain_clients_get_every_error() -> None:
    """A channel that nobody configured takes 8 KiB of metadata."""
    with LocalServer() as server, grpc.insecure_channel(server.grpc_target) as channel:
        with server.channel() as own:
            headers: list[Any] = []
            token = _access_token(own, server.api_token)
            headers.append(("authorization", f"Bearer {token}"))
        request = CreateProjectRequest(
            name="ą" * 5000, organization_identifier=server.workspace, project_key="ą" * 5000
        )
        with pytest.raises(grpc.RpcError) as caught:
            ProjectsServiceStub(channel).CreateProject(request, metadata=tuple(headers))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def _access_token(channel: grpc.Channel, api_token: str) -> str:
    from neptune_api.v1.auth_service_pb2 import ExchangeApiTokenRequest
    from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub

    return AuthServiceStub(channel).ExchangeApiToken(ExchangeApiTokenRequest(api_token=api_token)).access_token


def test_health_needs_no_token() -> None:
    with LocalServer() as server, grpc.insecure_channel(server.grpc_target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        info = ConfigServiceStub(channel).GetServerInfo(GetServerInfoRequest())
        assert "neptune_api.v1.IngestService" in info.services
        for service in ("", *info.services, "grpc.health.v1.Health"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_tells_of_the_end() -> None:
    with LocalServer() as server, grpc.insecure_channel(server.grpc_target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_reflection_needs_no_token() -> None:
    with LocalServer() as server, grpc.insecure_channel(server.grpc_target) as channel:
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="neptune_api.v1.IngestService"),
        ]
        listed, file = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(requests), timeout=20
        )
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {"neptune_api.v1.IngestService", "grpc.health.v1.Health"}
        assert file.file_descriptor_response.file_descriptor_proto


def test_open_streams_leave_threads_for_calls() -> None:
    with door() as opened, neptune_api.channel(address(opened), api_token="") as channel, ExitStack() as at_end:
        ingest = IngestServiceStub(channel)
        for _ in range(CALL_THREADS + 8):
            requests = Requests()
            at_end.callback(requests.end)
            requests.send()
            responses = ingest.SubmitAcknowledged(iter(requests), timeout=60)
            next(responses)
        assert ingest.Submit(RunOperation(), timeout=20).request_ids


def test_one_stream_too_many_is_refused(wire: Any) -> None:
    with door(max_streams=3) as opened, neptune_api.channel(address(opened), api_token="") as channel:
        ingest = IngestServiceStub(channel)
        feeds = [Requests() for _ in range(3)]
        streams = [ingest.SubmitAcknowledged(iter(feed), timeout=60) for feed in feeds]
        for feed, stream in zip(feeds, streams, strict=True):
            feed.send()
            next(stream)
        other = wire.connect("", target=address(opened), options=ChannelOptions(retry=None)).stub(IngestServiceStub)
        for call in (other.SubmitStream, other.SubmitAcknowledged):
            with pytest.raises(exceptions.ResourceExhaustedException, match="3 streams open") as caught:
                call([RunOperation()])
            assert caught.value.retry_delay == 1.0
            assert caught.value.error_info is not None
            assert caught.value.error_info.reason == "TOO_MANY_STREAMS"
        feeds[0].end()
        assert list(streams[0]) == []
        deadline = time.monotonic() + 20
        # The server hears of the end a moment after its client.
        while True:
            try:
                assert other.SubmitStream([RunOperation()]).request_ids
                break
            except exceptions.ResourceExhaustedException:
                assert time.monotonic() < deadline
        for feed in feeds[1:]:
            feed.end()
        wire.close()


def test_many_calls_at_once() -> None:
    """More calls than threads wait for their turn."""
    at_once = CALL_THREADS
    barrier = threading.Barrier(at_once)

    def behave(_: RunOperation) -> None:
        barrier.wait(20)

    with door(behave) as opened, neptune_api.channel(address(opened), api_token="") as channel:
        submit = IngestServiceStub(channel).Submit
        futures = [submit.future(RunOperation(), timeout=60) for _ in range(8 * at_once)]
        assert all(list(future.result().request_ids) == ["done"] for future in futures)


def test_stop_lets_calls_finish() -> None:
    begun = threading.Event()
    go_on = threading.Event()

    def behave(_: RunOperation) -> None:
        begun.set()
        go_on.wait(20)

    with door(behave) as opened, neptune_api.channel(address(opened), api_token="") as channel:
        future = IngestServiceStub(channel).Submit.future(RunOperation(), timeout=60)
        assert begun.wait(20)
        finished: list[bool] = []
        stopping = threading.Thread(target=lambda: finished.append(opened.stop(20)))
        stopping.start()
        go_on.set()
        assert future.result().request_ids
        stopping.join()
        assert finished == [True]


def test_stop_waits_for_nobody_for_ever() -> None:
    begun = threading.Event()
    go_on = threading.Event()

    def behave(_: RunOperation) -> None:
        begun.set()
        go_on.wait(20)

    options = ChannelOptions(retry=None)
    with door(behave) as opened, neptune_api.channel(address(opened), api_token="", options=options) as channel:
        ingest = IngestServiceStub(channel)
        idle = Requests()
        stream = ingest.SubmitAcknowledged(iter(idle), timeout=60)
        future = ingest.Submit.future(RunOperation(), timeout=60)
        assert begun.wait(20)
        began = time.monotonic()
        assert opened.stop(0.1) is False  # the servicer hangs
        assert time.monotonic() - began < 1
        go_on.set()
        with pytest.raises(grpc.RpcError):
            future.result()
        with pytest.raises(grpc.RpcError):
            next(stream)
        idle.end()


def test_everything_acknowledged_outlives_the_server(tmp_path: Path, wire: Any) -> None:
    with LocalServer(tmp_path) as server:
        connection = wire.connect(server.api_token, target=server.grpc_url)
        created = connection.stub(ProjectsServiceStub).CreateProject(
            CreateProjectRequest(name="lasting", organization_identifier=server.workspace)
        )
        operations = [RunOperation(project="local/lasting", run_id=f"r{n}", create=CreateRun()) for n in range(50)]
        acknowledged = connection.stub(IngestServiceStub).SubmitStream(operations).request_ids
        token = server.api_token
        wire.close()
    with LocalServer(tmp_path) as server:
        assert server.api_token == token
        connection = wire.connect(server.api_token, target=server.grpc_url)
        project = connection.stub(ProjectsServiceStub).GetProject(GetProjectRequest(project_identifier="local/lasting"))
        assert project.id == created.id
        _wait_applied(connection, list(acknowledged))
        wire.close()


def _wait_applied(connection: Any, request_ids: list[str]) -> None:
    from neptune_api.v1.ingest_pb2 import RequestId, RequestIdList
    from neptune_api.v1.ingest_service_pb2 import BulkGetRequestStatusRequest

    request = BulkGetRequestStatusRequest(
        project_identifier="local/lasting",
        request_ids=RequestIdList(ids=[RequestId(value=request_id) for request_id in request_ids]),
    )
    deadline = time.monotonic() + 20
    codes: set[int] = set()
    while codes != {grpc.StatusCode.OK.value[0]}:
        assert time.monotonic() < deadline
        statuses = connection.stub(IngestServiceStub).BulkGetRequestStatus(request).statuses
        codes = {outcome.code for status in statuses for outcome in status.code_by_count}
        assert codes <= {grpc.StatusCode.OK.value[0], grpc.StatusCode.UNAVAILABLE.value[0]}


def test_folder_keeps_workspace_and_owner(tmp_path: Path) -> None:
    with Server(tmp_path, workspace="acme", username="wile") as server:
        token = server.api_token
    with Server(tmp_path) as server:
        assert (server.workspace, server.username) == ("acme", "wile")
        assert server.api_token == token
        assert server.notes == []
    with Server(tmp_path, workspace="other") as server:
        assert server.api_token == token
        with neptune_api.channel(api_token=token) as channel:
            identity = UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest())
        assert [each.organization_name for each in identity.workspaces] == ["acme", "other"]


def test_taken_port_of_the_last_time(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as first:
        port, token = int(first.grpc_target.rpartition(":")[2]), first.api_token
    with LocalServer(grpc_port=port), Server(tmp_path) as server:
        assert not server.addresses.grpc_target.endswith(f":{port}")
        (note,) = server.notes
        assert str(port) in note
        assert server.api_token != token
        assert ApiToken.parse(server.api_token).api_key == ApiToken.parse(token).api_key
        with neptune_api.channel(api_token=server.api_token) as channel:
            assert UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username == "owner"


def test_ports_are_kept_however_many_clients_hold_on_to_them(tmp_path: Path) -> None:
    """A client does not see that a server has gone before it sends something."""
    with ExitStack() as held:
        addresses = []
        for _ in range(3):
            with LocalServer(tmp_path) as server:
                addresses.append((server.grpc_url, server.http_url))
                for url in addresses[-1]:
                    host, _, port = url.partition("://")[2].partition(":")
                    client = held.enter_context(socket.create_connection((host, int(port)), timeout=30))
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert client.recv(1)
        assert len(set(addresses)) == 1


def test_http_port_is_kept_free_for_the_server(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as server:
        port = int(server.http_url.rpartition(":")[2])
        with pytest.raises(ServerError, match=f"Cannot listen on 127.0.0.1:{port}: another program"):
            LocalServer(http_port=port).start()
        with pytest.raises(ServerError, match="another program"):
            LocalServer(grpc_port=port).start()
    with LocalServer(tmp_path) as server:
        assert int(server.http_url.rpartition(":")[2]) == port


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"host": "0.0.0.0"}, "without TLS"),
        ({"host": "no.such.host.invalid"}, "without TLS"),
        ({"host": "no.such.host.invalid", "allow_plaintext": True}, "knows no such host"),
        ({"host": "192.0.2.1", "allow_plaintext": True}, "does not have the address"),
        ({"grpc_port": 70_000}, "from 0 to 65535"),
        ({"grpc_port": 4242, "http_port": 4242}, "cannot share port 4242"),
    ],
)
def test_addresses_that_cannot_be(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServerError, match=sentence):
        Server(tmp_path, **options)
    with Server(tmp_path):  # the folder is free
        pass


@pytest.mark.parametrize("options", [{"workspace": "no/slash"}, {"username": ""}, {"username": "x" * 65}])
def test_names_that_cannot_be(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="cannot have the name"):
        Server(tmp_path, **options)
    with Server(tmp_path) as server:
        assert (server.workspace, server.username) == ("local", "owner")


def test_every_address_of_the_machine(tmp_path: Path) -> None:
    everywhere = Server(tmp_path, host="0.0.0.0", allow_plaintext=True, public_host="127.0.0.1")
    with everywhere as server, neptune_api.channel(api_token=server.api_token) as channel:
        assert UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username == "owner"


def test_temporary_folder_goes_with_the_server() -> None:
    server = LocalServer()
    for attribute in ("api_token", "grpc_target", "http_url"):
        with pytest.raises(RuntimeError, match="does not run"):
            getattr(server, attribute)
    with server:
        assert server._temporary is not None
        folder = Path(server._temporary.name)
        assert list(folder.iterdir())
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()
    assert not folder.exists()
    server.stop()
    with server:  # and it can be used again
        assert server.api_token


def test_server_does_not_share_its_folder(tmp_path: Path) -> None:
    with LocalServer(tmp_path), pytest.raises(StoreError, match="in use by another server"):
        LocalServer(tmp_path).start()
    with LocalServer(tmp_path):
        pass


def test_tls_files_that_cannot_be(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no PEM")
    with pytest.raises(ServerError, match=r"bad\.pem is not a PEM file"):
        Server(tmp_path / "data", tls=TlsFiles(certificate=bad, key=bad))
    with pytest.raises(ServerError, match=r"missing\.pem cannot be read"):
        Server(tmp_path / "data", tls=TlsFiles(certificate=bad, key=tmp_path / "missing.pem"))


def test_streams_have_threads_of_their_own() -> None:
    names: list[str] = []
    with (
        door(lambda _: names.append(threading.current_thread().name)) as opened,
        neptune_api.channel(address(opened), api_token="") as channel,
    ):
        stub = IngestServiceStub(channel)
        stub.Submit(RunOperation())
        stub.SubmitStream(iter([RunOperation()]))
    assert [name.rpartition("_")[0] for name in names] == ["neptune-api-call", "neptune-api-stream"]
