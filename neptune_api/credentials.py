"""API tokens: parse, mint, redact. No transport."""

from __future__ import annotations

import base64
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from neptune_api.exceptions import InvalidTokenError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MAX_TOKEN_BYTES", "TOKEN_VARIABLE", "ApiToken", "InvalidTokenError", "Secret", "mask", "redact"]

TOKEN_VARIABLE: Final = "NEPTUNE_API_TOKEN"
"""Environment variable that holds the API token."""

MAX_TOKEN_BYTES: Final = 4096
"""Longest API token that is accepted, as the server does."""

_REDACTED: Final = "<redacted>"
# What tokens look like: base64 of a JSON object starts with one of these, and a JWT has two more parts after dots.
_TOKEN: Final = r"(?:eyJ|eyA|ewo|ewk|ew0)[A-Za-z0-9+/_-]{12,}={0,2}(?:\.[A-Za-z0-9_-]*){0,2}"
_TOKEN_TEXT: Final = re.compile(_TOKEN)
_TOKEN_BYTES: Final = re.compile(_TOKEN.encode())
_BEARER: Final = re.compile(r"\b(bearer)\s+[^\s\"',;)\]}>]+", re.IGNORECASE)


class Secret(str):
    """A text that stays out of reprs, and so out of tracebacks that show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _REDACTED


def redact(text: str, *known: str) -> str:
    """Return the text without anything that looks like an API token, a JWT or a bearer header, and without `known`."""
    for secret in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(secret, _REDACTED)
    return _BEARER.sub(rf"\1 {_REDACTED}", _TOKEN_TEXT.sub(_REDACTED, text))


def mask(data: bytes, *known: str) -> bytes:
    """Return the bytes with tokens overwritten by asterisks; the length stays, so that a message stays parsable."""
    for secret in sorted((text.encode() for text in known if text), key=len, reverse=True):
        data = data.replace(secret, b"*" * len(secret))
    return _TOKEN_BYTES.sub(lambda match: b"*" * len(match[0]), data)


def _invalid(problem: str, source: str) -> InvalidTokenError:
    return InvalidTokenError(
        f"The API token from {source} is not valid: {problem}. A token is base64 text of a JSON object with the keys "
        "api_address, api_url and api_key; copy it whole from the web application or from the output of "
        "`neptune-api serve`."
    )


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A long-lived secret that says which server to call and whom the caller acts for.

    No repr, str or error shows the key or the token; only encode() gives it away.
    """

    api_key: str = field(repr=False)
    """The secret by which the server knows the user."""
    api_url: str
    """Base address of the HTTP API."""
    api_address: str = ""
    """Older name of `api_url`; the same address when not given."""
    grpc_url: str | None = None
    """Address of the gRPC API, such as `grpcs://host:port`; None for servers that speak HTTP only."""
    text: str | None = field(default=None, repr=False, compare=False, kw_only=True)
    """The token as it was parsed, which may carry keys unknown here; None for one made from its parts."""

    @classmethod
    def parse(cls, text: str, *, source: str = "the argument") -> Self:
        """Decode a token; white space and quotes around it, missing padding and the URL-safe alphabet are accepted.

        `source` says in the error where the text came from. Raises InvalidTokenError, which never shows the text.
        """
        encoded = "".join(text.split()).strip("\"'")
        if not encoded:
            raise _invalid("it is empty", source)
        if len(encoded) > MAX_TOKEN_BYTES:
            raise _invalid(f"it has {len(encoded):,} characters, the limit is {MAX_TOKEN_BYTES:,}", source)
        data = _decode(encoded)
        if data is None:
            raise _invalid("it is not base64", source)
        fields = _load(data)
        if fields is None:
            raise _invalid("it does not decode to a JSON object", source)
        for name in ("api_key", "api_url", "api_address", "grpc_url"):
            if not isinstance(fields.get(name, ""), str | None):
                raise _invalid(f"its {name} is not a string", source)
        url, address = fields.get("api_url"), fields.get("api_address")
        if not fields.get("api_key"):
            raise _invalid("it has no api_key", source)
        if not url and not address:
            raise _invalid("it has neither api_url nor api_address", source)
        return cls(
            api_key=str(fields["api_key"]),
            api_url=str(url or address),
            api_address=str(address or url),
            grpc_url=str(fields["grpc_url"]) if fields.get("grpc_url") else None,
            text=Secret(encoded),
        )

    @classmethod
    def mint(
        cls, *, api_url: str, grpc_url: str | None = None, api_address: str | None = None, api_key: str | None = None
    ) -> Self:
        """Make a token; without `api_key`, one with a new random key of 256 bits."""
        return cls(
            api_key=secrets.token_hex(32) if api_key is None else api_key,
            api_url=api_url,
            api_address=api_url if api_address is None else api_address,
            grpc_url=grpc_url,
        )

    def encode(self) -> str:
        """Return the whole token, as a user pastes it: a parsed one unchanged. A secret."""
        if self.text is not None:
            return self.text
        fields = {"api_address": self.api_address or self.api_url, "api_url": self.api_url}
        if self.grpc_url is not None:
            fields["grpc_url"] = self.grpc_url
        fields["api_key"] = self.api_key
        return Secret(base64.b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode())


# The two below return None instead of raising: the exceptions of base64, UTF-8 and JSON carry the token's text, and an
# error raised while one of them is handled would carry it too, as its context.


def _decode(encoded: str) -> bytes | None:
    standard = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        return None


def _load(data: bytes) -> dict[str, object] | None:
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
