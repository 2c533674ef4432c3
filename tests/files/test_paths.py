from __future__ import annotations

import posixpath
import re
import string
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.server.files.paths import digest, object_key, quote, unquote

PROJECT = "01234567-89ab-cdef-0123-456789abcdef"
PATHS = st.one_of(
    st.text(min_size=1),
    st.lists(st.sampled_from(["", ".", "..", "~", "~~", "~.", "a", "é", " ", "%2F", "?x=1", "\\", "\0"])).map("/".join),
)


@given(PATHS)
def test_a_path_is_what_its_url_ends_in(path: str) -> None:
    assert unquote(urllib.parse.unquote(quote(path), errors="strict")) == path


@given(PATHS)
def test_nothing_that_tidies_urls_changes_one(path: str) -> None:
    quoted = quote(path)
    assert re.fullmatch(r"[A-Za-z0-9/%._~-]*", quoted)
    # Dots and empty segments are what clients and proxies resolve; requests decodes unreserved characters before.
    assert posixpath.normpath(f"/files/{urllib.parse.unquote(quoted)}") == f"/files/{urllib.parse.unquote(quoted)}"


@given(PATHS, PATHS)
def test_two_paths_have_two_urls(one: str, other: str) -> None:
    assert (quote(one) == quote(other)) == (one == other)
    assert (digest(one) == digest(other)) == (one == other)


@pytest.mark.parametrize(
    ("path", "tail"),
    [
        ("run/loss curve.png", "loss_curve.png"),
        ("..", "file"),
        ("a/..", "file"),
        ("", "file"),
        ("a/", "file"),
        (".hidden", "hidden"),
        ("x/日本", "_"),
        ("e" * 300 + ".txt", "e" * 96 + ".txt"),
    ],
)
def test_keys_of_objects_end_in_something_that_people_recognise(path: str, tail: str) -> None:
    assert object_key(PROJECT, path) == f"{PROJECT}/{digest(path)}/{tail}"


@given(PATHS)
def test_keys_of_objects_are_short_and_plain(path: str) -> None:
    key = object_key(PROJECT, path)
    assert len(key) <= 36 + 1 + 64 + 1 + 100
    assert set(key) <= set(string.ascii_letters + string.digits + "/._-")
    assert not {"", ".", ".."} & set(key.split("/"))
