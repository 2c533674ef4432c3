"""Replays: a server that answers from a recording."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import status_pb2

from neptune_api.server.errors import StatusError
from neptune_api.server.testing.differences import canonical, differences
from neptune_api.server.testing.recordings import HEAD, Entry, as_error
from neptune_api.server.testing.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from google.protobuf.message import Message

    from neptune_api.server.handlers import Behaviour, Handler


@dataclass(slots=True)
class _Recorded:
    entry: Entry
    requests: list[bytes]
    """What equal requests have in common."""

    def fits(self, came: list[bytes], *, ended: bool) -> bool:
        """Tell whether a call is this one, so far; `ended` when no more requests come."""
        if self.entry.unread and len(self.requests) <= len(came):
            return self.requests == came[: len(self.requests)]
        return self.requests == came if ended else self.requests[: len(came)] == came

    def is_due(self, sent: int, came: int, *, ended: bool) -> bool:
        """Tell whether the next response, or the end after the last one, is to follow so many requests."""
        if ended:
            return True
        if sent < len(self.entry.responses):
            return self.entry.heard[sent] <= came
        return self.entry.unread and len(self.requests) <= came


@dataclass(slots=True)
class Replay:
    """Answers calls as a recording has them, whatever their order.

    A call gets the first answer to an equal one that was not given yet; the last one again, when all of them were, for
    callers that ask until something is done. Where both sides stream, a response comes after as many requests as it did
    in the recording, so that callers may wait for it before they go on.
    """

    _path: Path
    _recorded: dict[str, list[_Recorded]]
    _ignored: frozenset[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    mismatches: list[str] = field(default_factory=list)
    """What was said to calls that the recording does not have."""

    @classmethod
    def load(cls, path: str | PathLike[str], ignore: Iterable[str] = ()) -> Replay:
        """Read a recording; fields named in `ignore` may differ, such as times.

        Raises OSError, and ValueError for a file that is no recording or of other messages.
        """
        path, ignored = Path(path), frozenset(ignore)
        head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        if head != HEAD:
            raise ValueError(f"{path} is no recording that this version reads: its first line is not {HEAD}")
        recorded: dict[str, list[_Recorded]] = {}
        for number, line in enumerate(lines, 2):
            try:
                content = json.loads(line)
                entry = _parse(content)
                requests = [canonical(request, ignored) for request in entry.requests]
                recorded.setdefault(content["method"], []).append(_Recorded(entry, requests))
            except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
                raise ValueError(f"{path}, line {number}, is not of a recording: {error}") from None
        return cls(path, recorded, ignored)

    @property
    def unused(self) -> list[str]:
        """The recorded calls that did not come, by method."""
        return [method for method, calls in self._recorded.items() for call in calls if not call.entry.used]

    def call(self, handler: Handler, _behaviour: Behaviour, request: Any, _context: Any) -> Any:
        """Answer a call. Raises StatusError as it was recorded, FAILED_PRECONDITION for one that was not."""
        if handler.request_streaming and handler.response_streaming:
            return self._converse(handler.name, request)
        requests = list(request) if handler.request_streaming else [request]
        entry = self._choose(self._fitting(handler.name, _Came(requests, self._ignored), ended=True)).entry
        if handler.response_streaming:
            return _responses(entry)
        if entry.error is not None:
            raise entry.error
        return entry.responses[0]

    def verify(self) -> None:
        """Raise AssertionError when calls came that the recording does not have."""
        if self.mismatches:
            raise AssertionError("\n".join(self.mismatches))

    def _converse(self, method: str, requests: Iterator[Message]) -> Iterator[Message]:
        came = _Came((), self._ignored)
        chosen: _Recorded | None = None
        sent, ended = 0, False
        while True:
            fitting = self._fitting(method, came, ended=ended, among=None if chosen is None else [chosen])
            if chosen is None:
                due = [each for each in fitting if each.is_due(0, len(came.messages), ended=ended)]
                chosen = self._choose(due) if due else None
            while chosen is not None and chosen.is_due(sent, len(came.messages), ended=ended):
                if sent == len(chosen.entry.responses):
                    if chosen.entry.error is not None:
                        raise chosen.entry.error
                    return
                yield chosen.entry.responses[sent]
                sent += 1
            request = next(requests, None)
            if request is None:
                ended = True
            else:
                came.add(request)

    def _fitting(
        self, method: str, came: _Came, *, ended: bool, among: list[_Recorded] | None = None
    ) -> list[_Recorded]:
        """Return the recorded calls that a call may be. Raises StatusError when there is none."""
        calls = self._recorded.get(method, []) if among is None else among
        fitting = [call for call in calls if call.fits(came.encoded, ended=ended)]
        if not fitting:
            message = self._describe(method, calls, came.messages, ended=ended)
            with self._lock:
                self.mismatches.append(message)
            raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, message, reason="NOT_RECORDED")
        return fitting

    def _choose(self, fitting: list[_Recorded]) -> _Recorded:
        with self._lock:
            chosen = next((call for call in fitting if not call.entry.used), fitting[-1])
            chosen.entry.used = True
            return chosen

    def _describe(self, method: str, calls: list[_Recorded], came: list[Message], *, ended: bool) -> str:
        if not calls:
            return f"{self._path.name} has no call of {method}"
        # Of a stream that goes on nobody knows yet what is missing.
        known = [call.entry.requests if ended else call.entry.requests[: len(came)] for call in calls]
        nearest = min((differences(requests, came, self._ignored) for requests in known), key=len)
        lines = [f"  {place}: recorded {recorded}, came {came}" for place, recorded, came in nearest]
        return "\n".join([f"{self._path.name} has no such call of {method}; the nearest one differs in", *lines])


class _Came:
    """The requests of a call so far."""

    def __init__(self, requests: Iterable[Message], ignored: frozenset[str]) -> None:
        self._ignored = ignored
        self.messages: list[Message] = []
        self.encoded: list[bytes] = []
        for request in requests:
            self.add(request)

    def add(self, request: Message) -> None:
        """Add the next one."""
        self.messages.append(redacted(request))
        self.encoded.append(canonical(self.messages[-1], self._ignored))


def _parse(content: dict[str, Any]) -> Entry:
    service, _, name = content["method"].partition(".")
    method = descriptor_pool.Default().FindServiceByName(f"neptune_api.v1.{service}").methods_by_name[name]
    request_type, response_type = (
        message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type)
    )
    requests = [json_format.ParseDict(each, request_type()) for each in content["requests"]]
    responses = [json_format.ParseDict(each, response_type()) for each in content["responses"]]
    status = content.get("status")
    return Entry(
        requests,
        responses,
        # Of recordings that do not say so, everything had been read.
        heard=[int(count) for count in content.get("heard", [len(requests)] * len(responses))],
        unread=bool(content.get("unread")),
        error=None if status is None else as_error(json_format.ParseDict(status, status_pb2.Status())),
    )


def _responses(entry: Entry) -> Iterator[Message]:
    yield from entry.responses
    if entry.error is not None:
        raise entry.error
