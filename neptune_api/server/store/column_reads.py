"""Reading float series of any length, piece by piece: a few chunks are in memory at a time, whatever is asked for."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from neptune_api.server.recent import Recent
from neptune_api.server.store import steps
from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.damage import tail_columns
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.point_pages import clip, lies_in, preview_columns, touches
from neptune_api.server.store.schema import tails
from neptune_api.server.store.series import ChunkSpan, load_floats, previews_after, stored_spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from neptune_api.server.store.series import PreviewPoint, Segment

POINTS_PER_PIECE: Final = 100_000
"""No piece is longer."""
# How many points are read ahead, and of how many series chunks are looked up at once.
_POINTS_AHEAD: Final = 4 * 65_536
_CHUNKS_AHEAD: Final = 1_000
_SERIES_PER_GROUP: Final = 1_000
# Tails of a run are read as a whole; so many bytes of them are kept for the series that follow.
_TAIL_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """A float series to read: points from `lower` to `upper` (micro-steps, both included).

    At most `limit` points, the last ones when it is negative. Without segments there are none.
    """

    segments: Sequence[Segment]
    lower: int = 0
    upper: int = steps.END
    limit: int | None = None
    with_previews: bool = False


class Piece(NamedTuple):
    """Points of one series, ascending; `ratios` are completion ratios of previews, None for committed points."""

    series_index: int
    points: FloatColumns
    ratios: npt.NDArray[np.float32] | None
    last: bool
    """True for the last piece of a series; each has one."""


class _Part(NamedTuple):
    span: ChunkSpan
    lower: int
    upper: int

    @property
    def is_whole(self) -> bool:
        """True when all points of the chunk are wanted."""
        return lies_in(self.span, self.lower, self.upper)


@dataclass(slots=True)
class _Plan:
    parts: list[_Part]
    previews: list[PreviewPoint]
    skip: int = 0
    room: int | None = None


def read_columns(connection: sa.Connection, requests: Sequence[ColumnRequest]) -> Iterator[Piece]:
    """Yield the points of each series in their order, piece after piece, in one snapshot.

    Raises CorruptChunkError when a checksum does not fit.
    """
    in_tails = _Tails(connection, requests)
    for start in range(0, len(requests), _SERIES_PER_GROUP):
        group = requests[start : start + _SERIES_PER_GROUP]
        plans = _plans(connection, group, in_tails)
        ahead = _Ahead(connection, in_tails, (part.span for plan in plans for part in plan.parts))
        for index, plan in enumerate(plans, start):
            yield from _pieces(index, plan, ahead)


def _plans(connection: sa.Connection, requests: Sequence[ColumnRequest], in_tails: _Tails) -> list[_Plan]:
    spans = stored_spans(connection, {row.id for request in requests for row, _ in request.segments})
    previews = previews_after(connection, [request.segments if request.with_previews else () for request in requests])
    plans: list[_Plan] = []
    for request, waiting in zip(requests, previews, strict=True):
        parts: list[_Part] = []
        for row, upper in reversed(request.segments):
            last = min(request.upper, upper)
            parts += (
                _Part(span, request.lower, last)
                for span in (*spans[row.id], *in_tails.span(row.run_id, row.id))
                if touches(span, request.lower, last)
            )
        plans.append(_Plan(parts, [item for item in waiting if request.lower <= item.step <= request.upper]))
    limited = [(plan, item.limit) for plan, item in zip(plans, requests, strict=True) if item.limit is not None]
    from_end = [(plan, -limit) for plan, limit in limited if limit < 0]
    cut = [part for plan, _ in from_end for part in plan.parts if not part.is_whole]
    ahead = _Ahead(connection, in_tails, (part.span for part in cut))
    counts = {part: len(clip(ahead.next(), part.lower, part.upper)) for part in cut}
    for plan, limit in from_end:
        _keep_last(plan, limit, counts)
    for plan, limit in limited:
        if limit >= 0:
            _keep_first(plan, limit)
    return plans


def _keep_last(plan: _Plan, limit: int, counts: dict[_Part, int]) -> None:
    plan.previews = plan.previews[-limit:]
    room = limit - len(plan.previews)
    kept: deque[_Part] = deque()
    for part in reversed(plan.parts):
        if room <= 0:
            break
        kept.appendleft(part)
        room -= counts.get(part, part.span.points)
    plan.parts, plan.skip = list(kept), max(0, -room)


def _keep_first(plan: _Plan, limit: int) -> None:
    plan.room = room = limit
    for number, part in enumerate(plan.parts):
        if room <= 0:
            del plan.parts[number:]
            break
        room -= part.span.points if part.is_whole else 0


def _pieces(index: int, plan: _Plan, ahead: _Ahead) -> Iterator[Piece]:
    waiting: list[FloatColumns] = []
    size = 0
    room = plan.room
    for part in plan.parts:
        points = clip(ahead.next(), part.lower, part.upper)
        if plan.skip:
            plan.skip, points = max(0, plan.skip - len(points)), points[plan.skip :]
        if room is not None:
            points = points[:room]
            room -= len(points)
        for start in range(0, len(points), POINTS_PER_PIECE):
            piece = points[start : start + POINTS_PER_PIECE]
            if size + len(piece) > POINTS_PER_PIECE:
                yield Piece(index, FloatColumns.concatenate(waiting), None, last=False)
                waiting, size = [], 0
            waiting.append(piece)
            size += len(piece)
    previews = plan.previews if room is None else plan.previews[:room]
    if size or not previews:
        yield Piece(index, FloatColumns.concatenate(waiting), None, last=not previews)
    for start in range(0, len(previews), POINTS_PER_PIECE):
        some = previews[start : start + POINTS_PER_PIECE]
        ratios = np.array([item.ratio for item in some], np.float32)
        yield Piece(index, preview_columns(some), ratios, last=start + len(some) == len(previews))


class _Ahead:
    """Read the chunks of spans in their order, a few at a time."""

    def __init__(self, connection: sa.Connection, in_tails: _Tails, spans: Iterable[ChunkSpan]) -> None:
        self._connection = connection
        self._in_tails = in_tails
        self._spans = iter(spans)
        self._waiting: deque[ChunkSpan] = deque()
        self._chunks: dict[int, FloatColumns] = {}

    def next(self) -> FloatColumns:
        """Return the points of the next span."""
        if not self._waiting:
            self._fill()
        span = self._waiting.popleft()
        return self._in_tails.points(span.attribute_id) if span.key < 0 else self._chunks[span.key]

    def _fill(self) -> None:
        size = 0
        for span in self._spans:
            self._waiting.append(span)
            size += span.points if span.key > 0 else 0
            if size >= _POINTS_AHEAD or len(self._waiting) == _CHUNKS_AHEAD:
                break
        keys = dict.fromkeys(span.key for span in self._waiting if span.key > 0)
        self._chunks = dict(load_floats(self._connection, list(keys)))


class _Tails:
    """The points of wanted series that are still in tails; those of the runs looked at last are in memory."""

    def __init__(self, connection: sa.Connection, requests: Sequence[ColumnRequest]) -> None:
        self._connection = connection
        self._wanted: dict[int, set[int]] = defaultdict(set)
        self._run_of: dict[int, int] = {}
        for request in requests:
            for row, _ in request.segments:
                self._wanted[row.run_id].add(row.id)
                self._run_of[row.id] = row.run_id
        self._runs: set[int] = set()
        for batch in batches(list(self._wanted)):
            self._runs |= set(connection.scalars(sa.select(tails.c.run_id).where(tails.c.run_id.in_(batch)).distinct()))
        self._kept: Recent[int, dict[int, FloatColumns]] = Recent(_TAIL_BYTES, _bytes)

    def span(self, run_key: int, attribute_id: int) -> list[ChunkSpan]:
        """Return where the points of a series in tails begin and end; empty when there are none."""
        if run_key not in self._runs or (points := self._of_run(run_key).get(attribute_id)) is None:
            return []
        first, last = int(points.steps[0]), int(points.steps[-1])
        return [ChunkSpan(-attribute_id, attribute_id, first, last, len(points), points.values.nbytes)]

    def points(self, attribute_id: int) -> FloatColumns:
        """Return the points of a series that has a span."""
        return self._of_run(self._run_of[attribute_id])[attribute_id]

    def _of_run(self, run_key: int) -> dict[int, FloatColumns]:
        found = self._kept.get(run_key)
        if found is None:
            found = tail_columns(self._connection, run_key, self._wanted[run_key])
            self._kept.put(run_key, found)
        return found


def _bytes(found: dict[int, FloatColumns]) -> int:
    return sum(3 * points.values.nbytes for points in found.values())
