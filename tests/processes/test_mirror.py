"""Writing to two servers: the second gets the same, and whatever becomes of it, the first does not notice."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import Mirror, MirrorCounts, MirrorInterceptor, aio, columns, models
from neptune_api.auth import AccessToken, AioStaticTokenSource, StaticTokenSource
from neptune_api.conformance.connections import AioConnection, BackgroundLoop, GrpcConnection
from neptune_api.conformance.operations import append, create
from neptune_api.exceptions import InternalException
from neptune_api.options import IDEMPOTENCY_KEY, ChannelOptions
from neptune_api.server.testing import ScriptedServer
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.conformance.connections import Connection
    from tests.processes.conftest import Run

PATIENCE = 30.0
SUBMIT = "IngestService.Submit"


@dataclass(frozen=True)
class Pair:
    """Two servers, each with a project of the same name."""

    first: ScriptedServer
    second: ScriptedServer
    project: str

    def url(self, which: str, wire: str) -> str:
        server: ScriptedServer = getattr(self, which)
        return server.grpc_url if wire == "grpc" else server.http_url


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ScriptedServer, ScriptedServer]]:
    with ScriptedServer() as first, ScriptedServer() as second:
        yield first, second


@pytest.fixture
def pair(servers: tuple[ScriptedServer, ScriptedServer]) -> Pair:
    name = f"p-{uuid.uuid4().hex[:12]}"
    for server in servers:
        server.reset()
        with server.channel() as channel:
            request = models.CreateProjectRequest(name=name, organization_identifier=server.workspace)
            ProjectsServiceStub(channel).CreateProject(request)
        server.recorder.clear()
    return Pair(*servers, f"{servers[0].workspace}/{name}")


@pytest.fixture(scope="module")
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture(params=["grpc", "http", "grpc-aio", "http-aio"])
def connect(
    request: pytest.FixtureRequest, pair: Pair, loop: BackgroundLoop
) -> Iterator[Callable[[Mirror], Connection]]:
    """Opens a connection to the first server, over every wire, for threads and for coroutines."""
    wire, _, side = request.param.partition("-")
    opened: list[Connection] = []

    def connect(mirror: Mirror) -> Connection:
        url, token = pair.url("first", wire), pair.first.api_token

        async def open_aio() -> grpc.aio.Channel:
            return aio.channel(url, api_token=token, mirror=mirror)

        if side:
            opened.append(AioConnection(loop.run(open_aio()), loop, http=wire == "http"))
        else:
            channel = neptune_api.channel(url, api_token=token, mirror=mirror)
            opened.append(GrpcConnection(channel, http=wire == "http"))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@contextmanager
def second(pair: Pair, wire: str = "grpc", **arguments: Any) -> Iterator[Mirror]:
    arguments = {"target": pair.url("second", wire), "api_token": pair.second.api_token} | arguments
    with Mirror(arguments.pop("target"), **arguments) as mirror:
        yield mirror


def write(connection: Connection, project: str, *, streams: bool) -> None:
    """Log to a run in every way there is."""
    ingest = connection.stub(IngestServiceStub)
    series = connection.stub(SeriesServiceStub)
    connection.stub(RunsServiceStub).CreateRun(models.CreateRunRequest(project_identifier=project, run_id="run"))
    for step in range(3):
        ingest.Submit(append({"loss": float(step), "text": f"line {step}"}, at=step, project=project))
    batch = columns.append_request(project, "run", {"long": columns.points([0.5] * 1000)})
    series.AppendColumns(batch)
    if streams:
        ingest.SubmitStream([append({"loss": float(step)}, at=step, project=project) for step in range(3, 6)])
        ingest.SubmitAcknowledged([append({"loss": float(step)}, at=step, project=project) for step in range(6, 9)])
        more = columns.append_request(project, "run", {"long": columns.points([0.25] * 9, steps=[*range(1000, 1009)])})
        assert len(series.AppendColumnsStream([more])) == 1


def contents(server: ScriptedServer, project: str, expected: int) -> dict[str, list[tuple[float, float]]]:
    """Return the points of float series on a server, once there are as many as expected."""
    holder = models.AttributesHolder(identifier=f"CUSTOM/{project}/run", type="experiment")
    paths = ["loss", "long"]
    series = [models.TimeSeries(attribute=path, holder=holder) for path in paths]
    with server.channel() as channel:
        stub = SeriesServiceStub(channel)
        end = time.monotonic() + PATIENCE
        while True:
            found = columns.collect(stub.ReadColumns(models.ReadColumnsRequest(series=series)))
            if sum(len(each.values) for each in found) == expected:
                return {
                    path: list(zip(each.steps.tolist(), each.values.tolist(), strict=True))
                    for path, each in zip(paths, found, strict=True)
                }
            assert time.monotonic() < end, "the points do not arrive"
            time.sleep(0.01)


def key(call: Any) -> Any:
    return dict(call.metadata).get(IDEMPOTENCY_KEY)


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_both_servers_have_the_same(connect: Callable[[Mirror], Connection], pair: Pair, wire: str) -> None:
    with second(pair, wire) as mirror:
        connection = connect(mirror)
        streams = not connection.http  # type: ignore[attr-defined] # both kinds have it
        write(connection, pair.project, streams=streams)
        expected = 3 + 1000 + (6 + 9 if streams else 0)
        assert mirror.flush(PATIENCE)
        assert mirror.counts == MirrorCounts(sent=12 if streams else 5, failed=0, dropped=0, skipped=0, waiting=0)
        assert contents(pair.first, pair.project, expected) == contents(pair.second, pair.project, expected)
    for method in ("RunsService.CreateRun", SUBMIT, "SeriesService.AppendColumns"):
        firsts, seconds = pair.first.recorder.calls(method), pair.second.recorder.calls(method)
        assert [call.request for call in firsts] == [call.request for call in seconds][: len(firsts)]
        assert [key(call) for call in firsts] == [key(call) for call in seconds][: len(firsts)]
        assert len({key(call) for call in seconds}) == len(seconds)
        assert all(call.code is grpc.StatusCode.OK for call in seconds)


def test_only_what_writes_is_copied(connect: Callable[[Mirror], Connection], pair: Pair) -> None:
    with second(pair) as mirror:
        connection = connect(mirror)
        connection.stub(UsersServiceStub).GetUserIdentity(models.GetUserIdentityRequest())
        connection.stub(ProjectsServiceStub).ListProjects(models.ListProjectsRequest())
        assert mirror.flush(0)
        assert mirror.counts == MirrorCounts(0, 0, 0, 0, 0)
    assert len(pair.second.recorder) == 0


def test_chosen_methods_are_copied(connect: Callable[[Mirror], Connection], pair: Pair) -> None:
    name = f"p-{uuid.uuid4().hex[:12]}"
    request = models.CreateProjectRequest(name=name, organization_identifier=pair.first.workspace)
    with second(pair, methods=["ProjectsService.CreateProject"]) as mirror:
        connection = connect(mirror)
        connection.stub(ProjectsServiceStub).CreateProject(request)
        connection.stub(IngestServiceStub).Submit(create(project=pair.project))
        assert mirror.flush(PATIENCE)
        assert mirror.counts.sent == 1
    assert pair.second.recorder.requests("ProjectsService.CreateProject") == [request]


def test_copies_are_rewritten(connect: Callable[[Mirror], Connection], pair: Pair) -> None:
    with pair.second.channel() as channel:
        wanted = models.CreateProjectRequest(name=f"p-{uuid.uuid4().hex[:12]}", organization_identifier="local")
        ProjectsServiceStub(channel).CreateProject(wanted)
    seen = []

    def rewrite(method: str, request: models.RunOperation) -> models.RunOperation | None:
        seen.append(method)
        if request.run_id == "private":
            return None
        if request.run_id == "broken":
            raise LookupError("no such project over there")
        request.project = f"local/{wanted.name}"
        return request

    with second(pair, methods=[SUBMIT], rewrite=rewrite) as mirror:
        ingest = connect(mirror).stub(IngestServiceStub)
        for run in ("run", "private", "broken"):
            assert ingest.Submit(create(run, project=pair.project)).request_ids
        assert mirror.flush(PATIENCE)
        assert mirror.counts == MirrorCounts(sent=1, failed=1, dropped=0, skipped=1, waiting=0)
    assert seen == [SUBMIT] * 3
    assert [each.project for each in pair.second.recorder.requests(SUBMIT)] == [f"local/{wanted.name}"]
    assert [each.project for each in pair.first.recorder.requests(SUBMIT)] == [pair.project] * 3


def test_a_request_may_be_changed_after_the_call(connect: Callable[[Mirror], Connection], pair: Pair) -> None:
    pair.second.faults.delay(0.2, method=SUBMIT)
    operation = create("before", project=pair.project)
    with second(pair) as mirror:
        connect(mirror).stub(IngestServiceStub).Submit(operation)
        operation.run_id = "after"
        assert mirror.flush(PATIENCE)
    assert [each.run_id for each in pair.second.recorder.requests(SUBMIT)] == ["before"]


# What is wrong on the second side stays there.


def submit_many(connection: Connection, project: str, count: int = 5) -> list[str]:
    """Log to the first server, and check that it has all."""
    ingest = connection.stub(IngestServiceStub)
    ids = [ingest.Submit(create(f"run-{index}", project=project)).request_ids[0] for index in range(count)]
    assert len(set(ids)) == count
    return ids


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_second_server_that_is_down(connect: Callable[[Mirror], Connection], pair: Pair, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        address = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}"
        with second(pair, target=address, timeout=0.2) as mirror:
            submit_many(connect(mirror), pair.project, 2)
            assert mirror.flush(PATIENCE)
            assert mirror.counts == MirrorCounts(sent=0, failed=2, dropped=0, skipped=0, waiting=0)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_black_hole(connect: Callable[[Mirror], Connection], pair: Pair, hole: str, scheme: str) -> None:
    with second(pair, target=f"{scheme}://{hole}") as mirror:
        submit_many(connect(mirror), pair.project)
        assert not mirror.flush(0)
        assert mirror.counts == MirrorCounts(sent=0, failed=0, dropped=0, skipped=0, waiting=5)
        mirror.close(0)
        assert mirror.counts.dropped == 4
        submit_many(connect(mirror), pair.project, 1)
        assert mirror.counts.dropped == 5


def test_a_second_server_that_never_answers_holds_up_nobody(
    connect: Callable[[Mirror], Connection], pair: Pair
) -> None:
    stuck = pair.second.faults.delay(math.inf, method=SUBMIT)
    with second(pair) as mirror:
        submit_many(connect(mirror), pair.project)
        waiting = mirror.counts
        assert (waiting.sent, waiting.waiting) == (0, 5)
        stuck.remove()
        mirror.close(0)


def test_a_slow_second_server_gets_all_in_order(connect: Callable[[Mirror], Connection], pair: Pair) -> None:
    pair.second.faults.delay(0.02, method=SUBMIT, times=None)
    with second(pair) as mirror:
        submit_many(connect(mirror), pair.project)
        assert mirror.flush(PATIENCE)
        assert mirror.counts.sent == 5
    runs = [each.run_id for each in pair.second.recorder.requests(SUBMIT)]
    assert runs == [f"run-{index}" for index in range(5)]


def test_a_second_server_that_fails(
    connect: Callable[[Mirror], Connection], pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.second.faults.fail(grpc.StatusCode.INTERNAL, method=SUBMIT, times=2)
    pair.second.faults.fail(grpc.StatusCode.UNAVAILABLE, method=SUBMIT, times=1)
    with caplog.at_level(logging.WARNING, "neptune_api.mirror"), second(pair) as mirror:
        submit_many(connect(mirror), pair.project)
        assert mirror.flush(PATIENCE)
        assert mirror.counts == MirrorCounts(sent=3, failed=2, dropped=0, skipped=0, waiting=0)
    [record] = caplog.records  # the second failure is too soon after the first
    assert record.getMessage().startswith(f"Mirroring {SUBMIT}: the second server did not take a copy: INTERNAL")


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_a_token_that_the_second_server_refuses(
    connect: Callable[[Mirror], Connection], pair: Pair, caplog: pytest.LogCaptureFixture, wire: str
) -> None:
    token = pair.first.api_token
    with caplog.at_level(logging.DEBUG), second(pair, wire, api_token=token) as mirror:
        submit_many(connect(mirror), pair.project, 2)
        assert mirror.flush(PATIENCE)
        assert (mirror.counts.sent, mirror.counts.failed) == (0, 2)
    assert "refused the API token" in caplog.text
    assert token not in caplog.text


def test_a_first_server_that_fails_does_not_keep_copies_back(
    connect: Callable[[Mirror], Connection], pair: Pair
) -> None:
    pair.first.faults.fail(grpc.StatusCode.INTERNAL, method=SUBMIT)
    with second(pair) as mirror:
        with pytest.raises(InternalException):
            connect(mirror).stub(IngestServiceStub).Submit(create(project=pair.project))
        assert mirror.flush(PATIENCE)
        assert (mirror.counts.sent, mirror.counts.failed) == (1, 0)


@pytest.mark.parametrize("limit", [{"max_calls": 2}, {"max_bytes": 30}])
def test_what_has_no_room_is_dropped(
    connect: Callable[[Mirror], Connection],
    pair: Pair,
    limit: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    operation = create("run-0", project=pair.project)
    if "max_bytes" in limit:
        limit = {"max_bytes": 2 * operation.ByteSize()}
    stuck = pair.second.faults.delay(math.inf, method=SUBMIT, times=1)
    with caplog.at_level(logging.WARNING, "neptune_api.mirror"), second(pair, **limit) as mirror:
        connection = connect(mirror)
        submit_many(connection, pair.project, 1)
        end = time.monotonic() + PATIENCE
        while not pair.second.recorder.calls(SUBMIT):  # then the first one is out of the queue
            assert time.monotonic() < end
            time.sleep(0.01)
        submit_many(connection, pair.project, 5)
        counts = mirror.counts
        assert (counts.waiting, counts.dropped) == (3, 3)
        stuck.remove()
    assert "there is no room for more copies" in caplog.text


def test_a_mirror_is_flushed_when_it_is_closed(connect: Callable[[Mirror], Connection], pair: Pair) -> None:
    with second(pair) as mirror:
        submit_many(connect(mirror), pair.project)
    assert mirror.counts == MirrorCounts(sent=5, failed=0, dropped=0, skipped=0, waiting=0)
    mirror.close()


def test_many_threads_and_loops_use_one_mirror(pair: Pair) -> None:
    def log(number: int) -> None:
        with pair.first.channel() as plain:
            channel = grpc.intercept_channel(plain, MirrorInterceptor(mirror))
            for index in range(20):
                IngestServiceStub(channel).Submit(create(f"run-{number}-{index}", project=pair.project))

    async def log_aio(number: int) -> None:
        async with aio.channel(pair.first.http_url, api_token=pair.first.api_token, mirror=mirror) as channel:
            stub = IngestServiceStub(channel)
            await asyncio.gather(
                *(stub.Submit(create(f"run-{number}-{index}", project=pair.project)) for index in range(20))
            )

    with second(pair) as mirror:
        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        threads += [threading.Thread(target=lambda n=number: asyncio.run(log_aio(n))) for number in range(4, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert mirror.flush(PATIENCE)
        assert mirror.counts == MirrorCounts(sent=120, failed=0, dropped=0, skipped=0, waiting=0)
    runs = {each.run_id for each in pair.second.recorder.requests(SUBMIT)}
    assert runs == {f"run-{number}-{index}" for number, index in itertools.product(range(6), range(20))}


# Channels made elsewhere


def access_token(server: ScriptedServer) -> str:
    with server.channel(api_token="") as channel:
        request = models.ExchangeApiTokenRequest(api_token=server.api_token)
        return AuthServiceStub(channel).ExchangeApiToken(request).access_token


def test_interceptors_for_channels_made_elsewhere(pair: Pair) -> None:
    auth = neptune_api.AuthInterceptor(StaticTokenSource(access_token(pair.first)))
    with second(pair) as mirror, grpc.insecure_channel(pair.first.grpc_target) as bare:
        channel = grpc.intercept_channel(bare, MirrorInterceptor(mirror), auth)
        write(GrpcConnection(channel, http=False), pair.project, streams=True)
        UsersServiceStub(channel).GetUserIdentity(models.GetUserIdentityRequest())
        assert mirror.flush(PATIENCE)
        assert (mirror.counts.sent, mirror.counts.failed) == (12, 0)
    assert contents(pair.first, pair.project, 1018) == contents(pair.second, pair.project, 1018)
    keys = [[key(call) for call in server.recorder.calls(SUBMIT)] for server in (pair.first, pair.second)]
    assert keys[0] == keys[1][:3]


def test_aio_interceptors_for_channels_made_elsewhere(pair: Pair, loop: BackgroundLoop) -> None:
    source = AioStaticTokenSource(access_token(pair.first))

    async def open_aio() -> grpc.aio.Channel:
        interceptors = [*aio.mirror_interceptors(mirror), *aio.auth_interceptors(source)]
        return grpc.aio.insecure_channel(pair.first.grpc_target, interceptors=interceptors)

    with second(pair) as mirror:
        connection = AioConnection(loop.run(open_aio()), loop, http=False)
        write(connection, pair.project, streams=True)
        assert mirror.flush(PATIENCE)
        assert (mirror.counts.sent, mirror.counts.failed) == (12, 0)
        connection.close()
    assert contents(pair.first, pair.project, 1018) == contents(pair.second, pair.project, 1018)


def test_requests_written_one_by_one_are_copied(pair: Pair) -> None:
    async def log() -> None:
        async with aio.channel(pair.first.grpc_url, api_token=pair.first.api_token, mirror=mirror) as channel:
            call = IngestServiceStub(channel).SubmitStream()
            for index in range(3):
                await call.write(create(f"run-{index}", project=pair.project))
            await call.done_writing()
            assert len((await call).request_ids) == 3

    with second(pair) as mirror:
        asyncio.run(log())
        assert mirror.flush(PATIENCE)
    runs = [each.run_id for each in pair.second.recorder.requests(SUBMIT)]
    assert runs == [f"run-{index}" for index in range(3)]


# Making one


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"methods": ["IngestService.Submitt"]},
            r"no method 'IngestService.Submitt'.* did you mean IngestService.Submit",
        ),
        ({"methods": ["SeriesService.ReadColumns"]}, "answers with a stream"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": math.inf}, "timeout must be a positive number"),
        ({"max_calls": 0}, "must be at least 1"),
        ({"max_bytes": 0}, "must be at least 1"),
        ({"target": "grpc://example.com:80"}, "refusing to send a token unencrypted"),
        ({"options": ChannelOptions(ca_file="x")}, "mean something with TLS only"),
    ],
)
def test_what_makes_no_sense_is_refused(pair: Pair, arguments: dict[str, Any], problem: str) -> None:
    arguments = {"target": pair.second.grpc_url, "api_token": pair.second.api_token} | arguments
    with pytest.raises(ValueError, match=problem):
        Mirror(arguments.pop("target"), **arguments)


# Processes


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_program_with_a_mirror_ends_in_time(run: Run, hole: str, scheme: str) -> None:
    plain = run("exits", "nothing", "return", "")
    ended = run("mirrored", f"{scheme}://{hole}")
    assert (ended.code, ended.err) == (3, "")
    assert ended.seconds < 2 + plain.seconds


def test_a_mirror_and_a_fork(run: Run) -> None:
    assert run("mirrored_fork").told() == {
        "child": {"sent": 1, "failed": 0, "dropped": 0, "skipped": 0, "waiting": 0},
        "code": 0,
        "parent": {"sent": 3, "failed": 0, "dropped": 0, "skipped": 0, "waiting": 0},
    }


def test_a_call_whose_token_is_refused_is_copied_once(pair: Pair) -> None:
    class Renewed(StaticTokenSource):
        def invalidate(self, token: AccessToken) -> bool:
            self._fixed = self._token = AccessToken.make(access_token(pair.first), math.inf)
            return token.value == "spent"

    with second(pair) as mirror, grpc.insecure_channel(pair.first.grpc_target) as bare:
        channel = grpc.intercept_channel(bare, MirrorInterceptor(mirror), neptune_api.AuthInterceptor(Renewed("spent")))
        RunsServiceStub(channel).CreateRun(models.CreateRunRequest(project_identifier=pair.project))
        assert mirror.flush(PATIENCE)
        assert mirror.counts == MirrorCounts(sent=1, failed=0, dropped=0, skipped=0, waiting=0)


def test_without_a_thread_copies_are_dropped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As at the end of a program, from Python 3.12 on: the first server's call goes on all the same."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with second(pair) as mirror:
        method = "/neptune_api.v1.IngestService/Submit"
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            request = create("run-1", project=pair.project)
            assert mirror.take(method, request, ()) is request
        assert (mirror.counts.dropped, mirror.counts.waiting) == (1, 0)
        assert "no thread" in caplog.text
        mirror.take(method, create("run-2", project=pair.project), ())
        assert mirror.flush(PATIENCE)
        assert (mirror.counts.sent, mirror.counts.dropped) == (1, 1)
