"""A server that tests can direct: scripted faults, a recorder, canned replies, a clock, recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neptune_api.server.testing.outside import OutsideServer
    from neptune_api.server.testing.scripted import ScriptedServer

__all__ = ["OutsideServer", "ScriptedServer"]


def __getattr__(name: str) -> object:
    # A server elsewhere can be tested without what a server here needs.
    if name == "OutsideServer":
        from neptune_api.server.testing.outside import OutsideServer

        return OutsideServer
    if name == "ScriptedServer":
        from neptune_api.server import LocalServer as LocalServer  # names the extra when it is missing
        from neptune_api.server import no_garbage

        with no_garbage():
            from neptune_api.server.testing.scripted import ScriptedServer

        return ScriptedServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
