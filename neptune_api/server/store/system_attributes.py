"""The sys/* attributes: what the server knows of a run, kept as ordinary attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.server.store.run_state import RunState, Scalar

    # Sets a system attribute of a run: (run, name, type, value).
    Setter = Callable[[RunState, str, int, Scalar], None]

_COUNTERS: Final = {
    T.ATTRIBUTE_TYPE_BOOL: "bool_count",
    T.ATTRIBUTE_TYPE_FILE_REF: "file_ref_count",
    T.ATTRIBUTE_TYPE_FILE_REF_SERIES: "file_ref_series_count",
    T.ATTRIBUTE_TYPE_FLOAT: "float_count",
    T.ATTRIBUTE_TYPE_FLOAT_SERIES: "float_series_count",
    T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES: "histogram_series_count",
    T.ATTRIBUTE_TYPE_INT: "int_count",
    T.ATTRIBUTE_TYPE_STRING: "string_count",
    T.ATTRIBUTE_TYPE_STRING_SERIES: "string_series_count",
    T.ATTRIBUTE_TYPE_STRING_SET: "string_set_count",
}
_DIAGNOSTICS: Final = "sys/diagnostics/attributes/"
# What a point of a series counts for in sys/size: its step and its value.
_POINT_BYTES: Final = 16
_MAX_INT: Final = 2**63 - 1

IDLE_AFTER_MS: Final = 600_000
"""A run is running until nothing of it has been applied for so long; sys/state holds when something last was."""


def describe_creation(
    run: RunState, put: Setter, *, short_id: str, owner: str, project_uuid: str, tracker: str | None
) -> None:
    """Set what is known of a run when it is created."""
    for name, text in {
        "sys/id": short_id,
        "sys/custom_run_id": run.run_id,
        "sys/family": run.family,
        "sys/owner": owner,
        "sys/diagnostics/project_uuid": project_uuid,
        "sys/diagnostics/run_uuid": run.uuid,
    }.items():
        put(run, name, T.ATTRIBUTE_TYPE_STRING, text)
    if tracker:
        put(run, "sys/diagnostics/tracker_client", T.ATTRIBUTE_TYPE_STRING, tracker)
    put(run, "sys/creation_time", T.ATTRIBUTE_TYPE_DATETIME, run.created_ms)
    for name in ("sys/archived", "sys/trashed", "sys/failed"):
        put(run, name, T.ATTRIBUTE_TYPE_BOOL, 0)
    for name in ("sys/tags", "sys/group_tags"):
        put(run, name, T.ATTRIBUTE_TYPE_STRING_SET, frozenset())
    if run.experiment is not None:
        put(run, "sys/name", T.ATTRIBUTE_TYPE_STRING, run.experiment)
        put(run, "sys/experiment/name", T.ATTRIBUTE_TYPE_STRING, run.experiment)
        put(run, "sys/experiment/is_head", T.ATTRIBUTE_TYPE_BOOL, 1)


def describe_fork(run: RunState, put: Setter, *, parent: RunState | None, requested_parent: str) -> None:
    """Set what is known of a fork: its parent, when there is one, and where it forks off."""
    put(run, "sys/forking/requested_parent", T.ATTRIBUTE_TYPE_STRING, requested_parent)
    if parent is None:
        return
    put(run, "sys/forking/parent", T.ATTRIBUTE_TYPE_STRING, str(parent.attributes["sys/id"].value))
    if run.fork_step is not None:
        put(run, "sys/forking/step", T.ATTRIBUTE_TYPE_FLOAT, run.fork_step / 1_000_000)
    for name in ("sys/tags", "sys/description"):
        inherited = parent.attributes.get(name)
        if inherited is not None and inherited.value is not None:
            put(run, name, inherited.type, inherited.value)


def describe_descent(run: RunState, put: Setter, parent: RunState | None) -> None:
    """Set the number of a run's ancestors, and how long after the first of them it was created."""
    depth = relative_ms = 0
    if parent is not None:
        depth = 1 + _int_of(parent, "sys/forking/depth")
        relative_ms = _int_of(parent, "sys/relative_creation_time_ms") + run.created_ms - parent.created_ms
    put(run, "sys/forking/depth", T.ATTRIBUTE_TYPE_INT, depth)
    put(run, "sys/relative_creation_time_ms", T.ATTRIBUTE_TYPE_INT, relative_ms)


def _int_of(run: RunState, name: str) -> int:
    """Return a system attribute; 0 for a run of before there was one."""
    attribute = run.attributes.get(name)
    return attribute.value if attribute is not None and isinstance(attribute.value, int) else 0


def describe_activity(run: RunState, put: Setter) -> None:
    """Set what changes whenever something is applied to a run: times and counters."""
    put(run, "sys/modification_time", T.ATTRIBUTE_TYPE_DATETIME, run.modified_ms)
    put(run, "sys/ping_time", T.ATTRIBUTE_TYPE_DATETIME, run.last_applied_ms)
    put(run, "sys/state", T.ATTRIBUTE_TYPE_EXPERIMENT_STATE, run.last_applied_ms)
    running_seconds = max(0.0, (run.last_applied_ms - run.created_ms) / 1000)
    put(run, "sys/running_time_seconds", T.ATTRIBUTE_TYPE_FLOAT, running_seconds)
    if run.experiment is not None:
        put(run, "sys/experiment/running_time_seconds", T.ATTRIBUTE_TYPE_FLOAT, running_seconds)
    counts = dict.fromkeys(_COUNTERS.values(), 0)
    total, points, size = 0, run.floats.count, 0
    for attribute in run.attributes.values():
        if attribute.name.startswith("sys/"):
            continue
        total += 1
        counter = _COUNTERS.get(attribute.type)  # type: ignore[call-overload]  # the keys are integers at run time
        if counter is not None:
            counts[counter] += 1
        if attribute.series is not None:
            points += attribute.series.count
        elif isinstance(attribute.value, pb.FileRef):
            size += attribute.value.size_bytes
    put(run, "sys/size", T.ATTRIBUTE_TYPE_INT, min(size + _POINT_BYTES * points, _MAX_INT))
    for name, count in {**counts, "total_count": total, "total_series_datapoints": points}.items():
        put(run, _DIAGNOSTICS + name, T.ATTRIBUTE_TYPE_INT, count)
