"""Submitting operations as they come: all ids at the end, or an acknowledgement for each."""

from __future__ import annotations

import queue
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import exceptions
from neptune_api.conformance.connections import AioConnection, GrpcConnection, check_refusal
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import append, assign, create, update
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.people import Person

MIB = 1024 * 1024
BAD = [
    pytest.param(pb.RunOperation(run_id="run", create=pb.CreateRun()), "project", id="no-project"),
    pytest.param(create(run=""), "run_id", id="no-run"),
    pytest.param(pb.RunOperation(project="local/lab", run_id="run"), "operation", id="no-operation"),
]


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


def logged(lab: Lab, count: int) -> list[pb.RunOperation]:
    """Return the creation of a run and points of it."""
    return [lab.placed(create()), *(lab.placed(append({"m": float(number)}, number)) for number in range(count))]


def applied(lab: Lab) -> list[float]:
    """Return the points that are there once all that was accepted so far is applied."""
    lab.apply_one(create("the last one in the log"))
    return [point.value for point in lab.floats("run", "m")]


# All ids at the end


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_a_stream_returns_all_ids_in_order(lab: Lab, count: int) -> None:
    response = lab.ingest.SubmitStream(logged(lab, count - 1))
    assert len(response.request_ids) == len(set(response.request_ids)) == count
    assert response.request_id == response.request_ids[-1]
    assert lab.results(response.request_ids) == [{"OK": 1}] * count
    assert [point.value for point in lab.floats("run", "m")] == [float(number) for number in range(count - 1)]


def test_a_stream_of_large_operations(lab: Lab) -> None:
    operations = [lab.placed(create())]
    operations += [lab.placed(assign({f"a{i}": "x" * MIB, f"b{i}": "x" * MIB})) for i in range(5)]
    response = lab.ingest.SubmitStream(operations)
    assert lab.results(response.request_ids) == [{"OK": 1}] + [{"OK": 2}] * 5


def test_an_empty_stream_is_a_mistake(lab: Lab) -> None:
    with pytest.raises(exceptions.InvalidArgumentException, match="the stream is empty; send at least one operation"):
        lab.ingest.SubmitStream([])


@pytest.mark.parametrize("before", [0, 1, 70])
@pytest.mark.parametrize(("operation", "field"), BAD)
def test_operations_before_a_bad_one_stay_accepted(
    lab: Lab, before: int, operation: pb.RunOperation, field: str
) -> None:
    good = logged(lab, before)
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        lab.ingest.SubmitStream([*good, operation, lab.placed(append({"m": -1.0}, 1000))])
    assert_position(caught.value, before + 1, field)
    assert applied(lab) == [float(number) for number in range(before)]


def assert_position(error: exceptions.NeptuneApiError, position: int, field: str) -> None:
    assert f"Operation {position} of the stream: " in (error.details() or "")
    assert error.error_info is not None
    assert dict(error.error_info.metadata)["position"] == str(position)
    assert [violation.field for violation in error.violations] == [field]


def test_an_operation_over_16_mib_ends_a_stream(lab: Lab) -> None:
    large = lab.placed(update())
    large.api_key = b"x" * (16 * MIB)
    with pytest.raises(exceptions.ResourceExhaustedException, match=r"Operation 2 of the .* limit is 16,777,216"):
        lab.ingest.SubmitStream([*logged(lab, 1), large])
    assert applied(lab) == [0.0]


def test_a_viewer_streams_nothing(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    viewer = Lab(wire.connect(make_user(lab.project, PROJECT_ROLE_VIEWER).api_token), lab.project)
    for method in (viewer.ingest.SubmitStream, viewer.ingest.SubmitAcknowledged):
        with pytest.raises(exceptions.PermissionDeniedException, match=r"Operation 0 of the stream: .*viewer"):
            method(logged(lab, 1))
    assert lab.apply_one(create()) == {"OK": 1}


def test_an_unknown_project_in_a_stream_is_reported_by_the_status(lab: Lab) -> None:
    operations = [create(project="local/unknown"), *logged(lab, 1)]
    for response in (lab.ingest.SubmitStream(operations), merged(lab.ingest.SubmitAcknowledged(operations))):
        assert lab.results(response.request_ids)[0] == {"PROJECT_NOT_FOUND": 1}
    assert applied(lab) == [0.0]


def merged(responses: Sequence[pb.SubmitResponse]) -> pb.SubmitResponse:
    return pb.SubmitResponse(request_ids=[response.request_id for response in responses])


# An acknowledgement for each


def test_each_operation_is_acknowledged_in_order(lab: Lab) -> None:
    responses = lab.ingest.SubmitAcknowledged(logged(lab, 100))
    assert len(responses) == 101
    ids = [response.request_id for response in responses]
    assert [list(response.request_ids) for response in responses] == [[request_id] for request_id in ids]
    assert len(set(ids)) == 101
    assert lab.results(ids) == [{"OK": 1}] * 101
    assert [point.value for point in lab.floats("run", "m")] == [float(number) for number in range(100)]


def test_nothing_is_acknowledged_of_an_empty_stream(lab: Lab) -> None:
    assert lab.ingest.SubmitAcknowledged([]) == []


@pytest.mark.parametrize(("operation", "field"), BAD)
def test_acknowledgements_come_before_the_error(lab: Lab, operation: pb.RunOperation, field: str) -> None:
    operations = [*logged(lab, 5), operation, lab.placed(append({"m": -1.0}, 1000))]
    with Conversation(lab) as talk:
        for sent in operations[:6]:
            talk.send(sent)
            talk.receive()
        talk.send(operations[6])
        with pytest.raises(exceptions.InvalidArgumentException) as caught:
            talk.receive()
    assert_position(caught.value, 6, field)
    assert lab.results(talk.ids) == [{"OK": 1}] * 6
    assert applied(lab) == [float(number) for number in range(5)]


def test_an_operation_is_on_disk_when_it_is_acknowledged(lab: Lab) -> None:
    with Conversation(lab) as talk:
        for number, operation in enumerate(logged(lab, 10)):
            talk.send(operation)
            talk.receive()
            # The stream is still open, and the operation can be asked about and read.
            assert lab.results(talk.ids[-1:]) == [{"OK": 1}]
            assert len(lab.floats("run", "m")) == number
        talk.finish()
        assert talk.receive() is None
    assert len(set(talk.ids)) == 11


def test_what_was_acknowledged_survives_the_end_of_the_caller(lab: Lab) -> None:
    operations = logged(lab, 20)
    with Conversation(lab) as talk:
        for operation in operations[:8]:
            talk.send(operation)
            talk.receive()
        talk.cancel()
        # On asyncio, a call that was cancelled here raises what a cancelled task does.
        with pytest.raises((exceptions.CancelledException, CancelledError)):
            talk.receive()
    assert lab.results(talk.ids) == [{"OK": 1}] * 8
    assert applied(lab) == [float(number) for number in range(7)]
    assert lab.ingest.SubmitStream(operations[8:]).request_ids
    assert applied(lab) == [float(number) for number in range(20)]


class Conversation:
    """A SubmitAcknowledged call whose caller sends and receives by turns, on either kind of channel."""

    def __init__(self, lab: Lab) -> None:
        self.ids: list[str] = []
        connection = lab.connection
        assert isinstance(connection, AioConnection | GrpcConnection)
        if connection.http:
            check_refusal(lambda: lab.ingest.SubmitAcknowledged([]))
        self._talk: _SyncTalk | _AioTalk = (
            _AioTalk(connection) if isinstance(connection, AioConnection) else _SyncTalk(connection)
        )

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_error: object) -> None:
        self._talk.cancel()

    def send(self, operation: pb.RunOperation) -> None:
        self._talk.send(operation)

    def receive(self) -> pb.SubmitResponse | None:
        """Return the next acknowledgement; None when the stream has ended well."""
        response = self._talk.receive()
        if response is not None:
            self.ids.append(response.request_id)
        return response

    def finish(self) -> None:
        self._talk.finish()

    def cancel(self) -> None:
        self._talk.cancel()


class _SyncTalk:
    def __init__(self, connection: GrpcConnection) -> None:
        self._sent: queue.Queue[pb.RunOperation | None] = queue.Queue()
        self._call: Any = IngestServiceStub(connection.channel).SubmitAcknowledged(self._requests())

    def _requests(self) -> Iterator[pb.RunOperation]:
        while (operation := self._sent.get()) is not None:
            yield operation

    def send(self, operation: pb.RunOperation) -> None:
        self._sent.put(operation)

    def receive(self) -> pb.SubmitResponse | None:
        return next(self._call, None)

    def finish(self) -> None:
        self._sent.put(None)

    def cancel(self) -> None:
        self._call.cancel()
        self.finish()


class _AioTalk:
    def __init__(self, connection: AioConnection) -> None:
        self._run = connection._loop.run

        async def call() -> Any:
            return IngestServiceStub(connection.channel).SubmitAcknowledged()

        self._call = self._run(call())

    def send(self, operation: pb.RunOperation) -> None:
        self._run(self._call.write(operation))

    def receive(self) -> pb.SubmitResponse | None:
        response = self._run(self._call.read())
        return response if isinstance(response, pb.SubmitResponse) else None

    def finish(self) -> None:
        self._run(self._call.done_writing())

    def cancel(self) -> None:
        async def cancel() -> None:
            self._call.cancel()

        self._run(cancel())
