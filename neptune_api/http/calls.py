"""Calls over HTTP, for threads: the objects that stand for one. aio_calls.py mirrors this."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc

from neptune_api._grpc.sync_calls import CallFuture, CallIterator
from neptune_api.http.attempts import CANCELLED_HERE, cancelled
from neptune_api.http.exchange import metadata_of
from neptune_api.http.failures import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from neptune_api._grpc.policy import Pairs
    from neptune_api.http.attempts import Attempts, Executor
    from neptune_api.http.connections import Connection
    from neptune_api.http.exchange import ResultStream
    from neptune_api.http.protocol import Response


class EndedCall(grpc.Call):
    """A call that has ended."""

    def __init__(
        self, initial_metadata: Pairs = (), error: CallError | None = None, *, remaining: float | None = None
    ) -> None:
        self._initial_metadata = initial_metadata
        self.error = error
        self._remaining = remaining

    @classmethod
    def of(cls, response: Response, remaining: float | None) -> EndedCall:
        """Return the call that a response ended well."""
        return cls(metadata_of(response), remaining=remaining)

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return grpc.StatusCode.OK if self.error is None else self.error.code()

    def details(self) -> str:
        """Return the sentence that came with the status."""
        return "" if self.error is None else self.error.details() or ""

    def initial_metadata(self) -> Any:
        """Return the headers of the answer that are not HTTP's own."""
        return self._initial_metadata if self.error is None else tuple(self.error.initial_metadata())

    def trailing_metadata(self) -> Any:
        """Return what an error brought along."""
        return () if self.error is None else tuple(self.error.trailing_metadata())

    def debug_error_string(self) -> str:
        """Return more about an error."""
        return "" if self.error is None else self.error.debug_error_string() or ""

    def is_active(self) -> bool:
        """Return False."""
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override] # None without a deadline, as gRPC's own calls
        """Return the seconds that were left."""
        return self._remaining

    def cancel(self) -> bool:
        """Return False: there is nothing to cancel."""
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: ARG002 # it will not be called
        """Return False: the call has ended, the callback is not registered."""
        return False


class _Outcome:
    """How a call ends: once, whoever is first."""

    __slots__ = ("_future", "_open")

    def __init__(self) -> None:
        self._open = threading.Lock()
        self._future: concurrent.futures.Future[tuple[EndedCall, Any]] = concurrent.futures.Future()

    def settle(self, ended: EndedCall, result: Any = None) -> bool:
        """End the call; return False if it has ended."""
        if not self._open.acquire(blocking=False):
            return False
        self._future.set_result((ended, result))
        return True

    def done(self) -> bool:
        """Tell whether the call has ended."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> tuple[EndedCall, Any]:
        """Return how the call ended; raise grpc.FutureTimeoutError when it has not in `timeout` seconds."""
        try:
            return self._future.result(timeout)
        except concurrent.futures.TimeoutError:
            raise grpc.FutureTimeoutError from None

    def then(self, callback: Callable[[], None]) -> None:
        """Call a function when the call has ended."""
        self._future.add_done_callback(lambda _: callback())


def _traceback(error: CallError | None) -> TracebackType | None:
    if error is None:
        return None
    try:
        raise error
    except CallError:
        return sys.exc_info()[2]


class _Underway(grpc.Call):
    """What a future and a stream have in common."""

    _outcome: _Outcome
    _attempts: Attempts | None = None

    def _wait(self, timeout: float | None = None) -> tuple[EndedCall, Any]:
        return self._outcome.wait(timeout)

    def cancel(self) -> bool:
        """Cancel the call; return False if it has ended."""
        if not self._outcome.settle(EndedCall(error=cancelled(CANCELLED_HERE))):
            return False
        if self._attempts is not None:
            self._attempts.ticket.cancel()
        return True

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled from here."""
        if not self._outcome.done():
            return False
        error = self._outcome.wait()[0].error
        return error is not None and error.code() is grpc.StatusCode.CANCELLED and error.details() == CANCELLED_HERE

    def running(self) -> bool:
        """Tell whether the call is under way."""
        return not self._outcome.done()

    def done(self) -> bool:
        """Tell whether the call has ended."""
        return self._outcome.done()

    def is_active(self) -> bool:
        """Tell whether the call is under way."""
        return not self._outcome.done()

    def time_remaining(self) -> float | None:  # type: ignore[override] # None without a deadline, as gRPC's own calls
        """Return the seconds left until the deadline; None without one."""
        return None if self._attempts is None else self._attempts.time_remaining()

    def _error(self, timeout: float | None) -> CallError | None:
        error = self._wait(timeout)[0].error
        if self.cancelled():
            raise grpc.FutureCancelledError
        return error

    def result(self, timeout: float | None = None) -> Any:
        """Return the response, waiting up to `timeout` seconds; raise the call's error."""
        error = self._error(timeout)
        if error is not None:
            raise error
        return self._outcome.wait()[1]

    def exception(self, timeout: float | None = None) -> CallError | None:
        """Return the call's error, or None."""
        return self._error(timeout)

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of the call's error, or None."""
        return _traceback(self._error(timeout))

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call when it has ended; at once if it has."""
        self._outcome.then(lambda: fn(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when the call has ended; return False, without doing so, if it has."""
        if self._outcome.done():
            return False
        self._outcome.then(callback)
        return True

    def initial_metadata(self) -> Any:
        """Return the headers of the answer; waits for its end."""
        return self._wait()[0].initial_metadata()

    def trailing_metadata(self) -> Any:
        """Return what an error brought along; waits until the call has ended."""
        return self._wait()[0].trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """Return the status code; waits until the call has ended."""
        return self._wait()[0].code()

    def details(self) -> str:
        """Return the sentence that came with the status; waits until the call has ended."""
        return self._wait()[0].details()

    def debug_error_string(self) -> str:
        """Return more about an error; waits until the call has ended."""
        return self._wait()[0].debug_error_string()


class FutureCall(_Underway, CallFuture):
    """A call made on another thread, or one that could not start: then its error takes the place of its attempts."""

    def __init__(self, attempts: Attempts | CallError, executor: Executor) -> None:
        self._outcome = _Outcome()
        if isinstance(attempts, CallError):
            self._outcome.settle(EndedCall(error=attempts))
        else:
            self._attempts = attempts
            executor.submit(lambda: self._make(attempts))

    def _make(self, attempts: Attempts) -> None:
        try:
            attempts.ticket.check()
            result, response = attempts.finish()
        except CallError as error:
            self._outcome.settle(EndedCall(error=error))
        except Exception as error:  # noqa: BLE001 # whoever waits must not wait for ever
            failed = CallError(grpc.StatusCode.INTERNAL, f"The call failed in the client: {error!r}.", lasting=True)
            failed.__cause__ = error
            self._outcome.settle(EndedCall(error=failed))
        else:
            self._outcome.settle(EndedCall.of(response, attempts.time_remaining()), result)


class StreamCall(_Underway, CallIterator):
    """A call with a stream of responses, read by whoever iterates.

    The request is sent at once. What waits for the end of the call, such as code(), has the rest of the stream read
    into memory.
    """

    def __init__(self, attempts: Attempts | CallError, executor: Executor) -> None:
        self._executor = executor
        self._outcome = _Outcome()
        self._lock = threading.RLock()  # callbacks run inside, and may ask for metadata
        self._ready: deque[Any] = deque()
        self._opened: tuple[Connection, Response, ResultStream] | None = None
        self._draining = False
        self._begun: tuple[Connection, Response] | CallError | None = None
        if isinstance(attempts, CallError):
            self._outcome.settle(EndedCall(error=attempts))
            return
        self._attempts = attempts
        try:
            self._begun = attempts.begin()
        except CallError as error:
            self._begun = error
        # Whoever forgets a stream has not closed its connection.
        weakref.finalize(self, attempts.abandon_later()).atexit = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next response; raise StopIteration after the last one, or the call's error."""
        while True:
            with self._lock:
                if self._ready and not self.cancelled():
                    return self._ready.popleft()
                if self._outcome.done():
                    error = self._outcome.wait()[0].error
                    if error is None:
                        raise StopIteration
                    raise error
                self._pull()

    next = __next__

    def _pull(self) -> None:
        """Receive at least one more response, or the end."""
        attempts = self._attempts
        if attempts is None:
            return
        connection = response = None
        try:
            if self._opened is None:
                begun, self._begun = self._begun, None
                self._opened = attempts.head(begun)
            connection, response, results = self._opened
            while True:
                self._ready.extend(results.messages())
                if response.done:
                    break
                if self._ready:
                    return
                attempts.more(connection, response)
        except CallError as error:
            attempts.leave(connection, response, well=False)
            self._outcome.settle(EndedCall(self._metadata(), error))
        else:
            attempts.leave(connection, response, well=True)
            self._outcome.settle(EndedCall.of(response, attempts.time_remaining()))

    def _metadata(self) -> Pairs:
        return () if self._opened is None else metadata_of(self._opened[1])

    def _drain(self) -> None:
        while not self._outcome.done():
            with self._lock:
                if not self._outcome.done():
                    self._pull()

    def _wait(self, timeout: float | None = None) -> tuple[EndedCall, Any]:
        if not self._outcome.done() and not self._draining:
            self._draining = True
            self._executor.submit(self._drain)
        return self._outcome.wait(timeout)

    def initial_metadata(self) -> Any:
        """Return the headers of the answer; waits for them."""
        with self._lock:
            if self._opened is None and not self._outcome.done():
                self._pull()
        return self._wait()[0].initial_metadata() if self._opened is None else self._metadata()
