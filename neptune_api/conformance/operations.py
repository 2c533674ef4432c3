"""Operations on runs, built from Python values: what the tests of ingestion write."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    Plain: TypeAlias = (
        bool | int | float | str | datetime | frozenset[str] | pb.FileRef | pb.Histogram | Timestamp | pb.Value
    )

PROJECT = "local/lab"
RUN = "run"
START_MS = 1_700_000_000_000
"""A time for points whose time matters to nobody."""


def step(number: float) -> pb.Step:
    """Return the step nearest to a number; `Step` messages for steps that cannot be."""
    micros = round(number * 1_000_000)
    return pb.Step(whole=micros // 1_000_000, micro=micros % 1_000_000)


def timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def value(plain: Plain) -> pb.Value:
    """Return the value of the kind that fits the type."""
    if isinstance(plain, pb.Value):
        return plain
    if isinstance(plain, bool):
        return pb.Value(bool=plain)
    if isinstance(plain, int):
        return pb.Value(int64=plain)
    if isinstance(plain, float):
        return pb.Value(float64=plain)
    if isinstance(plain, str):
        return pb.Value(string=plain)
    if isinstance(plain, datetime):
        return pb.Value(timestamp=timestamp(round(plain.astimezone(timezone.utc).timestamp() * 1000)))
    if isinstance(plain, frozenset):
        return pb.Value(string_set=pb.StringSet(values=sorted(plain)))
    if isinstance(plain, pb.FileRef):
        return pb.Value(file_ref=plain)
    if isinstance(plain, pb.Histogram):
        return pb.Value(histogram=plain)
    return pb.Value(timestamp=plain)


def file(path: str, size: int = 1, mime_type: str = "text/plain") -> pb.FileRef:
    return pb.FileRef(path=path, size_bytes=size, mime_type=mime_type)


def counts(edges: Iterable[float], values: Iterable[int]) -> pb.Histogram:
    return pb.Histogram(bin_edges=edges, counts=pb.HistogramCounts(values=values))


def densities(edges: Iterable[float], values: Iterable[float]) -> pb.Histogram:
    return pb.Histogram(bin_edges=edges, densities=pb.HistogramDensities(values=values))


def change(*, add: Iterable[str] = (), remove: Iterable[str] = (), leave: Iterable[str] = ()) -> pb.ModifySet:
    """Return changes of a set of texts."""
    changes = dict.fromkeys(leave, pb.SET_OPERATION_NOOP)
    changes |= dict.fromkeys(add, pb.SET_OPERATION_ADD)
    changes |= dict.fromkeys(remove, pb.SET_OPERATION_REMOVE)
    return pb.ModifySet(string=pb.ModifyStringSet(values=changes))


def snapshot(
    append: Mapping[str, Plain] | None = None,
    at: float | pb.Step | None = None,
    ms: int | Timestamp | None = START_MS,
    *,
    assign: Mapping[str, Plain] | None = None,
    sets: Mapping[str, pb.ModifySet] | None = None,
    preview: pb.Preview | float | None = None,
) -> pb.UpdateRunSnapshot:
    """Return a snapshot at a step and a time in milliseconds, either of which may be absent."""
    return pb.UpdateRunSnapshot(
        step=step(at) if isinstance(at, int | float) else at,
        timestamp=timestamp(ms) if isinstance(ms, int) else ms,
        assign={path: value(plain) for path, plain in (assign or {}).items()},
        append={path: value(plain) for path, plain in (append or {}).items()},
        modify_sets=sets,
        preview=pb.Preview(is_preview=True, completion_ratio=preview) if isinstance(preview, int | float) else preview,
    )


def update(*snapshots: pb.UpdateRunSnapshot, run: str = RUN, project: str = PROJECT) -> pb.RunOperation:
    """Return an operation that applies snapshots in their order."""
    return pb.RunOperation(project=project, run_id=run, update_batch=pb.UpdateRunSnapshots(snapshots=snapshots))


def assign(values: Mapping[str, Plain], run: str = RUN, project: str = PROJECT) -> pb.RunOperation:
    return update(snapshot(assign=values), run=run, project=project)


def append(
    values: Mapping[str, Plain],
    at: float | pb.Step | None = None,
    ms: int | Timestamp | None = START_MS,
    *,
    preview: pb.Preview | float | None = None,
    run: str = RUN,
    project: str = PROJECT,
) -> pb.RunOperation:
    return update(snapshot(values, at, ms, preview=preview), run=run, project=project)


def create(
    run: str = RUN,
    *,
    project: str = PROJECT,
    parent: str | None = None,
    at: float | pb.Step | None = None,
    family: str | None = None,
    experiment: str | None = None,
    inherit: bool | None = None,
    created: int | None = None,
) -> pb.RunOperation:
    """Return the creation of a run, of a fork when there is a `parent`; only what is given is present."""
    message = pb.CreateRun(
        family=family,
        experiment_id=experiment,
        inherit_configs=inherit,
        creation_time=None if created is None else timestamp(created),
    )
    if parent is not None:
        fork_step = step(at) if isinstance(at, int | float) else at
        message.fork_point.CopyFrom(pb.ForkPoint(parent_run_id=parent, step=fork_step))
    return pb.RunOperation(project=project, run_id=run, create=message)
