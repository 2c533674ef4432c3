"""Calls under way, for threads: wrappers that translate errors and may start over once. aio_calls.py mirrors this."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from neptune_api._grpc import forks
from neptune_api._grpc.policy import is_unauthenticated
from neptune_api.credentials import redact
from neptune_api.exceptions import CancelledException, NeptuneApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
    Translate: TypeAlias = Callable[[grpc.RpcError], Exception]
    Restart: TypeAlias = Callable[[], Any]

    from grpc import _CallFuture, _CallIterator

    # The type stubs have names of their own for what is a grpc.Call and a grpc.Future, or a grpc.Call and an iterator.
    class CallFuture(_CallFuture[Any]): ...

    class CallIterator(_CallIterator[Any], grpc.Future[Any]): ...
else:

    class CallFuture(grpc.Call, grpc.Future):
        """A call that is a future of its response."""

    class CallIterator(grpc.Call, grpc.Future):
        """A call that is an iterator over its responses."""


class LostCall(CancelledException):
    """A call that was under way when the process forked: the parent goes on with it, the child has none."""

    def __init__(self) -> None:
        super().__init__(
            "The call belongs to the process that made it, and this one was forked from it while it was under way. "
            "Make the call here."
        )

    def __next__(self) -> Any:
        raise self


class UnaryCall(CallFuture):
    """A call under way that will have one response: what `future()` returns.

    It wraps a call of gRPC, whose error it translates. `restart`, called once, on a thread of its own, after the call
    ended with UNAUTHENTICATED, makes it again with another token or returns None; until then the call is not done.
    """

    def __init__(self, call: Any, translate: Translate | None, restart: Restart | None = None) -> None:
        self._call = call
        self._translate = translate
        self._restart = restart
        self._cancelled = False
        self._outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        """The call of gRPC once it has ended, or the exception in its place, which is an ended call as well."""
        self._settled = False
        forks.survive(self)
        call.add_done_callback(self._ended)

    def start_over(self) -> None:
        """Be an ended call in the child of a fork, where nobody would ever end it."""
        if not self._settled:
            self._restart = self._translate = None
            forks.leave_alone(self._call)
            self._call = LostCall()
            self._outcome = concurrent.futures.Future()
            self._outcome.set_result(self._call)

    def _ended(self, call: Any) -> None:
        restart, self._restart = self._restart, None
        if restart is not None and not self._cancelled and is_unauthenticated(call):
            # Callbacks run on the thread that serves all calls of the channel: fetching a token would stop them.
            threading.Thread(target=self._start_over, args=(restart, call), daemon=True).start()
        else:
            self._settle(call)

    def _start_over(self, restart: Restart, refused: Any) -> None:
        try:
            call = restart()
        except NeptuneApiError as error:
            self._outcome.set_result(error)
        except Exception as error:  # noqa: BLE001 # whatever a token provider raises belongs to the one who waits
            self._outcome.set_exception(error)
        else:
            if call is None:
                self._settle(refused)
                return
            self._call = call
            if self._cancelled:
                call.cancel()
            call.add_done_callback(self._ended)

    def _settle(self, call: Any) -> None:
        translate, self._translate = self._translate, None  # it holds the request
        try:
            outcome = call
            if translate is not None and not call.cancelled():
                error = call.exception()
                if isinstance(error, grpc.RpcError):
                    outcome = translate(error)
        except Exception as error:  # noqa: BLE001 # whoever waits must not wait for ever
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(outcome)
        self._settled = True

    def _wait(self, timeout: float | None = None) -> Any:
        try:
            return self._outcome.result(timeout)
        except concurrent.futures.TimeoutError:
            raise grpc.FutureTimeoutError from None

    def result(self, timeout: float | None = None) -> Any:
        """Return the response, waiting up to `timeout` seconds; raise the call's error, or FutureTimeoutError."""
        return self._wait(timeout).result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Return the call's error, or None; waits as result() does."""
        error: Exception | None = self._wait(timeout).exception()
        return error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of the call's error, or None; waits as result() does."""
        trace: TracebackType | None = self._wait(timeout).traceback()
        return trace

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call when it is done; at once if it is."""
        self._outcome.add_done_callback(lambda _: fn(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when the call is done; return False, without doing so, if it is."""
        if self._outcome.done():
            return False
        self._outcome.add_done_callback(lambda _: callback())
        return True

    def cancel(self) -> bool:
        """Cancel the call; return False if it is done."""
        if self._outcome.done():
            return False
        self._cancelled = True
        self._call.cancel()
        return True

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled from here."""
        return bool(self._call.cancelled())

    def running(self) -> bool:
        """Tell whether the call is under way."""
        return not self._outcome.done()

    def done(self) -> bool:
        """Tell whether the call has ended."""
        return self._outcome.done()

    def is_active(self) -> bool:
        """Tell whether the call is under way."""
        return not self._outcome.done()

    def time_remaining(self) -> float:
        """Return the seconds left until the deadline."""
        left: float = self._call.time_remaining()
        return left

    def initial_metadata(self) -> Metadata:
        """Return the metadata sent before the response; waits until the call has ended."""
        metadata: Metadata = self._wait().initial_metadata()
        return metadata

    def trailing_metadata(self) -> Metadata:
        """Return the metadata sent after the response; waits until the call has ended."""
        metadata: Metadata = self._wait().trailing_metadata()
        return metadata

    def code(self) -> grpc.StatusCode:
        """Return the status code; waits until the call has ended."""
        code: grpc.StatusCode = self._wait().code()
        return code

    def details(self) -> str:
        """Return the sentence that came with the status; waits until the call has ended."""
        details: str = self._wait().details()
        return details


class StreamCall(CallIterator):
    """A call under way that has a stream of responses, over which it iterates.

    It wraps a call of gRPC, whose error it translates. `restart`, called once, when the first response is asked for and
    the call has ended with UNAUTHENTICATED, makes it again with another token or returns None.
    """

    def __init__(self, call: Any, translate: Translate | None, restart: Restart | None = None) -> None:
        self._call = call
        self._translate = translate
        self._restart = restart
        self._error: Exception | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        forks.survive(self)

    def start_over(self) -> None:
        """Be an ended call in the child of a fork; the responses are for the parent."""
        self._restart = self._translate = None
        self._callbacks = []
        forks.leave_alone(self._call)
        self._call = LostCall()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next response; raise StopIteration after the last one, or the call's error."""
        while True:
            call = self._call
            try:
                response = next(call)
            except grpc.RpcError as error:
                failure: grpc.RpcError = error
            else:
                self._restart = None
                return response
            restart = self._restart
            if restart is None or not is_unauthenticated(failure):
                raise self._failed(failure)
            again = None
            try:
                again = restart()
            finally:
                self._restart = None
                if again is None:
                    self._report(call)
            if again is None:
                raise self._failed(failure)
            self._call = again
            if self._callbacks:
                again.add_done_callback(self._report)

    next = __next__

    def _failed(self, error: grpc.RpcError) -> Exception:
        if self._error is None:
            self._error = error if self._translate is None else self._translate(error)
        return self._error

    def _report(self, call: Any) -> None:
        # A call that may yet be made again is not done, whatever gRPC says.
        if call is not self._call or (self._restart is not None and is_unauthenticated(call)):
            return
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call when it has ended; at once if it has."""
        self._callbacks.append(fn)
        if len(self._callbacks) == 1:
            self._call.add_done_callback(self._report)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when the call has ended; return False, without doing so, if it has."""
        if self._call.done():
            return False
        self.add_done_callback(lambda _: callback())
        return True

    def cancel(self) -> bool:
        """Cancel the call; iteration then raises CancelledException."""
        self._restart = None
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled from here."""
        return bool(self._call.cancelled())

    def running(self) -> bool:
        """Tell whether the call is under way."""
        return bool(self._call.running())

    def done(self) -> bool:
        """Tell whether the call has ended."""
        return bool(self._call.done())

    def is_active(self) -> bool:
        """Tell whether the call is under way."""
        return bool(self._call.is_active())

    def time_remaining(self) -> float:
        """Return the seconds left until the deadline."""
        left: float = self._call.time_remaining()
        return left

    def result(self, timeout: float | None = None) -> Any:
        """Wait until the call has ended; raise its error, or FutureTimeoutError after `timeout` seconds."""
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            failure = error
        raise self._failed(failure)

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Return the call's error, or None, when it has ended; waits as result() does."""
        error: Exception | None = self._call.exception(timeout)
        return self._failed(error) if isinstance(error, grpc.RpcError) else error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of the call's error, or None; waits as result() does."""
        trace: TracebackType | None = self._call.traceback(timeout)
        return trace

    def initial_metadata(self) -> Metadata:
        """Return the metadata sent before the first response; waits for it."""
        metadata: Metadata = self._call.initial_metadata()
        return metadata

    def trailing_metadata(self) -> Metadata:
        """Return the metadata sent after the last response; waits until the call has ended."""
        metadata: Metadata = self._call.trailing_metadata()
        return metadata

    def code(self) -> grpc.StatusCode:
        """Return the status code; waits until the call has ended."""
        code: grpc.StatusCode = self._call.code()
        return code

    def details(self) -> str:
        """Return the sentence that came with the status; waits until the call has ended."""
        return redact(self._call.details() or "")
