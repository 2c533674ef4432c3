"""transport="auto": gRPC where it is spoken, HTTP where it is not, decided once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc
import pytest

from neptune_api.credentials import ApiToken
from neptune_api.exceptions import NeptuneApiError, UnavailableException, UnimplementedException
from tests.unit.http_wire import FakeHttpServer
from tests.unit.raw_server import RawServer, free_port
from tests.unit.wire import FAST, PATIENCE, FakeServer, SyncWire, fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.conftest import OpenWire
    from tests.unit.raw_server import Peer
    from tests.unit.wire import AioWire


@pytest.fixture
def http_server() -> Iterator[FakeHttpServer]:
    server = FakeHttpServer()
    yield server
    server.stop()


@pytest.fixture
def grpc_server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


def auto(open_channel: OpenWire, http_server: FakeHttpServer, grpc_port: int) -> SyncWire | AioWire:
    """Open a channel with a token of both servers, of which the HTTP one takes it."""
    token = ApiToken.mint(
        api_url=http_server.target,
        grpc_url=f"grpc://127.0.0.1:{grpc_port}",
        api_key=http_server.api_token.api_key,
    )
    http_server.api_token = token
    return open_channel(api_token=token, transport="auto", options=FAST)


def test_grpc_is_taken_where_it_is_spoken(
    grpc_server: FakeServer, http_server: FakeHttpServer, open_channel: OpenWire
) -> None:
    wire = auto(open_channel, http_server, grpc_server.port)
    grpc_server.api_token = http_server.api_token
    assert wire.authorize().username == "ada"
    assert len(wire.read()) == 3
    assert list(wire.send().request_ids) == ["0", "1", "2"]
    assert len(wire.both()) == 3
    assert grpc_server.count("GetServerInfo") == 1
    assert http_server.requests == []


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_server_that_says_no_speaks_grpc(
    grpc_server: FakeServer, http_server: FakeHttpServer, open_channel: OpenWire, code: grpc.StatusCode
) -> None:
    wire = auto(open_channel, http_server, grpc_server.port)
    grpc_server.api_token = http_server.api_token
    grpc_server.script("GetServerInfo", *[fail(code, "no", (("grpc-retry-pushback-ms", "-1"),))])
    assert wire.authorize().username == "ada"
    assert http_server.requests == []


def test_http_is_taken_when_nobody_is_there(http_server: FakeHttpServer, open_channel: OpenWire) -> None:
    wire = auto(open_channel, http_server, free_port())
    assert wire.authorize().username == "ada"
    assert len(wire.read()) == 3
    for call in (wire.send, wire.both):
        with pytest.raises(UnimplementedException, match="use the gRPC wire"):
            call()


def not_found(peer: Peer) -> None:
    """Answer as a web server does that knows no HTTP/2."""
    peer.socket.recv(65536)
    peer.answer(b"<html>what?</html>", "Connection: close", status="400 Bad Request", kind="text/html")


def test_http_is_taken_when_a_web_server_is_there(http_server: FakeHttpServer, open_channel: OpenWire) -> None:
    web = RawServer(not_found)
    wire = auto(open_channel, http_server, web.port)
    assert wire.authorize().username == "ada"
    web.stop()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN])
def test_http_is_taken_when_a_proxy_of_grpc_knows_no_such_api(
    grpc_server: FakeServer, http_server: FakeHttpServer, open_channel: OpenWire, code: grpc.StatusCode
) -> None:
    wire = auto(open_channel, http_server, grpc_server.port)
    grpc_server.script("GetServerInfo", fail(code))
    assert wire.authorize().username == "ada"
    assert grpc_server.count("GetServerInfo") == 1
    assert grpc_server.count("ExchangeApiToken") == 0


def test_the_choice_is_made_once(grpc_server: FakeServer, http_server: FakeHttpServer, open_channel: OpenWire) -> None:
    wire = auto(open_channel, http_server, grpc_server.port)
    grpc_server.api_token = http_server.api_token
    assert len(wire.together(20)) == 20
    assert grpc_server.count("GetServerInfo") == 1
    grpc_server.stop()
    with pytest.raises(UnavailableException):
        wire.authorize()
    assert http_server.requests == []


def test_a_call_in_a_hurry_decides_nothing(
    grpc_server: FakeServer, http_server: FakeHttpServer, open_channel: OpenWire
) -> None:
    wire = auto(open_channel, http_server, grpc_server.port)
    grpc_server.api_token = http_server.api_token
    slow = threading.Event()

    def wait(_: object) -> None:
        slow.wait(PATIENCE)

    grpc_server.script("GetServerInfo", wait)
    assert wire.info(timeout=2).version == "1"
    assert http_server.count("GetServerInfo") == 1
    slow.set()
    assert len(wire.read()) == 3
    assert wire.info(timeout=2).version == "1"
    assert (grpc_server.count("ReadColumns"), grpc_server.count("GetServerInfo")) == (1, 2)


def test_nobody_at_either_address_is_unavailable(http_server: FakeHttpServer, open_channel: OpenWire) -> None:
    port = free_port()
    token = ApiToken.mint(api_url=f"http://127.0.0.1:{port}", grpc_url=f"grpc://127.0.0.1:{free_port()}")
    wire = open_channel(api_token=token, transport="auto", options=FAST)
    with pytest.raises(NeptuneApiError, match=f"Cannot connect to 127.0.0.1:{port}: Connection refused"):
        wire.info()


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_futures_and_states_work_over_the_chosen_one(
    http_server: FakeHttpServer, open_channel: OpenWire, kind: str
) -> None:
    from neptune_api import models
    from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub

    wire = auto(open_channel, http_server, free_port())
    assert isinstance(wire, SyncWire)
    ready = threading.Event()

    def changed(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            ready.set()

    wire.channel.subscribe(changed, try_to_connect=True)
    assert ready.wait(20)
    wire.channel.unsubscribe(changed)
    stub = AuthServiceStub(wire.channel)
    assert stub.Authorize.future(models.AuthorizeRequest()).result(20).username == "ada"
    assert stub.Authorize.with_call(models.AuthorizeRequest())[1].code() is grpc.StatusCode.OK
