"""A gRPC server whose answers a test scripts, and one way to call it over both kinds of channel."""

# ruff: noqa: N802 # servicer methods are named after their RPCs

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
import uuid
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
import grpc.aio

import neptune_api
from neptune_api import models
from neptune_api.credentials import ApiToken
from neptune_api.options import ChannelOptions, RetryPolicy, server_arguments
from neptune_api.v1 import (
    auth_service_pb2_grpc,
    config_service_pb2_grpc,
    ingest_service_pb2_grpc,
    series_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


PATIENCE = 20.0
"""Seconds after which a test that waits gives up; never reached when all is well."""

FAST = ChannelOptions(retry=RetryPolicy(initial_backoff=0.01))
EMPTY = models.AuthorizeRequest()
ARITIES = {"Authorize": "authorize", "ReadColumns": "read", "SubmitStream": "send", "SubmitAcknowledged": "both"}
"""A call of each kind, by its method."""

REQUEST_STREAMS = {"send", "both"}
"""Calls that HTTP cannot carry."""


def jwt(*, lifetime: float = 300.0, skew: float = 0.0, issued: bool = True) -> str:
    """Return an unsigned JWT; `skew` is how far the server's clock is ahead of ours."""
    now = time.time() + skew
    claims = {"exp": now + lifetime, "jti": uuid.uuid4().hex}
    if issued:
        claims["iat"] = now
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "signature"])


@dataclass(frozen=True)
class Seen:
    """A call as the server saw it."""

    method: str
    metadata: dict[str, str | bytes]
    seconds: float | None
    """Seconds left until the deadline; None without one."""


def fail(
    code: grpc.StatusCode, details: str = "scripted", trailing: Sequence[tuple[str, str | bytes]] = ()
) -> Callable[[Any], None]:
    """Return a step that ends the call."""

    def step(context: Any) -> None:
        context.set_trailing_metadata(tuple(trailing))
        context.abort(code, details)

    return step


UNAVAILABLE = fail(grpc.StatusCode.UNAVAILABLE)
UNAUTHENTICATED = fail(grpc.StatusCode.UNAUTHENTICATED, "token expired")


class FakeServer:
    """A real gRPC server on a free port of 127.0.0.1. It checks tokens; what it answers besides is scripted."""

    arguments: ClassVar = server_arguments()

    def __init__(self, credentials: Any = None) -> None:
        self.calls: list[Seen] = []
        self.lifetime = 300.0
        self.valid: set[str] = set()
        self.refresh_tokens: set[str] = set()
        self._script: dict[str, deque[Callable[[Any], None]]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._hanging: list[threading.Event] = []
        self.servicers: dict[str, Any] = {
            "AuthService": _Auth(self),
            "ConfigService": _Config(self),
            "IngestService": _Ingest(self),
            "SeriesService": _Series(self),
        }
        self.target = self._listen(credentials)
        self.port = int(self.target.rpartition(":")[2])
        self.api_token = self._mint()

    def _mint(self) -> ApiToken:
        return ApiToken.mint(api_url="https://neptune.example", grpc_url=self.target)

    def _listen(self, credentials: Any) -> str:
        """Begin to serve and return the target."""
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool, options=self.arguments)
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(self.servicers["AuthService"], self._server)
        config_service_pb2_grpc.add_ConfigServiceServicer_to_server(self.servicers["ConfigService"], self._server)
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(self.servicers["IngestService"], self._server)
        series_service_pb2_grpc.add_SeriesServiceServicer_to_server(self.servicers["SeriesService"], self._server)
        if credentials is None:
            target = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            target = f"grpcs://127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()
        return target

    def _close(self) -> None:
        self._server.stop(None).wait(PATIENCE)
        self._pool.shutdown()

    def stop(self) -> None:
        """Stop at once and wait for the end of all threads."""
        for event in self._hanging:
            event.set()
        self._close()

    def script(self, method: str, *steps: Callable[[Any], None]) -> None:
        """Let the next calls of a method take these steps before they answer, one each."""
        self._script[method].extend(steps)

    def hang(self, context: Any) -> None:
        """Wait, as a step, until the caller has gone or the server stops."""
        gone = threading.Event()
        self._hanging.append(gone)
        if context.add_callback(gone.set):
            gone.wait()

    def count(self, method: str) -> int:
        """Return how often a method was called, each attempt counted."""
        return sum(call.method == method for call in self.calls)

    def wait_for(self, method: str, count: int = 1) -> None:
        """Wait until a method has been called so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(method) >= count, PATIENCE)

    def last(self, method: str) -> Seen:
        """Return the last call of a method."""
        return next(call for call in reversed(self.calls) if call.method == method)

    def enter(self, method: str, context: Any, *, anonymous: bool = False) -> None:
        """Note a call, check its token, and take the next scripted step."""
        metadata = dict(context.invocation_metadata())
        left = context.time_remaining()
        with self._changed:
            self.calls.append(Seen(method, metadata, None if left is None or left > 1e8 else left))
            self._changed.notify_all()
            step = self._script[method].popleft() if self._script[method] else None
        if step is not None:
            step(context)
        if not anonymous and str(metadata.get("authorization", "")).removeprefix("Bearer ") not in self.valid:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid access token")

    def grant(self) -> models.OauthToken:
        """Make a pair of tokens."""
        token = models.OauthToken(
            access_token=jwt(lifetime=self.lifetime), refresh_token=uuid.uuid4().hex, username="ada"
        )
        with self._changed:
            self.valid.add(token.access_token)
            self.refresh_tokens.add(token.refresh_token)
        return token


class _Servicer:
    def __init__(self, server: FakeServer) -> None:
        self.server = server


class _Auth(_Servicer, auth_service_pb2_grpc.AuthServiceServicer):
    def ExchangeApiToken(self, request: models.ExchangeApiTokenRequest, context: Any) -> models.OauthToken:
        self.server.enter("ExchangeApiToken", context, anonymous=True)
        if request.api_token != self.server.api_token.encode():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown API key")
        return self.server.grant()

    def RefreshToken(self, request: models.RefreshTokenRequest, context: Any) -> models.OauthToken:
        self.server.enter("RefreshToken", context, anonymous=True)
        if request.refresh_token not in self.server.refresh_tokens:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown refresh token")
        return self.server.grant()

    def Authorize(self, request: models.AuthorizeRequest, context: Any) -> models.AuthorizedUser:
        self.server.enter("Authorize", context)
        return models.AuthorizedUser(username="ada")

    def RevokeApiToken(self, request: models.RevokeApiTokenRequest, context: Any) -> models.RevokeApiTokenResponse:
        self.server.enter("RevokeApiToken", context)
        return models.RevokeApiTokenResponse()

    def GetApiToken(self, request: models.GetApiTokenRequest, context: Any) -> models.ApiToken:
        self.server.enter("GetApiToken", context)
        return models.ApiToken(token="x" * 20_000_000)


class _Config(_Servicer, config_service_pb2_grpc.ConfigServiceServicer):
    def GetServerInfo(self, request: models.GetServerInfoRequest, context: Any) -> models.ServerInfo:
        self.server.enter("GetServerInfo", context, anonymous=True)
        return models.ServerInfo(version="1")

    def GetClientConfig(self, request: models.GetClientConfigRequest, context: Any) -> models.ClientConfig:
        self.server.enter("GetClientConfig", context, anonymous=True)
        return models.ClientConfig(api_url="https://neptune.example")


class _Ingest(_Servicer, ingest_service_pb2_grpc.IngestServiceServicer):
    def Submit(self, request: models.RunOperation, context: Any) -> models.SubmitResponse:
        self.server.enter("Submit", context)
        return models.SubmitResponse(request_id=request.run_id[:20])

    def SubmitStream(self, request_iterator: Iterable[models.RunOperation], context: Any) -> models.SubmitResponse:
        self.server.enter("SubmitStream", context)
        return models.SubmitResponse(request_ids=[request.run_id for request in request_iterator])

    def SubmitAcknowledged(
        self, request_iterator: Iterable[models.RunOperation], context: Any
    ) -> Iterator[models.SubmitResponse]:
        self.server.enter("SubmitAcknowledged", context)
        for request in request_iterator:
            if request.run_id == "last":
                return
            yield models.SubmitResponse(request_id=request.run_id)


class _Series(_Servicer, series_service_pb2_grpc.SeriesServiceServicer):
    def ReadColumns(self, request: models.ReadColumnsRequest, context: Any) -> Iterator[models.ReadColumnsResponse]:
        self.server.enter("ReadColumns", context)
        for index in range(3):
            yield models.ReadColumnsResponse(series_index=index)
            if index == 0:
                # A second step is for the middle of the stream.
                self.server.enter("ReadColumns, later", context)


# One body of a test for both kinds of channel.


class Wire:
    """Calls the four kinds of method over one channel and blocks until they have ended."""

    unary: Callable[..., Any]
    stream: Callable[..., list[Any]]

    def close(self) -> None:
        """Close the channel."""


def operations(count: int = 3) -> Iterator[models.RunOperation]:
    """Return requests to stream."""
    return (models.RunOperation(project="w/p", run_id=str(index)) for index in range(count))


class SyncWire(Wire):
    """Over a grpc.Channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def authorize(self, **arguments: Any) -> models.AuthorizedUser:
        """Call a read-only method."""
        return auth_service_pb2_grpc.AuthServiceStub(self.channel).Authorize(models.AuthorizeRequest(), **arguments)

    def revoke(self) -> models.RevokeApiTokenResponse:
        """Call a method that is not idempotent."""
        return auth_service_pb2_grpc.AuthServiceStub(self.channel).RevokeApiToken(models.RevokeApiTokenRequest())

    def big(self) -> models.ApiToken:
        """Call a method with a response of 20 MB."""
        return auth_service_pb2_grpc.AuthServiceStub(self.channel).GetApiToken(models.GetApiTokenRequest())

    def info(self, **arguments: Any) -> models.ServerInfo:
        """Call a method that needs no token."""
        stub = config_service_pb2_grpc.ConfigServiceStub(self.channel)
        return stub.GetServerInfo(models.GetServerInfoRequest(), **arguments)

    def submit(self, run_id: str = "r", **arguments: Any) -> models.SubmitResponse:
        """Call an idempotent write."""
        request = models.RunOperation(project="w/p", run_id=run_id)
        return ingest_service_pb2_grpc.IngestServiceStub(self.channel).Submit(request, **arguments)

    def read(self, **arguments: Any) -> list[models.ReadColumnsResponse]:
        """Call a method with a stream of responses."""
        stub = series_service_pb2_grpc.SeriesServiceStub(self.channel)
        return list(stub.ReadColumns(models.ReadColumnsRequest(), **arguments))

    def send(self, **arguments: Any) -> models.SubmitResponse:
        """Call a method with a stream of requests."""
        return ingest_service_pb2_grpc.IngestServiceStub(self.channel).SubmitStream(operations(), **arguments)

    def both(self, **arguments: Any) -> list[models.SubmitResponse]:
        """Call a method with streams both ways."""
        stub = ingest_service_pb2_grpc.IngestServiceStub(self.channel)
        return list(stub.SubmitAcknowledged(operations(), **arguments))

    def together(self, count: int) -> list[models.AuthorizedUser]:
        """Make many calls at once."""
        barrier = threading.Barrier(count)

        def call(_: int) -> models.AuthorizedUser:
            barrier.wait(PATIENCE)
            return self.authorize()

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(call, range(count)))


class AioWire(Wire):
    """Over a grpc.aio.Channel, on an event loop of its own."""

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self.loop = asyncio.new_event_loop()

        async def opened() -> grpc.aio.Channel:
            return make()

        try:
            self.channel = self.run(opened())
        except BaseException:
            self.loop.close()
            raise

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop to its end."""
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))

    def close(self) -> None:
        """Close the channel and the loop."""
        self.run(self.channel.close())
        self.loop.run_until_complete(self._settle())
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _settle(self) -> None:
        # Cancelled calls end a moment later. If the loop is gone by then, gRPC keeps their channel and its thread.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=PATIENCE)

    async def _await(self, call: Callable[[], Any]) -> Any:
        return await call()

    async def _collect(self, call: Callable[[], Any]) -> list[Any]:
        return [response async for response in call()]

    def authorize(self, **arguments: Any) -> Any:
        """Call a read-only method."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self.channel)
        return self.run(self._await(lambda: stub.Authorize(models.AuthorizeRequest(), **arguments)))

    def revoke(self) -> Any:
        """Call a method that is not idempotent."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self.channel)
        return self.run(self._await(lambda: stub.RevokeApiToken(models.RevokeApiTokenRequest())))

    def big(self) -> Any:
        """Call a method with a response of 20 MB."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self.channel)
        return self.run(self._await(lambda: stub.GetApiToken(models.GetApiTokenRequest())))

    def info(self, **arguments: Any) -> Any:
        """Call a method that needs no token."""
        stub = config_service_pb2_grpc.ConfigServiceStub(self.channel)
        return self.run(self._await(lambda: stub.GetServerInfo(models.GetServerInfoRequest(), **arguments)))

    def submit(self, run_id: str = "r", **arguments: Any) -> Any:
        """Call an idempotent write."""
        stub = ingest_service_pb2_grpc.IngestServiceStub(self.channel)
        request = models.RunOperation(project="w/p", run_id=run_id)
        return self.run(self._await(lambda: stub.Submit(request, **arguments)))

    def read(self, **arguments: Any) -> list[Any]:
        """Call a method with a stream of responses."""
        stub = series_service_pb2_grpc.SeriesServiceStub(self.channel)
        responses: list[Any] = self.run(
            self._collect(lambda: stub.ReadColumns(models.ReadColumnsRequest(), **arguments))
        )
        return responses

    def send(self, **arguments: Any) -> Any:
        """Call a method with a stream of requests."""
        stub = ingest_service_pb2_grpc.IngestServiceStub(self.channel)
        return self.run(self._await(lambda: stub.SubmitStream(operations(), **arguments)))

    def both(self, **arguments: Any) -> list[Any]:
        """Call a method with streams both ways."""
        stub = ingest_service_pb2_grpc.IngestServiceStub(self.channel)
        responses: list[Any] = self.run(self._collect(lambda: stub.SubmitAcknowledged(operations(), **arguments)))
        return responses

    def together(self, count: int) -> list[Any]:
        """Make many calls at once."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self.channel)

        async def call() -> list[Any]:
            return await asyncio.gather(*(stub.Authorize(models.AuthorizeRequest()) for _ in range(count)))

        users: list[Any] = self.run(call())
        return users


def open_wire(
    kind: str,
    target: str | None = None,
    *,
    api_token: str | ApiToken | None = None,
    access_token: Any = None,
    options: ChannelOptions | None = None,
    transport: Any = None,
) -> SyncWire | AioWire:
    """Open a channel of ours; `kind` is sync or aio."""
    arguments: dict[str, Any] = {
        "api_token": api_token,
        "access_token": access_token,
        "options": options,
        "transport": transport,
    }
    if kind == "sync":
        return SyncWire(neptune_api.channel(target, **arguments))
    return AioWire(lambda: neptune_api.aio.channel(target, **arguments))
