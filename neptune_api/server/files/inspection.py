"""What `doctor` asks of a folder of files: how many there are, and which are not what they say. It changes nothing."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neptune_api.server.files.folder import DamagedFileError, StoredFile
from neptune_api.server.files.paths import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_READ_BYTES: Final = 1 << 20
_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(slots=True)
class Inspection:
    """What was found in a folder of files."""

    number: int = 0
    size: int = 0
    """Bytes of their contents."""
    findings: list[str] = field(default_factory=list)


def inspect(root: Path, names: Callable[[], Mapping[str, str]]) -> Inspection:
    """Read every file of a folder; `names` gives the names of the projects that exist now, by their ids.

    Raises OSError.
    """
    found = Inspection()
    folders = sorted(each for each in root.iterdir() if _ID.fullmatch(each.name))
    projects = names()  # after the folders: whatever has one had its project before, though a server is at work
    for folder in folders:
        project = projects.get(folder.name)
        if project is None:
            if not folder.exists():
                continue
            found.findings.append(
                f"{folder} belongs to no project: its project was deleted when the server ended. Remove the folder."
            )
            continue
        for place in _places(folder):
            try:
                found.size += _check(place)
                found.number += 1
            except DamagedFileError as error:
                found.findings.append(f"{place}, a file of the project {project}, is damaged: {error}.")
            except FileNotFoundError:  # replaced or deleted by a running server
                continue
            except OSError as error:
                found.findings.append(f"{place}, a file of the project {project}, cannot be read: {error.strerror}.")
    return found


def _places(folder: Path) -> Iterator[Path]:
    return (place for place in sorted(folder.glob("*/*")) if place.is_file())


def _check(place: Path) -> int:
    """Return the size of the content. Raises DamagedFileError when content, note and place do not fit each other."""
    with StoredFile(place.open("rb", buffering=0)) as file:
        if digest(file.note.path) != place.parent.name + place.name:
            raise DamagedFileError("its note is that of another file")
        content = hashlib.md5(usedforsecurity=False)
        for start in range(0, file.note.size, _READ_BYTES):
            content.update(file.read(start, _READ_BYTES))
        if content.hexdigest() != file.note.etag:
            raise DamagedFileError("its content does not have the MD5 of its note")
        return file.note.size
