"""Where servicers meet doors: one guard around every RPC, whichever wire the call came by.

A door turns bytes into messages and errors into its wire's form. Everything between is here and written once: who
calls, how long the caller waits, what a fault may tell. A guarded RPC returns its encoded response or raises
StatusError, never anything else.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import logging
import traceback
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from neptune_api.credentials import redact
from neptune_api.server import limits
from neptune_api.server.deferral import DeferredServicer
from neptune_api.server.errors import StatusError, too_large, unimplemented
from neptune_api.server.identity import calling_as
from neptune_api.server.store.faults import CorruptChunkError, DatabaseFaultError, DiskFullError, StoreClosedError
from neptune_api.v1 import annotations_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from neptune_api.server.identity import Caller

    Behaviour: TypeAlias = Callable[[Any, Any], Any]
    Authenticate: TypeAlias = Callable[[str | None], Caller]
    Decode: TypeAlias = Callable[[Any], Message]
    Encode: TypeAlias = Callable[[Any], Any]

_LOGGER: Final = logging.getLogger("neptune_api.server")
# Services whose reading calls may look through everything that is stored.
_SEARCHING: Final = frozenset({"AttributesService", "LeaderboardService", "SeriesService"})
# After a fault of the database, such as a lost connection.
_RETRY_SECONDS: Final = 1.0


class CallContext(Protocol):
    """What a guard and the servicers need to know of a call; grpc.ServicerContext is one."""

    def invocation_metadata(self) -> Iterable[Any]:
        """Return the (key, value) pairs sent with the call; keys are lower case."""

    def is_active(self) -> bool:
        """Tell whether somebody still waits for the answer."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, 0 when it has passed, None when there is none."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response in its binary encoding, from a servicer that writes many points sooner as bytes than as messages."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Answering:
    """How a servicer answers one RPC."""

    behaviour: Behaviour
    """Takes the request, or an iterator of them, and the context; gives the response, or an iterator of them."""
    read: Callable[[bytes], Any] | None = None
    """Turns bytes into what `behaviour` takes instead of the message; None when it takes the message."""


@dataclass(frozen=True, slots=True)
class Handler:
    """One RPC of one servicer. `guarded` gives the function that a door calls."""

    method: MethodDescriptor
    request_type: type[Message]
    response_type: type[Message]
    request_streaming: bool
    response_streaming: bool
    authenticate: Authenticate | None
    """None for RPCs that need no token."""
    answering: Callable[[], Answering]
    """Gives how it is answered; asking may make the servicer."""

    @property
    def name(self) -> str:
        """The RPC as people write it: `RunsService.GetRun`."""
        return f"{self.method.containing_service.name}.{self.method.name}"

    @property
    def path(self) -> str:
        """The RPC as gRPC writes it: `/neptune_api.v1.RunsService/GetRun`."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def reads_bytes(self) -> bool:
        """Tell whether the servicer reads its requests itself, from their binary encoding."""
        return self.answering().read is not None

    @property
    def is_query(self) -> bool:
        """Tell whether the RPC has one answer that may take long to compute: few such calls run at a time."""
        if self.response_streaming or self.method.containing_service.name not in _SEARCHING:
            return False
        level = self.method.GetOptions().idempotency_level
        return bool(level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS)

    def parse(self, data: bytes) -> Any:
        """Return what the servicer gets for a request in its binary encoding.

        Raises StatusError: RESOURCE_EXHAUSTED over limits.MAX_REQUEST_BYTES, INVALID_ARGUMENT for malformed bytes.
        """
        if len(data) > limits.MAX_REQUEST_BYTES:
            raise too_large("The request", len(data), limits.MAX_REQUEST_BYTES, "send it in parts.")
        try:
            return (self.answering().read or self.request_type.FromString)(data)
        except DecodeError:
            name = self.request_type.DESCRIPTOR.full_name
            raise StatusError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The request of {len(data):,} bytes is not a {name}: the bytes are cut short, or no protobuf message, "
                "or of another type.",
                reason="MALFORMED_REQUEST",
                violations=[("", f"not the encoding of a {name}")],
            ) from None

    def take(self, message: Message) -> Any:
        """Return what the servicer gets for a request. Raises StatusError as parse() does."""
        return self.parse(message.SerializeToString()) if self.reads_bytes else message

    def serialize(self, response: Message | Encoded) -> bytes:
        """Return the binary encoding of a response. Raises TypeError for one of another type."""
        return response.data if isinstance(response, Encoded) else self.checked(response).SerializeToString()

    def checked(self, response: Message | Encoded) -> Message:
        """Return a response. Raises TypeError for one of another type, which protobuf would encode all the same."""
        if isinstance(response, Encoded):
            return self.response_type.FromString(response.data)
        if not isinstance(response, self.response_type):
            raise TypeError(f"{self.name} answers {self.response_type.__name__}, not {type(response).__name__}")
        return response

    def guarded(self, decode: Decode, encode: Encode) -> Behaviour:
        """Return the RPC as a function of (payload, context) that raises nothing but StatusError.

        A payload is what `decode` turns into the request, or an iterator of such things for a request stream; `encode`
        makes results of responses. Both may raise StatusError. A response stream is returned as a generator: close it
        when the caller has gone away.
        """
        if self.response_streaming:
            return self._guarded_stream(decode, encode)
        receive = self._requests if self.request_streaming else _receive_one

        def call(payload: Any, context: CallContext) -> Any:
            try:
                caller = self._admit(context)
                request = receive(payload, decode)
                behaviour = self.answering().behaviour
                if caller is None:
                    return encode(behaviour(request, context))
                with calling_as(caller):
                    return encode(behaviour(request, context))
            except StatusError:
                raise
            except Exception as error:  # noqa: BLE001 # becomes an incident in the log
                raise self._failure(error) from None

        return call

    def _guarded_stream(self, decode: Decode, encode: Encode) -> Behaviour:
        receive = self._requests if self.request_streaming else _receive_one

        def call(payload: Any, context: CallContext) -> Iterator[Any]:
            try:
                caller = self._admit(context)
                request = receive(payload, decode)
                # A generator runs in the context of whoever asks for its next item: give it one of its own.
                if caller is None:
                    own = contextvars.copy_context()
                else:
                    with calling_as(caller):
                        own = contextvars.copy_context()
                responses = iter(own.run(self.answering().behaviour, request, context))
                try:
                    while (response := own.run(next, responses, None)) is not None:
                        yield encode(response)
                finally:
                    if (close := getattr(responses, "close", None)) is not None:
                        own.run(close)
            except StatusError:
                raise
            except Exception as error:  # noqa: BLE001 # becomes an incident in the log
                raise self._failure(error) from None

        return call

    def _admit(self, context: CallContext) -> Caller | None:
        if not context.is_active():
            raise StatusError(grpc.StatusCode.CANCELLED, f"The caller of {self.name} went away before it began.")
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"The deadline passed before {self.name} began: allow more time."
            )
        if self.authenticate is None:
            return None
        for key, value in context.invocation_metadata():
            if key == "authorization":
                return self.authenticate(value if isinstance(value, str) else None)
        return self.authenticate(None)

    def _requests(self, payloads: Iterator[Any], decode: Decode) -> Iterator[Message]:
        while True:
            try:
                payload = next(payloads, None)
            except grpc.RpcError:
                raise StatusError(grpc.StatusCode.CANCELLED, f"The caller of {self.name} went away.") from None
            if payload is None:
                return
            yield decode(payload)

    def _failure(self, error: Exception) -> StatusError:
        if isinstance(error, StoreClosedError):
            return StatusError(
                grpc.StatusCode.UNAVAILABLE, "The server is shutting down: call again in a moment.", retry_seconds=1.0
            )
        return store_fault(self.name, error) or incident(self.name, error)


def store_fault(where: str, error: Exception) -> StatusError | None:
    """Return what the caller hears of a fault of the database or its disk, and log it; None for any other error."""
    fault: StatusError
    if isinstance(error, DiskFullError):
        fault = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), reason="DISK_FULL")
    elif isinstance(error, DatabaseFaultError):
        reason = "DATABASE_UNAVAILABLE"
        fault = StatusError(grpc.StatusCode.UNAVAILABLE, str(error), reason=reason, retry_seconds=_RETRY_SECONDS)
    elif isinstance(error, CorruptChunkError):
        fault = StatusError(grpc.StatusCode.DATA_LOSS, str(error), reason="DATA_DAMAGED")
    else:
        return None
    _LOGGER.error("%s failed: %s", where, error)
    return fault


def incident(where: str, error: Exception) -> StatusError:
    """Log a fault under a new id and return the INTERNAL that tells the caller no more than that id."""
    number = uuid.uuid4().hex
    trace = "".join(traceback.format_exception(error)).rstrip()
    _LOGGER.error("incident %s: %s failed\n%s", number, where, redact(trace))
    return StatusError(
        grpc.StatusCode.INTERNAL,
        f"The server failed in {where}; its log says why under incident {number}.",
        reason="INCIDENT",
        metadata={"incident": number},
    )


def _receive_one(payload: Any, decode: Decode) -> Message:
    return decode(payload)


def collect_handlers(servicers: Iterable[object], authenticate: Authenticate) -> dict[str, Handler]:
    """Return the RPCs of the servicers by their path, `/package.Service/Method`.

    `authenticate` takes the `authorization` metadata (None when it is absent) and returns the caller or raises
    StatusError; RPCs whose proto says `anonymous` go without. RPCs that a servicer does not override answer
    UNIMPLEMENTED. A servicer may have `request_readers`: by name of an RPC, a function that takes the bytes of a
    request and returns what its method gets instead of the message, or raises DecodeError. A DeferredServicer is made
    when one of its RPCs is called.
    """
    found: dict[str, Handler] = {}
    for servicer in servicers:
        base = servicer.base if isinstance(servicer, DeferredServicer) else _generated_base(type(servicer))
        module = importlib.import_module(base.__module__)
        for path, rpc in collect_rpcs(getattr(module, f"add_{base.__name__}_to_server"), base()).items():
            service, _, name = path[1:].rpartition("/")
            method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
            found[path] = Handler(
                method=method,
                request_type=message_factory.GetMessageClass(method.input_type),
                response_type=message_factory.GetMessageClass(method.output_type),
                request_streaming=bool(rpc.request_streaming),
                response_streaming=bool(rpc.response_streaming),
                authenticate=None if is_anonymous(method) else authenticate,
                answering=functools.cache(functools.partial(_answering, servicer, base, method)),
            )
    return found


def _answering(servicer: object, base: type, method: MethodDescriptor) -> Answering:
    if isinstance(servicer, DeferredServicer):
        servicer = servicer.get()
    if getattr(type(servicer), method.name) is getattr(base, method.name):
        return Answering(_refusal(method))
    return Answering(getattr(servicer, method.name), getattr(servicer, "request_readers", {}).get(method.name))


def is_anonymous(method: MethodDescriptor) -> bool:
    """Tell whether an RPC needs no token."""
    access: annotations_pb2.Access = method.GetOptions().Extensions[annotations_pb2.access]
    return access.anonymous


class Registrar:
    """Stands in for a grpc.Server in the generated `add_..._to_server` functions and keeps what they register."""

    def __init__(self) -> None:
        self.rpcs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.ServiceRpcHandler]) -> None:
        """Keep the RPCs of generic handlers, which answer by name only."""
        for handler in handlers:
            service: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(handler.service_name())
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                rpc = handler.service(_Details(path))
                if rpc is not None:
                    self.rpcs[path] = rpc

    def add_registered_method_handlers(self, _service: str, _rpcs: object) -> None:
        """Do nothing: newer generated code registers its RPCs in this way as well."""


@dataclass(slots=True)
class _Details:
    method: str
    invocation_metadata: Any = ()


def collect_rpcs(add: Callable[[Any, Any], None], servicer: object) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return what the generated function `add` registers for a servicer, by path."""
    registrar = Registrar()
    add(servicer, registrar)
    return registrar.rpcs


def _generated_base(servicer: type) -> type:
    for cls in servicer.__mro__:
        if cls.__module__.endswith("_pb2_grpc") and cls.__name__.endswith("Servicer"):
            return cls
    raise TypeError(f"{servicer.__name__} is no subclass of a generated servicer")


def _refusal(method: MethodDescriptor) -> Behaviour:
    def refuse(_request: Any, _context: Any) -> Any:
        raise unimplemented(
            f"{method.containing_service.name}.{method.name} is not part of this version of the server; "
            "docs/coverage.md lists what is."
        )

    return refuse
