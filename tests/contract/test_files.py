"""Contents of files through the whole server: signed over any wire, up and down through the HTTP door."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from neptune_api.conformance.file_names import NAMES
from neptune_api.server import LocalServer, limits
from neptune_api.v1.auth_service_pb2 import ExchangeApiTokenRequest
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, DeleteProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.storage_service_pb2 import (
    FILE_PERMISSION_READ,
    FILE_PERMISSION_WRITE,
    STORAGE_PROVIDER_AWS,
    CreateSignedUrlsRequest,
    FileToSign,
)
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub
from tests.files.raw_http import ask

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.people import Host


def urls(stub: StorageServiceStub, project: str, path: str) -> tuple[str, str]:
    """Return the URLs that write and read a file."""
    files = [
        FileToSign(path=path, project_identifier=project, permission=permission)
        for permission in (FILE_PERMISSION_WRITE, FILE_PERMISSION_READ)
    ]
    write, read = stub.CreateSignedUrls(CreateSignedUrlsRequest(files=files)).files
    return write.url, read.url


def test_urls_lead_to_the_door_for_files(wire: Wire, server: Host, identifier: str) -> None:
    file = FileToSign(path="a/b", project_identifier=identifier, permission=FILE_PERMISSION_READ)
    (signed,) = wire.connect().stub(StorageServiceStub).CreateSignedUrls(CreateSignedUrlsRequest(files=[file])).files
    assert signed.provider == STORAGE_PROVIDER_AWS
    assert signed.url.startswith(f"{server.http_url}/api/files/")
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(signed.url).query, strict_parsing=True)
    assert set(query) == {"X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"}


@pytest.mark.parametrize("name", [*NAMES, "é" * (limits.MAX_FILE_PATH_BYTES // 2)], ids=lambda name: ascii(name)[:40])
def test_a_file_goes_up_and_comes_down(wire: Wire, identifier: str, name: str) -> None:
    write, read = urls(wire.connect().stub(StorageServiceStub), identifier, name)
    assert ask("GET", read).status == 404
    stored = ask("PUT", write, name.encode(), {"Content-Type": "x/y"})
    assert (stored.status, stored.body) == (200, b"")
    assert stored.headers["etag"] == f'"{hashlib.md5(name.encode()).hexdigest()}"'
    got = ask("GET", read)
    assert (got.status, got.headers["content-type"], got.body) == (200, "x/y", name.encode())


def test_files_may_be_larger_than_messages(wire: Wire, identifier: str) -> None:
    write, read = urls(wire.connect().stub(StorageServiceStub), identifier, "large")
    content = b"0123456789abcdef" * (limits.MAX_REQUEST_BYTES // 16 + 1000)
    assert ask("PUT", write, content).status == 200
    assert ask("GET", read).body == content
    part = ask("GET", read, headers={"Range": "bytes=33554432-33554447"})
    assert (part.status, part.body) == (206, b"0123456789abcdef")
    assert part.headers["content-range"] == f"bytes 33554432-33554447/{len(content)}"


def test_an_access_token_is_no_signature(wire: Wire, server: LocalServer, identifier: str) -> None:
    _, read = urls(wire.connect().stub(StorageServiceStub), identifier, "a")
    authorized = {"Authorization": f"Bearer {server.api_token}", "X-Neptune-Api-Token": server.api_token}
    assert ask("GET", read.partition("?")[0], headers=authorized).status == 403


def test_a_url_outlives_a_restart(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as server, server.channel() as channel:
        request = CreateProjectRequest(name="p", organization_identifier=server.workspace)
        project = ProjectsServiceStub(channel).CreateProject(request).id
        write, read = urls(StorageServiceStub(channel), project, "a")
        assert ask("PUT", write, b"before").status == 200
    with LocalServer(tmp_path) as server, server.channel() as channel:
        assert ask("GET", read).body == b"before"
        assert ask("PUT", write, b"after").status == 200
        assert ask("GET", read).body == b"after"
        ProjectsServiceStub(channel).DeleteProject(DeleteProjectRequest(project_identifier=project))
        assert ask("GET", read).status == 404
        assert ask("PUT", write, b"too late").status == 404


def test_a_server_that_stops_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as server, server.channel() as channel:
        request = CreateProjectRequest(name="p", organization_identifier=server.workspace)
        write, read = urls(StorageServiceStub(channel), ProjectsServiceStub(channel).CreateProject(request).id, "a")
        ask("PUT", write, b"old")
        parts = urllib.parse.urlsplit(write)
        client = http.client.HTTPConnection(parts.netloc)
        client.putrequest("PUT", f"{parts.path}?{parts.query}")
        client.putheader("Content-Length", "9000000")
        client.endheaders(b"x" * 2_100_000)
        end = time.monotonic() + 30
        while not any((tmp_path / "files/incoming").iterdir()):
            assert time.monotonic() < end
            threading.Event().wait(0.005)
    client.close()
    assert list((tmp_path / "files/incoming").iterdir()) == []
    with LocalServer(tmp_path):
        assert ask("GET", read).body == b"old"


def test_urls_lead_back_to_the_name_that_the_caller_used(server: LocalServer, identifier: str) -> None:
    """As a caller sees the server whose port is another one outside of a container."""
    with server.channel() as channel:
        access = AuthServiceStub(channel).ExchangeApiToken(ExchangeApiTokenRequest(api_token=server.api_token))
    body = json.dumps({"files": [{"path": "a", "project_identifier": identifier, "permission": "read"}]}).encode()
    headers = {"Authorization": f"Bearer {access.access_token}", "Content-Type": "application/json"}
    for host, expected in (
        ("outside.example.test:8080", "http://outside.example.test:8080/api/files/"),
        ("not a host/../", f"{server.http_url}/api/files/"),
    ):
        answer = ask("POST", f"{server.http_url}/api/storagebridge/v1/signedUrl", body, {**headers, "Host": host})
        assert answer.status == 200
        (file,) = json.loads(answer.body)["files"]
        assert file["url"].startswith(expected)
        assert set(file) == {"path", "project_identifier", "provider", "url"}
        assert (file["path"], file["project_identifier"], file["provider"]) == ("a", identifier, "aws")


def test_signatures_are_not_logged(wire: Wire, identifier: str, caplog: pytest.LogCaptureFixture) -> None:
    write, read = urls(wire.connect().stub(StorageServiceStub), identifier, "a")
    with caplog.at_level(logging.DEBUG):
        for method, url in (("PUT", write), ("GET", read), ("GET", write), ("POST", read)):
            ask(method, url, b"x" if method == "PUT" else None)
    assert "Signature" not in caplog.text
