"""AuthService: API tokens in, access tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neptune_api.server.identity import current_caller
from neptune_api.v1.auth_service_pb2 import ApiToken, AuthorizedUser, RevokeApiTokenResponse
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceServicer

if TYPE_CHECKING:
    import grpc

    from neptune_api.server.identity import Identity
    from neptune_api.v1.auth_service_pb2 import (
        AuthorizeRequest,
        ExchangeApiTokenRequest,
        GetApiTokenRequest,
        OauthToken,
        RefreshTokenRequest,
        RevokeApiTokenRequest,
    )


class AuthService(AuthServiceServicer):
    """Exchanges, refreshes, shows and revokes tokens."""

    def __init__(self, *, identity: Identity) -> None:
        self._identity = identity

    def ExchangeApiToken(self, request: ExchangeApiTokenRequest, context: grpc.ServicerContext) -> OauthToken:
        """Give an access token and a refresh token to the holder of an API token."""
        return self._identity.exchange(request.api_token)

    def RefreshToken(self, request: RefreshTokenRequest, context: grpc.ServicerContext) -> OauthToken:
        """Give new tokens to the holder of a refresh token."""
        return self._identity.refresh(request.refresh_token)

    def GetApiToken(self, request: GetApiTokenRequest, context: grpc.ServicerContext) -> ApiToken:
        """Return the caller's API token."""
        return ApiToken(token=self._identity.api_token_of(current_caller().user_id))

    def RevokeApiToken(self, request: RevokeApiTokenRequest, context: grpc.ServicerContext) -> RevokeApiTokenResponse:
        """Make the caller's API token invalid."""
        self._identity.revoke(current_caller().user_id)
        return RevokeApiTokenResponse()

    def Authorize(self, request: AuthorizeRequest, context: grpc.ServicerContext) -> AuthorizedUser:
        """Return who is calling."""
        return AuthorizedUser(username=current_caller().username)
