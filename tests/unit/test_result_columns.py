"""Results as columns: the same as rows say, in whatever parts they come, over both stores."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from neptune_api.conformance import operations
from neptune_api.server.store import result_columns, schema
from neptune_api.server.store.result_columns import read_columns, read_keys
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# PostgreSQL stores the last ones in another way.
TEXTS = ["a", "", "ä", "x" * 300, "nul\0", "\ufdd0"]


@pytest.fixture(params=["folder", "database"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Connection]:
    location: Path | str = tmp_path / "data"
    if request.param == "database":
        location = request.getfixturevalue("postgres").create_database()
    with Bench(location) as bench:
        for number, text in enumerate(TEXTS):
            name = f"r{number}"
            bench.apply(operations.create(name))
            bench.apply(operations.assign({"s": text, "x": float("nan") if number == 1 else number / 3}, run=name))
        with bench.database.read() as opened:
            yield opened


@pytest.mark.parametrize("at_once", [1, 4, 6, 100])
@pytest.mark.parametrize("is_long", [False, True])
def test_columns_are_those_of_the_rows(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch, at_once: int, *, is_long: bool
) -> None:
    monkeypatch.setattr(result_columns, "_ROWS", at_once)
    x, s = schema.attributes.alias(), schema.attributes.alias()
    query = (
        sa.select(x.c.run_id, x.c.float_value, s.c.short_text, s.c.text_value)
        .join_from(x, s, s.c.run_id == x.c.run_id)
        .where(x.c.name == "x", s.c.name == "s")
        .order_by(x.c.run_id)
    )
    rows = connection.execute(query).all()
    assert [row.text_value for row in rows] == TEXTS
    assert [row.float_value is None for row in rows] == [number == 1 for number in range(6)]
    parts = list(read_columns(connection, query, is_long=is_long))
    assert all(0 < len(keys) <= at_once for keys, *_ in parts)
    assert [row for part in parts for row in zip(*part, strict=True)] == [tuple(row) for row in rows]
    # Whoever has seen enough leaves the connection as it was.
    with closing(read_columns(connection, query, is_long=is_long)) as some:
        next(some)
    assert list(read_columns(connection, query.where(x.c.run_id < 0), is_long=is_long)) == []


def test_keys_are_ascending(connection: sa.Connection) -> None:
    query = sa.select(schema.runs.c.id)
    keys = sorted(connection.scalars(query))
    assert read_keys(connection, query.order_by(schema.runs.c.id.desc())).tolist() == keys
    assert read_keys(connection, query.order_by(schema.runs.c.id).limit(2)).tolist() == keys[:2]
    assert read_keys(connection, query.where(schema.runs.c.id < 0)).tolist() == []


@pytest.mark.parametrize("is_long", [False, True])
def test_what_goes_wrong_on_the_way_is_an_error_of_sqlalchemy(connection: sa.Connection, *, is_long: bool) -> None:
    key = schema.runs.c.id
    # Of the fourth row; SQLite knows no division by zero.
    faulty = (
        1 / (key - 4) if connection.dialect.name == "postgresql" else sa.func.json(sa.case((key == 4, "{"), else_="1"))
    )
    with pytest.raises(sa.exc.DBAPIError):
        list(read_columns(connection, sa.select(key, faulty).order_by(key), is_long=is_long))
