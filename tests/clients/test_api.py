"""Every endpoint of neptune-api 0.26.0's own client, over HTTP; each answer is the one our stub gives over gRPC."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf import json_format

from neptune_api.conformance.operations import assign, create, snapshot, update
from neptune_api.exceptions import UnimplementedException
from neptune_api.v1 import attributes_pb2 as attribute_messages
from neptune_api.v1 import attributes_service_pb2 as attributes
from neptune_api.v1 import config_service_pb2 as config
from neptune_api.v1 import ingest_pb2 as ingest
from neptune_api.v1 import ingest_service_pb2 as ingest_service
from neptune_api.v1 import leaderboard_service_pb2 as leaderboard
from neptune_api.v1 import projects_service_pb2 as projects
from neptune_api.v1 import queries_pb2 as queries
from neptune_api.v1 import series_pb2 as series
from neptune_api.v1 import series_service_pb2 as series_service
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.environments import Environment

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from neptune_api.conformance.connections import GrpcConnection
    from neptune_api.conformance.lab import Lab
    from neptune_api.server import LocalServer

API = Environment("neptune-api", ("neptune-api==0.26.0",), package=False)
DRIVER = Path(__file__).with_name("api_driver.py")


class Answer(NamedTuple):
    """A status, the body as it came, and what the client made of it."""

    status: int
    content: bytes
    parsed: Any


def call(server: LocalServer, folder: Path, *calls: tuple[str, dict[str, Any]]) -> list[Answer]:
    """Make calls in a process of the client and return the answers."""
    out = folder / "answers"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [API.python(), DRIVER, out],
        input=pickle.dumps(calls),
        env={**environment, "NEPTUNE_API_TOKEN": server.api_token},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    found = pickle.loads(out.read_bytes())
    assert found["version"] == "0.26.0"
    return [Answer(*answer) for answer in found["answers"]]


def holder(run: str) -> queries.AttributesHolder:
    return queries.AttributesHolder(identifier=run, type="experiment")


def json_series(run: str, path: str) -> dict[str, Any]:
    return {
        "requestId": "0",
        "series": {"attribute": path, "holder": {"identifier": run, "type": "experiment"}, "lineage": "FULL"},
    }


class Case(NamedTuple):
    """A call of the client, and the call of a stub that answers the same."""

    endpoint: str
    arguments: dict[str, Any]
    stub: type
    method: str
    request: Message


def cases(project: str, run: str, request_ids: list[str]) -> list[Case]:
    """Return a call for every endpoint that reads."""
    custom = f"CUSTOM/{project}/run"
    ids = [ingest.RequestId(value=request_id) for request_id in request_ids]
    search = leaderboard.LeaderboardSearch(
        attribute_filters=[leaderboard.AttributePathFilter(path=path) for path in ("sys/id", "lr", "m")],
        experiment_leader=False,
        pagination=leaderboard.Pagination(limit=10, offset=0),
        query=leaderboard.NqlQuery(query="(`lr`:float = 0.1)"),
        sorting=leaderboard.Sorting(
            dir=queries.SORT_DIRECTION_DESCENDING,
            sort_by=leaderboard.SortField(name="sys/creation_time", type=queries.ATTRIBUTE_TYPE_DATETIME),
        ),
    )
    search_json = {
        "experimentLeader": False,
        "pagination": {"limit": 10, "offset": 0},
        "query": {"query": "(`lr`:float = 0.1)"},
        "sorting": {"dir": "descending", "sortBy": {"name": "sys/creation_time", "type": "datetime"}},
    }
    everywhere = leaderboard.LeaderboardSearch()
    everywhere.CopyFrom(search)
    del everywhere.attribute_filters[:]
    buckets = series.GetTimeseriesBucketsRequest(
        expressions=[series.BucketExpression(request_id="0", run_id=run, custom_y_formula="${m}")],
        view=series.BucketView(max_buckets=4),
    )
    status = ingest_service.BulkGetRequestStatusRequest(
        project_identifier=project, request_ids=ingest.RequestIdList(ids=ids)
    )
    details = ingest.BulkCheckDetail(ids=ids)
    return [
        Case("backend.get_client_config", {}, ConfigServiceStub, "GetClientConfig", config.GetClientConfigRequest()),
        Case(
            "backend.get_project",
            {"project_identifier": project},
            ProjectsServiceStub,
            "GetProject",
            projects.GetProjectRequest(project_identifier=project),
        ),
        Case(
            "ingestion.bulk_check_status",
            {"project_identifier": project, "body": ("File", status.request_ids.SerializeToString())},
            IngestServiceStub,
            "BulkGetRequestStatus",
            status,
        ),
        Case(
            "ingestion.check_status",
            {"project_identifier": project, "request_id": request_ids[0], "body": ("File", b"")},
            IngestServiceStub,
            "GetRequestStatus",
            ingest_service.GetRequestStatusRequest(project_identifier=project, request_id=request_ids[0]),
        ),
        Case(
            "ingestion.check_details",
            {"project_identifier": project, "body": ("File", details.SerializeToString())},
            IngestServiceStub,
            "BulkGetRequestDetails",
            ingest_service.BulkGetRequestDetailsRequest(project_identifier=project, check=details),
        ),
        Case(
            "retrieval.get_attributes_with_paths_filter_proto",
            {
                "holder_identifier": run,
                "holder_type": "experiment",
                "body": ("Model", "AttributeQueryDTO", {"attributePathsFilter": ["lr", "m", "sys/name", "none"]}),
            },
            AttributesServiceStub,
            "GetAttributes",
            attributes.GetAttributesRequest(
                holder_identifier=run,
                holder_type="experiment",
                query=attributes.AttributePathsQuery(
                    attribute_paths_filter=queries.StringList(values=["lr", "m", "sys/name", "none"])
                ),
            ),
        ),
        Case(
            "retrieval.query_attribute_definitions_proto",
            {"experiment_identifier": run, "attribute_type": ["float", "floatSeries"]},
            AttributesServiceStub,
            "GetAttributeDefinitions",
            attributes.GetAttributeDefinitionsRequest(
                experiment_identifier=run,
                attribute_type=[queries.ATTRIBUTE_TYPE_FLOAT, queries.ATTRIBUTE_TYPE_FLOAT_SERIES],
            ),
        ),
        Case(
            "retrieval.query_attribute_definitions_within_project",
            {
                "body": (
                    "Model",
                    "QueryAttributeDefinitionsBodyDTO",
                    {
                        "projectIdentifiers": [project],
                        "attributeNameFilter": {"mustMatchRegexes": ["^[lm]"]},
                        "nextPage": {"limit": 100},
                    },
                )
            },
            AttributesServiceStub,
            "QueryAttributeDefinitions",
            attributes.QueryAttributeDefinitionsRequest(
                query=attributes.AttributeDefinitionsQuery(
                    project_identifiers=[project],
                    attribute_name_filter=queries.AttributeNameFilter(must_match_regexes=["^[lm]"]),
                    next_page=attribute_messages.NextPage(limit=100),
                )
            ),
        ),
        Case(
            "retrieval.query_attributes_within_project_proto",
            {
                "project_identifier": project,
                "body": (
                    "Model",
                    "QueryAttributesBodyDTO",
                    {"experimentIdsFilter": [run], "attributeNamesFilter": ["lr", "m"], "nextPage": {"limit": 100}},
                ),
            },
            AttributesServiceStub,
            "QueryAttributeValues",
            attributes.QueryAttributeValuesRequest(
                project_identifier=project,
                query=attributes.AttributeValuesQuery(
                    experiment_ids_filter=queries.StringList(values=[run]),
                    attribute_names_filter=queries.StringList(values=["lr", "m"]),
                    next_page=attribute_messages.NextPage(limit=100),
                ),
            ),
        ),
        Case(
            "retrieval.get_multiple_float_series_values_proto",
            {
                "body": (
                    "Model",
                    "FloatTimeSeriesValuesRequest",
                    {"perSeriesPointsLimit": 100, "order": "descending", "requests": [json_series(custom, "m")]},
                )
            },
            SeriesServiceStub,
            "GetFloatSeriesValues",
            series_service.GetFloatSeriesValuesRequest(
                request=series_service.FloatSeriesValuesQuery(
                    per_series_points_limit=100,
                    order=queries.SORT_DIRECTION_DESCENDING,
                    requests=[
                        series_service.FloatSeriesQuery(
                            request_id="0",
                            series=queries.TimeSeries(
                                attribute="m", holder=holder(custom), lineage=queries.LINEAGE_FULL
                            ),
                        )
                    ],
                )
            ),
        ),
        Case(
            "retrieval.get_series_values_proto",
            {
                "use_deprecated_string_fields": False,
                "body": (
                    "Model",
                    "SeriesValuesRequest",
                    {"perSeriesPointsLimit": 100, "order": "ascending", "requests": [json_series(run, "log")]},
                ),
            },
            SeriesServiceStub,
            "GetSeriesValues",
            series_service.GetSeriesValuesRequest(
                use_deprecated_string_fields=False,
                request=series_service.SeriesValuesQuery(
                    per_series_points_limit=100,
                    order=queries.SORT_DIRECTION_ASCENDING,
                    requests=[
                        series_service.SeriesQuery(
                            request_id="0",
                            series=queries.TimeSeries(
                                attribute="log", holder=holder(run), lineage=queries.LINEAGE_FULL
                            ),
                        )
                    ],
                ),
            ),
        ),
        Case(
            "retrieval.get_timeseries_buckets_proto",
            {"body": ("File", buckets.SerializeToString())},
            SeriesServiceStub,
            "GetTimeseriesBuckets",
            buckets,
        ),
        Case(
            "retrieval.search_leaderboard_entries_proto",
            {
                "project_identifier": project,
                "type": ["run"],
                "body": (
                    "Model",
                    "SearchLeaderboardEntriesParamsDTO",
                    {**search_json, "attributeFilters": [{"path": path} for path in ("sys/id", "lr", "m")]},
                ),
            },
            LeaderboardServiceStub,
            "SearchLeaderboardEntries",
            leaderboard.SearchLeaderboardEntriesRequest(project_identifier=project, type=["run"], params=search),
        ),
        Case(
            "retrieval.search_global_leaderboard_entries_proto",
            {"body": ("Model", "GlobalSearchParamsDTO", search_json)},
            LeaderboardServiceStub,
            "SearchGlobalLeaderboardEntries",
            leaderboard.SearchGlobalLeaderboardEntriesRequest(params=everywhere),
        ),
    ]


def test_every_reading_endpoint_answers_as_the_stub_does(
    server: LocalServer, connection: GrpcConnection, lab: Lab, tmp_path: Path
) -> None:
    request_ids = [
        lab.submit(operation)
        for operation in (
            create("run", experiment="experiment"),
            assign({"lr": 0.1, "layers": 3}),
            update(*(snapshot({"m": number / 7}, number) for number in range(20))),
            update(snapshot({"log": "text"}, 1)),
            assign({"sys/id": "mine"}),
        )
    ]
    lab.settled(request_ids)
    run = f"{lab.project}/{lab.values('run')['sys/id']}"
    wanted = cases(lab.project, run, request_ids)
    answers = call(server, tmp_path, *((case.endpoint, case.arguments) for case in wanted))
    for case, answer in zip(wanted, answers, strict=True):
        try:
            expected = getattr(connection.stub(case.stub), case.method)(case.request)
        except UnimplementedException:
            assert answer.status == 501, case.endpoint
            continue
        assert answer.status == 200, (case.endpoint, answer.content)
        if answer.parsed is None:
            found = type(expected).FromString(answer.content)
        else:
            # What the client's own classes make of the body loses nothing of it.
            assert answer.parsed.items() <= json.loads(answer.content).items(), case.endpoint
            found = json_format.Parse(answer.content, type(expected)(), ignore_unknown_fields=True)
        assert found == expected, case.endpoint
        assert expected.ByteSize() > 0, case.endpoint


def test_the_endpoints_that_write(server: LocalServer, lab: Lab, tmp_path: Path) -> None:
    operation = lab.placed(create("run"))
    files = {
        "files": [
            {"path": "a b/ü", "project_identifier": lab.project, "permission": permission, "size": 1}
            for permission in ("write", "read")
        ]
    }
    complete = {
        "path": "a",
        "project_identifier": lab.project,
        "upload_id": "none",
        "parts": [{"etag": "x", "part_number": 1}],
    }
    exchanged, submitted, signed, azure, completed, missing = call(
        server,
        tmp_path,
        ("backend.exchange_api_token", {"x_neptune_api_token": ("Token",)}),
        ("ingestion.ingest", {"body": ("File", operation.SerializeToString())}),
        ("storage.signed_url_generic", {"body": ("Model", "CreateSignedUrlsRequest", files)}),
        ("storage.signed_url", {"body": ("Model", "CreateSignedUrlsRequest", files)}),
        ("storage.complete_multipart_upload", {"body": ("Model", "CompleteMultipartUploadRequest", complete)}),
        ("backend.get_project", {"project_identifier": "local/nowhere"}),
    )
    assert exchanged.status == 200
    assert exchanged.parsed["username"] == server.username
    assert submitted.status == 200
    assert lab.results(ingest.SubmitResponse.FromString(submitted.content).request_ids) == [{"OK": 1}]
    assert signed.status == 200
    assert [file["path"] for file in signed.parsed["files"]] == ["a b/ü"] * 2
    assert {file["provider"] for file in signed.parsed["files"]} == {"aws"}
    assert azure.status == 200
    assert {file["provider"] for file in azure.parsed["files"]} == {"azure"}
    assert completed.status == 404
    assert missing.status == 404


def test_every_endpoint_of_the_client_is_called_here() -> None:
    python = API.python()
    folder = next((python.parent.parent / "lib").glob("python*")) / "site-packages/neptune_api/api"
    known = {f"{path.parent.name}.{path.stem}" for path in folder.glob("*/*.py")} - {
        f"{part.name}.__init__" for part in folder.iterdir()
    }
    read = {case.endpoint for case in cases("w/p", "w/p/R-1", ["0"])}
    assert known == read | {
        "backend.exchange_api_token",
        "ingestion.ingest",
        "storage.signed_url_generic",
        "storage.complete_multipart_upload",
        "storage.signed_url",
    }
