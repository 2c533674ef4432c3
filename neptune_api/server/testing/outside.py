"""A server elsewhere, for tests that are to hold against it as well."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NoReturn

import neptune_api
from neptune_api import aio
from neptune_api.channels import parse_target
from neptune_api.credentials import TOKEN_VARIABLE, ApiToken, Secret
from neptune_api.v1.users_service_pb2 import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import grpc
    import grpc.aio

# Seconds for the first call, with which a server that cannot be reached is found out.
_PATIENCE: Final = 10.0
_DIRECTIONS: Final = frozenset({"clock", "create_user", "faults", "record", "recorder", "replay", "replies"})


def token_for(api_token: str, target: str) -> str:
    """Return an API token of the same user whose holders go to a target, and speak what is spoken there. A secret.

    Raises ValueError for something that is no target, InvalidTokenError.
    """
    token = ApiToken.parse(api_token, source=TOKEN_VARIABLE)
    if parse_target(target).wire == "http":
        return ApiToken.mint(api_url=target, api_key=token.api_key).encode()
    minted = ApiToken.mint(api_url=token.api_url, api_address=token.api_address, grpc_url=target, api_key=token.api_key)
    return minted.encode()


def check_target(target: str) -> None:
    """Raise ValueError for a target that tests cannot run against: no address, or no API token for it."""
    parse_target(target)
    if not os.environ.get(TOKEN_VARIABLE, "").strip():
        raise ValueError(f"tests against a server elsewhere need an API token of that server in {TOKEN_VARIABLE}")


class OutsideServer:
    """A server that this process did not start: what directs a server skips the test that asks for it."""

    def __init__(self, target: str, api_token: str) -> None:
        """Take the address, as channel() takes it, and an API token that is valid there."""
        self.target: Final = target
        self.api_token: Final[str] = Secret(token_for(api_token, target))
        """The API token of a user of the server, with the address as its target. A secret."""
        with self.channel() as channel:
            me = UsersServiceStub(channel).GetUserIdentity(GetUserIdentityRequest(), timeout=_PATIENCE)
        self.username: Final = me.username
        """Name of the user."""
        named = os.environ.get("NEPTUNE_PROJECT", "").partition("/")[0]
        if not named and not me.workspaces:
            raise ValueError(f"{me.username} is in no workspace: set NEPTUNE_PROJECT to one, as workspace/name")
        self.workspace: Final = named or me.workspaces[0].organization_name
        """Where to make projects: the workspace of NEPTUNE_PROJECT, or the first one of the user."""

    @classmethod
    def from_environment(cls, target: str) -> OutsideServer:
        """Return a server as the user of NEPTUNE_API_TOKEN. Raises ValueError without one, NeptuneApiError."""
        check_target(target)
        return cls(target, os.environ[TOKEN_VARIABLE])

    def channel(self) -> grpc.Channel:
        """Open a channel; the caller closes it."""
        return neptune_api.channel(api_token=self.api_token)

    def aio_channel(self) -> grpc.aio.Channel:
        """Do as channel(), for asyncio."""
        return aio.channel(api_token=self.api_token)

    def undirected(self) -> AbstractContextManager[None]:
        """Do nothing: nobody directs the server."""
        return nullcontext()

    def __getattr__(self, name: str) -> NoReturn:
        if name in _DIRECTIONS:
            import pytest

            pytest.skip(f"neptune_server.{name} is of servers that the run starts itself, without --neptune-target")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
