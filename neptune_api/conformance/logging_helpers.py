"""Writing to runs through the wire under test, and waiting until it can be read."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from google.rpc import code_pb2

from neptune_api.conformance import operations
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.ingest_service_pb2 import BulkGetRequestStatusRequest
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from neptune_api.conformance.connections import Connection

_DEADLINE_SECONDS = 30.0
_POLL_SECONDS = 0.005
_HOURS = itertools.count(1)


def another_project(connection: Connection, identifier: str) -> str:
    """Create one more project in the workspace of a project and return its identifier."""
    workspace = identifier.partition("/")[0]
    name = f"p-{uuid.uuid4().hex}"
    connection.stub(ProjectsServiceStub).CreateProject(
        CreateProjectRequest(name=name, organization_identifier=workspace)
    )
    return f"{workspace}/{name}"


def submit(connection: Connection, *sent: pb.RunOperation) -> list[str]:
    """Submit operations, wait until they are applied and return the names of the codes that came out."""
    ingest = connection.stub(IngestServiceStub)
    ids = [ingest.Submit(operation).request_id for operation in sent]
    request = BulkGetRequestStatusRequest(
        project_identifier=sent[0].project, request_ids=pb.RequestIdList(ids=[pb.RequestId(value=id_) for id_ in ids])
    )
    end = time.monotonic() + _DEADLINE_SECONDS
    while True:
        statuses = ingest.BulkGetRequestStatus(request).statuses
        outcomes = [item for status in statuses for item in status.code_by_count]
        if not any(item.code == code_pb2.UNAVAILABLE for item in outcomes):
            return [pb.IngestCode.Name(item.detail).removeprefix("INGEST_CODE_") for item in outcomes]
        assert time.monotonic() < end, "operations are not applied"
        threading.Event().wait(_POLL_SECONDS)


def log(
    connection: Connection,
    project: str,
    run: str,
    *,
    configs: Mapping[str, Any] | None = None,
    series: Mapping[str, Any] | None = None,
    tags: Iterable[str] = (),
    create: bool = True,
    **creation: Any,
) -> None:
    """Create a run (see operations.create) and log single values, series (step -> value) and tags to it.

    Times of points are START_MS and the milliseconds after it, in the order of each series; later without `create`.
    """
    start = operations.START_MS + (0 if create else 3_600_000 * next(_HOURS))
    sent = [operations.create(run, project=project, **creation)] if create else []
    snapshots = []
    if configs or tags:
        sets = {"sys/tags": operations.change(add=tags)} if tags else None
        snapshots.append(operations.snapshot(assign=configs, sets=sets))
    for path, points in (series or {}).items():
        for position, (step, value) in enumerate(points.items()):
            snapshots.append(operations.snapshot({path: value}, step, start + position))
    if snapshots:
        sent.append(operations.update(*snapshots, run=run, project=project))
    codes = submit(connection, *sent)
    assert set(codes) <= {"OK", "RUN_FORK_PARENT_NOT_FOUND"}, codes
