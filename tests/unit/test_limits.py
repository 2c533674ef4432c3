"""Limits that one wire shows as well as all, answers that have one, and that every limit is met by a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

import neptune_api
from neptune_api.conformance.behaviours.test_limits import COSTLY, REFUSED, REPORTED, Scene, check_refused
from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.logging_helpers import log
from neptune_api.exceptions import NeptuneApiError, ResourceExhaustedException
from neptune_api.models import (
    AttributePathFilter,
    AttributeValuesQuery,
    GetUserIdentityRequest,
    LeaderboardSearch,
    Limits,
    QueryAttributeValuesRequest,
    SearchLeaderboardEntriesRequest,
    StringList,
)
from neptune_api.server import limits
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server.testing import ScriptedServer

ROOT = Path(__file__).resolve().parents[2]
BEHAVIOURS = "neptune_api/conformance/behaviours"
# Limits that other tests meet, by file and function.
ELSEWHERE = {
    "max_request_bytes": (f"{BEHAVIOURS}/test_bad_input.py", "test_request_over_the_limit"),
    "max_step": (f"{BEHAVIOURS}/test_ingest_codes.py", "test_code"),
    "step_resolution": (f"{BEHAVIOURS}/test_ingest_codes.py", "test_code"),
    "max_bulk_runs": (
        f"{BEHAVIOURS}/test_bulk_runs.py",
        "test_ten_thousand_runs_at_once_and_no_more",
    ),
    "request_status_retention_seconds": (
        "tests/unit/test_oplog.py",
        "test_old_outcomes_are_forgotten_and_pending_ones_are_not",
    ),
    "max_points_per_answer": (
        f"{BEHAVIOURS}/test_float_series.py",
        "test_an_answer_does_not_grow_without_end",
    ),
    "max_series_answer_bytes": (
        f"{BEHAVIOURS}/test_series_values.py",
        "test_answers_have_sixteen_mebibytes_at_most",
    ),
    "max_values_page_bytes": ("tests/unit/test_limits.py", "test_pages_of_values_end_where_they_are_large"),
    "max_search_answer_bytes": ("tests/unit/test_limits.py", "test_pages_of_searches_do_not_grow_without_end"),
    "max_idempotency_key_bytes": (
        f"{BEHAVIOURS}/test_ingest.py",
        "test_a_key_has_128_bytes_at_most",
    ),
    "max_files_to_sign": (
        f"{BEHAVIOURS}/test_storage.py",
        "test_requests_have_a_limit_in_files",
    ),
    "max_file_path_bytes": (f"{BEHAVIOURS}/test_storage.py", "test_paths_have_a_limit_in_bytes"),
    "max_batch_id_bytes": (f"{BEHAVIOURS}/test_append_columns.py", "test_a_batch_id_of_128_bytes"),
    "max_column_series": (
        f"{BEHAVIOURS}/test_append_columns.py",
        "test_the_most_series_of_a_batch",
    ),
    "max_streams": ("tests/contract/test_doors.py", "test_one_stream_too_many_is_refused"),
    "max_http_connections": ("tests/http/test_limits.py", "test_connections"),
    "max_http_target_bytes": ("tests/http/test_limits.py", "test_targets"),
    "max_http_headers_bytes": ("tests/http/test_limits.py", "test_headers"),
    "max_http_headers": ("tests/http/test_limits.py", "test_headers"),
    "max_metadata_bytes": ("tests/unit/test_limits.py", "test_metadata_have_a_limit"),
    "max_mime_type_bytes": ("tests/files/test_door.py", "test_a_type_has_a_limit"),
    "max_signed_url_seconds": ("tests/files/test_signing.py", "test_urls_are_valid_for_some_time_and_not_for_ever"),
}


@pytest.fixture
def scene(neptune_server: ScriptedServer, neptune_project: str) -> Iterator[Scene]:
    connection = GrpcConnection(neptune_server.channel(), http=False)
    yield Scene(connection, neptune_project, neptune_server.workspace)
    connection.close()


def test_every_limit_is_met_by_a_test() -> None:
    fields = {field.name for field in Limits.DESCRIPTOR.fields}
    assert [*REFUSED, *REPORTED, *ELSEWHERE] == list(dict.fromkeys([*REFUSED, *REPORTED, *ELSEWHERE]))
    assert {*REFUSED, *REPORTED, *ELSEWHERE} == fields
    for file, function in ELSEWHERE.values():
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}: {function}"


@pytest.mark.parametrize("field", COSTLY)
def test_costly_calls(scene: Scene, field: str) -> None:
    check_refused(scene, field)


def test_pages_of_values_end_where_they_are_large(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"text/{number}" for number in range(6)]
    log(scene.connection, scene.identifier, "r", configs=dict.fromkeys(names, "x" * 1000))
    monkeypatch.setattr(limits, "MAX_VALUES_PAGE_BYTES", 2500)
    attributes = scene.stub(AttributesServiceStub)
    query = AttributeValuesQuery(attribute_names_filter=StringList(values=names))
    pages: list[list[str]] = []
    while True:
        request = QueryAttributeValuesRequest(project_identifier=scene.identifier, query=query)
        answer = attributes.QueryAttributeValues(request)
        pages.append([attribute.name for entry in answer.entries for attribute in entry.attributes])
        if not answer.next_page.next_page_token:
            break
        query.next_page.next_page_token = answer.next_page.next_page_token
    assert [name for page in pages for name in page] == names
    assert {len(page) for page in pages} == {2}


def test_pages_of_searches_do_not_grow_without_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    log(scene.connection, scene.identifier, "r", configs=dict.fromkeys("ab", "x" * 10_000))
    params = LeaderboardSearch(attribute_filters=[AttributePathFilter(path=path) for path in "ab"])
    search = SearchLeaderboardEntriesRequest(project_identifier=scene.identifier, params=params)
    entries = scene.stub(LeaderboardServiceStub)
    assert entries.SearchLeaderboardEntries(search).matching_item_count == 1
    monkeypatch.setattr(limits, "MAX_SEARCH_ANSWER_BYTES", 19_000)
    with pytest.raises(ResourceExhaustedException, match="more than 19,000 bytes: ask for fewer runs"):
        entries.SearchLeaderboardEntries(search)
    del params.attribute_filters[1]
    search.params.CopyFrom(params)
    assert entries.SearchLeaderboardEntries(search).matching_item_count == 1
    monkeypatch.setattr(limits, "MAX_SEARCH_ANSWER_BYTES", 9_000)
    with pytest.raises(ResourceExhaustedException, match="more than 9,000 bytes: ask for fewer runs"):
        entries.SearchLeaderboardEntries(search)


def test_metadata_have_a_limit(neptune_server: ScriptedServer) -> None:
    with neptune_api.channel(neptune_server.grpc_url, api_token=neptune_server.api_token) as channel:
        users = UsersServiceStub(channel)
        # HTTP/2 counts 32 bytes for each, and gRPC has some of its own.
        room = limits.MAX_METADATA_BYTES - 4096
        users.GetUserIdentity(GetUserIdentityRequest(), metadata=(("x-much", "x" * room),))
        with pytest.raises(NeptuneApiError) as caught:
            users.GetUserIdentity(GetUserIdentityRequest(), metadata=(("x-much", "x" * limits.MAX_METADATA_BYTES),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
