"""Arrays of numbers with numpy, and without it: the only module of the client side that asks whether it is there.

An array is numpy's, or a memoryview. `items` are format characters that numpy and `array` share: q int64, d float64,
f float32.
"""

from __future__ import annotations

import sys
from array import array
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

HAS_NUMPY: Final = find_spec("numpy") is not None
if TYPE_CHECKING or HAS_NUMPY:
    import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

MICROS_PER_STEP: Final = 1_000_000
# Format characters that mean the same as one of ours, here or in native mode.
_SAME: Final = {"q": {"q", "l", "@q", "@l"}, "d": {"d", "@d"}, "f": {"f", "@f"}}


def as_array(numbers: Any, items: str) -> Any:
    """Return numbers as an array of these items; raises TypeError or ValueError for those that are none."""
    if HAS_NUMPY:
        found = np.asarray(numbers)
        if items == "q" and found.dtype.kind not in "iu" and found.size:
            raise TypeError(f"Steps in millionths and times are whole numbers, not {found.dtype}.")
        if found.ndim != 1:
            raise ValueError(f"A column has one dimension, not {found.ndim}.")
        return np.ascontiguousarray(found, dtype=np.dtype(items))
    try:
        view = memoryview(numbers)
    except TypeError:
        return memoryview(array(items, numbers))
    if view.ndim == 1 and view.format in _SAME[items] and view.itemsize == array(items).itemsize:
        return view if view.c_contiguous else memoryview(array(items, view.tobytes()))
    return memoryview(array(items, view.tolist()))


def as_micros(steps: Any) -> Any:
    """Return steps, whole or not, in millionths."""
    if HAS_NUMPY:
        found = np.asarray(steps)
        if found.dtype.kind in "iu":
            return found.astype(np.int64) * MICROS_PER_STEP
        # Nearest: 0.1 * 1e6 is a little off.
        return np.rint(found * 1e6).astype(np.int64)
    return memoryview(array("q", (round(step * MICROS_PER_STEP) for step in steps)))


def constant(number: float, size: int, items: str = "q") -> Any:
    """Return the same number many times."""
    if HAS_NUMPY:
        return np.full(size, number, np.dtype(items))
    return memoryview(array(items, [number]) * size)


def from_iterable(numbers: Iterable[float], size: int, items: str) -> Any:
    """Return so many numbers as an array."""
    if HAS_NUMPY:
        return np.fromiter(numbers, np.dtype(items), size)
    return memoryview(array(items, numbers))


def concatenate(parts: list[Any], items: str) -> Any:
    """Return the arrays one after the other."""
    if HAS_NUMPY:
        return np.concatenate(parts)
    return memoryview(array(items, b"".join(part.tobytes() for part in parts)))


def to_bytes(numbers: Any, items: str) -> bytes:
    """Return the items of an array, little-endian."""
    data: bytes = numbers.tobytes()
    return data if sys.byteorder == "little" else _swapped(data, items)


def from_bytes(data: bytes, start: int, items: str) -> Any:
    """Return an array over bytes of little-endian items from a place on."""
    if sys.byteorder != "little":
        data, start = _swapped(data[start:], items), 0
    if HAS_NUMPY:
        return np.frombuffer(data, np.dtype(items), offset=start)
    return memoryview(data)[start:].cast(items)  # type: ignore[call-overload]  # one of three literals


def _swapped(data: bytes, items: str) -> bytes:
    swapped = array(items, data)
    swapped.byteswap()
    return swapped.tobytes()
