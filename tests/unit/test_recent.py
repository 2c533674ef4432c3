"""What is kept because it was used lately, against a plain account of it."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from neptune_api.server.recent import Recent

keys = st.integers(0, 5)
steps = st.lists(
    st.tuples(st.just("put"), keys, st.text(alphabet="ab", max_size=6))
    | st.tuples(st.just("get"), keys)
    | st.tuples(st.just("drop"), keys)
)


@given(steps=steps, most=st.integers(0, 12))
def test_what_was_not_used_for_longest_goes_first(steps: list[tuple[str, int, str]], most: int) -> None:
    recent: Recent[int, str] = Recent(most, len)
    # By key, what was used last at the end.
    account: dict[int, str] = {}
    for what, key, *value in steps:
        if what == "get":
            assert recent.get(key) == account.get(key)
            if key in account:
                account[key] = account.pop(key)
        elif what == "drop":
            recent.drop(key)
            account.pop(key, None)
        else:
            recent.put(key, value[0])
            account.pop(key, None)
            account[key] = value[0]
            while sum(map(len, account.values())) > most and len(account) > 1:
                del account[next(iter(account))]
        assert list(recent) == list(account.values())
        assert recent.size == sum(map(len, account.values()))
        assert len(recent) == len(account)


def test_values_count_one_each_unless_told_otherwise() -> None:
    recent: Recent[str, str] = Recent(2)
    for key in "abc":
        recent.put(key, key * 100)
    assert [recent.get(key) for key in "abc"] == [None, "b" * 100, "c" * 100]


def test_threads_share_it() -> None:
    recent: Recent[int, bytes] = Recent(100, len)

    def use(offset: int) -> None:
        for number in range(3_000):
            recent.put((number * 7 + offset) % 50, bytes(number % 9))
            recent.get(number % 50)
            recent.drop((number + offset) % 50)

    threads = [threading.Thread(target=use, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recent.size == sum(map(len, recent)) <= 100
