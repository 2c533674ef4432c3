"""Paths of files: any text to clients, a safe name to disks and stores, an address that survives the way there."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from typing import Final

FILES_PREFIX: Final = "/api/files/"
"""What the paths of all signed URLs that lead to the server itself begin with."""

_MARK: Final = "~"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_TAIL: Final = 100


def digest(path: str) -> str:
    """Return the name that stands for a path where names are short and few characters allowed: 64 hex digits."""
    return hashlib.sha256(path.encode()).hexdigest()


def object_key(project: str, path: str) -> str:
    """Return the key of a file in an object store; it ends in something that people recognise."""
    tail = _UNSAFE.sub("_", path.rpartition("/")[2]).strip(".")[-_MAX_TAIL:]
    return f"{project}/{digest(path)}/{tail or 'file'}"


def quote(path: str) -> str:
    """Return a path as the end of a URL; `unquote` is its inverse, whatever HTTP clients and proxies do to paths.

    They drop empty segments and resolve dots, encoded ones too. So these, and segments that begin with the mark
    themselves, get a mark in front.
    """
    segments = (
        f"{_MARK}{segment}" if segment in {"", ".", ".."} or segment.startswith(_MARK) else segment
        for segment in path.split("/")
    )
    return urllib.parse.quote("/".join(segments))


def unquote(quoted: str) -> str:
    """Return the path that a URL ends in, percent-encoding undone. Any text is the end of some URL."""
    return "/".join(segment.removeprefix(_MARK) for segment in quoted.split("/"))
