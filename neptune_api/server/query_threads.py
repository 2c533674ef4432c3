"""Threads that answer queries, of all doors together: few at a time, and in turns with those who write.

A query computes in the interpreter, where one thread runs at a time. So more than a few at once only wait for each
other, and for one who writes beside them there would be little left: while something is written, one query is answered
after the other, and between those that wait for each other there is a pause as long as the last one took.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from neptune_api._threads import DaemonPool
from neptune_api.server.pools import CALL_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import ParamSpec

    P = ParamSpec("P")

Result = TypeVar("Result")

# The database computes outside of the interpreter, on other processors.
_SIDE_BY_SIDE: Final = max(4, os.cpu_count() or 1)
_MOST_PAUSE_SECONDS: Final = 1.0


class QueryThreads(DaemonPool):
    """Run queries, made by in_turn(); `is_writing` tells whether something is being written."""

    def __init__(self, is_writing: Callable[[], bool]) -> None:
        # More than compute: gRPC has a thread wait for the request of a call, which may be long in coming.
        super().__init__(CALL_THREADS, "neptune-api-query")
        self._is_writing = is_writing
        self._side_by_side = threading.Semaphore(_SIDE_BY_SIDE)
        self._turn = threading.Lock()
        self._next_turn = 0.0
        self._counting = threading.Lock()
        self._unanswered = 0
        self._ending = threading.Event()

    def in_turn(self, function: Callable[P, Result]) -> Callable[P, Result]:
        """Return a function that begins when it is its turn: to be wrapped around what computes, not what waits."""

        def query(*args: P.args, **kwargs: P.kwargs) -> Result:
            with self._counting:
                self._unanswered += 1
            try:
                with self._side_by_side:
                    if not self._is_writing():
                        return function(*args, **kwargs)
                    return self._run(function, *args, **kwargs)
            finally:
                with self._counting:
                    self._unanswered -= 1

        return query

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more, and wait for no turns."""
        self._ending.set()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        with self._turn:
            self._ending.wait(max(0.0, self._next_turn - time.monotonic()))
            begin = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                end = time.monotonic()
                if self._unanswered > 1:
                    self._next_turn = end + min(end - begin, _MOST_PAUSE_SECONDS)
