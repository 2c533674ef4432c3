"""Few attributes of many runs, as a page of a search carries them: read one by one, of all runs side by side.

Rows of attributes lie with their run, so those of ten thousand runs are all over the table. An index has each attribute
of a project as a column, with values that are single and short; series hang on it. What is in neither, and what runs
inherit, comes in rows.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import compress, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from neptune_api.server.store.attributes import (
    MOST_VALUES,
    ROW_BYTES,
    AttributeFilter,
    TooManyBytesError,
    size_of,
    values_of_runs,
)
from neptune_api.server.store.key_conditions import about
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.schema import attributes
from neptune_api.server.store.series import SUMMARIES, AttributeRow
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from neptune_api.server.store.attributes import RunRow, RunValues
    from neptune_api.server.store.series import FloatSummaries

# Where the index has the values of these types. Runs inherit none of them.
_VALUES: Final[dict[int, sa.Column[Any]]] = {
    T.ATTRIBUTE_TYPE_FLOAT: attributes.c.float_value,
    T.ATTRIBUTE_TYPE_INT: attributes.c.int_value,
    T.ATTRIBUTE_TYPE_BOOL: attributes.c.int_value,
    T.ATTRIBUTE_TYPE_DATETIME: attributes.c.int_value,
    T.ATTRIBUTE_TYPE_STRING: attributes.c.short_text,
    T.ATTRIBUTE_TYPE_STRING_SET: attributes.c.short_text,
}
_TEXTS: Final = frozenset({int(T.ATTRIBUTE_TYPE_STRING), int(T.ATTRIBUTE_TYPE_STRING_SET)})
_FLOAT_SERIES: Final = int(T.ATTRIBUTE_TYPE_FLOAT_SERIES)
_name: Final = itemgetter(AttributeRow._fields.index("name"))
_TYPES: Final = sorted(set(map(int, T.values())) - {T.ATTRIBUTE_TYPE_UNSPECIFIED})
_IS_IT: Final = (attributes.c.project_id == sa.bindparam("project_id"), attributes.c.name == sa.bindparam("name"))
# For each type whether a project has an attribute with it: a look past all the runs.
_EXISTS: Final = sa.select(*(sa.exists().where(*_IS_IT, attributes.c.type == type_) for type_ in _TYPES))
_COLUMNS: Final = {
    type_: sa.select(attributes.c.run_id, column).where(*_IS_IT, attributes.c.type == type_)
    for type_, column in _VALUES.items()
} | {_FLOAT_SERIES: SUMMARIES.where(*_IS_IT, attributes.c.type == _FLOAT_SERIES)}
FEWEST_RUNS: Final = 256
"""Values of so many runs are read together at least: of fewer, rows are as fast."""
# Of more series at a time PostgreSQL would look through all there are.
_SERIES_AT_ONCE: Final = 1_000


class AttributeColumn(NamedTuple):
    """An attribute of runs that have it with a type: values beside the keys of the runs.

    Numbers, of which None is NaN; texts, and sets as the texts they are stored as; of float series rows of SUMMARIES.
    """

    name: str
    type: int
    keys: Sequence[int]
    values: Sequence[Any]

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        if self.type == _FLOAT_SERIES:
            return size_of(self.values)
        size = len(self.keys) * (ROW_BYTES + len(self.name))
        return size + sum(map(len, self.values)) if self.type in _TEXTS else size


class Part(NamedTuple):
    """Attributes of some runs: each either in columns or in rows, which are those of `values_of_runs`."""

    keys: Sequence[int]
    columns: list[AttributeColumn]
    rows: list[RunValues]

    @property
    def cells(self) -> int:
        """How many attributes there are."""
        return sum(len(column.keys) for column in self.columns) + sum(len(rows) for _, rows in self.rows)

    @property
    def size(self) -> int:
        """About how many bytes they have."""
        return sum(column.size for column in self.columns) + sum(size_of(rows) for _, rows in self.rows)

    @property
    def last(self) -> tuple[int, str]:
        """Key of the last run that has attributes, of which there has to be one, and the name of its last one."""
        ends = [(max(column.keys), column.name) for column in self.columns if column.keys]
        return max([*ends, *((run.key, _name(rows[-1])) for run, rows in self.rows)])


def read(
    connection: sa.Connection,
    some_runs: Collection[RunRow],
    names: Collection[str],
    summaries: FloatSummaries,
    *,
    types: frozenset[int] | None = None,
    max_bytes: int,
) -> Iterator[Part]:
    """Yield the attributes with these names of some runs, whatever their projects, some runs at a time.

    With `types` only those of one of them. Raises TooManyBytesError when there are more than `max_bytes`.
    """
    reader = _Reader(connection, summaries, types, max_bytes)
    runs_of: dict[int, list[RunRow]] = defaultdict(list)
    for run in sorted(some_runs):
        runs_of[run.project_id].append(run)
    at_once = MOST_VALUES // max(1, len(names))
    few: list[RunRow] = []
    for project_id, theirs in runs_of.items():
        if min(len(theirs), at_once) < FEWEST_RUNS:
            few += theirs
            continue
        found = {name: reader.types(project_id, name) for name in sorted(names)}
        for batch in batches(theirs, at_once):
            yield reader.part(project_id, batch, found)
    rows = reader.rows(few, names)
    while values := list(islice(rows, max(1, min(FEWEST_RUNS, at_once)))):
        yield Part([run.key for run, _ in values], [], values)


class _Reader:
    """Read until there are too many bytes."""

    def __init__(
        self, connection: sa.Connection, summaries: FloatSummaries, types: frozenset[int] | None, max_bytes: int
    ) -> None:
        self._connection = connection
        self._summaries = summaries
        self._types = types
        self._left = max_bytes

    def types(self, project_id: int, name: str) -> list[int]:
        """Return with which types the runs of a project have an attribute."""
        exists = self._connection.execute(_EXISTS, {"project_id": project_id, "name": name}).one()
        return [type_ for type_ in compress(_TYPES, exists) if self._types is None or type_ in self._types]

    def part(self, project_id: int, some_runs: Sequence[RunRow], types: dict[str, list[int]]) -> Part:
        """Return attributes of runs of a project, which are in the order of their keys."""
        part = Part([run.key for run in some_runs], [], [])
        forks = [run for run in some_runs if run.is_fork]
        no_forks = [run.key for run in some_runs if not run.is_fork] if forks else part.keys
        inherited: list[str] = []
        other: list[str] = []
        for name, its_types in types.items():
            if not _COLUMNS.keys() >= set(its_types):
                other.append(name)
                continue
            keys = part.keys
            if _FLOAT_SERIES in its_types:
                inherited.append(name)
                keys = no_forks
            long: set[int] = set()
            for type_ in its_types:
                column, without_text = self._column(project_id, name, type_, keys)
                part.columns.append(column)
                self._take(column.size)
                long |= without_text
            if long:
                part.rows.extend(self.rows([run for run in some_runs if run.key in long], [name]))
        part.rows.extend(self.rows(forks, inherited))
        part.rows.extend(self.rows(some_runs, other))
        return part

    def _column(
        self, project_id: int, name: str, type_: int, keys: Sequence[int]
    ) -> tuple[AttributeColumn, AbstractSet[int]]:
        """Return an attribute of runs in order, and which of them have a text that is not in the index."""
        found: list[Any] = []
        for batch in batches(keys, _SERIES_AT_ONCE if type_ == _FLOAT_SERIES else MOST_VALUES):
            query = _COLUMNS[type_].where(about(self._connection, attributes.c.run_id, batch))
            found += self._connection.execute(query, {"project_id": project_id, "name": name}).all()
        wanted = frozenset(keys)
        found_keys: Sequence[int] = [row[0] for row in found]
        if not wanted.issuperset(found_keys):
            found = [row for row in found if row[0] in wanted]
            found_keys = [row[0] for row in found]
        if type_ == _FLOAT_SERIES:
            return AttributeColumn(name, type_, found_keys, found), frozenset()
        values = [row[1] for row in found]
        long: frozenset[int] = frozenset()
        if type_ in _TEXTS and None in values:
            long = frozenset(key for key, text in found if text is None)
            found_keys = [key for key, text in found if text is not None]
            values = [text for text in values if text is not None]
        return AttributeColumn(name, type_, found_keys, values), long

    def rows(self, some_runs: Sequence[RunRow], names: Collection[str]) -> Iterator[RunValues]:
        """Yield attributes of runs, which are read many at a time."""
        which = AttributeFilter(frozenset(names), self._types)
        found = values_of_runs(self._connection, some_runs, which, self._summaries, max_bytes=self._left)
        for values in found:
            self._take(sum(size_of(rows) for _, rows in values))
            yield from values

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooManyBytesError
