"""What searches keep in memory: rankings, and columns of attributes.

People page through a project, sort it, sort it again, while runs are written: the same runs are put in the same order
for each page, and the same columns are read over and over. So the order that a search has found is kept for its other
pages, until a run of the project changes. And once a column has been asked for twice it is kept, and searches that need
no other are answered in memory; after a change only the runs that have changed are read again. Where too many have, or
what a search needs is too large to be kept, the database answers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.nql.evaluation import Column
from neptune_api.server.nql.operators import KINDS, Kind
from neptune_api.server.recent import Recent
from neptune_api.server.store import revisions
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.kept_columns import HEADS, KeptColumn, KeptProject, has_expression
from neptune_api.server.store.key_conditions import among
from neptune_api.server.store.result_columns import read_keys
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import attributes, experiments, runs
from neptune_api.server.store.search_columns import places_of
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from neptune_api.server.nql.tree import Node
    from neptune_api.server.store.kept_columns import What
    from neptune_api.server.store.result_columns import Keys
    from neptune_api.server.store.search_columns import ColumnReader

# Keys of runs in rankings, and how many each counts at least.
_MAX_RANKED: Final = 4_000_000
_RANKED: Final = 250_000
_MAX_RUNS: Final = 500_000
# For one search, and of all searches.
_MAX_NEEDED: Final = 16
_MAX_COLUMNS: Final = 1_024
_MAX_BYTES: Final = 128 * 1024 * 1024
# Runs that are read again; with more changed ones, the database is asked. Without expressions and series it is as quick
# as reading some hundred to some thousand of them.
_MAX_CHANGED: Final = 10_000
_MAX_CHANGED_PLAIN: Final = 2_000
# For so long it is not tried again to keep what turned out to be too large or damaged; what searches need together.
_REFUSED_SECONDS: Final = 600.0
_MAX_REFUSED: Final = 256
# Columns of which it is known that they have been asked for.
_MAX_ASKED: Final = 4_096
# Texts that are not in the index may be of any length.
_MAX_LONG_TEXTS: Final = 1_000
# The state of a run changes by itself; last values of string series may be of any length.
_NEVER: Final = frozenset({int(T.ATTRIBUTE_TYPE_EXPERIMENT_STATE), int(T.ATTRIBUTE_TYPE_STRING_SERIES)})
# No attribute has this name: the column of all runs, which is nothing but their keys.
_RUNS: Final[What] = ("", 0, None)


class KeptRanking(NamedTuple):
    """How many runs a search finds, and the keys of all of them, or of the first ones, in their order."""

    total: int
    keys: Keys

    def reaches(self, end: int) -> bool:
        """Tell whether all runs are there that come before a place."""
        return len(self.keys) >= min(end, self.total)


class _RefusedError(Exception):
    """Report that what a search needs is not to be kept."""


class KeptSearches:
    """Keep what searches of a database find and read."""

    def __init__(self) -> None:
        self._rankings: Recent[Hashable, KeptRanking] = Recent(_MAX_RANKED, lambda found: max(_RANKED, len(found.keys)))
        self._columns: OrderedDict[tuple[int, What], KeptColumn] = OrderedDict()
        self._lock = threading.Lock()
        # At which revision each was asked for last.
        self._asked: Recent[tuple[int, What], int] = Recent(_MAX_ASKED)
        # Until when.
        self._refused: Recent[tuple[int, frozenset[What]], float] = Recent(_MAX_REFUSED)

    def snapshot(
        self, connection: sa.Connection, project_ids: Sequence[int], needed: frozenset[What] = frozenset()
    ) -> KeptSnapshot:
        """Begin the snapshot of a connection that has read nothing yet; return what is kept of projects.

        `needed` are the columns that a search could be answered from.
        """
        are_keepable = len(project_ids) == 1 and self._are_keepable(project_ids[0], needed)
        # What has been kept before the snapshot begins cannot be of a later one.
        columns = self._kept(project_ids[0], needed) if are_keepable else {}
        at = revisions.current(connection, project_ids)
        asked = self._ask(project_ids[0], needed, at[0]) if are_keepable else None
        return KeptSnapshot(self, project_ids, at, columns, asked)

    def ranking(self, question: Hashable, end: int) -> KeptRanking | None:
        """Return the ranking that answers a question, if it is kept and reaches a place."""
        found = self._rankings.get(question)
        return None if found is None or not found.reaches(end) else found

    def keep_ranking(self, question: Hashable, ranking: KeptRanking) -> None:
        """Keep a ranking."""
        self._rankings.put(question, ranking)

    def keep_columns(self, project_id: int, columns: Mapping[What, KeptColumn]) -> None:
        """Keep columns, unless there are later ones."""
        with self._lock:
            for what, column in columns.items():
                there = self._columns.get((project_id, what))
                if there is None or there.revision < column.revision:
                    self._columns[project_id, what] = column
                self._columns.move_to_end((project_id, what))
            size = sum(column.size for column in self._columns.values())
            while len(self._columns) > _MAX_COLUMNS or size > _MAX_BYTES:
                dropped, column = self._columns.popitem(last=False)
                size -= column.size
                # Projects that take turns are not read anew each time.
                self._asked.drop(dropped)

    def refuse(self, project_id: int, needed: frozenset[What]) -> None:
        """Do not try to keep columns for some time, as long as a search needs all of them."""
        self._refused.put((project_id, needed), time.monotonic() + _REFUSED_SECONDS)

    def _are_keepable(self, project_id: int, needed: frozenset[What]) -> bool:
        return (
            0 < len(needed) <= _MAX_NEEDED
            and (self._refused.get((project_id, needed)) or 0.0) < time.monotonic()
            and not any(type_ in _NEVER for _, type_, _ in needed)
            # Nothing has a longer name, and queries are full of what callers make up.
            and not any(len(name) > limits.MAX_ATTRIBUTE_PATH_BYTES for name, _, _ in needed)
        )

    def _kept(self, project_id: int, needed: frozenset[What]) -> dict[What, KeptColumn | None]:
        """Return what is kept of columns, None for those that are not."""
        with self._lock:
            return {what: self._columns.get((project_id, what)) for what in (_RUNS, *needed)}

    def _ask(self, project_id: int, needed: frozenset[What], revision: int) -> int | None:
        """Note that columns are asked for; return the revision since which all have been, None when one never was."""
        since: list[int] = []
        # Heads are read with whatever else is.
        asked = needed - {HEADS}
        for what in asked:
            last = self._asked.get((project_id, what))
            since += [] if last is None else [last]
            self._asked.put((project_id, what), revision)
        return min(since) if len(since) == len(asked) else None


class KeptSnapshot:
    """What is kept of one snapshot of a database."""

    def __init__(
        self,
        kept: KeptSearches,
        project_ids: Sequence[int],
        revisions: tuple[int, ...],
        columns: Mapping[What, KeptColumn | None],
        asked: int | None,
    ) -> None:
        self._kept = kept
        self._project_ids = project_ids
        self._revisions = revisions
        self._columns = columns
        self._asked = asked

    def ranking(self, question: Hashable, end: int) -> KeptRanking | None:
        """Return the ranking that answers a question, if it is kept and reaches a place."""
        return self._kept.ranking((self._revisions, question), end)

    def keep(self, question: Hashable, ranking: KeptRanking) -> None:
        """Keep a ranking."""
        self._kept.keep_ranking((self._revisions, question), ranking)

    def project(self, reader: ColumnReader, query: Node, check: Callable[[], None]) -> KeptProject | None:
        """Return the project with the columns that are needed to answer a query; None when the database is to answer.

        `check` is called before a column is read.
        """
        if self._asked is None:
            return None
        project_id, needed = self._project_ids[0], frozenset(self._columns.keys() - {_RUNS})
        has_series = any(type_ in SERIES_TYPES for _, type_, _ in needed)
        most = _MAX_CHANGED if has_series or has_expression(query) else _MAX_CHANGED_PLAIN
        try:
            columns = _Columns(reader, project_id, self._revisions[0], check).renewed(self._columns, self._asked, most)
        # Of a run, maybe, that the search does not find.
        except (_RefusedError, CorruptChunkError):
            self._kept.refuse(project_id, needed)
            return None
        if columns is None:
            return None
        if sum(column.size for column in columns.values()) <= _MAX_BYTES:
            self._kept.keep_columns(project_id, columns)
        else:
            self._kept.refuse(project_id, needed)
        return KeptProject(columns[_RUNS].keys, columns)


class _Columns:
    """Bring columns of a project up to the revision of a snapshot."""

    def __init__(self, reader: ColumnReader, project_id: int, revision: int, check: Callable[[], None]) -> None:
        self._reader = reader
        self._connection = reader.connection
        self._project_id = project_id
        self._revision = revision
        self._check = check
        self._changed: dict[int, Keys | None] = {}

    def renewed(
        self, columns: Mapping[What, KeptColumn | None], asked: int, most: int
    ) -> dict[What, KeptColumn] | None:
        """Return columns as they are now; None when more than `most` runs have changed since they were asked for last.

        Those that are None, or too old, are read. Raises _RefusedError when one should not be kept.
        """
        if self._changed_since(asked, most) is None:
            return None
        usable = {
            what: None if kept is None or self._changed_since(kept.revision) is None else kept
            for what, kept in columns.items()
        }
        if any(kept is None and self._is_long(what) for what, kept in usable.items()):
            raise _RefusedError
        keys = self._keys(usable[_RUNS])
        if len(keys) > _MAX_RUNS:
            raise _RefusedError
        return {what: self._column(what, kept, keys) for what, kept in usable.items()}

    def _keys(self, kept: KeptColumn | None) -> Keys:
        """Return the keys of all runs."""
        changed = None if kept is None else self._changed_since(kept.revision)
        if kept is None or changed is None:
            of_project = sa.select(runs.c.id).where(runs.c.project_id == self._project_id)
            return read_keys(self._connection, of_project.limit(_MAX_RUNS + 1))
        gone, _ = places_of(kept.keys, changed)
        left, there = np.delete(kept.keys, gone), self._there(changed)
        keys = np.insert(left, np.searchsorted(left, there), there)
        # Columns share the array.
        return kept.keys if np.array_equal(keys, kept.keys) else keys

    def _column(self, what: What, kept: KeptColumn | None, keys: Keys) -> KeptColumn:
        if kept is not None and kept.revision == self._revision:
            return kept
        self._check()
        changed = None if kept is None else self._changed_since(kept.revision)
        if kept is None or changed is None:
            return KeptColumn.of(self._revision, keys, self._read(what, keys))
        places, _ = places_of(keys, changed)
        return kept.renewed(self._revision, keys, changed, self._read(what, keys[places]))

    def _read(self, what: What, keys: Keys) -> Column:
        """Return the column of some runs."""
        if what == _RUNS:
            return Column(np.ones(len(keys), np.bool_))
        if what != HEADS:
            return self._reader.column(*what, keys)
        heads = sa.select(experiments.c.head_id)
        if len(keys) <= _MAX_CHANGED:
            heads = heads.where(among(self._connection, experiments.c.head_id, keys.tolist()))
        else:
            heads = heads.where(experiments.c.project_id == self._project_id)
        present = np.zeros(len(keys), np.bool_)
        places, _ = places_of(keys, read_keys(self._connection, heads))
        present[places] = True
        return Column(present)

    def _changed_since(self, revision: int, most: int | None = None) -> Keys | None:
        """Return the keys of runs that have changed since a revision; None when there are too many."""
        if revision == self._revision:
            return np.zeros(0, np.int64)
        if revision > self._revision:
            # The project has been deleted.
            return None
        if revision not in self._changed:
            found = revisions.changed_since(self._connection, self._project_id, revision, most=most or _MAX_CHANGED)
            self._changed[revision] = None if found is None else np.array(found, np.int64)
        return self._changed[revision]

    def _there(self, keys: Keys) -> Keys:
        """Return those of some keys that are of runs: they stay in their project."""
        query = sa.select(runs.c.id).where(among(self._connection, runs.c.id, keys.tolist()))
        return read_keys(self._connection, query)

    def _is_long(self, what: What) -> bool:
        name, type_, _ = what
        if not name or KINDS[type_] is Kind.NUMBER:  # type: ignore[index]  # the keys are integers at run time
            return False
        long = (
            sa.select(attributes.c.id)
            .where(
                attributes.c.project_id == self._project_id,
                attributes.c.name == name,
                attributes.c.type == type_,
                attributes.c.short_text.is_(None),
            )
            .limit(_MAX_LONG_TEXTS)
            .subquery()
        )
        return self._connection.scalar(sa.select(sa.func.count()).select_from(long)) == _MAX_LONG_TEXTS
