"""What searches do that takes a look into the tables, or a change of them, to see."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neptune_api.server import nql
from neptune_api.server.nql.parser import TYPES
from neptune_api.server.store import schema, search
from neptune_api.server.store.search import Order
from neptune_api.server.store.series import FloatSummaries
from tests import operations
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

BY_CREATION = Order("sys/creation_time", TYPES["datetime"], None, descending=False)


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("search"), durable=False) as opened:
        yield opened


def numbers(bench: Bench, query: str, order: Order = BY_CREATION, *, limit: int = 10_000, offset: int = 0) -> list[int]:
    with bench.database.read() as connection:
        found = search.search(
            connection,
            [bench.project_id],
            nql.parse(query),
            order,
            heads_only=False,
            offset=offset,
            limit=limit,
            summaries=FloatSummaries(),
            check=lambda: None,
        )
        return [entry.number for entry in search.entries(connection, found.keys)]


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
    assert ranking.best() == there[:size]
