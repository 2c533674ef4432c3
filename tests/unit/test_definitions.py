"""Listing definitions: through rows and past them, in lots of all sizes, in both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from neptune_api.conformance import operations
from neptune_api.server.name_filters import NameFilter
from neptune_api.server.store import definitions, schema
from neptune_api.v1.queries_pb2 import AttributeType as T
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.server.store.definitions import Definition
    from tests.postgres import PostgresServer

RUNS = 40


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A project in which some names are those of all runs, and others lie between them in thick and thin clusters."""
    location: Path | str = tmp_path_factory.mktemp("definitions")
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        location = server.create_database()
    with Bench(location, durable=False) as opened:
        opened.apply(*(operations.create(f"r{number}") for number in range(RUNS)))
        for number in range(RUNS):
            configs: dict[str, operations.Plain] = {f"shared/{letter}": number for letter in "amz"}
            configs["shared/b"] = number if number % 3 else f"{number}"
            configs["shared/two\nlines"] = 1.0
            if number % 10 == 0:
                configs |= {f"own/{number:02}/{index:03}": True for index in range(number)}
            opened.apply(operations.assign(configs, run=f"r{number}"))
        yield opened


@pytest.fixture(params=[(2, 5, 1, 3), (30, 60, 2, 50), (1_000, 16_000, 100, 4_000)])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of lots."""
    for name, size in zip(("_FIRST_LOT", "_LAST_LOT", "_FIRST_NAMES", "_LAST_NAMES"), request.param, strict=True):
        monkeypatch.setattr(definitions, name, size)


def all_of(connection: sa.Connection, run: int | None = None) -> list[Definition]:
    query = sa.select(schema.attributes.c.name, schema.attributes.c.type)
    if run is not None:
        query = query.where(schema.attributes.c.run_id == run)
    return sorted({(name, type_) for name, type_ in connection.execute(query)})


FILTERS: dict[str, tuple[NameFilter | None, frozenset[int] | None]] = {
    "none": (None, None),
    "type": (None, frozenset({int(T.ATTRIBUTE_TYPE_INT)})),
    "rare": (NameFilter(("/(a|b)$",)), None),
    "frequent": (NameFilter(("[0-9]",), ("5$",)), None),
    "alternatives": (NameFilter(any_of=(NameFilter(("^own",), ("/0",)), NameFilter(("lines",)), NameFilter())), None),
    "both": (NameFilter(("shared",)), frozenset({int(T.ATTRIBUTE_TYPE_STRING), int(T.ATTRIBUTE_TYPE_FLOAT)})),
    "nothing": (NameFilter(("nothing",)), None),
}


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("case", FILTERS)
def test_pages_are_what_is_there_in_order(bench: Bench, case: str) -> None:
    names, types = FILTERS[case]
    with bench.database.read() as connection:
        for run in (None, 31):
            keys = None if run is None else [run]
            expected = [
                item
                for item in all_of(connection, run)
                if (names is None or names.passes(item[0])) and (types is None or item[1] in types)
            ]
            for limit in (20, 1_000):
                found: list[Definition] = []
                after: Definition | None = None
                has_more = True
                while has_more:
                    page, has_more = definitions.page(
                        connection, [bench.project_id], keys, types=types, names=names, after=after, limit=limit
                    )
                    assert len(page) == limit or not has_more
                    found += page
                    after = page[-1] if page else None
                assert found == expected


def test_a_place_may_be_anywhere(bench: Bench) -> None:
    with bench.database.read() as connection:
        expected = all_of(connection)
        for name in ("", "own", "own/30/001", "shared/b", "shared/two\nlines", "sys/id", "zzz"):
            for type_ in (0, int(T.ATTRIBUTE_TYPE_INT), 99):
                place = (name, type_)
                found, _ = definitions.page(connection, [bench.project_id], None, after=place, limit=1_000)
                assert found == [item for item in expected if item > place]


def test_names_lie_as_they_are_stored(bench: Bench) -> None:
    """PostgreSQL has this character as two, of which the second one is a digit; others go before and behind it."""
    names = [f"mark/\ufdd0{end}" for end in ("", "-", "/", "0", "2", "a", "\ufdd0", "\ufdd0-")]
    bench.apply_one(operations.assign(dict.fromkeys(names, 1), run="r0"))
    with bench.database.read() as connection:
        there = all_of(connection)
        for place, (name, type_) in enumerate(there):
            if name in names:
                walked = definitions._walk(connection, bench.project_id, (name, type_), 4)
                assert list(zip(walked.names, map(ord, walked.types), strict=True)) == there[place + 1 :][:4]
