"""A server that goes away in the middle of streams and comes back: nothing is lost, nothing counts twice."""

from __future__ import annotations

import functools
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import pytest

import neptune_api
from neptune_api import columns
from neptune_api.conformance.operations import START_MS, create, snapshot, update
from neptune_api.exceptions import UnavailableException
from neptune_api.options import IDEMPOTENCY_KEY, ChannelOptions, RetryPolicy
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.series_service_pb2 import ReadColumnsRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.cli.processes import serve
from tests.fire.streams import append, assert_stored, batch, batches, losses, wait_until
from tests.fire.wires import KINDS, Wire
from tests.unit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.conformance.connections import BackgroundLoop
    from neptune_api.server.testing import ScriptedServer
    from neptune_api.v1.ingest_pb2 import RunOperation
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendColumnsResponse

KILLS = 3
BATCHES = 15
"""How many each stream has acknowledged before the server is killed again."""
QUICK = RetryPolicy(max_backoff=0.2)


@pytest.mark.slow
def test_streams_outlive_a_server_that_is_killed(tmp_path: Path, loop: BackgroundLoop) -> None:
    stop = threading.Event()
    acknowledged: dict[str, list[AppendColumnsResponse]] = {kind: [] for kind in KINDS}
    options = ChannelOptions(retry=QUICK)

    def endless(run: str) -> Iterator[AppendColumnsRequest]:
        number = 0
        while not stop.is_set():
            yield batch(project, run, number)
            number += 1

    def acknowledged_beyond(before: dict[str, int]) -> bool:
        return all(len(acknowledged[kind]) >= before[kind] + BATCHES for kind in KINDS)

    with serve(tmp_path) as server:  # which keeps its ports
        ready = server.ready
        project = make_project(f"grpc://{ready['grpc_target']}", ready["api_token"], ready["workspace"])
        server.end()
    wires = {kind: Wire(kind, loop) for kind in KINDS}
    connections = {}
    for kind, wire in wires.items():
        target = ready["http_url"] if wire.http else f"grpc://{ready['grpc_target']}"
        connections[kind] = wire.connect(target, api_token=ready["api_token"], options=options)
    with ThreadPoolExecutor(len(KINDS)) as pool:
        done = {
            kind: pool.submit(append, wire, connections[kind], endless(kind), acknowledged[kind], retry=QUICK)
            for kind, wire in wires.items()
        }
        for turn in range(KILLS):
            with serve(tmp_path) as server:
                before = {kind: len(found) for kind, found in acknowledged.items()}
                wait_until(functools.partial(acknowledged_beyond, before))
                assert not any(future.done() for future in done.values())
                server.end(SIGTERM if turn % 2 else SIGKILL)
            (tmp_path / "ready.json").unlink(missing_ok=True)
        with serve(tmp_path):
            stop.set()
            for kind, future in done.items():
                found = future.result(PATIENCE)
                assert [response.batch_id for response in found] == [f"{kind}-{number}" for number in range(len(found))]
                ids = [response.request_id for response in found]
                assert_stored(connections[kind], project, kind, ids, len(ids))
            for wire in wires.values():
                wire.close()


def make_project(target: str, token: str, workspace: str) -> str:
    """Make a project with a run for each kind of channel, and return its identifier."""
    with neptune_api.channel(target, api_token=token) as channel:
        request = CreateProjectRequest(name="killed", organization_identifier=workspace)
        ProjectsServiceStub(channel).CreateProject(request)
        for kind in KINDS:
            IngestServiceStub(channel).Submit(create(kind, project=f"{workspace}/killed"))
    return f"{workspace}/killed"


def operations(project: str, run: str) -> list[RunOperation]:
    """Return what makes a run, and three points of it."""
    return [
        create(run, project=project),
        *(update(snapshot({"loss": step / 2}, step, START_MS + step), run=run, project=project) for step in range(3)),
    ]


GRPC = pytest.mark.parametrize("wire", ["grpc", "grpc-aio"], indirect=True)
"""Which carry streams of requests."""


@GRPC
@pytest.mark.parametrize("method", ["SubmitStream", "SubmitAcknowledged"])
def test_a_stream_of_operations_is_sent_again_by_its_sender(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire, method: str
) -> None:
    connection = wire.connect(neptune_server.grpc_url, api_token=neptune_server.api_token)
    ingest = connection.stub(IngestServiceStub)
    submit = getattr(ingest, method)
    key = [(IDEMPOTENCY_KEY, uuid.uuid4().hex)]
    sent = operations(neptune_project, method)
    neptune_server.faults.drop(applied=True, method=method)
    with pytest.raises(UnavailableException):
        submit(sent, metadata=key)
    assert len(neptune_server.recorder.calls(method)) == 1  # the channel cannot know what to send again
    # Any call that may be repeated: gRPC may try the broken connection once more before it lets go of it.
    assert len(losses(connection, neptune_project, method)) <= 3
    submit(sent, metadata=key)
    wait_until(lambda: len(losses(connection, neptune_project, method)) >= 3)
    assert losses(connection, neptune_project, method) == [(0, 0.0), (1, 0.5), (2, 1.0)]


@GRPC
def test_operations_at_one_position_of_streams_of_one_key_are_one(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire
) -> None:
    ingest = wire.connect(neptune_server.grpc_url, api_token=neptune_server.api_token).stub(IngestServiceStub)
    sent = operations(neptune_project, "run")
    first = ingest.SubmitStream(sent[:2], metadata=[(IDEMPOTENCY_KEY, "one")]).request_ids
    again = [each.request_id for each in ingest.SubmitAcknowledged(sent, metadata=[(IDEMPOTENCY_KEY, "one")])]
    assert again[:2] == list(first)
    assert len(set(again)) == len(sent)
    other = ingest.SubmitStream(sent, metadata=[(IDEMPOTENCY_KEY, "two")]).request_ids
    assert set(other).isdisjoint(again)


def test_a_read_that_breaks_gives_nothing_and_may_be_repeated(
    neptune_server: ScriptedServer, neptune_project: str, wire: Wire
) -> None:
    target = neptune_server.http_url if wire.http else neptune_server.grpc_url
    connection = wire.connect(target, api_token=neptune_server.api_token)
    connection.stub(IngestServiceStub).Submit(create("run", project=neptune_project))
    acknowledged = append(wire, connection, batches(neptune_project, "run", 2))
    assert_stored(connection, neptune_project, "run", [response.request_id for response in acknowledged], 2)
    holder = AttributesHolder(identifier=f"CUSTOM/{neptune_project}/run")
    asked = ReadColumnsRequest(series=[TimeSeries(attribute=path, holder=holder) for path in ("up", "down")])
    neptune_server.recorder.clear()
    neptune_server.faults.truncate(1, method="ReadColumns")
    # A second read is of another snapshot, so the rest of it is not the rest of the first.
    with pytest.raises(UnavailableException):
        connection.stub(SeriesServiceStub).ReadColumns(asked)
    assert len(neptune_server.recorder.calls("ReadColumns")) == 1
    assert [len(found) for found in columns.collect(connection.stub(SeriesServiceStub).ReadColumns(asked))] == [100] * 2
