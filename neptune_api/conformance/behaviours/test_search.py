"""Search and global search: entries, projection, heads, order, pages, access."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import another_project, log
from neptune_api.conformance.reading_helpers import run_of
from neptune_api.conformance.search_helpers import (
    ASCENDING,
    DESCENDING,
    RUN_ID,
    matching,
    names,
    params,
    search,
    search_everywhere,
    sorting,
    texts,
)
from neptune_api.exceptions import InvalidArgumentException, PermissionDeniedException, UnimplementedException
from neptune_api.v1 import leaderboard_service_pb2 as pb
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.projects_service_pb2 import GetProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_VIEWER
from neptune_api.v1.runs_service_pb2 import DeleteRunsRequest, TrashRunsRequest
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


def test_an_entry_says_which_run_it_is(connection: Connection, project: ProjectWithRole, identifier: str) -> None:
    log(connection, identifier, "r", experiment="e")
    found = search(connection, identifier, attributes=())
    (entry,) = found.entries
    run = run_of(connection, identifier, "r")
    details = connection.stub(ProjectsServiceStub).GetProject(GetProjectRequest(project_identifier=identifier))
    assert found.matching_item_count == 1
    assert not found.HasField("total_group_count")
    assert entry.experiment_id == run.id
    assert entry.type == "run"
    assert (entry.project_name, entry.organization_name) == (project.name, project.organization_name)
    assert (entry.project_id, entry.organization_id) == (details.id, details.organization_id)
    assert list(entry.attributes) == []
    assert [item.experiment_id for item in search(connection, project.id).entries] == [run.id]


def test_a_member_of_a_long_set_is_found(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "first", configs={"set": frozenset(["other"])})
    log(connection, identifier, "long", configs={"set": frozenset(["a", "b" * 300])})
    log(connection, identifier, "longer", configs={"set": frozenset(["c", "d" * 3000])})
    assert matching(connection, identifier, '`set`:stringSet CONTAINS "a"') == ["long"]
    assert matching(connection, identifier, f'`set`:stringSet CONTAINS "{"d" * 3000}"') == ["longer"]
    assert matching(connection, identifier, '`set`:stringSet NOT CONTAINS "a"') == ["first", "longer"]


def test_entries_carry_what_is_asked_for_and_there(connection: Connection, identifier: str) -> None:
    values = {"i": 1, "f": 0.5, "b": True, "s": "text", "set": frozenset("xy"), "file": operations.file("p", 3, "m")}
    series = {
        "loss": {1: 1.0, 2: 3.0},
        "log": {1: "a", 2: "b"},
        "h": {1: operations.counts([0, 1], [2])},
        "images": {1: operations.file("q")},
    }
    log(connection, identifier, "r", configs=values, series=series)
    log(connection, identifier, "empty")
    log(connection, identifier, "fork", parent="r", at=1)
    paths = [*values, *series, "sys/id", "missing"]
    full, empty, fork = search(connection, identifier, attributes=paths).entries
    carried = {item.name: item for item in full.attributes}
    assert sorted(carried) == sorted([*values, *series, "sys/id"])
    assert carried["i"].int_properties.value == 1
    assert carried["f"].float_properties.value == 0.5
    assert carried["b"].bool_properties.value is True
    assert carried["s"].string_properties.value == "text"
    assert set(carried["set"].string_set_properties.value) == set("xy")
    assert carried["file"].file_ref_properties.size_bytes == 3
    loss = carried["loss"].float_series_properties
    assert (loss.last_step, loss.last, loss.min, loss.max, loss.average, loss.variance) == (2, 3, 1, 3, 2, 1)
    assert carried["log"].string_series_properties.last == "b"
    assert list(carried["h"].histogram_series_properties.last.values) == [2]
    assert carried["images"].file_ref_series_properties.last.path == "q"
    assert [item.name for item in empty.attributes] == ["sys/id"]
    inherited = {item.name: item for item in fork.attributes}
    assert sorted(inherited) == sorted([*series, "sys/id"])
    assert inherited["loss"].float_series_properties.last == 1
    assert inherited["log"].string_series_properties.last == "a"


def test_texts_can_be_cut(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"s": "grüße"}, series={"log": {1: "abcdef"}})
    for length, expected in ((3, ("grü", "abc")), (100, ("grüße", "abcdef")), (0, ("", ""))):
        (entry,) = search(connection, identifier, attributes=["s", "log"], truncate_string_to=length).entries
        carried = {item.name: item for item in entry.attributes}
        found = carried["s"].string_properties.value, carried["log"].string_series_properties.last
        assert found == expected


def test_heads_are_the_youngest_runs_of_their_experiments(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "old", configs={"x": 1}, experiment="e")
    log(connection, identifier, "new", configs={"x": 2}, experiment="e")
    log(connection, identifier, "other", configs={"x": 1}, experiment="f")
    log(connection, identifier, "none", configs={"x": 1})
    assert matching(connection, identifier, heads=True) == ["new", "other"]
    # Heads are chosen first, then filtered.
    assert matching(connection, identifier, "x:int == 1", heads=True) == ["other"]
    assert matching(connection, identifier, "x:int == 1") == ["old", "other", "none"]
    assert matching(connection, identifier, 'sys/name:string == "e"') == ["old", "new"]
    assert matching(connection, identifier, 'sys/name:string MATCHES "^e$"', heads=True) == ["new"]
    assert matching(connection, identifier, "sys/experiment/is_head:bool = true") == ["new", "other"]
    assert matching(connection, identifier, "x:int != 1 OR x:int == 1", heads=True) == ["new", "other"]


def test_pages_are_full_and_never_overlap(connection: Connection, identifier: str) -> None:
    everything = [f"r{number}" for number in range(7)]
    for name in everything:
        log(connection, identifier, name, configs={"tie": 1})
    for order in (sorting(), sorting("tie", "int"), sorting("missing", "string"), sorting("sys/id", "string")):
        for limit in (1, 2, 3, 7, 10_000):
            for backwards in (False, True):
                order.dir = DESCENDING if backwards else ASCENDING
                pages = [
                    search(connection, identifier, order=order, limit=limit, offset=offset)
                    for offset in range(0, 8, limit)
                ]
                assert {page.matching_item_count for page in pages} == {7}
                assert [len(page.entries) for page in pages[:-1]] == [limit] * (len(pages) - 1)
                found = [name for page in pages for name in names(page)]
                assert found == (everything[::-1] if backwards else everything), order
    nothing = search(connection, identifier, "tie:int = 1", limit=0)
    assert (nothing.matching_item_count, list(nothing.entries)) == (7, [])
    beyond = search(connection, identifier, offset=2_000_000_000)
    assert (beyond.matching_item_count, list(beyond.entries)) == (7, [])
    assert len(search(connection, identifier, limit=None).entries) == 7


VALUES: dict[str, Any] = {
    "int": [3, -(2**63), None, 2**63 - 1, 2**53 + 1, 2**53, None, 0],
    "float": [0.5, -math.inf, None, math.inf, 1e-300, math.nan, 0.5, -0.25],
    "string": ["b", "", None, "a", "B", "ä", "a" * 300, "🙂"],
    "bool": [True, False, None, True, None, False, True, None],
    "floatSeries": [0.5, -2.0, None, 7.0, math.inf, math.nan, 0.5, -0.25],
    "stringSeries": ["b", "", None, "a", "B", "ä", "a" * 300, "b"],
}


@pytest.mark.parametrize("type_", VALUES)
def test_order_by_value(connection: Connection, identifier: str, type_: str) -> None:
    values = VALUES[type_]
    for number, value in enumerate(values):
        log(
            connection,
            identifier,
            str(number),
            configs={} if value is None or type_.endswith("Series") else {"x": value},
            series={"x": {1: value}} if value is not None and type_.endswith("Series") else {},
        )
    for typed in (type_, None):
        order = sorting("x", typed)
        for descending in (False, True):
            order.dir = DESCENDING if descending else ASCENDING
            there = [number for number, value in enumerate(values) if value is not None and value == value]  # noqa: PLR0124
            missing = [number for number in range(len(values)) if number not in there]
            if typed is None and type_ == "int":
                there.sort(key=lambda number: (float(values[number]), number), reverse=descending)
            else:
                there.sort(key=lambda number: (values[number], number), reverse=descending)
            missing.sort(reverse=descending)
            assert matching(connection, identifier, order=order) == [str(number) for number in there + missing]


def test_order_by_aggregates(connection: Connection, identifier: str) -> None:
    points = {"a": [1.0, 9.0, 2.0], "b": [5.0, 5.0, 5.0], "c": [4.0, 0.0, 7.0]}
    for name, values in points.items():
        log(connection, identifier, name, series={"m": dict(enumerate(values, 1))})
    log(connection, identifier, "fork", parent="a", at=2, series={"m": {3: 30.0}})
    expected: dict[Any, str] = {
        77: "a b c fork",
        pb.AGGREGATION_MODE_LAST: "a b c fork",
        pb.AGGREGATION_MODE_MIN: "c a fork b",
        pb.AGGREGATION_MODE_MAX: "b c a fork",
        pb.AGGREGATION_MODE_AVERAGE: "c a b fork",
        pb.AGGREGATION_MODE_VARIANCE: "b c a fork",
        pb.AGGREGATION_MODE_AUTO: "a b c fork",
        pb.AGGREGATION_MODE_NONE: "a b c fork",
        pb.AGGREGATION_MODE_UNSPECIFIED: "a b c fork",
    }
    for mode, found in expected.items():
        in_field = sorting("m", "floatSeries")
        in_field.sort_by.aggregation_mode = mode
        beside = sorting("m", "floatSeries", aggregation_mode=mode)
        for order in (in_field, beside):
            assert matching(connection, identifier, order=order) == found.split(), mode


def test_the_youngest_come_first_when_no_order_is_asked_for(connection: Connection, identifier: str) -> None:
    for name in "abc":
        log(connection, identifier, name)
    stub = connection.stub(LeaderboardServiceStub)
    request = pb.SearchLeaderboardEntriesRequest(project_identifier=identifier, params=params())
    for absent in ("sorting", "pagination", "query", "experiment_leader"):
        request.params.ClearField(absent)
    assert names(stub.SearchLeaderboardEntries(request)) == ["c", "b", "a"]


def test_search_of_all_projects(
    connection: Connection, wire: Wire, identifier: str, make_user: Callable[..., Person], project: ProjectWithRole
) -> None:
    other = another_project(connection, identifier)
    mark = project.id
    for place in (identifier, other):
        log(connection, place, "old", configs={"mark": mark}, experiment="e")
        log(connection, place, "new", configs={"mark": mark, "x": 1}, experiment="e")
    query = f'mark:string == "{mark}"'
    found = search_everywhere(connection, query)
    assert found.matching_item_count == 4
    where = [(f"{entry.organization_name}/{entry.project_name}", texts(entry)[RUN_ID]) for entry in found.entries]
    assert where == [(place, run) for place in (identifier, other) for run in ("old", "new")]
    assert [sorted(texts(entry)) for entry in found.entries] == [[RUN_ID, "sys/id", "sys/name"]] * 4
    heads = search_everywhere(connection, query, heads=True, order=sorting(dir=DESCENDING))
    assert [(entry.project_name, texts(entry)[RUN_ID]) for entry in heads.entries] == [
        (place.partition("/")[2], "new") for place in (other, identifier)
    ]
    for offset in range(4):
        page = search_everywhere(connection, query, limit=1, offset=offset)
        assert page.matching_item_count == 4
        assert page.entries[0].experiment_id == found.entries[offset].experiment_id
    guest = wire.connect(make_user(other, PROJECT_ROLE_VIEWER).api_token)
    assert {entry.project_name for entry in search_everywhere(guest, query).entries} == {other.partition("/")[2]}
    assert search_everywhere(wire.connect(make_user().api_token), query).matching_item_count == 0


def test_what_may_not_be_seen_is_denied(
    connection: Connection, wire: Wire, identifier: str, make_user: Callable[..., Person]
) -> None:
    log(connection, identifier, "r")
    stranger = wire.connect(make_user().api_token)
    for caller, name in ((stranger, identifier), (connection, "nowhere/project"), (connection, f"{identifier}-not")):
        with pytest.raises(PermissionDeniedException) as caught:
            search(caller, name)
        assert caught.value.error_info is not None
        assert caught.value.error_info.reason == "ACCESS_DENIED"
    viewer = wire.connect(make_user(identifier, PROJECT_ROLE_VIEWER).api_token)
    assert matching(viewer, identifier) == ["r"]


def test_trashed_runs_are_found_and_deleted_ones_are_not(connection: Connection, identifier: str) -> None:
    for name in ("kept", "trashed"):
        log(connection, identifier, name, experiment="e")
    run = run_of(connection, identifier, "trashed").id
    runs = connection.stub(RunsServiceStub)
    runs.TrashRuns(TrashRunsRequest(project_identifier=identifier, experiment_identifiers=[run]))
    assert matching(connection, identifier) == ["kept", "trashed"]
    assert matching(connection, identifier, "sys/trashed:bool = false") == ["kept"]
    runs.DeleteRuns(DeleteRunsRequest(project_identifier=identifier, experiment_identifiers=[run]))
    assert matching(connection, identifier) == ["kept"]
    assert matching(connection, identifier, heads=True) == ["kept"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (pb.LeaderboardSearch(pagination=pb.Pagination(limit=10_001)), "params.pagination.limit"),
        (pb.LeaderboardSearch(pagination=pb.Pagination(limit=-1)), "params.pagination.limit"),
        (pb.LeaderboardSearch(pagination=pb.Pagination(offset=-1)), "params.pagination.offset"),
        (pb.LeaderboardSearch(truncate_string_to=-1), "params.truncate_string_to"),
        (pb.LeaderboardSearch(sorting=pb.Sorting(dir=9)), "params.sorting.dir"),  # type: ignore[arg-type]  # no value
        (pb.LeaderboardSearch(sorting=pb.Sorting(sort_by=pb.SortField(name=""))), "params.sorting.sort_by.name"),
    ],
)
def test_bad_requests(connection: Connection, identifier: str, change: pb.LeaderboardSearch, field: str) -> None:
    stub = connection.stub(LeaderboardServiceStub)
    requests: list[tuple[Any, Any]] = [
        (
            stub.SearchLeaderboardEntries,
            pb.SearchLeaderboardEntriesRequest(project_identifier=identifier, params=change),
        ),
        (stub.SearchGlobalLeaderboardEntries, pb.SearchGlobalLeaderboardEntriesRequest(params=change)),
    ]
    for call, request in requests:
        with pytest.raises(InvalidArgumentException) as caught:
            call(request)
        assert [violation.field for violation in caught.value.violations] == [field]


def test_only_runs_are_known(connection: Connection, identifier: str) -> None:
    request = pb.SearchLeaderboardEntriesRequest(project_identifier=identifier, type=["run", "model"], params=params())
    with pytest.raises(InvalidArgumentException, match="only run is known"):
        connection.stub(LeaderboardServiceStub).SearchLeaderboardEntries(request)


@pytest.mark.parametrize(
    "change",
    [
        pb.LeaderboardSearch(grouping=pb.Grouping(group_by=[pb.SortField(name="x")])),
        pb.LeaderboardSearch(query_name_aliases=pb.QueryAliases(run_aliases=[pb.QueryAlias(name_alias="a")])),
        pb.LeaderboardSearch(query_name_aliases=pb.QueryAliases(experiment_aliases=[pb.QueryAlias(name_alias="a")])),
    ],
)
def test_what_is_not_served_says_so(connection: Connection, identifier: str, change: pb.LeaderboardSearch) -> None:
    stub = connection.stub(LeaderboardServiceStub)
    for call, request in (
        (
            stub.SearchLeaderboardEntries,
            pb.SearchLeaderboardEntriesRequest(project_identifier=identifier, params=change),
        ),
        (stub.SearchGlobalLeaderboardEntries, pb.SearchGlobalLeaderboardEntriesRequest(params=change)),
    ):
        with pytest.raises(UnimplementedException, match=r": params\..* here; "):
            call(request)


def test_no_groups_and_no_aliases_are_fine(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r")
    assert matching(connection, identifier, grouping=pb.Grouping(), query_name_aliases=pb.QueryAliases()) == ["r"]
