"""Lineage: which runs contribute to the series of a run, and up to which step."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from neptune_api.server.store.schema import runs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_Key = TypeVar("_Key")

# SQLite takes at most 32,766 parameters in a statement.
_KEYS_PER_QUERY: Final = 10_000


class Scope(enum.Enum):
    """Say which ancestors count."""

    FULL = "all ancestors"
    EXPERIMENT = "ancestors of the same experiment, up to the first of another one"
    RUN = "none"


class Ancestor(NamedTuple):
    """A run of a lineage: `upper` is the last micro-step taken over from it, None for the addressed run itself."""

    run_key: int
    upper: int | None


Lineage = tuple[Ancestor, ...]
"""The addressed run, its parent, its parent's parent and so on."""


def lineages(connection: sa.Connection, run_keys: Collection[int], scope: Scope = Scope.FULL) -> dict[int, Lineage]:
    """Return the lineage of each run by its key.

    A run that does not exist has a lineage of itself alone. A parent that had no step when the run forked off
    contributes nothing, and neither do those behind it.
    """
    if scope is Scope.RUN:
        return {key: (Ancestor(key, None),) for key in run_keys}
    family = _family(connection, list(run_keys))
    return {key: tuple(_walk(family, key, scope)) for key in run_keys}


def batches(keys: Sequence[_Key], size: int = _KEYS_PER_QUERY) -> Iterator[Sequence[_Key]]:
    """Yield the keys in pieces that a statement can take as parameters."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _family(connection: sa.Connection, run_keys: list[int]) -> dict[int, Any]:
    family: dict[int, Any] = {}
    columns = (runs.c.id, runs.c.parent_id, runs.c.fork_step, runs.c.experiment)
    for batch in batches(run_keys):
        # UNION drops rows it has seen: a cycle, which only a damaged database has, ends the recursion.
        line = sa.select(*columns).where(runs.c.id.in_(batch)).cte("line", recursive=True)
        line = line.union(sa.select(*columns).join(line, runs.c.id == line.c.parent_id))
        for row in connection.execute(sa.select(line)):
            family[row.id] = row
    return family


def _walk(family: dict[int, Any], key: int, scope: Scope) -> Iterator[Ancestor]:
    yield Ancestor(key, None)
    run = family.get(key)
    seen = {key}
    upper: int | None = None
    while run is not None and run.parent_id is not None and run.fork_step is not None:
        parent = family.get(run.parent_id)
        if parent is None or parent.id in seen:
            return
        if scope is Scope.EXPERIMENT and (parent.experiment is None or parent.experiment != run.experiment):
            return
        upper = run.fork_step if upper is None else min(upper, run.fork_step)
        yield Ancestor(parent.id, upper)
        seen.add(parent.id)
        run = parent
