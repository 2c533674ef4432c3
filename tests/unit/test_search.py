"""What searches do that takes a look into the tables, or a change of them, to see."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neptune_api.conformance import operations
from neptune_api.server import nql
from neptune_api.server.nql.parser import TYPES
from neptune_api.server.nql.tree import Criterion, Operator
from neptune_api.server.store import kept_searches, schema, search
from neptune_api.server.store.kept_searches import KeptSearches
from neptune_api.server.store.search import Order
from neptune_api.server.store.series import FloatSummaries
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


BY_CREATION = Order("sys/creation_time", TYPES["datetime"], None, descending=False)


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("search"), durable=False) as opened:
        yield opened


def numbers(
    bench: Bench, query: str | nql.Node, order: Order = BY_CREATION, *, kept: KeptSearches | None = None
) -> list[int]:
    with bench.database.read() as connection:
        found = search.search(
            connection,
            [bench.project_id],
            nql.parse(query) if isinstance(query, str) else query,
            order,
            heads_only=False,
            offset=0,
            limit=10_000,
            summaries=FloatSummaries(),
            now=time.time(),
            check=lambda: None,
            kept=kept,
        )
        return [run.number for run in search.entries(connection, found.keys)]


def test_readers_beside_a_writer_see_all_that_is_applied(bench: Bench) -> None:
    bench.apply(*(operations.create(f"r{number}") for number in range(60)))
    kept = KeptSearches()
    applied = 0
    faults: list[tuple[int, int]] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            before = applied
            found = len(numbers(bench, 'x:float >= 0 AND s:string MATCHES "o"', kept=kept))
            if not before <= found <= applied + 1:
                faults.append((before, found))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for number in range(60):
            bench.apply(operations.assign({"x": float(number), "s": "one"}, run=f"r{number}"))
            applied += 1
            if number % 10 == 0:
                # Long enough for something to be kept.
                is_over.wait(0.1)
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
    assert faults == []


MEMBERS = ["", "a", ",", '"', '","', '",', "]", "\\", "a\0", "\0", "\ufdd0", "0", "1", "\ufdd00", "a,b", 'a"', "\n"]


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_characters_that_databases_have_their_own_ideas_of(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    location = tmp_path if store == "sqlite" else request.getfixturevalue("postgres").create_database()
    chance = random.Random(1)
    texts = [*MEMBERS, *("".join(chance.choices(MEMBERS, k=2)) for _ in range(40))]
    sets = [frozenset(chance.sample(MEMBERS, chance.randrange(4))) for _ in texts]
    with Bench(location, durable=False) as bench:
        bench.apply(*(operations.create(f"r{number}") for number in range(len(texts))))
        for number, (text, members) in enumerate(zip(texts, sets, strict=True)):
            bench.apply(operations.assign({"text": text, "set": members}, run=f"r{number}"))

        def found(type_: str, operator: Operator, value: str) -> list[int]:
            criterion = Criterion("text" if type_ == "string" else "set", TYPES[type_], operator, frozenset([value]))
            return [number - 1 for number in numbers(bench, criterion)]

        for value in MEMBERS:
            assert found("stringSet", Operator.CONTAINS, value) == places(value in members for members in sets), value
            assert found("string", Operator.LESS, value) == places(text < value for text in texts), value
            assert found("string", Operator.AT_LEAST, value) == places(text >= value for text in texts), value
            assert found("string", Operator.EQUAL, value) == places(text == value for text in texts), value
            if value:
                assert found("string", Operator.CONTAINS, value) == places(value in text for text in texts), value


def places(holds: Iterable[bool]) -> list[int]:
    return [place for place, it in enumerate(holds) if it]


def test_what_callers_make_up_takes_bounded_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.apply(*(operations.create(f"r{number}") for number in range(3)))
    monkeypatch.setattr(kept_searches, "_MAX_ASKED", 20)
    monkeypatch.setattr(search, "_MAX_CHARACTERS", 2_000)
    kept = KeptSearches()
    for number in range(50):
        order = Order(f"x{number}", TYPES["float"], None, descending=True)
        assert numbers(bench, f"y{number}:int != 1", order, kept=kept) == [3, 2, 1]
        assert len(kept._asked) <= 20
    long = "x" * 2_001
    for query, order in (
        ("", Order(long, TYPES["float"], None, descending=False)),
        (f"`{long}`:int != 1", BY_CREATION),
        (f'z:string != "{long}"', BY_CREATION),
        (f'NOT z:string MATCHES "{long}"', BY_CREATION),
    ):
        for _ in range(2):
            assert numbers(bench, query, order, kept=kept) == [1, 2, 3]
        assert max(len(name) for _, (name, _, _) in kept._asked._values) < 100
        assert not any(long in str(question) for question in kept._rankings._values)


def test_what_takes_much_room_is_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MAX_TERMS", -1)
    names = [f"r{number}" for number in range(1_001)]
    bench.apply(*(operations.create(name) for name in names))
    bench.apply(*(operations.assign({"s": "x" * 300}, run=name) for name in names))
    kept = KeptSearches()
    for query in (
        's:string MATCHES "^x"',
        "sys/state:experimentState = running",
        " OR ".join(f"x{n} = 1" for n in range(20)),
    ):
        for _ in range(3):
            numbers(bench, query, kept=kept)
    assert kept._columns == {}


def test_runs_become_idle(bench: Bench) -> None:
    bench.apply(*(operations.create(name) for name in "abc"))
    minutes = 60_000
    ages = {1: 0, 2: 9 * minutes, 3: 11 * minutes}
    now = int(time.time() * 1000)
    with bench.store.exclusive() as connection:
        for run_key, age in ages.items():
            its_state = (schema.attributes.c.run_id == run_key, schema.attributes.c.name == "sys/state")
            connection.execute(schema.attributes.update().where(*its_state).values(int_value=now - age))
    by_state = Order("sys/state", TYPES["experimentState"], None, descending=False)
    for deep in (False, True):
        # Among many criteria some are judged in memory.
        more = " AND ".join(f"x{number}:int NOT EXISTS" for number in range(30))
        for state, expected in (("running", [1, 2]), ("idle", [3]), ("active", [1, 2]), ("inactive", [3])):
            query = f"sys/state:experimentState = {state}"
            assert numbers(bench, f"({more}) AND ({query} OR {query})" if deep else query) == expected
    assert numbers(bench, "sys/state:experimentState != running") == [3]
    assert numbers(bench, "", by_state) == [3, 1, 2]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("type_", ["float", "int", "string"])
def test_runs_that_cannot_be_on_a_page_are_dropped(type_: str, descending: bool) -> None:
    chance = random.Random(3)
    size, batch = 30, 16_384
    ranking = search._Ranking(Order("x", TYPES[type_], None, descending), size)
    values: dict[int, Any] = {}
    for start in range(0, 25 * batch, batch):
        keys = range(start, start + batch)
        for key in keys:
            number = chance.randrange(50_000) if chance.random() < 0.999 else None
            values[key] = None if number is None else f"{number:06}" if type_ == "string" else number
        ranking.add(np.array(keys), [values[key] for key in keys])
        # Memory is bounded by the page, not by the number of runs.
        assert ranking._kept <= 2 * size + search._SLACK
    there = sorted((key for key, value in values.items() if value is not None), reverse=descending)
    there.sort(key=lambda key: values[key], reverse=descending)
    assert ranking.total == len(values)
    assert ranking.best().keys.tolist() == there[:size]
