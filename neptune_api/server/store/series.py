"""Series as readers see them: the points of a run and those its ancestors pass on, found and summed up."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from neptune_api.server.recent import Recent
from neptune_api.server.store import columns as columns_
from neptune_api.server.store import steps
from neptune_api.server.store.damage import chunk_error, tail_columns
from neptune_api.server.store.lineage import batches, lineages
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import attributes, chunks, previews, series, tails
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1.queries_pb2 import AttributeType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence

    from neptune_api.server.store.columns import FloatColumns
    from neptune_api.server.store.lineage import Lineage, Scope

_FLOAT_SERIES: Final[int] = AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES
_CACHED_SUMMARIES: Final = 100_000
_CHUNKS_PER_QUERY: Final = 1_000

ROWS_PER_FETCH: Final = 256
"""How many rows with values to fetch at a time: there may be texts of a mebibyte among them."""


class PositionRow(NamedTuple):
    """An attribute and, if it is a series, where its points are; `points` is the number of committed ones."""

    id: int
    run_id: int
    name: str
    type: int
    points: int | None
    first_step: int | None
    last_step: int | None
    has_preview: bool | None


class AttributeRow(NamedTuple):
    """An attribute with its value or, if it is a series, what the table `series` tells of it.

    The first fields, to `deviations`, are all that readers get of a float series, and those to `mime_type` of any
    attribute.
    """

    run_id: int
    name: str
    type: int
    last_step: int | None
    has_preview: bool | None
    last_value: float | None
    finite_count: int | None
    minimum: float | None
    maximum: float | None
    total: float | None
    deviations: float | None
    last_payload: bytes | None
    int_value: int | None
    float_value: float | None
    text_value: str | None
    mime_type: str | None
    id: int
    points: int | None
    first_step: int | None


class Segment(NamedTuple):
    """What one run of a lineage contributes to an attribute: its row there and its points until `upper`."""

    row: Any
    upper: int

    @property
    def is_cut(self) -> bool:
        """True when the run has points behind `upper`, which do not belong to the series."""
        return self.row.last_step is not None and bool(self.row.last_step > self.upper)


class ChunkSpan(NamedTuple):
    """A chunk without its points. A negative key stands for the points of a series that are still in tails."""

    key: int
    attribute_id: int
    first_step: int
    last_step: int
    points: int
    size: int
    """Bytes."""


class PreviewPoint(NamedTuple):
    """A preview; `ratio` is its completion ratio."""

    step: int
    timestamp: int
    value: float
    ratio: float


# The type spares looking for the series of attributes that have none.
_HAS_SERIES: Final = sa.and_(series.c.attribute_id == attributes.c.id, attributes.c.type.in_(sorted(SERIES_TYPES)))
# Previews up to the last committed point count for nobody.
_PREVIEW: Final = sa.exists().where(
    previews.c.attribute_id == series.c.attribute_id, previews.c.step > sa.func.coalesce(series.c.last_step, -1)
)
_COLUMNS: Final = {
    **attributes.c,
    **series.c,
    "points": series.c.count.label("points"),
    # As an integer of SQLite: rows with any value to convert take longer.
    "has_preview": sa.type_coerce(sa.case((series.c.has_preview, _PREVIEW), else_=sa.false()), sa.Integer).label(
        "has_preview"
    ),
}


def _query(fields: Sequence[str]) -> sa.Select[Any]:
    query = sa.select(*(_COLUMNS[name] for name in fields))
    return query.join_from(attributes, series, _HAS_SERIES, isouter=True)


POSITIONS: Final = _query(PositionRow._fields)
"""The query for rows of attributes without their values, to be narrowed down."""

ATTRIBUTES: Final = _query(AttributeRow._fields)
"""The query for rows of attributes, to be narrowed down."""

SUMMARY_FIELDS: Final = AttributeRow._fields.index("deviations") + 1
"""How many of the first fields of a row tell all of a float series."""

SUMMARIES: Final = _query(AttributeRow._fields[:SUMMARY_FIELDS])
"""The query for these fields only, to be narrowed down: the fewer columns, the faster."""

VALUES: Final = _query(AttributeRow._fields[: AttributeRow._fields.index("mime_type") + 1])
"""The query for what readers get of attributes that nothing is inherited of, to be narrowed down."""


def position_rows(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[PositionRow]:
    """Yield the rows of POSITIONS, narrowed down."""
    return map(PositionRow._make, connection.execute(query))


def attribute_rows(connection: sa.Connection, query: sa.Select[Any]) -> Generator[AttributeRow, None, None]:
    """Yield the rows of ATTRIBUTES, narrowed down; close the generator when no more of them are wanted."""
    with connection.execute(query) as result:
        # Rows of SQLAlchemy look each name up every time it is asked for.
        for rows in result.partitions(ROWS_PER_FETCH):
            yield from map(AttributeRow._make, rows)


def fold(lineage: Lineage, row_of: Callable[[int], Any]) -> list[Segment]:
    """Return what the runs of a lineage contribute to one attribute, the addressed run first; empty when nothing.

    `row_of` gives the attribute's row of a run, or None. Ancestors pass on series that have points up to the fork
    point; the nearest run that has the attribute decides its type.
    """
    segments: list[Segment] = []
    for run_key, upper in lineage:
        row = row_of(run_key)
        if row is None:
            continue
        if upper is not None and (row.first_step is None or row.first_step > upper):
            continue
        if not segments or segments[0].row.type == row.type:
            segments.append(Segment(row, steps.END if upper is None else upper))
        if row.type not in SERIES_TYPES:
            break
    return segments


def find_series(
    connection: sa.Connection,
    wanted: Collection[tuple[int, str]],
    types: Collection[int],
    scope: Scope,
    *,
    with_values: bool = False,
) -> dict[tuple[int, str], list[Segment]]:
    """Return the series of these types that exist, by run key and path; see `fold`."""
    lines = lineages(connection, {run_key for run_key, _ in wanted}, scope)
    paths: dict[int, set[str]] = defaultdict(set)
    for run_key, path in wanted:
        for ancestor in lines[run_key]:
            paths[ancestor.run_key].add(path)
    # Requests ask for the same paths of many runs, or for many paths of a few: either is a single query.
    alike: dict[frozenset[str], list[int]] = defaultdict(list)
    for run_key, names in paths.items():
        alike[frozenset(names)].append(run_key)
    rows: dict[tuple[int, str], Any] = {}
    for group, run_keys in alike.items():
        for some_names in batches(sorted(group)):
            for some_runs in batches(run_keys):
                wanted_ones = sa.and_(attributes.c.run_id.in_(some_runs), attributes.c.name.in_(some_names))
                present = (
                    attribute_rows(connection, ATTRIBUTES.where(wanted_ones))
                    if with_values
                    else position_rows(connection, POSITIONS.where(wanted_ones))
                )
                for row in present:
                    rows[row.run_id, row.name] = row
    found: dict[tuple[int, str], list[Segment]] = {}
    for run_key, path in wanted:
        segments = fold(lines[run_key], lambda key, path=path: rows.get((key, path)))  # type: ignore[misc]  # bound now
        if segments and segments[0].row.type in types:
            found[run_key, path] = segments
    return found


def chunk_spans(connection: sa.Connection, attribute_ids: Collection[int]) -> dict[int, list[ChunkSpan]]:
    """Return the chunks of series by attribute, what is in tails included, ascending by their first steps."""
    found = stored_spans(connection, attribute_ids)
    for key, points in tail_points(connection, list(found)).items():
        first, last = int(points.steps[0]), int(points.steps[-1])
        found[key].append(ChunkSpan(-key, key, first, last, len(points), points.values.nbytes))
    return found


def stored_spans(connection: sa.Connection, attribute_ids: Collection[int]) -> dict[int, list[ChunkSpan]]:
    """Return the chunks of series by attribute, without what is in tails, ascending by their first steps."""
    found: dict[int, list[ChunkSpan]] = {key: [] for key in attribute_ids}
    columns = (
        chunks.c.id,
        chunks.c.attribute_id,
        chunks.c.first_step,
        chunks.c.last_step,
        chunks.c.count,
        sa.func.length(chunks.c.payload),
    )
    for batch in batches(list(found)):
        query = sa.select(*columns).where(chunks.c.attribute_id.in_(batch))
        for row in connection.execute(query.order_by(chunks.c.attribute_id, chunks.c.first_step, chunks.c.id)):
            found[row[1]].append(ChunkSpan(*row))
    return found


def tail_points(connection: sa.Connection, attribute_ids: Collection[int]) -> dict[int, FloatColumns]:
    """Return the points of float series that are not in chunks yet, by attribute; they follow those that are.

    Raises CorruptChunkError for a series that has points in a damaged tail.
    """
    series_of: dict[int, list[int]] = defaultdict(list)
    for batch in batches(list(attribute_ids)):
        with_tails = sa.exists().where(tails.c.run_id == attributes.c.run_id)
        query = sa.select(attributes.c.run_id, attributes.c.id).where(attributes.c.id.in_(batch), with_tails)
        for run_key, key in connection.execute(query):
            series_of[run_key].append(key)
    found: dict[int, FloatColumns] = {}
    for run_key, keys in series_of.items():
        found.update(tail_columns(connection, run_key, keys))
    return found


def load_floats(connection: sa.Connection, keys: Sequence[int]) -> Iterator[tuple[int, FloatColumns]]:
    """Yield the points of chunks of float series by the keys of their spans, in any order.

    Raises CorruptChunkError when a checksum does not fit.
    """
    decoder = columns_.FloatDecoder()
    for key, chunk in load_chunks(connection, [key for key in keys if key > 0]):
        yield key, decoder.decode(chunk)
    for attribute_id, points in tail_points(connection, [-key for key in keys if key < 0]).items():
        yield -attribute_id, points


def load_chunks(connection: sa.Connection, keys: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of chunks by their keys, in any order.

    Raises CorruptChunkError when a chunk's checksum does not fit.
    """
    for batch in batches(keys, _CHUNKS_PER_QUERY):
        query = sa.select(chunks.c.id, chunks.c.payload, chunks.c.checksum).where(chunks.c.id.in_(batch))
        for key, payload, checksum in connection.execute(query):
            if columns_.checksum(payload) != checksum:
                raise chunk_error(connection, key)
            yield key, payload


def previews_after(connection: sa.Connection, found: Sequence[Sequence[Segment]]) -> list[list[PreviewPoint]]:
    """Return the previews of each float series behind its last committed point, ascending by step."""
    readers: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for position, segments in enumerate(found):
        committed: int | None = None
        for row, upper in segments:
            if row.has_preview:
                if committed is None:
                    committed = _last_committed(segments)
                readers[row.id].append((position, committed, upper))
    result: list[list[PreviewPoint]] = [[] for _ in found]
    for batch in batches(list(readers)):
        for row in connection.execute(sa.select(previews).where(previews.c.attribute_id.in_(batch))):
            for position, committed, upper in readers[row.attribute_id]:
                if committed < row.step <= upper:
                    value = math.nan if row.value is None else row.value
                    result[position].append(PreviewPoint(row.step, row.timestamp, value, row.completion_ratio))
    for points in result:
        points.sort()
    return result


def _last_committed(segments: Sequence[Segment]) -> int:
    return max((min(row.last_step, upper) for row, upper in segments if row.last_step is not None), default=-1)


class FloatSummaries:
    """Sum up float series over their lineages.

    What an ancestor contributes up to a fork point that it has passed never changes, because steps of float series
    increase: such summaries are kept.
    """

    def __init__(self) -> None:
        self._cuts: Recent[tuple[int, int], FloatSummary] = Recent(_CACHED_SUMMARIES)

    def of(self, connection: sa.Connection, found: Sequence[Sequence[Segment]]) -> list[FloatSummary]:
        """Return the summary of each series."""
        inherited = (segments for segments in found if not _is_own(segments))
        cuts = {(segment.row.id, segment.upper) for segments in inherited for segment in segments if segment.is_cut}
        known = self._cut_summaries(connection, cuts) if cuts else {}

        def merged(segments: Sequence[Segment]) -> FloatSummary:
            summary = FloatSummary()
            for segment in reversed(segments):
                part = known[segment.row.id, segment.upper] if segment.is_cut else _summary(segment.row)
                summary = summary.merge(part)
            return summary

        return [_summary(segments[0].row) if _is_own(segments) else merged(segments) for segments in found]

    def _cut_summaries(
        self, connection: sa.Connection, cuts: set[tuple[int, int]]
    ) -> dict[tuple[int, int], FloatSummary]:
        known = {cut: summary for cut in cuts if (summary := self._cuts.get(cut)) is not None}
        missing = sorted(cuts - known.keys())
        spans = chunk_spans(connection, {attribute_id for attribute_id, _ in missing})
        readers: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for attribute_id, upper in missing:
            known[attribute_id, upper] = FloatSummary()
            for span in spans[attribute_id]:
                if span.first_step <= upper:
                    readers[span.key].append((attribute_id, upper))
        for key, points in load_floats(connection, list(readers)):
            whole: FloatSummary | None = None
            for cut in readers[key]:
                if points.steps[-1] <= cut[1]:
                    whole = whole or FloatSummary.of(points)
                    part = whole
                else:
                    part = FloatSummary.of(points[: int(np.searchsorted(points.steps, cut[1], "right"))])
                known[cut] = known[cut].merge(part)
        for cut in missing:
            self._cuts.put(cut, known[cut])
        return known


def last_payloads(connection: sa.Connection, found: Sequence[Sequence[Segment]]) -> list[tuple[int, bytes] | None]:
    """Return the greatest step of each series that is not of floats, and its serialized Value; None without points."""
    result: list[tuple[int, bytes] | None] = [None] * len(found)
    cut: dict[int, Segment] = {}
    for position, segments in enumerate(found):
        segment = next((item for item in segments if item.row.points), None)
        if segment is not None and segment.is_cut:
            cut[position] = segment
        elif segment is not None:
            result[position] = (segment.row.last_step, segment.row.last_payload)
    spans = chunk_spans(connection, {segment.row.id for segment in cut.values()}) if cut else {}
    readers: dict[int, list[int]] = defaultdict(list)
    for position, (row, upper) in cut.items():
        before = [span for span in spans[row.id] if span.first_step <= upper]
        # There is a point at the first step of a chunk, so a chunk that ends before that cannot hold the last one.
        latest = before[-1].first_step
        for span in before:
            if span.last_step >= latest:
                readers[span.key].append(position)
    best: dict[int, tuple[int, int, bytes]] = {}
    for key, chunk in load_chunks(connection, list(readers)):
        points = columns_.decode_payloads(chunk)
        for position in readers[key]:
            inside = np.flatnonzero(points.steps <= cut[position].upper)
            # Of points at the same step the one logged last counts: it has the greater place, or the greater key.
            index = int(inside[points.steps[inside] == points.steps[inside].max()][-1])
            candidate = (int(points.steps[index]), key, points.payloads[index])
            if position not in best or candidate[:2] > best[position][:2]:
                best[position] = candidate
    for position, (step, _, payload) in best.items():
        result[position] = (step, payload)
    return result


def as_rows(
    connection: sa.Connection, found: Sequence[Sequence[Segment]], summaries: FloatSummaries
) -> list[AttributeRow]:
    """Return each attribute as one row, which tells of a series what is so over its lineage."""
    rows: list[AttributeRow] = [segments[0].row for segments in found]
    inherited = [place for place, segments in enumerate(found) if not _is_told_by_row(segments)]
    floats = [place for place in inherited if rows[place].type == _FLOAT_SERIES]
    segments = [found[place] for place in floats]
    together = zip(floats, summaries.of(connection, segments), previews_after(connection, segments), strict=True)
    for place, summary, points in together:
        rows[place] = rows[place]._replace(
            last_step=summary.last_step,
            has_preview=bool(points),
            last_value=summary.last,
            finite_count=summary.finite_count,
            minimum=summary.minimum,
            maximum=summary.maximum,
            total=summary.total,
            deviations=summary.deviations,
        )
    others = [place for place in inherited if rows[place].type != _FLOAT_SERIES]
    for place, last in zip(others, last_payloads(connection, [found[place] for place in others]), strict=True):
        step, payload = last or (None, None)
        rows[place] = rows[place]._replace(last_step=step, last_payload=payload)
    return rows


def _is_told_by_row(segments: Sequence[Segment]) -> bool:
    """Tell whether an attribute has a single row, which tells of nothing that does not belong to it."""
    if len(segments) > 1:
        return False
    row, upper = segments[0]
    return upper == steps.END or not (row.has_preview or segments[0].is_cut)


def _is_own(segments: Sequence[Segment]) -> bool:
    """Tell whether a series is all of the addressed run, as those of runs that are no forks are."""
    return len(segments) == 1 and segments[0].upper == steps.END


def _summary(row: Any) -> FloatSummary:
    return FloatSummary(
        row.points,
        row.last_step,
        math.nan if row.last_value is None else row.last_value,
        row.finite_count,
        math.nan if row.minimum is None else row.minimum,
        math.nan if row.maximum is None else row.maximum,
        row.total,
        row.deviations,
    )
