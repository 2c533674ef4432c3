"""Regular expressions of queries: RE2, which takes time linear in the text whatever the expression."""

from __future__ import annotations

import functools
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import re2  # type: ignore[import-untyped]  # google-re2 ships no types

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Match = Callable[[str | bytes], object]

_CACHED: Final = 256
# Sets search two to four times as fast, because nobody asks them where the match is. But all they have is RE2's
# automaton that remembers states, and where its memory is too small for an expression they find nothing: so only small
# ones.
_MAX_SET_PROGRAM: Final = 2_000
# Texts that are looked through together, and how many characters they may have.
_LINES: Final = 4_096
_MAX_LINES_SIZE: Final = 1024 * 1024
_NEWLINE: Final = ord("\n")
# So many lines with a match, one behind the other, are likely to be followed by more of them.
_IN_A_ROW: Final = 16
# So many lines are searched at least until it shows whether there is more than a match in three of them.
_TRIAL: Final = 256
# What a line among others is not the same to as a text: ends of the text, bytes, also places between those of a
# character, quotations that may have no end, and flags that take multi-line mode back.
_NOT_BY_LINE: Final = re.compile(r"\\[AzBCQ]|\(\?\w*-\w*m", re.ASCII)
# What plain text of an expression is made of: characters that stand for themselves, also behind a backslash.
_PLAIN: Final = re.compile(r"(?:[^\\.+*?()|\[\]{}^$]|\\\W)+")
_QUANTIFIERS: Final = ("*", "?", "{")
# Letters behind a backslash that stand for a class or a place, and that nothing else belongs to.
_CLASSES: Final = frozenset("dDsSwWbBAz")
_REPETITION: Final = re.compile(r"\{\d+(?:,\d*)?\}", re.ASCII)


class RegexError(ValueError):
    """Say why a text is not a regular expression."""


def searcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether the expression is found anywhere in a text.

    Raises RegexError for a pattern that RE2 does not take.
    """
    match = _matcher(pattern)
    return lambda text: match(text) is not None


def found_in(pattern: str, texts: Sequence[str]) -> BoolArray:
    """Return in which of many texts `searcher(pattern)` finds the expression.

    To look through a short text takes much less time than to call for it: so they are looked through together.
    """
    holds = np.zeros(len(texts), np.bool_)
    match, by_line = _matcher(pattern), _line_searchers(pattern)
    for first in range(0, len(texts), _LINES):
        some, place = texts[first : first + _LINES], holds[first : first + _LINES]
        # Counted before they are joined: there may be texts of a mebibyte among them.
        if by_line is None or sum(map(len, some)) > _MAX_LINES_SIZE:
            place[:] = [match(text) is not None for text in some]
        else:
            _find_lines(by_line, match, some, place)
    return holds


def _find_lines(by_line: _LineSearchers, match: Match, texts: Sequence[str], holds: BoolArray) -> None:
    """Tell which of some texts an expression is found in, as lines of one text."""
    lines = "\n".join(texts)
    several: list[int] = []
    if lines.count("\n") >= len(texts):
        several = [place for place, text in enumerate(texts) if "\n" in text]
        lines = "\n".join("" if "\n" in text else text for text in texts)
    data = f"{lines}\n".encode()
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
    done = _search_lines(by_line, data, ends, holds)
    if done < len(texts):
        rest = data[int(ends[done - 1]) + 1 : -1].split(b"\n")
        holds[done:] = [match(line) is not None for line in rest]
    for place in several:
        holds[place] = match(texts[place]) is not None


@functools.lru_cache(_CACHED)
def _matcher(pattern: str) -> Match:
    """Return a function that gives None for texts in which the expression is not found; raises as `searcher`."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(pattern, options)
        if compiled.programsize > _MAX_SET_PROGRAM:
            return cast("Match", compiled.search)
        alone = re2.Set.SearchSet(options)
        alone.Add(pattern)
        alone.Compile()
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise RegexError(f"is not a regular expression (RE2 syntax): {text}.") from None
    return cast("Match", alone.Match)


def _search_lines(by_line: _LineSearchers, data: bytes, ends: npt.NDArray[np.intp], holds: BoolArray) -> int:
    """Tell which lines an expression is found in; return how many are done.

    Those are all, unless so many are found one by one that the others are better asked for themselves: a match costs
    more than a call.
    """
    done = position = matches = searched = 0
    while 3 * matches <= searched + _TRIAL:
        found = islice(by_line.one.finditer(data, position, len(data) - 1), _IN_A_ROW)
        places = np.searchsorted(ends, [each.start() for each in found])
        holds[places] = True
        if len(places) < _IN_A_ROW:
            return len(ends)
        first, behind = int(places[0]), int(places[-1]) + 1
        matches, searched = matches + _IN_A_ROW, searched + behind - done
        done, position = behind, int(ends[behind - 1]) + 1
        if holds[first:behind].all():
            position = by_line.row.match(data, position).end()
            done = int(np.searchsorted(ends, position))
            holds[behind:done] = True
            matches = searched = 0
    return done


class _LineSearchers(NamedTuple):
    """An expression for lines, each of which has an end, compiled."""

    one: Any
    """It is found once in each line that `searcher` finds the expression in."""
    row: Any
    """It matches all lines in a row that `searcher` finds the expression in, down to the first one of others."""


@functools.lru_cache(_CACHED)
def _line_searchers(pattern: str) -> _LineSearchers | None:
    """Return the expression for lines; None for one that means something else among lines."""
    if _NOT_BY_LINE.search(pattern) is not None:
        return None
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    # What matches any character, or others than some, does not match the end of a line either: only a byte does.
    options.never_nl = True
    try:
        one = re2.compile(f"(?m)(?:{pattern}).*$", options)
        options.longest_match = True
        return _LineSearchers(one, re2.compile(f"(?m)(?:.*(?:{pattern}).*$\\C)*", options))
    except re2.error:
        return None


@functools.lru_cache(_CACHED)
def required_text(pattern: str) -> str:
    """Return a text that is part of whatever the expression is found in; empty when none is easy to tell.

    The longest run of plain characters of an expression without flags, outside of its groups.
    """
    longest = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        found = _PLAIN.match(pattern, position)
        if found is not None:
            position = found.end()
            plain = re.sub(r"\\(.)", r"\1", found[0], flags=re.DOTALL)
            if pattern.startswith(_QUANTIFIERS, position):
                # The last character need not be there.
                plain = plain[:-1]
            longest = max(longest, plain, key=len)
        elif character == "[":
            position = _class_end(pattern, position)
        elif character == "(":
            end = _group_end(pattern, position)
            if end is None:
                return ""
            position = end
        elif character == "|":
            return ""
        elif character == "{":
            repetition = _REPETITION.match(pattern, position)
            if repetition is None:
                return ""
            position = repetition.end()
        elif character == "\\":
            width = 2 if pattern[position + 1 : position + 2] in _CLASSES else None
            if width is None:
                return ""
            position += width
        else:
            position += 1
    return longest


def _group_end(pattern: str, position: int) -> int | None:
    """Return where a group ends that begins at a position; None for one that is not easy to see through."""
    depth = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            if pattern.startswith("Q", position + 1):
                return None
            position += 2
        elif character == "[":
            position = _class_end(pattern, position)
        elif character == "(":
            if pattern.startswith("?", position + 1) and not pattern.startswith(("?:", "?P<"), position + 1):
                return None
            depth += 1
            position += 1
        elif character == ")":
            depth -= 1
            position += 1
            if not depth:
                return position
        else:
            position += 1
    return None


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
