"""A project under test, seen through one connection: operations in, outcomes and what can be read out."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from google.rpc import code_pb2

from neptune_api.columns import append_request, collect
from neptune_api.conformance.operations import PROJECT, RUN
from neptune_api.conformance.outcomes import counts_of_status, name_of
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1 import ingest_service_pb2 as service_pb
from neptune_api.v1.attributes_service_pb2 import GetAttributesRequest
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.queries_pb2 import AttributesHolder, TimeSeries
from neptune_api.v1.series_service_pb2 import (
    FloatSeriesQuery,
    FloatSeriesValuesQuery,
    GetFloatSeriesValuesRequest,
    GetSeriesValuesRequest,
    ReadColumnsRequest,
    SeriesQuery,
    SeriesValuesQuery,
)
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from neptune_api.columns import FloatPoints
    from neptune_api.conformance.connections import Connection
    from neptune_api.conformance.outcomes import Counts
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendColumnsResponse

DEADLINE = 30.0
POLL = 0.002


class Point(NamedTuple):
    """A committed point as readers get it: step, milliseconds, and a number, a text or a message."""

    step: float
    ms: int
    value: Any


class PreviewPoint(NamedTuple):
    """A preview as readers get it."""

    step: float
    ms: int
    value: float
    ratio: float


class Refusal(NamedTuple):
    """A refused change: the path and the name of the code."""

    path: str
    code: str


@dataclass
class Lab:
    """Writes to and reads from one project."""

    connection: Connection
    project: str

    @property
    def ingest(self) -> Any:
        return self.connection.stub(IngestServiceStub)

    def placed(self, operation: pb.RunOperation) -> pb.RunOperation:
        """Return the operation, for this project if it names none in particular, or else in its workspace."""
        workspace = PROJECT.partition("/")[0]
        if not operation.project.startswith(f"{workspace}/"):
            return operation
        copy = pb.RunOperation()
        copy.CopyFrom(operation)
        home = self.project.partition("/")[0]
        copy.project = self.project if operation.project == PROJECT else home + operation.project[len(workspace) :]
        return copy

    def submit(self, operation: pb.RunOperation, key: str | None = None) -> str:
        metadata = None if key is None else (("x-idempotency-key", key),)
        response = self.ingest.Submit(self.placed(operation), metadata=metadata)
        assert list(response.request_ids) == [response.request_id]
        request_id: str = response.request_id
        return request_id

    def statuses(self, request_ids: Iterable[str], project: str | None = None) -> list[pb.RequestStatus]:
        ids = pb.RequestIdList(ids=[pb.RequestId(value=request_id) for request_id in request_ids])
        answer = self.ingest.BulkGetRequestStatus(
            service_pb.BulkGetRequestStatusRequest(
                project_identifier=self.project if project is None else project, request_ids=ids
            )
        )
        return list(answer.statuses)

    def settled(self, request_ids: Iterable[str]) -> list[pb.RequestStatus]:
        """Return the statuses of requests once none is pending."""
        wanted = list(request_ids)
        end = time.monotonic() + DEADLINE
        while True:
            statuses = self.statuses(wanted)
            assert len(statuses) == len(wanted)
            if not any(is_pending(status) for status in statuses):
                return statuses
            assert time.monotonic() < end, "operations are not applied"
            threading.Event().wait(POLL)

    def results(self, request_ids: Iterable[str]) -> list[Counts]:
        return [counts_of_status(status) for status in self.settled(request_ids)]

    def apply(self, *operations: pb.RunOperation) -> list[Counts]:
        """Submit operations one by one and return what became of them."""
        return self.results([self.submit(operation) for operation in operations])

    def apply_one(self, operation: pb.RunOperation) -> Counts:
        return self.apply(operation)[0]

    def details_page(
        self, request_ids: Iterable[str], *, cursor: str | None = None, limit: int | None = None
    ) -> pb.BulkIngestResultDetail:
        check = pb.BulkCheckDetail(
            ids=[pb.RequestId(value=request_id) for request_id in request_ids], next_cursor=cursor, limit=limit
        )
        page: pb.BulkIngestResultDetail = self.ingest.BulkGetRequestDetails(
            service_pb.BulkGetRequestDetailsRequest(project_identifier=self.project, check=check)
        )
        return page

    def details(self, *request_ids: str) -> list[pb.IngestResultDetail]:
        return list(self.details_page(request_ids).details)

    def refusals(self, *request_ids: str) -> list[Refusal]:
        return [Refusal(item.path, name_of(item.ingest_code)) for item in self.details(*request_ids)]

    def attributes(self, run: str) -> dict[str, Any]:
        """Return the attributes of a run by path."""
        found = self.connection.stub(AttributesServiceStub).GetAttributes(
            GetAttributesRequest(holder_identifier=f"CUSTOM/{self.project}/{run}")
        )
        return {item.name: item for item in found.attributes}

    def types(self, run: str) -> dict[str, str]:
        """Return the types of the user's attributes of a run by path."""
        return {path: item.type for path, item in self.attributes(run).items() if not path.startswith("sys/")}

    def values(self, run: str) -> dict[str, Any]:
        """Return the single values of a run by path: sets as sets, files as messages, datetimes as milliseconds."""
        return {path: plain(item) for path, item in self.attributes(run).items() if not item.type.endswith("Series")}

    def user_values(self, run: str) -> dict[str, Any]:
        return {path: value for path, value in self.values(run).items() if not path.startswith("sys/")}

    def floats(self, run: str, path: str) -> list[Point]:
        """Return the committed points of a float series."""
        return [
            Point(item.step, item.timestamp_millis, item.value)
            for item in self._float_points(run, path, previews=False)
        ]

    def previews(self, run: str, path: str) -> list[PreviewPoint]:
        """Return the previews of a float series."""
        return [
            PreviewPoint(item.step, item.timestamp_millis, item.value, item.completion_ratio)
            for item in self._float_points(run, path, previews=True)
            if item.is_preview
        ]

    def points(self, run: str, path: str) -> list[Point]:
        """Return the points of a string, histogram or file series."""
        query = SeriesValuesQuery(
            per_series_points_limit=10_000, requests=[SeriesQuery(request_id="0", series=self.time_series(run, path))]
        )
        answer = self.connection.stub(SeriesServiceStub).GetSeriesValues(GetSeriesValuesRequest(request=query))
        return [
            Point(item.step, item.timestamp_millis, getattr(item.object, item.object.WhichOneof("value")))
            for found in answer.series
            for item in found.series_values.values
        ]

    @property
    def series(self) -> Any:
        return self.connection.stub(SeriesServiceStub)

    def batch(
        self, points: Mapping[str, FloatPoints], run: str = RUN, batch_id: str | None = None
    ) -> AppendColumnsRequest:
        return append_request(self.project, run, points, batch_id=batch_id)

    def append(
        self, points: Mapping[str, FloatPoints], run: str = RUN, batch_id: str | None = None
    ) -> AppendColumnsResponse:
        """Append columns."""
        response: AppendColumnsResponse = self.series.AppendColumns(self.batch(points, run, batch_id))
        return response

    def append_all(self, points: Mapping[str, FloatPoints], run: str = RUN) -> None:
        """Append columns, every point of which is taken."""
        response = self.append(points, run)
        assert self.results([response.request_id]) == [{"OK": sum(map(len, points.values()))}]

    def read(self, run: str, *paths: str, previews: bool = False, **request: Any) -> list[FloatPoints]:
        """Return the points of float series of a run as columns."""
        series = [self.time_series(run, path) for path in paths]
        for item in series:
            item.include_preview = previews
        return collect(self.series.ReadColumns(ReadColumnsRequest(series=series, **request)))

    def _float_points(self, run: str, path: str, *, previews: bool) -> Iterator[Any]:
        series = self.time_series(run, path)
        series.include_preview = previews
        query = FloatSeriesValuesQuery(
            per_series_points_limit=100_000, requests=[FloatSeriesQuery(request_id="0", series=series)]
        )
        answer = self.connection.stub(SeriesServiceStub).GetFloatSeriesValues(
            GetFloatSeriesValuesRequest(request=query)
        )
        (found,) = answer.series
        assert found.request_id == "0"
        yield from found.series.values

    def time_series(self, run: str, path: str) -> TimeSeries:
        holder = AttributesHolder(identifier=f"CUSTOM/{self.project}/{run}", type="experiment")
        return TimeSeries(attribute=path, holder=holder)


def is_pending(status: pb.RequestStatus) -> bool:
    return any(item.code == code_pb2.UNAVAILABLE for item in status.code_by_count)


def plain(attribute: Any) -> Any:
    """Return the value of an attribute that is no series."""
    for kind in ("int", "float", "string", "bool", "datetime"):
        if attribute.HasField(f"{kind}_properties"):
            return getattr(attribute, f"{kind}_properties").value
    if attribute.HasField("string_set_properties"):
        return set(attribute.string_set_properties.value)
    if attribute.type == "experimentState":
        return None
    file = attribute.file_ref_properties
    return pb.FileRef(path=file.path, size_bytes=file.size_bytes, mime_type=file.mime_type)


def same(left: float, right: float) -> bool:
    """Tell whether two doubles are equal, NaN included."""
    return left == right or (math.isnan(left) and math.isnan(right))
