"""AttributesService: values and definitions of attributes."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

import grpc

from neptune_api.server import limits, page_tokens
from neptune_api.server.attribute_messages import (
    TYPE_NAMES,
    encode_attributes,
    encode_by_run,
    encode_definitions,
    encode_field,
    encode_parts,
)
from neptune_api.server.errors import StatusError, denied, invalid, not_found
from neptune_api.server.handlers import Encoded
from neptune_api.server.name_filters import NameFilter
from neptune_api.server.regexes import RegexError, searcher
from neptune_api.server.run_lookup import find_anywhere, find_in_project, parse_holder
from neptune_api.server.store import definitions, value_pages
from neptune_api.server.store.attributes import AttributeFilter, Place, values_of_run
from neptune_api.server.store.series import FloatSummaries
from neptune_api.server.validation import Checks
from neptune_api.v1 import attributes_pb2, attributes_service_pb2_grpc
from neptune_api.v1 import attributes_service_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import sqlalchemy as sa

    from neptune_api.server.access import Access
    from neptune_api.server.store.definitions import Definition
    from neptune_api.server.store.records import ProjectRecord
    from neptune_api.server.store.runs import RunRecord
    from neptune_api.server.store.store import Store
    from neptune_api.v1.queries_pb2 import AttributeNameFilter, AttributeTypeFilter

    Matches = Callable[[str], bool]
    OfOneRun = pb.GetAttributeDefinitionsRequest | pb.FilterAttributeDefinitionsRequest | pb.GetAttributeTreeRequest

_VALUES: Final = "values"
_DEFINITIONS: Final = "definitions"

# Wire format: tags of the fields of AttributeValues and answers with definitions, RunAttributeValues and Attributes.
_ENTRIES: Final = b"\x0a"
_ID: Final = b"\x0a"
_SHORT_ID: Final = b"\x12"
_ATTRIBUTES_OF_RUN: Final = b"\x1a"
_ATTRIBUTES: Final = b"\x3a"


class AttributesService(attributes_service_pb2_grpc.AttributesServiceServicer):
    """Read values and definitions of attributes."""

    def __init__(self, *, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self._summaries = FloatSummaries()

    def QueryAttributeValues(  # type: ignore[override]  # see Encoded
        self, request: pb.QueryAttributeValuesRequest, context: grpc.ServicerContext
    ) -> Encoded:
        query = request.query
        names = query.attribute_names_filter.values if query.HasField("attribute_names_filter") else None
        which = AttributeFilter(
            None if names is None else frozenset(names),
            _types("query.attribute_filter", _listed(query.attribute_filter)),
            _remembered(_name_filter("query.attribute_name_filter", query.attribute_name_filter).passes)
            if query.HasField("attribute_name_filter")
            else None,
        )
        limit, token = _page("query.next_page", query.next_page)
        after = None
        if token:
            after = Place(*page_tokens.decode("query.next_page.next_page_token", token, _VALUES, [int, str]))
        project = self._access.project(request.project_identifier, PROJECT_ROLE_VIEWER)
        with self._store.database.read() as connection:
            numbers: list[int] | None = None
            if query.HasField("experiment_ids_filter"):
                found = find_in_project(connection, project, query.experiment_ids_filter.values)
                numbers = [run.number for run in found.values()]
            page = value_pages.page(connection, project.id, numbers, which, self._summaries, after=after, limit=limit)
        rest = attributes_pb2.AttributeValues()
        rest.next_page.limit = limit
        if page.end is not None:
            rest.next_page.next_page_token = page_tokens.encode(_VALUES, *page.end)
        parts: list[bytes] = []
        for key, fields in chain.from_iterable(encode_by_run(part, _ATTRIBUTES_OF_RUN) for part in page.parts):
            if any(fields):
                run = page.runs[key]
                whose = (
                    encode_field(_ID, run.uuid.encode()),
                    encode_field(_SHORT_ID, f"{project.key}-{run.number}".encode()),
                )
                parts += encode_parts(_ENTRIES, [*whose, *fields])
        return Encoded(b"".join([*parts, rest.SerializeToString()]))

    def GetAttributes(  # type: ignore[override]  # see Encoded
        self, request: pb.GetAttributesRequest, context: grpc.ServicerContext
    ) -> Encoded:
        if request.holder_type not in {"", "experiment"}:
            raise invalid("holder_type", "has to be experiment, or left out.")
        names: frozenset[str] | None = None
        if request.query.HasField("attribute_paths_filter"):
            names = frozenset(request.query.attribute_paths_filter.values)
        with self._store.database.read() as connection:
            run, project = self._holder(connection, "holder_identifier", request.holder_identifier)
            rows = values_of_run(connection, run.key, AttributeFilter(names), self._summaries)
        whose = attributes_pb2.Attributes(
            experiment_id=run.uuid,
            type="run",
            project_id=project.uuid,
            organization_id=project.workspace_uuid,
            project_name=project.name,
            organization_name=project.workspace,
        )
        return Encoded(b"".join([whose.SerializeToString(), *encode_attributes(rows, _ATTRIBUTES)]))

    def QueryAttributeDefinitions(  # type: ignore[override]  # see Encoded
        self, request: pb.QueryAttributeDefinitionsRequest, context: grpc.ServicerContext
    ) -> Encoded:
        query = request.query
        names: NameFilter | None = None
        if query.HasField("attribute_name_filter"):
            names = _name_filter("query.attribute_name_filter", query.attribute_name_filter)
        if query.HasField("attribute_name_regex"):
            regex = _regex("query.attribute_name_regex", query.attribute_name_regex)
            names = NameFilter((regex,), any_of=None if names is None else (names,))
        types = _types("query.attribute_filter", _listed(query.attribute_filter))
        limit, token = _page("query.next_page", query.next_page)
        after = None
        if token:
            last_name, last_type = page_tokens.decode(
                "query.next_page.next_page_token", token, _DEFINITIONS, [str, int]
            )
            after = (last_name, last_type)
        beside = [request.project_identifier] if request.HasField("project_identifier") else []
        projects = self._accessible([*beside, *query.project_identifiers])
        with self._store.database.read() as connection:
            keys: set[int] | None = None
            if query.HasField("experiment_ids_filter"):
                ids = query.experiment_ids_filter.values
                keys = {run.key for item in projects for run in find_in_project(connection, item, ids).values()}
            page, has_more = definitions.page(
                connection, [item.id for item in projects], keys, types=types, names=names, after=after, limit=limit
            )
        rest = pb.QueryAttributeDefinitionsResponse()
        rest.next_page.limit = limit
        if has_more:
            rest.next_page.next_page_token = page_tokens.encode(_DEFINITIONS, *page[-1])
        return Encoded(encode_definitions(page, _ENTRIES) + rest.SerializeToString())

    def GetAttributeDefinitions(  # type: ignore[override]  # see Encoded
        self, request: pb.GetAttributeDefinitionsRequest, context: grpc.ServicerContext
    ) -> Encoded:
        return Encoded(encode_definitions(self._definitions(request), _ENTRIES))

    def FilterAttributeDefinitions(  # type: ignore[override]  # see Encoded
        self, request: pb.FilterAttributeDefinitionsRequest, context: grpc.ServicerContext
    ) -> Encoded:
        query = request.query
        names: NameFilter | None = None
        if query.HasField("attribute_name_filter"):
            names = _name_filter("query.attribute_name_filter", query.attribute_name_filter)
        return Encoded(encode_definitions(self._definitions(request, names), _ENTRIES))

    def GetAttributeTree(self, request: pb.GetAttributeTreeRequest, context: grpc.ServicerContext) -> pb.AttributeTree:
        limit = request.limit if request.HasField("limit") else limits.MAX_PAGE_SIZE
        with Checks() as checks:
            checks.page(offset=request.offset, limit=limit)
        by_levels, prefix = request.HasField("prefix"), request.prefix
        entries: list[Definition] = []
        sub_paths: dict[str, None] = {}
        for name, type_ in self._definitions(request):
            slash = name.find("/", len(prefix)) if by_levels else -1
            if not name.startswith(prefix):
                continue
            if slash < 0:
                entries.append((name, type_))
            else:
                sub_paths[name[: slash + 1]] = None
        page = entries[request.offset : request.offset + limit]
        return pb.AttributeTree(
            entries=(attributes_pb2.AttributeDefinition(name=name, type=TYPE_NAMES[type_]) for name, type_ in page),
            sub_paths=sub_paths,
            total_count=len(entries),
        )

    def _definitions(self, request: OfOneRun, names: NameFilter | None = None) -> list[Definition]:
        types = _types("attribute_type", request.attribute_type)
        with self._store.database.read() as connection:
            run, _ = self._holder(connection, "experiment_identifier", request.experiment_identifier)
            return definitions.of_run(connection, run.key, types=types, names=names)

    def _holder(self, connection: sa.Connection, field: str, text: str) -> tuple[RunRecord, ProjectRecord]:
        identifier = parse_holder(field, text)
        found = find_anywhere(connection, self._access, [identifier], PROJECT_ROLE_VIEWER).get(identifier)
        if found is None:
            raise not_found("There is no such run, or you may not see it.", "ATTRIBUTES_CONTAINER_NOT_FOUND")
        return found

    def _accessible(self, identifiers: Iterable[str]) -> list[ProjectRecord]:
        with Checks() as checks:
            checks.required("query.project_identifiers", list(identifiers))
        projects: dict[int, ProjectRecord] = {}
        for identifier in dict.fromkeys(identifiers):
            try:
                project = self._access.project(identifier, PROJECT_ROLE_VIEWER)
            except StatusError as error:
                if error.code not in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED}:
                    raise
                continue
            projects[project.id] = project
        if not projects:
            raise denied("None of the projects exists, or you may not see them.")
        return list(projects.values())


def _page(field: str, page: attributes_pb2.NextPage) -> tuple[int, str]:
    """Return how much the page may hold and the token of its beginning, empty for the first page."""
    limit = page.limit if page.HasField("limit") else limits.MAX_PAGE_SIZE
    if not 1 <= limit <= limits.MAX_PAGE_SIZE:
        raise invalid(f"{field}.limit", f"is {limit}; it has to be 1 to {limits.MAX_PAGE_SIZE:,}.")
    return limit, page.next_page_token


def _listed(filters: Iterable[AttributeTypeFilter]) -> list[AttributeType.ValueType]:
    return [item.attribute_type for item in filters]


def _types(field: str, types: Sequence[AttributeType.ValueType]) -> frozenset[int] | None:
    with Checks() as checks:
        for type_ in types:
            checks.known(field, type_, AttributeType, required=True)
    return frozenset(types) or None


def _name_filter(field: str, filter_: AttributeNameFilter) -> NameFilter:
    any_of: tuple[NameFilter, ...] | None = None
    found = tuple(_regex(f"{field}.must_match_regexes", pattern) for pattern in filter_.must_match_regexes)
    absent = tuple(_regex(f"{field}.must_not_match_regexes", pattern) for pattern in filter_.must_not_match_regexes)
    if filter_.HasField("must_match_any"):
        any_of = tuple(_name_filter(f"{field}.must_match_any", item) for item in filter_.must_match_any.values)
    return NameFilter(found, absent, any_of)


def _regex(field: str, pattern: str) -> str:
    try:
        searcher(pattern)
    except RegexError as error:
        raise invalid(field, str(error)) from None
    return pattern


def _remembered(matches: Matches) -> Matches:
    """Return a function that asks another one about each name once: the same names come back run after run."""
    known: dict[str, bool] = {}

    def remembered(name: str) -> bool:
        result = known.get(name)
        if result is None:
            result = known[name] = matches(name)
        return result

    return remembered
