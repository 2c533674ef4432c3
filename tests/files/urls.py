"""Other spellings of the same URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def respelled(query: str, choice: random.Random) -> str:
    """Return a query with its parameters in another order, each character encoded or not."""
    parameters = query.split("&")
    choice.shuffle(parameters)
    return "&".join("=".join(recoded(part, choice) for part in item.split("=")) for item in parameters)


def recoded(text: str, choice: random.Random, *, slashes: bool = True) -> str:
    """Return percent-encoded text with other characters encoded: any may be, unreserved ones and slashes need not."""
    plain = bytearray()
    place = 0
    while place < len(text):
        if text[place] == "%":
            plain.append(int(text[place + 1 : place + 3], 16))
            place += 3
        else:
            plain.append(ord(text[place]))
            place += 1
    kept = _UNRESERVED | (frozenset(b"/") if slashes else frozenset())
    return "".join(
        chr(byte) if byte in kept and choice.random() < 0.7 else choice.choice((f"%{byte:02X}", f"%{byte:02x}"))
        for byte in plain
    )
