"""Attributes of runs as readers see them, inherited series included: of a run, of some runs, or in pages.

Ten thousand of them are one answer: reading costs what is done for each row, and each column that comes with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from neptune_api.server.store.key_conditions import among
from neptune_api.server.store.lineage import batches, lineages
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import attributes, runs, series
from neptune_api.server.store.series import (
    ATTRIBUTES,
    ROWS_PER_FETCH,
    SUMMARIES,
    SUMMARY_FIELDS,
    VALUES,
    AttributeRow,
    Segment,
    as_rows,
    attribute_rows,
    fold,
)
from neptune_api.v1.queries_pb2 import AttributeType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from neptune_api.server.store.series import FloatSummaries

    Lines = Sequence[Sequence[Segment]]

# Batches of runs grow from the first size to the last: a page may be one run's attributes or one attribute of each.
_FIRST_BATCH: Final = 16
_LAST_BATCH: Final = 1_024
_GROWTH: Final = 8
MOST_VALUES: Final = 100_000
"""Values to read together, at most, where it is known how many a run may have."""
# How many rows of ancestors a read is meant for, and how many of them a run may have.
_INHERITED_PER_READ: Final = 20_000
_USUAL_NAMES: Final = 100
# More names than this are compared here instead of by the database.
_MAX_NAMES: Final = 10_000
_ONLY_FLOAT_SERIES: Final = frozenset({int(AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES)})
# Rows as they come from the database look up each name that is asked of them.
_RUN_KEY: Final = itemgetter(AttributeRow._fields.index("run_id"))
_NAME: Final = itemgetter(AttributeRow._fields.index("name"))
_TEXT: Final = itemgetter(AttributeRow._fields.index("text_value"))
_PAYLOAD: Final = itemgetter(AttributeRow._fields.index("last_payload"))
ROW_BYTES: Final = 64
"""What an attribute is taken to have beside its texts."""


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


class TooManyBytesError(Exception):
    """Report that values have more bytes together than are to be read."""


class RunRow(NamedTuple):
    """A run of a listing."""

    key: int
    uuid: str
    number: int
    is_fork: bool
    project_id: int


RUNS: Final = sa.select(runs.c.id, runs.c.uuid, runs.c.number, runs.c.parent_id.is_not(None), runs.c.project_id)
"""The query for runs of a listing, to be narrowed down."""


class RunValues(NamedTuple):
    """A run with attributes, by name.

    Their `run_id` may be that of an ancestor. A row may be no longer than its readers need: see VALUES and SUMMARIES.
    """

    run: RunRow
    rows: Sequence[AttributeRow]


class Place(NamedTuple):
    """Where a page of values ends: at an attribute of the run with this number."""

    number: int
    name: str


class _Found(NamedTuple):
    """Attributes of a run, by name; those of a fork with all that its lineage contributes to each."""

    run: RunRow
    rows: Sequence[AttributeRow]
    lines: Lines | None


def page_of_values(
    connection: sa.Connection,
    project_id: int,
    numbers: Sequence[int] | None,
    which: AttributeFilter,
    summaries: FloatSummaries,
    after: Place,
    *,
    limit: int,
    max_bytes: int,
) -> tuple[list[RunValues], Place | None]:
    """Return attributes behind a place of a project's runs, by run and name, and where they end; None for everywhere.

    `numbers` are those of the runs, ascending; None is all. There are at most `limit` attributes, fewer when they are
    large, but one at least.
    """
    page: list[_Found] = []
    room = _Room(limit, max_bytes)
    inherited = _Inheritance(connection, which)
    for batch in _batches_of_runs(connection, project_id, numbers, after.number):
        found = _values(connection, batch, which, inherited, after, room)
        fitting = room.take(found)
        page += fitting
        if _count(fitting) < _count(found):
            last = page[-1]
            return _summed_up(connection, page, summaries), Place(last.run.number, _NAME(last.rows[-1]))
    return _summed_up(connection, page, summaries), None


def values_of_runs(
    connection: sa.Connection,
    some_runs: Iterable[RunRow],
    which: AttributeFilter,
    summaries: FloatSummaries,
    *,
    max_bytes: int,
) -> Iterator[list[RunValues]]:
    """Yield the attributes of some runs, whatever their projects, by the runs' keys, many runs at a time.

    Runs that have none are left out. Raises TooManyBytesError when there are more than `max_bytes`.
    """
    if which.is_empty:
        return
    room = _Room(None, max_bytes)
    inherited = _Inheritance(connection, which)
    names = 1 if which.names is None else len(which.names)
    for batch in batches(sorted(some_runs), max(1, min(_LAST_BATCH, MOST_VALUES // names))):
        found = _values(connection, batch, which, inherited, None, room)
        if _count(room.take(found)) < _count(found):
            raise TooManyBytesError
        yield _summed_up(connection, found, summaries)


def values_of_run(
    connection: sa.Connection, run_key: int, which: AttributeFilter, summaries: FloatSummaries
) -> Sequence[AttributeRow]:
    """Return the attributes of one run by name."""
    if which.is_empty:
        return []
    batch = [RunRow(*row) for row in connection.execute(RUNS.where(runs.c.id == run_key))]
    found = _values(connection, batch, which, _Inheritance(connection, which), None, _Room(None, None))
    return [row for values in _summed_up(connection, found, summaries) for row in values.rows]


class _Room:
    """How many rows, and about how many bytes, may still be taken; None is any number.

    Where rows are counted, one of any size may be taken: a page has at least one.
    """

    def __init__(self, rows: int | None, size: int | None) -> None:
        self.rows = rows
        self._size = size
        self._needs_one = rows is not None

    def has(self, count: int, size: int) -> bool:
        """Tell whether so many rows of so many bytes may be taken."""
        return (self.rows is None or count <= self.rows) and (
            self._size is None or size <= self._size or (count == 1 and self._needs_one)
        )

    def take(self, found: Sequence[_Found]) -> Sequence[_Found]:
        """Return the first of some attributes, as many as may be taken, which then are."""
        rows = list(chain.from_iterable(item.rows for item in found))
        count = len(rows) if self.rows is None else min(len(rows), self.rows)
        size = size_of(rows[:count])
        if not self.has(count, size):
            count = size = 0
            while self.has(count + 1, more := size + size_of(rows[count : count + 1])):
                count, size = count + 1, more
        self._needs_one = self._needs_one and not count
        if self.rows is not None:
            self.rows -= count
        if self._size is not None:
            self._size -= size
        return found if count == len(rows) else list(_first(found, count))


def _count(found: Iterable[_Found]) -> int:
    return sum(len(item.rows) for item in found)


def _first(found: Iterable[_Found], count: int) -> Iterator[_Found]:
    """Yield the first attributes of some."""
    for run, rows, lines in found:
        if not count:
            return
        yield _Found(run, rows[:count], lines and lines[:count])
        count = max(0, count - len(rows))


def size_of(rows: Sequence[AttributeRow]) -> int:
    """Return about how many bytes attributes have."""
    size = ROW_BYTES * len(rows) + sum(map(len, map(_NAME, rows)))
    if rows and len(rows[0]) > SUMMARY_FIELDS:
        size += sum(map(len, filter(None, map(_TEXT, rows)))) + sum(map(len, filter(None, map(_PAYLOAD, rows))))
    return size


def _summed_up(connection: sa.Connection, found: Sequence[_Found], summaries: FloatSummaries) -> list[RunValues]:
    """Return attributes with each series summed up over its lineage."""
    lines = [line for values in found for line in values.lines or ()]
    rows = iter(as_rows(connection, lines, summaries))
    return [
        RunValues(run, some if its_lines is None else list(islice(rows, len(some)))) for run, some, its_lines in found
    ]


def runs_from(
    connection: sa.Connection, project_id: int, numbers: Sequence[int] | None, first: int, size: int
) -> list[RunRow]:
    """Return the runs of a project with the next numbers, of those given (ascending) or of all; fewer at the end."""
    query = RUNS.where(runs.c.project_id == project_id).order_by(runs.c.number)
    if numbers is None:
        query = query.where(runs.c.number >= first).limit(size)
    else:
        begin = bisect_left(numbers, first)
        query = query.where(among(connection, runs.c.number, numbers[begin : begin + size]))
    return [RunRow(*row) for row in connection.execute(query)]


def _batches_of_runs(
    connection: sa.Connection, project_id: int, numbers: Sequence[int] | None, first: int
) -> Iterator[list[RunRow]]:
    size = _FIRST_BATCH
    while batch := runs_from(connection, project_id, numbers, first, size):
        yield batch
        first = batch[-1].number + 1
        size = min(size * _GROWTH, _LAST_BATCH)


def _values(
    connection: sa.Connection,
    batch: Sequence[RunRow],
    which: AttributeFilter,
    inherited: _Inheritance,
    after: Place | None,
    room: _Room,
) -> list[_Found]:
    """Return the attributes behind a place of some runs, by run and name: all, or more than there is room for."""
    own, is_cut = _own_rows(connection, batch, which, after, room)
    last = None
    if is_cut:
        # Whatever comes behind the last one of enough own attributes is for another page.
        key = next(reversed(own))
        last = next(Place(run.number, _NAME(own[key][-1])) for run in batch if run.key == key)
        batch = [run for run in batch if run.number <= last.number]
    forks = [run for run in batch if run.is_fork]
    found = []
    for run in batch:
        if not run.is_fork:
            if run.key in own:
                found.append(_Found(run, own[run.key], None))
            continue
        mine = {row.name: row for row in map(AttributeRow._make, own.get(run.key, ()))}
        lines = [
            line
            for name, line in inherited.lines(run, mine, forks)
            if (after is None or (run.number, name) > after) and (last is None or (run.number, name) <= last)
        ]
        if lines:
            found.append(_Found(run, [line[0].row for line in lines], lines))
    return found


def _own_rows(
    connection: sa.Connection,
    batch: Sequence[RunRow],
    which: AttributeFilter,
    after: Place | None,
    room: _Room,
) -> tuple[dict[int, list[Any]], bool]:
    """Return rows behind a place, by run and name in order; and whether there are more than there is room for."""
    found: dict[int, list[Any]] = defaultdict(list)
    if not batch:
        return found, False
    query = ATTRIBUTES
    if not any(run.is_fork for run in batch):
        query = SUMMARIES if which.types == _ONLY_FLOAT_SERIES else VALUES
    query = which.narrow(query.where(attributes.c.run_id.in_([run.key for run in batch])))
    if after is not None and batch[0].number == after.number:
        query = query.where(sa.or_(attributes.c.run_id != batch[0].key, attributes.c.name > after.name))
    # Keys and numbers of runs are given out together, so either gives the same order.
    query = query.order_by(attributes.c.run_id, attributes.c.name)
    if room.rows is not None and which.is_exact:
        query = query.limit(room.rows + 1)
    count = size = 0
    with connection.execute(query) as result:
        for fetched in result.partitions(ROWS_PER_FETCH):
            rows: Any = fetched if which.is_exact else [row for row in fetched if which.passes(_NAME(row))]
            for key, some in groupby(rows, _RUN_KEY):
                found[key].extend(some)
            count += len(rows)
            size += size_of(rows)
            if not room.has(count, size):
                return found, True
    return found, False


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

    def lines(self, run: RunRow, own: dict[str, Any], forks: Sequence[RunRow]) -> Iterator[tuple[str, list[Segment]]]:
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
