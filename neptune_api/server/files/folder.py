"""A folder of files: each is written as a whole or not at all, and found by its project and path.

    incoming/...                        uploads under way, projects being deleted
    <project>/<2 digits>/<62 digits>    the file whose path has this digest

On disk, a note follows the content: what the file is called, its size, type and ETag. One rename then replaces content
and note together, and the folder says what it holds without any database.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neptune_api.server.files.paths import digest

if TYPE_CHECKING:
    import io
    from types import TracebackType

    from typing_extensions import Self

_INCOMING: Final = "incoming"
_END: Final = struct.Struct(">Q8s")
_MAGIC: Final = b"NPTFILE1"
_ABANDONED_SECONDS: Final = 3600
"""An upload that nobody has written to for so long belongs to a process that is gone; a living one times out sooner."""


class DamagedFileError(Exception):
    """Report a file on disk whose note is missing or does not fit it."""


@dataclass(frozen=True, slots=True)
class FileNote:
    """What is known of a file besides its content."""

    path: str
    size: int
    """Bytes."""
    mime_type: str
    """As the upload said it; empty when it did not."""
    etag: str
    """MD5 of the content in hex, as object stores have it."""


class Folder:
    """A folder of files, open to any number of threads and processes. Everything in it blocks."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING

    def clean(self) -> None:
        """Make the folder where it is missing, and remove what dead processes left half done. Raises OSError."""
        _make_folder(self._incoming)
        for left in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if left.is_dir():
                    shutil.rmtree(left)
                elif time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()

    def begin(self, project: str, path: str, mime_type: str) -> Upload:
        """Begin to write a file; nobody sees it before it is committed. Raises OSError."""
        return Upload(self._incoming, self._place(project, path), path, mime_type)

    def open(self, project: str, path: str) -> StoredFile | None:
        """Open a file for reading, None when there is none. Raises OSError and DamagedFileError."""
        try:
            opened = self._place(project, path).open("rb", buffering=0)
        except FileNotFoundError:
            return None
        file = StoredFile(opened)
        if file.note.path != path:
            file.close()
            raise DamagedFileError("a file and its note do not belong together")
        return file

    def delete_project(self, project: str) -> None:
        """Delete the files of a project; readers at work go on. Raises OSError."""
        gone = self._incoming / f"deleted-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            (self._root / project).rename(gone)
            shutil.rmtree(gone)

    def _place(self, project: str, path: str) -> Path:
        # The canonical text of a UUID: no other text becomes part of a path on disk.
        name = digest(path)
        return self._root / str(uuid.UUID(project)) / name[:2] / name[2:]


class Upload:
    """A file that is being written; committed, or gone without a trace."""

    def __init__(self, incoming: Path, place: Path, path: str, mime_type: str) -> None:
        descriptor, name = tempfile.mkstemp(dir=incoming)
        self._unfinished: Path | None = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._place = place
        self._path = path
        self._mime_type = mime_type
        self._size = 0
        self._hash = hashlib.md5(usedforsecurity=False)

    def write(self, content: bytes) -> None:
        """Add content. Raises OSError."""
        self._write(content)
        self._hash.update(content)
        self._size += len(content)

    def commit(self) -> FileNote:
        """Put the file in its place, on disk and instead of an older one, and return what is known of it.

        Raises OSError.
        """
        if self._unfinished is None:
            raise RuntimeError("the upload has ended already")
        note = FileNote(self._path, self._size, self._mime_type, self._hash.hexdigest())
        text = json.dumps(
            {"path": note.path, "size": note.size, "mime_type": note.mime_type, "etag": note.etag}
        ).encode()
        self._write(text + _END.pack(len(text), _MAGIC))
        os.fsync(self._file.fileno())
        self._file.close()
        _make_folder(self._place.parent)
        self._unfinished.replace(self._place)
        self._unfinished = None
        _sync(self._place.parent)
        return note

    def discard(self) -> None:
        """Remove what was written, unless it is committed."""
        self._file.close()
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]


class StoredFile:
    """A file that is open for reading; one that replaces it meanwhile does not disturb.

    Raises OSError and DamagedFileError, and then closes the file.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        try:
            status = os.fstat(file.fileno())
            self.modified: Final = status.st_mtime
            """When it was written, seconds since the epoch."""
            self.note: Final = _read_note(file.fileno(), status.st_size)
            """What is known of it."""
        except BaseException:
            file.close()
            raise

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the content: `size`, or fewer in front of its end. Raises OSError."""
        return os.pread(self._file.fileno(), min(size, self.note.size - start), start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _read_note(descriptor: int, total: int) -> FileNote:
    content_end = total - _END.size
    if content_end < 0:
        raise DamagedFileError(f"a file of {total} bytes has no room for its note")
    length, magic = _END.unpack(os.pread(descriptor, _END.size, content_end))
    if magic != _MAGIC or length > content_end:
        raise DamagedFileError("a file does not end in its note")
    try:
        found: Any = json.loads(os.pread(descriptor, length, content_end - length))
        note = FileNote(
            path=str(found["path"]),
            size=int(found["size"]),
            mime_type=str(found["mime_type"]),
            etag=str(found["etag"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError("the note of a file cannot be read") from error
    if note.size != content_end - length:
        raise DamagedFileError("a file is not as long as its note says")
    return note


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, for the owner only, so that they are there after a crash, too."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700, exist_ok=True)
        _sync(parent.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
