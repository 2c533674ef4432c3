"""Pages of points: walking along series in either direction, reading only the chunks that a page needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api.server.store import steps
from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.points import read_payloads
from neptune_api.server.store.series import chunk_spans, load_floats, previews_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import sqlalchemy as sa

    from neptune_api.server.store.columns import FloatArray, PayloadColumns
    from neptune_api.server.store.series import ChunkSpan, PreviewPoint, Segment

# How many points are held in memory as chunks before pages are made of them.
_POINTS_PER_BATCH: Final = 4_000_000
# How many bytes of payloads are read ahead.
_BYTES_PER_BLOCK: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Walk:
    """Which points of a series to visit: micro-steps from `lower` to `upper`, both included, in this direction.

    A walk goes on behind the step `after`.
    """

    lower: int = 0
    upper: int = steps.END
    descending: bool = False
    after: int | None = None

    @property
    def window(self) -> tuple[int, int]:
        """The first and the last step that remain."""
        if self.after is None:
            return self.lower, self.upper
        if self.descending:
            return self.lower, min(self.upper, self.after - 1)
        return max(self.lower, self.after + 1), self.upper


@dataclass(frozen=True, slots=True)
class FloatRequest:
    """A float series to walk along; without segments it has no points."""

    segments: Sequence[Segment]
    walk: Walk
    with_previews: bool = False


@dataclass(frozen=True, slots=True)
class FloatPage:
    """Points of a float series in the order of the walk.

    `total` is the number of points from the lower to the upper end, on every page together. `ratios` are completion
    ratios, NaN for committed points; None when all points are committed.
    """

    total: int
    points: FloatColumns
    ratios: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    request: FloatRequest
    # Chunks that lie inside the range as a whole hold this many points.
    certain: int
    # Chunks of the page, and those across an end of the range; ascending, each with the last step that counts.
    read: list[tuple[ChunkSpan, int]]
    counted: list[tuple[ChunkSpan, int]]
    previews: list[PreviewPoint]

    @property
    def size(self) -> int:
        return sum(span.points for span, _ in (*self.read, *self.counted))


def float_pages(connection: sa.Connection, requests: Sequence[FloatRequest], limit: int) -> Iterator[FloatPage]:
    """Yield a page of at most `limit` points for each request, in their order.

    A page is full unless it is the last one of its walk. Raises CorruptChunkError as `load_floats`.
    """
    spans = chunk_spans(connection, {row.id for request in requests for row, _ in request.segments})
    previews = previews_after(connection, [request.segments if request.with_previews else () for request in requests])
    batch: list[_Plan] = []
    size = 0
    for request, waiting in zip(requests, previews, strict=True):
        plan = _plan(request, waiting, spans, limit)
        if batch and size + plan.size > _POINTS_PER_BATCH:
            yield from _pages(connection, batch, limit)
            batch, size = [], 0
        batch.append(plan)
        size += plan.size
    yield from _pages(connection, batch, limit)


def ends(connection: sa.Connection, requests: Sequence[FloatRequest]) -> tuple[int, int] | None:
    """Return the first and the last step of all points of some series together; None when they have none.

    Raises CorruptChunkError as `load_floats`.
    """
    spans = chunk_spans(connection, {row.id for request in requests for row, _ in request.segments})
    previews = previews_after(connection, [request.segments if request.with_previews else () for request in requests])
    known = [preview.step for waiting in previews for preview in waiting]
    cut: dict[int, list[int]] = defaultdict(list)
    for row, upper in chain.from_iterable(request.segments for request in requests):
        for span in spans[row.id]:
            if span.last_step <= upper:
                known += (span.first_step, span.last_step)
            elif span.first_step <= upper:
                known.append(span.first_step)
                cut[span.key].append(upper)
    for key, points in load_floats(connection, list(cut)):
        known += (int(clip(points, 0, upper).steps[-1]) for upper in cut[key])
    return (min(known), max(known)) if known else None


def payload_blocks(
    connection: sa.Connection, segments: Sequence[Segment], walk: Walk, spans: Mapping[int, list[ChunkSpan]]
) -> Iterator[PayloadColumns]:
    """Yield the points of a series that is not of floats, in the order of the walk, block by block.

    `spans` are those of `chunk_spans`.
    """
    first, last = walk.window
    for row, upper in segments if walk.descending else reversed(segments):
        blocks = _blocks(spans[row.id], first, min(last, upper))
        for lower, end in reversed(blocks) if walk.descending else blocks:
            points = read_payloads(connection, row.id, max(lower, first), min(end, last, upper))
            yield points[::-1] if walk.descending else points


def _plan(
    request: FloatRequest, previews: list[PreviewPoint], spans: Mapping[int, list[ChunkSpan]], limit: int
) -> _Plan:
    walk = request.walk
    line = [(span, upper) for row, upper in reversed(request.segments) for span in spans[row.id]]
    certain = 0
    counted: list[tuple[ChunkSpan, int]] = []
    for span, upper in line:
        if touches(span, walk.lower, min(walk.upper, upper)):
            if lies_in(span, walk.lower, min(walk.upper, upper)):
                certain += span.points
            else:
                counted.append((span, upper))
    first, last = walk.window
    read: list[tuple[ChunkSpan, int]] = []
    room = limit
    for span, upper in reversed(line) if walk.descending else line:
        if room <= 0:
            break
        if touches(span, first, min(last, upper)):
            read.append((span, upper))
            if lies_in(span, first, min(last, upper)):
                room -= span.points
    return _Plan(request, certain, read[::-1] if walk.descending else read, counted, previews)


def _pages(connection: sa.Connection, plans: Sequence[_Plan], limit: int) -> Iterator[FloatPage]:
    keys = {span.key for plan in plans for span, _ in (*plan.read, *plan.counted)}
    chunks = dict(load_floats(connection, sorted(keys)))
    for plan in plans:
        walk = plan.request.walk
        total = plan.certain + sum(
            len(clip(chunks[span.key], walk.lower, min(walk.upper, upper))) for span, upper in plan.counted
        )
        first, last = walk.window
        points = FloatColumns.concatenate(
            [clip(chunks[span.key], first, min(last, upper)) for span, upper in plan.read]
        )
        ratios: FloatArray | None = None
        total += sum(walk.lower <= preview.step <= walk.upper for preview in plan.previews)
        visited = [preview for preview in plan.previews if first <= preview.step <= last]
        if visited:
            ratios = np.array([*[np.nan] * len(points), *(preview.ratio for preview in visited)], np.float64)
            points = FloatColumns.concatenate([points, preview_columns(visited)])
        page = slice(None, -limit - 1, -1) if walk.descending else slice(limit)
        yield FloatPage(total, points[page], None if ratios is None else ratios[page])


def preview_columns(previews: Iterable[PreviewPoint]) -> FloatColumns:
    """Return previews as columns; there has to be one at least."""
    step, timestamp, value, _ = zip(*previews, strict=True)
    return FloatColumns(np.array(step, np.int64), np.array(timestamp, np.int64), np.array(value, np.float64))


def _blocks(spans: Sequence[ChunkSpan], first: int, last: int) -> list[tuple[int, int]]:
    """Return ranges of steps, ascending, that hold little to read each."""
    blocks: list[tuple[int, int]] = []
    size = 0
    for span in spans:
        if not touches(span, first, last):
            continue
        size += span.size
        end = span.last_step
        if blocks:
            lower, end = blocks[-1][0], max(blocks[-1][1], span.last_step)
            # A chunk that lies across is read for both.
            if size <= _BYTES_PER_BLOCK or span.first_step == lower:
                blocks[-1] = (lower, end)
                continue
            blocks[-1] = (lower, min(blocks[-1][1], span.first_step - 1))
            size = span.size
        blocks.append((span.first_step, end))
    return blocks


def touches(span: ChunkSpan, lower: int, upper: int) -> bool:
    """Tell whether a chunk may have points from `lower` to `upper`."""
    return lower <= span.last_step and span.first_step <= upper


def lies_in(span: ChunkSpan, lower: int, upper: int) -> bool:
    """Tell whether a chunk has points from `lower` to `upper` only."""
    return lower <= span.first_step and span.last_step <= upper


def clip(points: FloatColumns, lower: int, upper: int) -> FloatColumns:
    """Return the points from `lower` to `upper`, both included."""
    start = int(np.searchsorted(points.steps, lower, "left"))
    end = int(np.searchsorted(points.steps, upper, "right"))
    return points if (start, end) == (0, len(points)) else points[start:end]
