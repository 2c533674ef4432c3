"""Calls about runs in a word each, and what they bring back in plain Python."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from neptune_api.v1 import runs_service_pb2 as pb
from neptune_api.v1.attributes_service_pb2 import GetAttributesRequest
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.series_service_pb2 import FloatSeriesQuery, FloatSeriesValuesQuery, GetFloatSeriesValuesRequest
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from neptune_api import exceptions
    from neptune_api.conformance.connections import Connection
    from neptune_api.v1.series_pb2 import FloatSeriesValuesResponse

Reason = pb.BulkRunError.Reason
NOBODY = str(uuid.UUID(int=0))


def values(connection: Connection, run: str) -> dict[str, Any]:
    """Return the single values of a run by path."""
    found = connection.stub(AttributesServiceStub).GetAttributes(GetAttributesRequest(holder_identifier=run))
    return {item.name: plain(item) for item in found.attributes}


def plain(attribute: Any) -> Any:
    for kind in ("int", "float", "string", "bool", "datetime"):
        if attribute.HasField(f"{kind}_properties"):
            return getattr(attribute, f"{kind}_properties").value
    return list(attribute.string_set_properties.value) if attribute.HasField("string_set_properties") else attribute


def reasons(result: pb.BulkRunResult) -> dict[str, str]:
    assert all(error.message for error in result.errors)
    return {error.experiment_identifier: Reason.Name(error.reason) for error in result.errors}


def reason(error: exceptions.NeptuneApiError) -> str:
    assert error.error_info is not None
    return error.error_info.reason


def create(runs: Any, identifier: str, *names: str, **fields: Any) -> list[pb.Run]:
    return [runs.CreateRun(pb.CreateRunRequest(project_identifier=identifier, run_id=name, **fields)) for name in names]


def float_points(connection: Connection, run: str, path: str) -> list[tuple[float, float]]:
    series = TimeSeries(attribute=path, holder=AttributesHolder(identifier=run, type="experiment"))
    query = FloatSeriesValuesQuery(
        per_series_points_limit=1000, requests=[FloatSeriesQuery(request_id="0", series=series)]
    )
    answer: FloatSeriesValuesResponse = connection.stub(SeriesServiceStub).GetFloatSeriesValues(
        GetFloatSeriesValuesRequest(request=query)
    )
    return [(point.step, point.value) for point in answer.series[0].series.values]


def listed(runs: Any, identifier: str, **fields: Any) -> list[list[str]]:
    """Return run ids page by page."""
    pages: list[list[str]] = []
    request = pb.ListRunsRequest(project_identifier=identifier, **fields)
    while True:
        page = runs.ListRuns(request)
        pages.append([run.custom_id for run in page.runs])
        request.page_token = page.next_page_token
        if not request.page_token:
            return pages
