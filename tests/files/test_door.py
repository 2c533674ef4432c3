"""The door of the file folder, in raw HTTP over a real server."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance.file_names import NAMES
from neptune_api.server.files.paths import quote
from neptune_api.server.files.signing import Signer
from neptune_api.server.files.storage import FolderStorage, StorageError
from tests.files.conftest import KEY, Http, HttpServer
from tests.files.urls import recoded, respelled

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from typing_extensions import Self

    from tests.files.conftest import Files
    from tests.files.raw_http import Answer

CONTENT = bytes(range(256)) * 40
DEADLINE = 30.0
MEBIBYTE = 1024 * 1024


def refusal(answer: Answer) -> tuple[int, str]:
    """Return status and kind of an answer that says no, having looked at its body."""
    body = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert body["code"] == answer.status
    assert body["message"].endswith(".")
    return answer.status, body["errorType"]


# Writing and reading


@pytest.mark.parametrize("content", [b"", b"x", CONTENT, b"\n" * 3_000_000], ids=len)
def test_what_is_put_is_got(files: Files, content: bytes) -> None:
    project = files.project()
    stored = files.put(project, "a/b.bin", content, content_type="image/png")
    etag = f'"{hashlib.md5(content).hexdigest()}"'
    assert (stored.status, stored.headers["etag"], stored.body) == (200, etag, b"")
    got = files.get(project, "a/b.bin")
    assert (got.status, got.body) == (200, content)
    assert got.headers["etag"] == etag
    assert got.headers["content-type"] == "image/png"
    assert got.headers["content-length"] == str(len(content))
    assert got.headers["accept-ranges"] == "bytes"
    modified = email.utils.parsedate_to_datetime(got.headers["last-modified"]).timestamp()
    assert abs(modified - time.time()) < 60


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_a_file(files: Files, name: str) -> None:
    project = files.project()
    files.put(project, name, name.encode())
    assert files.get(project, name).body == name.encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_a_url_may_be_spelled_in_other_ways(files: Files, name: str, choice: random.Random) -> None:
    project = files.project()
    files.put(project, name, b"x")
    path, _, query = files.sign("GET", project, name).partition("?")
    prefix = f"/api/files/{project}/"
    rest = recoded(path.removeprefix(prefix), choice, slashes=choice.random() < 0.5)
    assert files.ask("GET", f"{prefix}{rest}?{respelled(query, choice)}").status == 200


def test_the_path_of_a_url_may_be_encoded_throughout(files: Files) -> None:
    project = files.project()
    files.put(project, "a b/c+d", b"x")
    path, _, query = files.sign("GET", project, "a b/c+d").partition("?")
    encoded = "".join(f"%{ord(character):02x}" for character in urllib.parse.unquote(path))
    assert files.ask("GET", f"/{encoded[3:]}?{query}").body == b"x"


def test_an_overwritten_file_is_the_new_one(files: Files) -> None:
    project = files.project()
    files.put(project, "a", b"long old content", content_type="text/plain")
    files.put(project, "a", b"new", content_type="text/html")
    got = files.get(project, "a")
    assert (got.body, got.headers["content-type"]) == (b"new", "text/html")


def test_a_file_without_a_type_is_bytes(files: Files) -> None:
    project = files.project()
    files.put(project, "a", b"x")
    assert files.get(project, "a").headers["content-type"] == "application/octet-stream"


def test_a_type_need_not_look_like_one(files: Files) -> None:
    project = files.project()
    odd = "no slash; \xe9 " + "x" * 110
    assert files.put(project, "a", b"x", content_type=odd).status == 200
    assert files.get(project, "a").headers["content-type"] == odd


def test_a_type_has_a_limit(files: Files) -> None:
    answer = files.put(files.project(), "a", b"x", content_type="x" * 513)
    assert refusal(answer) == (400, "BAD_REQUEST")
    assert "513 bytes long, the limit is 512" in json.loads(answer.body)["message"]


def test_browsers_run_nothing_that_users_stored(files: Files) -> None:
    project = files.project()
    files.put(project, "a.html", b"<script>alert(1)</script>", content_type="text/html")
    headers = files.get(project, "a.html").headers
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["x-content-type-options"] == "nosniff"


def test_head_tells_the_same_without_the_content(files: Files) -> None:
    project = files.project()
    files.put(project, "a", CONTENT, content_type="x/y")
    url = files.sign("GET", project, "a")
    head, got = files.ask("HEAD", url), files.ask("GET", url)
    volatile = {"date"}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in got.headers.items() if k not in volatile
    }
    assert (head.status, head.body) == (200, b"")
    missing = files.ask("HEAD", files.sign("GET", project, "b"))
    assert (missing.status, missing.body) == (404, b"")


def test_chunked_uploads_are_files_too(files: Files) -> None:
    project = files.project()
    assert files.put(project, "a", iter([b"one", b"two" * 100_000, b"three"])).status == 200
    assert files.get(project, "a").body == b"one" + b"two" * 100_000 + b"three"


def test_one_connection_serves_many_requests(files: Files) -> None:
    project = files.project()
    connection = files.connect()
    for content in (b"a" * 100_000, b"", b"b"):
        connection.request("PUT", files.sign("PUT", project, "x"), body=content)
        assert connection.getresponse().read() == b""
        connection.request("GET", files.sign("GET", project, "x"))
        assert connection.getresponse().read() == content
    connection.close()


# Ranges and conditions


@pytest.mark.parametrize(
    ("header", "part", "content_range"),
    [
        ("bytes=0-0", slice(0, 1), "bytes 0-0/10240"),
        ("bytes=100-199", slice(100, 200), "bytes 100-199/10240"),
        ("bytes=10000-", slice(10_000, None), "bytes 10000-10239/10240"),
        ("bytes=-5", slice(-5, None), "bytes 10235-10239/10240"),
        ("bytes=10239-99999", slice(-1, None), "bytes 10239-10239/10240"),
    ],
)
def test_a_range_is_a_part(files: Files, header: str, part: slice, content_range: str) -> None:
    project = files.project()
    files.put(project, "a", CONTENT)
    got = files.get(project, "a", range=header)
    assert (got.status, got.body, got.headers["content-range"]) == (206, CONTENT[part], content_range)
    assert got.headers["content-length"] == str(len(CONTENT[part]))


@pytest.mark.parametrize("header", ["bytes=5-3", "bytes=0-1,5-6", "items=0-1", "bytes=x"])
def test_what_is_not_one_range_gets_everything(files: Files, header: str) -> None:
    project = files.project()
    files.put(project, "a", CONTENT)
    got = files.get(project, "a", range=header)
    assert (got.status, got.body) == (200, CONTENT)
    assert "content-range" not in got.headers


def test_a_range_outside_of_the_file_tells_its_size(files: Files) -> None:
    project = files.project()
    files.put(project, "a", CONTENT)
    got = files.get(project, "a", range="bytes=10240-")
    assert refusal(got) == (416, "BAD_REQUEST")
    assert got.headers["content-range"] == "bytes */10240"


def test_a_part_of_another_version_is_not_continued(files: Files) -> None:
    project = files.project()
    etag = files.put(project, "a", b"first").headers["etag"]
    assert files.get(project, "a", range="bytes=2-", if_range=etag).body == b"rst"
    files.put(project, "a", b"second")
    got = files.get(project, "a", range="bytes=2-", if_range=etag)
    assert (got.status, got.body) == (200, b"second")


@pytest.mark.parametrize("form", ["{}", "*", '"x", {}', "W/{}"])
def test_who_has_the_file_is_told_so(files: Files, form: str) -> None:
    project = files.project()
    etag = files.put(project, "a", b"x").headers["etag"]
    got = files.get(project, "a", if_none_match=form.format(etag))
    assert (got.status, got.body, got.headers["etag"]) == (304, b"", etag)
    assert files.get(project, "a", if_none_match='"x"').status == 200


@pytest.mark.parametrize("header", ["content_range", "content_encoding", "if_match", "if_none_match"])
def test_a_put_that_asks_for_more_than_a_put_is_refused(files: Files, header: str) -> None:
    project = files.project()
    answer = files.put(project, "a", b"x", **{header: "bytes 0-0/1"})
    assert refusal(answer) == (400, "BAD_REQUEST")
    assert files.get(project, "a").status == 404


# Saying no


def test_a_file_that_is_not_there(files: Files) -> None:
    assert refusal(files.get(files.project(), "nothing")) == (404, "FILE_NOT_FOUND")


def test_nothing_is_put_into_a_project_that_is_gone(files: Files) -> None:
    assert refusal(files.put(str(uuid.uuid4()), "a", b"x")) == (404, "FILE_NOT_FOUND")


def test_a_url_is_for_one_method(files: Files) -> None:
    project = files.project()
    assert refusal(files.ask("GET", files.sign("PUT", project, "a"))) == (403, "ACCESS_DENIED")
    assert refusal(files.ask("PUT", files.sign("GET", project, "a"), b"x")) == (403, "ACCESS_DENIED")


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_none(files: Files, method: str) -> None:
    answer = files.ask(method, files.sign("GET", files.project(), "a"))
    assert refusal(answer) == (405, "BAD_REQUEST")
    assert answer.headers["allow"] == "GET, HEAD, PUT"


def test_a_url_is_for_one_file_of_one_project(files: Files) -> None:
    project, other = files.project(), files.project()
    for place in (project, other):
        files.put(place, "a", b"x")
        files.put(place, "b", b"x")
    url = files.sign("GET", project, "a")
    for forged in (
        url.replace("/a?", "/b?"),
        url.replace("/a?", "/a/?"),
        url.replace("/a?", "/?"),
        url.replace("/a?", "/./a?"),
        url.replace("/a?", "/x/../a?"),
        url.replace("/a?", "//a?"),
        url.replace("/a?", "/A?"),
        url.replace(project, other),
        url.partition("?")[0],
        f"{url}&x=1",
    ):
        assert refusal(files.ask("GET", forged)) == (403, "ACCESS_DENIED"), forged


def test_paths_that_lead_out_lead_nowhere(files: Files) -> None:
    project = files.project()
    query = files.sign("GET", project, "a").partition("?")[2]
    for path in (
        f"/api/files/{project}/../../../etc/passwd",
        f"/api/files/{project}/%2e%2e/%2e%2e/etc/passwd",
        f"/api/files/{project}/..%2f..%2fetc%2fpasswd",
        f"/api/files/{project}/..\\..\\etc",
        f"/api/files/{project}/%00",
    ):
        assert refusal(files.ask("GET", f"{path}?{query}")) == (403, "ACCESS_DENIED"), path
    for path in (
        f"/api/files/../{project}/a",
        f"/api/files/..%2f{project}/a",
        f"/api/files/{project.upper()}/a",
        f"/api/files/{project}",
        "/api/files/",
        "/api/files/incoming/x",
        f"/api/files//{project}/a",
    ):
        assert refusal(files.ask("GET", f"{path}?{query}")) == (404, "FILE_NOT_FOUND"), path
    assert refusal(files.ask("GET", f"/api/files/{project}/%ff%fe?{query}")) == (400, "BAD_REQUEST")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200))
def test_any_other_address_is_an_error_of_the_client(files: Files, rest: str) -> None:
    assert 400 <= files.ask("GET", f"/api/files/{rest}").status < 500


@pytest.mark.parametrize("expires", ["0", "1700000000", "20260101T000000Z", ""])
def test_an_expired_url_is_400(files: Files, expires: str) -> None:
    """Clients take 400 for it, and rewrite the time in tests of their own."""
    project = files.project()
    files.put(project, "a", b"x")
    path, _, query = files.sign("GET", project, "a").partition("?")
    changed = urllib.parse.urlencode({**dict(urllib.parse.parse_qsl(query)), "X-Amz-Expires": expires})
    assert refusal(files.ask("GET", f"{path}?{changed}")) == (400, "AUTHORIZATION_TOKEN_EXPIRED")
    assert refusal(files.ask("PUT", f"{path}?{changed}", b"y")) == (400, "AUTHORIZATION_TOKEN_EXPIRED")
    assert files.get(project, "a").body == b"x"


def test_who_speaks_as_azure_does_is_served(files: Files) -> None:
    project = files.project()
    url = files.sign("GET", project, "a", for_azure=True)
    put = files.sign("PUT", project, "a", for_azure=True)
    assert files.ask("PUT", put, CONTENT, {"x-ms-blob-type": "BlockBlob"}).status == 200
    assert files.ask("GET", url).body == CONTENT
    part = files.ask("GET", url, None, {"x-ms-range": "bytes=2-5"})
    assert (part.status, part.body) == (206, CONTENT[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(CONTENT)}"
    assert refusal(files.ask("GET", files.sign("GET", project, "b", for_azure=True))) == (404, "FILE_NOT_FOUND")
    path, _, query = url.partition("?")
    old = urllib.parse.urlencode({**dict(urllib.parse.parse_qsl(query)), "se": "2020-01-01T00:00:00Z"})
    assert refusal(files.ask("GET", f"{path}?{old}")) == (401, "AUTHORIZATION_TOKEN_EXPIRED")


def test_a_refused_upload_leaves_the_connection_usable(files: Files) -> None:
    project = files.project()
    connection = files.connect()
    connection.request("PUT", files.sign("GET", project, "a"), body=b"x" * 3_000_000)
    refused = connection.getresponse()
    assert (refused.status, refused.read() != b"") == (403, True)
    connection.request("PUT", files.sign("PUT", project, "a"), body=b"x")
    assert connection.getresponse().status == 200
    connection.close()


# Half uploads, many uploads


def test_half_an_upload_is_none(own_files: Files) -> None:
    project = own_files.project()
    own_files.put(project, "a", b"old")
    for framing in (b"Content-Length: 5000000\r\n", b"Transfer-Encoding: chunked\r\n"):
        with socket.create_connection(own_files.address) as client:
            target = own_files.sign("PUT", project, "a").encode()
            client.sendall(b"PUT " + target + b" HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n")
            client.sendall(b"200000\r\n" + b"x" * 2_097_152)
            wait_for(lambda: len(own_files.on_disk()) == 2)
            assert own_files.get(project, "a").body == b"old"
        wait_for(lambda: len(own_files.on_disk()) == 1)
    assert own_files.get(project, "a").body == b"old"


def wait_for(condition: object) -> None:
    """Wait until a condition holds, with a limit."""
    assert callable(condition)
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def test_overwriting_at_the_same_time_leaves_one_version_as_a_whole(own_files: Files) -> None:
    project = own_files.project()
    contents = [bytes([65 + number]) * 1_500_000 for number in range(6)]
    own_files.put(project, "a", contents[0])
    threads = [threading.Thread(target=own_files.put, args=(project, "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        got = own_files.get(project, "a")
        assert got.headers["etag"] == f'"{hashlib.md5(got.body).hexdigest()}"'
        seen.add(got.body)
    assert seen <= set(contents)
    assert own_files.get(project, "a").body in contents
    assert len(own_files.on_disk()) == 1


def test_who_takes_no_more_is_not_read_for(own_files: Files) -> None:
    """A reader that leaves in the middle of a large file ends the reading of it."""
    project = own_files.project()
    own_files.put(project, "a", b"x" * 30_000_000)
    with socket.create_connection(own_files.address) as client:
        client.sendall(b"GET " + own_files.sign("GET", project, "a").encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert own_files.get(project, "a").status == 200


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[tuple[FolderStorage, HttpServer]]:
    storage = FolderStorage(tmp_path / "files", KEY, knows=lambda _: True)
    storage.door._idle_seconds = 0.2
    server = HttpServer(storage.door)
    yield storage, server
    server.close()
    storage.close()


def test_who_sends_nothing_for_long_is_cut_off(impatient: tuple[FolderStorage, HttpServer], tmp_path: Path) -> None:
    storage, server = impatient
    (url,) = storage.sign("PUT", [(str(uuid.uuid4()), "a")], "")
    with socket.create_connection(server.address, timeout=DEADLINE) as client:
        client.sendall(b"PUT " + url.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in answer
    assert b"connection: close" in answer.lower()
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


# Trouble on the server's side


def test_a_damaged_file_is_an_incident(own_files: Files, caplog: pytest.LogCaptureFixture) -> None:
    project = own_files.project()
    own_files.put(project, "a", b"x")
    (place,) = own_files.on_disk()
    place.write_bytes(b"garbage")
    answer = own_files.get(project, "a")
    assert refusal(answer) == (500, "INTERNAL_SERVER_ERROR")
    (incident,) = {word for word in json.loads(answer.body)["message"].rstrip(".").split() if len(word) == 32}
    assert incident in caplog.text
    assert "Signature" not in caplog.text


def test_a_full_disk_is_507_and_stores_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the kernel's answers are of one kind."""
    project = str(uuid.uuid4())
    with DoorProcess(tmp_path / "files", "2000000") as process:
        assert refusal(process.ask("PUT", process.sign("PUT", project, "a"), b"x" * 5_000_000)) == (
            507,
            "SERVICE_UNAVAILABLE",
        )
        assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []
        assert process.ask("PUT", process.sign("PUT", project, "a"), b"x" * 1_000_000).status == 200


def test_an_upload_that_dies_with_the_server_is_none(tmp_path: Path) -> None:
    project, root = str(uuid.uuid4()), tmp_path / "files"
    with DoorProcess(root) as process:
        process.ask("PUT", process.sign("PUT", project, "a"), b"old")
        with socket.create_connection(process.address) as client:
            target = process.sign("PUT", project, "a").encode()
            client.sendall(
                b"PUT " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 2_100_000
            )
            wait_for(lambda: any(path.stat().st_size for path in (root / "incoming").iterdir()))
            process.kill()
    with DoorProcess(root) as process:
        assert process.ask("GET", process.sign("GET", project, "a")).body == b"old"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 256 MiB, up and down and both at a time, through a process that may take 32 MiB more for it."""
    project, size, piece = str(uuid.uuid4()), 256 * MEBIBYTE, b"\0" * MEBIBYTE
    headers = {"content-length": str(size)}
    with DoorProcess(tmp_path / "files") as process:

        def put(name: str) -> None:
            body = (piece for _ in range(size // len(piece)))
            assert process.ask("PUT", process.sign("PUT", project, name), body, headers).status == 200

        put("a")
        writer = threading.Thread(target=put, args=("b",))
        writer.start()
        connection = http.client.HTTPConnection(*process.address)
        connection.request("GET", process.sign("GET", project, "a"))
        response = connection.getresponse()
        received = sum(len(part) for part in iter(lambda: response.read(MEBIBYTE), b""))
        connection.close()
        writer.join()
        assert received == size
    assert process.peak - process.started_with < 32 * MEBIBYTE


class DoorProcess(Http):
    """A door in a process of its own."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self._signer = Signer(KEY)
        script = Path(__file__).with_name("door_process.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(root), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )
        assert self._process.stdout is not None
        port, started_with = map(int, self._process.stdout.readline().split())
        super().__init__(("127.0.0.1", port))
        self.started_with = started_with
        self.peak = 0

    def sign(self, method: str, project: str, path: str) -> str:
        """Return path and query of a signed URL."""
        return f"/api/files/{project}/{quote(path)}?{self._signer.sign(method, project, path)}"

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is not None:
            return
        out, _error = self._process.communicate(timeout=DEADLINE)
        self.peak = int(out)
        assert self._process.returncode == 0


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        FolderStorage(tmp_path / "files", KEY, knows=lambda _: True)
