"""Changing runs by batches of columns: whole columns are judged and taken at once, series of equal steps together."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api.server.store.column_batches import faults_of
from neptune_api.server.store.float_table import NEVER, Rows
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api.server.store.column_batches import ColumnBatch, ColumnSeries, Fault
    from neptune_api.server.store.columns import FloatColumns, Int64Array
    from neptune_api.server.store.run_state import Attribute, RunState
    from neptune_api.server.store.run_store import RunStore
    from neptune_api.server.store.updates import Updates
    from neptune_api.server.store.verdict import Verdict

_OK: Final = pb.INGEST_CODE_OK


class ColumnUpdates:
    """Apply batches of columns to run states by the rules that `updates` has for single points."""

    def __init__(self, runs: RunStore, updates: Updates) -> None:
        self._runs = runs
        self._updates = updates

    def apply(self, run: RunState, batch: ColumnBatch, verdict: Verdict) -> None:
        """Append the points of a batch, series by series."""
        for fault in batch.faults:
            _refuse(verdict, fault)
        for _, group in groupby(batch.series, _Positions):
            alike = list(group)
            self._updates.look_ahead(run, [item.path for item in alike], alike[0].points.steps)
            if len(alike) > 1 and alike[0].ratios is None and _ascends(alike[0].points):
                self._append_alike(run, alike, verdict)
            else:
                for item in alike:
                    self._append_one(run, item, verdict)

    def _append_alike(self, run: RunState, series: Sequence[ColumnSeries], verdict: Verdict) -> None:
        """Append points of series at the same ascending steps: those that all points follow as a table."""
        points = series[0].points
        slots: list[int] = []
        following: list[ColumnSeries] = []
        for item in series:
            attribute = self._attribute(run, item)
            if attribute is None or attribute.slot is None:
                self._append_one(run, item, verdict)
            else:
                slots.append(attribute.slot)
                following.append(item)
        if not following:
            return
        places = np.array(slots, np.intp)
        follows = run.floats.followers(places, points.steps, points.timestamps)
        for index in np.flatnonzero(~follows).tolist():
            self._append_one(run, following[index], verdict)
        taken = [following[index].points.values for index in np.flatnonzero(follows).tolist()]
        if taken:
            table = np.empty((len(points), len(taken)))
            for index, values in enumerate(taken):
                table[:, index] = values
            run.floats.append_rows(Rows(places[follows], points.steps, points.timestamps, table))
            verdict.accept(table.size)

    def _attribute(self, run: RunState, item: ColumnSeries) -> Attribute | None:
        """Return the float series that takes all points of a series, as far as fork point and type tell, or None."""
        if run.fork_step is not None and int(item.points.steps[0]) <= run.fork_step:
            return None
        type_ = T.ATTRIBUTE_TYPE_FLOAT_SERIES
        if self._updates.type_fault(run, item.path, type_):
            return None
        return run.attributes.get(item.path) or self._runs.add(run, item.path, type_)

    def _append_one(self, run: RunState, item: ColumnSeries, verdict: Verdict) -> None:
        """Append the points of one series, or its previews."""
        points = item.points
        if self._updates.type_fault(run, item.path, T.ATTRIBUTE_TYPE_FLOAT_SERIES):
            codes = np.full(len(points), pb.INGEST_CODE_FIELD_TYPE_CONFLICTING)
        elif item.ratios is None and bool((np.diff(points.steps) > 0).all()):
            codes = self._judge(run, item)
            self._take(run, item.path, points[codes == _OK])
        else:
            codes = np.array([self._append_point(run, item, place) for place in range(len(points))], np.int64)
        verdict.accept(int((codes == _OK).sum()))
        for fault in faults_of(item, codes, item.places):
            _refuse(verdict, fault)

    def _append_point(self, run: RunState, item: ColumnSeries, place: int) -> int:
        points = item.points
        return self._updates.append(
            run,
            item.path,
            T.ATTRIBUTE_TYPE_FLOAT_SERIES,
            float(points.values[place]),
            int(points.steps[place]),
            int(points.timestamps[place]),
            None if item.ratios is None else float(item.ratios[place]),
        )

    def _judge(self, run: RunState, item: ColumnSeries) -> Int64Array:
        """Return the code of each point of a series, ascending by step, as if they came one after the other."""
        points = item.points
        codes = np.full(len(points), _OK, np.int64)
        attribute = run.attributes.get(item.path)
        last_step = last_time = None
        if attribute is not None:
            last_step, last_time = run.last_step_of(attribute), run.last_timestamp_of(attribute)
        if attribute is not None and last_step is not None:
            late = points[: int(np.searchsorted(points.steps, last_step, "right"))]
            if len(late):
                same = self._updates.logged_before(run, attribute, late)
                codes[: len(late)] = np.where(
                    same, pb.INGEST_CODE_SERIES_POINT_DUPLICATE, pb.INGEST_CODE_SERIES_STEP_NON_INCREASING
                )
        if run.fork_step is not None:
            inherited = int(np.searchsorted(points.steps, run.fork_step, "right"))
            codes[:inherited] = pb.INGEST_CODE_SERIES_STEP_NOT_AFTER_FORK_POINT
        fresh = np.flatnonzero(codes == _OK)
        times = points.timestamps[fresh]
        # A point that is refused does not count for those behind it, and never has the greatest time so far.
        before = np.maximum.accumulate(np.concatenate([[NEVER if last_time is None else last_time], times]))[:-1]
        codes[fresh[times < before]] = pb.INGEST_CODE_SERIES_TIMESTAMP_DECREASING
        return codes

    def _take(self, run: RunState, path: str, points: FloatColumns) -> None:
        """Take points that follow their series."""
        if not len(points):
            return
        attribute = run.attributes.get(path) or self._runs.add(run, path, T.ATTRIBUTE_TYPE_FLOAT_SERIES)
        if attribute.slot is None:  # the type has been checked
            raise RuntimeError("A float series has no slot.")
        rows = Rows(np.array([attribute.slot], np.intp), points.steps, points.timestamps, points.values[:, None])
        run.floats.append_rows(rows)


class _Positions:
    """Steps and timestamps of a series, equal to those of another with the same ones."""

    __hash__ = None  # type: ignore[assignment]  # only neighbours are compared

    def __init__(self, series: ColumnSeries) -> None:
        self._points = series.points
        self._has_ratios = series.ratios is not None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Positions)
            and self._has_ratios == other._has_ratios
            and _are_same(self._points.steps, other._points.steps)
            and _are_same(self._points.timestamps, other._points.timestamps)
        )


def _are_same(left: Int64Array, right: Int64Array) -> bool:
    return left is right or np.array_equal(left, right)


def _ascends(points: FloatColumns) -> bool:
    return bool((np.diff(points.steps) > 0).all() and (np.diff(points.timestamps) >= 0).all())


def _refuse(verdict: Verdict, fault: Fault) -> None:
    sentence = f"{fault.sentence} Series {fault.series_index} of the batch, first at point {fault.point_index}."
    verdict.refuse(fault.code, fault.path, fault.count, sentence)
