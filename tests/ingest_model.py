"""The rules of ingestion once more, in the plainest form: what a store has to hold after a sequence of operations."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neptune_api.columns import append_request, points
from neptune_api.conformance.operations import PROJECT, START_MS, change, create, snapshot, update, value
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from neptune_api.conformance.operations import Plain
    from neptune_api.conformance.outcomes import Counts
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest

WHOLE = 1_000_000
ORDERED = {T.ATTRIBUTE_TYPE_FLOAT_SERIES, T.ATTRIBUTE_TYPE_STRING_SERIES}
SINGLES: dict[str, int] = {
    "float64": T.ATTRIBUTE_TYPE_FLOAT,
    "int64": T.ATTRIBUTE_TYPE_INT,
    "bool": T.ATTRIBUTE_TYPE_BOOL,
    "string": T.ATTRIBUTE_TYPE_STRING,
    "string_set": T.ATTRIBUTE_TYPE_STRING_SET,
    "file_ref": T.ATTRIBUTE_TYPE_FILE_REF,
}
SERIES: dict[str, int] = {
    "float64": T.ATTRIBUTE_TYPE_FLOAT_SERIES,
    "string": T.ATTRIBUTE_TYPE_STRING_SERIES,
    "histogram": T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES,
    "file_ref": T.ATTRIBUTE_TYPE_FILE_REF_SERIES,
}


@dataclass(frozen=True)
class Create:
    """Create a run."""

    run: str
    parent: str | None = None
    at: float | None = None
    experiment: str | None = None
    inherit: bool = False

    def operation(self) -> pb.RunOperation:
        return create(
            self.run, parent=self.parent, at=self.at, experiment=self.experiment, inherit=self.inherit, created=START_MS
        )


@dataclass(frozen=True)
class Snapshot:
    """Change a run at a step and `ms` milliseconds after START_MS; each change is one path's."""

    assign: tuple[tuple[str, Plain], ...] = ()
    append: tuple[tuple[str, Plain], ...] = ()
    sets: tuple[tuple[str, str, bool], ...] = ()
    at: float | None = None
    ms: int = 0
    ratio: float | None = None

    def message(self) -> pb.UpdateRunSnapshot:
        return snapshot(
            dict(self.append),
            self.at,
            START_MS + self.ms,
            assign=dict(self.assign),
            sets={
                path: change(add=[member]) if is_added else change(remove=[member])
                for path, member, is_added in self.sets
            },
            preview=self.ratio,
        )


@dataclass(frozen=True)
class Update:
    """Change a run by snapshots."""

    run: str
    snapshots: tuple[Snapshot, ...]

    def operation(self) -> pb.RunOperation:
        return update(*(item.message() for item in self.snapshots), run=self.run)


@dataclass(frozen=True)
class Columns:
    """Append columns to a run: by path points (step, milliseconds after START_MS, value), and the ratio of previews."""

    run: str
    series: tuple[tuple[str, tuple[tuple[float, int, float], ...], float | None], ...]

    def operation(self) -> AppendColumnsRequest:
        return append_request(
            PROJECT,
            self.run,
            {
                path: points(
                    [value for _, _, value in rows],
                    steps=[at for at, _, _ in rows],
                    times=[START_MS + ms for _, ms, _ in rows],
                    ratios=None if ratio is None else [ratio] * len(rows),
                )
                for path, rows, ratio in self.series
            },
        )


@dataclass
class Series:
    """Points and previews as they were logged: (micro-step, ms, value) and step -> (ms, value, ratio)."""

    type: int
    points: list[tuple[int, int, pb.Value]] = field(default_factory=list)
    previews: dict[int, tuple[int, float, float]] = field(default_factory=dict)

    def last_step(self) -> int | None:
        return max((step for step, _, _ in self.points), default=None)

    def by_step(self) -> dict[int, tuple[int, pb.Value]]:
        """Return the points that count: of those at one step the one logged last."""
        return {step: (ms, item) for step, ms, item in self.points}

    def previews_left(self) -> dict[int, tuple[int, float, float]]:
        last = self.last_step()
        return {step: preview for step, preview in self.previews.items() if last is None or step > last}


@dataclass
class Run:
    """A run."""

    parent: Run | None
    requested: tuple[str | None, int | None]
    fork_step: int | None
    depth: int
    experiment: str | None
    values: dict[str, tuple[int, pb.Value]] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)

    def last_step(self) -> int | None:
        own = [series.last_step() for series in self.series.values()]
        return max((step for step in [*own, self.fork_step] if step is not None), default=None)

    def type_of(self, path: str) -> int | None:
        """Return the type an attribute has, or takes over from an ancestor whose points the run sees."""
        if path in self.values:
            return self.values[path][0]
        if path in self.series:
            return self.series[path].type
        run, bound = self, self.fork_step
        while run.parent is not None and bound is not None:
            inherited = run.parent.series.get(path)
            if inherited is not None and any(step <= bound for step, _, _ in inherited.points):
                return inherited.type
            run = run.parent
            bound = None if run.fork_step is None else min(bound, run.fork_step)
        return None


class Model:
    """Apply operations one after the other."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.heads: dict[str, str] = {}

    def apply(self, operation: Create | Update | Columns) -> Counts:
        if isinstance(operation, Create):
            return {self._create(operation): 1}
        run = self.runs.get(operation.run)
        counts: Counter[str] = Counter()
        if isinstance(operation, Columns):
            for path, rows, ratio in operation.series:
                for at, ms, number in rows:
                    step = round(at * WHOLE)
                    # Paths are judged before it is known whether there is a run, but a missing run is all that is told.
                    counts[
                        "RUN_NOT_FOUND"
                        if run is None
                        else self._append(run, path, value(number), step, START_MS + ms, ratio)
                    ] += 1
            return dict(counts)
        for item in operation.snapshots:
            changes = [*item.assign, *item.append, *item.sets]
            if run is None:
                counts["RUN_NOT_FOUND"] += len(changes)
            else:
                counts.update(self._update(run, item))
        return dict(counts)

    def _create(self, operation: Create) -> str:
        step = None if operation.at is None else round(operation.at * WHOLE)
        requested = (operation.parent, step if operation.parent is not None else None)
        existing = self.runs.get(operation.run)
        if existing is not None:
            return "RUN_DUPLICATE" if existing.requested == requested else "RUN_CONFLICTING"
        parent = None if operation.parent is None else self.runs.get(operation.parent)
        run = Run(parent, requested, None, 0, operation.experiment)
        if parent is not None:
            run.fork_step = parent.last_step() if step is None else step
            run.depth = parent.depth + 1
            if operation.inherit:
                run.values = dict(parent.values)
        self.runs[operation.run] = run
        if operation.experiment is not None:
            self.heads[operation.experiment] = operation.run
        return "RUN_FORK_PARENT_NOT_FOUND" if operation.parent is not None and parent is None else "OK"

    def _update(self, run: Run, item: Snapshot) -> list[str]:
        codes = [self._assign(run, path, value(plain)) for path, plain in item.assign]
        codes += [self._modify(run, path, member, is_added) for path, member, is_added in item.sets]
        step = _next_step(run, item) if item.at is None else round(item.at * WHOLE)
        return codes + [
            self._append(run, path, value(plain), step, START_MS + item.ms, item.ratio) for path, plain in item.append
        ]

    def _assign(self, run: Run, path: str, item: pb.Value) -> str:
        type_ = SINGLES.get(item.WhichOneof("value") or "")
        fault = _fault(run, path, type_)
        if fault == "OK" and type_ is not None:
            run.values[path] = (type_, item)
        return fault

    def _modify(self, run: Run, path: str, member: str, is_added: bool) -> str:
        fault = _fault(run, path, T.ATTRIBUTE_TYPE_STRING_SET)
        if fault == "OK":
            _, before = run.values.get(path, (0, pb.Value()))
            members = set(before.string_set.values)
            if is_added:
                members.add(member)
            else:
                members.discard(member)
            run.values[path] = (T.ATTRIBUTE_TYPE_STRING_SET, value(frozenset(members)))
        return fault

    def _append(self, run: Run, path: str, item: pb.Value, step: int, ms: int, ratio: float | None) -> str:
        kind = item.WhichOneof("value") or ""
        type_ = None if ratio is not None and kind != "float64" else SERIES.get(kind)
        fault = _fault(run, path, type_)
        if fault != "OK" or type_ is None:
            return fault
        if run.fork_step is not None and step <= run.fork_step:
            return "SERIES_STEP_NOT_AFTER_FORK_POINT"
        series = run.series.get(path, Series(type_))
        last = series.last_step()
        if ratio is not None:
            if last is not None and step <= last:
                return "SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP"
            series.previews[step] = (ms, item.float64, min(max(ratio, 0.0), 1.0))
        else:
            logged = series.by_step().get(step)
            if logged is not None and _same(logged[1], item):
                return "SERIES_POINT_DUPLICATE"
            if last is not None and step <= last and type_ in ORDERED:
                return "SERIES_STEP_NON_INCREASING"
            if series.points and ms < series.points[-1][1]:
                return "SERIES_TIMESTAMP_DECREASING"
            series.points.append((step, ms, item))
        run.series[path] = series
        return "OK"


def _fault(run: Run, path: str, type_: int | None) -> str:
    if not path:
        return "FIELD_PATH_EMPTY"
    if path.startswith("sys/"):
        return "FIELD_PATH_NON_WRITABLE"
    if type_ is None:
        return "FIELD_TYPE_UNSUPPORTED"
    return "OK" if run.type_of(path) in {None, type_} else "FIELD_TYPE_CONFLICTING"


def _next_step(run: Run, item: Snapshot) -> int:
    lasts = [run.series[path].last_step() for path, _ in item.append if path in run.series]
    known = [last for last in [*lasts, run.fork_step] if last is not None]
    return (max(known) // WHOLE + 1) * WHOLE if known else 0


def _same(left: pb.Value, right: pb.Value) -> bool:
    if left.WhichOneof("value") == right.WhichOneof("value") == "float64":
        return left.float64 == right.float64 or (math.isnan(left.float64) and math.isnan(right.float64))
    return left == right


def columns_of(type_: int, item: pb.Value) -> tuple[int, Any, Any, Any, Any]:
    """Return a single value as the store keeps it: type, integer, double, text, MIME type."""
    if type_ == T.ATTRIBUTE_TYPE_FLOAT:
        return type_, None, None if math.isnan(item.float64) else item.float64, None, None
    if type_ == T.ATTRIBUTE_TYPE_INT:
        return type_, item.int64, None, None, None
    if type_ == T.ATTRIBUTE_TYPE_BOOL:
        return type_, int(item.bool), None, None, None
    if type_ == T.ATTRIBUTE_TYPE_STRING:
        return type_, None, None, item.string, None
    if type_ == T.ATTRIBUTE_TYPE_STRING_SET:
        return type_, None, None, json.dumps(sorted(item.string_set.values), separators=(",", ":")), None
    file = item.file_ref
    return type_, file.size_bytes, None, file.path, file.mime_type
