"""Searching runs through the wire under test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neptune_api.v1.leaderboard_service_pb2 import (
    AttributePathFilter,
    LeaderboardSearch,
    NqlQuery,
    Pagination,
    SearchGlobalLeaderboardEntriesRequest,
    SearchLeaderboardEntriesRequest,
    SortField,
    Sorting,
)
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.queries_pb2 import AttributeType, SortDirection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neptune_api.conformance.connections import Connection
    from neptune_api.v1.attributes_pb2 import Attributes, LeaderboardEntries

ASCENDING = SortDirection.SORT_DIRECTION_ASCENDING
DESCENDING = SortDirection.SORT_DIRECTION_DESCENDING
RUN_ID = "sys/custom_run_id"


def sorting(name: str = "sys/creation_time", type_: str | None = "datetime", **more: Any) -> Sorting:
    """Return an order by an attribute with a type named as in queries, ascending unless said otherwise."""
    field = SortField(name=name)
    if type_ is not None:
        snake = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in type_)
        field.type = AttributeType.Value(f"ATTRIBUTE_TYPE_{snake}")
    return Sorting(sort_by=field, dir=more.pop("dir", ASCENDING), **more)


def params(
    query: str | None = None,
    *,
    order: Sorting | None = None,
    limit: int | None = 10_000,
    offset: int | None = None,
    attributes: Iterable[str] = (RUN_ID,),
    heads: bool = False,
    **more: Any,
) -> LeaderboardSearch:
    """Return a search as clients send it, oldest first unless said otherwise."""
    return LeaderboardSearch(
        query=None if query is None else NqlQuery(query=query),
        sorting=sorting() if order is None else order,
        pagination=Pagination(limit=limit, offset=offset),
        attribute_filters=[AttributePathFilter(path=path) for path in attributes],
        experiment_leader=heads,
        **more,
    )


def search(connection: Connection, project: str, query: str | None = None, **more: Any) -> LeaderboardEntries:
    """Search the runs of a project."""
    request = SearchLeaderboardEntriesRequest(project_identifier=project, type=["run"], params=params(query, **more))
    found: LeaderboardEntries = connection.stub(LeaderboardServiceStub).SearchLeaderboardEntries(request)
    return found


def search_everywhere(connection: Connection, query: str | None = None, **more: Any) -> LeaderboardEntries:
    """Search the runs of every project."""
    request = SearchGlobalLeaderboardEntriesRequest(params=params(query, attributes=(), **more))
    found: LeaderboardEntries = connection.stub(LeaderboardServiceStub).SearchGlobalLeaderboardEntries(request)
    return found


def texts(entry: Attributes) -> dict[str, str]:
    """Return the texts that an entry carries."""
    return {item.name: item.string_properties.value for item in entry.attributes if item.type == "string"}


def names(found: LeaderboardEntries) -> list[str]:
    """Return the run ids of entries."""
    return [texts(entry)[RUN_ID] for entry in found.entries]


def matching(connection: Connection, project: str, query: str | None = None, **more: Any) -> list[str]:
    """Return the ids of the runs of a project that a query holds for, after a look at the count."""
    found = search(connection, project, query, **more)
    assert found.matching_item_count == len(found.entries)
    return names(found)
