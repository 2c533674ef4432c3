"""The gRPC door: threads, ports, health, reflection; puts guarded RPCs on the wire."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped] # ships no types

from neptune_api._grpc import forks
from neptune_api._threads import DaemonPool
from neptune_api.exceptions import STATUS_DETAILS_KEY
from neptune_api.options import PUSHBACK_KEY, server_arguments
from neptune_api.server import limits
from neptune_api.server.errors import StatusError, unimplemented
from neptune_api.server.handlers import collect_rpcs
from neptune_api.server.pools import CALL_THREADS, end_pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import ThreadPoolExecutor

    from neptune_api.server.handlers import Behaviour, Handler
    from neptune_api.server.query_threads import QueryThreads

# A stream keeps a thread for as long as it lives, mostly asleep. Streams have threads of their own, so however many are
# open, calls with one answer go on.
_REFUSING_THREADS: Final = 4

# Who looks at the API by reflection waits for what it takes to import; nobody else does.
_REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"

# How long a stopping door waits for the servicers of calls it has cancelled.
_CANCEL_SECONDS: Final = 0.2
_FOR_EVER: Final = 3600.0

# Clients that nobody configured take 8 KiB of metadata; a percent-encoded sentence, the details in base64 and what gRPC
# adds have to fit in.
_MAX_SENTENCE_BYTES: Final = 2400
_MAX_DETAILS_BYTES: Final = 3000

_SENTENCE_LENGTH: Final = 1000
_FIELD_LENGTH: Final = 200
_MOST_VIOLATIONS: Final = 32


class GrpcDoor:
    """A gRPC server that is bound to its port when it is made, answers from start() to stop(), and cannot be reused.

    Raises OSError or RuntimeError when the address cannot be bound, FailedPreconditionException where gRPC does not
    work after a fork.
    """

    def __init__(
        self,
        address: str,
        queries: QueryThreads,
        *,
        credentials: grpc.ServerCredentials | None = None,
        max_streams: int = limits.MAX_STREAMS,
    ) -> None:
        """Bind it. `queries` are the threads that answer queries, which whoever made them ends."""
        forks.start()
        # Further calls queue up; their messages stay in the sockets until a thread takes them.
        self._calls = DaemonPool(CALL_THREADS, "neptune-api-call")
        self._queries = queries
        self._streams = DaemonPool(max_streams + _REFUSING_THREADS, "neptune-api-stream")
        self._max_streams = max_streams
        self._open_streams = threading.Semaphore(max_streams)
        self._router = _Router()
        self._health = health.HealthServicer()
        # gRPC asks nothing of a pool but submit().
        pool = cast("ThreadPoolExecutor", self._calls)
        self._server = grpc.server(pool, handlers=[self._router], options=server_arguments())
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)

    def start(self, handlers: Mapping[str, Handler]) -> None:
        """Answer calls of these RPCs, of the health service and of the reflection service."""
        for path, handler in handlers.items():
            self._router.rpcs[path] = self._rpc(handler)
        services = sorted({handler.method.containing_service.full_name for handler in handlers.values()})
        self._serve_health(services)
        self._serve_reflection(services)
        self._server.start()

    def stop(self, grace: float) -> bool:
        """Take no more calls, cancel those that last longer than `grace` seconds; False if a servicer still works."""
        end = time.monotonic() + grace + _CANCEL_SECONDS
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait(grace + _CANCEL_SECONDS)
        return end_pools((self._calls, self._streams), end)

    def leave(self) -> None:
        """Take no more calls; those under way end with the program, which is about to."""
        with contextlib.suppress(RuntimeError):  # of the thread that would cancel calls in the end: none can be started
            self._server.stop(_FOR_EVER)

    def _rpc(self, handler: Handler) -> grpc.RpcMethodHandler[Any, Any]:
        guarded = handler.guarded(handler.parse, handler.serialize)
        if handler.response_streaming:
            behaviour = self._limited_stream(_aborting_stream(guarded))
        elif handler.request_streaming:
            behaviour = self._limited_call(_aborting(guarded))
        elif handler.is_query:
            behaviour = _on_threads(self._queries, self._queries.in_turn(_aborting(guarded)))
        else:
            behaviour = _aborting(guarded)
        return _FACTORIES[handler.request_streaming, handler.response_streaming](behaviour)

    def _limited_call(self, behaviour: Behaviour) -> Behaviour:
        def call(payload: Any, context: grpc.ServicerContext) -> Any:
            if not self._open_streams.acquire(blocking=False):
                _abort(context, _too_many_streams(self._max_streams))
            try:
                return behaviour(payload, context)
            finally:
                self._open_streams.release()

        return _on_threads(self._streams, call)

    def _limited_stream(self, behaviour: Behaviour) -> Behaviour:
        def call(payload: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            if not self._open_streams.acquire(blocking=False):
                _abort(context, _too_many_streams(self._max_streams))
            try:
                yield from behaviour(payload, context)
            finally:
                self._open_streams.release()

        return _on_threads(self._streams, call)

    def _serve_health(self, services: list[str]) -> None:
        for name in ("", *services, health.SERVICE_NAME, _REFLECTION):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._router.rpcs.update(collect_rpcs(health_pb2_grpc.add_HealthServicer_to_server, self._health))

    def _serve_reflection(self, services: list[str]) -> None:
        @cache
        def servicer() -> Any:
            from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped] # ships no types

            return reflection.ReflectionServicer([*services, health.SERVICE_NAME, _REFLECTION])

        def answer(payloads: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            from grpc_reflection.v1alpha import reflection_pb2 as pb

            requests = map(pb.ServerReflectionRequest.FromString, payloads)
            for response in servicer().ServerReflectionInfo(requests, context):
                yield response.SerializeToString()

        limited = self._limited_stream(answer)
        self._router.rpcs[f"/{_REFLECTION}/ServerReflectionInfo"] = grpc.stream_stream_rpc_method_handler(limited)


class _Router(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.rpcs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        path = handler_call_details.method
        return self.rpcs.get(path) or _unknown(path)


def _unknown(path: str) -> grpc.RpcMethodHandler[Any, Any]:
    def refuse(_payload: Any, context: grpc.ServicerContext) -> Any:
        _abort(context, unimplemented(f"The server has no method {path}: `neptune-api describe` lists those it has."))

    # Nobody knows the method's arity: a response stream that ends with a status serves all of them.
    return grpc.stream_stream_rpc_method_handler(refuse)


_FACTORIES: Final[dict[tuple[bool, bool], Callable[[Any], grpc.RpcMethodHandler[Any, Any]]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _on_threads(pool: DaemonPool, behaviour: Behaviour) -> Behaviour:
    # gRPC looks for a behaviour's own threads under this name; without it all would share those of calls.
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined] # functions take attributes
    return behaviour


def _aborting(guarded: Behaviour) -> Behaviour:
    def call(payload: Any, context: grpc.ServicerContext) -> Any:
        try:
            return guarded(payload, context)
        except StatusError as error:
            _abort(context, error)

    return call


def _aborting_stream(guarded: Behaviour) -> Behaviour:
    def call(payload: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from guarded(payload, context)
        except StatusError as error:
            _abort(context, error)

    return call


class _Status(NamedTuple):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def _abort(context: grpc.ServicerContext, error: StatusError) -> NoReturn:
    metadata: list[tuple[str, str | bytes]] = [(STATUS_DETAILS_KEY, _details(error))]
    if error.retry_seconds is not None:
        metadata.append((PUSHBACK_KEY, str(round(error.retry_seconds * 1000))))
    elif error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Clients retry this code. What is too large now is too large the next time.
        metadata.append((PUSHBACK_KEY, "-1"))
    context.abort_with_status(_Status(error.code, _sentence(error.message), tuple(metadata)))  # type: ignore[arg-type] # grpc reads the three fields


def _too_many_streams(limit: int) -> StatusError:
    return StatusError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"The server has {limit} streams open, its limit: close some, or try again in a moment.",
        reason="TOO_MANY_STREAMS",
        retry_seconds=1.0,
    )


def _sentence(text: str) -> str:
    shown = text[:_SENTENCE_LENGTH].encode(errors="replace").decode()
    # gRPC sends every byte that is not printable ASCII as three.
    while sum(1 if 32 <= byte < 127 else 3 for byte in shown.encode()) > _MAX_SENTENCE_BYTES:
        shown = shown[: len(shown) * 3 // 4]
    return shown if len(shown) == len(text) else f"{shown}..."


def _details(error: StatusError) -> bytes:
    """Return the encoded google.rpc.Status, with as many violations as fit into trailing metadata."""
    fitting = StatusError(
        error.code,
        _sentence(error.message),
        reason=error.reason,
        metadata=error.metadata,
        violations=[(field[:_FIELD_LENGTH], _sentence(text)) for field, text in error.violations[:_MOST_VIOLATIONS]],
        retry_seconds=error.retry_seconds,
    )
    encoded = fitting.status().SerializeToString()
    while len(encoded) > _MAX_DETAILS_BYTES and fitting.violations:
        fitting.violations = fitting.violations[: len(fitting.violations) // 2]
        encoded = fitting.status().SerializeToString()
    return encoded
