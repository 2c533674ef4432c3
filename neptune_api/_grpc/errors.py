"""From errors of gRPC to exceptions of ours, without tokens in any text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from neptune_api._connecting import explain
from neptune_api.credentials import mask, redact
from neptune_api.exceptions import NeptuneApiError, exception_class

if TYPE_CHECKING:
    from neptune_api.exceptions import Metadata


def _read(error: grpc.RpcError, name: str) -> Any:
    # RpcErrors raised by interceptors of other people may be no calls and have none of a call's methods.
    method = getattr(error, name, None)
    return method() if callable(method) else None


def _masked(metadata: Metadata, known: tuple[str, ...]) -> Metadata:
    clean = tuple(
        (key, mask(value, *known) if isinstance(value, bytes) else redact(value, *known)) for key, value in metadata
    )
    return metadata if clean == tuple(metadata) else clean


def translate(error: grpc.RpcError, method: str, known: tuple[str, ...] = ()) -> NeptuneApiError:
    """Return the exception for a failed call, with the original as its cause; one of ours is returned as it is.

    `known` are the tokens in use; they and whatever looks like a token are cut out of all texts. An original that shows
    one is replaced by a clean copy.
    """
    if isinstance(error, NeptuneApiError):
        return error
    code = _read(error, "code")
    if not isinstance(code, grpc.StatusCode):
        code = grpc.StatusCode.UNKNOWN
    said = str(_read(error, "details") or "") if hasattr(error, "details") else str(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        said = explain(said) or said
    trailing = _read(error, "trailing_metadata") or ()
    # A sync stream or future is its own error, and waits for what it does not have: for the debug text for ever when it
    # was cancelled, for the initial metadata while this runs on the very thread that would bring it.
    alive = hasattr(error, "__next__")
    debug = "" if alive else str(_read(error, "debug_error_string") or "")
    initial = () if alive else _read(error, "initial_metadata") or ()
    shown = str(error)
    made = exception_class(code)(
        redact(said, *known),
        method=method,
        initial_metadata=_masked(initial, known),
        trailing_metadata=_masked(trailing, known),
        debug_error_string=redact(debug, *known) or None,
    )
    clean = made.initial_metadata() is initial and made.trailing_metadata() is trailing
    if not clean or redact(shown, *known) != shown:
        error = grpc.aio.AioRpcError(code, None, None, made.details(), made.debug_error_string())
    # Its traceback shows gRPC's insides only, and its frames hold the request and the error itself: a cycle that would
    # keep both until the garbage collector comes by.
    made.__cause__ = error.with_traceback(None)
    return made
