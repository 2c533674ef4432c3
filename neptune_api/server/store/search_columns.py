"""Values of attributes of many runs in memory, for what the database cannot judge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from neptune_api.server.nql.evaluation import Column
from neptune_api.server.nql.operators import KINDS, Kind
from neptune_api.server.nql.tree import Aggregate
from neptune_api.server.store.key_conditions import about
from neptune_api.server.store.lineage import Scope, batches
from neptune_api.server.store.result_columns import read_columns
from neptune_api.server.store.rules import decode_set
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import attributes, runs, series
from neptune_api.server.store.series import find_series, last_payloads
from neptune_api.v1 import ingest_pb2
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from neptune_api.server.store.result_columns import Keys
    from neptune_api.server.store.series import FloatSummaries
    from neptune_api.server.store.summaries import FloatSummary

    # Keys of runs and a value for each.
    Part = tuple[Sequence[int], Sequence[Any]]

_FLOAT: Final = int(T.ATTRIBUTE_TYPE_FLOAT)
_STATE: Final = int(T.ATTRIBUTE_TYPE_EXPERIMENT_STATE)
_FLOAT_SERIES: Final = int(T.ATTRIBUTE_TYPE_FLOAT_SERIES)
_STRING_SERIES: Final = int(T.ATTRIBUTE_TYPE_STRING_SERIES)
# Of which an attribute is read together.
_RUNS: Final = 32_768


class ColumnReader:
    """Read columns of runs of some projects; `keys` of runs are always ascending."""

    def __init__(
        self, connection: sa.Connection, project_ids: Sequence[int], summaries: FloatSummaries, *, idle_before: int
    ) -> None:
        self.idle_before: Final = idle_before
        self.connection: Final = connection
        self.project_ids: Final = project_ids
        self._summaries = summaries

    def column(self, name: str, type_: int, aggregate: Aggregate | None, keys: Keys) -> Column:
        """Return the values of an attribute as far as it has the type; series are seen through the lineage."""
        if type_ in SERIES_TYPES:
            found = self._series(name, type_, aggregate or Aggregate.LAST, keys)
        else:
            found = self._values(name, type_, keys)
        kind = KINDS[type_]  # type: ignore[index]  # the keys are integers at run time
        present = np.zeros(len(keys), np.bool_)
        values: npt.NDArray[Any] = np.full(
            len(keys), *((np.nan, np.float64) if kind is Kind.NUMBER else (None, np.object_))
        )
        for some_keys, some_values in found:
            places, known = places_of(keys, some_keys)
            present[places] = True
            values[places] = np.array(some_values, values.dtype)[known]
        if kind is Kind.NUMBER:
            return Column(present, values)
        texts = values.tolist()
        if kind is Kind.SET:
            return Column(present, sets=[None if text is None else decode_set(text) for text in texts])
        return Column(present, texts=texts)

    def _values(self, name: str, type_: int, keys: Keys) -> Iterator[Part]:
        kind = KINDS[type_]  # type: ignore[index]  # as above
        if kind is Kind.NUMBER:
            value = attributes.c.float_value if type_ == _FLOAT else attributes.c.int_value
            yield from self._parts(sa.select(attributes.c.run_id, value), name, type_, keys)
            return
        if type_ == _STATE:
            query = sa.select(attributes.c.run_id, attributes.c.int_value)
            for run_keys, times in self._parts(query, name, type_, keys):
                yield run_keys, ["idle" if time < self.idle_before else "running" for time in times]
            return
        query = sa.select(attributes.c.run_id, attributes.c.short_text)
        for run_keys, texts in self._parts(query, name, type_, keys):
            yield run_keys, texts
            if None in texts:
                long = [key for key, text in zip(run_keys, texts, strict=True) if text is None]
                whole = sa.select(attributes.c.run_id, attributes.c.text_value)
                yield from self._parts(whole, name, type_, np.sort(np.array(long, np.int64)))

    def _series(self, name: str, type_: int, aggregate: Aggregate, keys: Keys) -> Iterator[Part]:
        is_float = type_ == _FLOAT_SERIES
        # What a run has of a series itself; for runs that are no forks, that is all. Others are overwritten below.
        columns = _OWN[aggregate] if is_float else (series.c.last_payload,)
        query = sa.select(attributes.c.run_id, *columns).join_from(
            attributes, series, series.c.attribute_id == attributes.c.id, isouter=True
        )
        for run_keys, *parts in self._parts(query, name, type_, keys):
            if not is_float:
                yield run_keys, [_text(type_, payload) for payload in parts[0]]
            elif len(parts) == 1:
                yield run_keys, parts[0]
            else:
                yield run_keys, [total / count if count else None for total, count in zip(*parts, strict=True)]
        wanted = [(key, name) for key in self._forks(keys)]
        found = find_series(self.connection, wanted, {type_}, Scope.FULL, with_values=True)
        if not found:
            return
        segments = list(found.values())
        values: list[Any]
        if is_float:
            values = [_aggregate(summary, aggregate) for summary in self._summaries.of(self.connection, segments)]
        else:
            lasts = last_payloads(self.connection, segments)
            values = [None if last is None else _text(type_, last[1]) for last in lasts]
        yield [key for key, _ in found], values

    def _parts(self, query: sa.Select[Any], name: str, type_: int, keys: Keys) -> Iterator[Any]:
        """Yield the columns of a query, of some runs at a time, whose keys come first."""
        narrowed = query.where(
            attributes.c.project_id.in_(self.project_ids), attributes.c.name == name, attributes.c.type == type_
        )
        for batch in batches(keys.tolist(), _RUNS):
            yield from read_columns(self.connection, narrowed.where(about(self.connection, attributes.c.run_id, batch)))

    def _forks(self, keys: Keys) -> Iterator[int]:
        query = sa.select(runs.c.id).where(runs.c.project_id.in_(self.project_ids), runs.c.parent_id.is_not(None))
        if len(keys):
            yield from self.connection.scalars(query.where(about(self.connection, runs.c.id, keys.tolist())))


def places_of(keys: Keys, some: Sequence[int] | Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return where in ascending keys those of `some` are that are among them, and which ones are."""
    wanted = np.asarray(some, np.int64)
    if not len(keys):
        return np.zeros(0, np.intp), np.zeros(len(wanted), np.bool_)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = keys[places] == wanted
    return places[known], known


# What the summary of a series says of an aggregate: a number, or a sum and how many numbers are in it.
_OWN: Final[dict[Aggregate, tuple[sa.Column[Any], ...]]] = {
    Aggregate.LAST: (series.c.last_value,),
    Aggregate.MIN: (series.c.minimum,),
    Aggregate.MAX: (series.c.maximum,),
    Aggregate.AVERAGE: (series.c.total, series.c.finite_count),
    Aggregate.VARIANCE: (series.c.deviations, series.c.finite_count),
}


def _aggregate(summary: FloatSummary, aggregate: Aggregate) -> float:
    if aggregate is Aggregate.LAST:
        return summary.last if summary.count else math.nan
    if aggregate is Aggregate.MIN:
        return summary.minimum
    if aggregate is Aggregate.MAX:
        return summary.maximum
    return summary.average if aggregate is Aggregate.AVERAGE else summary.variance


def _text(type_: int, payload: bytes | None) -> str | None:
    if type_ != _STRING_SERIES or not payload:
        return None
    return ingest_pb2.Value.FromString(payload).string
