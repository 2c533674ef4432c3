"""Bad input: the right code, a sentence that says what and the limit, details by field, and the server lives on."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from neptune_api import exceptions
from neptune_api.credentials import ApiToken
from neptune_api.options import ChannelOptions
from neptune_api.server import limits
from neptune_api.v1.auth_service_pb2 import ExchangeApiTokenRequest, RefreshTokenRequest
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.config_service_pb2 import GetServerInfoRequest
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub
from neptune_api.v1.ingest_pb2 import CreateRun, RequestId, RequestIdList, RunOperation
from neptune_api.v1.ingest_service_pb2 import BulkGetRequestStatusRequest, GetRequestStatusRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import (
    CreateProjectRequest,
    DeleteProjectRequest,
    GetProjectMemberV2Request,
    GetProjectRequest,
    ProjectUpdate,
    UpdateProjectRequest,
)
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER, ProjectVisibility
from neptune_api.v1.runs_service_pb2 import GetRunRequest
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest, ListUsersRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

CREATE_PROJECT = "/neptune_api.v1.ProjectsService/CreateProject"
GET_PROJECT = "/neptune_api.v1.ProjectsService/GetProject"
SUBMIT = "/neptune_api.v1.IngestService/Submit"
SUBMIT_STREAM = "/neptune_api.v1.IngestService/SubmitStream"
SUBMIT_ACKNOWLEDGED = "/neptune_api.v1.IngestService/SubmitAcknowledged"


@pytest.fixture
def connection(wire: Any, server: Any, project: Any) -> Iterator[Any]:
    """The owner's connection; when the test ends, the server still answers on it."""
    opened = wire.connect()
    yield opened
    assert opened.stub(UsersServiceStub).GetUserIdentity(GetUserIdentityRequest()).username == server.username


def fields(error: exceptions.NeptuneApiError) -> list[str]:
    return [violation.field for violation in error.violations]


def padding(size: int) -> bytes:
    """A CreateProjectRequest of `size` bytes, too large for any project; it is a body over HTTP as well."""
    request = CreateProjectRequest(description="x" * (size - 5))
    assert request.ByteSize() == size
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("stub_class", "method", "request_", "field"),
    [
        (ProjectsServiceStub, "GetProject", GetProjectRequest(), "project_identifier"),
        (ProjectsServiceStub, "CreateProject", CreateProjectRequest(), "name"),
        (AuthServiceStub, "ExchangeApiToken", ExchangeApiTokenRequest(), "api_token"),
        (AuthServiceStub, "RefreshToken", RefreshTokenRequest(), "refresh_token"),
        (IngestServiceStub, "Submit", RunOperation(), "project"),
        (IngestServiceStub, "GetRequestStatus", GetRequestStatusRequest(), "request_id"),
        (RunsServiceStub, "GetRun", GetRunRequest(), "experiment_id"),
    ],
)
def test_empty_request(connection: Any, stub_class: type, method: str, request_: Message, field: str) -> None:
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        getattr(connection.stub(stub_class), method)(request_)
    assert field in fields(caught.value)
    assert field in caught.value.details()
    assert "required" in caught.value.details()


def test_one_element_over_the_limit(connection: Any, identifier: str) -> None:
    ids = RequestIdList(ids=[RequestId(value=str(number)) for number in range(limits.MAX_STATUS_IDS + 1)])
    request = BulkGetRequestStatusRequest(project_identifier=identifier, request_ids=ids)
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        connection.stub(IngestServiceStub).BulkGetRequestStatus(request)
    assert fields(caught.value) == ["request_ids"]
    assert "10001" in caught.value.details().replace(",", "")
    assert "10000" in caught.value.details().replace(",", "")

    names = [f"name{number}" for number in range(limits.MAX_USERS_PER_LISTING + 1)]
    with pytest.raises(exceptions.InvalidArgumentException, match=r"1,001.*1,000"):
        connection.stub(UsersServiceStub).ListUsers(ListUsersRequest(username=names))


def test_one_byte_over_the_limit(connection: Any, server: Any) -> None:
    longest = (uuid.uuid4().hex * 5)[: limits.MAX_PROJECT_NAME_BYTES]
    projects = connection.stub(ProjectsServiceStub)
    request = CreateProjectRequest(name=longest, organization_identifier=server.workspace)
    assert projects.CreateProject(request).name == longest
    with pytest.raises(exceptions.InvalidArgumentException, match=r"129.*128") as caught:
        projects.CreateProject(CreateProjectRequest(name=f"{longest}x", organization_identifier=server.workspace))
    assert fields(caught.value) == ["name"]


def test_every_wrong_field_is_named(connection: Any, server: Any) -> None:
    request = CreateProjectRequest(
        name="no/slashes",
        organization_identifier=server.workspace,
        project_key="lower",
        description="x" * (limits.MAX_PROJECT_DESCRIPTION_BYTES + 1),
        visibility=ProjectVisibility.ValueType(99),
    )
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        connection.stub(ProjectsServiceStub).CreateProject(request)
    assert set(fields(caught.value)) == {"name", "project_key", "description", "visibility"}
    assert all(violation.description for violation in caught.value.violations)


def test_wrong_type_of_field(connection: Any) -> None:
    call = connection.raw(GET_PROJECT)
    # Field 1 as a number instead of a text: to protobuf a field it does not know, so the text is missing.
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        call(b"\x08\x05")
    assert fields(caught.value) == ["project_identifier"]
    # A text that is no UTF-8.
    with pytest.raises(exceptions.InvalidArgumentException, match=r"not a neptune_api\.v1\.GetProjectRequest"):
        call(b"\x0a\x02\xff\xfe")


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"{}"])
def test_malformed_protobuf(connection: Any, payload: bytes) -> None:
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        connection.raw(GET_PROJECT)(payload)
    details = caught.value.details()
    assert f"{len(payload)} bytes is not a neptune_api.v1.GetProjectRequest" in details
    assert caught.value.error_info is not None
    assert caught.value.error_info.reason == "MALFORMED_REQUEST"
    assert len(caught.value.violations) == 1


def test_malformed_protobuf_in_a_stream(connection: Any, identifier: str) -> None:
    good = operation(identifier).SerializeToString()
    with pytest.raises(exceptions.InvalidArgumentException, match="RunOperation"):
        connection.raw(SUBMIT_STREAM, request_streaming=True)([good, b"\xff"])
    with pytest.raises(exceptions.InvalidArgumentException, match="RunOperation"):
        connection.raw(SUBMIT_ACKNOWLEDGED, request_streaming=True, response_streaming=True)([good, b"\xff"])


NOBODYS_UUID = "5f0c2f43-1a0c-4d8a-9f57-0c6f6f8b8d11"  # fixed: workers that share a run have to collect the same tests


@pytest.mark.parametrize("text", ["nobody/nothing", "nothing", "a/b/c", NOBODYS_UUID, "ws/" + "x" * 5000, "Ł/\n"])
def test_unknown_project(connection: Any, text: str) -> None:
    projects = connection.stub(ProjectsServiceStub)
    with pytest.raises(exceptions.NotFoundException) as caught:
        projects.GetProject(GetProjectRequest(project_identifier=text))
    assert len(caught.value.details()) < 500
    with pytest.raises(exceptions.NotFoundException):
        projects.DeleteProject(DeleteProjectRequest(project_identifier=text))


def test_unknown_run(connection: Any, identifier: str) -> None:
    runs = connection.stub(RunsServiceStub)
    for text in (f"CUSTOM/{identifier}/no-such-run", str(uuid.uuid4())):
        with pytest.raises(exceptions.NotFoundException) as caught:
            runs.GetRun(GetRunRequest(experiment_id=text))
        assert caught.value.details()
    with pytest.raises(exceptions.InvalidArgumentException) as malformed:
        runs.GetRun(GetRunRequest(experiment_id="no identifier"))
    assert fields(malformed.value) == ["experiment_id"]


def test_unknown_user(connection: Any, identifier: str) -> None:
    projects = connection.stub(ProjectsServiceStub)
    request = GetProjectMemberV2Request(project_identifier=identifier, user_id="nobody-of-that-name")
    with pytest.raises(exceptions.NotFoundException) as caught:
        projects.GetProjectMemberV2(request)
    assert "nobody-of-that-name" in caught.value.details()


def test_unknown_request(connection: Any, identifier: str) -> None:
    status = connection.stub(IngestServiceStub).GetRequestStatus(
        GetRequestStatusRequest(project_identifier=identifier, request_id="no-such-request")
    )
    assert [outcome.code for outcome in status.code_by_count] == [grpc.StatusCode.NOT_FOUND.value[0]]


def test_no_permission(wire: Any, identifier: str, make_user: Callable[..., Any]) -> None:
    outsider = wire.connect(make_user().api_token)
    with pytest.raises(exceptions.NotFoundException):  # whether there is one is none of its business
        outsider.stub(ProjectsServiceStub).GetProject(GetProjectRequest(project_identifier=identifier))

    viewer = wire.connect(make_user(identifier, PROJECT_ROLE_VIEWER).api_token)
    projects = viewer.stub(ProjectsServiceStub)
    assert projects.GetProject(GetProjectRequest(project_identifier=identifier)).id
    for call, request in (
        (
            projects.UpdateProject,
            UpdateProjectRequest(project_identifier=identifier, project_to_update=ProjectUpdate(description="mine")),
        ),
        (projects.DeleteProject, DeleteProjectRequest(project_identifier=identifier)),
        (viewer.stub(IngestServiceStub).Submit, operation(identifier)),
    ):
        with pytest.raises(exceptions.PermissionDeniedException) as caught:
            call(request)
        assert "viewer" in caught.value.details()
    assert projects.GetProject(GetProjectRequest(project_identifier=identifier)).id


def test_no_token(connection: Any, wire: Any) -> None:
    anonymous = wire.connect("")
    assert anonymous.stub(ConfigServiceStub).GetServerInfo(GetServerInfoRequest()).version
    with pytest.raises(exceptions.UnauthorizedException, match="access token"):
        anonymous.stub(UsersServiceStub).GetUserIdentity(GetUserIdentityRequest())
    with pytest.raises(exceptions.UnauthorizedException):
        anonymous.raw(SUBMIT_STREAM, request_streaming=True)([b""])
    with pytest.raises(exceptions.UnauthorizedException):
        anonymous.raw(SUBMIT_ACKNOWLEDGED, request_streaming=True, response_streaming=True)([b""])


def test_forged_token(connection: Any, wire: Any, server: Any) -> None:
    genuine = ApiToken.parse(server.api_token)
    forged = ApiToken.mint(api_url=genuine.api_url, grpc_url=genuine.grpc_url).encode()
    with pytest.raises(exceptions.UnauthorizedException, match="not known here") as caught:
        wire.connect(forged).stub(UsersServiceStub).GetUserIdentity(GetUserIdentityRequest())
    assert forged not in str(caught.value)

    auth = wire.connect("").stub(AuthServiceStub)
    oauth = auth.ExchangeApiToken(ExchangeApiTokenRequest(api_token=server.api_token))
    header, claims, signature = oauth.access_token.split(".")
    call = wire.connect("").raw("/neptune_api.v1.UsersService/GetUserIdentity")
    assert call(b"", metadata=(("authorization", f"Bearer {oauth.access_token}"),))
    for forgery in (f"{header}.{claims}.{signature[::-1]}", f"{header}.{claims}.", oauth.refresh_token, "nonsense"):
        with pytest.raises(exceptions.UnauthorizedException) as refused:
            call(b"", metadata=(("authorization", f"Bearer {forgery}"),))
        assert forgery not in str(refused.value)
    for authorization in ("", "Bearer", "Basic b3duZXI6", oauth.access_token):
        with pytest.raises(exceptions.UnauthorizedException):
            call(b"", metadata=(("authorization", authorization),))


def test_operation_over_its_limit(connection: Any, identifier: str) -> None:
    big = RunOperation(project=identifier, run_id="run")
    for number in range(17):
        big.update.assign[f"padding/{number}"].string = "x" * 1024 * 1024
    with pytest.raises(exceptions.ResourceExhaustedException) as caught:
        connection.stub(IngestServiceStub).Submit(big)
    error = caught.value
    assert f"has {big.ByteSize():,} bytes, the limit is 16,777,216: " in error.details()
    assert error.error_info is not None
    assert error.error_info.reason == "REQUEST_TOO_LARGE"
    assert dict(error.error_info.metadata) == {"size": str(big.ByteSize()), "limit": "16777216"}
    assert [violation.description for violation in error.violations] == [error.details()]


def test_request_over_the_limit(connection: Any, wire: Any) -> None:
    call = connection.raw(CREATE_PROJECT)
    if not wire.json:  # which is longer
        with pytest.raises(exceptions.InvalidArgumentException):
            call(padding(limits.MAX_REQUEST_BYTES))
    with pytest.raises(exceptions.ResourceExhaustedException) as caught:
        call(padding(limits.MAX_REQUEST_BYTES + 1))
    assert wire.json or "33,554,433" in caught.value.details()
    assert "33,554,432" in caught.value.details()


def test_request_over_the_limit_of_the_transport(connection: Any, wire: Any) -> None:
    size = 65 * 1024 * 1024
    with pytest.raises(exceptions.ResourceExhaustedException, match="68,157,440 bytes, the limit is 67,108,864"):
        connection.raw(CREATE_PROJECT)(padding(size))
    unlimited = wire.connect(options=ChannelOptions(max_send_bytes=2 * size, retry=None))
    # Over HTTP there is one limit for both.
    said = "the limit is 33,554,432" if wire.http else r"larger than max \(68157440 vs\. 67108864\)"
    with pytest.raises(exceptions.ResourceExhaustedException, match=said):
        unlimited.raw(CREATE_PROJECT)(padding(size))


def test_deadline_of_zero(connection: Any, identifier: str) -> None:
    with pytest.raises(exceptions.DeadlineExceededException):
        connection.stub(ProjectsServiceStub).GetProject(GetProjectRequest(project_identifier=identifier), timeout=0)
    with pytest.raises(exceptions.DeadlineExceededException):
        connection.stub(IngestServiceStub).SubmitStream([operation(identifier)], timeout=0)
    with pytest.raises(exceptions.DeadlineExceededException):
        connection.stub(IngestServiceStub).SubmitAcknowledged([operation(identifier)], timeout=0)


@pytest.mark.parametrize(
    "path", ["/neptune_api.v1.ProjectsService/GetNothing", "/neptune_api.v2.Nothing/Get", "/x", "/neptune_api.v1./"]
)
def test_unknown_method(connection: Any, path: str) -> None:
    with pytest.raises(exceptions.UnimplementedException) as caught:
        connection.raw(path)(b"")
    assert path in caught.value.details()
    with pytest.raises(exceptions.UnimplementedException):
        connection.raw(path, request_streaming=True, response_streaming=True)([b""])


def test_empty_stream(connection: Any) -> None:
    with pytest.raises(exceptions.InvalidArgumentException, match="empty"):
        connection.stub(IngestServiceStub).SubmitStream([])
    assert connection.stub(IngestServiceStub).SubmitAcknowledged([]) == []


def test_error_with_many_details_fits_into_metadata(connection: Any) -> None:
    name = "ą" * 100_000
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        connection.stub(ProjectsServiceStub).CreateProject(
            CreateProjectRequest(name=name, organization_identifier="x", project_key=name, avatar_url=name)
        )
    assert "name" in fields(caught.value)


def operation(project: str) -> RunOperation:
    """An operation that is fine."""
    return RunOperation(
        project=project,
        run_id="run",
        create=CreateRun(),
    )
