"""Damaged points: a clear error for the series they belong to, everything else readable."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from neptune_api import exceptions
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import append, assign, create, snapshot, update
from neptune_api.server.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.conformance.connections import Wire
    from neptune_api.server import LocalServer

OLD, YOUNG = 30, 10


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


@pytest.fixture
def run(lab: Lab, server: LocalServer) -> str:
    """A run with the series old (in chunks), both (in chunks and tails), young (in tails), and texts."""
    lab.apply_one(create())
    lab.apply_one(update(*(snapshot({"old": 1.0, "both": float(number)}, number) for number in range(OLD))))
    lab.apply(*(append({"text": f"t{number}"}, number) for number in range(5)), assign({"lr": 0.5}))
    server._running._store.compact()
    return "run"


def damage(server: LocalServer, table: sa.Table, condition: sa.ColumnElement[bool], place: int = -1) -> None:
    """Change one byte of payloads."""
    with server._running._database.write() as connection:
        key = table.c.id
        for row in connection.execute(sa.select(key, table.c.payload).where(condition)).all():
            changed = bytearray(row.payload)
            changed[place] ^= 1
            connection.execute(table.update().where(key == row.id).values(payload=bytes(changed)))


def chunks_of(lab: Lab, path: str) -> sa.ColumnElement[bool]:
    attributes, runs, projects = schema.attributes, schema.runs, schema.projects
    query = sa.select(attributes.c.id).join_from(attributes, runs).join(projects)
    name = lab.project.partition("/")[2]
    return schema.chunks.c.attribute_id.in_(query.where(attributes.c.name == path, projects.c.name == name))


def tails_of(lab: Lab) -> sa.ColumnElement[bool]:
    runs, projects = schema.runs, schema.projects
    query = sa.select(runs.c.id).join_from(runs, projects).where(projects.c.name == lab.project.partition("/")[2])
    return schema.tails.c.run_id.in_(query)


def refused(error: pytest.ExceptionInfo[Any], *words: str) -> None:
    text = error.value.details()
    assert all(word in text for word in (*words, "other series can be read", "neptune-api doctor")), text
    assert error.value.error_info.reason == "DATA_DAMAGED"


def test_a_damaged_chunk_of_floats(lab: Lab, server: LocalServer, run: str) -> None:
    damage(server, schema.chunks, chunks_of(lab, "old"))
    with pytest.raises(exceptions.DataLossException) as error:
        lab.floats(run, "old")
    refused(error, "Points of the series old of run run are damaged")
    assert [point.value for point in lab.floats(run, "both")] == [float(number) for number in range(OLD)]
    assert lab.user_values(run)["lr"] == 0.5
    # It takes new points, and so do the others.
    assert lab.apply(append({"both": 1.0}, 100), append({"old": 2.0}, 100)) == [{"OK": 1}] * 2
    assert lab.floats(run, "both")[-1].step == 100


def test_a_damaged_chunk_of_texts(lab: Lab, server: LocalServer, run: str) -> None:
    damage(server, schema.chunks, chunks_of(lab, "text"))
    with pytest.raises(exceptions.DataLossException) as error:
        lab.points(run, "text")
    refused(error, "Points of the series text of run run are damaged")
    assert len(lab.floats(run, "old")) == OLD


def test_points_as_columns(lab: Lab, server: LocalServer, run: str) -> None:
    damage(server, schema.chunks, chunks_of(lab, "old"))
    with pytest.raises(exceptions.DataLossException) as error:
        lab.read(run, "both", "old")
    refused(error, "Points of the series old of run run are damaged")
    (points,) = lab.read(run, "both")
    assert list(points.values) == [float(number) for number in range(OLD)]


def test_a_damaged_tail(lab: Lab, server: LocalServer, run: str) -> None:
    with applied_to_tails(lab, server, run):
        damage(server, schema.tails, tails_of(lab))
        for path in ("young", "both"):
            for read in (lab.floats, lab.read):
                with pytest.raises(exceptions.DataLossException) as error:
                    read(run, path)
                refused(error, f"Points of the series {path} of run run are damaged (tail")
        # All of its points are in chunks: it has lost none.
        assert [point.value for point in lab.floats(run, "old")] == [1.0] * OLD
        assert len(lab.read(run, "old")[0].values) == OLD
        assert len(lab.points(run, "text")) == 5


def test_a_damaged_tail_among_others(lab: Lab, server: LocalServer, run: str) -> None:
    with applied_to_tails(lab, server, run):
        condition = tails_of(lab)
        with server._running._database.read() as connection:
            first = connection.scalar(sa.select(sa.func.min(schema.tails.c.id)).where(condition))
        damage(server, schema.tails, schema.tails.c.id == first)
        with pytest.raises(exceptions.DataLossException):
            lab.floats(run, "young")
        assert [point.step for point in lab.floats(run, "last")] == [500]


def test_writing_goes_on_beside_a_damaged_tail(lab: Lab, server: LocalServer, run: str) -> None:
    with applied_to_tails(lab, server, run):
        damage(server, schema.tails, tails_of(lab))
    server._running._store.compact()
    assert lab.apply(append({"new": 1.0}, 600), append({"new": 2.0}, 601)) == [{"OK": 1}] * 2
    assert [point.value for point in lab.floats(run, "new")] == [1.0, 2.0]


@contextlib.contextmanager
def applied_to_tails(lab: Lab, server: LocalServer, run: str) -> Iterator[None]:
    """Add points, and keep the server from moving them into chunks."""
    more = update(*(snapshot({"young": 1.0, "both": 1.0}, 100 + number) for number in range(YOUNG)))
    applier = server._running._store._applier
    with applier._standing_still:
        assert lab.submit(more)
        applier._apply_batch()
        assert lab.submit(append({"last": 1.0}, 500))
        applier._apply_batch()
        yield
