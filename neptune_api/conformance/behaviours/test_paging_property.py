"""Laws of paging: pages of any size together are the whole, whatever is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import create, snapshot, update
from neptune_api.v1 import attributes_service_pb2 as pb
from neptune_api.v1.attributes_pb2 import NextPage
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.queries_pb2 import (
    AttributeNameFilter,
    AttributeNameFilterList,
    AttributesHolder,
    AttributeType,
    AttributeTypeFilter,
    Lineage,
    LineageEntityType,
    SortDirection,
    StepRange,
    StringList,
    TimeSeries,
)
from neptune_api.v1.series_service_pb2 import (
    FloatSeriesValuesQuery,
    GetFloatSeriesValuesRequest,
    GetSeriesValuesRequest,
    SeriesQuery,
    SeriesValuesQuery,
)
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Wire
    from neptune_api.v1.ingest_pb2 import RunOperation

QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ["a", "a/b", "b", "m", "s", "ü", "z" * 900]
PATTERNS = ["", "a", "^a$", "b$", "[mz]", "nothing", "^[^s]"]
RUNS = ["root", "fork", "late", "alone"]

regexes = st.lists(st.sampled_from(PATTERNS), max_size=2)
simple_filters = st.builds(AttributeNameFilter, must_match_regexes=regexes, must_not_match_regexes=regexes)
alternatives = st.builds(AttributeNameFilterList, values=st.lists(simple_filters, max_size=2))
name_filters = simple_filters | st.builds(AttributeNameFilter, must_match_any=alternatives)
type_filters = st.lists(
    st.builds(AttributeTypeFilter, attribute_type=st.sampled_from(AttributeType.values()[1:])), max_size=3
)


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    """A family of runs and one beside it, with names that come back with other types."""
    lab = Lab(wire.connect(), identifier)
    lab.apply(
        create("root", experiment="one"),
        create("alone"),
        update(snapshot(assign={"a": 1, "b": "x", "ü": 0.5, "z" * 900: True}), run="alone"),
        update(snapshot(assign={"a": "text", "a/b": 2}), run="root"),
        *(points("root", step) for step in range(6)),
        create("fork", experiment="two", parent="root", at=3),
        *(points("fork", step) for step in (4, 4.5, 7)),
        create("late", experiment="two", parent="fork", at=5),
        points("late", 8),
    )
    return lab


def points(run: str, step: float) -> RunOperation:
    return update(snapshot({"m": step / 2, "s": f"{run} {step}"}, step), run=run)


@QUICK
@given(data=st.data())
def test_definitions(lab: Lab, data: st.DataObject) -> None:
    stub: Any = lab.connection.stub(AttributesServiceStub)
    chosen = data.draw(st.none() | st.lists(st.sampled_from([*RUNS, "nobody"]), max_size=3))
    ids = None if chosen is None else StringList(values=[f"CUSTOM/{lab.project}/{run}" for run in chosen])

    def asked(limit: int, token: str | None) -> pb.QueryAttributeDefinitionsResponse:
        query = pb.AttributeDefinitionsQuery(
            project_identifiers=[lab.project],
            experiment_ids_filter=ids,
            attribute_name_filter=names,
            attribute_filter=types,
            next_page=NextPage(limit=limit, next_page_token=token),
        )
        answer: pb.QueryAttributeDefinitionsResponse = stub.QueryAttributeDefinitions(
            pb.QueryAttributeDefinitionsRequest(query=query)
        )
        return answer

    names, types = data.draw(name_filters), data.draw(type_filters)
    whole = asked(10_000, None)
    assert not whole.next_page.next_page_token
    limit = data.draw(st.integers(1, len(whole.entries) + 2))
    found: list[Any] = []
    token = None
    while True:
        page = asked(limit, token)
        found += page.entries
        token = page.next_page.next_page_token
        if not token:
            break
        assert len(page.entries) == limit
    assert found == list(whole.entries)
    assert len({(item.name, item.type) for item in found}) == len(found)


@QUICK
@given(data=st.data())
def test_values(lab: Lab, data: st.DataObject) -> None:
    stub: Any = lab.connection.stub(AttributesServiceStub)
    names, types = data.draw(name_filters), data.draw(type_filters)
    exact = data.draw(st.none() | st.builds(StringList, values=st.lists(st.sampled_from(NAMES), max_size=4)))

    def cells(limit: int) -> tuple[list[Any], list[int]]:
        found: list[Any] = []
        sizes: list[int] = []
        token = None
        while token is None or token:
            query = pb.AttributeValuesQuery(
                attribute_name_filter=names,
                attribute_filter=types,
                attribute_names_filter=exact,
                next_page=NextPage(limit=limit, next_page_token=token),
            )
            page = stub.QueryAttributeValues(
                pb.QueryAttributeValuesRequest(project_identifier=lab.project, query=query)
            )
            assert all(entry.attributes for entry in page.entries)
            some = [(entry.experiment_short_id, item) for entry in page.entries for item in entry.attributes]
            found += some
            sizes.append(len(some))
            token = page.next_page.next_page_token
        return found, sizes

    whole, _ = cells(10_000)
    limit = data.draw(st.integers(1, len(whole) + 2))
    paged, sizes = cells(limit)
    assert paged == whole
    assert max(sizes) <= limit


series = st.builds(
    TimeSeries,
    lineage=st.sampled_from([Lineage.LINEAGE_FULL, Lineage.LINEAGE_NONE]),
    lineage_entity_type=st.sampled_from(
        [LineageEntityType.LINEAGE_ENTITY_TYPE_RUN, LineageEntityType.LINEAGE_ENTITY_TYPE_EXPERIMENT]
    ),
    holder=st.builds(AttributesHolder, identifier=st.sampled_from(RUNS), type=st.just("experiment")),
)
ranges = st.builds(
    StepRange, lower=st.none() | st.floats(-1, 9, width=16), upper=st.none() | st.floats(-1, 9, width=16)
)
orders = st.sampled_from([SortDirection.SORT_DIRECTION_ASCENDING, SortDirection.SORT_DIRECTION_DESCENDING])


def named(lab: Lab, wanted: list[TimeSeries], path: str) -> list[TimeSeries]:
    found = []
    for item in wanted:
        copy = TimeSeries()
        copy.CopyFrom(item)
        copy.attribute = path
        copy.holder.identifier = f"CUSTOM/{lab.project}/{item.holder.identifier}"
        found.append(copy)
    return found


@QUICK
@given(wanted=st.lists(series, min_size=1, max_size=3), bounds=ranges, order=orders, limit=st.integers(1, 6))
def test_points(
    lab: Lab, wanted: list[TimeSeries], bounds: StepRange, order: SortDirection.ValueType, limit: int
) -> None:
    """Of floats behind the last step of each page, of texts by answers of any size."""
    stub: Any = lab.connection.stub(SeriesServiceStub)

    def ask(limit: int, places: dict[str, float | None]) -> dict[str, list[Any]]:
        query = FloatSeriesValuesQuery(per_series_points_limit=limit, order=order, step_range=bounds)
        items = named(lab, wanted, "m")
        for request_id, after in places.items():
            query.requests.add(request_id=request_id, series=items[int(request_id)], after_step=after)
        answer = stub.GetFloatSeriesValues(GetFloatSeriesValuesRequest(request=query))
        return {item.request_id: list(item.series.values) for item in answer.series}

    places: dict[str, float | None] = {str(number): None for number in range(len(wanted))}
    whole = ask(1_000, places)
    found: dict[str, list[Any]] = {request_id: [] for request_id in places}
    while places:
        pages = ask(limit, places)
        assert pages.keys() == places.keys()
        for request_id, page in pages.items():
            found[request_id] += page
        places = {request_id: page[-1].step for request_id, page in pages.items() if len(page) == limit}
    assert found == whole
    texts, pages_of_one = walked(stub, lab, wanted, bounds, order, None), walked(stub, lab, wanted, bounds, order, 1)
    assert texts == pages_of_one
    # Both kinds of series were logged at the same steps.
    assert {key: [point.step for point in points] for key, points in texts.items() if points} == {
        key: [point.step for point in points] for key, points in whole.items() if points
    }


def walked(
    stub: Any,
    lab: Lab,
    wanted: list[TimeSeries],
    bounds: StepRange,
    order: SortDirection.ValueType,
    size: int | None,
) -> dict[str, list[Any]]:
    """Return the points of string series as clients put them together from answers of a size."""
    waiting = {
        str(number): SeriesQuery(request_id=str(number), series=item)
        for number, item in enumerate(named(lab, wanted, "s"))
    }
    found: dict[str, list[Any]] = {request_id: [] for request_id in waiting}
    while waiting:
        query = SeriesValuesQuery(requests=waiting.values(), order=order, step_range=bounds, size_limit_bytes=size)
        answer = stub.GetSeriesValues(GetSeriesValuesRequest(request=query))
        assert any(item.HasField("search_after") for item in answer.series) or not answer.series
        following = {}
        for item in answer.series:
            found[item.request_id] += item.series_values.values
            if not item.HasField("search_after") or not item.search_after.finished:
                again = waiting[item.request_id]
                if item.HasField("search_after"):
                    again.search_after.CopyFrom(item.search_after)
                following[item.request_id] = again
        waiting = following
    return found
