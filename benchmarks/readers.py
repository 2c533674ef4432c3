"""Readers of a generated project: `python -m benchmarks.readers URL PROJECT RUNS WRITTEN LIGHT HEAVY`.

LIGHT threads ask small questions, HEAVY threads large ones; each asks one of its questions after the other, as fast as
it is answered, and compares every answer with what was generated, or with the answer before where the run WRITTEN is
written to. They begin when a line comes on stdin and end with the next one; then how many answers there were, and how
many of them were wrong, is printed as JSON. The API token comes from the environment.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

import neptune_api
from benchmarks.generated_project import FLOATS, float_of, text_of
from benchmarks.workload import paths
from neptune_api.models import (
    AttributeDefinitionsQuery,
    AttributeNameFilter,
    AttributePathFilter,
    AttributesHolder,
    AttributeType,
    GetFloatSeriesValuesRequest,
    LeaderboardSearch,
    NqlQuery,
    Pagination,
    QueryAttributeDefinitionsRequest,
    SearchLeaderboardEntriesRequest,
    SortField,
    Sorting,
    TimeSeries,
)
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc

    Question = Callable[[], bool]

_REGEX: Final = "[0-4][13579]$"
_PAGE: Final = 20
LIGHT: Final = ("search", "definitions", "points", "written")
HEAVY: Final = ("slow_expression", "everything")


class Questions:
    """What is asked; each function tells whether the answer is right."""

    def __init__(self, channel: grpc.Channel, project: str, runs: int, written: str) -> None:
        self._search = LeaderboardServiceStub(channel)
        self._attributes = AttributesServiceStub(channel)
        self._series = SeriesServiceStub(channel)
        self._project, self._runs, self._written = project, runs, written
        numbers = range(1, runs + 1)
        matching = [n for n in numbers if float_of(n, 0) > 0.5 and re.search(_REGEX, text_of(n, 0))]
        self._best = sorted(((float_of(n, 1), n) for n in matching), reverse=True)
        # The runs that others are copies of.
        self._values = [np.random.default_rng(n).random((100, 5))[:, 2].tolist() for n in range(1, 21)]
        self._last_step = -1.0

    def search(self) -> bool:
        """Ask for the best of some runs."""
        query = f'(`config/float_0`:float > 0.5) AND (`config/text_0`:string MATCHES "{_REGEX}")'
        found = self._entries(query, _PAGE)
        expected = [value for value, _ in self._best[:_PAGE]]
        return found == (len(self._best), expected)

    def definitions(self) -> bool:
        """Ask for names."""
        names = AttributeNameFilter(must_match_regexes=["config/f.*_[0-9]$"])
        query = AttributeDefinitionsQuery(project_identifiers=[self._project], attribute_name_filter=names)
        found = self._attributes.QueryAttributeDefinitions(QueryAttributeDefinitionsRequest(query=query))
        return [entry.name for entry in found.entries] == list(FLOATS)

    def points(self) -> bool:
        """Ask for the points of a series of each of some runs."""
        request = GetFloatSeriesValuesRequest()
        request.request.per_series_points_limit = 1_000
        for number in range(1, min(20, self._runs) + 1):
            series = self._series_of(f"{self._project}/run-{number}", "metrics/series_002")
            request.request.requests.add(request_id=str(number), series=series)
        found = self._series.GetFloatSeriesValues(request)
        return [[point.value for point in item.series.values] for item in found.series] == self._values[: self._runs]

    def written(self) -> bool:
        """Ask how far a series has come that is being written: it never goes back, and its steps are whole."""
        before = self._last_step
        series = self._series_of(self._written, paths(1)[0])
        request = GetFloatSeriesValuesRequest()
        request.request.per_series_points_limit = 1_000_000
        request.request.requests.add(request_id="0", series=series)
        (found,) = self._series.GetFloatSeriesValues(request).series
        steps = [point.step for point in found.series.values]
        last = steps[-1] if steps else -1.0
        self._last_step = max(last, self._last_step)
        return steps == list(range(len(steps))) and last >= before

    def slow_expression(self) -> bool:
        """Ask for texts by an expression that takes other engines forever."""
        query = '`config/text_0`:string MATCHES "^(([a-z0-9])*-?)*(([0-9a-z]*)*)*!$"'
        return self._entries(query, _PAGE) == (0, [])

    def everything(self) -> bool:
        """Ask for all runs."""
        found = self._entries("", 10_000)
        return found[0] == self._runs and len(found[1]) == min(self._runs, 10_000)

    def _entries(self, query: str, limit: int) -> tuple[int, list[float]]:
        request = SearchLeaderboardEntriesRequest(
            project_identifier=self._project,
            type=["run"],
            params=LeaderboardSearch(
                query=NqlQuery(query=query),
                attribute_filters=[AttributePathFilter(path="config/float_1")],
                pagination=Pagination(limit=limit, offset=0),
                sorting=Sorting(
                    sort_by=SortField(name="config/float_1", type=AttributeType.ATTRIBUTE_TYPE_FLOAT),
                ),
            ),
        )
        found = self._search.SearchLeaderboardEntries(request)
        values = [item.float_properties.value for entry in found.entries for item in entry.attributes]
        return found.matching_item_count, values

    def _series_of(self, run: str, path: str) -> TimeSeries:
        return TimeSeries(attribute=path, holder=AttributesHolder(identifier=f"CUSTOM/{run}", type="experiment"))


def main() -> None:
    """Ask."""
    url, project, runs, written, light, heavy = sys.argv[1:]
    counts: Counter[str] = Counter()
    is_over = threading.Event()
    with neptune_api.channel(url) as channel:

        def read(index: int, kinds: Sequence[str]) -> None:
            questions = Questions(channel, project, int(runs), written)
            ask: Question = getattr(questions, kinds[index % len(kinds)])
            ready.wait()
            while not is_over.is_set():
                right = ask()
                with lock:
                    counts["answers"] += 1
                    counts["wrong"] += not right

        lock = threading.Lock()
        ready = threading.Barrier(int(light) + int(heavy) + 1)
        threads = [threading.Thread(target=read, args=(index, LIGHT)) for index in range(int(light))]
        threads += [threading.Thread(target=read, args=(index, HEAVY)) for index in range(int(heavy))]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        sys.stdin.readline()
        ready.wait()
        sys.stdin.readline()
        is_over.set()
        for thread in threads:
            thread.join()
    print(json.dumps({"answers": counts["answers"], "wrong": counts["wrong"]}), flush=True)


if __name__ == "__main__":
    main()
