"""Threads that answer queries, of all doors together: few at a time, and in turns with those who write.

A query computes in the interpreter, where one thread runs at a time. So more than a few at once only wait for each
other, and for one who writes beside them there would be little left: while something is written, one query is answered
after the other, and between those that wait for each other there is a pause as long as the last one took.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from neptune_api._threads import DaemonPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    Result = TypeVar("Result")

# The database computes outside of the interpreter, on other processors.
_THREADS: Final = max(4, os.cpu_count() or 1)
_MOST_PAUSE_SECONDS: Final = 1.0


class QueryThreads(DaemonPool):
    """Run queries; `is_writing` tells whether something is being written."""

    def __init__(self, is_writing: Callable[[], bool]) -> None:
        super().__init__(_THREADS, "neptune-api-query")
        self._is_writing = is_writing
        self._turn = threading.Lock()
        self._next_turn = 0.0
        self._counting = threading.Lock()
        self._unanswered = 0
        self._ending = threading.Event()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run a function when it is its turn."""
        future = super().submit(self._run, fn, args, kwargs)
        with self._counting:
            self._unanswered += 1
        future.add_done_callback(self._answered)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more, and wait for no turns."""
        self._ending.set()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, function: Callable[..., Result], args: Any, kwargs: Any) -> Result:
        if not self._is_writing():
            return function(*args, **kwargs)
        with self._turn:
            self._ending.wait(max(0.0, self._next_turn - time.monotonic()))
            begin = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                end = time.monotonic()
                if self._unanswered > 1:
                    self._next_turn = end + min(end - begin, _MOST_PAUSE_SECONDS)

    def _answered(self, _future: Future[Any]) -> None:
        with self._counting:
            self._unanswered -= 1
