"""Wire twins: what released clients put on the wire is the same bytes here; both packages live in one process.

The official messages are those inside the released neptune-query wheel, installed into an environment of its own.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.reading import COMMON
from tests.environments import ROOT, Environment

if TYPE_CHECKING:
    from collections.abc import Sequence

RELEASED = Environment(
    "neptune-query",
    (
        "neptune-query==1.14.1",
        *COMMON,
        "grpcio==1.81.2",
        "googleapis-common-protos==1.76.0",
    ),
)

INTERNAL = "the official service's batches between its own parts; no client sends or gets one"
NOT_MIRRORED = {
    "neptune.ingest.v1.BatchContext": INTERNAL,
    "neptune.ingest.v1.BatchProjectOperations": INTERNAL,
    "neptune.ingest.v1.BatchResult": INTERNAL,
    "neptune.ingest.v1.CreateRunError": INTERNAL,
    "neptune.ingest.v1.CreateRunResult": INTERNAL,
    "neptune.ingest.v1.IngestRequest": INTERNAL,
    "neptune.ingest.v1.IngestResponse": INTERNAL,
    "neptune.ingest.v1.ResultSummary": INTERNAL,
    "neptune.ingest.v1.ResultSummary.FailedByGRPCCodeCounters": INTERNAL,
    "neptune.ingest.v1.ResultSummary.IngestCodeCounters": INTERNAL,
    "neptune.ingest.v1.UpdateRun": INTERNAL,
    "neptune.ingest.v1.UpdateRunError": INTERNAL,
    "neptune.ingest.v1.UpdateRunResults": INTERNAL,
    "neptune.ingest.v1.pub.BulkStatusCheck": "clients send RequestIdList, its field 1; field 2 goes into the query",
    "neptune.ingest.v1.pub.StatusCheck": "its fields are query parameters of a GET; no client sends it",
}

pytestmark = pytest.mark.slow


def released(arguments: Sequence[str]) -> str:
    """Run Python beside the released package, warnings being errors, and return what it prints."""
    command = [str(RELEASED.python()), "-I", "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(released([str(ROOT / "tests/probe.py"), "twins"]))
    return found


def test_twins_have_the_fields_and_bytes_of_the_official_messages(report: dict[str, Any]) -> None:
    assert report["differences"] == []
    assert len(report["twins"]) > 50


def test_every_official_message_has_a_twin_or_a_reason(report: dict[str, Any]) -> None:
    assert report["others"] == sorted(NOT_MIRRORED)


@pytest.mark.parametrize("first", ["neptune_query", "neptune_api"])
def test_the_released_client_and_this_package_share_a_process(first: str) -> None:
    """Whichever comes first, both parse the same bytes with classes of their own."""
    official = "neptune_query.generated.neptune_api.proto.neptune_pb.ingest.v1.pub"
    client = f"import neptune_query; from {official} import ingest_pb2"
    package = "import neptune_api.aio, neptune_api.api.client; from neptune_api import models"
    order = [client, package] if first == "neptune_query" else [package, client]
    use = (
        "mine = models.RunOperation(project='w/p', run_id='r'); "
        "theirs = ingest_pb2.RunOperation.FromString(mine.SerializeToString()); "
        "print(type(mine) is not type(theirs), theirs.project, theirs.run_id)"
    )
    assert released(["-c", "; ".join([*order, use])]).split() == ["True", "w/p", "r"]
