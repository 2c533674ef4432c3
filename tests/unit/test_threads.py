"""The pool whose threads nobody waits for at the end of the program."""

from __future__ import annotations

import asyncio
import threading

import pytest

from neptune_api._threads import DaemonPool

SECONDS = 10.0


def test_functions_run_side_by_side() -> None:
    pool = DaemonPool(3, "test")
    together = threading.Barrier(3)
    running = [pool.submit(together.wait, SECONDS) for _ in range(3)]
    assert sorted(each.result(SECONDS) for each in running) == [0, 1, 2]
    pool.shutdown()


def test_errors_belong_to_who_asks() -> None:
    pool = DaemonPool(1, "test")
    failing = pool.submit(int, "none")
    assert pool.submit(int, "1").result(SECONDS) == 1
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(SECONDS)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)


def test_what_has_not_begun_can_be_cancelled() -> None:
    pool = DaemonPool(1, "test")
    begun, goes_on = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return goes_on.wait(SECONDS)

    first, second = pool.submit(wait), pool.submit(int)
    assert begun.wait(SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    assert not pool.join(0)
    goes_on.set()
    assert first.result(SECONDS)
    assert pool.join(SECONDS)


def test_a_coroutine_waits_without_holding_up_its_loop() -> None:
    pool = DaemonPool(2, "test")
    together = threading.Barrier(2)

    async def wait() -> list[int]:
        loop = asyncio.get_running_loop()
        both = await asyncio.gather(*(pool.run(loop, together.wait, SECONDS) for _ in range(2)))
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.run(loop, int, "none")
        return both

    assert sorted(asyncio.run(wait())) == [0, 1]
    pool.shutdown()


def test_what_no_coroutine_waits_for_is_not_begun_and_its_result_forgotten() -> None:
    pool = DaemonPool(1, "test")
    begun, goes_on, ran = threading.Event(), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        goes_on.wait(SECONDS)
        return "late"

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        first, second, third = pool.run(loop, work), pool.run(loop, ran.set), pool.run(loop, int, "3")
        assert begun.wait(SECONDS)
        first.set_result("soon")
        second.cancel()
        goes_on.set()
        assert (await first, await third) == ("soon", 3)

    asyncio.run(wait())
    assert not ran.is_set()
    pool.shutdown()


def test_the_end_of_a_pool_is_told_to_coroutines() -> None:
    pool = DaemonPool(1, "test")
    begun, goes_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        goes_on.wait(SECONDS)

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        running, waiting = pool.run(loop, work), pool.run(loop, int)
        assert begun.wait(SECONDS)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.run(loop, int)
        goes_on.set()
        await running

    asyncio.run(wait())
    assert pool.join(SECONDS)


def test_a_thread_outlives_the_loop_that_waited() -> None:
    pool = DaemonPool(1, "test")
    goes_on = threading.Event()

    async def leave() -> None:
        pool.run(asyncio.get_running_loop(), goes_on.wait, SECONDS)

    asyncio.run(leave())
    goes_on.set()
    assert pool.submit(int, "1").result(SECONDS) == 1
    pool.shutdown()


def test_when_no_thread_can_be_started_those_that_are_there_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a program, from Python 3.12 on."""
    pool, empty = DaemonPool(2, "test"), DaemonPool(2, "test")
    goes_on = threading.Event()
    first = pool.submit(goes_on.wait, SECONDS)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = pool.submit(int, "2")
    with pytest.raises(RuntimeError, match="can't start"):
        empty.submit(int)
    goes_on.set()
    assert (first.result(SECONDS), second.result(SECONDS)) == (True, 2)
    for each in (pool, empty):
        each.shutdown()
        assert each.join(SECONDS)
