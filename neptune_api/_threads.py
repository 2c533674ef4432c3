"""Threads in a pool that the end of the program does not wait for."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import ParamSpec

    P = ParamSpec("P")

ResultT = TypeVar("ResultT")

__all__ = ["DaemonPool"]


class _Task(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]


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
        self._idle = threading.Semaphore(0)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._shut = False
        weakref.finalize(self, self._tasks.put, None).atexit = False

    def submit(self, fn: Callable[P, ResultT], /, *args: P.args, **kwargs: P.kwargs) -> Future[ResultT]:
        """Run a function; return the future of its result. Raises RuntimeError after shutdown(), or without threads."""
        future: Future[ResultT] = Future()
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if not self._idle.acquire(blocking=False) and len(self._made) < self._most:
                self._start_thread()
            self._tasks.put(_Task(future, fn, args, kwargs))
        return future

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
                    task.future.cancel()
            self._tasks.put(None)
        if wait:
            self.join()

    def join(self, timeout: float | None = None) -> bool:
        """Wait, after shutdown(), until the threads have ended; return False if one still works after `timeout` s."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._made:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._made)


def _work(tasks: queue.SimpleQueue[_Task | None], idle: threading.Semaphore) -> None:
    """Do what there is until None comes, which is for all the threads of a pool. Holds no pool."""
    while (task := tasks.get()) is not None:
        if task.future.set_running_or_notify_cancel():
            try:
                result = task.function(*task.arguments, **task.named)
            except BaseException as error:  # noqa: BLE001 # it belongs to whoever asks for the result
                task.future.set_exception(error)
            else:
                task.future.set_result(result)
                del result
        del task  # it holds the call
        idle.release()
    tasks.put(None)
