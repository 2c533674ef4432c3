"""Turns of queries with those who write."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from neptune_api.server.query_threads import QueryThreads

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 10.0


class Writing:
    """Whether something is being written."""

    is_it = False


@pytest.fixture
def writing() -> Writing:
    return Writing()


@pytest.fixture
def threads(writing: Writing) -> Iterator[QueryThreads]:
    with QueryThreads(lambda: writing.is_it) as opened:
        yield opened


def test_queries_run_side_by_side(threads: QueryThreads) -> None:
    together = threading.Barrier(3)
    running = [threads.submit(threads.in_turn(together.wait), SECONDS) for _ in range(3)]
    assert sorted(each.result(SECONDS) for each in running) == [0, 1, 2]


def test_while_something_is_written_queries_run_one_after_the_other(threads: QueryThreads, writing: Writing) -> None:
    writing.is_it = True
    lock = threading.Lock()

    def query(number: int) -> int:
        assert lock.acquire(blocking=False)
        threading.Event().wait(0.002)
        lock.release()
        return number

    running = [threads.submit(threads.in_turn(query), number) for number in range(12)]
    assert [each.result(SECONDS) for each in running] == list(range(12))


def test_a_failing_query_leaves_the_turn_to_the_next(threads: QueryThreads, writing: Writing) -> None:
    writing.is_it = True
    failing = threads.submit(threads.in_turn(int), "none")
    assert threads.submit(threads.in_turn(int), "1").result(SECONDS) == 1
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(SECONDS)


def test_the_end_waits_for_no_turns(writing: Writing) -> None:
    writing.is_it = True
    threads = QueryThreads(lambda: writing.is_it)
    is_over = threading.Event()
    first = threads.submit(threads.in_turn(is_over.wait), SECONDS)
    second = threads.submit(threads.in_turn(threading.get_ident))
    is_over.set()
    threads.shutdown(cancel_futures=True)
    assert first.result(SECONDS)
    assert second.done()
