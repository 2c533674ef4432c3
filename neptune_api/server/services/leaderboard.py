"""LeaderboardService: searching runs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

import grpc

from neptune_api.server import limits, nql
from neptune_api.server.attribute_messages import encode_by_run, encode_field
from neptune_api.server.errors import StatusError, syntax_error, unimplemented
from neptune_api.server.handlers import Encoded
from neptune_api.server.store import attribute_columns, search
from neptune_api.server.store.attributes import TooManyBytesError
from neptune_api.server.store.kept_searches import KeptSearches
from neptune_api.server.store.search import Order
from neptune_api.server.store.series import FloatSummaries
from neptune_api.server.validation import Checks, shown
from neptune_api.v1 import attributes_pb2, leaderboard_service_pb2_grpc
from neptune_api.v1 import leaderboard_service_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType, SortDirection
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import sqlalchemy as sa

    from neptune_api.server.access import Access
    from neptune_api.server.store.attributes import RunRow
    from neptune_api.server.store.records import ProjectRecord
    from neptune_api.server.store.store import Store

_QUERY: Final = "params.query.query"
_DEFAULT_SORT: Final = "sys/creation_time"
_AGGREGATES: Final[dict[int, nql.Aggregate]] = {
    pb.AGGREGATION_MODE_MIN: nql.Aggregate.MIN,
    pb.AGGREGATION_MODE_MAX: nql.Aggregate.MAX,
    pb.AGGREGATION_MODE_AVERAGE: nql.Aggregate.AVERAGE,
    pb.AGGREGATION_MODE_VARIANCE: nql.Aggregate.VARIANCE,
}
# What entries of a search of all projects carry without being asked: what names a run.
_NAMES: Final = ("sys/id", "sys/name", "sys/custom_run_id")
# Wire format: tags of LeaderboardEntries.entries and of the fields of Attributes.
_ENTRIES: Final = b"\x1a"
_EXPERIMENT_ID: Final = b"\x0a"
_ATTRIBUTES: Final = b"\x3a"


class LeaderboardService(leaderboard_service_pb2_grpc.LeaderboardServiceServicer):
    """Search runs by NQL."""

    def __init__(self, *, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self._summaries = FloatSummaries()
        self._kept = KeptSearches()

    def SearchLeaderboardEntries(  # type: ignore[override]  # see Encoded
        self, request: pb.SearchLeaderboardEntriesRequest, context: grpc.ServicerContext
    ) -> Encoded:
        with Checks() as checks:
            for type_ in request.type:
                if type_ != "run":
                    checks.add("type", f'is "{shown(type_)}"; only run is known')
            _check(checks, request.params)
        query = _parse(request.params.query.query, self._store.clock())
        project = self._access.project(
            request.project_identifier, PROJECT_ROLE_VIEWER, missing=grpc.StatusCode.PERMISSION_DENIED
        )
        names = frozenset(item.path for item in request.params.attribute_filters)
        return self._search([project], request.params, query, names, context)

    def SearchGlobalLeaderboardEntries(  # type: ignore[override]  # see Encoded
        self, request: pb.SearchGlobalLeaderboardEntriesRequest, context: grpc.ServicerContext
    ) -> Encoded:
        with Checks() as checks:
            _check(checks, request.params)
        query = _parse(request.params.query.query, self._store.clock())
        names = frozenset(_NAMES).union(item.path for item in request.params.attribute_filters)
        return self._search(self._access.visible_projects(), request.params, query, names, context)

    def _search(
        self,
        projects: Sequence[ProjectRecord],
        params: pb.LeaderboardSearch,
        query: nql.Node,
        names: frozenset[str],
        context: grpc.ServicerContext,
    ) -> Encoded:
        def check() -> None:
            if not context.is_active():
                raise StatusError(grpc.StatusCode.CANCELLED, "The caller no longer waits for the answer.")

        by_id = {project.id: project for project in projects}
        longest = params.truncate_string_to if params.HasField("truncate_string_to") else None
        with self._store.database.read() as connection:
            found = search.search(
                connection,
                list(by_id),
                query,
                _order(params.sorting),
                heads_only=params.experiment_leader,
                offset=params.pagination.offset,
                limit=_limit(params.pagination),
                summaries=self._summaries,
                now=self._store.clock(),
                check=check,
                kept=self._kept,
            )
            entries = search.entries(connection, found.keys)
            carried: dict[int, bytes] = {}
            for part in self._read(connection, entries, names):
                check()
                # Joined at once: a cell by itself takes twice the memory.
                cells = encode_by_run(part, _ATTRIBUTES, longest=longest)
                carried.update((key, b"".join(fields)) for key, fields in cells)
        whose = {key: _encode_project(project) for key, project in by_id.items()}
        parts = [attributes_pb2.LeaderboardEntries(matching_item_count=found.total).SerializeToString()]
        for key, uuid, _, _, project_id in entries:
            fields = (encode_field(_EXPERIMENT_ID, uuid.encode()), whose[project_id], carried.pop(key, b""))
            parts.append(encode_field(_ENTRIES, b"".join(fields)))
        return Encoded(b"".join(parts))

    def _read(
        self, connection: sa.Connection, runs: Collection[RunRow], names: Collection[str]
    ) -> Iterator[attribute_columns.Part]:
        most = limits.MAX_SEARCH_ANSWER_BYTES
        try:
            yield from attribute_columns.read(connection, runs, names, self._summaries, max_bytes=most)
        except TooManyBytesError:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The page would have more than {most:,} bytes: ask for fewer runs or attributes at once.",
            ) from None


def _encode_project(project: ProjectRecord) -> bytes:
    """Return the fields of Attributes that are the same for all runs of a project."""
    return attributes_pb2.Attributes(
        type="run",
        project_id=project.uuid,
        organization_id=project.workspace_uuid,
        project_name=project.name,
        organization_name=project.workspace,
    ).SerializeToString()


def _check(checks: Checks, params: pb.LeaderboardSearch) -> None:
    if params.grouping.group_by:
        raise unimplemented("runs are not grouped here; sort by the attribute, and group what comes", "params.grouping")
    if params.query_name_aliases.experiment_aliases or params.query_name_aliases.run_aliases:
        raise unimplemented(
            "queries know no aliases here; name runs and experiments by their own names", "params.query_name_aliases"
        )
    pagination = params.pagination
    if pagination.limit < 0 or pagination.limit > limits.MAX_PAGE_SIZE:
        checks.add("params.pagination.limit", f"is {pagination.limit}; it must be from 0 to {limits.MAX_PAGE_SIZE:,}")
    if pagination.offset < 0:
        checks.add(
            "params.pagination.offset", f"is {pagination.offset}; it must not be negative", reason="INVALID_OFFSET"
        )
    if params.truncate_string_to < 0:
        checks.add("params.truncate_string_to", f"is {params.truncate_string_to}; it must not be negative")
    sorting = params.sorting
    checks.known("params.sorting.dir", sorting.dir, SortDirection)
    checks.known("params.sorting.sort_by.type", sorting.sort_by.type, AttributeType)
    if sorting.HasField("sort_by") and not sorting.sort_by.name:
        checks.add("params.sorting.sort_by.name", "is required: a path", reason="INVALID_SORT_PARAMS")
    size = len(params.query.query.encode())
    if size > limits.MAX_QUERY_BYTES:
        checks.add(_QUERY, f"is {size:,} bytes long, the limit is {limits.MAX_QUERY_BYTES:,} bytes of UTF-8")


def _parse(text: str, now: float) -> nql.Node:
    try:
        return nql.parse(text, datetime.fromtimestamp(now, timezone.utc))
    except nql.QueryError as error:
        raise syntax_error(_QUERY, str(error), position=error.position, expected=error.expected) from None


def _limit(pagination: pb.Pagination) -> int:
    return pagination.limit if pagination.HasField("limit") else limits.MAX_PAGE_SIZE


def _order(sorting: pb.Sorting) -> Order:
    descending = sorting.dir != SortDirection.SORT_DIRECTION_ASCENDING
    if not sorting.HasField("sort_by"):
        return Order(_DEFAULT_SORT, AttributeType.ATTRIBUTE_TYPE_DATETIME, None, descending)
    # Some clients put the aggregate here, others there; modes that name none mean the last value.
    aggregate = _AGGREGATES.get(sorting.sort_by.aggregation_mode) or _AGGREGATES.get(sorting.aggregation_mode)
    field = sorting.sort_by
    return Order(field.name, field.type or None, aggregate or nql.Aggregate.LAST, descending)
