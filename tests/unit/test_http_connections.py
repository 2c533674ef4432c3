"""Channels over HTTP: connections kept, shared, lost and cancelled, and deadlines, for threads and coroutines."""

from __future__ import annotations

import asyncio
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
    UnavailableException,
)
from neptune_api.http.channel import Wire
from neptune_api.options import ChannelOptions
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.unit.http_wire import FakeHttpServer
from tests.unit.raw_server import (
    FRAMES,
    INFO,
    ONCE,
    STREAM_HEAD,
    Peer,
    chunk,
    free_port,
    full_listener,
    opened,
    well,
)
from tests.unit.wire import FAST, PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.conftest import OpenWire, Serve
    from tests.unit.raw_server import Script


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


def test_a_connection_that_is_not_made_ends_at_the_deadline(open_channel: OpenWire) -> None:
    with full_listener() as port:
        wire = open_channel(f"http://127.0.0.1:{port}", access_token="opaque", options=FAST)
        with pytest.raises(DeadlineExceededException, match="while it connected to"):
            wire.authorize(timeout=0.3)


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
