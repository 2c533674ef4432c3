"""SeriesService: points of series, page by page."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import grpc
import numpy as np

from neptune_api.server import limits, page_tokens
from neptune_api.server.buckets import Buckets, Edges, encode_buckets, is_finite, path_of
from neptune_api.server.errors import StatusError, already_exists, unimplemented
from neptune_api.server.handlers import Encoded
from neptune_api.server.identity import current_caller
from neptune_api.server.point_messages import encode_float_page, encode_float_series, encode_piece, point_value
from neptune_api.server.run_lookup import find_anywhere, parse_series_holder
from neptune_api.server.store import steps
from neptune_api.server.store.column_batches import ColumnBatch
from neptune_api.server.store.column_reads import ColumnRequest, read_columns
from neptune_api.server.store.lineage import Scope
from neptune_api.server.store.point_pages import FloatRequest, Walk, ends, float_pages, payload_blocks
from neptune_api.server.store.series import chunk_spans, find_series
from neptune_api.server.store.store import KeyTakenError
from neptune_api.server.validation import Checks, shown
from neptune_api.v1 import series_pb2, series_service_pb2_grpc
from neptune_api.v1 import series_service_pb2 as pb
from neptune_api.v1.queries_pb2 import (
    AttributesHolder,
    AttributeType,
    Lineage,
    LineageEntityType,
    SortDirection,
    TimeSeries,
)
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import sqlalchemy as sa

    from neptune_api.server.access import Access
    from neptune_api.server.store.columns import Int64Array, PayloadColumns
    from neptune_api.server.store.point_pages import FloatPage
    from neptune_api.server.store.runs import RunIdentifier
    from neptune_api.server.store.series import ChunkSpan, Segment
    from neptune_api.server.store.store import Store
    from neptune_api.v1.queries_pb2 import StepRange

    Query = pb.FloatSeriesValuesQuery | pb.SeriesValuesQuery
    # Which one of those asked for, and its first page.
    _Found = tuple[int, FloatRequest, FloatPage]

_FLOATS: Final = {AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES}
_OTHERS: Final = {
    AttributeType.ATTRIBUTE_TYPE_STRING_SERIES,
    AttributeType.ATTRIBUTE_TYPE_HISTOGRAM_SERIES,
    AttributeType.ATTRIBUTE_TYPE_FILE_REF_SERIES,
}
# What one answer may hold: 32 bytes a point make 160 MB.
_POINTS_PER_ENCODING: Final = 100_000
# About how many bytes a point has beside its value.
_POINT_BYTES: Final = 32
# Series whose buckets are made together, when they have the same steps.
_SERIES_TOGETHER: Final = 64
_LISTING: Final = "points"


class SeriesService(series_service_pb2_grpc.SeriesServiceServicer):
    """Read points of series; move points as columns."""

    def __init__(self, *, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        # A batch stays the bytes it came in, with arrays over them.
        self.request_readers: Final = dict.fromkeys(("AppendColumns", "AppendColumnsStream"), ColumnBatch.parse)

    def GetFloatSeriesValues(  # type: ignore[override]  # see Encoded
        self, request: pb.GetFloatSeriesValuesRequest, context: grpc.ServicerContext
    ) -> Encoded:
        query = request.request
        limit = query.per_series_points_limit
        with Checks() as checks:
            if not 1 <= limit <= limits.MAX_POINTS_PER_SERIES:
                maximum = f"{limits.MAX_POINTS_PER_SERIES:,}"
                checks.add("request.per_series_points_limit", f"is {limit}; it is required, from 1 to {maximum}")
            checks.at_most("request.requests", len(query.requests), limits.MAX_FLOAT_SERIES_PER_QUERY)
            _check_query(checks, query)
            for position, item in enumerate(query.requests):
                if math.isnan(item.after_step):
                    checks.add(f"request.requests[{position}].after_step", "is NaN; say a step")
        whole_walk = _walk(query)
        request_ids = [item.request_id for item in query.requests]
        parts: list[bytes | memoryview] = []
        with self._store.database.read() as connection:
            found = self._find(connection, [item.series for item in query.requests], _FLOATS)
            points = sum(min(limit, sum(row.points for row, _ in segments)) for segments in found if segments)
            if points > limits.MAX_POINTS_PER_ANSWER:
                raise StatusError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"The answer would have up to {points:,} points, the limit is {limits.MAX_POINTS_PER_ANSWER:,}: "
                    "ask for fewer series at once, or set a lower per_series_points_limit.",
                )
            requests = [
                FloatRequest(
                    segments or (),
                    _walk(query, item.after_step) if item.HasField("after_step") else whole_walk,
                    item.series.include_preview,
                )
                for item, segments in zip(query.requests, found, strict=True)
            ]
            waiting: list[FloatPage] = []
            size = 0
            for done, page in enumerate(float_pages(connection, requests, limit), 1):
                waiting.append(page)
                size += len(page.points)
                if size >= _POINTS_PER_ENCODING or done == len(requests):
                    parts += encode_float_series(request_ids[done - len(waiting) : done], waiting)
                    waiting, size = [], 0
                    _check_active(context)
        return Encoded(b"".join(parts))

    def GetSingleFloatSeriesValues(  # type: ignore[override]  # see Encoded
        self, request: pb.GetSingleFloatSeriesValuesRequest, context: grpc.ServicerContext
    ) -> Encoded:
        limit = request.limit if request.HasField("limit") else limits.MAX_POINTS_PER_SERIES
        with Checks() as checks:
            checks.required("attribute", request.attribute)
            if not 1 <= limit <= limits.MAX_POINTS_PER_SERIES:
                checks.add("limit", f"is {limit}; it has to be 1 to {limits.MAX_POINTS_PER_SERIES:,}")
            checks.known("lineage", request.lineage, Lineage)
            checks.known("lineage_entity_type", request.lineage_entity_type, LineageEntityType)
            if math.isnan(request.skip_to_step):
                checks.add("skip_to_step", "is NaN; say a step or leave it out")
        series = TimeSeries(
            attribute=request.attribute,
            holder=AttributesHolder(identifier=request.experiment_id),
            lineage=request.lineage,
            lineage_entity_type=request.lineage_entity_type,
        )
        walk = Walk(steps.first_from(request.skip_to_step) if request.HasField("skip_to_step") else 0)
        with self._store.database.read() as connection:
            (segments,) = self._find(connection, [series], _FLOATS, "experiment_id")
            (page,) = float_pages(connection, [FloatRequest(segments or (), walk, request.include_preview)], limit)
        return Encoded(encode_float_page(page))

    def GetSeriesValues(
        self, request: pb.GetSeriesValuesRequest, context: grpc.ServicerContext
    ) -> series_pb2.SeriesValuesResponse:
        query = request.request
        limit = query.per_series_points_limit if query.HasField("per_series_points_limit") else None
        room = query.size_limit_bytes if query.HasField("size_limit_bytes") else limits.MAX_SERIES_ANSWER_BYTES
        with Checks() as checks:
            if limit is not None and limit < 0:
                checks.add("request.per_series_points_limit", f"is {limit}; it must not be negative")
            if not 1 <= room <= limits.MAX_SERIES_ANSWER_BYTES:
                checks.add(
                    "request.size_limit_bytes", f"is {room}; it has to be 1 to {limits.MAX_SERIES_ANSWER_BYTES:,}"
                )
            paths = sum(len(item.series.attribute.encode()) for item in query.requests)
            if paths > limits.MAX_SERIES_QUERY_PATH_BYTES:
                checks.add(
                    "request.requests",
                    f"has paths of {paths:,} bytes together, the limit is {limits.MAX_SERIES_QUERY_PATH_BYTES:,}; "
                    "split the request",
                )
            else:
                _check_query(checks, query)
        places = [_place(position, item) for position, item in enumerate(query.requests)]
        answer = _Answer(_walk(query), limit, room, use_deprecated=request.use_deprecated_string_fields)
        with self._store.database.read() as connection:
            found = self._find(connection, [item.series for item in query.requests], _OTHERS)
            spans = chunk_spans(connection, {row.id for segments in found if segments for row, _ in segments})
            for item, segments, place in zip(query.requests, found, places, strict=True):
                # What does not exist is left out.
                if segments is not None:
                    answer.add(connection, item, place, segments, spans)
                    _check_active(context)
        return answer.response

    def GetTimeseriesBuckets(  # type: ignore[override]  # see Encoded
        self, request: series_pb2.GetTimeseriesBucketsRequest, context: grpc.ServicerContext
    ) -> Encoded:
        view = request.view
        wanted = _bucket_series(request)
        entries: dict[str, bytes | memoryview] = {expression.request_id: b"" for expression in request.expressions}
        with self._store.database.read() as connection:
            found = self._find(connection, wanted, _FLOATS, "expressions[{}].run_id")
            edges = _edges(connection, view, wanted, found)
            if edges is None:
                return Encoded(encode_buckets(entries))
            there = [position for position, segments in enumerate(found) if segments]
            requests = [FloatRequest(found[at] or (), Walk(), wanted[at].include_preview) for at in there]
            pages = float_pages(connection, requests, limits.MAX_POINTS_PER_SERIES)
            for some in _alike(zip(there, requests, pages, strict=True)):
                _check_active(context)
                _, series, page = some[0]
                buckets = Buckets(edges, len(some))
                buckets.add(page.points.steps, [page.points.values for _, _, page in some])
                for more in _pages_after(connection, series, page):
                    _check_active(context)
                    buckets.add(more.points.steps, [more.points.values])
                for (position, _, _), encoded in zip(some, buckets.encode(), strict=True):
                    entries[request.expressions[position].request_id] = encoded
        return Encoded(encode_buckets(entries))

    def AppendColumns(  # type: ignore[override]  # see request_readers
        self, request: ColumnBatch, context: grpc.ServicerContext
    ) -> pb.AppendColumnsResponse:
        return self._append(request)

    def AppendColumnsStream(  # type: ignore[override]  # see request_readers
        self, request_iterator: Iterator[ColumnBatch], context: grpc.ServicerContext
    ) -> Iterator[pb.AppendColumnsResponse]:
        for position, batch in enumerate(request_iterator):
            try:
                response = self._append(batch)
            except StatusError as error:
                raise error.at(position, f"Batch {position} of the stream") from error
            yield response

    def ReadColumns(  # type: ignore[override]  # see Encoded
        self, request: pb.ReadColumnsRequest, context: grpc.ServicerContext
    ) -> Iterator[Encoded]:
        bounds = request.step_range
        with Checks() as checks:
            checks.at_most("series", len(request.series), limits.MAX_COLUMN_SERIES)
            _check_range(checks, "step_range", bounds)
            for position, series in enumerate(request.series):
                _check_series(checks, f"series[{position}]", series)
        walk = _range(bounds)
        limit = request.limit if request.HasField("limit") else None
        with self._store.database.read() as connection:
            found = self._find(connection, request.series, _FLOATS, "series[{}].holder.identifier")
            requests = [
                ColumnRequest(segments or (), walk.lower, walk.upper, limit, series.include_preview)
                for series, segments in zip(request.series, found, strict=True)
            ]
            for piece in read_columns(connection, requests):
                yield Encoded(encode_piece(piece))

    def _append(self, batch: ColumnBatch) -> pb.AppendColumnsResponse:
        with Checks() as checks:
            for field, text in (("project", batch.project), ("run_id", batch.run_id), ("batch_id", batch.batch_id)):
                if not text:
                    checks.add(field, "is required")
            size = len(batch.batch_id.encode())
            if size > limits.MAX_BATCH_ID_BYTES:
                checks.add("batch_id", f"has {size} bytes, the limit is {limits.MAX_BATCH_ID_BYTES}; send a UUID")
            checks.at_most("series", len(batch.paths), limits.MAX_COLUMN_SERIES)
            seen: set[str] = set()
            for position, path in enumerate(batch.paths if len(set(batch.paths)) < len(batch.paths) else ()):
                if path in seen:
                    checks.add(f"series[{position}].path", "is that of a series before; send all its points in one")
                seen.add(path)
        project = self._access.project(batch.project, PROJECT_ROLE_MEMBER, writing=True, field="project")
        try:
            request_id = self._store.append_columns(batch, user_id=current_caller().user_id, project_id=project.id)
        except KeyTakenError:
            raise already_exists(
                f'The batch id "{shown(batch.batch_id)}" names another batch of the project, and batches are applied '
                "once: give each one an id of its own, and send it unchanged when you send it again.",
                "BATCH_ID_TAKEN",
            ) from None
        return pb.AppendColumnsResponse(
            batch_id=batch.batch_id,
            request_id=request_id,
            accepted_points=batch.accepted,
            errors=(
                pb.AppendColumnsError(
                    series_index=fault.series_index,
                    point_index=fault.point_index,
                    count=fault.count,
                    code=fault.code,  # type: ignore[arg-type]  # codes are plain integers inside the store
                    message=fault.sentence,
                )
                for fault in batch.faults
            ),
        )

    def _find(
        self,
        connection: sa.Connection,
        wanted_series: Sequence[TimeSeries],
        types: set[AttributeType.ValueType],
        field: str = "request.requests[{}].series.holder.identifier",
    ) -> list[list[Segment] | None]:
        """Return the series asked for, None for those that do not exist."""
        names: dict[str, RunIdentifier] = {}
        for position, item in enumerate(wanted_series):
            text = item.holder.identifier
            if text not in names:
                names[text] = parse_series_holder(field.format(position), text)
        runs = find_anywhere(connection, self._access, names.values(), PROJECT_ROLE_VIEWER)
        wanted: dict[Scope, list[int]] = defaultdict(list)
        keys: list[tuple[int, str] | None] = []
        for position, item in enumerate(wanted_series):
            known = runs.get(names[item.holder.identifier])
            keys.append(None if known is None else (known[0].key, item.attribute))
            wanted[_scope(item)].append(position)
        found: list[list[Segment] | None] = [None] * len(wanted_series)
        for scope, positions in wanted.items():
            existing = {key for position in positions if (key := keys[position]) is not None}
            series = find_series(connection, existing, types, scope)
            for position in positions:
                key = keys[position]
                found[position] = None if key is None else series.get(key)
        return found


def _bucket_series(request: series_pb2.GetTimeseriesBucketsRequest) -> list[TimeSeries]:
    """Return the series that buckets are asked for, after a look at the whole request."""
    view = request.view
    step_range = view.point_filters.step_range
    unserved = {
        "view.x_scale": view.x_scale != series_pb2.SCALE_LINEAR,
        "view.y_scale": view.y_scale != series_pb2.SCALE_LINEAR,
        "view.x_axis": view.x_axis.WhichOneof("value") not in {None, "steps"},
        "view.point_filters": step_range.HasField("lower") or step_range.HasField("upper"),
    }
    wanted: list[TimeSeries] = []
    with Checks() as checks:
        if not 2 <= view.max_buckets <= limits.MAX_BUCKETS:
            checks.add("view.max_buckets", f"is {view.max_buckets}; it is required, from 2 to {limits.MAX_BUCKETS:,}")
        for end, given, x in (
            ("from", view.HasField("lower"), view.lower),
            ("to", view.HasField("upper"), view.upper),
        ):
            if given and not math.isfinite(x):
                checks.add(f"view.{end}", f"is {x}; say a finite number or leave it out")
        if not view.upper - view.lower < math.inf or (
            view.HasField("lower") and view.HasField("upper") and view.lower > view.upper
        ):
            checks.add("view.from", "has to be at most view.to, and not so far from it that doubles end")
        checks.at_most("expressions", len(request.expressions), limits.MAX_BUCKET_SERIES)
        seen: set[str] = set()
        for position, item in enumerate(request.expressions):
            field = f"expressions[{position}]"
            if not item.request_id or item.request_id in seen:
                reason = "is given twice; each series has an id of its own" if item.request_id else "is required"
                checks.add(f"{field}.request_id", reason)
            seen.add(item.request_id)
            parse_series_holder(f"{field}.run_id", item.run_id)
            checks.required(f"{field}.custom_y_formula", item.custom_y_formula)
            path = path_of(item.custom_y_formula)
            unserved[f"{field}.custom_y_formula"] = path is None
            checks.known(f"{field}.lineage", item.lineage, series_pb2.BucketLineage)
            checks.known(f"{field}.entity_type", item.entity_type, series_pb2.BucketEntityType)
            is_full = item.lineage == series_pb2.BUCKET_LINEAGE_FULL
            is_run = item.entity_type == series_pb2.BUCKET_ENTITY_TYPE_RUN
            wanted.append(
                TimeSeries(
                    attribute=path or "",
                    holder=AttributesHolder(identifier=item.run_id),
                    lineage=Lineage.LINEAGE_FULL if is_full else Lineage.LINEAGE_NONE,
                    lineage_entity_type=LineageEntityType.LINEAGE_ENTITY_TYPE_RUN
                    if is_run
                    else LineageEntityType.LINEAGE_ENTITY_TYPE_EXPERIMENT,
                    include_preview=item.include_preview,
                )
            )
    for field, is_unserved in unserved.items():
        if is_unserved:
            raise unimplemented(
                "buckets are made along steps, on linear scales, of all points of one series, which a formula names "
                "as ${path}; for anything else, read the points with GetFloatSeriesValues.",
                field,
            )
    return wanted


def _edges(
    connection: sa.Connection,
    view: series_pb2.BucketView,
    wanted: Sequence[TimeSeries],
    found: Sequence[Sequence[Segment] | None],
) -> Edges | None:
    """Return the edges of buckets over the range asked for or, where none is, that of all points; None without any."""
    begin, end = view.lower, view.upper
    if not (view.HasField("lower") and view.HasField("upper")):
        requests = [
            FloatRequest(segments, Walk(), item.include_preview)
            for item, segments in zip(wanted, found, strict=True)
            if segments
        ]
        first_and_last = ends(connection, requests)
        if first_and_last is None:
            return None
        first, last = map(steps.to_double, first_and_last)
        begin = view.lower if view.HasField("lower") else first
        end = view.upper if view.HasField("upper") else last
    # A range that begins behind all points, or ends before them, is a single point.
    if begin > end:
        begin, end = (begin, begin) if view.HasField("lower") else (end, end)
    return Edges.of(begin, end, view.max_buckets)


def _alike(found: Iterable[_Found]) -> Iterator[list[_Found]]:
    """Yield series in their order, those together that follow each other and have finite values at the same steps."""
    together: list[_Found] = []
    shared: Int64Array | None = None
    for item in found:
        points = item[2].points
        is_whole = len(points) < limits.MAX_POINTS_PER_SERIES
        its_own = points.steps if is_whole and is_finite(points.values) else None
        is_alike = shared is not None and its_own is not None and np.array_equal(shared, its_own)
        if together and (not is_alike or len(together) == _SERIES_TOGETHER):
            yield together
            together = []
        together.append(item)
        shared = its_own
    if together:
        yield together


def _pages_after(connection: sa.Connection, series: FloatRequest, page: FloatPage) -> Iterator[FloatPage]:
    while len(page.points) == limits.MAX_POINTS_PER_SERIES:
        walk = Walk(after=int(page.points.steps[-1]))
        (page,) = float_pages(
            connection, [FloatRequest(series.segments, walk, series.with_previews)], limits.MAX_POINTS_PER_SERIES
        )
        yield page


class _Answer:
    """Put points into an answer until it is full; series that were not reached are in it without points."""

    def __init__(self, walk: Walk, limit: int | None, room: int, *, use_deprecated: bool) -> None:
        self.response = series_pb2.SeriesValuesResponse()
        self._walk = walk
        self._limit = limit
        self._room = room
        self._is_empty = True
        self._is_full = False
        self._use_deprecated = use_deprecated

    def add(
        self,
        connection: sa.Connection,
        item: pb.SeriesQuery,
        place: tuple[int, int] | None,
        segments: Sequence[Segment],
        spans: dict[int, list[ChunkSpan]],
    ) -> None:
        """Add a series, from a place on: how many points were sent before, and the step of the last one."""
        message = self.response.series.add(request_id=item.request_id)
        is_text = segments[0].row.type == AttributeType.ATTRIBUTE_TYPE_STRING_SERIES
        fill_deprecated = is_text and self._use_deprecated
        values = message.string_series if fill_deprecated else message.series_values
        values.SetInParent()
        if item.search_after.finished:
            message.search_after.CopyFrom(item.search_after)
            return
        sent, last = place or (0, 0)
        walk = Walk(self._walk.lower, self._walk.upper, self._walk.descending, None if place is None else last)
        for step, timestamp, payload in _points(payload_blocks(connection, segments, walk, spans)):
            if self._limit is not None and sent >= self._limit:
                break
            size = len(payload) + _POINT_BYTES
            if self._is_full or (size > self._room and not self._is_empty):
                # The series that fills the answer says where to go on even if none of its points got in, so that some
                # series of an unfinished answer always does. Those behind it keep the place they had.
                if place is not None or not self._is_full:
                    message.search_after.finished = False
                    message.search_after.token = page_tokens.encode(_LISTING, sent, last)
                self._is_full = True
                return
            point = values.values.add(
                timestamp_millis=timestamp, step=steps.to_double(step), completion_ratio=1, object=point_value(payload)
            )
            if fill_deprecated:
                point.value = point.object.string_value
            self._is_empty = False
            self._room -= size
            sent, last = sent + 1, step
        message.search_after.finished = True
        message.search_after.token = page_tokens.encode(_LISTING, sent, last)


def _points(blocks: Iterable[PayloadColumns]) -> Iterator[tuple[int, int, bytes]]:
    for block in blocks:
        yield from zip(block.steps.tolist(), block.timestamps.tolist(), block.payloads, strict=True)


def _check_query(checks: Checks, query: Query) -> None:
    checks.known("request.order", query.order, SortDirection)
    _check_range(checks, "request.step_range", query.step_range)
    seen: set[str] = set()
    items: Sequence[pb.FloatSeriesQuery | pb.SeriesQuery] = query.requests
    for position, item in enumerate(items):
        if not item.request_id or item.request_id in seen:
            reason = "is given twice; each series has an id of its own" if item.request_id else "is required"
            checks.add(f"request.requests[{position}].request_id", reason)
        seen.add(item.request_id)
        _check_series(checks, f"request.requests[{position}].series", item.series)


def _check_series(checks: Checks, field: str, series: TimeSeries) -> None:
    if not series.attribute:
        checks.add(f"{field}.attribute", "is required")
    if series.holder.type not in {"", "experiment"}:
        checks.add(f"{field}.holder.type", "has to be experiment")
    if series.lineage or series.lineage_entity_type:
        checks.known(f"{field}.lineage", series.lineage, Lineage)
        checks.known(f"{field}.lineage_entity_type", series.lineage_entity_type, LineageEntityType)
    if series.normalize_to_first_value:
        raise unimplemented(
            "values are not normalised here; divide them by the first one", f"{field}.normalize_to_first_value"
        )


def _check_range(checks: Checks, field: str, bounds: StepRange) -> None:
    for end, step in (("from", bounds.lower), ("to", bounds.upper)):
        if math.isnan(step):
            checks.add(f"{field}.{end}", "is NaN; say a step or leave it out")


def _scope(series: TimeSeries) -> Scope:
    if series.lineage != Lineage.LINEAGE_NONE:
        return Scope.FULL
    if series.lineage_entity_type == LineageEntityType.LINEAGE_ENTITY_TYPE_EXPERIMENT:
        return Scope.EXPERIMENT
    return Scope.RUN


def _walk(query: Query, after_step: float | None = None) -> Walk:
    descending = query.order == SortDirection.SORT_DIRECTION_DESCENDING
    after: int | None = None
    if after_step is not None:
        after = steps.first_from(after_step) if descending else steps.last_until(after_step)
    bounds = _range(query.step_range)
    return Walk(bounds.lower, bounds.upper, descending, after)


def _range(bounds: StepRange) -> Walk:
    return Walk(
        steps.first_from(bounds.lower) if bounds.HasField("lower") else 0,
        steps.last_until(bounds.upper) if bounds.HasField("upper") else steps.END,
    )


def _place(position: int, item: pb.SeriesQuery) -> tuple[int, int] | None:
    if not item.search_after.token or item.search_after.finished:
        return None
    field = f"request.requests[{position}].search_after.token"
    sent, last = page_tokens.decode(field, item.search_after.token, _LISTING, [int, int])
    return (sent, last) if sent else None


def _check_active(context: grpc.ServicerContext) -> None:
    if not context.is_active():
        raise StatusError(grpc.StatusCode.CANCELLED, "The caller no longer waits for the answer.")
