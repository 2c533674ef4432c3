"""Signed URLs: who holds one may do one thing with one file until it expires.

The query parameters have the names of Amazon's presigned URLs, because clients know those; or of Azure's shared access
signatures, because its client library throws all others away. What is signed is what the parameters and the path mean,
not how they are spelled, so a URL survives having them re-ordered or encoded anew.
"""

from __future__ import annotations

import hmac
import json
import re
import time
import urllib.parse
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from neptune_api.server.limits import MAX_SIGNED_URL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_SECONDS: Final = 3600

# Azure's: when the URL expires, and the signature.
_EXPIRY: Final = "se"
_AZURE_SIGNATURE: Final = "sig"
_EXPIRY_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_EXPIRY_TEXT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")

_DATE: Final = "X-Amz-Date"
_EXPIRES: Final = "X-Amz-Expires"
_SIGNATURE: Final = "X-Amz-Signature"
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_DATE_TEXT: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SECONDS_TEXT: Final = re.compile(r"[0-9]{1,6}")
# Parameters of a URL that somebody has lengthened are not worth reading.
_MAX_PARAMETERS: Final = 16


class ForgedError(Exception):
    """Report that a URL is not signed, or signed for something else."""


class ExpiredError(Exception):
    """Report that a URL is no longer valid, or says nothing readable about how long it is.

    `is_azure` tells whose parameters it has.
    """

    def __init__(self, *, is_azure: bool) -> None:
        super().__init__()
        self.is_azure = is_azure


class Signer:
    """Sign URLs and check them.

    `key` is a secret of 32 bytes or more; URLs are valid for `seconds`.
    """

    def __init__(self, key: bytes, *, seconds: int = DEFAULT_SECONDS, clock: Callable[[], float] = time.time) -> None:
        if not 0 < seconds <= MAX_SIGNED_URL_SECONDS:
            raise ValueError(f"URLs are valid for 1 to {MAX_SIGNED_URL_SECONDS:,} seconds, not {seconds:,}")
        self._key = key
        self._seconds = str(seconds)
        self._clock = clock

    def sign(self, method: str, project: str, path: str, *, for_azure: bool = False) -> str:
        """Return the query of a URL that permits `method` on a file of a project."""
        if for_azure:
            end = datetime.fromtimestamp(self._clock() + int(self._seconds), timezone.utc).strftime(_EXPIRY_FORMAT)
            return urllib.parse.urlencode({_EXPIRY: end, _AZURE_SIGNATURE: self._signature(method, project, path, end)})
        date = datetime.fromtimestamp(self._clock(), timezone.utc).strftime(_DATE_FORMAT)
        signature = self._signature(method, project, path, date, self._seconds)
        return urllib.parse.urlencode({_DATE: date, _EXPIRES: self._seconds, _SIGNATURE: signature})

    def check(self, method: str, project: str, path: str, query: str) -> None:
        """Check the query of a URL. Raises ExpiredError, also for an unreadable time, and ForgedError.

        The time is looked at first: it tells a client with an old URL to ask for a new one, and a forger nothing.
        """
        try:
            pairs = urllib.parse.parse_qsl(
                query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
            )
        except ValueError:
            raise ForgedError from None
        found = dict(pairs)
        is_azure = found.keys() == {_EXPIRY, _AZURE_SIGNATURE}
        if len(found) != len(pairs) or not (is_azure or found.keys() == {_DATE, _EXPIRES, _SIGNATURE}):
            raise ForgedError
        times = [found[_EXPIRY]] if is_azure else [found[_DATE], found[_EXPIRES]]
        if (_azure_end(*times) if is_azure else _amazon_end(*times)) <= self._clock():
            raise ExpiredError(is_azure=is_azure)
        expected = self._signature(method, project, path, *times)
        given = found[_AZURE_SIGNATURE if is_azure else _SIGNATURE]
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise ForgedError

    def _signature(self, *meaning: str) -> str:
        # JSON, because no two lists have the same text.
        return hmac.digest(self._key, json.dumps(meaning).encode(), "sha256").hex()


def _amazon_end(date: str, seconds: str) -> float:
    """Return when a URL expires; raise ExpiredError for what is no time."""
    if not _DATE_TEXT.fullmatch(date) or not _SECONDS_TEXT.fullmatch(seconds) or int(seconds) > MAX_SIGNED_URL_SECONDS:
        raise ExpiredError(is_azure=False)
    try:
        signed = datetime.strptime(date, _DATE_FORMAT).replace(tzinfo=timezone.utc)
    except ValueError:
        raise ExpiredError(is_azure=False) from None
    return signed.timestamp() + int(seconds)


def _azure_end(end: str) -> float:
    """Return when a URL expires; raise ExpiredError for what is no time."""
    if not _EXPIRY_TEXT.fullmatch(end):
        raise ExpiredError(is_azure=True)
    try:
        return datetime.strptime(end, _EXPIRY_FORMAT).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise ExpiredError(is_azure=True) from None
