"""What shows while the applier stands still, or when it is given what no door lets in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from google.rpc import code_pb2

from neptune_api.conformance.behaviours.test_forks import fork_values, ramp, steps
from neptune_api.conformance.behaviours.test_ingest import one
from neptune_api.conformance.behaviours.test_ingest_codes import assert_status
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import append, assign, create
from neptune_api.conformance.outcomes import counts_of_status, name_of
from neptune_api.server.store import schema
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.conformance.connections import Wire
    from tests.own_servers import OwnServer


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


@contextlib.contextmanager
def nothing_applied(server: OwnServer) -> Iterator[None]:
    """Keep the server from applying what it accepts."""
    with server._running._store._applier._standing_still:
        yield


def test_a_family_written_in_one_go(lab: Lab, server: OwnServer) -> None:
    operations = [
        create("a"),
        ramp("a", 0, 4),
        create("b", parent="a"),
        ramp("b", 4, 6),
        create("c", parent="b"),
        append({"m": 1.0}, run="c"),
        create("b", parent="a"),
    ]
    with nothing_applied(server):  # so that one batch has it all
        ids = [lab.submit(operation) for operation in operations]
    assert lab.results(ids) == [{"OK": 1}, {"OK": 4}, {"OK": 1}, {"OK": 2}, {"OK": 1}, {"OK": 1}, {"RUN_DUPLICATE": 1}]
    assert steps(lab, "c") == [0, 1, 2, 3, 4, 5, 6]
    assert fork_values(lab, "c")["step"] == 5


def test_heads_move_within_one_batch(lab: Lab, server: OwnServer) -> None:
    with nothing_applied(server):
        ids = [lab.submit(create(f"run {number}", experiment="e")) for number in range(4)]
    assert lab.results(ids) == [{"OK": 1}] * 4
    assert [lab.values(f"run {number}")["sys/experiment/is_head"] for number in range(4)] == [False] * 3 + [True]


def test_pending_then_done(lab: Lab, server: OwnServer) -> None:
    with nothing_applied(server):
        ids = [lab.submit(create()), lab.submit(assign({"": 1, "a": 1}))]
        for status in [*lab.statuses(ids), lab.ingest.GetRequestStatus(one(lab, ids[0]))]:
            assert [(item.code, item.count, item.detail) for item in status.code_by_count] == [
                (code_pb2.UNAVAILABLE, 1, pb.INGEST_CODE_OK)
            ]
        assert lab.details(*ids) == []
    assert lab.results(ids) == [{"OK": 1}, {"OK": 1, "FIELD_PATH_EMPTY": 1}]
    assert counts_of_status(lab.ingest.GetRequestStatus(one(lab, ids[1]))) == {"OK": 1, "FIELD_PATH_EMPTY": 1}


def test_what_the_server_cannot_apply(lab: Lab, server: OwnServer, project: object) -> None:
    running = server._running
    lab.apply_one(create())
    with running._database.read() as connection:
        of_name = sa.select(schema.projects.c.id).where(schema.projects.c.name == lab.project.partition("/")[2])
        project_id = connection.scalars(of_name).one()
    # No client can send this: the door turns broken messages away.
    request_id = running._store.submit(b"\xff\xff", user_id=running._owner_id, project_id=project_id)
    (status,) = lab.settled([request_id])
    assert_status(status, "INTERNAL", refused=1, accepted=0)
    (detail,) = lab.details(request_id)
    assert (detail.path, name_of(detail.ingest_code)) == ("", "INTERNAL")
    assert detail.error_detail == status.shared_error_message == "The server failed to apply this; its log says why."
    assert lab.apply_one(assign({"a": 1})) == {"OK": 1}
