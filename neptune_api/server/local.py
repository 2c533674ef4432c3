"""LocalServer: the server in the caller's own process, for tests, notebooks and scripts."""

from __future__ import annotations

import atexit
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from neptune_api._grpc import forks
from neptune_api.credentials import Secret
from neptune_api.server.server import DEFAULT_USERNAME, DEFAULT_WORKSPACE, GRACE_SECONDS, Server
from neptune_api.v1.roles_pb2 import WORKSPACE_ROLE_MEMBER

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    import grpc
    import grpc.aio
    from typing_extensions import Self

    from neptune_api.options import ChannelOptions
    from neptune_api.server.server import Adapt, Clock
    from neptune_api.v1.roles_pb2 import WorkspaceRole

__all__ = ["LocalServer"]


class LocalServer:
    """A server on free ports of 127.0.0.1 that runs from start() to stop(), or inside a `with` block.

    `data` is the folder to serve; without one, the server works in a temporary folder that is removed when it stops.
    A folder that was served before keeps its API token, and its ports if they are free. `store` is the URL of a
    PostgreSQL database to use instead of a folder, `postgresql://user:password@host/database`; it stays. `files` is
    another place for contents of files, as Server takes it; a database needs one to have any. `clock` and `adapt` are
    for tests, as Server takes them. After stop() the server can be started again; the end of the program stops it, too,
    and the child of a fork has none. Raises StoreError and ServerError when the folder or the ports cannot be used.
    """

    def __init__(
        self,
        data: str | PathLike[str] | None = None,
        *,
        store: str | None = None,
        files: str | None = None,
        workspace: str = DEFAULT_WORKSPACE,
        username: str = DEFAULT_USERNAME,
        grpc_port: int = 0,
        http_port: int = 0,
        clock: Clock = time.time,
        adapt: Adapt | None = None,
    ) -> None:
        self._data = None if data is None else Path(data)
        self._store = store
        self._files = files
        self._workspace = workspace
        self._username = username
        self._grpc_port = grpc_port
        self._http_port = http_port
        self._clock = clock
        self._adapt = adapt
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._server: Server | None = None

    def start(self) -> Self:
        """Accept calls. Raises RuntimeError when the server runs already."""
        if self._server is not None:
            raise RuntimeError("the server runs already")
        data = self._data
        if data is None and self._store is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="neptune-api-")
            data = Path(self._temporary.name)
        try:
            self._server = Server(
                data,
                store=self._store,
                files=self._files,
                workspace=self._workspace,
                username=self._username,
                grpc_port=self._grpc_port,
                http_port=self._http_port,
                clock=self._clock,
                adapt=self._adapt,
                durable=self._temporary is None,
            )
            self._server.start()
        except BaseException:
            self.stop()
            raise
        atexit.register(self._stop_at_once)
        forks.survive(self)
        return self

    def start_over(self) -> None:
        """Have no server in the child of a fork; the parent's goes on, with its folder."""
        atexit.unregister(self._stop_at_once)
        forks.leave_alone(self._server)
        self._server = None
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            temporary._finalizer.detach()  # type: ignore[attr-defined] # noqa: SLF001 # the child would remove the folder at exit

    def stop(self) -> None:
        """End calls under way within about a second and stop; what was acknowledged stays, unless it was temporary."""
        self._stop(GRACE_SECONDS)

    def _stop_at_once(self) -> None:
        self._stop(None)

    def _stop(self, grace: float | None) -> None:
        atexit.unregister(self._stop_at_once)
        server, self._server = self._server, None
        if server is not None:
            server.stop(grace)
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("the server does not run: call start(), or use it in a `with` block")
        return self._server

    @property
    def api_token(self) -> str:
        """The API token of the owner. A secret."""
        return self._running.api_token

    @property
    def grpc_target(self) -> str:
        """`host:port` of the gRPC API."""
        return self._running.addresses.grpc_target

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC API as channel() takes it."""
        return self._running.addresses.grpc_url

    @property
    def http_url(self) -> str:
        """Base address of the HTTP API."""
        return self._running.addresses.http_url

    @property
    def workspace(self) -> str:
        """Name of the workspace."""
        return self._workspace

    @property
    def username(self) -> str:
        """Name of the owner."""
        return self._username

    def channel(self, api_token: str | None = None, *, options: ChannelOptions | None = None) -> grpc.Channel:
        """Open a channel to this server as its owner, or as the user of another API token; the caller closes it."""
        from neptune_api.channels import channel

        return channel(self.grpc_url, api_token=self.api_token if api_token is None else api_token, options=options)

    def aio_channel(self, api_token: str | None = None, *, options: ChannelOptions | None = None) -> grpc.aio.Channel:
        """Do as channel(), for asyncio; the channel belongs to the running event loop."""
        from neptune_api.aio import channel

        return channel(self.grpc_url, api_token=self.api_token if api_token is None else api_token, options=options)

    def create_user(self, username: str, *, role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER) -> str:
        """Create a user in the workspace and return the user's API token, a secret.

        Raises AlreadyExistsException for a name that is taken, InvalidArgumentException for one that cannot be one.
        """
        from neptune_api.v1.users_service_pb2 import CreateUserRequest
        from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

        request = CreateUserRequest(username=username, organization_identifier=self.workspace, role=role)
        with self.channel() as channel:
            return Secret(UsersServiceStub(channel).CreateUser(request).api_token)
