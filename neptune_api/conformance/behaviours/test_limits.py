"""Limits, as the server tells them: each can be met exactly, and one more is refused by a sentence with the number."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.logging_helpers import submit
from neptune_api.conformance.operations import append, assign, counts, file, timestamp
from neptune_api.exceptions import (
    InvalidArgumentException,
    NeptuneApiError,
    ResourceExhaustedException,
    UnauthorizedException,
)
from neptune_api.models import (
    AttributesHolder,
    BucketExpression,
    BucketView,
    BulkCheckDetail,
    BulkGetRequestDetailsRequest,
    BulkGetRequestStatusRequest,
    CreateProjectRequest,
    CreateRunRequest,
    CreateUserRequest,
    ExchangeApiTokenRequest,
    FloatSeriesQuery,
    FloatSeriesValuesQuery,
    GetFloatSeriesValuesRequest,
    GetSeriesValuesRequest,
    GetServerInfoRequest,
    GetTimeseriesBucketsRequest,
    LeaderboardSearch,
    ListRunsRequest,
    ListUsersRequest,
    NqlQuery,
    ProjectUpdate,
    RequestId,
    RequestIdList,
    RunOperation,
    SearchLeaderboardEntriesRequest,
    SeriesQuery,
    SeriesValuesQuery,
    TimeSeries,
    UpdateProjectRequest,
)
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.operations import Plain
    from neptune_api.conformance.people import Host


@dataclass
class Scene:
    """Where a limit is to be met."""

    connection: Connection
    identifier: str
    workspace: str

    def stub(self, stub_class: type) -> Any:
        return self.connection.stub(stub_class)

    def log(self, path: str, value: Plain) -> list[str]:
        """Assign a value and return the codes of what came of it."""
        return submit(self.connection, assign({path: value}, project=self.identifier))

    def append(self, path: str, value: Plain, at: int) -> list[str]:
        """Append a value at a step and return the codes of what came of it."""
        return submit(self.connection, append({path: value}, at, project=self.identifier))

    def update(self, **changes: Any) -> None:
        request = UpdateProjectRequest(project_identifier=self.identifier, project_to_update=ProjectUpdate(**changes))
        self.stub(ProjectsServiceStub).UpdateProject(request)

    def series(self, path: str) -> TimeSeries:
        holder = AttributesHolder(identifier=f"CUSTOM/{self.identifier}/none", type="experiment")
        return TimeSeries(attribute=path, holder=holder)

    def floats(self, count: int, limit: int = 1) -> None:
        query = FloatSeriesValuesQuery(
            per_series_points_limit=limit,
            requests=[FloatSeriesQuery(request_id=str(number), series=self.series("loss")) for number in range(count)],
        )
        self.stub(SeriesServiceStub).GetFloatSeriesValues(GetFloatSeriesValuesRequest(request=query))

    def search(self, query: str) -> None:
        params = LeaderboardSearch(query=NqlQuery(query=query))
        request = SearchLeaderboardEntriesRequest(project_identifier=self.identifier, params=params)
        self.stub(LeaderboardServiceStub).SearchLeaderboardEntries(request)


def name_of(size: int) -> str:
    """Return a name of this length that nobody has."""
    return uuid.uuid4().hex.ljust(size, "x")[-size:]


def create_project(scene: Scene, **fields: Any) -> None:
    request = CreateProjectRequest(**{"name": name_of(32), "organization_identifier": scene.workspace, **fields})
    scene.stub(ProjectsServiceStub).CreateProject(request)


def create_user(scene: Scene, **fields: Any) -> None:
    request = CreateUserRequest(**{"username": name_of(32), "organization_identifier": scene.workspace, **fields})
    scene.stub(UsersServiceStub).CreateUser(request)


def create_run(scene: Scene, **fields: Any) -> None:
    request = CreateRunRequest(**{"project_identifier": scene.identifier, "run_id": name_of(32), **fields})
    scene.stub(RunsServiceStub).CreateRun(request)


def ids(count: int) -> list[RequestId]:
    return [RequestId(value=str(number)) for number in range(count)]


def ask_for_statuses(scene: Scene, count: int) -> None:
    request = BulkGetRequestStatusRequest(
        project_identifier=scene.identifier, request_ids=RequestIdList(ids=ids(count))
    )
    scene.stub(IngestServiceStub).BulkGetRequestStatus(request)


def ask_for_details(scene: Scene, count: int) -> None:
    request = BulkGetRequestDetailsRequest(
        project_identifier=scene.identifier, check=BulkCheckDetail(project=scene.identifier, ids=ids(count))
    )
    scene.stub(IngestServiceStub).BulkGetRequestDetails(request)


def ask_for_long_paths(scene: Scene, size: int) -> None:
    whole, rest = divmod(size, 1000)
    paths = ["x" * 1000] * whole + (["y" * rest] if rest else [])
    query = SeriesValuesQuery(
        requests=[SeriesQuery(request_id=str(n), series=scene.series(path)) for n, path in enumerate(paths)]
    )
    scene.stub(SeriesServiceStub).GetSeriesValues(GetSeriesValuesRequest(request=query))


def ask_for_buckets(scene: Scene, *, buckets: int = 2, series: int = 1) -> None:
    expressions = [
        BucketExpression(request_id=str(number), run_id=f"CUSTOM/{scene.identifier}/none", custom_y_formula="${loss}")
        for number in range(series)
    ]
    request = GetTimeseriesBucketsRequest(view=BucketView(max_buckets=buckets), expressions=expressions)
    scene.stub(SeriesServiceStub).GetTimeseriesBuckets(request)


def search_by_a_long_text(scene: Scene, size: int) -> None:
    before, after = '`sys/name`:string = "', '"'
    scene.search(before + "x" * (size - len(before) - len(after)) + after)


def submit_bytes(scene: Scene, size: int) -> None:
    operation = RunOperation(project=scene.identifier, run_id="none")
    for number in range(16):
        operation.update.assign[f"{number:02}"].string = "x" * (2**20 - 64)
    operation.update.assign["rest"].string = ""
    # The rest is large enough for all that comes to have the same number of bytes of length.
    operation.update.assign["rest"].string = "x" * 512
    operation.update.assign["rest"].string = "x" * (512 + size - operation.ByteSize())
    assert operation.ByteSize() == size
    scene.stub(IngestServiceStub).Submit(operation)


REFUSED: dict[str, Callable[[Scene, int], object]] = {
    "max_run_id_bytes": lambda scene, size: create_run(scene, run_id=name_of(size)),
    "max_experiment_name_bytes": lambda scene, size: create_run(scene, experiment_name="x" * size),
    "max_status_ids": ask_for_statuses,
    "max_detail_ids": ask_for_details,
    "max_project_name_bytes": lambda scene, size: create_project(scene, name=name_of(size)),
    "max_project_key_length": lambda scene, size: create_project(scene, project_key=name_of(size).upper()),
    "max_project_description_bytes": lambda scene, size: scene.update(description="x" * size),
    "max_avatar_url_bytes": lambda scene, size: scene.update(avatar_url="x" * size),
    "max_display_class_bytes": lambda scene, size: scene.update(display_class="x" * size),
    "max_page_size": lambda scene, size: scene.stub(RunsServiceStub).ListRuns(
        ListRunsRequest(project_identifier=scene.identifier, page_size=size)
    ),
    "max_points_per_series": lambda scene, limit: scene.floats(1, limit),
    "max_float_series_per_query": lambda scene, count: scene.floats(count),
    "max_series_query_path_bytes": ask_for_long_paths,
    "max_username_bytes": lambda scene, size: create_user(scene, username=name_of(size)),
    "max_email_bytes": lambda scene, size: create_user(scene, email="x" * (size - len("@x.org")) + "@x.org"),
    "max_person_name_bytes": lambda scene, size: create_user(scene, first_name="x" * size),
    "max_users_per_listing": lambda scene, count: scene.stub(UsersServiceStub).ListUsers(
        ListUsersRequest(username=[str(number) for number in range(count)])
    ),
    "max_token_bytes": lambda scene, size: scene.stub(AuthServiceStub).ExchangeApiToken(
        ExchangeApiTokenRequest(api_token="A" * size)
    ),
    "max_query_bytes": search_by_a_long_text,
    "max_query_depth": lambda scene, depth: scene.search("(" * depth + "x = 7" + ")" * depth),
    "max_buckets": lambda scene, count: ask_for_buckets(scene, buckets=count),
    "max_bucket_series": lambda scene, count: ask_for_buckets(scene, series=count),
    "max_operation_bytes": submit_bytes,
}
"""What is refused as a whole: by limit, a call of a size."""

COSTLY = ("max_float_series_per_query", "max_query_depth")
"""Limits of REFUSED whose calls take too long to be made over every wire."""

REPORTED: dict[str, tuple[str, Callable[[Scene, int], list[str]]]] = {
    "max_attribute_path_bytes": ("FIELD_PATH_EXCEEDS_SIZE_LIMIT", lambda scene, size: scene.log("x" * size, 1)),
    "max_string_bytes": ("STRING_VALUE_EXCEEDS_SIZE_LIMIT", lambda scene, size: scene.log("s", "x" * size)),
    "max_string_set_bytes": (
        "STRING_SET_EXCEEDS_SIZE_LIMIT",
        lambda scene, size: scene.log("set", frozenset(["x" * (size // 2), "y" * (size - size // 2)])),
    ),
    "max_file_ref_bytes": (
        "FILE_REF_EXCEEDS_SIZE_LIMIT",
        lambda scene, size: scene.log("f", file("x" * (size - len("text/plain")))),
    ),
    "max_histogram_edges": (
        "HISTOGRAM_TOO_MANY_BINS",
        lambda scene, size: scene.append("h", counts(range(size), [0] * (size - 1)), at=size),
    ),
    "min_datetime_millis": ("DATETIME_VALUE_OUT_OF_RANGE", lambda scene, ms: scene.log("t", timestamp(ms))),
    "max_datetime_millis": ("DATETIME_VALUE_OUT_OF_RANGE", lambda scene, ms: scene.log("t", timestamp(ms))),
}
"""What the outcome of an operation reports: by limit, the code and an operation of a size."""


@pytest.fixture
def scene(wire: Wire, server: Host, identifier: str) -> Scene:
    return Scene(wire.connect(), identifier, server.workspace)


def told(scene: Scene, field: str) -> int:
    limits = scene.stub(ConfigServiceStub).GetServerInfo(GetServerInfoRequest()).limits
    return int(getattr(limits, field))


def error_of(call: Callable[[], object]) -> NeptuneApiError | None:
    try:
        call()
    except NeptuneApiError as error:
        return error
    return None


@pytest.mark.parametrize("field", [field for field in REFUSED if field not in COSTLY])
def test_what_is_at_the_limit_is_taken_and_what_is_beyond_it_refused(scene: Scene, field: str) -> None:
    check_refused(scene, field)


def check_refused(scene: Scene, field: str) -> None:
    """Meet a limit, and exceed it."""
    limit = told(scene, field)
    at_the_limit = error_of(lambda: REFUSED[field](scene, limit))
    if field == "max_token_bytes":  # another error: the text is no token
        assert isinstance(at_the_limit, UnauthorizedException)
        assert f"{limit:,}" not in at_the_limit.details()
    else:
        assert at_the_limit is None
    beyond = error_of(lambda: REFUSED[field](scene, limit + 1))
    refusal = ResourceExhaustedException if field == "max_operation_bytes" else InvalidArgumentException
    assert isinstance(beyond, refusal)
    assert f"{limit:,}" in beyond.details()


@pytest.mark.parametrize("field", REPORTED)
def test_what_is_at_the_limit_is_written_and_what_is_beyond_it_reported(scene: Scene, field: str) -> None:
    limit = told(scene, field)
    code, log = REPORTED[field]
    create_run(scene, run_id="run")
    assert log(scene, limit) == ["OK"]
    assert log(scene, limit - 1 if field.startswith("min_") else limit + 1) == [code]
