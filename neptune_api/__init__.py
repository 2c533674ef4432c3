"""Typed gRPC stubs of the Neptune API, a channel that knows how to log in, and the server behind both.

    import neptune_api
    from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

    with neptune_api.channel() as channel:
        users = UsersServiceStub(channel)

Names load when they are first used: importing the package loads neither gRPC nor protobuf.
"""

from __future__ import annotations

from neptune_api._version import __version__

# What type checkers take for typing.TYPE_CHECKING; importing typing would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Final

    from neptune_api import aio as aio
    from neptune_api import columns as columns
    from neptune_api import exceptions as exceptions
    from neptune_api import models as models
    from neptune_api._grpc.sync_interceptors import (
        AuthInterceptor,
        DeadlineInterceptor,
        ErrorInterceptor,
        MirrorInterceptor,
    )
    from neptune_api.channels import channel
    from neptune_api.credentials import ApiToken
    from neptune_api.exceptions import NeptuneApiError
    from neptune_api.mirror import Mirror, MirrorCounts
    from neptune_api.options import ChannelOptions, RetryPolicy

__all__ = [
    "ApiToken",
    "AuthInterceptor",
    "ChannelOptions",
    "DeadlineInterceptor",
    "ErrorInterceptor",
    "Mirror",
    "MirrorCounts",
    "MirrorInterceptor",
    "NeptuneApiError",
    "RetryPolicy",
    "__version__",
    "aio",
    "channel",
    "columns",
    "exceptions",
    "models",
]

_MODULES: Final = frozenset({"aio", "columns", "exceptions", "models"})
_HOMES: Final = {
    "ApiToken": "credentials",
    "AuthInterceptor": "_grpc.sync_interceptors",
    "ChannelOptions": "options",
    "DeadlineInterceptor": "_grpc.sync_interceptors",
    "ErrorInterceptor": "_grpc.sync_interceptors",
    "Mirror": "mirror",
    "MirrorCounts": "mirror",
    "MirrorInterceptor": "_grpc.sync_interceptors",
    "NeptuneApiError": "exceptions",
    "RetryPolicy": "options",
    "channel": "channels",
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for an object

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
