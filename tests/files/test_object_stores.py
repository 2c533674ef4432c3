"""Files in object stores: the store signs, and clients talk to it alone."""

from __future__ import annotations

import hashlib
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.file_names import NAMES
from neptune_api.server import LocalServer
from neptune_api.server.files.object_store import ObjectStorage
from neptune_api.server.files.paths import object_key
from neptune_api.server.files.storage import StorageError
from neptune_api.server.server import Server, ServerError
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, DeleteProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.storage_service_pb2 import (
    FILE_PERMISSION_READ,
    FILE_PERMISSION_WRITE,
    STORAGE_PROVIDER_AWS,
    STORAGE_PROVIDER_AZURE,
    CreateSignedUrlsRequest,
    FileToSign,
)
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub
from tests.files.raw_http import ask
from tests.object_stores import BUCKET, running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # the first test installs the stores

PROJECT = "01234567-89ab-cdef-0123-456789abcdef"
CONTENT = b"content" * 100_000


def sign(storage: ObjectStorage, method: str, path: str, project: str = PROJECT) -> str:
    (url,) = storage.sign(method, [(project, path)])
    return url


# S3


def test_s3_takes_and_gives_files_of_any_name(s3_url: str, s3_endpoint: str) -> None:
    storage = ObjectStorage(s3_url)
    assert storage.provider == STORAGE_PROVIDER_AWS
    assert storage.door is None
    for name in NAMES:
        url = sign(storage, "PUT", name)
        assert url.startswith(f"{s3_endpoint}/{BUCKET}/some/prefix/{object_key(PROJECT, name)}?")
        stored = ask("PUT", url, name.encode() + CONTENT, {"Content-Type": "any; thing"})
        assert (stored.status, stored.headers["etag"]) == (200, f'"{hashlib.md5(name.encode() + CONTENT).hexdigest()}"')
    for name in NAMES:
        got = ask("GET", sign(storage, "GET", name))
        assert (got.status, got.headers["content-type"]) == (200, "any; thing")
        assert got.body == name.encode() + CONTENT


def test_s3_replaces_a_file_and_tells_of_one_that_is_missing(s3_url: str) -> None:
    storage = ObjectStorage(s3_url)
    for content in (b"old", b"new"):
        ask("PUT", sign(storage, "PUT", "replaced"), content)
    assert ask("GET", sign(storage, "GET", "replaced")).body == b"new"
    assert ask("GET", sign(storage, "GET", "never uploaded")).status == 404


def test_s3_gives_ranges(s3_url: str) -> None:
    storage = ObjectStorage(s3_url)
    ask("PUT", sign(storage, "PUT", "ranged"), b"0123456789")
    got = ask("GET", sign(storage, "GET", "ranged"), headers={"Range": "bytes=2-4"})
    assert (got.status, got.headers["content-range"], got.body) == (206, "bytes 2-4/10", b"234")


def test_urls_of_s3_last_as_long_as_ours(s3_url: str) -> None:
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(sign(ObjectStorage(s3_url), "GET", "a")).query)
    assert query["X-Amz-Expires"] == ["3600"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]


def test_a_thousand_urls_have_their_order(s3_url: str) -> None:
    storage = ObjectStorage(s3_url)
    names = [str(number) for number in range(1000)]
    urls = storage.sign("GET", [(PROJECT, name) for name in names])
    assert all(object_key(PROJECT, name) in url for name, url in zip(names, urls, strict=True))


def test_a_server_keeps_files_in_s3_and_deletes_them_with_their_project(s3_url: str, tmp_path: Path) -> None:
    with Server(tmp_path, files=s3_url) as server, LocalChannel(server) as channel:
        projects = ProjectsServiceStub(channel)
        places = [
            projects.CreateProject(CreateProjectRequest(name=name, organization_identifier="local"))
            for name in ("kept", "deleted")
        ]
        files = [
            FileToSign(path="a/b", project_identifier=place.id, permission=permission)
            for place in places
            for permission in (FILE_PERMISSION_WRITE, FILE_PERMISSION_READ)
        ]
        signed = StorageServiceStub(channel).CreateSignedUrls(CreateSignedUrlsRequest(files=files)).files
        assert {file.provider for file in signed} == {STORAGE_PROVIDER_AWS}
        for write, read in ((signed[0].url, signed[1].url), (signed[2].url, signed[3].url)):
            assert ask("PUT", write, CONTENT).status == 200
            assert ask("GET", read).body == CONTENT
        projects.DeleteProject(DeleteProjectRequest(project_identifier=places[1].id))
        assert ask("GET", signed[1].url).status == 200
        assert ask("GET", signed[3].url).status == 404
    assert not (tmp_path / "files").exists()


def test_a_folder_remembers_its_store(s3_url: str, tmp_path: Path) -> None:
    with Server(tmp_path, files=s3_url) as server:
        assert server.notes == []
    with Server(tmp_path) as server:
        assert server.notes == []
    with Server(tmp_path, files="data") as server:
        assert [f"Files were kept in {s3_url} before" in note for note in server.notes] == [True]
    with Server(tmp_path) as server:
        assert server.notes == []


class LocalChannel:
    """A channel to a server that this process runs, as its owner."""

    def __init__(self, server: Server) -> None:
        from neptune_api import channel

        self._channel = channel(server.addresses.grpc_url, api_token=server.api_token)

    def __enter__(self) -> Any:
        return self._channel

    def __exit__(self, *_: object) -> None:
        self._channel.close()


# Google and Azure


def test_google_takes_a_plain_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = tmp_path / "account.json"
    with running("gcs_process.py", BUCKET, str(account)) as endpoint:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        storage = ObjectStorage(f"gs://{BUCKET}/prefix?base_url={endpoint}")
        # A plain PUT is what clients do for this provider; for Google's own they begin a resumable upload.
        assert storage.provider == STORAGE_PROVIDER_AWS
        url = sign(storage, "PUT", "a b")
        assert set(urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)) == {
            "X-Goog-Algorithm",
            "X-Goog-Credential",
            "X-Goog-Date",
            "X-Goog-Expires",
            "X-Goog-Signature",
            "X-Goog-SignedHeaders",
        }
        assert ask("PUT", url, CONTENT, {"Content-Type": "any; thing"}).status == 200
        got = ask("GET", sign(storage, "GET", "a b"))
        assert (got.status, got.headers["content-type"], got.body) == (200, "any; thing", CONTENT)
        assert ask("GET", sign(storage, "GET", "never uploaded")).status == 404


def test_azure_gets_signatures_of_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aGVsbG8=")
    storage = ObjectStorage("az://container/prefix")
    assert storage.provider == STORAGE_PROVIDER_AZURE
    for method, permission in (("GET", "r"), ("PUT", "w")):
        url = urllib.parse.urlsplit(sign(storage, method, "a b"))
        assert url.netloc == "account.blob.core.windows.net"
        assert url.path == f"/container/prefix/{object_key(PROJECT, 'a b')}"
        query = urllib.parse.parse_qs(url.query)
        assert (query["sp"], query["sr"]) == ([permission], ["b"])
        assert query["sig"]


# What cannot be used


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StorageError, match=r"not installed: pip install \"neptune-api\[objects\]\""):
        ObjectStorage("s3://bucket")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, and no machine of a cloud that has some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    "url",
    ["", "files", "/srv/files", "s3://", "s3:bucket", "file:///srv", "memory:///", "http://host/bucket", "s3://a@b/c"],
)
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    with pytest.raises(StorageError, match="is no address for files: say s3://bucket/prefix"):
        ObjectStorage(url)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(StorageError, match=r"cannot be used: .*'edpoint'"):
        ObjectStorage("s3://bucket?edpoint=http://127.0.0.1:1")


@pytest.mark.parametrize("option", ["secret_access_key", "access_key_id", "account_key", "sas_token", "session_token"])
def test_secrets_do_not_belong_on_a_command_line(option: str) -> None:
    with pytest.raises(StorageError, match=f"The option {option} does not belong on a command line") as caught:
        ObjectStorage(f"s3://bucket?{option}=hush")
    assert "hush" not in str(caught.value)


def test_missing_credentials_are_said_at_the_start(nobody: None, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="The object store s3://bucket cannot sign URLs"):
        Server(tmp_path, files="s3://bucket?metadata_endpoint=http://127.0.0.1:1")
    with LocalServer(tmp_path):
        pass  # the folder was let go of, and remembers nothing of it


def test_a_store_that_is_gone_leaves_the_deletion_of_projects_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with Server(tmp_path, files="s3://bucket?endpoint=http://127.0.0.1:1") as server, LocalChannel(server) as channel:
        projects = ProjectsServiceStub(channel)
        project = projects.CreateProject(CreateProjectRequest(name="p", organization_identifier="local"))
        projects.DeleteProject(DeleteProjectRequest(project_identifier=project.id))
    assert f"still in the object store s3://bucket under {project.id}" in caplog.text
