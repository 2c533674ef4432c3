"""Where contents of files are: what the servicers know of it, and the folder as one answer."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from neptune_api.server.files.folder import Folder
from neptune_api.server.files.paths import FILES_PREFIX, quote
from neptune_api.server.files.signing import DEFAULT_SECONDS, Signer
from neptune_api.v1.storage_service_pb2 import STORAGE_PROVIDER_AWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from neptune_api.server.files.door import FileDoor
    from neptune_api.v1.storage_service_pb2 import StorageProvider


class StorageError(Exception):
    """Report in one sentence why files cannot be kept where they should be."""


class FileStorage(Protocol):
    """Keeps contents of files, each under the UUID of its project and its path."""

    @property
    def provider(self) -> StorageProvider.ValueType:
        """Whose protocol the signed URLs speak."""

    @property
    def signs_for_azure(self) -> bool:
        """Whether signed URLs can speak Azure's protocol, by default or `for_azure`."""

    @property
    def door(self) -> FileDoor | None:
        """What answers under FILES_PREFIX, if signed URLs lead to this server."""

    def sign(
        self, method: str, files: Sequence[tuple[str, str]], base_url: str, *, for_azure: bool = False
    ) -> list[str]:
        """Return for each (project, path) a URL that permits GET or PUT. Raises StorageError.

        `base_url` is where the caller finds the HTTP API.
        """

    def delete_project(self, project: str) -> None:
        """Delete the files of a project. Raises StorageError."""

    def close(self) -> None:
        """Let go of everything."""


class FolderStorage:
    """Keeps files in a folder, behind the server's own door.

    `key` signs the URLs, which expire by `clock`; `knows` tells whether there is a project with a UUID. Raises
    StorageError.
    """

    provider: Final = STORAGE_PROVIDER_AWS
    signs_for_azure: Final = True

    def __init__(
        self,
        root: Path,
        key: bytes,
        *,
        knows: Callable[[str], bool],
        url_seconds: int = DEFAULT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = Folder(root)
        self._signer = Signer(key, seconds=url_seconds, clock=clock)
        try:
            self._folder.clean()
        except OSError as error:
            raise StorageError(f"The folder of files {root} cannot be written: {error.strerror}.") from error
        self._knows = knows

    @cached_property
    def door(self) -> FileDoor:
        """What answers under FILES_PREFIX; made when HTTP is."""
        from neptune_api.server.files.door import FileDoor

        return FileDoor(self._folder, self._signer, self._knows)

    def sign(
        self, method: str, files: Sequence[tuple[str, str]], base_url: str, *, for_azure: bool = False
    ) -> list[str]:
        """Return for each (project, path) a URL that permits GET or PUT."""
        return [
            f"{base_url}{FILES_PREFIX}{project}/{quote(path)}"
            f"?{self._signer.sign(method, project, path, for_azure=for_azure)}"
            for project, path in files
        ]

    def delete_project(self, project: str) -> None:
        """Delete the files of a project. Raises StorageError."""
        try:
            self._folder.delete_project(project)
        except OSError as error:
            raise StorageError(f"The files of a deleted project cannot be removed: {error.strerror}.") from error

    def close(self) -> None:
        """End the threads of the door."""
        if "door" in vars(self):
            self.door.close()
