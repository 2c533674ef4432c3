"""Attributes of many runs, read column by column: the very bytes that rows of them give."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance import operations
from neptune_api.server import limits
from neptune_api.server.attribute_messages import encode_attributes, encode_by_run
from neptune_api.server.regexes import searcher
from neptune_api.server.store import attribute_columns, value_pages
from neptune_api.server.store.attributes import (
    MOST_VALUES,
    RUNS,
    AttributeFilter,
    Place,
    RunRow,
    TooManyBytesError,
    size_of,
    values_of_runs,
)
from neptune_api.server.store.directory import Directory
from neptune_api.server.store.schema import SHORT_TEXT
from neptune_api.server.store.series import FloatSummaries
from neptune_api.v1.queries_pb2 import AttributeType
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

TAG: Final = b"\x3a"
MANY: Final = 1 << 30
RUN_COUNT: Final = 40
TEXTS: Final = ["", "a", "\0", "ü\n", "x" * SHORT_TEXT, "x" * (SHORT_TEXT + 1)]
# By name: what runs may have there.
VALUES: Final[dict[str, list[Any]]] = {
    "float": [0.0, -0.0, 1.5, float("nan"), float("inf")],
    "int": [0, 1, -1, 2**63 - 1, -(2**63)],
    "text": TEXTS,
    "mixed": [1.0, 1, True, "one", frozenset(), frozenset(TEXTS)],
    "mixed with files": [2.0, "two", operations.file("two")],
    "mixed with series": [3.0, "three", None],
}
NAMES: Final = [*VALUES, "series", "sys/id", "sys/creation_time", "sys/state", "sys/archived", "sys/tags", "nowhere"]


def fill(bench: Bench, *, seed: int) -> None:
    """Make runs, of which some are forks, with attributes that not all of them have, nor with the same type."""
    chance = random.Random(seed)
    for number in range(RUN_COUNT):
        run = f"r{number}"
        fork = {"parent": f"r{chance.randrange(number)}", "at": 1} if number and chance.random() < 0.3 else {}
        sent = [operations.create(run, **fork)]  # type: ignore[arg-type]  # of a dictionary with two types
        configs = {name: chance.choice(values) for name, values in VALUES.items() if chance.random() < 0.7}
        series = [name for name in ("mixed with series",) if name in configs and configs[name] is None]
        series += ["series"] if chance.random() < 0.5 else []
        sent.append(operations.assign({name: value for name, value in configs.items() if name not in series}, run))
        sent += [operations.append({name: float(number)}, number + 2, run=run) for name in series]
        for counts in bench.apply(*sent):
            assert set(counts) == {"OK"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Any]]:
    is_sqlite = request.param == "sqlite"
    store = tmp_path_factory.mktemp("columns") if is_sqlite else request.getfixturevalue("postgres").create_database()
    with Bench(store, durable=False) as bench:
        fill(bench, seed=1)
        directory = Directory(bench.database)
        workspace = directory.ensure_workspace("local")
        bench.project_id = directory.create_project("other", workspace_id=workspace, creator_id=bench.user_id)
        fill(bench, seed=2)
        with bench.database.read() as connection:
            yield bench, [RunRow(*row) for row in connection.execute(RUNS)]


def from_columns(bench: Bench, runs: Collection[RunRow], names: Collection[str], size: int = MANY) -> dict[int, bytes]:
    """Return the attributes of runs as bytes, by their keys."""
    with bench.database.read() as connection:
        parts = list(attribute_columns.read(connection, runs, names, FloatSummaries(), max_bytes=size))
    fields = {key: b"".join(each) for part in parts for key, each in encode_by_run(part, TAG, longest=3)}
    return {key: each for key, each in fields.items() if each}


def from_rows(bench: Bench, runs: Collection[RunRow], which: AttributeFilter) -> tuple[dict[int, bytes], int]:
    """Return the same from rows, and about how many bytes they have."""
    with bench.database.read() as connection:
        found = [
            values
            for some in values_of_runs(connection, runs, which, FloatSummaries(), max_bytes=MANY)
            for values in some
        ]
    size = sum(size_of(rows) for _, rows in found)
    return {run.key: b"".join(encode_attributes(rows, TAG, longest=3)) for run, rows in found}, size


def test_many_attributes_are_read_of_few_runs_at_a_time(world: tuple[Bench, list[RunRow]]) -> None:
    bench, runs = world
    names = [*NAMES, *map(str, range(4_000 - len(NAMES)))]
    with bench.database.read() as connection:
        parts = list(attribute_columns.read(connection, runs, names, FloatSummaries(), max_bytes=MANY))
        which = AttributeFilter(frozenset(names))
        pieces = list(values_of_runs(connection, runs, which, FloatSummaries(), max_bytes=MANY))
    few = MOST_VALUES // len(names)
    assert max(len(part.keys) for part in parts) == max(map(len, pieces)) == few < len(runs) / 2
    assert from_columns(bench, runs, names) == from_rows(bench, runs, which)[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    fewest=st.sampled_from([1, 5]),
    most=st.sampled_from([3, 20, 100_000]),
    series=st.sampled_from([2, 50]),
)
def test_columns_give_what_rows_give(
    world: tuple[Bench, list[RunRow]], data: st.DataObject, fewest: int, most: int, series: int
) -> None:
    bench, runs = world
    some = data.draw(st.lists(st.sampled_from(runs), unique=True))
    names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_columns, "FEWEST_RUNS", fewest)
        patch.setattr(attribute_columns, "MOST_VALUES", most)
        patch.setattr(attribute_columns, "_SERIES_AT_ONCE", series)
        assert from_columns(bench, some, names) == from_rows(bench, some, AttributeFilter(frozenset(names)))[0]


filters = st.builds(
    AttributeFilter,
    st.none() | st.frozensets(st.sampled_from(NAMES), min_size=1),
    st.none() | st.frozensets(st.sampled_from([int(type_) for type_ in AttributeType.values() if type_]), min_size=1),
    st.none() | st.sampled_from([searcher(pattern) for pattern in ("", "^[a-m]", "[0-9]$", "nothing")]),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    which=filters,
    limit=st.integers(1, 5) | st.integers(6, 60),
    fewest=st.sampled_from([1, 5]),
    definitions=st.sampled_from([3, 1_000]),
    size=st.sampled_from([300, 2_000, MANY]),
)
def test_pages_give_what_rows_give(
    world: tuple[Bench, list[RunRow]],
    data: st.DataObject,
    which: AttributeFilter,
    definitions: int,
    limit: int,
    fewest: int,
    size: int,
) -> None:
    bench, runs = world
    some = [run for run in runs if run.project_id == bench.project_id]
    numbers: list[int] | None = None
    if data.draw(st.booleans()):
        some = data.draw(st.lists(st.sampled_from(some), unique=True))
        numbers = [run.number for run in some]
    found: defaultdict[int, bytes] = defaultdict(bytes)
    counts: list[int] = []
    after: Place | None = None
    with pytest.MonkeyPatch.context() as patch, bench.database.read() as connection:
        patch.setattr(attribute_columns, "FEWEST_RUNS", fewest)
        patch.setattr(limits, "MAX_VALUES_PAGE_BYTES", size)
        patch.setattr(value_pages, "_MOST_DEFINITIONS", definitions)
        while not counts or after is not None:
            page = value_pages.page(
                connection, bench.project_id, numbers, which, FloatSummaries(), after=after, limit=limit
            )
            counts.append(sum(part.cells for part in page.parts))
            for key, fields in chain.from_iterable(encode_by_run(part, TAG, longest=3) for part in page.parts):
                assert page.runs[key].key == key
                found[key] += b"".join(fields)
            after = page.end
    expected, _ = from_rows(bench, some, which)
    assert [item for item in found.items() if item[1]] == list(expected.items())
    # What is left out of a page, because it is full or because the next attribute is large, makes another one.
    assert max(counts) <= limit
    assert all(counts[:-1])
    if size == MANY:
        assert set(counts[:-1]) <= {limit}
        assert counts[-1] or not expected


def test_bytes_are_counted_as_those_of_rows(world: tuple[Bench, list[RunRow]], monkeypatch: pytest.MonkeyPatch) -> None:
    bench, runs = world
    monkeypatch.setattr(attribute_columns, "FEWEST_RUNS", 1)
    expected, size = from_rows(bench, runs, AttributeFilter(frozenset(NAMES)))
    assert from_columns(bench, runs, NAMES, size) == expected
    with pytest.raises(TooManyBytesError):
        from_columns(bench, runs, NAMES, size - 1)
