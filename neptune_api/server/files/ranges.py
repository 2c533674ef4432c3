"""Range requests for one range of bytes, RFC 9110 section 14."""

from __future__ import annotations

import re
from typing import Final

_ONE_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_MAX_DIGITS: Final = 20


class UnsatisfiableError(Exception):
    """Report that a range lies outside of the file."""


def select(header: str | None, size: int) -> range | None:
    """Return the bytes of a file that a Range header asks for; None when the whole file is the answer.

    That is so without a header, for an invalid one and for several ranges: the RFC lets a server ignore them, and a
    client sees by the status what it got. Raises UnsatisfiableError when no byte is in the range.
    """
    found = _ONE_RANGE.fullmatch(header or "")
    if found is None:
        return None
    first, last = found.groups()
    if max(len(first), len(last)) > _MAX_DIGITS or not first + last:
        return None
    if not first:
        wanted = range(max(0, size - int(last)), size)
    elif last and int(last) < int(first):
        return None
    else:
        wanted = range(int(first), min(int(last) + 1, size) if last else size)
    if not wanted:
        raise UnsatisfiableError
    return wanted
