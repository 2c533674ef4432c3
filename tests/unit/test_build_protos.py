"""build_protos.py: what it calls stale, what it replaces, and what it says when a proto is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_protos

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] > build_protos.PYTHONS[1], reason="the pinned grpcio-tools has no wheels for this Python"
)

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
OPENAPI = "neptune_api/server/http/static/openapi.json"
DESCRIPTORS = "neptune_api/server/http/static/descriptors.binpb"
REFERENCE = ("docs/errors.md", "docs/limits.md")
GENERATED = ("neptune_api/v1", "neptune_api/models", "neptune_api/api/client.py", OPENAPI, DESCRIPTORS, *REFERENCE)


def build(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "build_protos.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def times(root: Path) -> dict[Path, int]:
    paths = [root / name for name in GENERATED]
    paths += [file for path in paths for file in path.rglob("*")]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what generation reads and writes, sharing the tool environments of the checkout."""
    TOOLS.mkdir(exist_ok=True)
    (tmp_path / ".tools").symlink_to(TOOLS)
    for folder in ("proto", "tools", "neptune_api"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("build_protos.py", *REFERENCE):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def test_the_committed_files_are_fresh_and_a_run_touches_none(copy: Path) -> None:
    checked = build(copy, "--check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked
    before = times(copy)
    again = build(copy)
    assert (again.returncode, again.stdout) == (0, "everything generated is up to date\n"), again
    assert times(copy) == before


def test_check_lists_stale_missing_and_extra_files_and_writes_nothing(copy: Path) -> None:
    stale, missing = copy / "neptune_api/v1/roles_pb2.py", copy / "neptune_api/models/__init__.py"
    extra, client = copy / "neptune_api/v1/gone_pb2.py", copy / "neptune_api/api/client.py"
    for file in (stale, client):
        file.write_text(file.read_text() + "# edited\n")
    missing.unlink()
    extra.write_text("")
    before = times(copy)
    checked = build(copy, "--check")
    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        "extra    neptune_api/v1/gone_pb2.py",
        "stale    neptune_api/v1/roles_pb2.py",
        "missing  neptune_api/models/__init__.py",
        "stale    neptune_api/api/client.py",
        "generated files do not match proto/: run `python build_protos.py` and commit the result",
    ]
    assert times(copy) == before


def test_a_run_replaces_folders_as_a_whole(copy: Path) -> None:
    (copy / "neptune_api/v1/gone_pb2.py").write_text("")
    roles = copy / "proto/neptune_api/v1/roles.proto"
    roles.write_text(roles.read_text() + "\n// A later addition.\nmessage LaterAddition {}\n")
    done = build(copy)
    assert done.returncode == 0, done
    assert not (copy / "neptune_api/v1/gone_pb2.py").exists()
    assert "class LaterAddition(" in (copy / "neptune_api/v1/roles_pb2.pyi").read_text()
    assert '"LaterAddition",' in (copy / "neptune_api/models/__init__.py").read_text()
    assert build(copy, "--check").returncode == 0
    assert not list(copy.glob(".build-*"))


def test_an_invalid_proto_is_reported_by_file_and_line_and_changes_nothing(copy: Path) -> None:
    roles = copy / "proto/neptune_api/v1/roles.proto"
    line = len(roles.read_text().splitlines()) + 1
    roles.write_text(roles.read_text() + "message Broken { Nonsense field = 1; }\n")
    before = times(copy)
    done = build(copy)
    assert done.returncode == 1
    assert f"proto/neptune_api/v1/roles.proto:{line}:" in done.stderr
    assert '"Nonsense" is not defined' in done.stderr
    assert times(copy) == before


def test_two_rpcs_of_one_method_name_are_refused(copy: Path) -> None:
    (copy / "proto/neptune_api/v1/again_service.proto").write_text(
        """
        syntax = "proto3";
        package neptune_api.v1;
        import "google/api/annotations.proto";
        import "neptune_api/v1/users_service.proto";
        service AgainService {
          rpc GetUserIdentity(GetUserIdentityRequest) returns (UserIdentity) {
            option (google.api.http) = {post: "/again" body: "*"};
          }
        }
        """
    )
    done = build(copy)
    assert done.returncode == 1
    assert "AgainService.GetUserIdentity and UsersService.GetUserIdentity" in done.stderr
    assert "Client.post_get_user_identity(); rename one of them" in done.stderr
