"""Disks of a few megabytes, and ones that cannot be written: a file system of the test's own in a mount namespace."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

import neptune_api
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import assign, create
from neptune_api.exceptions import ResourceExhaustedException
from neptune_api.models import CreateProjectRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from tests.cli.processes import COMMAND, PATIENCE, Serving, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = 12  # MiB
KIB = "x" * 1024


@pytest.fixture
def mounted(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that returns the command line for a command that sees a file system of its own at `tmp_path`/disk."""
    (tmp_path / "disk").mkdir()

    def command(options: str, *arguments: str) -> list[str]:
        mount = f"mount -t tmpfs -o {options} none {shlex.quote(str(tmp_path / 'disk'))}"
        return ["unshare", "--mount", "--map-root-user", "sh", "-c", f'{mount} && exec "$@"', "sh", *arguments]

    try:
        subprocess.run(command("size=1m", "true"), check=True, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted here: {getattr(error, 'stderr', b'') or error!r}")
    return command


def test_a_folder_that_cannot_be_written(mounted: Callable[..., list[str]], tmp_path: Path) -> None:
    serve = (*COMMAND, "serve", "--data", str(tmp_path / "disk" / "data"))
    done = subprocess.run(
        mounted("ro", *serve), capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written: Read-only file system" in done.stderr


def test_a_disk_that_fills_up(mounted: Callable[..., list[str]], tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    serve = (*COMMAND, "serve", "--data", str(tmp_path / "disk" / "data"), "--ready-file", str(ready))
    command = mounted(f"size={FULL}m", *serve)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            token = Serving(process, ready).ready["api_token"]
            # What the process sees as its disk.
            filler = tmp_path.__class__(f"/proc/{process.pid}/root{tmp_path / 'disk' / 'filler'}")
            with neptune_api.channel(api_token=token) as channel:
                ProjectsServiceStub(channel).CreateProject(
                    CreateProjectRequest(name="lab", organization_identifier="local")
                )
                ingest = IngestServiceStub(channel)
                accepted = list(ingest.Submit(create()).request_ids)
                fill(filler)
                with pytest.raises(ResourceExhaustedException, match="disk is full"):  # noqa: PT012 # at some point
                    for number in range(20_000):
                        accepted += ingest.Submit(assign({f"a{number}": KIB})).request_ids
                filler.unlink()
                accepted += ingest.Submit(assign({"last": 1})).request_ids
                lab = Lab(_Plain(channel), "local/lab")  # type: ignore[arg-type]  # all that it asks for
                assert lab.results(accepted) == [{"OK": 1}] * len(accepted)
        finally:
            process.kill()


def fill(filler: Path) -> None:
    """Take all the space but some kilobytes."""
    with filler.open("wb", buffering=0) as file:
        try:
            for _ in range(FULL * 1024):
                file.write(b"x" * 1024)
        except OSError:
            os.ftruncate(file.fileno(), max(0, file.tell() - 256 * 1024))


class _Plain:
    """A connection of the stubs' own."""

    def __init__(self, channel: object) -> None:
        self._channel = channel

    def stub(self, stub_class: type) -> object:
        return stub_class(self._channel)
