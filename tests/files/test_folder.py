from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance.file_names import NAMES
from neptune_api.server.files.folder import DamagedFileError, FileNote, Folder

PROJECT = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "files")
    made.clean()
    return made


def put(folder: Folder, path: str, content: bytes, mime_type: str = "text/plain", project: str = PROJECT) -> FileNote:
    upload = folder.begin(project, path, mime_type)
    try:
        upload.write(content)
        return upload.commit()
    finally:
        upload.discard()


def get(folder: Folder, path: str, project: str = PROJECT) -> bytes | None:
    file = folder.open(project, path)
    if file is None:
        return None
    with file:
        return file.read(0, file.note.size)


def on_disk(tmp_path: Path) -> list[Path]:
    return sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_a_file_inside_the_folder(folder: Folder, tmp_path: Path, name: str) -> None:
    put(folder, name, name.encode())
    assert get(folder, name) == name.encode()
    (place,) = on_disk(tmp_path)
    assert place.parts[:2] == ("files", PROJECT)
    assert len(place.parts[2] + place.parts[3]) == 64


def test_names_are_told_apart(folder: Folder) -> None:
    for name in NAMES:
        put(folder, name, name.encode())
    assert [get(folder, name) for name in NAMES] == [name.encode() for name in NAMES]


def test_a_note_tells_what_was_uploaded(folder: Folder) -> None:
    note = put(folder, "a/é", b"content", "text/x-python")
    assert note == FileNote("a/é", 7, "text/x-python", hashlib.md5(b"content").hexdigest())
    file = folder.open(PROJECT, "a/é")
    assert file is not None
    with file:
        assert file.note == note
        assert abs(file.modified - time.time()) < 60


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=5), st.integers(-1, 20_000), st.integers(0, 20_000))
def test_reading_gives_what_was_written_and_no_byte_of_the_note(
    folder: Folder, pieces: list[bytes], start: int, size: int
) -> None:
    upload = folder.begin(PROJECT, "pieces", "")
    for piece in pieces:
        upload.write(piece)
    upload.commit()
    content = b"".join(pieces)
    file = folder.open(PROJECT, "pieces")
    assert file is not None
    with file:
        assert file.note.size == len(content)
        start = min(max(start, 0), len(content))
        assert file.read(start, size) == content[start : start + size]


def test_a_file_that_was_not_written_is_none(folder: Folder) -> None:
    assert folder.open(PROJECT, "nothing") is None


def test_projects_are_apart(folder: Folder) -> None:
    other = str(uuid.uuid4())
    put(folder, "same", b"one")
    assert get(folder, "same", other) is None
    put(folder, "same", b"two", project=other)
    assert get(folder, "same") == b"one"


@pytest.mark.parametrize("project", ["..", "../other", "", "x", PROJECT[:-1]])
def test_only_a_uuid_is_a_project(folder: Folder, project: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        folder.open(project, "a")


def test_an_upload_is_invisible_until_it_is_committed(folder: Folder, tmp_path: Path) -> None:
    put(folder, "a", b"old")
    upload = folder.begin(PROJECT, "a", "")
    upload.write(b"new")
    assert get(folder, "a") == b"old"
    upload.commit()
    assert get(folder, "a") == b"new"
    upload.discard()
    assert get(folder, "a") == b"new"
    assert len(on_disk(tmp_path)) == 1


def test_a_discarded_upload_leaves_nothing(folder: Folder, tmp_path: Path) -> None:
    upload = folder.begin(PROJECT, "a", "")
    upload.write(b"half")
    upload.discard()
    upload.discard()
    assert on_disk(tmp_path) == []
    with pytest.raises(RuntimeError, match="ended"):
        upload.commit()


def test_a_reader_keeps_the_version_it_opened(folder: Folder) -> None:
    put(folder, "a", b"old")
    file = folder.open(PROJECT, "a")
    assert file is not None
    with file:
        put(folder, "a", b"newer and longer")
        assert file.read(0, 100) == b"old"
        folder.delete_project(PROJECT)
        assert file.read(0, 100) == b"old"


def test_of_many_writers_at_once_one_wins_as_a_whole(folder: Folder, tmp_path: Path) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]
    start = threading.Barrier(len(contents) + 1)
    seen: set[bytes | None] = set()

    def write(content: bytes) -> None:
        start.wait()
        put(folder, "a", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        seen.add(get(folder, "a"))
    for thread in threads:
        thread.join()
    assert seen <= {*contents, None}
    assert get(folder, "a") in contents
    assert len(on_disk(tmp_path)) == 1


def test_a_deleted_project_has_no_files(folder: Folder, tmp_path: Path) -> None:
    put(folder, "a", b"x")
    folder.delete_project(PROJECT)
    folder.delete_project(PROJECT)
    assert get(folder, "a") is None
    assert on_disk(tmp_path) == []


def test_a_new_start_removes_what_dead_processes_left_and_nothing_else(folder: Folder, tmp_path: Path) -> None:
    put(folder, "kept", b"x")
    dead, living = folder.begin(PROJECT, "dead", ""), folder.begin(PROJECT, "living", "")
    (abandoned,) = (
        set(on_disk(tmp_path))
        - {path for path in on_disk(tmp_path) if path.parts[1] == PROJECT}
        - {Path(living._unfinished or "").relative_to(tmp_path)}
    )
    os.utime(tmp_path / abandoned, (0, 0))
    (tmp_path / "files/incoming/deleted-1/00").mkdir(parents=True)
    Folder(tmp_path / "files").clean()
    assert [path.name for path in (tmp_path / "files/incoming").iterdir()] == [Path(living._unfinished or "").name]
    living.commit()
    assert (get(folder, "kept"), get(folder, "living")) == (b"x", b"")
    dead.discard()


@pytest.mark.parametrize("damage", ["empty", "cut", "appended", "flipped", "other"])
def test_a_damaged_file_is_reported_and_not_returned(folder: Folder, tmp_path: Path, damage: str) -> None:
    put(folder, "a", b"content")
    (place,) = (tmp_path / path for path in on_disk(tmp_path))
    content = place.read_bytes()
    if damage == "other":
        put(folder, "b", b"content")
        (other,) = {tmp_path / path for path in on_disk(tmp_path)} - {place}
        other.replace(place)
    else:
        changed = {
            "empty": b"",
            "cut": content[:-1],
            "appended": content + b"x",
            "flipped": content.replace(b'{"path"', b'["path"'),
        }
        place.write_bytes(changed[damage])
    with pytest.raises(DamagedFileError):
        folder.open(PROJECT, "a")


def test_files_are_for_the_owner_of_the_server_only(folder: Folder, tmp_path: Path) -> None:
    put(folder, "a", b"x")
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "files").rglob("*")] == [0] * 4
