"""Few attributes of many runs, as a page of a search carries them: read one by one, of all runs side by side.

Rows of attributes lie with their run, so those of ten thousand runs are all over the table. An index has each attribute
of a project as a column: that is read where the database need not be asked for anything else, which is so for single
values that are short. The rest comes in rows.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from neptune_api.server.store.attributes import (
    ROW_BYTES,
    AttributeFilter,
    TooManyBytesError,
    size_of,
    values_of_runs,
)
from neptune_api.server.store.key_conditions import about
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.schema import attributes
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

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
_TYPES: Final = sorted(set(map(int, T.values())) - {T.ATTRIBUTE_TYPE_UNSPECIFIED})
_IS_IT: Final = (attributes.c.project_id == sa.bindparam("project_id"), attributes.c.name == sa.bindparam("name"))
# For each type whether a project has an attribute with it: a look past all the runs.
_EXISTS: Final = sa.select(*(sa.exists().where(*_IS_IT, attributes.c.type == type_) for type_ in _TYPES))
_COLUMNS: Final = {
    type_: sa.select(attributes.c.run_id, column).where(*_IS_IT, attributes.c.type == type_)
    for type_, column in _VALUES.items()
}
# Values of so many runs are read together at least: of fewer, rows are as fast. And so many values at most.
_FEWEST_RUNS: Final = 256
_MOST_VALUES: Final = 100_000


class AttributeColumn(NamedTuple):
    """An attribute of runs that have it with a type: values by the keys of the runs; None is NaN."""

    name: str
    type: int
    keys: Sequence[int]
    values: Sequence[Any]


class Part(NamedTuple):
    """Attributes of some runs: each either in columns or in rows, which are those of `values_of_runs`."""

    keys: Sequence[int]
    columns: list[AttributeColumn]
    rows: list[RunValues]


def read(
    connection: sa.Connection,
    some_runs: Collection[RunRow],
    names: Collection[str],
    summaries: FloatSummaries,
    *,
    max_bytes: int,
) -> Iterator[Part]:
    """Yield the attributes with these names of some runs, whatever their projects, some runs at a time.

    Raises TooManyBytesError when there are more than `max_bytes`.
    """
    reader = _Reader(connection, summaries, max_bytes)
    runs_of: dict[int, list[RunRow]] = defaultdict(list)
    for run in sorted(some_runs):
        runs_of[run.project_id].append(run)
    at_once = _MOST_VALUES // max(1, len(names))
    few: list[RunRow] = []
    for project_id, theirs in runs_of.items():
        if min(len(theirs), at_once) < _FEWEST_RUNS:
            few += theirs
            continue
        types = {name: reader.types(project_id, name) for name in sorted(names)}
        for batch in batches(theirs, at_once):
            yield reader.part(project_id, batch, types)
    for values in reader.rows(few, names):
        yield Part([run.key for run, _ in values], [], values)


class _Reader:
    """Read until there are too many bytes."""

    def __init__(self, connection: sa.Connection, summaries: FloatSummaries, max_bytes: int) -> None:
        self._connection = connection
        self._summaries = summaries
        self._left = max_bytes

    def types(self, project_id: int, name: str) -> list[int]:
        """Return with which types the runs of a project have an attribute."""
        exists = self._connection.execute(_EXISTS, {"project_id": project_id, "name": name}).one()
        return list(compress(_TYPES, exists))

    def part(self, project_id: int, some_runs: Sequence[RunRow], types: dict[str, list[int]]) -> Part:
        """Return attributes of runs of a project, which are in the order of their keys."""
        part = Part([run.key for run in some_runs], [], [])
        condition = about(self._connection, attributes.c.run_id, part.keys)
        wanted = frozenset(part.keys)
        in_rows = []
        for name, its_types in types.items():
            if not _VALUES.keys() >= set(its_types):
                in_rows.append(name)
                continue
            long: set[int] = set()
            for type_ in its_types:
                query = _COLUMNS[type_].where(condition)
                found = self._connection.execute(query, {"project_id": project_id, "name": name}).all()
                keys, values = zip(*found, strict=True) if found else ((), ())
                is_right = [key in wanted for key in keys]
                if type_ in _TEXTS:
                    long.update(compress(keys, (text is None for text in values)))
                    is_right = [is_it and text is not None for is_it, text in zip(is_right, values, strict=True)]
                if not all(is_right):
                    keys, values = tuple(compress(keys, is_right)), tuple(compress(values, is_right))
                self._take(len(keys) * (ROW_BYTES + len(name)) + (sum(map(len, values)) if type_ in _TEXTS else 0))
                part.columns.append(AttributeColumn(name, type_, keys, values))
            if long:
                part.rows.extend(chain.from_iterable(self.rows([run for run in some_runs if run.key in long], [name])))
        part.rows.extend(chain.from_iterable(self.rows(some_runs, in_rows)))
        return part

    def rows(self, some_runs: Sequence[RunRow], names: Collection[str]) -> Iterator[list[RunValues]]:
        """Yield attributes of runs, many at a time."""
        which = AttributeFilter(frozenset(names))
        found = values_of_runs(self._connection, some_runs, which, self._summaries, max_bytes=self._left)
        for values in found:
            self._take(sum(size_of(item.rows) for item in values))
            yield values

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooManyBytesError
