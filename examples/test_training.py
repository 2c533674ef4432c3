"""A training program that logs its loss, and the tests of it: how a project tests against the Neptune API.

The fixtures come with the package: `pytest examples/test_training.py` is all it takes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc
import pytest

import neptune_api
from neptune_api import models
from neptune_api.exceptions import NeptuneApiError
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from neptune_api.server.testing import ScriptedServer


# The program. It finds server and project in its environment, as it does in production.


def train(run_id: str, epochs: int) -> str:
    """Log the loss of each epoch and return how it went; training goes on when the server will not have the log."""
    project = os.environ["NEPTUNE_PROJECT"]
    with neptune_api.channel() as channel:
        RunsServiceStub(channel).CreateRun(models.CreateRunRequest(project_identifier=project, run_id=run_id))
        ingest = IngestServiceStub(channel)
        for epoch in range(epochs):
            loss = 1 / (1 + epoch)
            point = models.UpdateRunSnapshot(
                step=models.Step(whole=epoch), append={"train/loss": models.Value(float64=loss)}
            )
            try:
                ingest.Submit(models.RunOperation(project=project, run_id=run_id, update=point))
            except NeptuneApiError as error:
                return f"not logged from epoch {epoch} on: {error.details()}"
    return "logged"


# Its tests. A fixture that stands in no signature is there for the environment that it sets.


@pytest.fixture(autouse=True)
def environment(neptune_api_token: str, neptune_project: str) -> str:
    """Have a server and a project in the environment of every test."""
    assert os.environ["NEPTUNE_API_TOKEN"] == neptune_api_token
    return neptune_project


def test_every_epoch_is_logged(neptune_server: ScriptedServer) -> None:
    assert train("good", epochs=3) == "logged"
    losses = [request.update.append["train/loss"].float64 for request in neptune_server.recorder.requests("Submit")]
    assert losses == [1, 1 / 2, 1 / 3]


def test_the_run_is_there(neptune_channel: grpc.Channel, neptune_project: str) -> None:
    train("there", epochs=1)
    listed = RunsServiceStub(neptune_channel).ListRuns(models.ListRunsRequest(project_identifier=neptune_project))
    assert [run.custom_id for run in listed.runs] == ["there"]


def test_a_busy_server_loses_no_point(neptune_server: ScriptedServer) -> None:
    neptune_server.faults.throttle(retry_after=0.01, method="IngestService.Submit", times=2)
    neptune_server.faults.drop(method="IngestService.Submit", after=3)
    assert train("busy", epochs=5) == "logged"
    accepted = {
        call.request.update.step.whole
        for call in neptune_server.recorder.calls("Submit")
        if call.code is grpc.StatusCode.OK
    }
    assert accepted == set(range(5))


def test_training_outlives_the_log(neptune_server: ScriptedServer) -> None:
    neptune_server.faults.fail(
        grpc.StatusCode.PERMISSION_DENIED, "You may not write here.", method="Submit", after=1, times=None
    )
    assert train("denied", epochs=3) == "not logged from epoch 1 on: You may not write here."


def test_a_reply_of_our_own(neptune_server: ScriptedServer) -> None:
    neptune_server.replies.add(
        "IngestService.Submit",
        models.SubmitResponse(request_ids=["canned"]),
        when=lambda operation: operation.update.step.whole == 1,
    )
    assert train("canned", epochs=2) == "logged"
    first, second = neptune_server.recorder.calls("Submit")
    assert first.response.request_ids != ["canned"]
    assert second.response.request_ids == ["canned"]


def test_a_token_expires_in_the_middle(
    neptune_server: ScriptedServer, neptune_channel: grpc.Channel, neptune_project: str
) -> None:
    runs = RunsServiceStub(neptune_channel)
    runs.CreateRun(models.CreateRunRequest(project_identifier=neptune_project, run_id="today"))
    neptune_server.clock.advance(24 * 3600)
    runs.CreateRun(models.CreateRunRequest(project_identifier=neptune_project, run_id="tomorrow"))
    assert len(neptune_server.recorder.calls("AuthService.ExchangeApiToken")) == 2
