"""The clock of a server under test: it goes as time does, until a test sets it forward or holds it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestClock:
    """Seconds since 1970 as the server sees them: expiry of tokens, sys/creation_time, sys/ping_time and their kind.

    Deadlines, waits and time stamps that clients send are not the server's and go by the clock of the machine.
    """

    __test__ = False  # for pytest, which takes a class of this name for a test

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = 0.0
        self._held: float | None = None

    def __call__(self) -> float:
        """Return the time, in seconds since 1970."""
        with self._lock:
            return (time.time() if self._held is None else self._held) + self._offset

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.fromtimestamp(self(), timezone.utc)

    def advance(self, seconds: float) -> None:
        """Set the clock forward, or with a negative number back."""
        with self._lock:
            self._offset += seconds

    def move_to(self, moment: datetime | float) -> None:
        """Set the clock to a moment with a time zone, or to seconds since 1970. Raises ValueError without a zone."""
        if isinstance(moment, datetime):
            if moment.tzinfo is None:
                raise ValueError("the moment has no time zone: add tzinfo=timezone.utc, say")
            moment = moment.timestamp()
        with self._lock:
            self._offset = moment - (time.time() if self._held is None else self._held)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the clock stand still in a `with` block, but for advance() and move_to()."""
        with self._lock:
            self._held = time.time()
        try:
            yield
        finally:
            with self._lock:
                self._held = None

    def reset(self) -> None:
        """Go by the clock of the machine again."""
        with self._lock:
            self._offset, self._held = 0.0, None
