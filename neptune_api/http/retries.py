"""Whether and when a failed attempt over HTTP is made again: RetryPolicy, as gRPC does it below its own channel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from neptune_api.options import RetryPolicy

if TYPE_CHECKING:
    from neptune_api.http.failures import CallError

PATIENCE: Final = RetryPolicy()
"""How to wait for a server that is not there yet, whatever the channel's own policy."""


class Budget:
    """What the failures of a server leave for retries to it; one for all calls of a channel."""

    # Without a lock: what threads that meet here may lose is a failure or two of hundreds.

    __slots__ = ("_left", "_policy")

    def __init__(self, policy: RetryPolicy | None) -> None:
        self._policy = policy
        self._left = 0.0 if policy is None else float(policy.budget)

    def succeeded(self) -> None:
        """Take note of an answer."""
        policy = self._policy
        if policy is None or self._left >= policy.budget:
            return
        self._left = min(self._left + policy.budget_refill, float(policy.budget))

    def failed(self) -> bool:
        """Take note of a failure that is worth another attempt; tell whether there may be one."""
        policy = self._policy
        if policy is None:
            return False
        self._left = max(self._left - 1, 0.0)
        return self._left > policy.budget / 2


class Retries:
    """The attempts of one call."""

    __slots__ = ("_budget", "_end", "_patient", "_policy", "_waits", "attempt")

    def __init__(self, policy: RetryPolicy | None, budget: Budget, end: float | None, *, patient: bool) -> None:
        self._policy = policy
        """None for a call that must not be made twice."""
        self._budget = budget
        self._end = end
        """Reading of time.monotonic() at which the call has to be over."""
        self._patient = patient
        """Wait for a server that cannot be reached."""
        self._waits = 0
        self.attempt = 1
        """Which attempt is being made, counted from 1."""

    def pause(self, error: CallError) -> float | None:
        """Return the seconds to wait before another attempt; None when there is none."""
        if error.lasting:
            return None
        if self._patient and not error.connected:
            self._waits += 1
            wait = PATIENCE.backoff(self._waits)
            # Up to the deadline, which ends the attempt after it.
            return wait if self._end is None else max(0.0, min(wait, self._end - time.monotonic()))
        policy = self._policy
        if policy is None or error.code() not in policy.codes:
            return None
        allowed = self._budget.failed()
        if not allowed or self.attempt >= policy.max_attempts:
            return None
        wait = policy.backoff(self.attempt) if error.retry_after is None else error.retry_after
        self.attempt += 1
        return self._in_time(wait)

    def _in_time(self, wait: float) -> float | None:
        if self._end is not None and time.monotonic() + wait >= self._end:
            return None
        return wait
