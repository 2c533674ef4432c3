"""Regular expressions of queries: RE2, which takes time linear in the text whatever the expression."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

import re2  # type: ignore[import-untyped]  # google-re2 ships no types

if TYPE_CHECKING:
    from collections.abc import Callable

_CACHED: Final = 256
# Sets search two to four times as fast, because nobody asks them where the match is. But all they have is RE2's
# automaton that remembers states, and where its memory is too small for an expression they find nothing: so only small
# ones.
_MAX_SET_PROGRAM: Final = 2_000
# What plain text of an expression is made of: characters that stand for themselves, also behind a backslash.
_PLAIN: Final = re.compile(r"(?:[^\\.+*?()|\[\]{}^$]|\\\W)+")
_QUANTIFIERS: Final = ("*", "?", "{")
_REPETITION: Final = re.compile(r"\{\d+(?:,\d*)?\}", re.ASCII)


class RegexError(ValueError):
    """Say why a text is not a regular expression."""


@functools.lru_cache(_CACHED)
def searcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether the expression is found anywhere in a text.

    Raises RegexError for a pattern that RE2 does not take.
    """
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(pattern, options)
        if compiled.programsize > _MAX_SET_PROGRAM:
            search: Callable[[str], Any] = compiled.search
            return lambda text: search(text) is not None
        alone = re2.Set.SearchSet(options)
        alone.Add(pattern)
        alone.Compile()
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise RegexError(f"is not a regular expression (RE2 syntax): {text}.") from None
    matches: Callable[[str], Any] = alone.Match
    return lambda text: matches(text) is not None


@functools.lru_cache(_CACHED)
def required_text(pattern: str) -> str:
    """Return a text that is part of whatever the expression is found in; empty when none is easy to tell.

    The longest run of plain characters of an expression without alternatives, groups and flags.
    """
    if "|" in pattern or "(" in pattern or "\\Q" in pattern:
        return ""
    longest = ""
    position = 0
    while position < len(pattern):
        if pattern[position] == "[":
            position = _class_end(pattern, position)
            continue
        found = _PLAIN.match(pattern, position)
        if found is None:
            repetition = _REPETITION.match(pattern, position)
            # Classes such as \d or \pL and characters such as \x41 are not looked into: what follows may be part of it.
            if pattern[position] in "\\{" and repetition is None:
                return longest
            position = position + 1 if repetition is None else repetition.end()
            continue
        position = found.end()
        plain = re.sub(r"\\(.)", r"\1", found[0], flags=re.DOTALL)
        if pattern.startswith(_QUANTIFIERS, position):
            # The last character need not be there.
            plain = plain[:-1]
        longest = max(longest, plain, key=len)
    return longest


def _class_end(pattern: str, position: int) -> int:
    """Return where a character class ends that begins at a position."""
    position += 1
    if pattern.startswith("^", position):
        position += 1
    if pattern.startswith("]", position):
        position += 1
    while position < len(pattern) and pattern[position] != "]":
        if pattern.startswith("[:", position):
            end = pattern.find(":]", position + 2)
            position = end + 2 if end >= 0 else position + 1
        else:
            position += 2 if pattern[position] == "\\" else 1
    return position + 1
