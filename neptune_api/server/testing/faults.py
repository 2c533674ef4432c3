"""Faults by script: the next calls of an RPC fail, wait, lose their connection or get half an answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import grpc

from neptune_api.server.errors import StatusError
from neptune_api.server.testing.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from neptune_api.server.handlers import Handler

Kind = Literal["fail", "delay", "drop", "truncate"]


@dataclass(slots=True, eq=False)
class Fault:
    """What happens to the next calls of a selection; in a `with` block, to no call after it."""

    kind: Kind
    selection: Selection = field(repr=False)
    left: int | None
    """How many more calls it happens to; None for all of them."""
    skipped: int = 0
    """How many calls it lets pass first."""
    hits: int = 0
    """How many calls it has happened to."""
    error: StatusError | None = None
    seconds: float = 0.0
    messages: int = 0
    applied: bool = False
    _faults: Faults | None = field(default=None, repr=False)

    def remove(self) -> None:
        """Let it happen to no further call."""
        if self._faults is not None:
            self._faults.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


class Faults:
    """Faults to come, for calls through either door.

    A call suffers the first fault that selects it and is not used up; a delay comes on top of the next one. `method`
    is `Service.Method`, or None for every RPC; `metadata` has to be among that of the call; `times` calls are hit, None
    for all of them, after `after` calls have passed. A fault comes after the call was authenticated, and before it did
    anything unless it says otherwise.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def fail(
        self,
        code: grpc.StatusCode,
        message: str = "A fault by script.",
        *,
        method: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        times: int | None = 1,
        after: int = 0,
        reason: str | None = None,
        violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
    ) -> Fault:
        """Let calls end with a status, and over HTTP with the status that goes with it.

        `reason` is its ErrorInfo, `violations` are its (field, description) pairs, `retry_after` is RetryInfo and
        Retry-After in seconds. Raises ValueError for OK and for an unknown method.
        """
        if code is grpc.StatusCode.OK:
            raise ValueError("OK is no failure: neptune_server.replies gives answers")
        error = StatusError(code, message, reason=reason, violations=violations, retry_seconds=retry_after)
        return self._add("fail", method, metadata, times, after, error=error)

    def throttle(
        self,
        retry_after: float = 0.1,
        *,
        method: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Let calls end as those of a busy server do: RESOURCE_EXHAUSTED with RetryInfo, 429 with Retry-After."""
        return self.fail(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Too many requests, by script: wait, then call again.",
            method=method,
            metadata=metadata,
            times=times,
            after=after,
            reason="TOO_MANY_REQUESTS_PER_USER",
            retry_after=retry_after,
        )

    def delay(
        self,
        seconds: float,
        *,
        method: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Let calls wait before anything is done; `math.inf` lets them wait until the server stops."""
        if not seconds >= 0:
            raise ValueError(f"seconds is {seconds}; it must not be negative")
        return self._add("delay", method, metadata, times, after, seconds=seconds)

    def drop(
        self,
        *,
        applied: bool = False,
        method: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Cut the connection under calls, before they do anything, or with `applied` when all is done but the answer.

        Other calls on the same connection break off as well.
        """
        return self._add("drop", method, metadata, times, after, applied=applied)

    def truncate(
        self,
        messages: int = 0,
        *,
        method: str | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Cut answers short: a stream, after so many messages, by its connection; a single one in its middle.

        What is left of a single message is chosen so that it cannot be decoded; nobody takes it for the whole.
        """
        return self._add("truncate", method, metadata, times, after, messages=messages)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def remove(self, fault: Fault) -> None:
        """Forget one fault, if it is still there."""
        with self._lock:
            if fault in self._faults:
                self._faults.remove(fault)

    def take(self, path: str, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[float, Fault | None]:
        """Return the seconds that a call has to wait and what happens to it then, and count it."""
        if not self._faults:
            return 0.0, None
        seconds = 0.0
        with self._lock:
            for fault in self._faults:
                if fault.left == 0 or not fault.selection.matches(path, metadata):
                    continue
                if fault.skipped:
                    fault.skipped -= 1
                    continue
                fault.hits += 1
                if fault.left is not None:
                    fault.left -= 1
                if fault.kind != "delay":
                    return seconds, fault
                seconds += fault.seconds
        return seconds, None

    def _add(
        self,
        kind: Kind,
        method: str | None,
        metadata: Mapping[str, str | bytes] | None,
        times: int | None,
        after: int,
        **further: Any,
    ) -> Fault:
        if (times is not None and times < 1) or after < 0:
            raise ValueError("times must be 1 or more, or None; after must be 0 or more")
        selection = Selection.of(self._handlers, method, metadata)
        fault = Fault(kind, selection, times, after, _faults=self, **further)
        with self._lock:
            self._faults.append(fault)
        return fault


CUT: Final = StatusError(grpc.StatusCode.UNAVAILABLE, "The connection was cut, by script.")
"""Ends a call whose connection has been cut; nobody hears of it."""
