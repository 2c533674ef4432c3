"""Calls endpoints with the client of neptune-api 0.26 as it was released.

Its form for asyncio is left out: it cannot log in, and its own protobuf bodies are refused by the HTTP client under it.

Runs in an environment of its own. Calls come pickled on the input, as (module, arguments); what they answer goes into a
file. ("Model", name, fields) and ("File", content) stand for bodies, ("Token",) for the API token.
"""

# The client is another package of the same name as ours, which is the one that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import importlib
import io
import os
import pickle
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from neptune_api import models
from neptune_api.api.backend import get_client_config
from neptune_api.auth_helpers import exchange_api_key
from neptune_api.client import AuthenticatedClient, Client
from neptune_api.credentials import Credentials
from neptune_api.types import File


def built(value: Any) -> Any:
    """Return an argument with an object of the client in place of what stands for it."""
    match value:
        case "Model", name, fields:
            return getattr(models, name).from_dict(fields)
        case "File", content:
            return File(io.BytesIO(content), mime_type="application/x-protobuf")
        case ("Token",):
            return os.environ["NEPTUNE_API_TOKEN"]
    return value


def opened(token: str) -> AuthenticatedClient:
    """Return a client that has found its way as released ones do: configuration, discovery, exchange of the token."""
    credentials = Credentials.from_api_key(api_key=token)
    with Client(base_url=credentials.base_url) as client:
        config = get_client_config.sync(client=client)
        discovery = httpx.get(config.security.open_id_discovery).json()
    return AuthenticatedClient(
        base_url=credentials.base_url,
        credentials=credentials,
        client_id=config.security.client_id,
        token_refreshing_endpoint=discovery["token_endpoint"],
        api_key_exchange_callback=exchange_api_key,
    )


def answer(response: Any) -> tuple[int, bytes, Any]:
    parsed = response.parsed.to_dict() if hasattr(response.parsed, "to_dict") else None
    return int(response.status_code), response.content, parsed


def call_all(token: str, calls: Any) -> list[Any]:
    with opened(token) as client:
        return [
            answer(endpoint(name).sync_detailed(client=client, **{key: built(item) for key, item in arguments.items()}))
            for name, arguments in calls
        ]


def endpoint(name: str) -> Any:
    return importlib.import_module(f"neptune_api.api.{name}")


def main() -> None:
    answers = call_all(os.environ["NEPTUNE_API_TOKEN"], pickle.load(sys.stdin.buffer))
    Path(sys.argv[1]).write_bytes(pickle.dumps({"version": version("neptune-api"), "answers": answers}))


if __name__ == "__main__":
    main()
