"""Names that files may have, however unlikely."""

from __future__ import annotations

NAMES = [
    "plain.txt",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "~",
    "a//b/./../c",
    "e" * 800 + "/" + "é" * 800,
    "nul\0byte",
    "new\r\nline",
    "C:\\con",
    "per%2Fcent?query=1&more#fragment",
    "日本/🧪 file",
    " ",
]
