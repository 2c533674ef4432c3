"""Changing runs: snapshots and blocks of points, judged and taken into run states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from neptune_api.server import limits
from neptune_api.server.store import rules
from neptune_api.server.store.float_table import Preview, Rows
from neptune_api.server.store.logged_values import LoggedValues
from neptune_api.server.store.written_points import WrittenPoints
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import sqlalchemy as sa

    from neptune_api.server.store.blocks import Block, Layout
    from neptune_api.server.store.columns import FloatColumns, Int64Array
    from neptune_api.server.store.run_state import Attribute, PointValue, RunState
    from neptune_api.server.store.run_store import RunStore
    from neptune_api.server.store.verdict import Verdict

# Of the layouts that a run has seen, how many are remembered.
_LAYOUTS_PER_RUN: Final = 64


class Updates:
    """Apply the updates of one batch to run states; reads through one snapshot, writes nothing."""

    def __init__(self, runs: RunStore, connection: sa.Connection) -> None:
        self._runs = runs
        self._connection = connection
        self._written = WrittenPoints(connection)

    def apply_block(self, run: RunState, block: Block, verdict: Verdict) -> None:
        """Append the points of a block: all at once as far as they continue their series, the others one by one."""
        paths = block.layout.paths
        late: npt.NDArray[np.intp] | None = None  # places of the series whose points have to be judged one by one
        slots = self._slots(run, block)
        if slots is not None:
            followers = run.floats.followers(slots, block.steps, block.timestamps)
            if bool(followers.all()):
                run.floats.append_rows(Rows(slots, block.steps, block.timestamps, block.values))
                verdict.accept(block.values.size)
                return
            taken = np.flatnonzero(followers)
            if len(taken):
                rows = Rows(slots[taken], block.steps, block.timestamps, np.ascontiguousarray(block.values[:, taken]))
                run.floats.append_rows(rows)
                verdict.accept(rows.values.size)
            late = np.flatnonzero(~followers)
            self.look_ahead(run, [paths[place] for place in late.tolist()], block.steps)
        places = range(len(paths)) if late is None else late.tolist()
        for step, timestamp, values in zip(
            block.steps.tolist(), block.timestamps.tolist(), block.values.tolist(), strict=True
        ):
            for place in places:
                path = paths[place]
                fault = rules.path_fault(path) or self.append(
                    run, path, T.ATTRIBUTE_TYPE_FLOAT_SERIES, values[place], step, timestamp, None
                )
                _settle(verdict, path, fault)

    def apply_snapshot(self, run: RunState, snapshot: pb.UpdateRunSnapshot, accepted_ms: int, verdict: Verdict) -> None:
        """Apply assignments, then changes of sets, then appended points."""
        for path, value in snapshot.assign.items():
            _settle(verdict, path, self._assign(run, path, value))
        for path, change in snapshot.modify_sets.items():
            _settle(verdict, path, self._modify_set(run, path, change))
        if not snapshot.append:
            return
        if snapshot.HasField("step"):
            fault, step = rules.step_fault(snapshot.step), rules.step_micros(snapshot.step)
        else:
            step = _following_step(run, snapshot)
            fault = rules.step_fault(pb.Step(whole=step // limits.MICROS_PER_STEP))
        timestamp = (
            rules.timestamp_ms(snapshot.timestamp)
            if snapshot.HasField("timestamp")
            else _following_time(run, snapshot, accepted_ms)
        )
        fault = fault or rules.time_fault(timestamp)
        if fault != pb.INGEST_CODE_OK:
            for path in snapshot.append:
                verdict.refuse(fault, path)
            return
        ratio = rules.completion_ratio(snapshot.preview) if snapshot.preview.is_preview else None
        for path, value in snapshot.append.items():
            _settle(verdict, path, self._append_value(run, path, value, step, timestamp, ratio))

    def _slots(self, run: RunState, block: Block) -> npt.NDArray[np.intp] | None:
        """Return the slots of a block's series, new ones included; None when a path or a type is at fault."""
        if run.fork_step is not None and int(block.steps[0]) <= run.fork_step:
            return None
        layout = block.layout
        if layout.key not in run.layouts:
            run.layouts[layout.key] = self._find_slots(run, layout)
            while len(run.layouts) > _LAYOUTS_PER_RUN:
                del run.layouts[next(iter(run.layouts))]
        return run.layouts[layout.key]

    def _find_slots(self, run: RunState, layout: Layout) -> npt.NDArray[np.intp] | None:
        type_ = T.ATTRIBUTE_TYPE_FLOAT_SERIES
        for path in layout.paths:
            if rules.path_fault(path) or self.type_fault(run, path, type_):
                return None
        found = [run.attributes.get(path) or self._runs.add(run, path, type_) for path in layout.paths]
        return np.array([attribute.slot for attribute in found], np.intp)

    def _assign(self, run: RunState, path: str, value: pb.Value) -> int:
        kind = value.WhichOneof("value") or ""
        type_ = rules.ASSIGN_TYPES.get(kind)
        fault = rules.path_fault(path)
        if fault == pb.INGEST_CODE_OK and type_ is None:
            fault = pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED
        if fault != pb.INGEST_CODE_OK or type_ is None:
            return fault
        fault = self.type_fault(run, path, type_) or rules.value_fault(kind, value)
        if fault != pb.INGEST_CODE_OK:
            return fault
        if kind == "timestamp":
            self._runs.put(run, path, type_, rules.timestamp_ms(value.timestamp))
        elif kind == "string_set":
            self._runs.put(run, path, type_, frozenset(value.string_set.values))
        elif kind == "bool":
            self._runs.put(run, path, type_, int(value.bool))
        else:
            self._runs.put(run, path, type_, getattr(value, kind))
        return pb.INGEST_CODE_OK

    def _modify_set(self, run: RunState, path: str, change: pb.ModifySet) -> int:
        fault = rules.path_fault(path)
        if fault == pb.INGEST_CODE_OK and change.WhichOneof("type") != "string":
            fault = pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED
        type_ = rules.ASSIGN_TYPES["string_set"]
        fault = fault or self.type_fault(run, path, type_)
        if fault != pb.INGEST_CODE_OK:
            return fault
        attribute = run.attributes.get(path)
        members = set(attribute.value) if attribute is not None and isinstance(attribute.value, frozenset) else set()
        for member, action in change.string.values.items():
            if action == pb.SET_OPERATION_ADD:
                members.add(member)
            elif action == pb.SET_OPERATION_REMOVE:
                members.discard(member)
        fault = rules.set_fault(members)
        if fault == pb.INGEST_CODE_OK:
            self._runs.put(run, path, type_, frozenset(members))
        return fault

    def _append_value(
        self, run: RunState, path: str, value: pb.Value, step: int, timestamp: int, ratio: float | None
    ) -> int:
        kind = value.WhichOneof("value") or ""
        type_ = rules.APPEND_TYPES.get(kind)
        fault = rules.path_fault(path)
        if fault == pb.INGEST_CODE_OK and (type_ is None or (ratio is not None and kind != "float64")):
            fault = pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED
        if fault != pb.INGEST_CODE_OK or type_ is None:
            return fault
        point: PointValue = value.float64 if kind == "float64" else value.SerializeToString()
        return (
            self.type_fault(run, path, type_)
            or rules.value_fault(kind, value)
            or self.append(run, path, type_, point, step, timestamp, ratio)
        )

    def append(
        self,
        run: RunState,
        path: str,
        type_: int,
        point: PointValue,
        step: int,
        timestamp: int,
        ratio: float | None,
    ) -> int:
        """Append a point, or a preview when it has a completion ratio; return why it cannot be, or INGEST_CODE_OK."""
        fault = self.type_fault(run, path, type_)
        if fault == pb.INGEST_CODE_OK and run.fork_step is not None and step <= run.fork_step:
            fault = pb.INGEST_CODE_SERIES_STEP_NOT_AFTER_FORK_POINT
        if fault != pb.INGEST_CODE_OK:
            return fault
        attribute = run.attributes.get(path)
        logged: PointValue | None = None
        if attribute is not None:
            if ratio is None:
                logged = self._logged(run, attribute, step)
            fault = _point_fault(run, attribute, step, timestamp, point, logged, ratio)
            if fault != pb.INGEST_CODE_OK:
                return fault
        else:
            attribute = self._runs.add(run, path, type_)
        if isinstance(point, bytes):
            if attribute.series is None:  # `type_fault` has checked
                raise RuntimeError("A series attribute has no series.")
            attribute.series.add(step, timestamp, point, is_new=logged is None)
            run.changed[path] = attribute
        elif attribute.slot is None:
            raise RuntimeError("A float series has no slot.")
        elif ratio is None:
            run.floats.append(attribute.slot, step, timestamp, point)
        else:
            run.floats.preview(attribute.slot, step, Preview(timestamp, point, ratio))
        return pb.INGEST_CODE_OK

    def look_ahead(self, run: RunState, paths: Sequence[str], steps: Int64Array) -> None:
        """Prepare for points of many series at steps of which some may have been logged."""
        first, last = int(steps.min()), int(steps.max())
        late = [
            attribute.id
            for path in paths
            if (attribute := run.attributes.get(path)) is not None
            and attribute.is_stored
            and attribute.slot is not None
            and first <= run.floats.last_step[attribute.slot]
        ]
        if len(late) > 1:
            self._written.look_ahead(late, first, last)

    def logged_before(self, run: RunState, attribute: Attribute, points: FloatColumns) -> npt.NDArray[np.bool_]:
        """Tell of each point, ascending by step, whether a float series has the same value at its step."""
        slot = attribute.slot
        if slot is None:
            raise RuntimeError("A float series has no slot.")
        known = LoggedValues(points.steps)
        run.floats.look_up(slot, known)
        if attribute.is_stored:
            self._written.look_up(run.id, attribute.id, known)
        same = (known.values == points.values) | (np.isnan(known.values) & np.isnan(points.values))
        found: npt.NDArray[np.bool_] = known.found & same
        return found

    def _logged(self, run: RunState, attribute: Attribute, step: int) -> PointValue | None:
        """Return the committed value at a step of a series; None when there is none."""
        last_step = run.last_step_of(attribute)
        if last_step is None or step > last_step:
            return None
        slot, series = attribute.slot, attribute.series
        waiting: PointValue | None
        if slot is not None:
            if step == last_step:
                return float(run.floats.last_value[slot])
            waiting = run.floats.waiting_value(slot, step)
        elif series is not None:
            if step == last_step:
                return series.last_value
            waiting = series.waiting_value(step)
        else:
            return None
        if waiting is not None or not attribute.is_stored:
            return waiting
        return self._written.value(run.id, attribute.id, step, is_float=slot is not None)

    def type_fault(self, run: RunState, path: str, type_: int) -> int:
        """Return INGEST_CODE_FIELD_TYPE_CONFLICTING for a path that has another type in a run, or INGEST_CODE_OK."""
        attribute = run.attributes.get(path)
        known = attribute.type if attribute is not None else rules.system_type(path)
        if known is None and run.parent_id is not None:
            known = self._inherited_type(run, path)
        return pb.INGEST_CODE_OK if known is None or known == type_ else pb.INGEST_CODE_FIELD_TYPE_CONFLICTING

    def _inherited_type(self, run: RunState, path: str) -> int | None:
        bound = run.fork_step
        while run.parent_id is not None and bound is not None:
            parent = self._runs.get(self._connection, run.parent_id)
            attribute = parent.attributes.get(path)
            first = None if attribute is None else parent.first_step_of(attribute)
            if attribute is not None and first is not None and first <= bound:
                return attribute.type
            run = parent
            bound = None if run.fork_step is None else min(bound, run.fork_step)
        return None


def _settle(verdict: Verdict, path: str, code: int) -> None:
    if code == pb.INGEST_CODE_OK:
        verdict.accept()
    else:
        verdict.refuse(code, path)


def _point_fault(
    run: RunState,
    attribute: Attribute,
    step: int,
    timestamp: int,
    value: PointValue,
    logged: PointValue | None,
    ratio: float | None,
) -> int:
    """Return why a point cannot follow those of its series, of which `logged` is at the same step."""
    last_step = run.last_step_of(attribute)
    is_late = last_step is not None and step <= last_step
    if ratio is not None:
        return pb.INGEST_CODE_SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP if is_late else pb.INGEST_CODE_OK
    if logged is not None and _is_same(value, logged):
        return pb.INGEST_CODE_SERIES_POINT_DUPLICATE
    if is_late and attribute.type in rules.ORDERED_SERIES:
        return pb.INGEST_CODE_SERIES_STEP_NON_INCREASING
    last_timestamp = run.last_timestamp_of(attribute)
    if last_timestamp is not None and timestamp < last_timestamp:
        return pb.INGEST_CODE_SERIES_TIMESTAMP_DECREASING
    return pb.INGEST_CODE_OK


def _following_step(run: RunState, snapshot: pb.UpdateRunSnapshot) -> int:
    """Return the next whole step after the last one of the series in a snapshot, in micro-steps."""
    lasts = [run.fork_step] if run.fork_step is not None else []
    for path in snapshot.append:
        attribute = run.attributes.get(path)
        last = None if attribute is None else run.last_step_of(attribute)
        if last is not None:
            lasts.append(last)
    return (max(lasts) // limits.MICROS_PER_STEP + 1) * limits.MICROS_PER_STEP if lasts else 0


def _following_time(run: RunState, snapshot: pb.UpdateRunSnapshot, accepted_ms: int) -> int:
    """Return the time of points that came without one: when they were accepted, but not before those of their series.

    The server's clock may have been set back, which is not the client's fault.
    """
    found = (run.attributes.get(path) for path in snapshot.append)
    lasts = (run.last_timestamp_of(attribute) for attribute in found if attribute is not None)
    return max([accepted_ms, *(last for last in lasts if last is not None)])


def _is_same(left: PointValue, right: PointValue) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return left == right
