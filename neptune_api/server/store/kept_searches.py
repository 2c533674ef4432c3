"""What searches keep in memory from one write to the next: rankings, and columns of attributes.

People page through a project, sort it, sort it again: the same runs are put in the same order for each page, and the
same columns are read over and over. So the order that a search has found is kept for its other pages. And once a column
has been asked for twice without a write in between, it is kept, and searches that need no other are answered in memory.
A write to the database, whatever it changes and whoever makes it, ends that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.nql.evaluation import judge
from neptune_api.server.nql.operators import KINDS, Kind
from neptune_api.server.nql.tree import Operator
from neptune_api.server.store.schema import attributes, experiments, runs
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Hashable
    from collections.abc import Set as AbstractSet

    from neptune_api.server.nql.evaluation import BoolArray, Column
    from neptune_api.server.nql.tree import Aggregate, Criterion
    from neptune_api.server.store.database import Database
    from neptune_api.server.store.search_columns import ColumnReader, Keys

    # Name, type and aggregate.
    What = tuple[str, int, Aggregate | None]

_MAX_RANKINGS: Final = 16
_MAX_RANKED: Final = 4_000_000
_MAX_RUNS: Final = 500_000
_MAX_COLUMNS: Final = 16
_MAX_BYTES: Final = 128 * 1024 * 1024
_MAX_VERDICTS: Final = 64
# Characters of an expression whose verdict is kept.
_MAX_PATTERN: Final = 10_000
# Columns of which it is known that they have been asked for.
_MAX_ASKED: Final = 4_096
# Texts that are not in the index may be of any length.
_MAX_LONG_TEXTS: Final = 1_000
# About what an object of Python takes beside its characters.
_TEXT_BYTES: Final = 64
# The state of a run changes by itself; last values of string series may be of any length.
_NEVER: Final = frozenset({int(T.ATTRIBUTE_TYPE_EXPERIMENT_STATE), int(T.ATTRIBUTE_TYPE_STRING_SERIES)})


@dataclass(slots=True)
class KeptProject:
    """What is kept of a project: keys of all its runs, ascending, which of them are heads, and columns beside them."""

    keys: Keys
    heads: BoolArray
    columns: dict[What, Column] = field(default_factory=dict)
    size: int = 0
    """About how many bytes the columns take."""
    _verdicts: OrderedDict[Criterion, BoolArray] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: What, column: Column) -> None:
        """Keep a column."""
        with self._lock:
            if what not in self.columns:
                self.columns[what] = column
                self.size += _size(column)

    def verdict(self, criterion: Criterion) -> BoolArray:
        """Return for which runs a criterion holds."""
        column = self.columns[criterion.name, criterion.type, criterion.aggregate]
        if criterion.operator is not Operator.MATCHES or len(str(criterion.value)) > _MAX_PATTERN:
            return judge(criterion, column)
        with self._lock:
            found = self._verdicts.get(criterion)
        if found is None:
            found = judge(criterion, column)
            with self._lock:
                self._verdicts[criterion] = found
                while len(self._verdicts) > _MAX_VERDICTS:
                    self._verdicts.popitem(last=False)
        return found


class KeptRanking(NamedTuple):
    """How many runs a search finds, and the keys of all of them, or of the first ones, in their order."""

    total: int
    keys: Keys

    def reaches(self, end: int) -> bool:
        """Tell whether all runs are there that come before a place."""
        return len(self.keys) >= min(end, self.total)


class KeptSnapshot:
    """What is kept of one snapshot of a database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rankings: OrderedDict[Hashable, KeptRanking] = OrderedDict()
        self._projects: dict[int, KeptProject] = {}
        self._asked: set[tuple[int, What]] = set()

    def ranking(self, question: Hashable, end: int) -> KeptRanking | None:
        """Return the ranking that answers a question, if it is kept and reaches a place."""
        with self._lock:
            found = self._rankings.get(question)
            if found is None or not found.reaches(end):
                return None
            self._rankings.move_to_end(question)
            return found

    def keep(self, question: Hashable, ranking: KeptRanking) -> None:
        """Keep a ranking."""
        with self._lock:
            self._rankings[question] = ranking
            self._rankings.move_to_end(question)
            while len(self._rankings) > _MAX_RANKINGS or self._ranked > _MAX_RANKED:
                self._rankings.popitem(last=False)

    @property
    def _ranked(self) -> int:
        return sum(len(ranking.keys) for ranking in self._rankings.values())

    def project(self, reader: ColumnReader, project_id: int, needed: AbstractSet[What]) -> KeptProject | None:
        """Return what is kept of a project, with the columns that are needed; None when they should not be kept."""
        if len(needed) > _MAX_COLUMNS or any(type_ in _NEVER for _, type_, _ in needed):
            return None
        # Nothing has a longer name, and queries are full of what callers make up.
        if any(len(name) > limits.MAX_ATTRIBUTE_PATH_BYTES for name, _, _ in needed):
            return None
        asked = {(project_id, what) for what in needed}
        with self._lock:
            if not asked <= self._asked:
                if len(self._asked) >= _MAX_ASKED:
                    self._asked = set()
                self._asked |= asked
                return None
            kept = self._projects.get(project_id)
        if kept is None:
            kept = _read(reader.connection, project_id)
        if len(kept.keys) > _MAX_RUNS:
            return None
        for what in needed - set(kept.columns):
            if _is_long(reader.connection, project_id, what):
                return None
            kept.add(what, reader.column(*what, kept.keys))
        with self._lock:
            self._projects[project_id] = kept
            if sum(item.size for item in self._projects.values()) > _MAX_BYTES:
                self._projects = {}
        return kept


class KeptSearches:
    """Keep what searches of a database find and read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._which: object = None
        self._kept = KeptSnapshot()

    def snapshot(self, connection: sa.Connection) -> KeptSnapshot | None:
        """Begin the snapshot of a connection that has read nothing yet; return what is kept of it.

        None where nobody can tell which one it is.
        """
        which = self._database.snapshot(connection)
        if which is None:
            return None
        with self._lock:
            if self._which != which:
                self._which, self._kept = which, KeptSnapshot()
            return self._kept


def _read(connection: sa.Connection, project_id: int) -> KeptProject:
    of_project = sa.select(runs.c.id).where(runs.c.project_id == project_id)
    keys = np.array(connection.scalars(of_project.limit(_MAX_RUNS + 1)).all(), np.int64)
    keys.sort()
    heads = connection.scalars(sa.select(experiments.c.head_id).where(experiments.c.project_id == project_id)).all()
    return KeptProject(keys, np.isin(keys, np.array(heads, np.int64)))


def _is_long(connection: sa.Connection, project_id: int, what: What) -> bool:
    name, type_, _ = what
    if KINDS[type_] is Kind.NUMBER:  # type: ignore[index]  # the keys are integers at run time
        return False
    long = (
        sa.select(attributes.c.id)
        .where(
            attributes.c.project_id == project_id,
            attributes.c.name == name,
            attributes.c.type == type_,
            attributes.c.short_text.is_(None),
        )
        .limit(_MAX_LONG_TEXTS)
        .subquery()
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(long)) == _MAX_LONG_TEXTS


def _size(column: Column) -> int:
    size: int = column.present.nbytes
    if column.numbers is not None:
        size += column.numbers.nbytes
    size += sum(_TEXT_BYTES + len(text) for text in column.texts if text is not None)
    return size + sum(_TEXT_BYTES * (1 + len(members)) for members in column.sets if members is not None)
