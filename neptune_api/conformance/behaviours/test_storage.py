"""StorageService: who gets URLs for what."""

from __future__ import annotations

import urllib.parse
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.file_names import NAMES
from neptune_api.exceptions import (
    FailedPreconditionException,
    InvalidArgumentException,
    NotFoundException,
    PermissionDeniedException,
)
from neptune_api.server import limits
from neptune_api.v1.projects_service_pb2 import (
    CreateProjectRequest,
    DeleteProjectRequest,
    ProjectUpdate,
    UpdateProjectRequest,
)
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER
from neptune_api.v1.storage_service_pb2 import (
    FILE_PERMISSION_READ,
    FILE_PERMISSION_WRITE,
    CompleteMultipartUploadRequest,
    CreateSignedUrlsRequest,
    FileToSign,
    StorageProvider,
    UploadedPart,
)
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.people import Host, Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


def to_read(project: str, *paths: str) -> list[FileToSign]:
    return [FileToSign(path=path, project_identifier=project, permission=FILE_PERMISSION_READ) for path in paths]


def to_write(project: str, *paths: str, size: int | None = 1) -> list[FileToSign]:
    return [
        FileToSign(path=path, project_identifier=project, permission=FILE_PERMISSION_WRITE, size=size) for path in paths
    ]


def sign(wire: Wire, *files: FileToSign, token: str | None = None) -> list[Any]:
    answer = wire.connect(token).stub(StorageServiceStub).CreateSignedUrls(CreateSignedUrlsRequest(files=files))
    return list(answer.files)


def test_every_file_gets_a_url_in_the_order_asked_for(wire: Wire, identifier: str) -> None:
    asked = [
        *to_read(identifier, "b", "never uploaded", "a"),
        *to_write(identifier, "a", "b"),
        *to_read(identifier, "a", "b"),
        *to_write(identifier, "empty", size=0),
        *to_write(identifier, "of any size", size=None),
    ]
    signed = sign(wire, *asked)
    assert [(file.path, file.project_identifier) for file in signed] == [
        (file.path, file.project_identifier) for file in asked
    ]
    (provider,) = {file.provider for file in signed}
    assert provider in StorageProvider.values()[1:]
    assert {urllib.parse.urlsplit(file.url).scheme for file in signed} <= {"http", "https"}
    assert len({file.url for file in signed[:5]}) == 5
    assert [file.url.partition("?")[0] for file in signed[5:7]] == [
        signed[index].url.partition("?")[0] for index in (2, 0)
    ]


def test_nothing_to_sign_is_nothing_signed(wire: Wire) -> None:
    assert sign(wire) == []


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_path_comes_back_as_it_was(wire: Wire, identifier: str, name: str) -> None:
    (signed,) = sign(wire, *to_write(identifier, name))
    assert signed.path == name
    url = urllib.parse.urlsplit(signed.url)
    assert url.geturl() == signed.url
    assert url.fragment == ""


def test_a_project_is_named_in_any_way_and_each_file_has_its_own(
    wire: Wire, server: Host, project: ProjectWithRole, identifier: str
) -> None:
    other = (
        wire.connect()
        .stub(ProjectsServiceStub)
        .CreateProject(CreateProjectRequest(name=f"p-{uuid.uuid4().hex}", organization_identifier=server.workspace))
    )
    names = [identifier, project.id, f"{other.organization_name}/{other.name}", other.id]
    signed = sign(wire, *(file for name in names for file in to_read(name, "a")))
    assert [file.project_identifier for file in signed] == names
    places = [urllib.parse.urlsplit(file.url).path for file in signed]
    assert places == [f"/api/files/{uid}/a" for uid in (project.id, project.id, other.id, other.id)]


# Limits


def test_paths_have_a_limit_in_bytes(wire: Wire, identifier: str) -> None:
    longest = "é" * (limits.MAX_FILE_PATH_BYTES // 2)
    (signed,) = sign(wire, *to_write(identifier, longest))
    assert signed.path == longest
    with pytest.raises(InvalidArgumentException, match=r"files\[1\].path: is 4,097 bytes long, the limit is 4,096"):
        sign(wire, *to_write(identifier, "fine", longest + "x"))


def test_requests_have_a_limit_in_files(wire: Wire, identifier: str) -> None:
    most = limits.MAX_FILES_TO_SIGN
    assert len(sign(wire, *to_read(identifier, *map(str, range(most))))) == most
    with pytest.raises(InvalidArgumentException, match="files: has 1,001 elements, the limit is 1,000"):
        sign(wire, *to_read(identifier, *map(str, range(most + 1))))


def test_every_field_is_needed(wire: Wire, identifier: str) -> None:
    with pytest.raises(InvalidArgumentException) as caught:
        sign(wire, FileToSign(), *to_read(identifier, "a"), FileToSign(path="a", project_identifier=identifier))
    assert [violation.field for violation in caught.value.violations] == [
        "files[0].path",
        "files[0].project_identifier",
        "files[0].permission",
        "files[2].permission",
    ]


# Who may


def test_viewers_read_and_members_write(wire: Wire, identifier: str, make_user: Callable[..., Person]) -> None:
    viewer, member = make_user(identifier, PROJECT_ROLE_VIEWER), make_user(identifier)
    assert len(sign(wire, *to_read(identifier, "a"), token=viewer.api_token)) == 1
    assert len(sign(wire, *to_read(identifier, "a"), *to_write(identifier, "a"), token=member.api_token)) == 2
    with pytest.raises(PermissionDeniedException, match="needs the role member"):
        sign(wire, *to_read(identifier, "a"), *to_write(identifier, "a"), token=viewer.api_token)


@pytest.mark.parametrize("files", [to_read, to_write])
def test_what_the_caller_may_not_see_is_refused_like_what_is_not_there(
    wire: Wire, identifier: str, make_user: Callable[..., Person], files: Callable[..., list[FileToSign]]
) -> None:
    """With PERMISSION_DENIED: clients give up on it, and would try again for ever after anything else."""
    stranger = make_user()
    for project in (identifier, "nowhere/nothing", "nowhere", str(uuid.uuid4())):
        with pytest.raises(PermissionDeniedException, match="not found, or you may not see it") as caught:
            sign(wire, *files(project, "a"), token=stranger.api_token)
        assert caught.value.error_info is not None
        assert caught.value.error_info.reason == "ACCESS_DENIED"


def test_one_project_that_is_out_of_reach_refuses_the_whole_request(
    wire: Wire, identifier: str, make_user: Callable[..., Person]
) -> None:
    member = make_user(identifier)
    with pytest.raises(PermissionDeniedException):
        sign(wire, *to_read(identifier, "a"), *to_read("nowhere/nothing", "a"), token=member.api_token)


def test_an_archived_project_is_read_only(wire: Wire, identifier: str) -> None:
    wire.connect().stub(ProjectsServiceStub).UpdateProject(
        UpdateProjectRequest(project_identifier=identifier, project_to_update=ProjectUpdate(archived=True))
    )
    assert len(sign(wire, *to_read(identifier, "a"))) == 1
    with pytest.raises(FailedPreconditionException, match="archived"):
        sign(wire, *to_write(identifier, "a"))


def test_a_deleted_project_has_no_urls(wire: Wire, identifier: str) -> None:
    sign(wire, *to_write(identifier, "a"))
    wire.connect().stub(ProjectsServiceStub).DeleteProject(DeleteProjectRequest(project_identifier=identifier))
    with pytest.raises(PermissionDeniedException):
        sign(wire, *to_write(identifier, "a"))


# Uploads in parts


def complete(wire: Wire, project: str, token: str | None = None, **fields: Any) -> None:
    request = CompleteMultipartUploadRequest(
        path="a", project_identifier=project, upload_id="upload", parts=[UploadedPart(etag="x", part_number=1)]
    )
    for name, value in fields.items():
        setattr(request, name, value)
    wire.connect(token).stub(StorageServiceStub).CompleteMultipartUpload(request)


def test_no_upload_has_parts(wire: Wire, identifier: str) -> None:
    with pytest.raises(NotFoundException, match=r"no upload upload: .* PUT the whole file"):
        complete(wire, identifier)


def test_completing_needs_what_it_names(wire: Wire, identifier: str) -> None:
    with pytest.raises(InvalidArgumentException) as caught:
        wire.connect().stub(StorageServiceStub).CompleteMultipartUpload(CompleteMultipartUploadRequest())
    assert [violation.field for violation in caught.value.violations] == [
        "path",
        "project_identifier",
        "upload_id",
        "parts",
    ]


def test_completing_needs_the_role(wire: Wire, identifier: str, make_user: Callable[..., Person]) -> None:
    with pytest.raises(PermissionDeniedException):
        complete(wire, identifier, make_user(identifier, PROJECT_ROLE_VIEWER).api_token)
    with pytest.raises(PermissionDeniedException):
        complete(wire, "nowhere/nothing")
