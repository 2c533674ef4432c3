"""The questions of `queries` over PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.rows.queries import measure_store
from benchmarks.stores import postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.report import Row
    from benchmarks.rounds import Bench


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    with postgresql(bench) as store:
        if store is not None:
            yield from measure_store(bench, store)
