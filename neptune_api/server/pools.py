"""Ending thread pools within a time: what a door does with its threads when it closes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor


def end_pools(pools: Sequence[ThreadPoolExecutor], end: float) -> bool:
    """Drop what waits in the pools and let their threads end; False if one still works at `end` (time.monotonic())."""
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    waiters = [threading.Thread(target=pool.shutdown, daemon=True) for pool in pools]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join(max(0.0, end - time.monotonic()))
    return not any(waiter.is_alive() for waiter in waiters)
