"""Regular expressions of queries: RE2, which takes time linear in the text whatever the expression."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import re2  # type: ignore[import-untyped]  # google-re2 ships no types

if TYPE_CHECKING:
    from collections.abc import Callable

_CACHED: Final = 256


class RegexError(ValueError):
    """Say why a text is not a regular expression."""


@functools.lru_cache(_CACHED)
def searcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether the expression is found anywhere in a text.

    Raises RegexError for a pattern that RE2 does not take.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        search: Callable[[str], Any] = re2.compile(pattern, options).search
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise RegexError(f"is not a regular expression (RE2 syntax): {text}.") from None
    return lambda text: search(text) is not None
