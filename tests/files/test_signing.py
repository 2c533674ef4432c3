from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neptune_api.server.files.signing import DEFAULT_SECONDS, ExpiredError, ForgedError, Signer
from neptune_api.server.limits import MAX_SIGNED_URL_SECONDS
from tests.files.urls import respelled

if TYPE_CHECKING:
    import random

KEY = b"k" * 32
NOW = 1_700_000_000.0
PROJECT = "01234567-89ab-cdef-0123-456789abcdef"
MEANINGS = st.tuples(st.sampled_from(["GET", "PUT"]), st.text(min_size=1), st.text(min_size=1))


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signer(clock: Clock) -> Signer:
    return Signer(KEY, clock=clock)


def refused(signer: Signer, method: str, project: str, path: str, query: str) -> bool:
    try:
        signer.check(method, project, path, query)
    except (ExpiredError, ForgedError):
        return True
    return False


SIGNER = Signer(KEY, clock=lambda: NOW)


@given(MEANINGS, st.booleans())
def test_what_is_signed_is_permitted(meaning: tuple[str, str, str], for_azure: bool) -> None:
    query = SIGNER.sign(*meaning, for_azure=for_azure)
    SIGNER.check(*meaning, query)
    Signer(KEY, clock=lambda: NOW + DEFAULT_SECONDS - 1).check(*meaning, query)


@given(MEANINGS, MEANINGS, st.booleans())
def test_nothing_else_is(meaning: tuple[str, str, str], other: tuple[str, str, str], for_azure: bool) -> None:
    assume(meaning != other)
    assert refused(SIGNER, *other, SIGNER.sign(*meaning, for_azure=for_azure))


@given(st.data(), MEANINGS, st.booleans())
def test_any_change_of_a_character_is_refused(
    data: st.DataObject, meaning: tuple[str, str, str], for_azure: bool
) -> None:
    query = SIGNER.sign(*meaning, for_azure=for_azure)
    place = data.draw(st.integers(0, len(query) - 1))
    kind = data.draw(st.sampled_from(["change", "drop", "insert"]))
    character = data.draw(st.characters(codec="latin-1"))
    changed = query[:place] + (character if kind != "drop" else "") + query[place + (kind != "insert") :]
    same = urllib.parse.parse_qsl(changed, keep_blank_values=True) == urllib.parse.parse_qsl(query)
    assert refused(SIGNER, *meaning, changed) != same


@given(MEANINGS, st.text(), st.text())
def test_parameters_are_neither_added_nor_repeated(meaning: tuple[str, str, str], name: str, value: str) -> None:
    query = SIGNER.sign(*meaning)
    assert refused(SIGNER, *meaning, f"{query}&{urllib.parse.urlencode({name: value})}")
    assert refused(SIGNER, *meaning, f"{query}&{query}")


@given(MEANINGS, st.randoms(use_true_random=False))
def test_order_and_encoding_of_parameters_do_not_matter(meaning: tuple[str, str, str], choice: random.Random) -> None:
    SIGNER.check(*meaning, respelled(SIGNER.sign(*meaning), choice))


@given(MEANINGS, st.binary(min_size=32, max_size=32))
def test_another_key_signs_nothing(meaning: tuple[str, str, str], key: bytes) -> None:
    assume(key != KEY)
    assert refused(SIGNER, *meaning, Signer(key, clock=lambda: NOW).sign(*meaning))


def test_the_same_key_permits_after_a_restart(signer: Signer, clock: Clock) -> None:
    Signer(KEY, clock=clock).check("GET", PROJECT, "a", signer.sign("GET", PROJECT, "a"))


@pytest.mark.parametrize("for_azure", [False, True])
def test_a_url_expires(signer: Signer, clock: Clock, for_azure: bool) -> None:
    query = signer.sign("GET", PROJECT, "a", for_azure=for_azure)
    clock.now += DEFAULT_SECONDS - 1
    signer.check("GET", PROJECT, "a", query)
    clock.now += 1
    with pytest.raises(ExpiredError) as caught:
        signer.check("GET", PROJECT, "a", query)
    assert caught.value.is_azure == for_azure


@pytest.mark.parametrize("end", ["", "2026", "2030-13-01T00:00:00Z", "2030-01-01T00:00:00+00:00", "9" * 20])
def test_what_is_no_time_has_expired(signer: Signer, end: str) -> None:
    parameters = dict(urllib.parse.parse_qsl(signer.sign("GET", PROJECT, "a", for_azure=True)))
    with pytest.raises(ExpiredError):
        signer.check("GET", PROJECT, "a", urllib.parse.urlencode({**parameters, "se": end}))


def test_an_expired_url_is_expired_before_it_is_anything_else(signer: Signer, clock: Clock) -> None:
    query = signer.sign("GET", PROJECT, "a")
    clock.now += DEFAULT_SECONDS
    with pytest.raises(ExpiredError):
        signer.check("PUT", PROJECT, "b", query)


@pytest.mark.parametrize(
    "changes",
    [
        {"X-Amz-Expires": "1700000000"},
        {"X-Amz-Expires": "20260101T000000Z"},
        {"X-Amz-Expires": "0"},
        {"X-Amz-Expires": "-1"},
        {"X-Amz-Expires": ""},
        {"X-Amz-Expires": str(MAX_SIGNED_URL_SECONDS + 1)},
        {"X-Amz-Date": "20000101T000000Z"},
        {"X-Amz-Date": "20001301T000000Z"},
        {"X-Amz-Date": "yesterday"},
    ],
)
def test_a_time_that_was_rewritten_counts_as_expired(signer: Signer, changes: dict[str, str]) -> None:
    """As published tests of clients rewrite it, to see whether an old URL is told from a wrong one."""
    parameters = dict(urllib.parse.parse_qsl(signer.sign("GET", PROJECT, "a")))
    with pytest.raises(ExpiredError):
        signer.check("GET", PROJECT, "a", urllib.parse.urlencode({**parameters, **changes}))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "&",
        "X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600",
        "X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600&X-Amz-Signature=",
        "X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600&X-Amz-Signature=%ff",
        "X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600&X-Amz-Signature=%C3%A9",
        "&".join(f"p{number}=1" for number in range(1000)),
    ],
)
def test_what_is_not_signed_is_forged(signer: Signer, query: str) -> None:
    with pytest.raises(ForgedError):
        signer.check("GET", PROJECT, "a", query)


@pytest.mark.parametrize("seconds", [0, -1, MAX_SIGNED_URL_SECONDS + 1])
def test_urls_are_valid_for_some_time_and_not_for_ever(seconds: int) -> None:
    with pytest.raises(ValueError, match="valid for 1 to 604,800 seconds"):
        Signer(KEY, seconds=seconds)
