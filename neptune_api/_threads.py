"""Threads in a pool that the end of the program does not wait for."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from typing_extensions import ParamSpec

    P = ParamSpec("P")

ResultT = TypeVar("ResultT")

__all__ = ["DaemonPool"]


class _Task(NamedTuple):
    """A function whose result threads wait for."""

    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def run(self) -> Callable[[], object]:
        """Run the function, unless it was cancelled; return how to tell the result."""
        if not self.future.set_running_or_notify_cancel():
            return _nothing
        try:
            return partial(self.future.set_result, self.function(*self.arguments, **self.named))
        except BaseException as error:  # noqa: BLE001 # it belongs to whoever asks for the result
            return partial(self.future.set_exception, error)

    def cancel(self) -> None:
        """Tell that it will not be run."""
        self.future.cancel()


class _LoopTask(NamedTuple):
    """A function whose result a coroutine waits for."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def run(self) -> Callable[[], object]:
        """Run the function, unless its future was settled without it; return how to tell the result."""
        if self.future.done():
            return _nothing
        try:
            return partial(self._tell, self.future.set_result, self.function(*self.arguments))
        except BaseException as error:  # noqa: BLE001 # as above
            return partial(self._tell, self.future.set_exception, error)

    def cancel(self) -> None:
        """Tell that it will not be run."""
        self._tell(self.future.cancel)

    def _tell(self, settle: Callable[..., Any], *outcome: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._settle, settle, *outcome)

    def _settle(self, settle: Callable[..., Any], *outcome: Any) -> None:
        if not self.future.done():
            settle(*outcome)


def _nothing() -> None:
    """Do nothing."""


class DaemonPool(ThreadPoolExecutor):
    """Runs functions on up to so many threads, which are made when they are needed.

    Those of ThreadPoolExecutor are joined at exit: one call that does not return holds up the process for ever. It is
    one in name alone, because gRPC takes no others for the threads of a behaviour: nothing of it is made or used.
    """

    def __init__(self, threads: int, name: str) -> None:  # as said, without the base
        self._most = threads
        self._name = name
        self._lock = threading.Lock()
        self._made: list[threading.Thread] = []
        self._idle: deque[None] = deque()  # as a semaphore, whose operations are atomic without a lock
        self._tasks: queue.SimpleQueue[_Task | _LoopTask | None] = queue.SimpleQueue()
        self._shut = False
        weakref.finalize(self, self._tasks.put, None).atexit = False

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Run a function; return the future of its result. Raises RuntimeError after shutdown(), or without threads."""
        future: Future[ResultT] = Future()
        self._add(_Task(future, fn, args, kwargs))
        return future

    def run(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., ResultT], *arguments: Any
    ) -> asyncio.Future[ResultT]:
        """Run a function for a coroutine; return the future of its result on the coroutine's loop. Raises as submit().

        Who settles the future first need not wait for the function, which then is not begun, or its result forgotten.
        loop.run_in_executor() takes two futures and the locks of one, and half as long again.
        """
        future: asyncio.Future[ResultT] = loop.create_future()
        self._add(_LoopTask(loop, future, function, arguments))
        return future

    def _add(self, task: _Task | _LoopTask) -> None:
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._idle:
                self._idle.pop()
            elif len(self._made) < self._most:
                self._start_thread()
            self._tasks.put(task)

    def _start_thread(self) -> None:
        name = f"{self._name}_{len(self._made)}"
        thread = threading.Thread(target=_work, args=(self._tasks, self._idle), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the program ends, or the system has no more: those that are there have to do
            if not self._made:
                raise
        else:
            self._made.append(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and end when all is done that was submitted, or with `cancel_futures` begun."""
        with self._lock:
            self._shut = True
            while cancel_futures:
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    break
                if task is not None:
                    task.cancel()
            self._tasks.put(None)
        if wait:
            self.join()

    def join(self, timeout: float | None = None) -> bool:
        """Wait, after shutdown(), until the threads have ended; return False if one still works after `timeout` s."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._made:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._made)


def _work(tasks: queue.SimpleQueue[_Task | _LoopTask | None], idle: deque[None]) -> None:
    """Do what there is until None comes, which is for all the threads of a pool. Holds no pool."""
    while (task := tasks.get()) is not None:
        tell = task.run()
        del task  # it holds the call
        idle.append(None)  # before the one who waits wakes up, and wants the interpreter lock as well
        tell()
        del tell  # it holds the result
    tasks.put(None)
