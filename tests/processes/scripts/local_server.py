"""A server in the process that forks: the child has none of it."""

from __future__ import annotations

import os
from typing import Any

import neptune_api
from neptune_api.server import LocalServer
from tests.processes.scripts.common import ask, in_child, outcome, tell


def main() -> None:
    """Tell how it went."""
    server = LocalServer().start()
    grpc_url, http_url, token = server.grpc_url, server.http_url, server.api_token
    folder = server._data or server._temporary.name  # type: ignore[union-attr] # a temporary one

    def work() -> dict[str, Any]:
        return {
            "stopped": outcome(server.stop),
            "running": outcome(lambda: server.grpc_url),
            "grpc": outcome(lambda: ask(neptune_api.channel(grpc_url, api_token=token))),
            "http": outcome(lambda: ask(neptune_api.channel(http_url, api_token=token))),
            "auto": outcome(lambda: ask(neptune_api.channel(api_token=token, transport="auto"))),
        }

    child = in_child(work)
    kept = os.path.exists(folder)  # noqa: PTH110 # a text
    with neptune_api.channel(grpc_url, api_token=token) as channel:
        parent = ask(channel)
    server.stop()
    tell(child=child.told, code=child.code, kept=kept, parent=parent, gone=not os.path.exists(folder))  # noqa: PTH110 # as above


main()
