"""Channels over HTTP against a server whose every byte is scripted: connections, deadlines, retries, answers. Threads
and coroutines alike; what they share with gRPC is in test_channel.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gc
import gzip
import os
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import models
from neptune_api.channels import parse_target
from neptune_api.exceptions import (
    CancelledException,
    DeadlineExceededException,
    InternalException,
    InvalidArgumentException,
    NeptuneApiError,
    ResourceExhaustedException,
    UnavailableException,
    UnimplementedException,
    UnknownException,
)
from neptune_api.http.channel import Wire
from neptune_api.http.framing import encode_frame
from neptune_api.http.retries import Budget, Retries
from neptune_api.http.rules import Format, find_rule
from neptune_api.options import ChannelOptions, RetryPolicy
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.http_wire import FakeHttpServer
from tests.unit.raw_server import Peer, RawServer
from tests.unit.wire import PATIENCE, AioWire, SyncWire, operations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.conftest import OpenWire
    from tests.unit.raw_server import Script

    Serve = Callable[..., RawServer]

FAST = ChannelOptions(retry=RetryPolicy(initial_backoff=0.01))
ONCE = ChannelOptions(retry=None)
INFO = models.ServerInfo(version="1").SerializeToString()
STREAM = [models.ReadColumnsResponse(series_index=index) for index in range(3)]
READ = find_rule("/neptune_api.v1.SeriesService/ReadColumns")
assert READ is not None
FRAMES = [encode_frame(READ, message, Format.PROTOBUF) for message in STREAM]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def well(peer: Peer) -> None:
    """Answer every request."""
    while True:
        peer.request()
        peer.answer(INFO)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts scripted servers and stops them at the end."""
    servers = []

    def start(*scripts: Script) -> RawServer:
        servers.append(RawServer(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def opened(open_channel: OpenWire, server: RawServer, options: ChannelOptions = FAST) -> SyncWire | AioWire:
    return open_channel(server.target, access_token="opaque", options=options)


# Connections.


def test_calls_share_a_connection(serve: Serve, open_channel: OpenWire) -> None:
    server = serve(well)
    wire = opened(open_channel, server)
    assert [wire.info().version for _ in range(20)] == ["1"] * 20
    assert server.connections == 1


def test_a_connection_that_the_server_has_closed_is_replaced(serve: Serve, open_channel: OpenWire) -> None:
    def once(peer: Peer) -> None:
        peer.request()
        peer.answer(INFO)

    server = serve(once)
    wire = opened(open_channel, server, ONCE)
    for _ in range(3):
        assert wire.info()
        server.wait_until_idle()
        wire.revoke()  # not idempotent
        server.wait_until_idle()
    assert server.connections == 6


def test_a_connection_that_dies_under_a_request_is_replaced_only_if_that_is_safe(
    serve: Serve, open_channel: OpenWire
) -> None:
    def dying(peer: Peer) -> None:
        peer.request()
        peer.answer(INFO)
        server.note(peer)

    server = serve(dying)
    wire = opened(open_channel, server, ONCE)
    assert wire.info()
    assert wire.info()  # a read may be made twice: over another connection, at once
    assert len(server.requests) == 1
    with pytest.raises(UnavailableException, match="the server may have done the work"):
        wire.revoke()
    assert len(server.requests) == 2
    assert server.connections == 2


@pytest.mark.parametrize(
    "spoil", ["HTTP/1.1 200 OK\r\n", "x", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"]
)
def test_what_nobody_asked_for_answers_nothing(serve: Serve, open_channel: OpenWire, spoil: str) -> None:
    spoilt = threading.Event()

    def spoiling(peer: Peer) -> None:
        peer.request()
        peer.answer(INFO)
        peer.send(spoil.encode())
        spoilt.set()
        peer.wait_until_gone()

    server = serve(spoiling, well)
    wire = opened(open_channel, server, ONCE)
    assert wire.info().version == "1"
    assert spoilt.wait(PATIENCE)
    assert wire.info().version == "1"
    assert server.connections == 2


@pytest.mark.parametrize("header", ["Connection: close", "connection: keep-alive, CLOSE"])
def test_a_server_may_ask_for_a_new_connection(serve: Serve, open_channel: OpenWire, header: str) -> None:
    def closing(peer: Peer) -> None:
        peer.request()
        peer.answer(INFO, header)
        peer.wait_until_gone()

    server = serve(closing)
    wire = opened(open_channel, server)
    assert wire.info()
    assert wire.info()
    assert server.connections == 2


def test_as_many_connections_as_calls_at_once(serve: Serve, open_channel: OpenWire) -> None:
    together = threading.Barrier(8)

    def waiting(peer: Peer) -> None:
        peer.request()
        together.wait(PATIENCE)
        peer.answer(b"")
        peer.wait_until_gone()

    server = serve(waiting)
    assert len(opened(open_channel, server).together(8)) == 8
    assert server.connections == 8


def test_a_channel_is_safe_for_threads() -> None:
    server = FakeHttpServer()
    try:
        with (
            neptune_api.channel(api_token=server.api_token) as channel,
            ThreadPoolExecutor(16) as threads,
        ):
            stub = IngestServiceStub(channel)

            def call(number: int) -> str:
                return stub.Submit(models.RunOperation(project="w/p", run_id=str(number))).request_id

            assert list(threads.map(call, range(400))) == [str(number) for number in range(400)]
    finally:
        server.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_channel_may_be_used_on_both_sides_of_a_fork() -> None:
    server = FakeHttpServer()
    try:
        with neptune_api.channel(api_token=server.api_token) as channel:
            stub = AuthServiceStub(channel)
            assert stub.Authorize(models.AuthorizeRequest()).username == "ada"
            assert stub.Authorize.future(models.AuthorizeRequest()).result(PATIENCE).username == "ada"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # later versions warn of forks beside threads
                child = os.fork()
            if not child:
                code = 1
                try:
                    stub.Authorize(models.AuthorizeRequest(), timeout=PATIENCE)
                    stub.Authorize.future(models.AuthorizeRequest(), timeout=PATIENCE).result(PATIENCE)
                    code = 0
                finally:
                    os._exit(code)
            for _ in range(20):  # over the parent's own connection, while the child uses its own
                assert stub.Authorize(models.AuthorizeRequest()).username == "ada"
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        server.stop()


def test_a_path_before_the_api_is_kept(serve: Serve, open_channel: OpenWire) -> None:
    def noting(peer: Peer) -> None:
        while True:
            server.note(peer)
            peer.answer(INFO)

    server = serve(noting)
    wire = open_channel(f"{server.target}/some/where/", access_token="opaque")
    assert wire.info()
    assert server.requests[0].startswith("GET /some/where/api/")
    assert f"Host: 127.0.0.1:{server.port}\r\n" in server.requests[0]


# Deadlines.


def stall(peer: Peer) -> None:
    peer.request()
    peer.wait_until_gone()


def drip_head(peer: Peer) -> None:
    peer.request()
    while True:
        peer.send(b"HTTP/1.1 200 OK\r\nX: " if not hasattr(peer, "begun") else b"y")
        peer.begun = True  # type: ignore[attr-defined] # a note for the next round
        time.sleep(0.02)


def drip_body(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        peer.send(b"y")
        time.sleep(0.02)


@pytest.mark.parametrize("script", [stall, drip_head, drip_body])
def test_a_deadline_is_for_the_whole_call_whatever_trickles_in(
    serve: Serve, open_channel: OpenWire, script: Script
) -> None:
    wire = opened(open_channel, serve(script))
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededException, match="deadline of the call passed while it waited for the answer"):
        wire.authorize(timeout=0.3)
    assert time.monotonic() - begun < 5


def test_a_deadline_ends_a_request_that_nobody_reads(open_channel: OpenWire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # which never reads what it accepts
        wire = open_channel(f"http://127.0.0.1:{listener.getsockname()[1]}", access_token="opaque", options=FAST)
        with pytest.raises(DeadlineExceededException):
            wire.submit("x" * 30_000_000, timeout=0.3)


def test_a_deadline_ends_a_stream_that_stops(serve: Serve, open_channel: OpenWire) -> None:
    def stopping(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + chunk(FRAMES[0]))
        peer.wait_until_gone()

    with pytest.raises(DeadlineExceededException):
        opened(open_channel, serve(stopping)).read(timeout=0.3)


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """A port at which connections are never made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:  # until the queue is full, and the system answers no more
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()


def test_a_connection_that_is_not_made_ends_at_the_deadline(open_channel: OpenWire) -> None:
    with full_listener() as port:
        wire = open_channel(f"http://127.0.0.1:{port}", access_token="opaque", options=FAST)
        with pytest.raises(DeadlineExceededException, match="while it connected to"):
            wire.authorize(timeout=0.3)


# Retries.


def refusing(status: str, *headers: str, times: int = 1) -> Script:
    def refuse(peer: Peer) -> None:
        for _ in range(times):
            peer.request()
            peer.answer(b"{}", *headers, status=status, kind="application/json")
        well(peer)

    return refuse


@pytest.mark.parametrize("status", ["503 Service Unavailable", "502 Bad Gateway", "429 Too Many Requests"])
def test_a_server_that_is_away_is_asked_again(serve: Serve, open_channel: OpenWire, status: str) -> None:
    assert opened(open_channel, serve(refusing(status, times=4))).info().version == "1"


def test_after_five_attempts_it_is_enough(serve: Serve, open_channel: OpenWire) -> None:
    server = serve(refusing("503 Service Unavailable", times=5))
    wire = opened(open_channel, server)
    with pytest.raises(UnavailableException, match="The server answered HTTP status 503"):
        wire.info()
    assert wire.info().version == "1"


@pytest.mark.parametrize("status", ["413 Content Too Large", "400 Bad Request", "500 Oops", "408 Request Timeout"])
def test_what_would_end_in_the_same_way_is_asked_once(serve: Serve, open_channel: OpenWire, status: str) -> None:
    wire = opened(open_channel, serve(refusing(status)))
    with pytest.raises(NeptuneApiError):
        wire.info()
    assert wire.info().version == "1"


def test_a_delay_that_the_server_asks_for_takes_the_place_of_ours(serve: Serve, open_channel: OpenWire) -> None:
    slow = ChannelOptions(retry=RetryPolicy(initial_backoff=60, max_backoff=60))
    long_ago = email.utils.formatdate(usegmt=True)
    for header in ("Retry-After: 0.02", "retry-after: 0", f"Retry-After: {long_ago}"):
        wire = opened(open_channel, serve(refusing("503 Service Unavailable", header)), slow)
        assert wire.info().version == "1"


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120.0), ("0.5", 0.5), ("soon", None), ("nan", None), ("-5", 0.0)]
)
def test_a_delay_is_told(serve: Serve, open_channel: OpenWire, header: str, seconds: float | None) -> None:
    wire = opened(open_channel, serve(refusing("503 Service Unavailable", f"Retry-After: {header}")), ONCE)
    with pytest.raises(UnavailableException) as caught:
        wire.info()
    assert caught.value.retry_delay == seconds


def test_there_is_no_waiting_past_the_deadline(serve: Serve, open_channel: OpenWire) -> None:
    wire = opened(open_channel, serve(refusing("503 Service Unavailable", "Retry-After: 3600")))
    with pytest.raises(UnavailableException):
        wire.authorize(timeout=PATIENCE)


def test_a_request_over_the_buffer_is_sent_once(serve: Serve, open_channel: OpenWire) -> None:
    options = ChannelOptions(retry=RetryPolicy(initial_backoff=0.01), retry_buffer_bytes=1000)
    for size, expected in ((500, 1), (2000, 0)):
        wire = opened(open_channel, serve(refusing("503 Service Unavailable")), options)
        if expected:
            wire.submit("x" * size)
        else:
            with pytest.raises(UnavailableException):
                wire.submit("x" * size)


def test_the_attempts_wait_ever_longer() -> None:
    policy = RetryPolicy(initial_backoff=1, max_backoff=10, multiplier=3)
    for attempt, expected in ((1, 1), (2, 3), (3, 9), (4, 10), (5000, 10)):
        waits = [policy.backoff(attempt) for _ in range(100)]
        assert 0.8 * expected <= min(waits) < max(waits) <= 1.2 * expected


def test_many_failures_use_up_the_budget_and_success_fills_it() -> None:
    from neptune_api.http.failures import CallError

    policy = RetryPolicy(budget=10, budget_refill=0.5)
    budget = Budget(policy)
    failure = CallError(grpc.StatusCode.UNAVAILABLE, "down")

    def retried() -> bool:
        return Retries(policy, budget, None, patient=False).pause(failure) is not None

    assert [retried() for _ in range(7)] == [True] * 4 + [False] * 3
    for _ in range(10):
        budget.succeeded()
    assert [retried() for _ in range(3)] == [True, True, False]
    for _ in range(1000):
        budget.succeeded()
    assert [retried() for _ in range(6)] == [True] * 4 + [False] * 2


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_nobody_there_is_told_with_the_address(open_channel: OpenWire) -> None:
    port = free_port()
    wire = open_channel(f"http://127.0.0.1:{port}", api_token="", options=FAST)
    with pytest.raises(UnavailableException, match=rf"Cannot connect to 127\.0\.0\.1:{port}: Connection refused\."):
        wire.info()
    wire = open_channel("http://no-such-host.invalid", api_token="", options=ONCE)
    with pytest.raises(UnavailableException, match=r"Cannot connect to no-such-host\.invalid:80: "):
        wire.info()
    wire = open_channel(f"http://{'x' * 70}.example", api_token="", options=ONCE)
    with pytest.raises(UnavailableException, match="Cannot connect to x"):
        wire.info()


def test_a_call_may_wait_for_a_server_to_come(open_channel: OpenWire) -> None:
    port = free_port()
    wire = open_channel(f"http://127.0.0.1:{port}", access_token="opaque", options=ONCE)
    with pytest.raises(DeadlineExceededException, match="while it connected to"):
        wire.authorize(wait_for_ready=True, timeout=0.3)

    def come() -> None:
        with socket.create_server(("127.0.0.1", port), reuse_port=False) as listener:
            connection, _ = listener.accept()
            with connection:
                peer = Peer(connection)
                peer.request()
                peer.answer()

    server = threading.Timer(0.2, come)
    server.start()
    assert wire.authorize(wait_for_ready=True, timeout=PATIENCE) == models.AuthorizedUser()
    server.join()


# Answers that are none.


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "closed it in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "closed it in the middle of the answer"),
        (b"HTTP/1.1 20", "closed it in the middle of the answer"),
        (b"", "the server closed it"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP/1.1"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "does not speak HTTP/1.1"),
    ],
)
def test_an_answer_that_is_not_whole_or_not_http(
    serve: Serve, open_channel: OpenWire, answer: bytes, said: str
) -> None:
    def speak(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    with pytest.raises(UnavailableException, match=said):
        opened(open_channel, serve(speak)).info()


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"<html>hello</html>", "text/html"), (b"\xff", "application/x-protobuf"), (b"{", "application/json")],
)
def test_an_answer_of_something_else_says_where_to_look(
    serve: Serve, open_channel: OpenWire, body: bytes, kind: str
) -> None:
    def speak(peer: Peer) -> None:
        peer.request()
        peer.answer(body, kind=kind)
        peer.wait_until_gone()

    with pytest.raises(
        InternalException, match=r"is no neptune_api\.v1\.ServerInfo: .*Is 127.* the base address of the"
    ):
        opened(open_channel, serve(speak)).info()


def test_a_compressed_answer_is_refused(serve: Serve, open_channel: OpenWire) -> None:
    def speak(peer: Peer) -> None:
        peer.request()
        peer.answer(gzip.compress(INFO), "Content-Encoding: gzip")
        peer.wait_until_gone()

    with pytest.raises(InternalException, match=r"it is compressed \(gzip\)"):
        opened(open_channel, serve(speak)).info()


def test_a_redirect_is_not_followed(serve: Serve, open_channel: OpenWire) -> None:
    server = serve(refusing("302 Found", "Location: https://elsewhere.example/login"))
    with pytest.raises(
        UnknownException, match=r"status 302, which redirects to https://elsewhere\.example/login; redir"
    ):
        opened(open_channel, server).info()


def test_a_page_of_a_proxy_is_not_quoted(serve: Serve, open_channel: OpenWire) -> None:
    def speak(peer: Peer) -> None:
        peer.request()
        peer.answer(b"<html><h1>Forbidden</h1></html>", status="403 Forbidden", kind="text/html")
        peer.wait_until_gone()

    with pytest.raises(NeptuneApiError, match="The server answered HTTP status 403") as caught:
        opened(open_channel, serve(speak)).info()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_answer_may_come_before_the_request_is_out(serve: Serve, open_channel: OpenWire) -> None:
    def early(peer: Peer) -> None:
        peer.socket.recv(1000)
        peer.answer(b'{"message": "too much"}', "Connection: close", status="413 Too Large", kind="application/json")
        peer.wait_until_gone()

    with pytest.raises(ResourceExhaustedException, match="too much"):
        opened(open_channel, serve(early)).submit("x" * 3_000_000)


def test_headers_are_metadata(serve: Serve) -> None:
    def speak(peer: Peer) -> None:
        while True:
            peer.request()
            peer.answer(INFO, "X-Trace: 7", "X-Blob-Bin: AAEC", "Date: now", "Server: raw")

    with neptune_api.channel(serve(speak).target, api_token="") as channel:
        _, call = ConfigServiceStub(channel).GetServerInfo.with_call(models.GetServerInfoRequest())
        assert tuple(call.initial_metadata()) == (("x-trace", "7"), ("x-blob-bin", b"\x00\x01\x02"))
        assert tuple(call.trailing_metadata()) == ()
        assert (call.code(), call.details(), call.is_active()) == (grpc.StatusCode.OK, "", False)


# Requests.


def test_a_request_is_plain_http(serve: Serve, open_channel: OpenWire) -> None:
    def noting(peer: Peer) -> None:
        server.note(peer)
        peer.answer(models.SubmitResponse(request_id="r").SerializeToString())
        peer.wait_until_gone()

    server = serve(noting)
    wire = opened(open_channel, server)
    wire.submit(timeout=100, metadata=(("x-blob-bin", b"\x00\xff"), ("x-text", "t")))
    head, *lines = server.requests[0].split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(headers) == len(lines)
    assert head == "POST /api/client/v1/ingest HTTP/1.1"
    assert headers.pop("grpc-timeout").rstrip("um").isdigit()
    assert len(headers.pop("x-idempotency-key")) == 32
    assert headers.pop("user-agent").startswith("neptune-api/")
    assert headers.pop("content-length").isdigit()
    assert headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "application/x-protobuf",
        "accept-encoding": "identity",
        "content-type": "application/x-protobuf",
        "authorization": "Bearer opaque",
        "x-blob-bin": "AP8",
        "x-text": "t",
    }


@pytest.mark.parametrize(
    "metadata",
    [("x\r\ny", "z"), ("x", "y\r\nz: w"), ("content-length", "0"), ("host", "elsewhere"), ("X y", "z"), ("x", "ü")],
)
def test_metadata_that_is_none_is_refused(serve: Serve, open_channel: OpenWire, metadata: tuple[str, str]) -> None:
    server = serve(well)
    with pytest.raises(ValueError, match="metadata"):
        opened(open_channel, server).authorize(metadata=(metadata,))
    assert server.connections == 0


def test_json_is_spoken_when_asked_for(serve: Serve, open_channel: OpenWire) -> None:
    def noting(peer: Peer) -> None:
        server.note(peer)
        peer.answer(b'{"requestId": "r", "unknown": [1]}', kind="application/json; charset=utf-8")
        peer.wait_until_gone()

    server = serve(noting)
    wire = opened(open_channel, server, ChannelOptions(http_format="json"))
    assert wire.submit().request_id == "r"
    assert "Content-Type: application/json" in server.requests[0]
    assert "Accept: application/json" in server.requests[0]


def test_what_the_rest_api_declares_is_sent_when_asked_for(serve: Serve, open_channel: OpenWire) -> None:
    def noting(peer: Peer) -> None:
        while True:
            server.note(peer)
            peer.answer()

    server = serve(noting)
    wire = opened(open_channel, server, ChannelOptions(http_format="declared"))
    wire.submit()
    assert "Content-Type: application/x-protobuf" in server.requests[0]
    wire.info()
    assert "Accept: application/json" in server.requests[1]


def test_a_method_that_http_does_not_know_says_so(serve: Serve) -> None:
    with neptune_api.channel(serve(well).target, access_token="opaque") as channel:
        unknown: Any = channel.unary_unary("/a.B/C")
        with pytest.raises(UnimplementedException, match=r"/a\.B/C has no HTTP rule"):
            unknown(b"")
        stream: Any = channel.unary_stream("/a.B/C")
        with pytest.raises(UnimplementedException, match="use the gRPC wire"):
            list(stream(b""))
        assert unknown.future(b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_request_that_no_url_can_carry_is_an_invalid_argument(serve: Serve) -> None:
    from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

    with neptune_api.channel(serve(well).target, access_token="opaque") as channel:
        with pytest.raises(InvalidArgumentException) as caught:
            ProjectsServiceStub(channel).DeleteProjectMember(models.DeleteProjectMemberRequest())
        assert [violation.field for violation in caught.value.violations] == ["user_id"]


def test_streams_of_requests_fail_at_the_call(serve: Serve) -> None:
    sentence = r"SubmitStream takes a stream of requests, which HTTP/1.1 cannot carry: use the gRPC wire"
    server = serve(well)
    with neptune_api.channel(server.target, access_token="opaque") as channel:
        stub = IngestServiceStub(channel)
        with pytest.raises(UnimplementedException, match=sentence):
            stub.SubmitStream(operations())
        with pytest.raises(UnimplementedException, match=sentence):
            stub.SubmitStream.with_call(operations())
        with pytest.raises(UnimplementedException, match=sentence):
            stub.SubmitStream.future(operations()).result()
        with pytest.raises(UnimplementedException, match="SubmitAcknowledged takes a stream"):
            stub.SubmitAcknowledged(operations())

    async def main() -> None:
        async with neptune_api.aio.channel(server.target, access_token="opaque") as channel:
            stub: Any = IngestServiceStub(channel)
            for method in (stub.SubmitStream, stub.SubmitAcknowledged):
                with pytest.raises(UnimplementedException, match="takes a stream of requests"):
                    method(operations())

    asyncio.run(main())
    assert server.connections == 0


def test_call_credentials_are_refused(serve: Serve) -> None:
    credentials = grpc.access_token_call_credentials("secret")
    server = serve(well)
    with neptune_api.channel(server.target, access_token="opaque") as channel:
        for call in (AuthServiceStub(channel).Authorize, AuthServiceStub(channel).Authorize.with_call):
            with pytest.raises(UnimplementedException, match="Call credentials do not work over HTTP"):
                call(models.AuthorizeRequest(), credentials=credentials)
        with pytest.raises(UnimplementedException):
            list(SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest(), credentials=credentials))
    assert server.connections == 0


def test_compression_is_a_hint(serve: Serve) -> None:
    with neptune_api.channel(serve(well).target, api_token="") as channel:
        stub = ConfigServiceStub(channel)
        assert stub.GetServerInfo(models.GetServerInfoRequest(), compression=grpc.Compression.Gzip).version == "1"


# Streams of responses.


def test_a_stream_is_cut_into_messages_wherever_its_pieces_end(serve: Serve, open_channel: OpenWire) -> None:
    whole = b"".join(FRAMES)

    def in_pieces(peer: Peer) -> None:
        for size in (1, 3, 1000):
            peer.request()
            peer.send(STREAM_HEAD)
            for begin in range(0, len(whole), size):
                peer.send(chunk(whole[begin : begin + size]))
            peer.send(b"0\r\n\r\n")

    server = serve(in_pieces)
    wire = opened(open_channel, server)
    for _ in range(3):
        assert wire.read() == STREAM
    assert server.connections == 1


@pytest.mark.parametrize("cut", [chunk(FRAMES[0]), chunk(FRAMES[0]) + b"5\r\nab", b""])
def test_a_stream_cut_short_is_an_error_after_what_came(serve: Serve, cut: bytes) -> None:
    def breaking(peer: Peer) -> None:
        server.note(peer)
        peer.send(STREAM_HEAD + cut)

    server = serve(breaking)
    with neptune_api.channel(server.target, access_token="opaque", options=FAST) as channel:
        stream = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
        if cut:
            assert next(stream).series_index == 0
        with pytest.raises(UnavailableException, match="closed it in the middle of the answer"):
            next(stream)
        with pytest.raises(UnavailableException):
            next(stream)
    assert len(server.requests) == 1


def test_a_stream_that_has_not_begun_is_asked_for_again(serve: Serve, open_channel: OpenWire) -> None:
    def streaming(peer: Peer) -> None:
        peer.request()
        peer.answer(b"{}", status="503 Service Unavailable", kind="application/json")
        peer.request()
        peer.send(STREAM_HEAD + b"".join(map(chunk, FRAMES)) + b"0\r\n\r\n")
        peer.wait_until_gone()

    assert opened(open_channel, serve(streaming)).read() == STREAM


def test_a_message_of_a_stream_over_the_limit_is_an_error(serve: Serve, open_channel: OpenWire) -> None:
    def streaming(peer: Peer) -> None:
        peer.request()
        peer.send(STREAM_HEAD + chunk(b"\x00\x00\x10\x00\x00"))
        peer.wait_until_gone()

    wire = opened(open_channel, serve(streaming), ChannelOptions(max_receive_bytes=1_000_000))
    with pytest.raises(NeptuneApiError, match="more than 1,000,000 bytes"):
        wire.read()


def endless(peer: Peer) -> None:
    peer.request()
    peer.send(STREAM_HEAD)
    while True:
        peer.send(chunk(FRAMES[0]) * 100)


def test_a_stream_that_is_forgotten_lets_its_connection_go(serve: Serve) -> None:
    gone = threading.Event()

    def noticing(peer: Peer) -> None:
        try:
            endless(peer)
        finally:
            gone.set()

    with neptune_api.channel(serve(noticing).target, access_token="opaque") as channel:
        stream = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
        assert next(stream).series_index == 0
        del stream
        gc.collect()
        assert gone.wait(PATIENCE)


def test_what_waits_for_the_end_of_a_stream_reads_it(serve: Serve) -> None:
    def streaming(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(STREAM_HEAD + b"".join(map(chunk, FRAMES)) + b"0\r\n\r\n")

    with neptune_api.channel(serve(streaming).target, access_token="opaque") as channel:
        stream: Any = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
        assert stream.code() is grpc.StatusCode.OK
        assert list(stream) == STREAM


def test_a_slow_reader_of_a_stream_makes_the_server_wait(serve: Serve) -> None:
    sent = 0

    def streaming(peer: Peer) -> None:
        nonlocal sent
        peer.request()
        peer.send(STREAM_HEAD)
        data = chunk(FRAMES[0]) * 5000
        while True:
            peer.send(data)
            sent += len(data)

    async def main() -> None:
        async with neptune_api.aio.channel(server.target, access_token="opaque") as channel:
            call: Any = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
            assert (await call.read()).series_index == 0
            before = -1
            while before != sent:  # until the server waits
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 64 * 1024 * 1024
            for _ in range(1000):
                assert (await call.read()).series_index == 0
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call.read()

    server = serve(streaming)
    asyncio.run(main())


# Closing.


def test_closing_a_channel_ends_what_is_under_way(serve: Serve) -> None:
    asked = threading.Semaphore(0)

    def stalling(peer: Peer) -> None:
        peer.request()
        asked.release()
        peer.wait_until_gone()

    channel = neptune_api.channel(serve(stalling).target, access_token="opaque")
    stub = AuthServiceStub(channel)
    future = stub.Authorize.future(models.AuthorizeRequest())
    with ThreadPoolExecutor(1) as thread:
        blocking = thread.submit(stub.Authorize, models.AuthorizeRequest())
        for _ in range(2):
            assert asked.acquire(timeout=PATIENCE)
        channel.close()
        for call in (blocking, future):
            with pytest.raises(CancelledException, match="Channel closed"):
                call.result(PATIENCE)
    with pytest.raises(ValueError, match="closed channel"):
        stub.Authorize(models.AuthorizeRequest())


def test_a_call_that_connects_can_be_cancelled(certificates: Path) -> None:
    with full_listener() as port, socket.create_server(("127.0.0.1", 0)) as silent:
        secure = ChannelOptions(ca_file=certificates / "ca.pem", retry=None)
        for target in (f"http://127.0.0.1:{port}", f"https://127.0.0.1:{silent.getsockname()[1]}"):
            options = secure if target.startswith("https") else ONCE
            with neptune_api.channel(target, access_token="opaque", options=options) as channel:
                stub = AuthServiceStub(channel)
                future = stub.Authorize.future(models.AuthorizeRequest(), timeout=1000)
                with ThreadPoolExecutor(1) as thread:
                    blocking = thread.submit(stub.Authorize, models.AuthorizeRequest(), timeout=1000)
                    assert not future.done()
                    assert future.cancel()
                    while not blocking.running():
                        pass
                    channel.close()
                    with pytest.raises((CancelledException, ValueError), match=r"(?i)closed"):
                        blocking.result(PATIENCE)


def test_a_call_that_waits_for_another_attempt_can_be_cancelled(serve: Serve) -> None:
    answered = threading.Event()

    def refuse(peer: Peer) -> None:
        peer.request()
        peer.answer(b"{}", "Retry-After: 30", status="503 x", kind="application/json")
        answered.set()
        peer.wait_until_gone()

    with neptune_api.channel(serve(refuse).target, access_token="opaque") as channel:
        future: Any = AuthServiceStub(channel).Authorize.future(models.AuthorizeRequest())
        assert answered.wait(PATIENCE)
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(grpc.FutureCancelledError):
            future.result(PATIENCE)
        assert not future.cancel()


def test_closing_an_aio_channel_gives_calls_grace(serve: Serve) -> None:
    asked, closing = threading.Event(), threading.Event()

    def slow(peer: Peer) -> None:
        peer.request()
        asked.set()
        closing.wait(PATIENCE)
        peer.answer(INFO)
        peer.wait_until_gone()

    async def main() -> None:
        channel = neptune_api.aio.channel(server.target, api_token="")
        call = asyncio.ensure_future(_info(channel))
        await asyncio.to_thread(asked.wait, PATIENCE)
        closed = asyncio.ensure_future(channel.close(PATIENCE))
        await asyncio.sleep(0)  # it begins
        closing.set()
        await closed
        assert (await call).version == "1"
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            await _info(channel)

    server = serve(slow)
    asyncio.run(main())


async def _info(channel: grpc.aio.Channel) -> Any:
    return await ConfigServiceStub(channel).GetServerInfo(models.GetServerInfoRequest())


def test_a_bare_wire_is_a_channel(serve: Serve) -> None:
    server = serve(well)
    states: list[grpc.ChannelConnectivity] = []
    ready = threading.Event()
    down = threading.Event()

    def changed(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        if state is grpc.ChannelConnectivity.READY:
            ready.set()
        if state is grpc.ChannelConnectivity.SHUTDOWN:
            down.set()

    with Wire(parse_target(server.target).endpoint(ONCE), ONCE) as wire:
        grpc.channel_ready_future(wire).result(PATIENCE)
        wire.subscribe(changed)
        assert ready.wait(PATIENCE)
        assert ConfigServiceStub(wire).GetServerInfo(models.GetServerInfoRequest()).version == "1"
        assert server.connections == 1
    assert down.wait(PATIENCE)
    assert states == [grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.SHUTDOWN]


def test_an_aio_channel_tells_of_its_state() -> None:
    async def main() -> None:
        port = free_port()
        async with neptune_api.aio.channel(f"http://127.0.0.1:{port}", api_token="", options=ONCE) as channel:
            assert channel.get_state() is grpc.ChannelConnectivity.IDLE
            with pytest.raises(UnavailableException):
                await _info(channel)
            assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN

    asyncio.run(main())
