"""Recordings of streams: recorded here and from another server, replayed, and what is said when they differ."""

from __future__ import annotations

import json
import queue
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.exceptions import FailedPreconditionException, InvalidArgumentException
from neptune_api.models import (
    AppendColumnsRequest,
    AttributesHolder,
    CreateProjectRequest,
    CreateRun,
    ReadColumnsRequest,
    RunOperation,
    Step,
    SubmitResponse,
    TimeSeries,
    UpdateRunSnapshot,
    Value,
)
from neptune_api.server import LocalServer
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import grpc

    from neptune_api.conformance.connections import Wire
    from neptune_api.server.testing import ScriptedServer


def operations(project: str, *steps: int) -> list[RunOperation]:
    """Return what creates a run and logs a point at each step."""
    points = [
        UpdateRunSnapshot(step=Step(whole=step), append={"loss": Value(float64=1 / (1 + step))}) for step in steps
    ]
    return [
        RunOperation(project=project, run_id="r", create=CreateRun()),
        *(RunOperation(project=project, run_id="r", update=point) for point in points),
    ]


def refuse_over_http(wire: Wire) -> None:
    if wire.http:
        pytest.skip("HTTP carries no stream of requests")


def mismatch(replay: Any, call: Any) -> str:
    """Return what a call is told that was not recorded, which ends the block of the replay as well."""
    with pytest.raises(AssertionError) as told, replay, pytest.raises(FailedPreconditionException) as refused:
        call()
    assert str(told.value) == refused.value.details()
    return str(told.value)


@pytest.mark.parametrize("method", ["SubmitStream", "SubmitAcknowledged"])
def test_streams_of_requests(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str, tmp_path: Path, method: str
) -> None:
    refuse_over_http(wire)
    path = tmp_path / "calls.jsonl"
    submit = getattr(wire.connect().stub(IngestServiceStub), method)
    sent = operations(neptune_project, 0, 1, 2)
    with neptune_server.record(path) as recording:
        answer = submit(sent)
    assert recording.calls == 1
    with neptune_server.replay(path) as replay:
        assert submit(sent) == answer
        assert replay.unused == []
        assert submit(sent) == answer
    other = operations(neptune_project, 0, 5, 2)
    told = mismatch(neptune_server.replay(path), lambda: submit(other))
    assert f"no such call of IngestService.{method}" in told
    assert "  [2].update.step.whole: recorded 1, came 5" in told.splitlines()
    assert "  [2].update.append['loss'].float64: recorded 0.5, came 0.16666666666666666" in told.splitlines()
    with neptune_server.replay(path, ignore=["whole", "float64"]):
        assert submit(other) == answer


@pytest.mark.parametrize("method", ["SubmitStream", "SubmitAcknowledged"])
def test_streams_of_other_lengths(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str, tmp_path: Path, method: str
) -> None:
    refuse_over_http(wire)
    path = tmp_path / "calls.jsonl"
    submit = getattr(wire.connect().stub(IngestServiceStub), method)
    with neptune_server.record(path):
        submit(operations(neptune_project, 0, 1))
    shorter = mismatch(neptune_server.replay(path), lambda: submit(operations(neptune_project, 0)))
    assert "  [2]: recorded project: " in shorter
    assert shorter.endswith("came nothing")
    longer = mismatch(neptune_server.replay(path), lambda: submit(operations(neptune_project, 0, 1, 2)))
    assert "  [3]: recorded nothing, came project: " in longer


def test_streams_of_responses(neptune_server: ScriptedServer, wire: Wire, neptune_project: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    connection = wire.connect()
    ingest, series = connection.stub(IngestServiceStub), connection.stub(SeriesServiceStub)
    holder = AttributesHolder(identifier=f"CUSTOM/{neptune_project}/r", type="experiment")
    wanted = ReadColumnsRequest(series=[TimeSeries(attribute=name, holder=holder) for name in ("loss", "none")])
    for operation in operations(neptune_project, 0, 1, 2):
        ingest.Submit(operation)
    with neptune_server.record(path):
        answer = series.ReadColumns(wanted)
    assert len(answer) == 2
    with neptune_server.replay(path):
        assert series.ReadColumns(wanted) == answer
    wanted.series[1].attribute = "some"
    told = mismatch(neptune_server.replay(path), lambda: series.ReadColumns(wanted))
    assert told.splitlines()[1:] == ["  series[1].attribute: recorded 'none', came 'some'"]


def test_another_server_is_recorded_with_its_streams(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    connection = wire.connect()
    holder = AttributesHolder(identifier="CUSTOM/local/far/r", type="experiment")
    wanted = ReadColumnsRequest(series=[TimeSeries(attribute="loss", holder=holder)])
    sent = operations("local/far", 0, 1)
    calls: dict[str, Callable[[], object]] = {
        "SeriesService.ReadColumns": lambda: connection.stub(SeriesServiceStub).ReadColumns(wanted)
    }
    if not wire.http:
        ingest = connection.stub(IngestServiceStub)
        calls["IngestService.SubmitStream"] = lambda: ingest.SubmitStream(sent)
        calls["IngestService.SubmitAcknowledged"] = lambda: ingest.SubmitAcknowledged(sent)
    with LocalServer() as other, other.channel() as channel:
        ProjectsServiceStub(channel).CreateProject(CreateProjectRequest(name="far", organization_identifier="local"))
        with neptune_server.record(path, api_token=other.api_token) as recording:
            answers = {name: call() for name, call in calls.items()}
        assert recording.calls == len(calls)
        assert other.api_token not in path.read_text()
    with neptune_server.replay(path) as replay:
        assert {name: call() for name, call in calls.items()} == answers
        assert replay.unused == []


@pytest.mark.parametrize("method", ["SubmitStream", "SubmitAcknowledged"])
def test_streams_that_failed_fail_again(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str, tmp_path: Path, method: str
) -> None:
    refuse_over_http(wire)
    path = tmp_path / "calls.jsonl"
    submit = getattr(wire.connect().stub(IngestServiceStub), method)
    sent = [*operations(neptune_project, 0), RunOperation(), *operations(neptune_project, 1)]
    with neptune_server.record(path), pytest.raises(InvalidArgumentException) as first:
        submit(sent)
    # What came behind the bad operation nobody has read.
    assert json.loads(path.read_text().splitlines()[1])["unread"]
    with neptune_server.replay(path) as replay:
        with pytest.raises(InvalidArgumentException) as again:
            submit(sent)
        assert replay.unused == []
    assert again.value.details() == first.value.details()
    assert again.value.error_info == first.value.error_info


class Talk:
    """A caller that waits for each answer before it goes on."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._sent: queue.SimpleQueue[RunOperation | None] = queue.SimpleQueue()
        self._answers: Iterator[SubmitResponse] = IngestServiceStub(channel).SubmitAcknowledged(
            iter(self._sent.get, None), timeout=30
        )

    def say(self, operations: Iterable[RunOperation]) -> list[SubmitResponse]:
        answers = []
        for operation in operations:
            self._sent.put(operation)
            answers.append(next(self._answers))
        return answers

    def end(self) -> None:
        """Say no more, and let the thread that sends come to its end."""
        self._sent.put(None)
        with suppress(FailedPreconditionException):
            assert list(self._answers) == []


def test_callers_may_wait_for_each_answer(neptune_server: ScriptedServer, neptune_project: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    sent = operations(neptune_project, 0, 1, 2)
    with neptune_server.channel() as channel:

        def talk(*turns: RunOperation) -> list[SubmitResponse]:
            opened = Talk(channel)
            try:
                return opened.say(turns)
            finally:
                opened.end()

        with neptune_server.record(path):
            long, short = talk(*sent), talk(*sent[:2])
        with neptune_server.replay(path) as replay:
            # Which of the two it is, only the end tells: it is answered as the first.
            assert talk(*sent) == long
            assert replay.unused == ["IngestService.SubmitAcknowledged"]
            assert talk(*sent[:2]) == short
            assert replay.unused == []
        told = mismatch(
            neptune_server.replay(path), lambda: talk(sent[0], *operations(neptune_project, 7)[1:], *sent[2:])
        )
    assert told.splitlines()[1:] == [
        "  [1].update.step.whole: recorded nothing, came 7",
        "  [1].update.append['loss'].float64: recorded 1.0, came 0.125",
    ]


def test_columns_are_recorded_as_they_are_sent(
    neptune_server: ScriptedServer, wire: Wire, neptune_project: str, tmp_path: Path
) -> None:
    """The servicer reads these bytes itself; a recording has the message."""
    path = tmp_path / "calls.jsonl"
    series = wire.connect().stub(SeriesServiceStub)
    # The run has to be there.
    wire.connect().stub(IngestServiceStub).Submit(operations(neptune_project)[0])
    request = AppendColumnsRequest(project=neptune_project, run_id="r", batch_id="b")
    columns = request.series.add(path="loss").columns
    columns.steps.micros.extend([0, 10**6])
    columns.timestamps.millis.extend([1, 2])
    columns.values.values.extend([0.5, 0.25])
    with neptune_server.record(path):
        answer = series.AppendColumns(request)
    assert answer.accepted_points == 2
    with neptune_server.replay(path):
        assert series.AppendColumns(request) == answer
    columns.values.values[1] = 0.75
    told = mismatch(neptune_server.replay(path), lambda: series.AppendColumns(request))
    assert told.splitlines()[1:] == ["  series[0].columns.values.values[1]: recorded 0.25, came 0.75"]
