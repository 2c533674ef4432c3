"""Recordings: calls and their answers in a file, and a server that answers from one.

A file has a line of JSON for each call, in the spelling of the protos, so that changes of it can be read. Tokens and
signatures of URLs are not in it.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2

from neptune_api.channels import channel
from neptune_api.exceptions import NeptuneApiError
from neptune_api.options import IDEMPOTENCY_KEY
from neptune_api.server.errors import StatusError
from neptune_api.server.testing.differences import canonical, differences
from neptune_api.server.testing.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import TextIOWrapper
    from os import PathLike

    from google.protobuf.message import Message

    from neptune_api.server.handlers import Behaviour, Handler

_HEAD: Final = json.dumps({"neptune-api recording": 1})
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@contextmanager
def recording(path: str | PathLike[str], *, target: str | None, api_token: str | None) -> Iterator[Recording]:
    """Write calls into a new file; with an API token, calls of the server that it, or the target, names.

    Raises OSError, and ValueError for a target without a token: the one in the environment is that of the server here.
    """
    if target is not None and api_token is None:
        raise ValueError("to record from another server, pass api_token as well: one of that server")
    with ExitStack() as stack:
        upstream = None if api_token is None else stack.enter_context(channel(target, api_token=api_token))
        file = stack.enter_context(Path(path).open("w", encoding="utf-8"))
        yield Recording(file, upstream)


class Recording:
    """Passes calls on, to the servicers or over a channel, and writes down what came of them."""

    def __init__(self, file: TextIOWrapper, upstream: grpc.Channel | None) -> None:
        self._file = file
        self._upstream = upstream
        self._lock = threading.Lock()
        self.calls = 0
        """How many calls have been written."""
        self._write(_HEAD)

    def call(self, handler: Handler, behaviour: Behaviour, request: Any, context: Any) -> Any:
        """Answer a call. Raises StatusError as it was answered."""
        if self._upstream is not None:
            behaviour = _forwarding(handler, self._upstream)
        requests: list[Message] = []
        sent = _keeping(requests, request) if handler.request_streaming else request
        if not handler.request_streaming:
            requests.append(request)
        if handler.response_streaming:
            return self._stream(handler, behaviour, requests, sent, context)
        try:
            response = handler.checked(behaviour(sent, context))
        except StatusError as error:
            self._note(handler, requests, [], error)
            raise
        self._note(handler, requests, [response])
        return response

    def _stream(
        self, handler: Handler, behaviour: Behaviour, requests: list[Message], sent: Any, context: Any
    ) -> Iterator[Any]:
        responses: list[Message] = []
        try:
            for response in behaviour(sent, context):
                responses.append(handler.checked(response))
                yield responses[-1]
        except StatusError as error:
            self._note(handler, requests, responses, error)
            raise
        self._note(handler, requests, responses)

    def _note(
        self,
        handler: Handler,
        requests: Iterable[Message],
        responses: Iterable[Message],
        error: StatusError | None = None,
    ) -> None:
        entry: dict[str, Any] = {
            "method": handler.name,
            "requests": [_as_json(message) for message in requests],
            "responses": [_as_json(message) for message in responses],
        }
        if error is not None:
            entry["status"] = _as_json(error.status())
        self._write(json.dumps(entry, ensure_ascii=False))
        self.calls += 1

    def _write(self, line: str) -> None:
        with self._lock:
            self._file.write(f"{line}\n")
            self._file.flush()


@dataclass(slots=True)
class _Entry:
    requests: list[Message]
    responses: list[Message]
    error: StatusError | None
    used: bool = False


@dataclass(slots=True)
class Replay:
    """Answers calls as a recording has them, whatever their order.

    A call gets the first answer to an equal one that was not given yet; the last one again, when all of them were, for
    callers that ask until something is done.
    """

    _path: Path
    _entries: dict[str, list[_Entry]]
    _ignored: frozenset[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    mismatches: list[str] = field(default_factory=list)
    """What was said to calls that the recording does not have."""

    @classmethod
    def load(cls, path: str | PathLike[str], ignore: Iterable[str] = ()) -> Replay:
        """Read a recording; fields named in `ignore` may differ, such as times.

        Raises OSError, and ValueError for a file that is no recording or of other messages.
        """
        path = Path(path)
        head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        if head != _HEAD:
            raise ValueError(f"{path} is no recording that this version reads: its first line is not {_HEAD}")
        entries: dict[str, list[_Entry]] = {}
        for number, line in enumerate(lines, 2):
            try:
                entry = json.loads(line)
                entries.setdefault(entry["method"], []).append(_parse(entry))
            except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
                raise ValueError(f"{path}, line {number}, is not of a recording: {error}") from None
        return cls(path, entries, frozenset(ignore))

    @property
    def unused(self) -> list[str]:
        """The recorded calls that did not come, by method."""
        return [method for method, entries in self._entries.items() for entry in entries if not entry.used]

    def call(self, handler: Handler, _behaviour: Behaviour, request: Any, _context: Any) -> Any:
        """Answer a call. Raises StatusError as it was recorded, FAILED_PRECONDITION for one that was not."""
        requests = [redacted(each) for each in (request if handler.request_streaming else [request])]
        entry = self._find(handler.name, requests)
        if not handler.response_streaming:
            if entry.error is not None:
                raise entry.error
            return entry.responses[0]
        return _again(entry)

    def verify(self) -> None:
        """Raise AssertionError when calls came that the recording does not have."""
        if self.mismatches:
            raise AssertionError("\n".join(self.mismatches))

    def _find(self, method: str, requests: list[Message]) -> _Entry:
        wanted = [canonical(request, self._ignored) for request in requests]
        with self._lock:
            entries = self._entries.get(method, [])
            equal = [
                entry for entry in entries if [canonical(each, self._ignored) for each in entry.requests] == wanted
            ]
            if equal:
                entry = next((entry for entry in equal if not entry.used), equal[-1])
                entry.used = True
                return entry
            message = self._describe(method, entries, requests)
            self.mismatches.append(message)
        raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, message, reason="NOT_RECORDED")

    def _describe(self, method: str, entries: list[_Entry], requests: list[Message]) -> str:
        if not entries:
            return f"{self._path.name} has no call of {method}"
        nearest = min((differences(entry.requests, requests, self._ignored) for entry in entries), key=len)
        lines = [f"  {place}: recorded {recorded}, came {came}" for place, recorded, came in nearest]
        return "\n".join([f"{self._path.name} has no such call of {method}; the nearest one differs in", *lines])


def _as_json(message: Message) -> Any:
    return json_format.MessageToDict(redacted(message), preserving_proto_field_name=True)


def _parse(entry: dict[str, Any]) -> _Entry:
    service, _, name = entry["method"].partition(".")
    method = descriptor_pool.Default().FindServiceByName(f"neptune_api.v1.{service}").methods_by_name[name]
    request_type, response_type = (
        message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type)
    )
    status = entry.get("status")
    return _Entry(
        [json_format.ParseDict(each, request_type()) for each in entry["requests"]],
        [json_format.ParseDict(each, response_type()) for each in entry["responses"]],
        None if status is None else as_error(json_format.ParseDict(status, status_pb2.Status())),
    )


def _again(entry: _Entry) -> Iterator[Message]:
    yield from entry.responses
    if entry.error is not None:
        raise entry.error


def _keeping(kept: list[Message], requests: Iterable[Message]) -> Iterator[Message]:
    for request in requests:
        kept.append(request)
        yield request


def _forwarding(handler: Handler, upstream: grpc.Channel) -> Behaviour:
    """Return a behaviour that asks another server."""
    sides = tuple("stream" if each else "unary" for each in (handler.request_streaming, handler.response_streaming))
    open_method = getattr(upstream, "_".join(sides))
    method = open_method(
        handler.path,
        request_serializer=handler.request_type.SerializeToString,
        response_deserializer=handler.response_type.FromString,
    )

    def call(request: Any, context: Any) -> Any:
        metadata = [(key, value) for key, value in context.invocation_metadata() if key == IDEMPOTENCY_KEY]
        try:
            return method(request, timeout=context.time_remaining(), metadata=metadata)
        except NeptuneApiError as error:
            raise as_error(_status_of(error)) from None

    def stream(request: Any, context: Any) -> Iterator[Any]:
        try:
            yield from call(request, context)
        except NeptuneApiError as error:
            raise as_error(_status_of(error)) from None

    return stream if handler.response_streaming else call


def _status_of(error: NeptuneApiError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=error.code().value[0], message=error.details() or "")


def as_error(status: status_pb2.Status) -> StatusError:
    """Return the error that a servicer would have raised for a status."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    waits = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        waits = detail.Unpack(retry) or waits
    return StatusError(
        _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        status.message,
        reason=info.reason or None,
        metadata=info.metadata,
        violations=[(violation.field, violation.description) for violation in bad.field_violations],
        retry_seconds=retry.retry_delay.ToMilliseconds() / 1000 if waits else None,
    )
