"""tools/breaking.py: what it compares with, and that changes which break released clients are found."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_protos

pytestmark = [
    pytest.mark.skipif(
        sys.version_info[:2] > build_protos.PYTHONS[1], reason="the pinned grpcio-tools has no wheels for this Python"
    ),
    pytest.mark.skipif(shutil.which("git") is None, reason="there is no git"),
]

ROOT = Path(__file__).resolve().parents[2]
NO_TAG = "buf breaking: there is no release tag v* in this clone, so proto/ is compared with the last commit"
FIELD = "  string username = 1;"


class Repository:
    """A repository with the protos of this one and no history."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proto = folder / "proto/neptune_api/v1/auth_service.proto"
        (folder / ".tools").symlink_to(build_protos.TOOLS)
        for name in ("proto", "tools"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "buf.yaml", folder)
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self, *, tag: str | None = None) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=A commit")
        if tag is not None:
            self.git("tag", tag)

    def change(self, old: str, new: str) -> None:
        text = self.proto.read_text()
        assert old in text
        self.proto.write_text(text.replace(old, new))

    def check(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.folder / "tools/breaking.py")]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    build_protos.TOOLS.mkdir(exist_ok=True)
    with (build_protos.TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tools may have to be made first, by one process only
        build_protos.environments()
    return Repository(tmp_path)


def test_a_field_that_goes_after_a_release_is_found_in_every_later_commit(repository: Repository) -> None:
    repository.commit(tag="v1.0.0")
    repository.change(FIELD, "")
    for later_tag in ("nightly", "w1.0.0"):
        done = repository.check()
        assert done.returncode != 0
        assert "buf breaking: proto/ against the release v1.0.0" in done.stdout
        assert "auth_service.proto" in done.stdout
        assert (
            'Previously present field "1" with name "username" on message "AuthorizedUser" was deleted' in done.stdout
        )
        repository.commit(tag=later_tag)


@pytest.mark.parametrize("new", ["  string user_name = 1;", "  bytes username = 1;", "  string username = 2;"])
def test_other_names_types_and_numbers_break(repository: Repository, new: str) -> None:
    repository.commit(tag="v1.0.0")
    repository.change(FIELD, new)
    assert repository.check().returncode != 0


def test_additions_break_nothing(repository: Repository) -> None:
    repository.commit(tag="v1.0.0")
    repository.change(FIELD, f"{FIELD}\n  string email = 2;")
    assert repository.check().returncode == 0


def test_the_newest_release_counts(repository: Repository) -> None:
    repository.commit(tag="v1.0.0")
    repository.change(FIELD, f"{FIELD}\n  string email = 2;")
    repository.commit(tag="v1.1.0")
    repository.change("  string email = 2;", "")
    done = repository.check()
    assert done.returncode != 0
    assert "v1.1.0" in done.stdout


def test_without_a_release_the_last_commit_counts(repository: Repository) -> None:
    repository.commit()
    done = repository.check()
    assert done.returncode == 0
    assert NO_TAG in done.stdout
    repository.change(FIELD, "")
    assert repository.check().returncode != 0


def test_without_a_commit_there_is_nothing_to_compare_with(repository: Repository) -> None:
    done = repository.check()
    assert (done.returncode, done.stdout) == (0, "buf breaking: no commit holds proto/ yet, nothing to compare with\n")
