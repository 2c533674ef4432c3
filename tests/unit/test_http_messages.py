"""Channels over HTTP: requests byte by byte, and answers that are none."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import models
from neptune_api.exceptions import (
    InternalException,
    InvalidArgumentException,
    NeptuneApiError,
    ResourceExhaustedException,
    UnavailableException,
    UnimplementedException,
    UnknownException,
)
from neptune_api.options import ChannelOptions
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.raw_server import (
    INFO,
    Peer,
    opened,
    refusing,
    well,
)
from tests.unit.wire import operations

if TYPE_CHECKING:
    from tests.unit.conftest import OpenWire, Serve


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
