"""Thread pools of the doors: how many threads answer calls, and how they end when a door closes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api._threads import DaemonPool


CALL_THREADS: Final = 24
"""Most threads of a pool for calls: they wait for the disk or for the interpreter lock, so more only add switching."""


def end_pools(pools: Sequence[DaemonPool], end: float) -> bool:
    """Drop what waits in the pools and let their threads end; False if one still works at `end` (time.monotonic())."""
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    ended = [pool.join(max(0.0, end - time.monotonic())) for pool in pools]
    return all(ended)
