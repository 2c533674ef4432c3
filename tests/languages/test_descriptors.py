"""The published descriptor set: whole, commented, handed out by servers, and understood by tools that are not ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from neptune_api.server import LocalServer
from neptune_api.v1 import series_service_pb2
from tests.environments import ROOT
from tests.languages.programs import PROGRAMS, section

DESCRIPTORS = ROOT / "neptune_api/server/http/static/descriptors.binpb"
PACKAGE = "neptune_api.v1"
BUF = Path(sys.executable).with_name("buf")


@pytest.fixture(scope="module")
def files() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())


def test_every_command_of_the_document_is_run() -> None:
    headings = {program.language.heading for program in PROGRAMS} | {"Any other", "From the shell"}
    run = sum(section(heading).count("\n") for heading in headings)
    assert run == section("").count("\n")


def test_it_stands_alone_and_holds_every_file(files: descriptor_pb2.FileDescriptorSet) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:  # dependencies come first, as protoc writes them
        pool.Add(file)
    names = {file.name for file in files.file if file.package == PACKAGE}
    assert names == {path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto").rglob("*.proto")}
    for name in ("google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"):
        assert pool.FindMessageTypeByName(name).fields


def test_its_messages_are_those_of_the_package(files: descriptor_pb2.FileDescriptorSet) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    (method, *_) = pool.FindServiceByName(f"{PACKAGE}.SeriesService").methods
    foreign = message_factory.GetMessageClass(method.input_type)
    ours = series_service_pb2.GetFloatSeriesValuesRequest()
    ours.request.requests.add(request_id="a").series.attribute = "b"
    assert str(foreign.FromString(ours.SerializeToString())) == str(ours)


def test_it_has_the_comments_of_the_api_and_no_others(files: descriptor_pb2.FileDescriptorSet) -> None:
    for file in files.file:
        assert bool(file.source_code_info.location) is (file.package == PACKAGE), file.name
        if file.name.endswith("ingest_service.proto"):
            comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
            assert comments[6, 0, 2, 0].startswith(" Submits one operation. Needs member.\n")


def test_servers_hand_it_out() -> None:
    with LocalServer() as server, urllib.request.urlopen(f"{server.http_url}/descriptors.binpb") as reply:
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.read() == DESCRIPTORS.read_bytes()


def test_a_call_from_the_shell() -> None:
    with LocalServer() as server:
        command = section("From the shell").replace("buf ", f"{BUF} ", 1).replace("$GRPC", server.grpc_target)
        done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"]


@pytest.mark.skipif(shutil.which("protoc") is None, reason="there is no protoc")
def test_code_by_protoc_alone(tmp_path: Path) -> None:
    static = tmp_path / DESCRIPTORS.relative_to(ROOT).parent
    static.mkdir(parents=True)
    shutil.copy(DESCRIPTORS, static)
    done = subprocess.run(["sh", "-eu", "-c", section("Any other")], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    header = (tmp_path / "gen/neptune_api/v1/ingest.pb.h").read_text()
    assert "class RunOperation final" in header
