"""The embedded server: one set of servicers over one store, behind a gRPC door and an HTTP door."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server.local import LocalServer

__all__ = ["LocalServer"]


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return the sentence about a package that the server cannot be imported without; None for a module of our own."""
    package = (error.name or "").partition(".")[0]
    if package in {"", "neptune_api"}:
        return None
    return f'The server needs the package {package}, which is not installed: pip install "neptune-api[server]"'


@contextmanager
def no_garbage() -> Iterator[None]:
    """Pause the garbage collector: imports make many objects and no garbage, and looking for some takes a tenth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def __getattr__(name: str) -> object:
    if name != "LocalServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        with no_garbage():
            from neptune_api.server.local import LocalServer
    except ModuleNotFoundError as error:
        sentence = missing_extra(error)
        if sentence is None:
            raise
        raise ModuleNotFoundError(sentence, name=error.name, path=error.path) from error
    return LocalServer
