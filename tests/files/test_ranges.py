from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.server.files.ranges import UnsatisfiableError, select


@pytest.mark.parametrize(
    ("header", "selected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-9", range(10)),
        ("bytes=3-", range(3, 10)),
        ("bytes=-4", range(6, 10)),
        ("bytes=-100", range(10)),
        ("bytes=5-100", range(5, 10)),
        ("bytes= 2-3 ", range(2, 4)),
        ("BYTES=2-3", range(2, 4)),
    ],
)
def test_one_range(header: str, selected: range) -> None:
    assert select(header, 10) == selected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=--3",
        "bytes=+1-2",
        "bytes=0-1,3-4",
        "bytes=\u0661-\u0662",
        "lines=0-1",
        f"bytes=0-{'9' * 5000}",
        "bytes=0-1\n",
    ],
)
def test_the_whole_file_answers_what_is_not_one_range(header: str | None) -> None:
    assert select(header, 10) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_without_a_byte_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableError):
        select(header, size)


@given(st.integers(0, 10**20 - 1), st.integers(0, 10**20 - 1), st.integers(1, 10**13))
def test_a_range_lies_in_the_file(first: int, last: int, size: int) -> None:
    content = range(size)
    for header, expected in (
        (f"bytes={first}-{last}", content[first : last + 1] if first <= last else None),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[max(0, size - last) :]),
    ):
        try:
            assert select(header, size) == expected
        except UnsatisfiableError:
            assert not expected
