"""Many who read while one writes: everybody sees whole answers, and all that was applied before they asked."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from neptune_api.conformance import operations
from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.reading_helpers import definitions, values
from neptune_api.conformance.search_helpers import matching
from neptune_api.server import LocalServer
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.projects_service_pb2 import CreateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.queries_pb2 import AttributeNameFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.conformance.connections import Wire

PATIENCE = 30.0
READERS = 32
ROUNDS = 8
"""In each, a run comes, with a name of its own, and a point comes to a series."""


def test_readers_beside_a_writer_see_all_that_is_applied(wire: Wire, identifier: str) -> None:
    connection = wire.connect()
    attributes = connection.stub(AttributesServiceStub)
    lab = Lab(connection, identifier)
    lab.apply(operations.create("series"))
    applied = 0
    is_over = threading.Event()

    def runs() -> int:
        found = matching(connection, identifier, 'x:int >= 0 AND s:string MATCHES "^[a-z]+-[0-9]$|^[a-z]+-[0-9][0-9]$"')
        assert sorted(found, key=int) == [str(number) for number in range(len(found))]
        return len(found)

    def names() -> int:
        only = AttributeNameFilter(must_match_regexes=["own/.*[0-9]$"])
        found = definitions(attributes, identifier, attribute_name_filter=only)
        assert found == [(f"own/{number:02}", "bool") for number in range(len(found))]
        return len(found)

    def cells() -> int:
        only = AttributeNameFilter(must_match_regexes=["^own/"])
        found = values(attributes, identifier, attribute_name_filter=only)
        return len(found)

    def points() -> int:
        found = lab.floats("series", "m") if applied else []
        assert [(point.step, point.value) for point in found] == [(step, step / 2) for step in range(len(found))]
        return len(found)

    def read(ask: Callable[[], int]) -> int:
        answers = 0
        while not is_over.is_set():
            before = applied
            found = ask()
            # What is being written may be there already.
            assert before <= found <= applied + 1
            answers += 1
        return answers

    with ThreadPoolExecutor(READERS) as pool:
        asked = [pool.submit(read, (runs, names, cells, points)[number % 4]) for number in range(READERS)]
        try:
            for number in range(ROUNDS):
                run = str(number)
                configs: dict[str, operations.Plain] = {"x": number, "s": f"run-{number}", f"own/{number:02}": True}
                lab.apply(
                    operations.create(run),
                    operations.assign(configs, run=run),
                    operations.update(operations.snapshot({"m": number / 2}, number), run="series"),
                )
                applied += 1
        finally:
            is_over.set()
        assert all(reader.result() for reader in asked)


def test_a_request_that_does_not_come_holds_up_no_query() -> None:
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait()
        yield from ()

    with LocalServer() as server, server.channel() as channel, grpc.insecure_channel(server.grpc_target) as stranger:
        begun: Any = stranger.stream_unary("/neptune_api.v1.LeaderboardService/SearchLeaderboardEntries")
        waiting = [begun.future(nothing(), timeout=PATIENCE) for _ in range(8)]
        request = CreateProjectRequest(name="p", organization_identifier=server.workspace)
        ProjectsServiceStub(channel).CreateProject(request)
        connection, name = GrpcConnection(channel, http=False), f"{server.workspace}/p"
        lab = Lab(connection, name)
        for number in range(20):  # while something is written queries take turns
            lab.apply(operations.create(str(number)))
            assert len(matching(connection, name, "")) == number + 1
        assert not any(call.done() for call in waiting)
        silent.set()
        for call in waiting:
            call.cancel()
