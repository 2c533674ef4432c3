"""The rows of the table, a module for each family; each measures its rows in a process of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.report import Row
    from benchmarks.rounds import Bench

FAMILIES: Final = (
    "calls",
    "start",
    "fixture",
    "submit",
    "append_columns",
    "read_columns",
    "float_response",
    "summaries",
    "single_points",
    "growth",
    "http_calls",
    "doors",
    "mirror",
    "queries",
    "queries_postgresql",
    "readers",
)
"""Names of the modules, in the order of the table."""

LONG: Final = frozenset({"queries", "queries_postgresql", "readers"})
"""Those that are measured only when they are asked for."""


def measurement(family: str) -> Callable[[Bench], Iterable[Row]]:
    """Return the function that measures a family's rows."""
    module: Any = import_module(f"{__name__}.{family}")
    measure: Callable[[Bench], Iterable[Row]] = module.measure
    return measure
