"""Searching runs: the matching ones counted, sorted, and a page of them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from neptune_api.server.nql.evaluation import Column, evaluate, judge
from neptune_api.server.nql.operators import KINDS, Kind
from neptune_api.server.nql.tree import Criterion, criteria, outline
from neptune_api.server.store.attributes import RUNS, RunRow
from neptune_api.server.store.kept_columns import HEADS
from neptune_api.server.store.kept_searches import KeptRanking
from neptune_api.server.store.key_conditions import about
from neptune_api.server.store.result_columns import read_columns
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import runs
from neptune_api.server.store.search_columns import ColumnReader
from neptune_api.server.store.search_conditions import Conditions
from neptune_api.server.store.system_attributes import IDLE_AFTER_MS
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy.typing as npt
    import sqlalchemy as sa

    from neptune_api.server.nql.evaluation import BoolArray
    from neptune_api.server.nql.tree import Aggregate, Node
    from neptune_api.server.store.kept_columns import KeptProject, Places, What
    from neptune_api.server.store.kept_searches import KeptSearches, KeptSnapshot
    from neptune_api.server.store.result_columns import Keys
    from neptune_api.server.store.series import FloatSummaries

    Columns = dict[What, Column]

# Where the type of what is sorted by is any.
_RANKS: Final = {Kind.NUMBER: 0, Kind.TEXT: 1, Kind.OPAQUE: 1, Kind.SET: 2}
# Sorted runs kept beyond a page before those that cannot be on it are dropped.
_SLACK: Final = 131_072
# Sorted runs behind a page that are kept for the next ones; terms and characters of the longest query whose order is.
_RANKED: Final = 131_072
_MAX_TERMS: Final = 100
_MAX_CHARACTERS: Final = 100_000
# By what is so now and may not be a moment later: the state of a run; None is any type.
_CHANGING: Final = frozenset({None, int(T.ATTRIBUTE_TYPE_EXPERIMENT_STATE)})

# Types by which kept columns sort as the database does: they hold integers as doubles.
_KEPT_ORDERS: Final = frozenset(
    {
        int(T.ATTRIBUTE_TYPE_FLOAT),
        int(T.ATTRIBUTE_TYPE_BOOL),
        int(T.ATTRIBUTE_TYPE_STRING),
        int(T.ATTRIBUTE_TYPE_DATETIME),
        int(T.ATTRIBUTE_TYPE_FLOAT_SERIES),
    }
)


@dataclass(frozen=True, slots=True)
class Order:
    """By which attribute runs are sorted; `type` is a neptune_api.v1.AttributeType, None is any.

    Runs without the attribute, or with NaN, come last in either direction; runs that are equal come in the order of
    their creation, which `descending` turns around as well. Numbers come before texts where the type is any.
    """

    name: str
    type: int | None
    aggregate: Aggregate | None
    descending: bool


class Found(NamedTuple):
    """How many runs match, and the keys of those on the page."""

    total: int
    keys: list[int]


def search(
    connection: sa.Connection,
    project_ids: Sequence[int],
    query: Node,
    order: Order,
    *,
    heads_only: bool,
    offset: int,
    limit: int,
    summaries: FloatSummaries,
    now: float,
    check: Callable[[], None],
    kept: KeptSearches | None = None,
) -> Found:
    """Return a page of the runs of projects that a query holds for.

    `now` is the time in seconds since 1970. With `kept` the connection must not have read anything yet. `check` is
    called between pieces of work; what it raises ends the search.
    """
    if not project_ids:
        return Found(0, [])
    end = offset + limit if limit else 0
    needed = _needed(query, order, heads_only=heads_only)
    snapshot = None if kept is None else kept.snapshot(connection, project_ids, needed)
    question = None if snapshot is None else _question(project_ids, query, order, heads_only=heads_only)
    ranking = None if snapshot is None or question is None else snapshot.ranking(question, end)
    if ranking is None:
        # What comes behind the page is likely to be asked for next.
        size = end + _RANKED if end and question is not None else end
        idle_before = int(now * 1000) - IDLE_AFTER_MS
        reader = ColumnReader(connection, project_ids, summaries, idle_before=idle_before)
        ranking = _rank(reader, query, order, size, heads_only=heads_only, check=check, snapshot=snapshot)
        if snapshot is not None and question is not None:
            snapshot.keep(question, ranking)
    return Found(ranking.total, ranking.keys[offset:end].tolist())


def _question(project_ids: Sequence[int], query: Node, order: Order, *, heads_only: bool) -> Hashable | None:
    """Return what tells a search from others that may find other runs in the same snapshot.

    None for one that may find others as time passes, or that is too long.
    """
    if order.type in _CHANGING:
        return None
    terms = tuple(islice(outline(query), _MAX_TERMS + 1))
    if len(terms) > _MAX_TERMS:
        return None
    asked = [term for term in terms if isinstance(term, Criterion)]
    if any(term.type in _CHANGING for term in asked) or sum(len(term.values) for term in asked) > _MAX_TERMS:
        return None
    texts = [order.name, *(term.name for term in asked), *(str(value) for term in asked for value in term.values)]
    if sum(map(len, texts)) > _MAX_CHARACTERS:
        return None
    return tuple(project_ids), terms, order, heads_only


def _needed(query: Node, order: Order, *, heads_only: bool) -> frozenset[What]:
    """Return the columns from which a search can be answered; none when there are too many, or of a kind not kept."""
    if order.type not in _KEPT_ORDERS:
        return frozenset()
    asked_about = {(item.name, item.type, item.aggregate) for item in criteria(query)}
    return frozenset({*asked_about, _sorted_by(order), *([HEADS] if heads_only else [])})


def _rank(
    reader: ColumnReader,
    query: Node,
    order: Order,
    size: int,
    *,
    heads_only: bool,
    check: Callable[[], None],
    snapshot: KeptSnapshot | None,
) -> KeptRanking:
    """Return the first runs that a query holds for, in order, and how many there are of them all."""
    project_ids = reader.project_ids
    ranking = _Ranking(order, size)
    kept_project = None if snapshot is None else snapshot.project(reader, query, check)
    if kept_project is not None:
        places = kept_project.holding(query, heads_only=heads_only, check=check)
        _add_kept(kept_project, places, order, ranking)
        return ranking.best()
    conditions = Conditions(
        reader.connection, project_ids, query, heads_only=heads_only, idle_before=reader.idle_before
    )
    is_in_memory = order.type is None or order.type in SERIES_TYPES
    sort_column = () if order.type is None or is_in_memory else (conditions.value(order.name, order.type),)
    # Texts that the statement looks at anyway come with it.
    at_hand = conditions.texts_at_hand()
    texts = [conditions.value(*what) for what in at_hand]
    statement = conditions.select(*texts, *sort_column, in_order=bool(conditions.rest) or is_in_memory)
    with closing(read_columns(reader.connection, statement, is_long=True)) as parts:
        for found, *rest in parts:
            check()
            keys, columns = _ascending(np.array(found, np.int64), rest)
            values: Sequence[Any] = columns[len(at_hand)] if sort_column else ()
            if conditions.rest:
                known: Columns = {
                    (*what, None): _text_column(column) for what, column in zip(at_hand, columns, strict=False)
                }
                holding = _judge(reader, conditions.rest, keys, known, check)
                keys = keys[holding]
                values = [values[place] for place in holding.tolist()] if values else values
            if is_in_memory:
                values = _sort_values(reader, order, keys)
            ranking.add(keys, values)
    return ranking.best()


def _add_kept(kept: KeptProject, places: Places, order: Order, ranking: _Ranking) -> None:
    column = kept.columns[_sorted_by(order)].column
    if column.numbers is not None:
        ranking.add(kept.keys[places], column.numbers[places])
    else:
        values = _plain(column)
        ranking.add(kept.keys[places], [values[place] for place in places.tolist()] if values else [None] * len(places))


def _sorted_by(order: Order) -> What:
    """Return the column of an order whose type is known."""
    type_ = order.type or 0
    return order.name, type_, order.aggregate if type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES else None


def entries(connection: sa.Connection, keys: Sequence[int]) -> list[RunRow]:
    """Return runs by their keys, in the same order."""
    rows = connection.execute(RUNS.where(about(connection, runs.c.id, sorted(keys)))).all()
    found = {row.key: row for row in map(RunRow._make, rows)}
    return [found[key] for key in keys]


def _ascending(keys: Keys, columns: Sequence[Sequence[Any]]) -> tuple[Keys, Sequence[Sequence[Any]]]:
    """Return keys in ascending order, and values that belong to them."""
    if not bool((np.diff(keys) < 0).any()):
        return keys, columns
    order = np.argsort(keys, kind="stable")
    places = order.tolist()
    return keys[order], [[column[place] for place in places] for column in columns]


def _text_column(texts: Sequence[str | None]) -> Column:
    return Column(np.array([text is not None for text in texts], np.bool_), texts=texts)


def _judge(
    reader: ColumnReader,
    terms: Sequence[Node],
    keys: Keys,
    columns: Columns,
    check: Callable[[], None],
) -> npt.NDArray[np.intp]:
    """Return the places of runs for which all terms hold; `columns` are those that are at hand."""
    places = np.arange(len(keys))
    holds = np.ones(len(keys), np.bool_)

    def verdict(criterion: Criterion) -> BoolArray:
        check()
        what = (criterion.name, criterion.type, criterion.aggregate)
        if what not in columns:
            columns[what] = reader.column(*what, keys[places])
        return judge(criterion, columns[what])

    for term in terms:
        holds &= evaluate(term, len(places), verdict)
        # Columns of fewer runs cost less, but reading them again costs something.
        if term is not terms[-1] and np.count_nonzero(holds) * 2 <= len(places):
            places = places[holds]
            holds = np.ones(len(places), np.bool_)
            columns = {}
        if not len(places):
            break
    return places[holds]


def _sort_values(reader: ColumnReader, order: Order, keys: Keys) -> list[Any]:
    """Return what runs are sorted by where that is no single column of the database; None where it is missing."""
    if order.type is not None:
        return _plain(reader.column(order.name, order.type, order.aggregate, keys))
    values: list[Any] = [None] * len(keys)
    for type_, kind in KINDS.items():
        # Each run has the attribute with one type.
        for place, value in enumerate(_plain(reader.column(order.name, type_, order.aggregate, keys))):
            if value is not None:
                values[place] = (_RANKS[kind], value)
    return values


def _plain(column: Column) -> list[Any]:
    if column.numbers is not None:
        return [None if value != value else value for value in column.numbers.tolist()]  # noqa: PLR0124  # NaN
    if column.sets:
        return [None if members is None else sorted(members) for members in column.sets]
    return list(column.texts)


class _Ranking:
    """Count runs and keep those that may be among the first `size` of an order."""

    def __init__(self, order: Order, size: int) -> None:
        self.total = 0
        self._size = size
        self._descending = order.descending
        self._is_numeric = order.type is not None and KINDS[order.type] is Kind.NUMBER  # type: ignore[index]  # ints
        self._is_float = order.type in {T.ATTRIBUTE_TYPE_FLOAT, T.ATTRIBUTE_TYPE_FLOAT_SERIES}
        # Numbers as arrays: are they missing, what are they, and the keys of the runs; negated to descend.
        self._arrays: list[tuple[npt.NDArray[np.bool_], npt.NDArray[Any], Keys]] = []
        # Anything else as pairs.
        self._pairs: list[tuple[Any, int]] = []
        self._missing: list[int] = []
        self._kept = 0

    def add(self, keys: Keys, values: Sequence[Any] | npt.NDArray[np.float64]) -> None:
        """Take in runs with what they are sorted by."""
        self.total += len(keys)
        if not self._size:
            return
        self._kept += len(keys)
        if self._is_numeric:
            self._arrays.append(self._numbers(keys, values))
        else:
            for key, value in zip(keys.tolist(), values, strict=True):
                if value is None:
                    self._missing.append(key)
                else:
                    self._pairs.append((value, key))
        if self._kept > 2 * self._size + _SLACK:
            self._prune()

    def best(self) -> KeptRanking:
        """Return the first runs in their order."""
        self._prune()
        if self._is_numeric:
            keys = self._arrays[0][2] if self._arrays else np.zeros(0, np.int64)
            return KeptRanking(self.total, ~keys if self._descending else keys)
        first = [key for _, key in self._pairs] + self._missing[: self._size - len(self._pairs)]
        return KeptRanking(self.total, np.array(first, np.int64))

    def _numbers(
        self, keys: Keys, values: Sequence[Any] | npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any], Keys]:
        if isinstance(values, np.ndarray) and not self._is_float:
            missing = np.isnan(values)
            return missing, self._signed(np.where(missing, 0, values).astype(np.int64)), self._signed(keys)
        if self._is_float:
            numbers = np.array(values, np.float64)
            missing = np.isnan(numbers)
            return missing, np.where(missing, 0.0, -numbers if self._descending else numbers), self._signed(keys)
        missing = np.fromiter((value is None for value in values), np.bool_, len(values))
        integers = np.fromiter((value or 0 for value in values), np.int64, len(values))
        return missing, np.where(missing, 0, self._signed(integers)), self._signed(keys)

    def _signed(self, integers: Keys) -> Keys:
        # Unlike the negative, the complement of every integer is one.
        return ~integers if self._descending else integers

    def _prune(self) -> None:
        if self._is_numeric:
            if not self._arrays:
                return
            missing, numbers, keys = (np.concatenate(parts) for parts in zip(*self._arrays, strict=True))
            first = np.lexsort((keys, numbers, missing))[: self._size]
            self._arrays = [(missing[first], numbers[first], keys[first])]
            self._kept = len(first)
            return
        self._pairs.sort(reverse=self._descending)
        self._missing.sort(reverse=self._descending)
        del self._pairs[self._size :], self._missing[self._size :]
        self._kept = len(self._pairs) + len(self._missing)
