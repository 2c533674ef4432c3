"""Ending thread pools within a time: what a door does with its threads when it closes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api._threads import DaemonPool


def end_pools(pools: Sequence[DaemonPool], end: float) -> bool:
    """Drop what waits in the pools and let their threads end; False if one still works at `end` (time.monotonic())."""
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    ended = [pool.join(max(0.0, end - time.monotonic())) for pool in pools]
    return all(ended)
