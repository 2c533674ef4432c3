"""The servers of this project that the behaviours run on, one per store."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from neptune_api.conformance.people import Person, unique
from neptune_api.server import LocalServer
from neptune_api.server.store.directory import ensure_owner
from neptune_api.v1.roles_pb2 import WORKSPACE_ROLE_MEMBER

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    import grpc
    from typing_extensions import Self

    from neptune_api.options import ChannelOptions
    from neptune_api.v1.roles_pb2 import WorkspaceRole
    from tests.postgres import PostgresServer

StubT = TypeVar("StubT")

MATRIX = (
    ("grpc", "sqlite"),
    ("grpc-aio", "sqlite"),
    ("http", "sqlite"),
    ("http-aio-json", "sqlite"),
    ("grpc", "postgresql"),
)
"""Wires and stores: what a wire does to messages does not depend on the store, so that one wire is enough for each.

Nor does how a message is written over HTTP depend on threads or coroutines: `http` writes binary protobuf.
"""


class OwnServer(LocalServer):
    """A server that makes as many people as tests want to meet."""

    witness = None

    def options(self, options: ChannelOptions) -> ChannelOptions:
        return options

    def visit(self) -> AbstractContextManager[object]:
        return nullcontext()

    def start(self) -> Self:
        super().start()
        self._owner = self.channel()
        return self

    def stop(self) -> None:
        if "_owner" in vars(self):
            self._owner.close()
            del self._owner
        super().stop()

    def as_owner(self, stub_class: Callable[[grpc.Channel], StubT], /) -> StubT:
        return stub_class(self._owner)

    def colleague(self, role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER) -> Person:
        name = unique("colleague")
        return Person(name, self.create_user(name, role=role))

    def outsider(self, workspace: str | None = None) -> Person:
        """Return a new user who is in no workspace, or owns another one.

        No RPC creates such users: the directory and the identity of the running server do.
        """
        identity = self._running._identity
        directory = identity._directory
        name = unique("outsider")
        user = directory.create_user(name) if workspace is None else ensure_owner(directory, workspace, name)
        return Person(name, identity.api_token_of(user.id))


class OwnServers:
    """A server per store, started when it is first needed."""

    def __init__(self, make_postgres: Callable[[], PostgresServer], files: Path) -> None:
        self._make_postgres = make_postgres
        self._files = files
        self._running: dict[str, OwnServer] = {}

    def get(self, store: str) -> OwnServer:
        """Return the server over a store."""
        if store not in self._running:
            database = None if store == "sqlite" else self._make_postgres().create_database()
            self._running[store] = OwnServer(
                store=database, files=str(self._files), workspace="laboratory", username="ada"
            ).start()
        return self._running[store]

    def stop(self) -> None:
        """Stop those that run."""
        while self._running:
            self._running.popitem()[1].stop()
