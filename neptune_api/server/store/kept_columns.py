"""Columns of all runs of a project in memory, as they were at one revision, and what has become of them at another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from neptune_api.server.nql.evaluation import Column, evaluate, judge
from neptune_api.server.nql.tree import And, Operator, criteria
from neptune_api.server.store.search_columns import places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy.typing as npt

    from neptune_api.server.nql.evaluation import BoolArray
    from neptune_api.server.nql.tree import Aggregate, Criterion, Node
    from neptune_api.server.store.result_columns import Keys

    # Name, type and aggregate.
    What = tuple[str, int, Aggregate | None]
    Places = npt.NDArray[np.intp]

_T = TypeVar("_T")

HEADS: Final[What] = ("", 1, None)
"""No attribute has this name: the column that is present for runs that represent an experiment."""

_MAX_VERDICTS: Final = 8
# Characters of an expression whose verdict is kept.
_MAX_PATTERN: Final = 10_000
# About what an object of Python takes beside its characters, or its members.
_TEXT_BYTES: Final = 64
_SET_BYTES: Final = 256


class Renewal:
    """Where in a column at a later revision the values of an earlier one go, and those of the runs that have changed.

    Keys are ascending: `old` and `new` of all runs, `changed` of those that are new, other ones than before, or gone.
    """

    def __init__(self, old: Keys, new: Keys, changed: Keys) -> None:
        self._size = len(new)
        self._kept = len(old)
        # Runs come last when they are created, and seldom go.
        is_longer = len(new) >= len(old) and np.array_equal(new[: len(old)], old)
        self._sources = None if is_longer else np.minimum(np.searchsorted(old, new), max(len(old) - 1, 0))
        self.left: Final = places_of(old, changed)[0]
        """Places in the old column whose values count no more."""
        self._places = places_of(new, changed)[0]

    def array(self, old: npt.NDArray[Any], fresh: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array as it is now; `fresh` are the values of the changed runs that are there."""
        if self._sources is None:
            values = np.concatenate([old, np.zeros(self._size - self._kept, old.dtype)])
        else:
            values = old[self._sources]
        values[self._places] = fresh
        return values

    def list(self, old: Sequence[_T | None], fresh: Sequence[_T | None]) -> list[_T | None]:
        """Return a list as it is now."""
        values: list[_T | None]
        if self._sources is None:
            values = [*old, *[None] * (self._size - self._kept)]
        else:
            values = [old[place] for place in self._sources.tolist()]
        for place, value in zip(self._places.tolist(), fresh, strict=True):
            values[place] = value
        return values


@dataclass(frozen=True, slots=True)
class KeptColumn:
    """A column of all runs of a project at a revision of it; it stays what it is."""

    revision: int
    keys: Keys
    """Of the runs, ascending."""
    column: Column
    size: int
    """About how many bytes it takes."""
    _verdicts: OrderedDict[Criterion, BoolArray | None] = field(default_factory=OrderedDict)
    """Of expressions; None of those that have been looked for in some of the runs."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, revision: int, keys: Keys, column: Column) -> KeptColumn:
        """Keep a column that has just been read."""
        return cls(revision, keys, column, keys.nbytes + _size(column))

    def verdict(self, criterion: Criterion, places: Places) -> BoolArray:
        """Return for which of the runs at some places a criterion of this column holds."""
        if criterion.operator is not Operator.MATCHES or len(str(criterion.value)) > _MAX_PATTERN:
            return self._judge(criterion, places)
        with self._lock:
            is_first = criterion not in self._verdicts
            found = self._verdicts.get(criterion)
            self._keep(criterion, found)
        if found is None and is_first and 2 * len(places) <= len(self.keys):
            return self._judge(criterion, places)
        if found is None:
            # It is asked again, after some change: what has been found out of other runs is still so then.
            found = judge(criterion, self.column)
            with self._lock:
                self._keep(criterion, found)
        return found[places]

    def renewed(self, revision: int, keys: Keys, changed: Keys, fresh: Column) -> KeptColumn:
        """Return the column at a later revision; `fresh` has the values of the changed runs that are there."""
        renewal = Renewal(self.keys, keys, changed)
        old = self.column
        column = Column(
            renewal.array(old.present, fresh.present),
            None if old.numbers is None or fresh.numbers is None else renewal.array(old.numbers, fresh.numbers),
            renewal.list(old.texts, fresh.texts) if old.texts or fresh.texts else (),
            renewal.list(old.sets, fresh.sets) if old.sets or fresh.sets else (),
        )
        size = self.size + keys.nbytes - self.keys.nbytes + _size(fresh) - _size(old.take(renewal.left))
        with self._lock:
            verdicts = self._verdicts.copy()
        for criterion, verdict in verdicts.items():
            if verdict is not None:
                verdicts[criterion] = renewal.array(verdict, judge(criterion, fresh))
        return KeptColumn(revision, keys, column, size, verdicts)

    def _judge(self, criterion: Criterion, places: Places) -> BoolArray:
        return judge(criterion, self.column if len(places) == len(self.keys) else self.column.take(places))

    def _keep(self, criterion: Criterion, verdict: BoolArray | None) -> None:
        self._verdicts[criterion] = verdict
        self._verdicts.move_to_end(criterion)
        while len(self._verdicts) > _MAX_VERDICTS:
            self._verdicts.popitem(last=False)


@dataclass(frozen=True, slots=True)
class KeptProject:
    """What searches need of a project, at one revision: keys of all its runs, ascending, and columns beside them."""

    keys: Keys
    columns: Mapping[What, KeptColumn]

    def holding(self, query: Node, *, heads_only: bool, check: Callable[[], None]) -> Places:
        """Return the places of the runs that a query holds for; `check` is called between pieces of work."""
        places = np.flatnonzero(self.columns[HEADS].column.present) if heads_only else np.arange(len(self.keys))
        # Expressions take longest: they are looked for where everything else holds.
        for term in sorted(query.terms if isinstance(query, And) else (query,), key=has_expression):
            places = places[evaluate(term, len(places), partial(self._verdict, places, check))]
        return places

    def _verdict(self, places: Places, check: Callable[[], None], criterion: Criterion) -> BoolArray:
        check()
        return self.columns[criterion.name, criterion.type, criterion.aggregate].verdict(criterion, places)


def has_expression(query: Node) -> bool:
    """Tell whether a query has a regular expression."""
    return any(item.operator is Operator.MATCHES for item in criteria(query))


def _size(column: Column) -> int:
    size: int = column.present.nbytes
    if column.numbers is not None:
        size += column.numbers.nbytes
    if column.texts:
        # Verdicts are arrays as large as this one.
        size += column.present.nbytes * _MAX_VERDICTS
    size += _texts_size([text for text in column.texts if text is not None])
    sets = [members for members in column.sets if members is not None]
    return size + sum(_SET_BYTES + _TEXT_BYTES * len(members) + _texts_size(members) for members in sets)


def _texts_size(texts: Collection[str]) -> int:
    # A character takes a byte, of a text that is not ASCII up to four.
    return _TEXT_BYTES * len(texts) + sum(map(len, texts)) + 3 * sum(map(len, filterfalse(str.isascii, texts)))
