"""What has been used lately, kept in memory up to a size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

_K = TypeVar("_K", bound="Hashable")
_V = TypeVar("_V")


def _one(_: Any) -> int:
    return 1


class Recent(Generic[_K, _V]):
    """Keep values by their keys, and drop those that were not used for longest when they get too large together.

    The value that was put last stays, whatever its size. None is no value. Safe for threads.
    """

    def __init__(self, most: int, size: Callable[[_V], int] = _one) -> None:
        """Keep values up to `most` in all; `size` is that of one value, which does not change, else each counts one."""
        self._most = most
        self._size_of = size
        self._size = 0
        self._values: OrderedDict[_K, _V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[_V]:
        with self._lock:
            return iter(list(self._values.values()))

    @property
    def size(self) -> int:
        """Size of all values together."""
        return self._size

    def get(self, key: _K) -> _V | None:
        """Return a value, which counts as its use; None when it is not there."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: _K, value: _V) -> None:
        """Keep a value, in place of another with its key."""
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._size += self._size_of(value)
            while self._size > self._most and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def drop(self, key: _K) -> None:
        """Keep a value no longer, if it is there."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: _K) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._size -= self._size_of(value)
