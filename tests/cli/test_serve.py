"""`neptune-api serve` in a process of its own: from the first start to the last signal."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import neptune_api
from neptune_api.credentials import TOKEN_VARIABLE, redact
from neptune_api.v1.ingest_pb2 import CreateRun, RunOperation
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, GetProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests import earlier
from tests.cli.processes import COMMAND, PATIENCE, ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

SELF_SIGNED = (
    *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
)


def test_first_start(serving: Any, process: Any, tmp_path: Path) -> None:
    with serving("--workspace", "lab", "--username", "ann", "--log-level", "debug") as server:
        assert server.mode == 0o600
        assert server.ready.keys() == {"grpc_target", "http_url", "api_token", "workspace", "username"}
        assert (server.ready["workspace"], server.ready["username"]) == ("lab", "ann")
        assert re.fullmatch(r"127\.0\.0\.1:\d+", server.ready["grpc_target"])
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.ready["http_url"])
        with neptune_api.channel(api_token=server.ready["api_token"]) as channel:
            assert UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username == "ann"
        called = process("call", "UsersService.GetUserIdentity", token=server.ready["api_token"])
        assert called.no_token().json()["username"] == "ann"
        assert [path.name for path in tmp_path.iterdir() if "ready" in path.name] == ["ready.json"]
        result, _ = server.end()
    assert result.code == 0
    lines = [line.strip() for line in result.out.splitlines()]
    assert f"export {TOKEN_VARIABLE}='{server.ready['api_token']}'" in lines
    assert "neptune-api call UsersService.GetUserIdentity" in lines
    assert "/docs" in next(line for line in lines if line.startswith("HTTP"))
    assert redact(result.err) == result.err
    assert not server.ready_file.exists()


def test_lines_to_paste_work(serving: Any) -> None:
    with serving() as server:
        said = iter(server.process.stdout.readline, "")
        export = next(line for line in said if line.strip().startswith("export"))
        command = next(said).strip().removeprefix("neptune-api")
        script = f"{export}\n{shlex.quote(sys.executable)} -m neptune_api{command}"
        pasted = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, env=environment(), check=True, timeout=PATIENCE
        )
        assert json.loads(pasted.stdout)["username"] == "owner"


def test_restart_keeps_the_token_and_what_was_acknowledged(serving: Any) -> None:
    with serving() as server:
        first = server.ready
        with neptune_api.channel(api_token=first["api_token"]) as channel:
            request = CreateProjectRequest(name="p", organization_identifier=first["workspace"])
            project = ProjectsServiceStub(channel).CreateProject(request)
        server.end()
    with serving() as server:
        assert server.ready == first
        with neptune_api.channel(api_token=first["api_token"]) as channel:
            found = ProjectsServiceStub(channel).GetProject(GetProjectRequest(project_identifier="local/p"))
        assert found.id == project.id


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_in_time_with_calls_under_way(serving: Any, number: signal.Signals) -> None:
    with serving() as server, neptune_api.channel(api_token=server.ready["api_token"]) as channel:
        request = CreateProjectRequest(name="p", organization_identifier="local")
        ProjectsServiceStub(channel).CreateProject(request)
        ingest = IngestServiceStub(channel)
        feed = _Endless()
        acknowledged = ingest.SubmitAcknowledged(iter(feed), timeout=60)
        request_ids = list(next(acknowledged).request_ids)
        idle = ingest.SubmitAcknowledged(iter(feed.waiting, None), timeout=60)
        with socket.create_connection(_http_address(server), timeout=PATIENCE) as unfinished:
            unfinished.sendall(b"POST /api/client/v1/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            result, seconds = server.end(number)
            # Nothing, if the server had not come to read the request.
            with contextlib.suppress(ConnectionResetError):
                reply = unfinished.recv(1000)
                assert not reply or reply.startswith(b"HTTP/1.1 503")
        feed.end()
        with pytest.raises(grpc.RpcError):
            request_ids += [request_id for response in acknowledged for request_id in response.request_ids]
        with pytest.raises(grpc.RpcError):
            next(idle)
    assert result.code == 0
    assert seconds < 2
    assert redact(result.err) == result.err
    database = sqlite3.connect(f"{result_folder(server)}/store.sqlite3")
    try:
        kept = {row[0] for row in database.execute("SELECT request_id FROM requests")}
    finally:
        database.close()
    assert kept >= set(request_ids)


class _Endless:
    """Operations for as long as the test wants."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._count = 0

    def __iter__(self) -> Any:
        while not self._ended.is_set():
            self._count += 1
            yield RunOperation(project="local/p", run_id=f"r{self._count}", create=CreateRun())

    def waiting(self) -> None:
        self._ended.wait(60)

    def end(self) -> None:
        self._ended.set()


def result_folder(server: Any) -> Path:
    folder: Path = server.ready_file.parent / "data"
    return folder


def _http_address(server: Any) -> tuple[str, int]:
    parts = urlsplit(server.ready["http_url"])
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def test_both_doors_answer(serving: Any) -> None:
    with serving() as server:
        connection = http.client.HTTPConnection(*_http_address(server), timeout=PATIENCE)
        for path, content_type in (("/healthz", "application/json"), ("/docs", "text/html; charset=utf-8")):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers["content-type"]) == (200, content_type)
        connection.close()
        server.end()


def test_early_signal_ends_it_as_well(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--data", str(tmp_path / "data")], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_taken_port(process: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for option in ("--grpc-port", "--http-port"):
            result = process("serve", "--data", "data", option, port)
            assert result.code == 2
            assert_one_sentence(result.err, f"Cannot listen on 127.0.0.1:{port}: another program")


def test_unwritable_folder(process: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        result = process("serve", "--data", folder)
        assert result.code == 2
        assert_one_sentence(result.err, "cannot be written: there is a file in its place")


def test_unwritable_ready_file(process: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file/ready.json", "missing/ready.json", "."):
        result = process("serve", "--data", "data", "--ready-file", path, "--log-level", "error")
        assert result.code == 2
        assert_one_sentence(result.err, "The ready file")
        assert result.out == "", "a server that does not stay tells no token"


def test_folder_of_a_newer_version(serving: Any, process: Any, tmp_path: Path) -> None:
    with serving() as server:
        server.end()
    database = sqlite3.connect(tmp_path / "data" / "store.sqlite3")
    database.execute("UPDATE alembic_version SET version_num = '0999'")
    database.commit()
    database.close()
    result = process("serve", "--data", "data")
    assert result.code == 2
    assert_one_sentence(result.err, "0999")
    assert "newer" in result.err


def test_folder_of_an_older_version(serving: Any, tmp_path: Path) -> None:
    earlier.restore(tmp_path / "data")
    with serving() as server:
        result, _ = server.end()
    assert result.code == 0
    assert "has schema version 0001: bringing it to " in result.err.partition("\n")[0]
    assert "alembic" not in result.err


def test_folder_that_is_no_database(process: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "store.sqlite3").write_bytes(b"not a database " * 100)
    result = process("serve", "--data", "data")
    assert result.code == 2
    assert_one_sentence(result.err, "cannot be used")


def test_second_server_on_a_folder(serving: Any, process: Any) -> None:
    with serving() as server:
        result = process("serve", "--data", str(server.ready_file.parent / "data"))
        assert result.code == 2
        assert_one_sentence(result.err, "in use by another server")
        with neptune_api.channel(api_token=server.ready["api_token"]) as channel:
            assert UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest()).username == "owner"


def test_plaintext_beyond_this_machine(process: Any) -> None:
    result = process("serve", "--data", "data", "--host", "0.0.0.0")
    assert result.code == 2
    assert_one_sentence(result.err, "without TLS")


def test_public_url(serving: Any) -> None:
    with serving("--public-url", "https://tracking.example.test/api/") as server:
        assert server.ready["http_url"] == "https://tracking.example.test/api"


def test_place_of_files(serving: Any, process: Any, tmp_path: Path) -> None:
    with serving("--files", str(tmp_path / "elsewhere")):
        assert (tmp_path / "elsewhere").is_dir()
    with serving():
        assert not (tmp_path / "data" / "files").exists()
    (tmp_path / "file").touch()
    for place, sentence in (
        ("file", "cannot be written"),
        ("ftp://host/files", "ftp://host/files is no address for files"),
        ("s3://bucket?secret_access_key=hush", "does not belong on a command line"),
    ):
        result = process("serve", "--data", "data", "--files", place)
        assert result.code == 2
        assert_one_sentence(result.err, sentence)
        assert "hush" not in result.err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_tls(serving: Any, process: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [*SELF_SIGNED, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=PATIENCE
    )
    with serving("--tls-cert", str(certificate), "--tls-key", str(key), "--host", "127.0.0.1") as server:
        token = server.ready["api_token"]
        assert server.ready["grpc_target"].startswith("grpcs://127.0.0.1:")
        assert server.ready["http_url"].startswith("https://127.0.0.1:")
        answer = process("call", "UsersService.GetUserIdentity", "--ca-file", "certificate.pem", token=token)
        assert answer.json()["username"] == "owner"
        untrusted = process("call", "UsersService.GetUserIdentity", "--timeout", "10", token=token)
        assert untrusted.code == 1
        result, _ = server.end()
        assert result.code == 0
    half = process("serve", "--data", "other", "--tls-cert", "certificate.pem")
    assert half.code == 2
    assert_one_sentence(half.err, "--tls-key")


def test_stale_ready_file_goes(process: Any, tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text("{}")
    (tmp_path / "file").touch()
    assert process("serve", "--data", "file", "--ready-file", "ready.json").code == 2
    assert not (tmp_path / "ready.json").exists()


LATER = {"alembic": "loaded for folders of older versions", "swagger_ui_bundle": "loaded with the API page"}


def server_packages() -> list[str]:
    """The packages of the server extra, as they are imported; not the inner ones that belong to another."""
    wanted = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, metadata.requires("neptune-api") or ())
        if requirement.marker is not None and requirement.marker.evaluate({"extra": "server"})
    }
    found = {
        package
        for package, distributions in metadata.packages_distributions().items()
        if re.fullmatch("[a-z][a-z0-9_]*", package) and wanted & set(map(canonicalize_name, distributions))
    }
    assert len(found) >= len(wanted)
    return sorted(found)


def test_missing_extra_in_python(tmp_path: Path) -> None:
    code = "import sys; sys.modules['jwt'] = None; from neptune_api.server import LocalServer"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    sentence = 'The server needs the package jwt, which is not installed: pip install "neptune-api[server]"'
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {sentence}"


@pytest.mark.parametrize("package", server_packages())
def test_missing_extra(process: Any, tmp_path: Path, package: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{package}'] = None\n")
    (tmp_path / "file").touch()  # no folder to serve: what is loaded later is not missed
    path = f"{tmp_path}:{ROOT}"
    result = process("serve", "--data", "file", PYTHONPATH=path)
    assert result.code == 2
    sentence = f'the package {package}, which is not installed: pip install "neptune-api[server]"'
    assert_one_sentence(result.err, "cannot be written" if package in LATER else sentence)


def test_other_commands_need_no_extra(process: Any, tmp_path: Path) -> None:
    missing = server_packages()
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n")
    path = f"{tmp_path}:{ROOT}"
    assert process("--version", PYTHONPATH=path).out.startswith("neptune-api ")
    assert "ExchangeApiToken" in process("describe", "AuthService", PYTHONPATH=path).out
    assert process("token", "redact", stdin="Bearer abc\n", PYTHONPATH=path).out == "Bearer <redacted>\n"
    unreachable = process("call", "ConfigService.GetServerInfo", "--target", "grpc://127.0.0.1:1", PYTHONPATH=path)
    assert unreachable.code == 1
    assert unreachable.err.startswith("UNAVAILABLE: ")


def assert_one_sentence(text: str, part: str) -> None:
    assert part in text
    assert text.count("\n") == 1
    assert "Traceback" not in text
