"""Deadlines and metadata as HTTP headers, defined once for both sides.

A deadline travels in `grpc-timeout`, in the form that gRPC gives it: at most eight digits and a unit. Metadata travels
in headers of the same names; values of `-bin` keys are in base64.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import TYPE_CHECKING, Final

from neptune_api.http.json_codec import TranscodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT_HEADER: Final = "grpc-timeout"

_UNITS: Final = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1.0, "M": 60.0, "H": 3600.0}
_TIMEOUT: Final = re.compile(r"(\d{1,8})([numSMH])", re.ASCII)
_MOST_DIGITS: Final = 10**8

_KEY: Final = re.compile(r"[0-9a-z_.-]+", re.ASCII)

RESERVED: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        TIMEOUT_HEADER,
    }
)
"""Headers that belong to the transport; no metadata travels in them."""


def encode_timeout(seconds: float) -> str:
    """Return a deadline of so many seconds from now as a header value, rounded up to what eight digits can say."""
    if seconds <= 0:
        return "0n"
    for unit in ("u", "m", "S", "M"):
        amount = math.ceil(seconds / _UNITS[unit]) if seconds != math.inf else _MOST_DIGITS
        if amount < _MOST_DIGITS:
            return f"{amount}{unit}"
    return f"{min(math.ceil(min(seconds, 1e12) / 3600), _MOST_DIGITS - 1)}H"


def decode_timeout(text: str) -> float:
    """Return the seconds that a header value gives. Raises TranscodeError."""
    found = _TIMEOUT.fullmatch(text.strip())
    if found is None:
        raise TranscodeError(
            f"the header {TIMEOUT_HEADER} must be at most eight digits and a unit (n, u, m, S, M or H), such as 1500m"
        )
    return int(found[1]) * _UNITS[found[2]]


def encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    """Return the headers of a call's metadata. Raises TranscodeError for what no header can carry."""
    headers = []
    for key, value in metadata:
        name = key.lower()
        if not _KEY.fullmatch(name) or name in RESERVED:
            raise TranscodeError(f"the metadata key {key[:80]!r} cannot be a header of a call")
        if name.endswith("-bin"):
            raw = value.encode() if isinstance(value, str) else value
            headers.append((name, base64.b64encode(raw).decode().rstrip("=")))
        else:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            # A line break would begin another header.
            if not (text.isascii() and text.isprintable()):
                raise TranscodeError(f"the value of the metadata key {key[:80]!r} must be printable ASCII")
            headers.append((name, text.strip()))
    return headers


def decode_metadata(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str | bytes]]:
    """Return the metadata in headers whose names are in lower case.

    Headers of the transport are left out, as are values of `-bin` keys that are no base64.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name in RESERVED or not _KEY.fullmatch(name):
            continue
        if not name.endswith("-bin"):
            metadata.append((name, value))
            continue
        for part in value.split(","):
            text = part.strip().rstrip("=")
            try:
                metadata.append((name, base64.b64decode(text + "=" * (-len(text) % 4), validate=True)))
            except (binascii.Error, ValueError):
                continue
    return metadata
