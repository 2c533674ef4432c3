"""The server: puts database, identity, servicers and doors together, and takes them apart again."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from neptune_api._threads import DaemonPool
from neptune_api.server import ports
from neptune_api.server.access import Access
from neptune_api.server.deferral import DeferredStore
from neptune_api.server.files.paths import FILES_PREFIX
from neptune_api.server.files.storage import FolderStorage, StorageError
from neptune_api.server.grpc_door import GrpcDoor
from neptune_api.server.handlers import collect_handlers
from neptune_api.server.http_door import HttpDoor
from neptune_api.server.identity import Addresses, Identity, Secrets
from neptune_api.server.pools import end_pools
from neptune_api.server.query_threads import QueryThreads
from neptune_api.server.servicers import servicers_of
from neptune_api.server.store.database import Database, is_url
from neptune_api.server.store.directory import Directory, ensure_owner
from neptune_api.server.store.settings import DATA_FILES, Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from os import PathLike
    from types import TracebackType
    from typing import TypeAlias

    from typing_extensions import Self

    from neptune_api.server.files.storage import FileStorage
    from neptune_api.server.handlers import Handler
    from neptune_api.server.http.gateway import Gateway
    from neptune_api.server.store.store import Store

    Clock: TypeAlias = Callable[[], float]
    Adapt: TypeAlias = Callable[[Handler], Handler]

for _package in ("grpc_reflection", "httptools", "jwt", "numpy", "re2", "uvicorn"):
    # They are imported when they are first needed, which would be late to hear that one is missing.
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"No module named {_package!r}", name=_package)

DEFAULT_WORKSPACE: Final = "local"
DEFAULT_USERNAME: Final = "owner"

GRACE_SECONDS: Final = 0.3
"""How long calls under way may go on when the server stops; what else stopping takes stays below 2 s with it."""

_LOGGER: Final = logging.getLogger("neptune_api.server")

# How long a stopping server waits for queries that nobody waits for any more.
_QUERY_SECONDS: Final = 0.2


class ServerError(Exception):
    """Report in one sentence why a server cannot start; the command line prints it and exits with 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files by which the server proves itself."""

    certificate: Path
    """The certificate chain."""
    key: Path
    """The private key of the certificate."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC makes of the files. Raises ServerError when one cannot be read."""
        pair = []
        for path in (self.key, self.certificate):
            try:
                pair.append(path.read_bytes())
            except OSError as error:
                raise ServerError(f"The file {path} cannot be read: {error.strerror}.") from error
            if b"-----BEGIN " not in pair[-1]:
                raise ServerError(f"The file {path} is not a PEM file: it has no line that starts with -----BEGIN.")
        return grpc.ssl_server_credentials([(pair[0], pair[1])])


class Server:
    """A server over one data folder or PostgreSQL database; made once, started once, stopped once.

    `store` is the URL of a database, `postgresql://user:password@host/database`, which may have several servers at the
    same time; they accept the same tokens. Without it, everything is in the folder `data`, for this server alone.

    Ports, workspace and owner that are not given are those the data folder was served with before, so that its API
    token stays the same text; in a new folder they are any free ports, `local` and `owner`. A database remembers no
    ports, because each of its servers has its own. `host` must be of this machine's loopback unless there are `tls`
    files or `allow_plaintext` is set, because tokens travel with every call. `public_host` is the name by which clients
    reach `host`, when that is another one; `public_url` is the whole base address of the HTTP API as they see it, when
    something in front of the server changes more than the name.

    `files` tells where contents of files are kept: the URL of an object store, a folder, or `data` for the folder
    `data`; by default where they were, or in `data`. The servers of one database need a place that all of them see.

    `clock` gives the time, in seconds since 1970, by which tokens expire and things are dated; `adapt` changes each RPC
    before the doors get it; not to be `durable`, for a folder that goes with its process, spares waiting for the disk.
    These are for tests.

    Raises StoreError and ServerError when the folder, the ports or the files cannot be used.
    """

    def __init__(
        self,
        data: str | PathLike[str] | None,
        *,
        store: str | None = None,
        host: str = ports.LOOPBACK,
        grpc_port: int = 0,
        http_port: int = 0,
        workspace: str | None = None,
        username: str | None = None,
        public_host: str | None = None,
        public_url: str | None = None,
        files: str | None = None,
        tls: TlsFiles | None = None,
        allow_plaintext: bool = False,
        clock: Clock = time.time,
        adapt: Adapt | None = None,
        durable: bool = True,
    ) -> None:
        if tls is None and not allow_plaintext and not ports.is_loopback(host):
            raise ServerError(
                f"Refusing to listen on {host} without TLS, because tokens would travel unencrypted: give a "
                "certificate and its key (--tls-cert, --tls-key), or, on a trusted network, --allow-plaintext."
            )
        if grpc_port and grpc_port == http_port:
            raise ServerError(f"gRPC and HTTP cannot share port {grpc_port}: choose two, or 0 for any free one.")
        if public_url is not None and not public_url.startswith(("http://", "https://")):
            raise ServerError("The public URL must begin with http:// or https://.")
        self.notes: Final[list[str]] = []
        """Sentences for the user about what is not as it was the last time."""
        self._stop_lock = threading.Lock()
        self._stopped = False
        self._credentials = None if tls is None else tls.credentials()
        self._host = host
        self._door: GrpcDoor | None = None
        with ExitStack() as undo:
            self._database = Database(_location(data, store), durable=durable)
            undo.callback(self._database.close)
            self._queries = QueryThreads(lambda: self._database.is_busy)
            settings = Settings(self._database)
            self._grpc_socket = undo.enter_context(self._reserve("grpc_port", grpc_port, settings))
            self._http_socket = undo.enter_context(self._reserve("http_port", http_port, settings))
            self._grpc_port = ports.port_of(self._grpc_socket)
            http_port = ports.port_of(self._http_socket)
            directory = Directory(self._database, clock)
            self.workspace: Final = settings.choose("workspace", workspace, DEFAULT_WORKSPACE)
            self.username: Final = settings.choose("username", username, DEFAULT_USERNAME)
            self._owner_id = ensure_owner(directory, self.workspace, self.username).id
            settings.remember(workspace=self.workspace, username=self.username)
            if not self._database.is_shared:
                settings.remember(grpc_port=str(self._grpc_port), http_port=str(http_port))
            name = public_host or (ports.machine_name() if ports.is_wildcard(host) else host)
            secrets = Secrets.of(self._database)
            self._identity = Identity(
                directory,
                secrets,
                Addresses(
                    http_url=(
                        f"{'http' if tls is None else 'https'}://{ports.join(name, http_port)}"
                        if public_url is None
                        else public_url.rstrip("/")
                    ),
                    grpc_target=f"{'' if tls is None else 'grpcs://'}{ports.join(name, self._grpc_port)}",
                    chosen=public_host is not None or public_url is not None,
                ),
                clock=clock,
            )
            self._files = self._open_files(data, files, settings, directory, secrets, clock)
            if self._files is not None:
                undo.callback(self._files.close)
            self._stored = DeferredStore(self._database, clock)
            services: list[str] = []
            servicers = servicers_of(directory, self._identity, Access(directory), self._stored, self._files, services)
            self._handlers = collect_handlers(servicers, self._identity.authenticate)
            if adapt is not None:
                self._handlers = {path: adapt(handler) for path, handler in self._handlers.items()}
            services += sorted({handler.method.containing_service.full_name for handler in self._handlers.values()})
            self._http_door = self._make_http_door(tls, clock)
            undo.pop_all()

    @property
    def addresses(self) -> Addresses:
        """Where clients reach the server."""
        return self._identity.addresses

    @property
    def api_token(self) -> str:
        """The owner's API token that is valid now. A secret."""
        return self._identity.api_token_of(self._owner_id)

    @property
    def _store(self) -> Store:
        return self._stored.get()

    def start(self) -> None:
        """Accept calls; operations that an earlier server has accepted but not applied are applied.

        Raises ServerError when the port was taken since the server was made.
        """
        self._stored.start()
        # The reservation makes way for gRPC. Had gRPC found the port taken itself, it would have written about it to
        # stderr as well.
        self._grpc_socket.close()
        address = ports.join(self._host, self._grpc_port)
        try:
            self._door = GrpcDoor(address, self._queries, credentials=self._credentials)
        except RuntimeError as error:
            raise ServerError(f"Cannot listen on {address}: another program took it just now.") from error
        self._door.start(self._handlers)
        try:
            self._http_door.start()
        except OSError as error:
            raise ServerError(f"Cannot listen at {self.addresses.http_url}: {error.strerror}.") from error
        _LOGGER.info("answering gRPC calls at %s, HTTP at %s", self.addresses.grpc_url, self.addresses.http_url)

    def load(self) -> None:
        """Make now what the first calls would have to wait for."""
        self._http_door.open()
        for handler in self._handlers.values():
            handler.answering()

    def stop(self, grace: float | None = GRACE_SECONDS) -> bool:
        """Stop within about two seconds and lose nothing that was acknowledged; False if a servicer still works.

        Calls under way may go on for `grace` seconds. None is for the end of the program, when no thread can be started
        and none is waited for. A second stop does nothing.
        """
        with self._stop_lock:
            if self._stopped:
                return True
            self._stopped = True
            finished = self._close_doors(grace)
            finished = end_pools((self._queries,), time.monotonic() + _QUERY_SECONDS) and finished
            self._stored.close()
            if self._files is not None:
                self._files.close()
            self._grpc_socket.close()
            self._http_socket.close()
            self._database.close()
            _LOGGER.info("stopped")
            return finished

    def _close_doors(self, grace: float | None) -> bool:
        door, http_door = self._door, self._http_door
        if grace is None:
            if door is not None:
                door.leave()
            return http_door.stop(0)
        if door is None:
            return http_door.stop(grace)
        # Both at the same time: each may take as long as the calls it lets finish.
        beside = DaemonPool(1, "neptune-api-stop")
        http_stop = beside.submit(http_door.stop, grace)
        finished = door.stop(grace)
        beside.shutdown(wait=False)
        return http_stop.result() and finished

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _make_http_door(self, tls: TlsFiles | None, clock: Clock) -> HttpDoor:
        def gateway() -> Gateway:
            from neptune_api.server.http.gateway import Gateway

            return Gateway(
                self._handlers,
                self._identity.addresses,
                self._queries,
                clock=clock,
                health=self._health,
                files=None if self._files is None else self._files.door,
                files_prefix=FILES_PREFIX,
            )

        try:
            return HttpDoor(self._http_socket, gateway, tls=tls)
        except OSError as error:  # ssl.SSLError is one
            raise ServerError(f"The certificate and its key cannot be used: {error.strerror}.") from error

    def _health(self) -> dict[str, bool]:
        """Tell of each part whether it works."""
        return {"database": self._database.answers(), "applier": self._stored.applying}

    def _reserve(self, setting: str, port: int, settings: Settings) -> socket.socket:
        host = self._host
        remembered = settings.get(setting)
        try:
            if port or remembered is None:
                return ports.reserve(host, port)
            try:
                return ports.reserve(host, int(remembered))
            except ports.PortError:
                reserved = ports.reserve(host, 0)
                self.notes.append(
                    f"Port {remembered}, which this data folder had before, is taken: the server uses "
                    f"{ports.port_of(reserved)} now, and the API token, which carries it, has changed."
                )
                return reserved
        except ports.PortError as error:
            raise ServerError(str(error)) from error

    def _open_files(
        self,
        data: str | PathLike[str] | None,
        files: str | None,
        settings: Settings,
        directory: Directory,
        secrets: Secrets,
        clock: Clock,
    ) -> FileStorage | None:
        before = settings.get("files")
        chosen = settings.choose("files", files, DATA_FILES)
        if chosen == DATA_FILES and data is None:
            if files is not None:
                raise ServerError("Files cannot be kept in the data folder when there is none: name another place.")
            return None
        try:
            storage: FileStorage
            if "://" not in chosen:
                # Remembered, so it has to mean the same in another working folder.
                chosen = chosen if chosen == DATA_FILES else str(Path(chosen).absolute())
                storage = FolderStorage(
                    Path(data, "files") if chosen == DATA_FILES and data is not None else Path(chosen),
                    secrets.derive("file-url"),
                    knows=directory.has_project,
                    clock=clock,
                )
            else:
                from neptune_api.server.files.object_store import ObjectStorage

                storage = ObjectStorage(chosen)
        except StorageError as error:
            raise ServerError(str(error)) from error
        if before not in {None, chosen}:
            self.notes.append(f"Files were kept in {before} before and stay there; the server uses {chosen} now.")
        settings.remember(files=chosen)
        return storage


def _location(data: str | PathLike[str] | None, store: str | None) -> Path | str:
    if store is not None:
        if not is_url(store):
            raise ServerError(
                "The store is the URL of a PostgreSQL database: postgresql://user:password@host/database."
            )
        return store
    if data is None:
        raise ServerError("The server needs a folder for its data, or the URL of a PostgreSQL database for its store.")
    return Path(data)
