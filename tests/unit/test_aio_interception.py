"""Interceptors of grpc.aio on a channel over HTTP do what they do on one of gRPC: each test runs on both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

import neptune_api
from neptune_api import models
from neptune_api.exceptions import InternalException, UnavailableException
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.unit.wire import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.unit.wire import FakeServer

    Use = Callable[[grpc.aio.Channel], Coroutine[Any, Any, Any]]

EMPTY = models.AuthorizeRequest()


def run(server: FakeServer, use: Use, *interceptors: Any) -> Any:
    """Use a channel with interceptors and an access token of the caller's."""

    async def main() -> Any:
        token = server.grant().access_token
        async with neptune_api.aio.channel(server.target, access_token=token, interceptors=interceptors) as channel:
            return await use(channel)

    return asyncio.run(main())


async def authorize(channel: grpc.aio.Channel) -> str:
    return str((await AuthServiceStub(channel).Authorize(EMPTY)).username)


async def read(channel: grpc.aio.Channel) -> list[int]:
    stub: Any = SeriesServiceStub(channel)
    return [message.series_index async for message in stub.ReadColumns(models.ReadColumnsRequest())]


class Tagging(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds a word to the metadata."""

    def __init__(self, word: str) -> None:
        self.word = word

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        metadata = dict(client_call_details.metadata or ())
        metadata["x-words"] = f"{metadata.get('x-words', '')}{self.word}"
        details = client_call_details._replace(metadata=grpc.aio.Metadata(*metadata.items()))
        return await continuation(details, request)


def test_the_first_interceptor_is_the_outermost(fake_server: FakeServer) -> None:
    assert run(fake_server, authorize, Tagging("a"), Tagging("b"), Tagging("c")) == "ada"
    assert fake_server.last("Authorize").metadata["x-words"] == "abc"


def test_an_interceptor_sees_the_call_as_grpc_shows_it(fake_server: FakeServer) -> None:
    seen = []

    class Noting(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            seen.append(client_call_details)
            call = await continuation(client_call_details, request)
            seen.append(await call.code())
            return call

    run(fake_server, authorize, Noting())
    details, code = seen
    method = details.method if isinstance(details.method, bytes) else details.method.encode()
    assert method == b"/neptune_api.v1.AuthService/Authorize"
    assert 0 < details.timeout <= 60
    assert "authorization" in dict(details.metadata)
    assert code is grpc.StatusCode.OK


def test_an_interceptor_may_answer_itself(fake_server: FakeServer) -> None:
    class Answering(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return models.AuthorizedUser(username="cached")

    async def use(channel: grpc.aio.Channel) -> None:
        call: Any = AuthServiceStub(channel).Authorize(EMPTY)
        assert (await call).username == "cached"
        assert await call.code() is grpc.StatusCode.OK
        assert tuple(await call.trailing_metadata() or ()) == ()
        assert await call.details() in {"", None}
        assert call.done()
        assert not call.cancel()

    run(fake_server, use, Answering())
    assert fake_server.count("Authorize") == 0


def test_an_interceptor_may_try_again(fake_server: FakeServer) -> None:
    class Stubborn(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            call = await continuation(client_call_details, request)
            if await call.code() is grpc.StatusCode.INTERNAL:
                return await continuation(client_call_details, request)
            return call

    fake_server.script("Authorize", fail(grpc.StatusCode.INTERNAL))
    assert run(fake_server, authorize, Stubborn()) == "ada"
    assert fake_server.count("Authorize") == 2
    fake_server.script("Authorize", fail(grpc.StatusCode.INTERNAL, "boom"), fail(grpc.StatusCode.INTERNAL, "boom"))
    with pytest.raises(InternalException, match="boom"):
        run(fake_server, authorize, Stubborn())


def test_what_an_interceptor_raises_is_the_error_of_the_call(fake_server: FakeServer) -> None:
    class Refusing(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            raise UnavailableException("not now")

    with pytest.raises(UnavailableException, match="not now"):
        run(fake_server, authorize, Refusing())


class Doubling(grpc.aio.UnaryStreamClientInterceptor):
    """Gives every response twice."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)

        async def doubled() -> Any:
            async for message in call:
                yield message
                yield message

        return doubled()


class Passing(grpc.aio.UnaryStreamClientInterceptor):
    """Returns the call as it is."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


def test_an_interceptor_may_change_a_stream(fake_server: FakeServer) -> None:
    assert run(fake_server, read, Passing()) == [0, 1, 2]
    assert run(fake_server, read, Passing(), Doubling()) == [0, 0, 1, 1, 2, 2]
    assert run(fake_server, read, Tagging("x")) == [0, 1, 2]  # of another kind: it is not asked
    assert "x-words" not in fake_server.last("ReadColumns").metadata


@pytest.mark.parametrize("interceptors", [(), (Passing(),), (Doubling(),)])
def test_a_stream_tells_how_it_ended(fake_server: FakeServer, interceptors: tuple[Any, ...]) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        call: Any = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
        assert [message async for message in call]
        assert await call.code() is grpc.StatusCode.OK
        assert tuple(await call.trailing_metadata()) == ()
        fake_server.script("ReadColumns, later", fail(grpc.StatusCode.INTERNAL, "boom"))
        call = SeriesServiceStub(channel).ReadColumns(models.ReadColumnsRequest())
        with pytest.raises(InternalException, match="boom"):
            [message async for message in call]
        assert await call.code() is grpc.StatusCode.INTERNAL

    run(fake_server, use, *interceptors)


@pytest.mark.parametrize("door", ["http"], indirect=True)
def test_what_is_no_interceptor_is_refused(fake_server: FakeServer) -> None:
    with pytest.raises(TypeError, match=r"client interceptors of grpc\.aio, not str"):
        run(fake_server, authorize, "nonsense")
