"""Reading attributes through the wire under test, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neptune_api.v1 import attributes_service_pb2 as pb
from neptune_api.v1.queries_pb2 import (
    AttributeNameFilter,
    AttributeNameFilterList,
    AttributeType,
    AttributeTypeFilter,
    StringList,
)
from neptune_api.v1.runs_service_pb2 import GetRunRequest, Run
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neptune_api.conformance.connections import Connection
    from neptune_api.v1.attributes_pb2 import Attribute

    Pair = tuple[str, str]

SERIES = (
    AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES,
    AttributeType.ATTRIBUTE_TYPE_STRING_SERIES,
    AttributeType.ATTRIBUTE_TYPE_HISTOGRAM_SERIES,
    AttributeType.ATTRIBUTE_TYPE_FILE_REF_SERIES,
)


def run_of(connection: Connection, identifier: str, name: str) -> Run:
    request = GetRunRequest(experiment_id=f"CUSTOM/{identifier}/{name}")
    run: Run = connection.stub(RunsServiceStub).GetRun(request)
    return run


def of_types(types: Iterable[AttributeType.ValueType]) -> list[AttributeTypeFilter]:
    return [AttributeTypeFilter(attribute_type=type_) for type_ in types]


def user_names() -> AttributeNameFilter:
    return AttributeNameFilter(must_not_match_regexes=["^sys/"])


def one_of(*alternatives: AttributeNameFilter) -> AttributeNameFilter:
    return AttributeNameFilter(must_match_any=AttributeNameFilterList(values=alternatives))


def values(attributes: Any, identifier: str, **query: Any) -> list[tuple[str, str]]:
    """Return (run's short id, path) of every value on every page."""
    cells: list[tuple[str, str]] = []
    limit = query.pop("limit", None)
    message = pb.AttributeValuesQuery(**query)
    while True:
        if limit is not None:
            message.next_page.limit = limit
        page = attributes.QueryAttributeValues(
            pb.QueryAttributeValuesRequest(project_identifier=identifier, query=message)
        )
        found = [(entry.experiment_short_id, item.name) for entry in page.entries for item in entry.attributes]
        assert limit is None or len(found) <= limit
        assert len({entry.experiment_short_id for entry in page.entries}) == len(page.entries)
        cells += found
        if not page.next_page.next_page_token:
            return cells
        assert found
        message.next_page.next_page_token = page.next_page.next_page_token


def definitions(attributes: Any, *projects: str, limit: int | None = None, **query: Any) -> list[Pair]:
    """Return (name, type) of every definition on every page, each of which but the last is full."""
    found: list[Pair] = []
    message = pb.AttributeDefinitionsQuery(project_identifiers=projects, **query)
    while True:
        if limit is not None:
            message.next_page.limit = limit
        page = attributes.QueryAttributeDefinitions(pb.QueryAttributeDefinitionsRequest(query=message))
        assert page.HasField("next_page")
        found += [(entry.name, entry.type) for entry in page.entries]
        if not page.next_page.next_page_token:
            return found
        assert len(page.entries) == limit
        message.next_page.next_page_token = page.next_page.next_page_token


def by_name(attributes: Any, run: str, *names: str) -> dict[str, Attribute]:
    query = pb.AttributePathsQuery(attribute_paths_filter=StringList(values=names)) if names else None
    answer = attributes.GetAttributes(pb.GetAttributesRequest(holder_identifier=run, query=query))
    return {item.name: item for item in answer.attributes}
