"""Definitions: the distinct names and types of the attributes of projects or of runs, in order.

Names come from the index in lots, each as one text: a row for each of a hundred thousand names would take longer than
all that is done with them.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from heapq import merge
from itertools import groupby, islice
from operator import eq
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from neptune_api.server.store.lineage import batches, lineages
from neptune_api.server.store.schema import attributes, runs, series
from neptune_api.server.store.texts import Text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from neptune_api.server.name_filters import NameFilter

Definition = tuple[str, int]
"""A name, and a neptune_api.v1.AttributeType."""

# Rows of the index that are read at once, the first time and later.
_FIRST_LOT: Final = 1_000
_LAST_LOT: Final = 16_000
# Rows that are read in the time in which one name is looked up.
_ROWS_PER_NAME: Final = 10
# Names that are looked up at once, the first time and later.
_FIRST_NAMES: Final = 100
_LAST_NAMES: Final = 4_000
_ROWS_PER_FETCH: Final = 1_000
# Rows of a run that are read in the time in which one is looked up.
_ROWS_PER_LOOK_UP: Final = 5
_NAMES_PER_QUERY: Final = 1_000
_ANCESTORS_PER_CONDITION: Final = 200
_CONDITIONS_PER_QUERY: Final = 100


def page(
    connection: sa.Connection,
    project_ids: Collection[int],
    run_keys: Collection[int] | None,
    *,
    types: frozenset[int] | None = None,
    names: NameFilter | None = None,
    after: Definition | None = None,
    limit: int,
) -> tuple[list[Definition], bool]:
    """Return definitions of projects (or of some of their runs) that pass the filters, and whether more follow.

    They ascend by name and type; a page is full unless it is the last one.
    """
    found: Iterator[Definition]
    if run_keys is None:
        # What a run inherits its ancestors have, and they are in the same project.
        each = (_lots_of_project(connection, project_id, after, limit + 1) for project_id in project_ids)
        found = _distinct([_passing(lots, types, names) for lots in each])
    else:
        found = _of_runs(connection, list(run_keys), types, names, after)
    result = list(islice(found, limit + 1))
    return result[:limit], len(result) > limit


def of_run(
    connection: sa.Connection,
    run_key: int,
    *,
    types: frozenset[int] | None = None,
    names: NameFilter | None = None,
) -> list[Definition]:
    """Return the definitions of one run that pass the filters, ascending."""
    return list(_of_runs(connection, [run_key], types, names, None))


class _Lot(NamedTuple):
    """Definitions in order; the types are the characters with their numbers."""

    names: Sequence[str]
    types: str

    @classmethod
    def of(cls, rows: Sequence[Definition]) -> _Lot:
        return cls([name for name, _ in rows], "".join(chr(type_) for _, type_ in rows))

    @property
    def last(self) -> Definition:
        return self.names[-1], ord(self.types[-1])

    def passing(self, types: frozenset[int] | None, names: NameFilter | None) -> Iterator[Definition]:
        """Yield the definitions that pass the filters."""
        if types is not None:
            wanted = frozenset(map(chr, types))
            places = [place for place, type_ in enumerate(self.types) if type_ in wanted]
            if len(places) < len(self.names):
                kept = _Lot([self.names[place] for place in places], "".join(self.types[place] for place in places))
                yield from kept.passing(None, names)
                return
        if names is None:
            yield from zip(self.names, map(ord, self.types), strict=True)
            return
        for place in np.flatnonzero(names.among(self.names)).tolist():
            yield self.names[place], ord(self.types[place])

    def distinct(self) -> _Lot:
        """Return each definition once."""
        if not any(map(eq, self.names, islice(self.names, 1, None))):
            return self
        return _Lot.of([(name, ord(type_)) for name, type_ in dict.fromkeys(zip(self.names, self.types, strict=True))])


def _passing(lots: Iterable[_Lot], types: frozenset[int] | None, names: NameFilter | None) -> Iterator[Definition]:
    for lot in lots:
        yield from lot.passing(types, names)


def _distinct(each: Collection[Iterator[Definition]]) -> Iterator[Definition]:
    """Yield once what is in one or several ascending listings, ascending."""
    return (item for item, _ in groupby(merge(*each)))


def _lots_of_project(
    connection: sa.Connection, project_id: int, after: Definition | None, enough: int
) -> Iterator[_Lot]:
    """Yield the definitions of a project that come behind a place, ascending, some at a time.

    The rows are read one after the other where most of them tell a new name. Where many runs have the same names, they
    are looked up one after the other, past all the runs.
    """
    size, count = min(_FIRST_LOT, enough), _FIRST_NAMES
    place, is_included = after, False
    while True:
        rows = _read(connection, project_id, place, size, is_included=is_included)
        lot = rows.distinct()
        yield lot
        if len(rows.names) < size:
            return
        place, is_included = lot.last, False
        if len(lot.names) * _ROWS_PER_NAME >= len(rows.names):
            size = min(2 * size, _LAST_LOT)
            continue
        walked = _walk(connection, project_id, place, count + 1)
        yield _Lot(walked.names[:count], walked.types[:count])
        if len(walked.names) <= count:
            return
        # Reading goes on at the last one, and need not find its way through the runs behind a name.
        place, is_included = walked.last, True
        size, count = min(_FIRST_LOT, enough), min(2 * count, _LAST_NAMES)


def _read(
    connection: sa.Connection, project_id: int, place: Definition | None, size: int, *, is_included: bool = False
) -> _Lot:
    """Return names and types in a project's rows behind a place, or from it on."""
    name, type_ = place or ("", 0)
    query = _rows_of_project(connection.dialect.name, is_included=is_included)
    return query.read(connection, {"project_id": project_id, "name": name, "type": type_, "size": size})


@functools.cache
def _rows_of_project(dialect: str, *, is_included: bool) -> _Joined:
    # Made once: that takes as long as to read several hundred rows.
    name, type_ = attributes.c.name, attributes.c.type
    first_name, first_type = sa.bindparam("name", type_=name.type), sa.bindparam("type", type_=type_.type)
    here, place = sa.tuple_(name, type_), sa.tuple_(first_name, first_type)
    query = sa.select(name, type_).order_by(name, type_).limit(sa.bindparam("size"))
    # Databases find their way by the conditions before the last one.
    query = query.where(attributes.c.project_id == sa.bindparam("project_id"), name >= first_name)
    return _Joined(dialect, query.where(here >= place if is_included else here > place))


def _walk(connection: sa.Connection, project_id: int, place: Definition, count: int) -> _Lot:
    """Return the distinct names and types next behind a place: from each to the next one, through the index."""

    def next_key(name: Any, type_: Any) -> sa.ColumnElement[Any]:
        found = attributes.alias()
        theirs = sa.select(found.c.id).where(found.c.project_id == project_id).limit(1)
        theirs = theirs.order_by(found.c.name, found.c.type)
        next_type = theirs.where(found.c.name == name, found.c.type > type_).scalar_subquery()
        return sa.func.coalesce(next_type, theirs.where(found.c.name > name).scalar_subquery())

    first, later = attributes.alias(), attributes.alias()
    name, type_ = sa.literal(place[0], first.c.name.type), sa.literal(place[1], first.c.type.type)
    begin = sa.select(first.c.name, first.c.type).where(first.c.id == next_key(name, type_))
    walk = begin.cte("walk", recursive=True)
    on = later.c.id == next_key(walk.c.name, walk.c.type)
    walk = walk.union_all(sa.select(later.c.name, later.c.type).join_from(walk, later, on))
    return _joined(connection, sa.select(walk.c.name, walk.c.type).limit(count))


class _Joined:
    """A query for names and types, which come as texts."""

    def __init__(self, dialect: str, query: sa.Select[Any]) -> None:
        rows = query.subquery()
        name, type_ = rows.c.name, rows.c.type
        if dialect == "postgresql":
            lines, characters = sa.func.string_agg(name, "\n"), sa.func.string_agg(sa.func.chr(type_), "")
        else:
            lines, characters = sa.func.group_concat(name, "\n"), sa.func.group_concat(sa.func.char(type_), "")
        self._rows = query
        self._names = sa.select(sa.type_coerce(lines, Text), sa.func.count(), sa.func.min(type_), sa.func.max(type_))
        self._types = sa.select(characters)

    def read(self, connection: sa.Connection, parameters: dict[str, Any] | None = None) -> _Lot:
        """Return what the query finds."""
        text, count, lowest, highest = connection.execute(self._names, parameters).one()
        names = text.split("\n") if count else []
        if len(names) != count:
            # Where a name has several lines they come one by one.
            return _Lot.of(list(map(tuple, connection.execute(self._rows, parameters))))
        # Neighbours mostly have the same type, and to find that out takes less time than to write each of them down.
        is_one = lowest == highest
        types: Any = chr(lowest or 0) * count if is_one else connection.scalar(self._types, parameters)
        return _Lot(names, types)


def _joined(connection: sa.Connection, query: sa.Select[Any]) -> _Lot:
    """Return the names and types that a query finds."""
    return _Joined(connection.dialect.name, query).read(connection)


def _of_runs(
    connection: sa.Connection,
    run_keys: Sequence[int],
    types: frozenset[int] | None,
    names: NameFilter | None,
    after: Definition | None,
) -> Iterator[Definition]:
    """Yield the definitions of runs that pass the filters, ascending, those behind a place."""
    forks: list[int] = []
    for batch in batches(run_keys):
        is_fork = runs.c.parent_id.is_not(None)
        forks += connection.scalars(sa.select(runs.c.id).where(runs.c.id.in_(batch), is_fork))
    if len(run_keys) == 1 and names is not None and not forks:
        return _passing_of_run(connection, run_keys[0], types, names, after)
    query = _ascending(types, after)
    queries = [query.where(attributes.c.run_id.in_(batch)) for batch in batches(run_keys)]
    queries += _inherited(connection, query, forks)
    return _passing(_lots(_distinct([_rows(connection, each) for each in queries])), None, names)


def _passing_of_run(
    connection: sa.Connection,
    run_key: int,
    types: frozenset[int] | None,
    names: NameFilter,
    after: Definition | None,
) -> Iterator[Definition]:
    """Yield the definitions of a run: names lie in an index; types do not, and are looked up of those that pass."""
    name, theirs = attributes.c.name, attributes.c.run_id == run_key
    alone = sa.select(name, sa.literal_column("1").label("type")).where(theirs).order_by(name)
    whole = _ascending(types, after).where(theirs)
    # What has the name of the place may have another type.
    size, behind = _FIRST_LOT, name >= ("" if after is None else after[0])
    while True:
        lot = _joined(connection, alone.where(behind).limit(size)).names
        passing = [lot[place] for place in np.flatnonzero(names.among(lot)).tolist()]
        if len(passing) * _ROWS_PER_LOOK_UP > len(lot):
            wanted = frozenset(passing)
            rows = _rows(connection, whole.where(name >= passing[0], name <= passing[-1]))
            yield from (item for item in rows if item[0] in wanted)
        else:
            for some in batches(passing, _NAMES_PER_QUERY):
                yield from _rows(connection, whole.where(name.in_(some)))
        if len(lot) < size:
            return
        size, behind = min(2 * size, _LAST_LOT), name > lot[-1]


def _ascending(types: frozenset[int] | None, after: Definition | None) -> sa.Select[Any]:
    """Return the query for distinct names and types behind a place."""
    name, type_ = attributes.c.name, attributes.c.type
    query: sa.Select[Any] = sa.select(name, type_).distinct().order_by(name, type_)
    if types is not None:
        query = query.where(type_.in_(sorted(types)))
    return query if after is None else query.where(name >= after[0], sa.tuple_(name, type_) > after)


def _inherited(connection: sa.Connection, query: sa.Select[Any], forks: Sequence[int]) -> list[sa.Select[Any]]:
    """Return queries for what forks inherit."""
    uppers: dict[int, int] = {}
    for lineage in lineages(connection, forks).values():
        for key, upper in lineage[1:]:
            uppers[key] = max(upper or 0, uppers.get(key, 0))
    # Forks often share their fork points, so their ancestors can be asked about together.
    alike: dict[int, list[int]] = defaultdict(list)
    for key, upper in uppers.items():
        alike[upper].append(key)
    inherited = query.join_from(attributes, series, series.c.attribute_id == attributes.c.id)
    conditions = [
        sa.and_(attributes.c.run_id.in_(batch), series.c.first_step <= upper)
        for upper, keys in alike.items()
        for batch in batches(keys, _ANCESTORS_PER_CONDITION)
    ]
    return [inherited.where(sa.or_(*some)) for some in batches(conditions, _CONDITIONS_PER_QUERY)]


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Definition]:
    """Yield the names and types that a query finds."""
    with connection.execute(query, execution_options={"yield_per": _ROWS_PER_FETCH}) as result:
        for rows in result.partitions():
            yield from map(tuple, rows)


def _lots(rows: Iterator[Definition]) -> Iterator[_Lot]:
    while lot := list(islice(rows, _ROWS_PER_FETCH)):
        yield _Lot.of(lot)
