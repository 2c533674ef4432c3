from __future__ import annotations

import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from neptune_api.conformance.people import Person, colleague, refused
from neptune_api.credentials import ApiToken as ParsedToken
from neptune_api.exceptions import InvalidArgumentException, UnauthorizedException
from neptune_api.server.identity import Identity, Secrets
from neptune_api.server.server import Server
from neptune_api.v1 import auth_service_pb2 as pb
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from neptune_api.conformance.people import Host, Wire
    from neptune_api.exceptions import NeptuneApiError
    from tests.own_servers import OwnServer


@pytest.fixture
def person(server: Host) -> Person:
    """A user whose tokens nobody else uses."""
    return colleague(server)


@pytest.fixture
def auth(wire: Wire) -> AuthServiceStub:
    """The stub of a caller without a token."""
    return wire.connect("").stub(AuthServiceStub)


def bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)


def exchange(auth: AuthServiceStub, api_token: str) -> pb.OauthToken:
    return auth.ExchangeApiToken(pb.ExchangeApiTokenRequest(api_token=api_token))


def refresh(auth: AuthServiceStub, refresh_token: str) -> pb.OauthToken:
    return auth.RefreshToken(pb.RefreshTokenRequest(refresh_token=refresh_token))


def authorize(auth: AuthServiceStub, access_token: str) -> str:
    return auth.Authorize(pb.AuthorizeRequest(), metadata=bearer(access_token)).username


def check_hides(error: NeptuneApiError, secret: str) -> None:
    """Check that no part of an error shows a secret, nor its middle."""
    everything = f"{error!s} {error!r} {error.details()} {error.debug_error_string()} {error.trailing_metadata()}"
    assert secret not in everything
    assert secret[10:40] not in everything


def test_api_token_is_exchanged(auth: AuthServiceStub, server: Host, person: Person) -> None:
    pair = exchange(auth, person.api_token)
    assert pair.username == person.name
    assert authorize(auth, pair.access_token) == person.name
    claims = jwt.decode(pair.access_token, options={"verify_signature": False})
    assert claims["iss"] == f"{server.http_url}/auth/realms/neptune"
    assert claims["azp"] == "neptune-cli"
    assert claims["preferred_username"] == person.name
    assert claims["exp"] - claims["iat"] == 3600
    assert set(claims) >= {"exp", "iat", "iss", "azp", "sub", "preferred_username", "jti"}


def test_refresh_token_gives_a_new_pair(auth: AuthServiceStub, person: Person) -> None:
    first = exchange(auth, person.api_token)
    second = refresh(auth, first.refresh_token)
    assert second.username == person.name
    assert second.access_token != first.access_token
    assert authorize(auth, second.access_token) == person.name
    assert refresh(auth, second.refresh_token).username == person.name


def test_caller_is_told_its_name_and_token(wire: Wire, person: Person) -> None:
    auth = wire.connect(person.api_token).stub(AuthServiceStub)
    assert auth.Authorize(pb.AuthorizeRequest()).username == person.name
    assert auth.GetApiToken(pb.GetApiTokenRequest()).token == person.api_token


def test_api_token_says_where_the_server_is(server: Host, person: Person) -> None:
    token = ParsedToken.parse(person.api_token)
    assert token.api_url == token.api_address == server.http_url
    assert token.grpc_url == server.grpc_url


def test_revoked_tokens_are_refused_and_access_tokens_live_on(
    auth: AuthServiceStub, server: Host, person: Person
) -> None:
    pair = exchange(auth, person.api_token)
    mine = bearer(pair.access_token)

    auth.RevokeApiToken(pb.RevokeApiTokenRequest(), metadata=mine)

    for call, secret in (
        (partial(exchange, auth, person.api_token), person.api_token),
        (partial(refresh, auth, pair.refresh_token), pair.refresh_token),
    ):
        check_hides(refused(UnauthorizedException, call, reason="UNAUTHORIZED"), secret)
    assert authorize(auth, pair.access_token) == person.name
    new = auth.GetApiToken(pb.GetApiTokenRequest(), metadata=mine).token
    assert new != person.api_token
    assert exchange(auth, new).username == person.name
    # Nobody else is touched.
    assert exchange(auth, server.api_token).username == server.username


AUTHENTICATED: dict[str, Callable[..., object]] = {
    "GetApiToken": lambda auth, **call: auth.GetApiToken(pb.GetApiTokenRequest(), **call),
    "RevokeApiToken": lambda auth, **call: auth.RevokeApiToken(pb.RevokeApiTokenRequest(), **call),
    "Authorize": lambda auth, **call: auth.Authorize(pb.AuthorizeRequest(), **call),
}


@pytest.mark.parametrize("method", AUTHENTICATED)
def test_token_is_needed(auth: AuthServiceStub, method: str) -> None:
    error = refused(UnauthorizedException, lambda: AUTHENTICATED[method](auth), reason="UNAUTHORIZED")
    assert "authorization: Bearer" in error.details()


def forge(pair: pb.OauthToken, kind: str) -> str:
    claims: dict[str, Any] = jwt.decode(pair.access_token, options={"verify_signature": False})
    head, body, signature = pair.access_token.split(".")
    return {
        "garbage": "no-token-at-all-but-a-long-enough-text-to-be-one",
        "unsigned": jwt.encode(claims, None, algorithm="none"),
        "other-key": jwt.encode(claims, b"k" * 32, algorithm="HS256"),
        "other-signature": f"{head}.{body}.{signature[::-1]}",
        "no-signature": f"{head}.{body}.",
        "refresh-token": pair.refresh_token,
        "oversized": f"{head}.{body}.{'A' * 4096}",
    }[kind]


@pytest.mark.parametrize("method", AUTHENTICATED)
@pytest.mark.parametrize(
    "kind", ["garbage", "unsigned", "other-key", "other-signature", "no-signature", "refresh-token", "oversized"]
)
def test_forged_access_tokens_are_refused(auth: AuthServiceStub, person: Person, kind: str, method: str) -> None:
    forged = forge(exchange(auth, person.api_token), kind)
    call = partial(AUTHENTICATED[method], auth, metadata=bearer(forged))
    check_hides(refused(UnauthorizedException, call, reason="JWT_VALIDATION_ERROR"), forged)


def test_expired_tokens_are_refused(auth: AuthServiceStub, server: OwnServer, person: Person) -> None:
    running = server._running._identity
    secrets = Secrets.of(server._running._database)
    hasty = Identity(running._directory, secrets, running.addresses, access_seconds=0, refresh_seconds=0)
    expired = hasty.exchange(person.api_token)
    for call, secret in (
        (partial(authorize, auth, expired.access_token), expired.access_token),
        (partial(refresh, auth, expired.refresh_token), expired.refresh_token),
    ):
        check_hides(refused(UnauthorizedException, call, reason="AUTHORIZATION_TOKEN_EXPIRED"), secret)


@pytest.mark.parametrize("kind", ["garbage", "unsigned", "other-key", "other-signature", "no-signature"])
def test_forged_refresh_tokens_are_refused(auth: AuthServiceStub, person: Person, kind: str) -> None:
    pair = exchange(auth, person.api_token)
    forged = forge(pb.OauthToken(access_token=pair.refresh_token, refresh_token=pair.refresh_token), kind)
    error = refused(UnauthorizedException, lambda: refresh(auth, forged), reason="JWT_VALIDATION_ERROR")
    check_hides(error, forged)


def test_access_token_does_not_refresh(auth: AuthServiceStub, person: Person) -> None:
    token = exchange(auth, person.api_token).access_token
    error = refused(UnauthorizedException, lambda: refresh(auth, token), reason="JWT_VALIDATION_ERROR")
    check_hides(error, token)


def test_tokens_of_another_server_are_refused(auth: AuthServiceStub, tmp_path: Path) -> None:
    other = Server(tmp_path)
    try:
        foreign = other._identity.exchange(other.api_token)
        api_token = other.api_token
    finally:
        other.stop()
    for call, secret, reason in (
        (partial(exchange, auth, api_token), api_token, "UNAUTHORIZED"),
        (partial(refresh, auth, foreign.refresh_token), foreign.refresh_token, "JWT_VALIDATION_ERROR"),
        (partial(authorize, auth, foreign.access_token), foreign.access_token, "JWT_VALIDATION_ERROR"),
    ):
        check_hides(refused(UnauthorizedException, call, reason=reason), secret)


def test_forged_api_keys_are_refused(auth: AuthServiceStub, person: Person) -> None:
    good = ParsedToken.parse(person.api_token)
    for key in ("guess", good.api_key[:-1], good.api_key[:-1] + ("0" if good.api_key[-1] != "0" else "1"), "0" * 96):
        forged = ParsedToken.mint(api_url=good.api_url, api_key=key).encode()
        check_hides(refused(UnauthorizedException, partial(exchange, auth, forged), reason="UNAUTHORIZED"), forged)


def test_api_token_is_known_by_its_key_alone(auth: AuthServiceStub, person: Person, wire: Wire) -> None:
    key = ParsedToken.parse(person.api_token).api_key
    moved = ParsedToken.mint(api_url="https://elsewhere.example", api_key=key).encode()
    assert exchange(auth, moved).username == person.name
    if wire.http:  # where the token is a header
        refused(
            InvalidArgumentException, lambda: exchange(auth, f"{moved}\n"), reason="BAD_REQUEST", fields=["api_token"]
        )
    else:
        assert exchange(auth, f"  {moved}\n").username == person.name


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("not base64!", "not base64"),
        (base64.b64encode(b"no json").decode(), "JSON"),
        (base64.b64encode(b"[]").decode(), "JSON"),
        (base64.b64encode(json.dumps({"api_url": "http://x"}).encode()).decode(), "api_key"),
        (base64.b64encode(json.dumps({"api_key": 1, "api_url": "http://x"}).encode()).decode(), "api_key"),
    ],
)
def test_undecodable_api_token_is_refused_like_an_unknown_one(auth: AuthServiceStub, token: str, problem: str) -> None:
    """Released clients give up at UNAUTHENTICATED only."""
    error = refused(UnauthorizedException, lambda: exchange(auth, token), reason="UNAUTHORIZED")
    assert problem in error.details()
    assert "A token is base64 text of a JSON object" in error.details()
    if len(token) > 20:
        check_hides(error, token)


@pytest.mark.parametrize(("token", "problem"), [("", "required"), ("x" * 4097, "4,097 bytes long, the limit is 4,096")])
def test_missing_or_oversized_api_token_is_an_invalid_argument(auth: AuthServiceStub, token: str, problem: str) -> None:
    error = refused(InvalidArgumentException, lambda: exchange(auth, token), reason="BAD_REQUEST", fields=["api_token"])
    assert problem in error.details()


@pytest.mark.parametrize("token", ["", "x" * 4097])
def test_missing_or_oversized_refresh_token_is_an_invalid_argument(auth: AuthServiceStub, token: str) -> None:
    refused(InvalidArgumentException, lambda: refresh(auth, token), reason="BAD_REQUEST", fields=["refresh_token"])
