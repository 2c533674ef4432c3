"""Attributes of runs as readers see them, inherited series included, in pages."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.store import steps
from neptune_api.server.store.lineage import batches, lineages
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import attributes, runs, series
from neptune_api.server.store.series import ATTRIBUTES, AttributeRow, Segment, attribute_rows, fold

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

# Batches of runs grow from the first size to the last: a page may be one run's attributes or one attribute of each.
_FIRST_BATCH: Final = 16
_LAST_BATCH: Final = 1_024
_GROWTH: Final = 8
# Texts and payloads of a page, after which it ends.
# How many rows of ancestors a read is meant for, and how many of them a run may have.
_INHERITED_PER_READ: Final = 20_000
_USUAL_NAMES: Final = 100
# More names than this are compared here instead of by the database.
_MAX_NAMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class AttributeFilter:
    """Which attributes: by exact names, by types and by a function of the name; None lets all pass."""

    names: frozenset[str] | None = None
    types: frozenset[int] | None = None
    matches: Callable[[str], bool] | None = None

    @property
    def is_empty(self) -> bool:
        """True when nothing can pass."""
        return self.names == frozenset() or self.types == frozenset()

    def passes(self, name: str) -> bool:
        """Tell whether the name passes."""
        return (self.names is None or name in self.names) and (self.matches is None or self.matches(name))

    @property
    def is_exact(self) -> bool:
        """True when the database alone can tell what passes."""
        return self.matches is None and (self.names is None or len(self.names) <= _MAX_NAMES)

    def narrow(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return a query for as little as the database can tell apart."""
        if self.names is not None and len(self.names) <= _MAX_NAMES:
            query = query.where(attributes.c.name.in_(sorted(self.names)))
        if self.types is not None:
            query = query.where(attributes.c.type.in_(sorted(self.types)))
        return query


class RunRow(NamedTuple):
    """A run of a listing."""

    key: int
    uuid: str
    number: int
    is_fork: bool


class Cell(NamedTuple):
    """One attribute of one run; the first segment is the run's own, or the nearest ancestor's that has the series."""

    run: RunRow
    name: str
    segments: list[Segment]

    @property
    def type(self) -> int:
        """A neptune_api.v1.AttributeType."""
        type_: int = self.segments[0].row.type
        return type_

    @property
    def size(self) -> int:
        """About how many bytes the value has."""
        return _size(self.segments[0].row)


class Place(NamedTuple):
    """Where a page of cells ends: at an attribute of the run with this number."""

    number: int
    name: str


def page_of_values(
    connection: sa.Connection,
    project_id: int,
    numbers: Collection[int] | None,
    which: AttributeFilter,
    *,
    after: Place | None = None,
    limit: int,
) -> tuple[list[Cell], Place | None]:
    """Return attributes of a project's runs, by run and name, and where the page ends; None for the last page.

    `numbers` are those of the runs, None is all. A page has at most `limit` attributes, fewer when they are large.
    """
    cells: list[Cell] = []
    if which.is_empty:
        return cells, None
    size = 0
    inherited = _Inheritance(connection, which)
    for batch in _batches_of_runs(connection, project_id, numbers, 0 if after is None else after.number):
        for cell in _cells(connection, batch, which, inherited, after, limit + 1 - len(cells)):
            size += cell.size
            if len(cells) == limit or (cells and size > limits.MAX_VALUES_PAGE_BYTES):
                return cells, Place(cells[-1].run.number, cells[-1].name)
            cells.append(cell)
    return cells, None


def values_of_runs(connection: sa.Connection, found: Iterable[RunRow], which: AttributeFilter) -> Iterator[Cell]:
    """Yield the attributes of some runs, whatever their projects, by the runs' keys and by name."""
    if which.is_empty:
        return
    inherited = _Inheritance(connection, which)
    for batch in batches(sorted(found), _LAST_BATCH):
        yield from _cells(connection, batch, which, inherited, None, None)


def values_of_run(connection: sa.Connection, run_key: int, which: AttributeFilter) -> list[Cell]:
    """Return the attributes of one run by name."""
    if which.is_empty:
        return []
    query = sa.select(runs.c.id, runs.c.uuid, runs.c.number, runs.c.parent_id).where(runs.c.id == run_key)
    batch = [_run_row(row) for row in connection.execute(query)]
    return list(_cells(connection, batch, which, _Inheritance(connection, which), None, None))


def _batches_of_runs(
    connection: sa.Connection, project_id: int, numbers: Collection[int] | None, first: int
) -> Iterator[list[RunRow]]:
    columns = (runs.c.id, runs.c.uuid, runs.c.number, runs.c.parent_id)
    query = sa.select(*columns).where(runs.c.project_id == project_id).order_by(runs.c.number)
    size = _FIRST_BATCH
    if numbers is None:
        while batch := connection.execute(query.where(runs.c.number >= first).limit(size)).all():
            yield [_run_row(row) for row in batch]
            first = batch[-1].number + 1
            size = min(size * _GROWTH, _LAST_BATCH)
        return
    left = sorted(number for number in set(numbers) if number >= first)
    while left:
        rows = connection.execute(query.where(runs.c.number.in_(left[:size]))).all()
        yield [_run_row(row) for row in rows]
        left = left[size:]
        size = min(size * _GROWTH, _LAST_BATCH)


def _run_row(row: Any) -> RunRow:
    return RunRow(row.id, row.uuid, row.number, row.parent_id is not None)


def _cells(
    connection: sa.Connection,
    batch: Sequence[RunRow],
    which: AttributeFilter,
    inherited: _Inheritance,
    after: Place | None,
    limit: int | None,
) -> Iterator[Cell]:
    """Yield the first `limit` cells behind a place of some runs, by run and name; perhaps more than that."""
    own, is_cut = _own_rows(connection, batch, which, after, limit)
    last = None
    if is_cut:
        # Whatever comes behind the last one of enough own attributes is for another page.
        key = next(reversed(own))
        last = next(Place(run.number, next(reversed(own[key]))) for run in batch if run.key == key)
    forks = [run for run in batch if run.is_fork and (last is None or run.number <= last.number)]
    for run in batch:
        if last is not None and run.number > last.number:
            return
        mine = own.get(run.key, {})
        if not run.is_fork:
            for name, row in mine.items():
                yield Cell(run, name, [Segment(row, steps.END)])
            continue
        for name, segments in inherited.cells(run, mine, forks):
            place = Place(run.number, name)
            if (after is None or place > after) and (last is None or place <= last):
                yield Cell(run, name, segments)


def _own_rows(
    connection: sa.Connection,
    batch: Sequence[RunRow],
    which: AttributeFilter,
    after: Place | None,
    limit: int | None,
) -> tuple[dict[int, dict[str, Any]], bool]:
    """Return rows behind a place, by run and name in order; and whether they fill a page."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    if not batch:
        return found, False
    query = which.narrow(ATTRIBUTES.where(attributes.c.run_id.in_([run.key for run in batch])))
    if after is not None and batch[0].number == after.number:
        query = query.where(sa.or_(attributes.c.run_id != batch[0].key, attributes.c.name > after.name))
    # Keys and numbers of runs are given out together, so either gives the same order.
    query = query.order_by(attributes.c.run_id, attributes.c.name)
    if limit is not None and which.is_exact:
        query = query.limit(limit)
    count = size = 0
    is_exact = which.is_exact
    rows = attribute_rows(connection, query)
    for row in rows:
        if not is_exact and not which.passes(row.name):
            continue
        found[row.run_id][row.name] = row
        count += 1
        size += _size(row)
        if limit is not None and (count == limit or (size > limits.MAX_VALUES_PAGE_BYTES and count > 1)):
            rows.close()
            return found, True
    return found, False


def _size(row: AttributeRow) -> int:
    """Return about how many bytes an attribute has."""
    return 64 + len(row.name) + len(row.text_value or "") + len(row.last_payload or b"")


class _Inheritance:
    """Series that forks inherit; what the ancestors of some forks have is read at once and kept for a page."""

    def __init__(self, connection: sa.Connection, which: AttributeFilter) -> None:
        types = SERIES_TYPES if which.types is None else SERIES_TYPES & which.types
        self._which = AttributeFilter(which.names, frozenset(types), which.matches)
        # The fewer attributes each ancestor can have, the more of them.
        self._forks_per_read = _INHERITED_PER_READ // (
            _USUAL_NAMES if which.names is None else max(1, len(which.names))
        )
        self._connection = connection
        self._lineages: dict[int, Any] = {}
        self._rows: dict[int, dict[str, Any]] = {}

    def cells(self, run: RunRow, own: dict[str, Any], forks: Sequence[RunRow]) -> Iterator[tuple[str, list[Segment]]]:
        """Yield the attributes of a fork by name, with what it inherits; `forks` are those asked about after it too."""
        if run.key not in self._lineages:
            self._read(forks[forks.index(run) :][: max(_FIRST_BATCH, self._forks_per_read)])
        lineage = self._lineages[run.key]
        rows = {run.key: own} | {key: self._rows[key] for key, _ in lineage[1:]}
        names = set(own)
        for key, upper in lineage[1:]:
            names.update(
                name for name, row in rows[key].items() if row.first_step is not None and row.first_step <= upper
            )
        for name in sorted(names):
            yield name, fold(lineage, lambda key, name=name: rows[key].get(name))  # type: ignore[misc]  # bound now

    def _read(self, forks: Sequence[RunRow]) -> None:
        self._lineages |= lineages(self._connection, [run.key for run in forks])
        ancestors = {key for run in forks for key, _ in self._lineages[run.key][1:]}
        missing = sorted(ancestors - self._rows.keys())
        self._rows |= {key: {} for key in missing}
        if self._which.is_empty:
            return
        for batch in batches(missing):
            query = self._which.narrow(ATTRIBUTES.where(attributes.c.run_id.in_(batch)))
            for row in attribute_rows(self._connection, query.where(series.c.first_step.is_not(None))):
                if self._which.passes(row.name):
                    self._rows[row.run_id][row.name] = row
