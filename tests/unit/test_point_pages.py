"""Walking along series: whatever the chunks, the forks and the pages, a walk visits the points of a plain list."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance import operations
from neptune_api.server.store import schema
from neptune_api.server.store.attributes import AttributeFilter, values_of_run
from neptune_api.server.store.faults import CorruptChunkError
from neptune_api.server.store.lineage import Scope
from neptune_api.server.store.point_pages import FloatRequest, Walk, ends, float_pages, payload_blocks
from neptune_api.server.store.series import FloatSummaries, chunk_spans, find_series, last_payloads
from neptune_api.v1.queries_pb2 import AttributeType
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server.store.series import AttributeRow, Segment

FLOATS = {AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES}
FILES = {AttributeType.ATTRIBUTE_TYPE_FILE_REF_SERIES}
MICROS = 1_000_000
_NAMES = itertools.count()

# Steps of a run in the pieces in which they are logged, and how many of its parent's steps a fork takes over.
Generation = tuple[list[list[int]], int]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("store")) as opened:
        yield opened


@st.composite
def families(draw: st.DrawFn) -> list[Generation]:
    generations: list[Generation] = []
    start = 0
    for _ in range(draw(st.integers(1, 3))):
        pieces: list[list[int]] = []
        step = start
        for size in draw(st.lists(st.sampled_from([1, 5, 64, 100]), max_size=3)):
            stride = draw(st.integers(1, 3))
            pieces.append(list(range(step, step + size * stride, stride)))
            step = pieces[-1][-1] + stride
        fork = draw(st.integers(start, step + 5))
        generations.append((pieces, fork))
        start = fork + 1
    return generations


def write(bench: Bench, family: list[Generation], *, files: bool = False) -> tuple[str, dict[int, int]]:
    """Log a chain of runs and return the last one with its points: step -> which generation's it is."""
    points: dict[int, int] = {}
    parent: tuple[str, int] | None = None
    name = ""
    for number, (pieces, fork) in enumerate(family):
        name = f"run {next(_NAMES)}"
        created = operations.create(name) if parent is None else operations.create(name, parent=parent[0], at=parent[1])
        assert bench.apply_one(created) == {"OK": 1}
        if parent is not None:
            points = {step: owner for step, owner in points.items() if step <= parent[1]}
        for piece in reversed(pieces) if files else pieces:
            value: Any = operations.file(f"{number}") if files else float(number)
            snapshots = [operations.snapshot({"m": value}, step) for step in piece]
            assert bench.apply_one(operations.update(*snapshots, run=name)) == {"OK": len(piece)}
            points |= dict.fromkeys(piece, number)
        parent = (name, fork)
    return name, points


def key_of(connection: sa.Connection, run: str) -> int:
    key: int | None = connection.scalar(sa.select(schema.runs.c.id).where(schema.runs.c.run_id == run))
    assert key is not None
    return key


def segments_of(
    connection: sa.Connection, run: str, types: set[AttributeType.ValueType], *, with_values: bool = False
) -> list[Segment]:
    key = key_of(connection, run)
    return find_series(connection, [(key, "m")], types, Scope.FULL, with_values=with_values).get((key, "m"), [])


def value_of(connection: sa.Connection, run: str) -> AttributeRow | None:
    """Return the only attribute, as readers of values get it; None when it does not exist."""
    which = AttributeFilter(frozenset({"m"}))
    rows = values_of_run(connection, key_of(connection, run), which, FloatSummaries())
    return rows[0] if rows else None


BOUNDS = st.none() | st.integers(-2, 700)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=families(),
    lower=BOUNDS,
    upper=BOUNDS,
    after=BOUNDS,
    descending=st.booleans(),
    limit=st.sampled_from([1, 3, 64, 70, 1000]),
)
def test_float_walks(
    bench: Bench,
    family: list[Generation],
    lower: int | None,
    upper: int | None,
    after: int | None,
    descending: bool,
    limit: int,
) -> None:
    run, points = write(bench, family)
    inside = [s for s in sorted(points) if (lower is None or s >= lower) and (upper is None or s <= upper)]
    left = inside[::-1] if descending else inside
    if after is not None:
        left = [step for step in left if (step < after if descending else step > after)]
    bounds = {name: end * MICROS for name, end in (("lower", lower), ("upper", upper)) if end is not None}
    place = None if after is None else after * MICROS
    found: list[int] = []
    with bench.database.read() as connection:
        segments = segments_of(connection, run, FLOATS)
        assert bool(segments) == bool(points)
        for _ in range(1 + len(left) // limit):
            request = FloatRequest(segments, Walk(**bounds, descending=descending, after=place))
            (page,) = float_pages(connection, [request], limit)
            assert page.total == len(inside)
            steps = (page.points.steps // MICROS).tolist()
            assert page.points.values.tolist() == [points[step] for step in steps]
            assert len(steps) == min(limit, len(left) - len(found))
            found += steps
            place = int(page.points.steps[-1]) if len(page.points) else place
        assert found == left
        whole = (min(points) * MICROS, max(points) * MICROS) if points else None
        assert ends(connection, [FloatRequest(segments, Walk())]) == whole
        series = segments_of(connection, run, FLOATS, with_values=True)
        (summary,) = FloatSummaries().of(connection, [series])
        row = value_of(connection, run)
    values = np.array([points[step] for step in sorted(points)], np.float64)
    assert summary.count == len(points)
    assert (row is None) == (not points)
    if row is not None:
        assert (summary.last_step, summary.last) == (max(points) * MICROS, values[-1])
        assert summary.average == pytest.approx(values.mean())
        assert summary.variance == pytest.approx(values.var(), abs=1e-12)
        assert (row.last_step, row.last_value, row.finite_count) == (summary.last_step, summary.last, len(points))
        assert (row.minimum, row.maximum) == (values.min(), values.max())
        assert (row.total, row.deviations) == (summary.total, summary.deviations)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(family=families(), lower=BOUNDS, upper=BOUNDS, after=BOUNDS, descending=st.booleans())
def test_walks_along_series_in_any_order(
    bench: Bench, family: list[Generation], lower: int | None, upper: int | None, after: int | None, descending: bool
) -> None:
    run, points = write(bench, family, files=True)
    left = [s for s in sorted(points) if (lower is None or s >= lower) and (upper is None or s <= upper)]
    if after is not None:
        left = [step for step in left if (step < after if descending else step > after)]
    bounds = {name: end * MICROS for name, end in (("lower", lower), ("upper", upper)) if end is not None}
    walk = Walk(**bounds, descending=descending, after=None if after is None else after * MICROS)
    with bench.database.read() as connection:
        segments = segments_of(connection, run, FILES)
        if not segments:
            assert not points
            return
        spans = chunk_spans(connection, {row.id for row, _ in segments})
        blocks = list(payload_blocks(connection, segments, walk, spans))
        found = [step // MICROS for block in blocks for step in block.steps.tolist()]
        assert found == (left[::-1] if descending else left)
        series = segments_of(connection, run, FILES, with_values=True)
        last = operations.value(operations.file(f"{points[max(points)]}")).SerializeToString()
        assert last_payloads(connection, [series]) == [(max(points) * MICROS, last)]
        row = value_of(connection, run)
        assert row is not None
        assert (row.last_step, row.last_payload) == (max(points) * MICROS, last)


def test_a_damaged_chunk_is_reported(bench: Bench) -> None:
    run, _ = write(bench, [([[1, 2, 3]], 0)])
    with bench.database.read() as connection:
        (segment,) = segments_of(connection, run, FLOATS)
    chunks = schema.chunks
    bench.store.compact()
    with bench.store.exclusive() as connection:
        connection.execute(chunks.update().where(chunks.c.attribute_id == segment.row.id).values(checksum=1))
    with bench.database.read() as connection, pytest.raises(CorruptChunkError):
        list(float_pages(connection, [FloatRequest([segment], Walk())], 10))
