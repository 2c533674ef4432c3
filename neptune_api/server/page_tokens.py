"""Page tokens: opaque to callers, checked when they come back."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from neptune_api.server.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence


def encode(listing: str, *place: int | str) -> str:
    """Return the token that names a place in a kind of listing."""
    text = json.dumps([listing, *place], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(field: str, token: str, listing: str, kinds: Sequence[type[int] | type[str]]) -> list[Any]:
    """Return the place a token names: values of these types, integers of 64 bits and not negative.

    Raises INVALID_ARGUMENT about `field` for a text that is not a token of this kind of listing.
    """
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # refuses lone surrogates, which databases cannot take
    except (ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, list)
        or [type(part) for part in found] != [str, *kinds]
        or found[0] != listing
        or any(isinstance(part, int) and not 0 <= part < 2**63 for part in found)
    ):
        raise invalid(field, "is not a token of this listing: send back the token of the page before, unchanged.")
    return found[1:]
