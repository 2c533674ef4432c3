"""A folder of files behind a real HTTP server, spoken to in raw HTTP."""

from __future__ import annotations

import http.client
import socket
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from neptune_api.server.files.storage import FolderStorage
from tests.files.raw_http import PATIENCE, ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.files.raw_http import Answer

KEY = b"k" * 32


class Http:
    """Sends requests as they are; nothing tidies the target on its way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE)

    def ask(self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        host, port = self.address
        return ask(method, f"http://{host}:{port}{target}", body, headers)


class Files(Http):
    """A storage whose door is open."""

    def __init__(self, storage: FolderStorage, root: Path, address: tuple[str, int], projects: set[str]) -> None:
        super().__init__(address)
        self.storage = storage
        self.root = root
        self.projects = projects

    def project(self) -> str:
        """Return the UUID of a project that nobody else uses."""
        made = str(uuid.uuid4())
        self.projects.add(made)
        return made

    def sign(self, method: str, project: str, path: str, *, for_azure: bool = False) -> str:
        """Return path and query of a signed URL."""
        (url,) = self.storage.sign(method, [(project, path)], "", for_azure=for_azure)
        return url

    def put(self, project: str, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("PUT", self.sign("PUT", project, path), body, _named(headers))

    def get(self, project: str, path: str, **headers: str) -> Answer:
        return self.ask("GET", self.sign("GET", project, path), None, _named(headers))

    def on_disk(self) -> list[Path]:
        """Return the files in the folder, uploads under way included."""
        return [path for path in self.root.rglob("*") if path.is_file()]


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class HttpServer:
    """An ASGI application on a port of the system's choice, on a thread of its own."""

    def __init__(self, application: Any) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        # From here on connections wait in line, even before the server takes them.
        self._socket.listen(128)
        host, port = self._socket.getsockname()
        self.address: tuple[str, int] = (host, port)
        config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http-server")
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """A folder of files and its door; tests keep apart by projects."""
    with _opened(tmp_path_factory.mktemp("files")) as opened:
        yield opened


@pytest.fixture
def own_files(tmp_path: Path) -> Iterator[Files]:
    """A folder that no other test uses."""
    with _opened(tmp_path / "files") as opened:
        yield opened


class _opened:  # noqa: N801 # used like a function
    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> Files:
        projects: set[str] = set()
        storage = FolderStorage(self._root, KEY, knows=projects.__contains__)
        self._storage = storage
        self._server = HttpServer(storage.door)
        return Files(storage, self._root, self._server.address, projects)

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._storage.close()
