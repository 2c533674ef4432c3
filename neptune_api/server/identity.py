"""Identity: API tokens and JWTs out, tokens in, callers recognised.

An API token carries a key that is computed from the user and the server's secret, so the store holds nothing that
somebody who reads it could call with, and the same data folder gives the same keys after every restart.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import sqlalchemy as sa

from neptune_api.credentials import ApiToken, InvalidTokenError, Secret
from neptune_api.server.errors import StatusError, unauthenticated
from neptune_api.server.limits import MAX_TOKEN_BYTES
from neptune_api.server.recent import Recent
from neptune_api.server.store import schema
from neptune_api.server.store.database import StoreError
from neptune_api.server.validation import Checks
from neptune_api.v1.auth_service_pb2 import OauthToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from neptune_api.server.store.database import Database
    from neptune_api.server.store.directory import Directory
    from neptune_api.server.store.records import UserRecord

CLIENT_ID: Final = "neptune-cli"
"""The OAuth client id of every client."""

ISSUER_PATH: Final = "/auth/realms/neptune"
"""Where the issuer lies under the base address of the HTTP API; clients refresh tokens below it."""

DISCOVERY_PATH: Final = f"{ISSUER_PATH}/.well-known/openid-configuration"
"""Where OpenID clients find the token endpoint."""

TOKEN_PATH: Final = f"{ISSUER_PATH}/protocol/openid-connect/token"
"""Where OpenID clients refresh tokens."""

DEFAULT_ACCESS_SECONDS: Final = 3600
DEFAULT_REFRESH_SECONDS: Final = 30 * 24 * 3600

_ALGORITHM: Final = "HS256"
_ACCESS: Final = "Bearer"
_REFRESH: Final = "Refresh"
_CLAIMS: Final = ("aud", "exp", "iss", "sub", "typ")
_CACHED_TOKENS: Final = 4096
_SECRETS_FILE: Final = "secrets.json"
_KEY_BYTES: Final = 32
_USER_DIGITS: Final = 32

_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that makes a call."""

    user_id: int
    uuid: str
    username: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients reach the server."""

    http_url: str
    """Base address of the HTTP API, without a slash at its end."""
    grpc_target: str
    """`host:port` of the gRPC API."""
    chosen: bool = False
    """True when somebody chose `http_url`, so that it holds whatever name a caller used."""

    @property
    def grpc_url(self) -> str:
        """The address of the gRPC API with its scheme, as API tokens carry it."""
        return self.grpc_target if "://" in self.grpc_target else f"grpc://{self.grpc_target}"

    def base_url_for(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Return the base address of the HTTP API for the caller of an RPC.

        The HTTP door tells in the metadata of a call how it was reached; over gRPC nobody does.
        """
        reached = {key: str(value) for key, value in metadata or () if key in {":scheme", ":authority"}}
        return self.base_url(reached.get(":scheme"), reached.get(":authority"))

    def base_url(self, scheme: str | None, authority: str | None) -> str:
        """Return the base address of the HTTP API for a caller that reached it by a scheme and a `host:port`.

        The name that the caller used leads back to the server, which need not be so for the one that the server knows.
        """
        if self.chosen or scheme is None or authority is None or not _AUTHORITY.fullmatch(authority):
            return self.http_url
        return f"{scheme}://{authority}"


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return the user that makes the call being handled.

    Raises LookupError outside of `calling_as`, and so in RPCs that need no token.
    """
    return _caller.get()


@contextlib.contextmanager
def calling_as(caller: Caller) -> Iterator[None]:
    """Make `caller` the current caller inside the block."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What tells the server's tokens from forged ones."""

    server_id: str
    """Name of the server in its tokens, whatever address it has."""
    signing_key: bytes = field(repr=False)

    @classmethod
    def of(cls, database: Database) -> Secrets:
        """Read the secrets of an open database, or make them on the first start.

        Every server of a shared database has to know the same ones, so there they lie in the database, in the table
        `meta`; for those of a data folder see `load`. Raises StoreError.
        """
        if database.folder is not None:
            return cls.load(database.folder, durable=database.durable)
        meta = schema.meta
        keys = ("secrets.server_id", "secrets.signing_key")
        with database.write() as connection:
            rows = connection.execute(sa.select(meta.c.key, meta.c.value).where(meta.c.key.in_(keys)))
            found = {row.key: row.value for row in rows}
            if not found:
                found = dict(zip(keys, (str(uuid.uuid4()), secrets.token_hex(_KEY_BYTES)), strict=True))
                connection.execute(meta.insert(), [{"key": key, "value": value} for key, value in found.items()])
        try:
            server_id, key = (found[name] for name in keys)
            return cls._checked(server_id, key)
        except (ValueError, KeyError):
            raise StoreError(
                f"{database.backend.label} has damaged secrets: restore the rows {' and '.join(keys)} of the table "
                "meta from a backup, or delete both to have new ones made, which makes every API token invalid."
            ) from None

    @classmethod
    def load(cls, folder: Path, *, durable: bool = True) -> Secrets:
        """Read the secrets of a data folder that is locked by its Database, or make them on the first start.

        They lie in a file that only its owner may read and not in the database: a database that is backed up, copied
        for a look or moved to another host then gives no tokens away. Deleting the file revokes every token.
        Raises StoreError.
        """
        path = folder / _SECRETS_FILE
        try:
            if not path.exists():
                made = {"server_id": str(uuid.uuid4()), "signing_key": secrets.token_hex(_KEY_BYTES)}
                _write_private(path, made, durable=durable)
            path.chmod(0o600)  # a copied folder may have lost its modes
        except OSError as error:
            raise StoreError(f"The file {path} cannot be used: {error.strerror}.") from error
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Secrets:
        """Read the secrets of a data folder and change nothing. Raises StoreError, also when there are none."""
        path = folder / _SECRETS_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls._checked(found["server_id"], found["signing_key"])
        except OSError as error:
            raise StoreError(f"The file {path} cannot be used: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            # Without the error, which may quote the file.
            raise StoreError(
                f"The file {path} is damaged: restore it from a backup, or delete it to have a new one made, which "
                "makes every API token invalid."
            ) from None

    @classmethod
    def _checked(cls, server_id: str, signing_key: str) -> Secrets:
        key = bytes.fromhex(signing_key)
        if len(key) < _KEY_BYTES:
            raise ValueError("the signing key is too short")
        return cls(str(uuid.UUID(server_id)), key)

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for one purpose."""
        return hmac.digest(self.signing_key, purpose.encode(), "sha256")


class Identity:
    """Give tokens to users and recognise users by their tokens.

    Access tokens are checked without the store once they have been seen, so they live until they expire; refresh
    tokens and API tokens end with RevokeApiToken.
    """

    def __init__(
        self,
        directory: Directory,
        secrets: Secrets,
        addresses: Addresses,
        *,
        access_seconds: float = DEFAULT_ACCESS_SECONDS,
        refresh_seconds: float = DEFAULT_REFRESH_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.addresses: Final = addresses
        self._directory = directory
        self._server_id = secrets.server_id
        self._api_key_secret = secrets.derive("api-key")
        self._token_secret = secrets.derive("token")
        self._access_seconds = access_seconds
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        # Verified access tokens by their hash: caller and expiry. Every call authenticates; HMAC, JSON and a look into
        # the store would cost as much as a small call itself.
        self._verified: Recent[bytes, tuple[Caller, float]] = Recent(_CACHED_TOKENS)

    @property
    def issuer(self) -> str:
        """The `iss` of tokens: an address of this server, below which OpenID clients find its endpoints."""
        return f"{self.addresses.http_url}{ISSUER_PATH}"

    def authenticate(self, authorization: str | None) -> Caller:
        """Return the user that an `authorization` header belongs to.

        Raises UNAUTHENTICATED when it is missing, is no bearer token, is forged or has expired.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise unauthenticated(
                "This call needs an access token: send the metadata `authorization: Bearer <access token>`; "
                "AuthService.ExchangeApiToken gives one for an API token."
            )
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._verified.get(digest)
        if known is None:
            known = self._verify_access(token)
            self._verified.put(digest, known)
        caller, expiry = known
        if expiry <= self._clock():
            raise _expired("access token", "refresh it, or exchange the API token for a new one")
        return caller

    def exchange(self, api_token: str) -> OauthToken:
        """Give an access token and a refresh token to the holder of an API token.

        Raises INVALID_ARGUMENT for none or one that is too long, UNAUTHENTICATED for one that cannot be decoded, is
        unknown or was revoked: released clients take every other code for a reason to try again, for half an hour.
        """
        with Checks() as check:
            check.text("api_token", api_token, MAX_TOKEN_BYTES, required=True)
        try:
            key = ApiToken.parse(api_token, source="the request").api_key
        except InvalidTokenError as error:
            raise unauthenticated(error.details()) from None
        user = self._directory.find_user(_user_of(key))
        # Compared even for an unknown user, so that the time taken does not tell who exists.
        expected = self._api_key(user.uuid, user.token_generation) if user else secrets.token_hex(len(key) // 2)
        if not hmac.compare_digest(key.encode(errors="replace"), expected.encode()) or user is None:
            raise unauthenticated(
                "The API token is not known here: it is of another server, or it was revoked. Get the valid one from "
                "the owner of the workspace or from the output of `neptune-api serve`."
            )
        if not user.has_logged_in:
            self._directory.note_login(user.id)
        return self._pair(user)

    def refresh(self, refresh_token: str) -> OauthToken:
        """Give a new access token and a new refresh token to the holder of a refresh token.

        Raises UNAUTHENTICATED when it is forged, has expired or comes from a revoked API token.
        """
        with Checks() as check:
            check.text("refresh_token", refresh_token, MAX_TOKEN_BYTES, required=True)
        claims = self._claims(refresh_token, _REFRESH)
        user = self._directory.find_user(claims["sub"]) if claims else None
        if claims is None or user is None:
            raise _not_valid("refresh token")
        if claims["exp"] <= self._clock():
            raise _expired("refresh token", "exchange the API token for a new one")
        if claims.get("gen") != user.token_generation:
            raise unauthenticated("The API token behind the refresh token was revoked: exchange the new API token.")
        return self._pair(user)

    def api_token_of(self, user_id: int) -> str:
        """Return the API token that is valid for a user now. A secret.

        Raises LookupError when there is no such user.
        """
        user = self._directory.user(user_id)
        if user is None:
            raise LookupError(f"there is no user with the id {user_id}")
        token = ApiToken.mint(
            api_url=self.addresses.http_url,
            grpc_url=self.addresses.grpc_url,
            api_key=self._api_key(user.uuid, user.token_generation),
        )
        return token.encode()

    def revoke(self, user_id: int) -> None:
        """Make a user's API token and every refresh token made from it invalid; `api_token_of` gives the next one."""
        self._directory.revoke_token(user_id)

    def _api_key(self, user_uuid: str, generation: int) -> str:
        proof = hmac.digest(self._api_key_secret, f"{user_uuid}:{generation}".encode(), "sha256")
        return Secret(user_uuid.replace("-", "") + proof.hex())

    def _pair(self, user: UserRecord) -> OauthToken:
        return OauthToken(
            access_token=self._sign(user, _ACCESS, self._access_seconds),
            refresh_token=self._sign(user, _REFRESH, self._refresh_seconds, gen=user.token_generation),
            username=user.username,
        )

    def _sign(self, user: UserRecord, kind: str, seconds: float, **further: Any) -> str:
        now = self._clock()
        claims = {
            # Released clients read this as an address of the server, so it changes with the port and cannot tell
            # whose the token is; `aud` does, and stays. Tokens outlive a restart on another port.
            "iss": self.issuer,
            "aud": self._server_id,
            "azp": CLIENT_ID,
            "sub": user.uuid,
            "preferred_username": user.username,
            "typ": kind,
            "jti": uuid.uuid4().hex,
            "iat": int(now),
            "exp": int(now + seconds),
            **further,
        }
        import jwt

        return jwt.encode(claims, self._token_secret, algorithm=_ALGORITHM)

    def _verify_access(self, token: str) -> tuple[Caller, float]:
        claims = self._claims(token, _ACCESS)
        user = self._directory.find_user(claims["sub"]) if claims else None
        if claims is None or user is None:
            raise _not_valid("access token")
        return Caller(user.id, user.uuid, user.username), claims["exp"]

    def _claims(self, token: str, kind: str) -> dict[str, Any] | None:
        """Return the claims of a token of this server and kind, expired or not; None for any other text.

        PyJWT's exceptions may quote the token, and an error raised while one is handled would carry it along.
        """
        if len(token) > MAX_TOKEN_BYTES:
            return None
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._token_secret,
                algorithms=[_ALGORITHM],
                audience=self._server_id,
                # The callers look at the clock, for an answer of its own. `iat` may lie in the future after the clock
                # was set back.
                options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):  # the last two for headers that are no JSON, or too deep
            return None
        # Hosts and ports come and go, the place below them is ours.
        is_ours = claims["typ"] == kind and str(claims["iss"]).endswith(ISSUER_PATH)
        return claims if is_ours else None


def _write_private(path: Path, content: dict[str, str], *, durable: bool) -> None:
    """Write a file for its owner only; if it is `durable`, there is the whole file or none after a crash."""
    unfinished = path.with_suffix(".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    unfinished.replace(path)
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _user_of(api_key: str) -> str:
    """Return the UUID in an API key, or a text that no user has."""
    digits = api_key[:_USER_DIGITS]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _not_valid(kind: str) -> StatusError:
    return StatusError(
        grpc.StatusCode.UNAUTHENTICATED,
        f"The {kind} is not valid here: it is damaged, forged, of another server or of another kind. "
        "AuthService.ExchangeApiToken gives a new one for an API token.",
        reason="JWT_VALIDATION_ERROR",
    )


def _expired(kind: str, advice: str) -> StatusError:
    return StatusError(
        grpc.StatusCode.UNAUTHENTICATED,
        f"The {kind} has expired: {advice}.",
        reason="AUTHORIZATION_TOKEN_EXPIRED",
    )
