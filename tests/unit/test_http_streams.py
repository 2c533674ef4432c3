"""Channels over HTTP: streams of responses, whole, cut short, slow and forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import models
from neptune_api.exceptions import (
    NeptuneApiError,
    UnavailableException,
)
from neptune_api.options import ChannelOptions
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.raw_server import (
    FRAMES,
    STREAM,
    STREAM_HEAD,
    Peer,
    chunk,
    opened,
)
from tests.unit.wire import FAST, PATIENCE

if TYPE_CHECKING:
    from tests.unit.conftest import OpenWire, Serve


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
