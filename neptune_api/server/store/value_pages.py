"""Pages of attribute values: in columns where a few attributes of many runs are asked for, in rows otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from neptune_api.server import limits
from neptune_api.server.store import attribute_columns, definitions
from neptune_api.server.store.attribute_columns import Part
from neptune_api.server.store.attributes import (
    MOST_VALUES,
    Place,
    RunRow,
    TooManyBytesError,
    page_of_values,
    runs_from,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import sqlalchemy as sa

    from neptune_api.server.store.attributes import AttributeFilter
    from neptune_api.server.store.series import FloatSummaries

# In a project with more definitions nobody looks for the few names that pass a filter: that takes time for each page.
_MOST_DEFINITIONS: Final = 256


class Page(NamedTuple):
    """Attributes by run and name, and where they end; None for the last page."""

    runs: dict[int, RunRow]
    """By their keys; there may be some that have none of the attributes."""
    parts: list[Part]
    end: Place | None


def page(
    connection: sa.Connection,
    project_id: int,
    numbers: Collection[int] | None,
    which: AttributeFilter,
    summaries: FloatSummaries,
    *,
    after: Place | None = None,
    limit: int,
) -> Page:
    """Return attributes of a project's runs.

    `numbers` are those of the runs, None is all. A page has at most `limit` attributes, fewer when they are large.
    """
    if which.is_empty:
        return Page({}, [], None)
    ascending = None if numbers is None else sorted(set(numbers))
    reader = _Reader(connection, project_id, ascending, which, summaries, limit)
    place = after or Place(0, "")
    fewest = attribute_columns.FEWEST_RUNS
    if limit >= fewest and (ascending is None or len(ascending) >= fewest) and reader.has_few_names():
        if place.name:
            # What is left of a run.
            end = reader.rows([place.number], place)
            if end is not None:
                return Page(reader.runs, reader.parts, end)
            place = Place(place.number + 1, "")
        place = reader.columns(place)
    end = reader.rows(ascending, place)
    return Page(reader.runs, reader.parts, end)


class _Reader:
    """Read one part of a page after the other."""

    def __init__(
        self,
        connection: sa.Connection,
        project_id: int,
        numbers: Sequence[int] | None,
        which: AttributeFilter,
        summaries: FloatSummaries,
        limit: int,
    ) -> None:
        self.runs: dict[int, RunRow] = {}
        self.parts: list[Part] = []
        self._connection = connection
        self._project_id = project_id
        self._numbers = numbers
        self._which = which
        self._summaries = summaries
        self._names: frozenset[str] = frozenset()
        self._left = limit
        self._bytes_left = limits.MAX_VALUES_PAGE_BYTES

    def has_few_names(self) -> bool:
        """Tell whether so few names pass that attributes of many runs are in the page."""
        names = self._which.names
        if names is None:
            # Of any type: those of one may lie far apart among others.
            found, are_more = definitions.page(self._connection, [self._project_id], None, limit=_MOST_DEFINITIONS)
            types = self._which.types
            passing = (name for name, type_ in found if types is None or type_ in types)
            names = frozenset() if are_more else frozenset(passing)
        if self._which.matches is not None:
            names = frozenset(filter(self._which.matches, names))
        self._names = names
        return bool(names) and self._left // len(names) >= attribute_columns.FEWEST_RUNS

    def columns(self, place: Place) -> Place:
        """Read from a run on as long as there may be many more runs in the page; return where to go on."""
        names, types, fewest = self._names, self._which.types, attribute_columns.FEWEST_RUNS
        while (size := min(self._left, MOST_VALUES) // len(names)) >= fewest:
            some = runs_from(self._connection, self._project_id, self._numbers, place.number, size)
            if len(some) < fewest:
                break
            room = self._bytes_left
            try:
                found = list(
                    attribute_columns.read(self._connection, some, names, self._summaries, types=types, max_bytes=room)
                )
            except TooManyBytesError:
                break
            self._take(some, found)
            place = Place(some[-1].number + 1, "")
        return place

    def rows(self, numbers: Sequence[int] | None, place: Place) -> Place | None:
        """Read what comes behind a place, as far as there is room; return where the page ends, None for everywhere."""
        # Whether there is more shows when one more is read.
        limit, room = max(1, self._left), self._bytes_left
        values, end = page_of_values(
            self._connection,
            self._project_id,
            numbers,
            self._which,
            self._summaries,
            place,
            limit=limit,
            max_bytes=room,
        )
        if self._left:
            self._take([run for run, _ in values], [Part([run.key for run, _ in values], [], values)])
            return end
        return self._last() if values else None

    def _take(self, runs: Sequence[RunRow], parts: Sequence[Part]) -> None:
        self.runs.update((run.key, run) for run in runs)
        self.parts += parts
        self._left -= sum(part.cells for part in parts)
        self._bytes_left -= sum(part.size for part in parts)

    def _last(self) -> Place:
        key, name = max(part.last for part in self.parts if part.cells)
        return Place(self.runs[key].number, name)
