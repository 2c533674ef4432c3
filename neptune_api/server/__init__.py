"""The embedded server: one set of servicers over one store, behind a gRPC door and an HTTP door."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neptune_api.server.local import LocalServer

__all__ = ["LocalServer"]


def __getattr__(name: str) -> object:
    if name != "LocalServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from neptune_api.server.local import LocalServer

    return LocalServer
