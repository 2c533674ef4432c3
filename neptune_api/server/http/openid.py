"""What OpenID Connect clients need: the discovery document and the endpoint at which they refresh their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import grpc
import jwt

from neptune_api.server.errors import StatusError
from neptune_api.server.http.calls import HttpContext
from neptune_api.server.http.dialect import error_object
from neptune_api.server.http.exchange import Response, json_response
from neptune_api.server.identity import ISSUER_PATH, TOKEN_PATH
from neptune_api.v1.auth_service_pb2 import RefreshTokenRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.server.handlers import Handler
    from neptune_api.server.http.calls import Calls
    from neptune_api.server.http.exchange import Request

_MAX_FORM_BYTES: Final = 64 * 1024
_REFRESH: Final = "refresh_token"


def discovery(base_url: str) -> dict[str, Any]:
    """Return the discovery document of the server at a base address."""
    issuer = f"{base_url}{ISSUER_PATH}"
    return {
        "issuer": issuer,
        # Clients demand the key. Nobody logs in with a browser here: it is no address that answers.
        "authorization_endpoint": f"{issuer}/protocol/openid-connect/auth",
        "token_endpoint": f"{base_url}{TOKEN_PATH}",
        "grant_types_supported": [_REFRESH],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["none"],
    }


async def token(handler: Handler, request: Request, calls: Calls, clock: Callable[[], float]) -> Response:
    """Answer the token endpoint: a form with a refresh token in, a new pair of tokens out (RFC 6749, section 6).

    Failures are those of the RFC, `error` and `error_description`, beside the Error object of the REST API. Raises
    StatusError for a body that cannot be read and when the server fails.
    """
    body = await request.body(max_bytes=_MAX_FORM_BYTES)
    try:
        form = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64))
    except ValueError:
        return _refusal(
            request, "invalid_request", "The body is no form in UTF-8: send application/x-www-form-urlencoded."
        )
    if form.get("grant_type") != _REFRESH:
        return _refusal(
            request, "unsupported_grant_type", f"grant_type must be {_REFRESH}, nothing else is granted here."
        )
    if not form.get(_REFRESH):
        return _refusal(request, "invalid_request", "refresh_token is required.")
    # `expires_in` and `client_id` are not looked at: clients send what is left of the old token, mostly a negative
    # fraction, and there is one client id for all.
    call = handler.guarded(lambda each: each, lambda response: response)
    context = HttpContext(request.metadata(), request.deadline(), request.peer)
    try:
        pair = await calls.run(call, RefreshTokenRequest(refresh_token=form[_REFRESH]), context)
    except StatusError as error:
        if error.code is not grpc.StatusCode.UNAUTHENTICATED and error.code is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        return _refusal(request, "invalid_grant", error.message, error)
    now = clock()
    return json_response(
        200,
        {
            "access_token": pair.access_token,
            "token_type": "Bearer",
            "expires_in": _seconds_left(pair.access_token, now),
            "refresh_token": pair.refresh_token,
            "refresh_expires_in": _seconds_left(pair.refresh_token, now),
        },
    )


def _seconds_left(text: str, now: float) -> int:
    expiry: float = jwt.decode(text, options={"verify_signature": False})["exp"]
    return max(0, round(expiry - now))


def _refusal(request: Request, error: str, description: str, cause: StatusError | None = None) -> Response:
    status = (cause or StatusError(grpc.StatusCode.INVALID_ARGUMENT, description)).status()
    body = error_object(request.path, status)
    return json_response(400, {**body, "code": 400, "error": error, "error_description": description})
