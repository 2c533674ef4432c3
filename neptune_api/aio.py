"""The same as neptune_api, for asyncio: channel() and the interceptors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio

from neptune_api._grpc.aio_interceptors import (
    auth_interceptors,
    deadline_interceptors,
    error_interceptors,
    mirror_interceptors,
)
from neptune_api.auth import AioApiTokenSource, AioProviderTokenSource, AioStaticTokenSource, AioTokenSource
from neptune_api.channels import resolve
from neptune_api.options import ChannelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api.auth import AioProvider
    from neptune_api.channels import Connection, Transport
    from neptune_api.credentials import ApiToken
    from neptune_api.mirror import Mirror

__all__ = ["auth_interceptors", "channel", "deadline_interceptors", "error_interceptors", "mirror_interceptors"]


def channel(
    target: str | None = None,
    *,
    api_token: str | ApiToken | None = None,
    access_token: str | AioProvider | None = None,
    options: ChannelOptions | None = None,
    transport: Transport | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    mirror: Mirror | None = None,
) -> grpc.aio.Channel:
    """Open a channel for the generated stubs on the running event loop; it connects at the first call.

    Arguments and errors are those of neptune_api.channel(); an `access_token` function may be a coroutine function.
    `interceptors` run below the channel's own work, because grpc.aio knows no other place for them: they see each
    attempt with a new token, the token it carries and the errors of gRPC, or of HTTP in the same form. Raises
    RuntimeError when no event loop is running. A channel belongs to one event loop and so to one process: in the child
    of a fork its calls raise FailedPreconditionException.
    """
    from neptune_api._grpc import forks
    from neptune_api._grpc.aio import Channel, token_transport

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "neptune_api.aio.channel() must be called in a coroutine: a channel belongs to one event loop"
        ) from None
    options = ChannelOptions() if options is None else options
    connection = resolve(target, api_token, options, access_token=access_token is not None, transport=transport)
    if connection.fallback is not None and forks.refused():
        connection = connection.without_grpc()
    source: AioTokenSource | None = None
    if callable(access_token):
        source = AioProviderTokenSource(access_token, timeout=options.exchange_timeout)
    elif access_token is not None:
        source = AioStaticTokenSource(access_token)
    below, kind = _open(connection, options, interceptors), Channel
    if connection.wire == "http":
        from neptune_api.http.aio import Channel as HttpChannel

        kind = HttpChannel
    elif connection.fallback is not None:
        from neptune_api.http.aio_fallback import FallbackChannel

        below = FallbackChannel(below, _open(connection.fallback, options, interceptors))
    if connection.api_token is not None:
        source = AioApiTokenSource(connection.api_token, token_transport(below), timeout=options.exchange_timeout)
    return kind(below, source, options, mirror)


def _open(
    connection: Connection, options: ChannelOptions, interceptors: Sequence[grpc.aio.ClientInterceptor]
) -> grpc.aio.Channel:
    """Open a bare channel, without tokens and deadlines."""
    if connection.wire == "http":
        from neptune_api.http.aio import Wire

        return Wire(connection.endpoint(options), options, interceptors)
    from neptune_api._grpc import forks

    forks.start()
    arguments = [*connection.arguments(options), *forks.arguments()]
    if connection.secure:
        credentials = connection.credentials(options)
        return grpc.aio.secure_channel(connection.address, credentials, arguments, interceptors=interceptors)
    return grpc.aio.insecure_channel(connection.address, arguments, interceptors=interceptors)
