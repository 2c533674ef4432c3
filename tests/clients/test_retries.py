"""Clients that read get over faults that pass, with whole data frames; those that stay come out as exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from neptune_api.conformance import operations
from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.logging_helpers import log
from neptune_api.credentials import ApiToken
from neptune_api.server.testing.scripted import ScriptedServer
from tests.clients.conftest import Written, create_project, reader_of
from tests.clients.gateway import gateway
from tests.clients.reading import FETCHER, QUERY, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neptune_api.server.testing.faults import Fault
    from tests.clients.reading import Reader

# By what a client calls: expressions that make it call that. `{folder}` is one to download to.
QUERY_CALLS = {
    "LeaderboardService.SearchLeaderboardEntries": "nq.list_experiments()",
    "AttributesService.QueryAttributeDefinitions": "nq.list_attributes(experiments='e')",
    "AttributesService.QueryAttributeValues": "nq.runs.fetch_runs_table(attributes='^(lr|m)$')",
    "LeaderboardService.SearchGlobalLeaderboardEntries": "nq.experimental.fetch_runs_table_global(attributes=['lr'])",
    "SeriesService.GetFloatSeriesValues": "nq.runs.fetch_metrics(runs=['r', 's'], attributes=['m'])",
    "SeriesService.GetSeriesValues": "nq.fetch_series(experiments='e', attributes='log')",
    "SeriesService.GetTimeseriesBuckets": "nq.fetch_metric_buckets(experiments='e', y='m', limit=3)",
    "StorageService.CreateSignedUrls": "nq.runs.download_files("
    "files=nq.runs.fetch_runs_table(runs='r', attributes=['file'])['file'], destination='{folder}')",
}
RUN = "ReadOnlyRun(ReadOnlyProject(), custom_id='r')"
FETCHER_CALLS = {
    "ConfigService.GetClientConfig": "ReadOnlyProject().fetch_experiments()",
    "ProjectsService.GetProject": "ReadOnlyProject().fetch_runs()",
    "LeaderboardService.SearchLeaderboardEntries": "alpha.runs.list_runs()",
    "AttributesService.QueryAttributeDefinitions": "alpha.list_attributes(experiments='e')",
    "AttributesService.QueryAttributeValues": "alpha.runs.fetch_runs_table(attributes='^(lr|m)$')",
    "AttributesService.GetAttributeDefinitions": f"list({RUN}.field_names)",
    "AttributesService.GetAttributes": f"{RUN}['lr'].fetch()",
    "SeriesService.GetFloatSeriesValues": f"{RUN}['m'].fetch_values(include_timestamp=False)",
    "SeriesService.GetSeriesValues": "alpha.fetch_series(experiments='e', attributes='log')",
}
CLIENTS = {"query": (QUERY, QUERY_CALLS), "fetcher": (FETCHER, FETCHER_CALLS)}
# Statuses that pass, as servers and the proxies before them answer: 429, 500, 503, 504; and connections that break.
PASSING: dict[str, Callable[[ScriptedServer, str], Fault]] = {
    "busy": lambda server, method: server.faults.throttle(0.01, method=method),
    "internal": lambda server, method: server.faults.fail(grpc.StatusCode.INTERNAL, method=method),
    "unavailable": lambda server, method: server.faults.fail(grpc.StatusCode.UNAVAILABLE, method=method),
    "late": lambda server, method: server.faults.fail(grpc.StatusCode.DEADLINE_EXCEEDED, method=method),
    "cut before": lambda server, method: server.faults.drop(method=method),
    "cut after": lambda server, method: server.faults.drop(applied=True, method=method),
}


HASTE = {"NEPTUNE_HTTP_REQUEST_TIMEOUT_SECONDS": "5"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    """A server that this file directs."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="module")
def logged(scripted: ScriptedServer) -> Iterator[Written]:
    """A project of two runs, and one of nothing."""
    connection = GrpcConnection(scripted.channel(), http=False)
    found = Written(create_project(scripted, connection), create_project(scripted, connection))
    points = {step: step / 8 for step in range(100)}
    configs = {"lr": 0.5, "file": operations.file("nowhere", 1)}
    log(connection, found.project, "r", configs=configs, series={"m": points, "log": {0: "a", 1: "b"}}, experiment="e")
    log(connection, found.project, "s", configs={"lr": 0.25}, series={"m": {5: 1.0}}, experiment="f")
    yield found
    connection.close()


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def reader(
    client: str, scripted: ScriptedServer, logged: Written, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    """The client."""
    # The time that requests may take is read once.
    yield from reader_of(CLIENTS[client][0], scripted, logged, tmp_path_factory.mktemp(client), **HASTE)


@pytest.fixture(scope="module")
def calls(client: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Expressions of the client by what they call."""
    folder = tmp_path_factory.mktemp("files")
    return {method: text.format(folder=folder) for method, text in CLIENTS[client][1].items()}


def test_faults_that_pass_change_nothing(scripted: ScriptedServer, reader: Reader, calls: dict[str, str]) -> None:
    """Each call meets two faults, one after the other, before it gets its answer."""
    faults = list(PASSING.values())
    for position, (method, expression) in enumerate(calls.items()):
        undisturbed = reader(expression)
        armed = [faults[(position + more) % len(faults)](scripted, method) for more in (0, 3)]
        assert reader(expression) == undisturbed, method
        assert [fault.hits for fault in armed] == [1, 1], method


def test_a_fault_that_stays_says_why(scripted: ScriptedServer, reader: Reader, calls: dict[str, str]) -> None:
    call = calls["LeaderboardService.SearchLeaderboardEntries"]
    undisturbed = reader(call)
    impatient = {f"NEPTUNE_{name}_RETRY_SOFT_TIMEOUT": "1" for name in ("QUERY", "FETCHER")}
    method = "SearchLeaderboardEntries"
    for code, sentence, reason, raised in (
        (grpc.StatusCode.UNAVAILABLE, "Closed until noon.", None, "NeptuneRetryError"),
        (grpc.StatusCode.INTERNAL, "It broke, incident 7.", None, "NeptuneRetryError"),
        (grpc.StatusCode.INVALID_ARGUMENT, "No such thing.", None, "NeptuneUnexpectedResponseError"),
        (grpc.StatusCode.UNAUTHENTICATED, "The token is no longer valid.", None, "NeptuneUnexpectedResponseError"),
        (grpc.StatusCode.UNIMPLEMENTED, "Not in this version.", None, "NeptuneUnexpectedResponseError"),
        (grpc.StatusCode.PERMISSION_DENIED, "", "ACCESS_DENIED", "NeptuneProjectInaccessible"),
    ):
        with (
            scripted.faults.fail(code, sentence, method=method, times=None, reason=reason),
            pytest.raises(ClientError) as caught,
        ):
            reader(call, **impatient)
        assert caught.value.name == raised
        assert sentence in str(caught.value)
    assert reader(call) == undisturbed


def test_a_slow_answer_is_asked_for_again(scripted: ScriptedServer, reader: Reader, calls: dict[str, str]) -> None:
    expression = calls["SeriesService.GetFloatSeriesValues"]
    undisturbed = reader(expression)
    with scripted.faults.delay(60, method="GetFloatSeriesValues") as armed:
        assert reader(expression) == undisturbed
    assert armed.hits == 1


def test_a_token_that_is_refused(scripted: ScriptedServer, reader: Reader, client: str) -> None:
    wrong = ApiToken.mint(api_url=scripted.http_url).encode()
    listing = {
        "query": "(nq.set_api_token({token!r}), nq.list_experiments())",
        "fetcher": "alpha.list_experiments(context=alpha.get_context().with_api_token({token!r}))",
    }
    with pytest.raises(ClientError) as caught:
        reader(listing[client].format(token=str(wrong)))
    if client == "query":
        # What is set holds for all that the client does afterwards.
        reader(f"(nq.set_api_token({str(scripted.api_token)!r}), None)[1]")
    assert caught.value.name == "NeptuneInvalidCredentialsError"
    assert wrong not in str(caught.value)


def test_a_gateway_that_finds_nobody(
    scripted: ScriptedServer,
    logged: Written,
    client: str,
    reader: Reader,
    calls: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its answer to the first request at each path is 502 with a page of its own, for the exchange of tokens, too."""
    undisturbed = {expression: reader(expression) for expression in calls.values()}
    with gateway(scripted.http_url) as between:
        key = ApiToken.parse(scripted.api_token).api_key
        behind = ApiToken.mint(api_url=between.url, api_key=key).encode()
        folder = tmp_path_factory.mktemp("gateway")
        readers = reader_of(CLIENTS[client][0], scripted, logged, folder, NEPTUNE_API_TOKEN=str(behind))
        other = next(readers)
        for expression, expected in undisturbed.items():
            assert other(expression) == expected
        assert next(readers, None) is None
    assert len(between.refused) > len(calls)
    assert set(between.refused.values()) == {1}
