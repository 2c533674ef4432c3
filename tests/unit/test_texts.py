"""Texts are what they were, and in the same order, in every database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.server.store import schema
from neptune_api.server.store.database import Database
from neptune_api.server.store.texts import escape, unescape

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\0\ufdd001")))
ODD = [
    "",
    "\0",
    "a\0b",
    "\ufdd0",
    "\ufdd00",
    "\ufdd01\0",
    "a",
    "A",
    "B",
    "b",
    "_",
    "-",
    "ä",
    "z",
    "é",
    "Z",
    "🙂",
    "日本",
    "a b",
]


@given(TEXTS)
def test_escaping_is_undone_by_unescaping(text: str) -> None:
    assert unescape(escape(text)) == text
    assert "\0" not in escape(text)


@given(TEXTS, TEXTS)
def test_different_texts_stay_different(left: str, right: str) -> None:
    assert (escape(left) == escape(right)) == (left == right)


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_texts_in_a_database(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    place = tmp_path if store == "sqlite" else request.getfixturevalue("postgres").create_database()
    database = Database(place)
    meta = schema.meta.c
    with database.write() as connection:
        connection.execute(schema.meta.insert(), [{"key": f"k{text}", "value": text} for text in ODD])
    with database.read() as connection:
        found = connection.execute(sa.select(schema.meta).where(meta.key.like("k%")).order_by(meta.key)).all()
        assert sorted((row.key, row.value) for row in found) == sorted((f"k{text}", text) for text in ODD)
        plain = [row.value for row in found if "\0" not in row.value and "\ufdd0" not in row.value]
        assert plain == sorted(plain)
        for text in ODD:
            assert connection.scalars(sa.select(meta.value).where(meta.key == f"k{text}")).all() == [text]
            assert connection.scalars(sa.select(meta.value).where(meta.key.in_([f"k{text}"]))).all() == [text]
    database.close()
