"""Recordings: calls and their answers in a file.

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
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from neptune_api.channels import channel
from neptune_api.exceptions import NeptuneApiError
from neptune_api.options import IDEMPOTENCY_KEY
from neptune_api.server.errors import StatusError
from neptune_api.server.testing.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import TextIOWrapper
    from os import PathLike

    from google.protobuf.message import Message

    from neptune_api.server.handlers import Behaviour, Handler

HEAD: Final = json.dumps({"neptune-api recording": 1})
"""The first line of a recording."""
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


@dataclass(slots=True)
class Entry:
    """A call as it is recorded."""

    requests: list[Message]
    """The request, or as many of a stream of them as were read."""
    responses: list[Message] = field(default_factory=list)
    """The response, or a stream of them."""
    heard: list[int] = field(default_factory=list)
    """How many requests of a stream had been read when each response of a stream went out."""
    unread: bool = False
    """True when the call ended before the stream of its requests was read to its end."""
    error: StatusError | None = None
    """How it failed, after those responses; None when it did not."""
    used: bool = False
    """A call was answered by it."""


class Recording:
    """Passes calls on, to the servicers or over a channel, and writes down what came of them."""

    def __init__(self, file: TextIOWrapper, upstream: grpc.Channel | None) -> None:
        self._file = file
        self._upstream = upstream
        self._lock = threading.Lock()
        self.calls = 0
        """How many calls have been written."""
        self._write(HEAD)

    def call(self, handler: Handler, behaviour: Behaviour, request: Any, context: Any) -> Any:
        """Answer a call. Raises StatusError as it was answered."""
        if self._upstream is not None:
            behaviour = _forwarding(handler, self._upstream)
        entry = Entry([] if handler.request_streaming else [request])
        sent = _keeping(entry, request) if handler.request_streaming else request
        if handler.response_streaming:
            return self._stream(handler, behaviour, entry, sent, context)
        try:
            response = handler.checked(behaviour(sent, context))
        except StatusError as error:
            entry.error = error
            self._note(handler, entry)
            raise
        entry.responses.append(response)
        self._note(handler, entry)
        return response

    def _stream(self, handler: Handler, behaviour: Behaviour, entry: Entry, sent: Any, context: Any) -> Iterator[Any]:
        try:
            for response in behaviour(sent, context):
                entry.heard.append(len(entry.requests))
                entry.responses.append(handler.checked(response))
                yield entry.responses[-1]
        except StatusError as error:
            entry.error = error
            self._note(handler, entry)
            raise
        self._note(handler, entry)

    def _note(self, handler: Handler, entry: Entry) -> None:
        line: dict[str, Any] = {
            "method": handler.name,
            "requests": [_as_json(message) for message in entry.requests],
            "responses": [_as_json(message) for message in entry.responses],
        }
        if handler.request_streaming and handler.response_streaming:
            line["heard"] = entry.heard
        if entry.unread:
            line["unread"] = True
        if entry.error is not None:
            line["status"] = _as_json(entry.error.status())
        self._write(json.dumps(line, ensure_ascii=False))
        self.calls += 1

    def _write(self, line: str) -> None:
        with self._lock:
            self._file.write(f"{line}\n")
            self._file.flush()


def _as_json(message: Message) -> Any:
    return json_format.MessageToDict(redacted(message), preserving_proto_field_name=True)


def _keeping(entry: Entry, requests: Iterable[Message]) -> Iterator[Message]:
    entry.unread = True
    for request in requests:
        entry.requests.append(request)
        yield request
    entry.unread = False


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
