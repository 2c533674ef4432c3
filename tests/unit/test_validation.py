from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.server.errors import StatusError
from neptune_api.server.validation import Checks, as_uuid, is_name, shown
from neptune_api.v1.roles_pb2 import ProjectRole

if TYPE_CHECKING:
    from collections.abc import Callable


def check(fill: Callable[[Checks], object]) -> None:
    with Checks() as checks:
        fill(checks)


def good(fill: Callable[[Checks], object]) -> bool:
    try:
        check(fill)
    except StatusError:
        return False
    return True


def refusal(fill: Callable[[Checks], object]) -> StatusError:
    with pytest.raises(StatusError) as caught:
        check(fill)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value


def test_first_reason_and_every_violation_are_told() -> None:
    def fill(checks: Checks) -> None:
        checks.add("a", "is bad", reason="FIRST")
        checks.add("b", "is worse", reason="SECOND")

    error = refusal(fill)
    assert error.reason == "FIRST"
    assert error.message == "a: is bad; b: is worse"
    assert error.violations == (("a", "is bad"), ("b", "is worse"))


def test_violations_are_bounded() -> None:
    error = refusal(lambda checks: [checks.add(f"field[{number}]", "is bad") for number in range(1234)])  # type: ignore[func-returns-value] # for its effect
    assert len(error.violations) == 10
    assert error.message.endswith("; and 1,224 more")


def test_another_error_goes_before_violations() -> None:
    def fill(checks: Checks) -> None:
        checks.add("a", "is bad")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check(fill)


@pytest.mark.parametrize(
    ("text", "limit", "fits"),
    [("", 4, True), ("abcd", 4, True), ("abcde", 4, False), ("ää", 4, True), ("ääa", 4, False), ("a\0", 4, False)],
)
def test_text(text: str, limit: int, fits: bool) -> None:
    assert good(lambda checks: checks.text("f", text, limit)) is fits


def test_required_text_must_not_be_empty() -> None:
    assert refusal(lambda checks: checks.text("f", "", 4, required=True)).violations == (("f", "is required"),)


@pytest.mark.parametrize(
    ("number", "required", "known"),
    [(0, False, True), (0, True, False), (3, True, True), (4, False, False), (-1, False, False)],
)
def test_known(number: int, required: bool, known: bool) -> None:
    def fill(checks: Checks) -> None:
        checks.known("f", number, ProjectRole, required=required)

    assert good(fill) is known
    if not known:
        names = "PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER"
        assert refusal(fill).message.endswith(f"say one of {names}")


def test_at_most() -> None:
    assert good(lambda checks: checks.at_most("f", 5, 5))
    error = refusal(lambda checks: checks.at_most("f", 6, 5))
    assert error.message == "f: has 6 elements, the limit is 5; split the request"


@given(st.text())
def test_what_is_shown_is_short_and_on_one_line(text: str) -> None:
    visible = shown(text)
    assert len(visible) <= 80
    assert visible.isprintable()
    if len(text) <= 80 and text.isprintable():
        assert visible == text


@given(st.text(max_size=12), st.integers(1, 20))
def test_check_of_a_name_agrees_with_is_name(text: str, limit: int) -> None:
    assert good(lambda checks: checks.name("f", text, limit)) is is_name(text, limit)


@given(st.uuids())
def test_uuids_are_read_in_both_cases(value: object) -> None:
    text = str(value)
    assert as_uuid(text) == as_uuid(text.upper()) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0" * 32,
        "{00000000-0000-4000-8000-000000000000}",
        "00000000-0000-4000-8000-00000000000\n",
        "\u06600000000-0000-4000-8000-000000000000",
    ],
    ids=ascii,
)
def test_other_texts_are_no_uuids(text: str) -> None:
    assert as_uuid(text) is None


@given(st.text("AB12az-Ä", max_size=12))
def test_project_key(text: str) -> None:
    valid = re.fullmatch("(?=.*[A-Z])[A-Z0-9]{1,10}", text) is not None
    assert good(lambda checks: checks.project_key("f", text)) is valid
