"""The size of the stacks of new threads, as the C library says it and as threads have it."""

from __future__ import annotations

import ctypes
import threading

import pytest

from neptune_api._grpc import stacks

MEBIBYTE = 1 << 20


def stack_of_a_new_thread() -> int:
    """Return the size of its stack in bytes."""
    libc = ctypes.CDLL(None)
    size = ctypes.c_size_t()

    def look() -> None:
        attributes = ctypes.create_string_buffer(256)
        assert libc.pthread_getattr_np(ctypes.c_ulong(threading.get_ident()), attributes) == 0
        assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)) == 0
        libc.pthread_attr_destroy(attributes)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return size.value


@pytest.mark.skipif(stacks.default_size() is None, reason="the C library does not tell the size of stacks")
def test_new_threads_have_stacks_of_the_size_that_is_set() -> None:
    before = stacks.default_size()
    assert before is not None
    try:
        # No thread before has had one of this size, which could be used again.
        stacks.set_default_size(before + 5 * MEBIBYTE)
        assert stacks.default_size() == before + 5 * MEBIBYTE
        assert stack_of_a_new_thread() >= before + 5 * MEBIBYTE
    finally:
        stacks.set_default_size(before)
    assert stacks.default_size() == before


@pytest.mark.skipif(stacks.default_size() is None, reason="the C library does not tell the size of stacks")
def test_a_size_that_makes_no_sense_changes_nothing() -> None:
    before = stacks.default_size()
    stacks.set_default_size(1)
    assert stacks.default_size() == before
