"""Files of a whole server: kept over restarts, deleted with their project, addressed as clients see the server."""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING

import pytest

from neptune_api import channel
from neptune_api.exceptions import UnavailableException
from neptune_api.server.server import Server, ServerError
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, DeleteProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.storage_service_pb2 import FILE_PERMISSION_READ, CreateSignedUrlsRequest, FileToSign
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.server.files.door import FileDoor
    from tests.postgres import PostgresServer


def create_project(server: Server) -> str:
    with channel(server.addresses.grpc_url, api_token=server.api_token) as opened:
        request = CreateProjectRequest(name="p", organization_identifier=server.workspace)
        return ProjectsServiceStub(opened).CreateProject(request).id


def url_of(server: Server, project: str) -> str:
    with channel(server.addresses.grpc_url, api_token=server.api_token) as opened:
        file = FileToSign(path="a", project_identifier=project, permission=FILE_PERMISSION_READ)
        return StorageServiceStub(opened).CreateSignedUrls(CreateSignedUrlsRequest(files=[file])).files[0].url


def door_of(server: Server) -> FileDoor:
    assert server._files is not None
    assert server._files.door is not None
    return server._files.door


def test_urls_begin_as_clients_see_the_server(tmp_path: Path) -> None:
    with Server(tmp_path, public_url="https://tracking.example.test/neptune/") as server:
        project = create_project(server)
        assert server.addresses.http_url == "https://tracking.example.test/neptune"
        assert url_of(server, project).startswith(f"https://tracking.example.test/neptune/api/files/{project}/a?")
    with Server(tmp_path) as server:
        assert url_of(server, project).startswith(f"{server.addresses.http_url}/api/files/{project}/a?")
        assert "127.0.0.1" in server.addresses.http_url


@pytest.mark.parametrize("url", ["tracking.example.test", "ftp://tracking.example.test", "", "grpc://x"])
def test_a_public_url_has_a_scheme(tmp_path: Path, url: str) -> None:
    with pytest.raises(ServerError, match="must begin with http:// or https://"):
        Server(tmp_path, public_url=url)


def test_a_restart_keeps_urls_valid(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        project = create_project(server)
        query = urllib.parse.urlsplit(url_of(server, project)).query
    with Server(tmp_path) as server:
        door_of(server)._signer.check("GET", project, "a", query)


def test_files_go_with_their_project(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        project = create_project(server)
        door = door_of(server)
        assert door._knows(project)
        upload = door._folder.begin(project, "a", "")
        upload.commit()
        upload.discard()
        assert (tmp_path / "files" / project).is_dir()
        with channel(server.addresses.grpc_url, api_token=server.api_token) as opened:
            ProjectsServiceStub(opened).DeleteProject(DeleteProjectRequest(project_identifier=project))
        assert not (tmp_path / "files" / project).exists()
        assert not door._knows(project)


def test_files_may_lie_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Server("data", files="elsewhere") as server:
        assert server.notes == []
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    with Server(tmp_path / "data") as server:
        project = create_project(server)
        door_of(server)._folder.begin(project, "a", "").commit()
    assert (tmp_path / "elsewhere" / project).is_dir()
    assert not (tmp_path / "data/files").exists()
    with Server(tmp_path / "data", files="data") as server:
        assert server.notes == [
            f"Files were kept in {tmp_path / 'elsewhere'} before and stay there; the server uses data now."
        ]
    assert (tmp_path / "data/files").is_dir()


def test_a_database_alone_has_no_place_for_files(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with pytest.raises(ServerError, match="when there is none: name another place"):
        Server(None, store=url, files="data")
    with Server(None, store=url) as server, channel(server.addresses.grpc_url, api_token=server.api_token) as opened:
        project = create_project(server)
        file = FileToSign(path="a", project_identifier=project, permission=FILE_PERMISSION_READ)
        with pytest.raises(UnavailableException, match="no place for files: start it with --files"):
            StorageServiceStub(opened).CreateSignedUrls(CreateSignedUrlsRequest(files=[file]))
        ProjectsServiceStub(opened).DeleteProject(DeleteProjectRequest(project_identifier=project))
