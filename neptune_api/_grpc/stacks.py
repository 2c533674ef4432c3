"""How large the stacks of new threads are, where the C library lets it be told: glibc's does."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# More than pthread_attr_t has anywhere.
_ATTRIBUTES_BYTES: Final = 256


def default_size() -> int | None:
    """Return the size in bytes; None where nobody can tell."""
    with _attributes() as (libc, attributes):
        size = ctypes.c_size_t()
        if libc is None or libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)):
            return None
        return size.value


def set_default_size(size: int) -> None:
    """Let threads that are started from now on have stacks of a size in bytes, where that is possible."""
    with _attributes() as (libc, attributes):
        if libc is not None and not libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(size)):
            libc.pthread_setattr_default_np(attributes)


@contextmanager
def _attributes() -> Iterator[tuple[Any, Any]]:
    """Give the C library and the attributes that new threads have; None for one that does not tell them."""
    libc: Any = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    if not hasattr(libc, "pthread_setattr_default_np") or libc.pthread_getattr_default_np(attributes):
        yield None, None
        return
    try:
        yield libc, attributes
    finally:
        libc.pthread_attr_destroy(attributes)
