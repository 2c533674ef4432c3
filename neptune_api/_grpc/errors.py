"""From errors of gRPC to exceptions of ours, without tokens in any text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from neptune_api.credentials import mask, redact
from neptune_api.exceptions import NeptuneApiError, ResourceExhaustedException, exception_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api._grpc.methods import Method
    from neptune_api.exceptions import Metadata


def _masked(metadata: Metadata | None, known: tuple[str, ...]) -> Metadata:
    pairs = () if metadata is None else metadata
    clean = tuple(
        (key, mask(value, *known) if isinstance(value, bytes) else redact(value, *known)) for key, value in pairs
    )
    return pairs if clean == tuple(pairs) else clean


def translate(error: grpc.RpcError, method: Method, known: tuple[str, ...] = ()) -> NeptuneApiError:
    """Return the exception for a failed call, with the original as its cause; one of ours is returned as it is.

    `known` are the tokens in use; they and whatever looks like a token are cut out of all texts. An original that shows
    one is replaced by a clean copy.
    """
    if isinstance(error, NeptuneApiError):
        return error
    # Interceptors of other people raise RpcErrors that are no calls and have none of these.
    read: Callable[[str], object] = lambda name: getattr(error, name, lambda: None)()  # noqa: E731 # needs `error`
    code = read("code")
    if not isinstance(code, grpc.StatusCode):
        code = grpc.StatusCode.UNKNOWN
    said = str(read("details") or "") if hasattr(error, "details") else str(error)
    debug = str(read("debug_error_string") or "")
    details, initial, trailing = redact(said, *known), read("initial_metadata"), read("trailing_metadata")
    clean_initial = _masked(initial, known)  # type: ignore[arg-type] # metadata, or None from errors that are no calls
    clean_trailing = _masked(trailing, known)  # type: ignore[arg-type] # as above
    clean_debug = redact(debug, *known)
    made = exception_class(code)(
        details,
        method=method.name,
        initial_metadata=clean_initial,
        trailing_metadata=clean_trailing,
        debug_error_string=clean_debug or None,
    )
    leaked = details != said or clean_debug != debug
    if leaked or (clean_initial, clean_trailing) != (initial, trailing):
        made.__cause__ = grpc.aio.AioRpcError(code, None, None, details, clean_debug)
    else:
        made.__cause__ = error
    return made


def too_large(size: int, limit: int, method: Method) -> ResourceExhaustedException:
    """Return the error for a request that is not sent because of its size."""
    return ResourceExhaustedException(
        f"The request has {size:,} bytes, the limit is {limit:,} (ChannelOptions.max_send_bytes). "
        "Split it into smaller ones, or use a streaming method.",
        method=method.name,
    )


def effective_timeout(timeout: float | None, default: float | None) -> float | None:
    """Return the deadline in seconds of a call that names `timeout`: None means the default, infinity means none."""
    if timeout is None:
        return default
    return None if timeout == math.inf else timeout
