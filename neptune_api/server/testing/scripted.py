"""ScriptedServer: a LocalServer whose calls pass a script on their way from the guard to their servicer.

The script stands behind the guard, so that one hook serves both doors, and in no other server: those that nobody
directs have nothing of it in the way of their calls.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import grpc
from google.protobuf.message import DecodeError

from neptune_api.server.errors import StatusError
from neptune_api.server.handlers import Answering, Handler
from neptune_api.server.local import LocalServer
from neptune_api.server.testing.clock import TestClock
from neptune_api.server.testing.connections import cut
from neptune_api.server.testing.faults import CUT, Faults
from neptune_api.server.testing.recorder import Recorder
from neptune_api.server.testing.replies import Replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from os import PathLike

    from google.protobuf.message import Message

    from neptune_api.server.handlers import Behaviour, Decode, Encode
    from neptune_api.server.testing.faults import Fault
    from neptune_api.server.testing.recorder import Call
    from neptune_api.server.testing.recordings import Recording
    from neptune_api.server.testing.replays import Replay

# How soon a delayed call notices that its caller has left.
_LOOK_SECONDS: Final = 0.05


class Source(Protocol):
    """Answers calls in place of the servicers."""

    def call(self, handler: Handler, behaviour: Behaviour, request: Any, context: Any) -> Any:
        """Do as the behaviour of the servicer, which is at hand."""


class ScriptedServer(LocalServer):
    """A LocalServer with scripted faults, a recorder, canned replies, a clock, and recordings of other servers."""

    def __init__(self, data: str | PathLike[str] | None = None, **options: Any) -> None:
        self.clock: Final = TestClock()
        """The time of the server."""
        self._script = _Script()
        super().__init__(data, clock=self.clock, adapt=self._script.adapt, **options)

    @property
    def faults(self) -> Faults:
        """Faults to come."""
        return self._script.faults

    @property
    def recorder(self) -> Recorder:
        """The calls that came."""
        return self._script.recorder

    @property
    def replies(self) -> Replies:
        """Canned replies to come."""
        return self._script.replies

    @contextmanager
    def record(
        self, path: str | PathLike[str], *, target: str | None = None, api_token: str | None = None
    ) -> Iterator[Recording]:
        """Write the calls of a `with` block, and their answers, into a file.

        With an `api_token` of another server, calls go on to that server, at the address in the token or at `target`,
        and its answers come back; callers log in here. Tokens are not written. Raises OSError, and ValueError for a
        target without a token.
        """
        from neptune_api.server.testing.recordings import recording

        with recording(path, target=target, api_token=api_token) as source, self._script.answered_by(source):
            yield source

    @contextmanager
    def replay(self, path: str | PathLike[str], *, ignore: Iterable[str] = ()) -> Iterator[Replay]:
        """Answer the calls of a `with` block from a file that record() has written.

        Fields of the names in `ignore`, such as times, may differ. A call that was not recorded gets
        FAILED_PRECONDITION, which says field by field what differs from the nearest one, and the block ends with
        AssertionError. Raises ValueError for a file that is no recording, OSError.
        """
        from neptune_api.server.testing.replays import Replay

        source = Replay.load(path, ignore)
        with self._script.answered_by(source):
            yield source
        source.verify()

    @contextmanager
    def undirected(self) -> Iterator[None]:
        """Answer calls in a `with` block as any server does, and note none of them."""
        self._script.pauses += 1
        try:
            yield
        finally:
            self._script.pauses -= 1

    def reset(self) -> None:
        """Forget faults, replies and calls, and set the clock right."""
        self.faults.clear()
        self.replies.clear()
        self.recorder.clear()
        self.clock.reset()

    def start(self) -> ScriptedServer:
        """Accept calls. Raises RuntimeError when the server runs already."""
        self._script.closing.clear()
        super().start()
        return self

    def stop(self) -> None:
        """End calls under way, delayed ones too, and stop."""
        self._script.closing.set()
        super().stop()


class _Script:
    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._source: Source | None = None
        self.faults: Final = Faults(self._handlers)
        self.recorder: Final = Recorder(self._handlers)
        self.replies: Final = Replies(self._handlers)
        self.closing: Final = threading.Event()
        self.pauses = 0
        """How many want calls to go past the script."""

    def adapt(self, handler: Handler) -> Handler:
        """Return an RPC that passes the script."""
        passing = self._stream if handler.response_streaming else self._call
        answering = Answering(passing(handler, _taking_messages(handler)))
        known = {field.name: getattr(handler, field.name) for field in fields(handler)}
        adapted = _ScriptedHandler(**known | {"answering": lambda: answering})
        self._handlers[handler.path] = adapted
        return adapted

    @contextmanager
    def answered_by(self, source: Source) -> Iterator[None]:
        """Let a source answer. Raises RuntimeError when another one does."""
        if self._source is not None:
            raise RuntimeError("the server records or replays already")
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def _call(self, handler: Handler, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: Any) -> Any:
            if self.pauses:
                return behaviour(request, context)
            metadata = _metadata(context)
            noted = self.recorder.begin(handler, metadata)
            if not handler.request_streaming:
                noted.receive(request)
            try:
                fault = self._suffer(handler, metadata, context)
                response = self._answer(handler, behaviour, noted, request, context)
                if fault is not None and fault.kind == "drop":
                    _drop(context)
                noted.send(handler.checked(response))
                noted.code = grpc.StatusCode.OK
            except StatusError as error:
                noted.code = error.code
                raise
            except Exception:
                noted.code = grpc.StatusCode.INTERNAL
                raise
            return response if fault is None else _Half(response)

        return call

    def _stream(self, handler: Handler, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: Any) -> Iterator[Any]:
            if self.pauses:
                yield from behaviour(request, context)
                return
            metadata = _metadata(context)
            noted = self.recorder.begin(handler, metadata)
            if not handler.request_streaming:
                noted.receive(request)
            try:
                fault = self._suffer(handler, metadata, context)
                responses = iter(self._answer(handler, behaviour, noted, request, context))
                try:
                    for response in responses:
                        if fault is not None and fault.kind == "truncate" and len(noted.responses) == fault.messages:
                            _drop(context)
                        noted.send(handler.checked(response))
                        yield response
                finally:
                    if (close := getattr(responses, "close", None)) is not None:
                        close()
                if fault is not None:
                    _drop(context)
                noted.code = grpc.StatusCode.OK
            except StatusError as error:
                noted.code = error.code
                raise
            except Exception:
                noted.code = grpc.StatusCode.INTERNAL
                raise

        return call

    def _suffer(self, handler: Handler, metadata: list[tuple[str, str | bytes]], context: Any) -> Fault | None:
        """Let a call wait or fail as the script has it; return the fault that comes when it is done."""
        seconds, fault = self.faults.take(handler.path, metadata)
        if seconds:
            self._wait(seconds, context)
        if fault is not None and fault.error is not None:
            raise fault.error
        if fault is not None and fault.kind == "drop" and not fault.applied:
            _drop(context)
        return fault

    def _wait(self, seconds: float, context: Any) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.closing.wait(min(left, _LOOK_SECONDS)):
                raise StatusError(grpc.StatusCode.UNAVAILABLE, "The server is shutting down.", retry_seconds=1.0)
            if not context.is_active():
                raise StatusError(grpc.StatusCode.CANCELLED, "The caller went away.")

    def _answer(self, handler: Handler, behaviour: Behaviour, noted: Call, request: Any, context: Any) -> Any:
        if handler.request_streaming:
            request = _noting(noted, request)
        if self.replies.expects(handler.path):
            requests = list(request) if handler.request_streaming else [request]
            reply = self.replies.take(handler.path, noted.metadata, requests)
            if reply is not None:
                return reply.messages if handler.response_streaming else reply.messages[0]
            request = iter(requests) if handler.request_streaming else request
        source = self._source
        # Whoever calls logs in here, whatever answers the rest.
        if source is None or handler.authenticate is None:
            return behaviour(request, context)
        return source.call(handler, behaviour, request, context)


@dataclass(frozen=True, slots=True)
class _Half:
    """A response of which a half goes out."""

    response: Any


@dataclass(frozen=True, slots=True)
class _ScriptedHandler(Handler):
    def guarded(self, decode: Decode, encode: Encode) -> Behaviour:
        """Do as the guard, and cut what the script wants to be cut."""

        def encode_half(response: Any) -> Any:
            if not isinstance(response, _Half):
                return encode(response)
            encoded = encode(response.response)
            if not isinstance(encoded, bytes):  # of the token endpoint, which makes a form of it
                raise CUT
            return cut_short(encoded, self.response_type.FromString)

        return Handler.guarded(self, decode, encode_half)


def cut_short(encoded: bytes, decode: Callable[[bytes], Message]) -> bytes:
    """Return about the first half of a message, as much of it as cannot be decoded."""
    for size in range(len(encoded) // 2, 0, -1):
        try:
            decode(encoded[:size])
        except DecodeError:
            return encoded[:size]
    return b"\x08"  # a field's number without its value


def _drop(context: Any) -> NoReturn:
    cut(context)
    raise CUT


def _taking_messages(handler: Handler) -> Behaviour:
    """Return the behaviour of an RPC as one that takes messages, even if the servicer reads their bytes."""

    def call(request: Any, context: Any) -> Any:
        taken = map(handler.take, request) if handler.request_streaming else handler.take(request)
        return handler.answering().behaviour(taken, context)

    return call


def _metadata(context: Any) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in context.invocation_metadata()]


def _noting(noted: Call, requests: Iterator[Any]) -> Iterator[Any]:
    for request in requests:
        noted.receive(request)
        yield request
