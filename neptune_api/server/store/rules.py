"""The rules of ingestion: what a path, a value, a step may be, and which IngestCode says that it is not.

Pure functions over messages; what depends on stored state (types, order of steps) is in `applier`.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from google.rpc import code_pb2

from neptune_api.server import limits
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

    from neptune_api.server.store.columns import Int64Array

GRPC_CODES: Final[dict[int, int]] = {
    pb.INGEST_CODE_OK: code_pb2.OK,
    pb.INGEST_CODE_PROJECT_NOT_FOUND: code_pb2.NOT_FOUND,
    pb.INGEST_CODE_RUN_NOT_FOUND: code_pb2.NOT_FOUND,
    pb.INGEST_CODE_RUN_DUPLICATE: code_pb2.ALREADY_EXISTS,
    pb.INGEST_CODE_RUN_CONFLICTING: code_pb2.ALREADY_EXISTS,
    pb.INGEST_CODE_RUN_FORK_PARENT_NOT_FOUND: code_pb2.NOT_FOUND,
    pb.INGEST_CODE_SERIES_POINT_DUPLICATE: code_pb2.ALREADY_EXISTS,
    pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE: code_pb2.OUT_OF_RANGE,
    pb.INGEST_CODE_INGEST_SUSPENDED: code_pb2.FAILED_PRECONDITION,
    pb.INGEST_CODE_INTERNAL: code_pb2.INTERNAL,
}
"""The status code that goes with each IngestCode; all others go with INVALID_ARGUMENT."""

SENTENCES: Final[dict[int, str]] = {
    pb.INGEST_CODE_PROJECT_NOT_FOUND: "The project does not exist or you may not see it: create it first.",
    pb.INGEST_CODE_PROJECT_INVALID_NAME: (
        f"A project is named workspace/name, the name 1 to {limits.MAX_PROJECT_NAME_BYTES} word characters, '-' or '.'."
    ),
    pb.INGEST_CODE_RUN_NOT_FOUND: "The run does not exist: create it first.",
    pb.INGEST_CODE_RUN_DUPLICATE: "The run exists already; nothing was changed.",
    pb.INGEST_CODE_RUN_CONFLICTING: "A run with this id exists with another fork point or family; nothing was changed.",
    pb.INGEST_CODE_RUN_FORK_PARENT_NOT_FOUND: "The parent run does not exist; the run was created without a parent.",
    pb.INGEST_CODE_RUN_INVALID_CREATION_PARAMETERS: "A parameter of the run is unusable; nothing was created.",
    pb.INGEST_CODE_FIELD_PATH_EXCEEDS_SIZE_LIMIT: (
        f"An attribute path has at most {limits.MAX_ATTRIBUTE_PATH_BYTES:,} bytes of UTF-8."
    ),
    pb.INGEST_CODE_FIELD_PATH_EMPTY: "An attribute path is not empty.",
    pb.INGEST_CODE_FIELD_PATH_INVALID: "An attribute path has no NUL character.",
    pb.INGEST_CODE_FIELD_PATH_NON_WRITABLE: (
        "Only the server writes this attribute; of sys/* you may write sys/tags, sys/group_tags, sys/description and "
        "sys/failed."
    ),
    pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED: (
        "assign takes float64, int64, bool, string, timestamp, string_set and file_ref; append takes float64, string, "
        "histogram and file_ref; previews take float64; modify_sets takes a set of strings."
    ),
    pb.INGEST_CODE_FIELD_TYPE_CONFLICTING: "The attribute has another type, and a type never changes.",
    pb.INGEST_CODE_SERIES_POINT_DUPLICATE: "The same value was logged at this step before.",
    pb.INGEST_CODE_SERIES_STEP_NON_INCREASING: "Steps of a series increase: log at a step after the last one.",
    pb.INGEST_CODE_SERIES_STEP_NOT_AFTER_FORK_POINT: "A fork logs at steps after its fork point.",
    pb.INGEST_CODE_SERIES_TIMESTAMP_DECREASING: "Timestamps of a series do not decrease.",
    pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE: "Datetimes and times of points lie from 1900-01-01 to 2299-12-31.",
    pb.INGEST_CODE_STRING_VALUE_EXCEEDS_SIZE_LIMIT: f"A string has at most {limits.MAX_STRING_BYTES:,} bytes of UTF-8.",
    pb.INGEST_CODE_STRING_SET_EXCEEDS_SIZE_LIMIT: (
        f"The members of a string set have at most {limits.MAX_STRING_SET_BYTES:,} bytes of UTF-8 together."
    ),
    pb.INGEST_CODE_FILE_REF_EXCEEDS_SIZE_LIMIT: (
        f"Path and MIME type of a file have at most {limits.MAX_FILE_REF_BYTES:,} bytes of UTF-8 together."
    ),
    pb.INGEST_CODE_SERIES_STEP_TOO_LARGE: f"A step is less than {limits.MAX_WHOLE_STEP:,}.",
    pb.INGEST_CODE_SERIES_STEP_INVALID: (
        f"A step is not negative, and its micro part is less than {limits.MICROS_PER_STEP:,}."
    ),
    pb.INGEST_CODE_SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP: (
        "A preview comes after the last committed step of its series."
    ),
    pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_CONTAINS_NAN: "Bin edges of a histogram are not NaN.",
    pb.INGEST_CODE_HISTOGRAM_TOO_MANY_BINS: f"A histogram has at most {limits.MAX_HISTOGRAM_EDGES} bin edges.",
    pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_NOT_INCREASING: "Bin edges of a histogram strictly increase.",
    pb.INGEST_CODE_HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS: (
        "A histogram has one value per bin, one fewer than bin edges."
    ),
    pb.INGEST_CODE_INGEST_SUSPENDED: "The project is archived and takes no more data: unarchive it first.",
    pb.INGEST_CODE_INTERNAL: "The server failed to apply this; its log says why.",
}
"""What each IngestCode means to the user, the limit and what to do included."""

_WRITABLE_SYSTEM: Final = {
    "sys/tags": AttributeType.ATTRIBUTE_TYPE_STRING_SET,
    "sys/group_tags": AttributeType.ATTRIBUTE_TYPE_STRING_SET,
    "sys/description": AttributeType.ATTRIBUTE_TYPE_STRING,
    "sys/failed": AttributeType.ATTRIBUTE_TYPE_BOOL,
}

ASSIGN_TYPES: Final[dict[str, AttributeType.ValueType]] = {
    "float64": AttributeType.ATTRIBUTE_TYPE_FLOAT,
    "int64": AttributeType.ATTRIBUTE_TYPE_INT,
    "bool": AttributeType.ATTRIBUTE_TYPE_BOOL,
    "string": AttributeType.ATTRIBUTE_TYPE_STRING,
    "timestamp": AttributeType.ATTRIBUTE_TYPE_DATETIME,
    "string_set": AttributeType.ATTRIBUTE_TYPE_STRING_SET,
    "file_ref": AttributeType.ATTRIBUTE_TYPE_FILE_REF,
}
"""The attribute type that assigning each kind of value makes."""

APPEND_TYPES: Final[dict[str, AttributeType.ValueType]] = {
    "float64": AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES,
    "string": AttributeType.ATTRIBUTE_TYPE_STRING_SERIES,
    "histogram": AttributeType.ATTRIBUTE_TYPE_HISTOGRAM_SERIES,
    "file_ref": AttributeType.ATTRIBUTE_TYPE_FILE_REF_SERIES,
}
"""The attribute type that appending each kind of value makes."""

ORDERED_SERIES: Final = frozenset(
    {AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES, AttributeType.ATTRIBUTE_TYPE_STRING_SERIES}
)
"""Series whose steps must increase; the others take points in any order."""


def grpc_code(code: int) -> int:
    """Return the status code that goes with an IngestCode."""
    return GRPC_CODES.get(code, code_pb2.INVALID_ARGUMENT)


def creation_fault(message: pb.RunOperation, owner: str) -> str | None:
    """Return what is unusable in the creation of a run by `owner`, in a sentence; None when all is well."""
    create = message.create
    for name, text, limit in (
        ("run id", message.run_id, limits.MAX_RUN_ID_BYTES),
        ("family", create.family, limits.MAX_RUN_ID_BYTES),
        ("experiment name", create.experiment_id, limits.MAX_EXPERIMENT_NAME_BYTES),
        ("parent's run id", create.fork_point.parent_run_id, limits.MAX_RUN_ID_BYTES),
    ):
        size = len(text.encode())
        if size > limit:
            return f"The {name} has {size} bytes of UTF-8; the limit is {limit}."
        if "\0" in text:
            return f"The {name} has a NUL character; leave it out."
    if "/" in message.run_id:
        return "A run id has no '/'."
    if create.run_id not in {"", message.run_id}:
        return "The run ids of the operation and of its creation differ; leave the inner one out."
    if create.HasField("fork_point"):
        fork = create.fork_point
        if not fork.parent_run_id:
            return "The fork point names no parent run."
        if fork.parent_project not in {"", message.project}:
            return "The parent run has to be in the same project; leave parent_project out."
        fault = step_fault(fork.step)
        if fault != pb.INGEST_CODE_OK:
            return f"The fork point is at an impossible step. {SENTENCES[fault]}"
    if (create.owner.user_id or create.owner.service_account_id) not in {"", owner}:
        return "The owner of a run is who creates it; leave the owner out."
    if time_fault(timestamp_ms(create.creation_time)) != pb.INGEST_CODE_OK:
        return "A run is created from 1900-01-01 to 2299-12-31."
    return None


def path_fault(path: str) -> int:
    """Return why `path` cannot be written, or INGEST_CODE_OK."""
    if not path:
        return pb.INGEST_CODE_FIELD_PATH_EMPTY
    # A character is at least a byte and at most four: most paths need no encoding to be judged.
    if len(path) * 4 > limits.MAX_ATTRIBUTE_PATH_BYTES and len(path.encode()) > limits.MAX_ATTRIBUTE_PATH_BYTES:
        return pb.INGEST_CODE_FIELD_PATH_EXCEEDS_SIZE_LIMIT
    if "\0" in path:
        return pb.INGEST_CODE_FIELD_PATH_INVALID
    if path.startswith("sys/") and path not in _WRITABLE_SYSTEM:
        return pb.INGEST_CODE_FIELD_PATH_NON_WRITABLE
    return pb.INGEST_CODE_OK


def system_type(path: str) -> AttributeType.ValueType | None:
    """Return the type that a writable attribute of the system has; None for a user's attribute."""
    return _WRITABLE_SYSTEM.get(path)


def value_fault(kind: str, value: pb.Value) -> int:
    """Return why a value of this kind (its name in the oneof) cannot be stored, or INGEST_CODE_OK."""
    if kind == "string":
        return _string_fault(value.string)
    if kind == "timestamp":
        return time_fault(timestamp_ms(value.timestamp))
    if kind == "string_set":
        return set_fault(set(value.string_set.values))
    if kind == "file_ref":
        file = value.file_ref
        if len(file.path.encode()) + len(file.mime_type.encode()) > limits.MAX_FILE_REF_BYTES:
            return pb.INGEST_CODE_FILE_REF_EXCEEDS_SIZE_LIMIT
    elif kind == "histogram":
        return _histogram_fault(value.histogram)
    return pb.INGEST_CODE_OK


def set_fault(members: Iterable[str]) -> int:
    """Return INGEST_CODE_STRING_SET_EXCEEDS_SIZE_LIMIT for members that are too large together, or INGEST_CODE_OK."""
    if sum(len(member.encode()) for member in members) > limits.MAX_STRING_SET_BYTES:
        return pb.INGEST_CODE_STRING_SET_EXCEEDS_SIZE_LIMIT
    return pb.INGEST_CODE_OK


def time_fault(milliseconds: int) -> int:
    """Return INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE for a time that is not stored, or INGEST_CODE_OK."""
    if limits.MIN_DATETIME_MS <= milliseconds <= limits.MAX_DATETIME_MS:
        return pb.INGEST_CODE_OK
    return pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE


def step_fault(step: pb.Step) -> int:
    """Return why a step cannot be, or INGEST_CODE_OK."""
    if step.micro >= limits.MICROS_PER_STEP:
        return pb.INGEST_CODE_SERIES_STEP_INVALID
    if step.whole >= limits.MAX_WHOLE_STEP:
        return pb.INGEST_CODE_SERIES_STEP_TOO_LARGE
    return pb.INGEST_CODE_OK


def position_faults(steps: Int64Array, timestamps: Int64Array) -> Int64Array | None:
    """Return why each point cannot be at its micro-step and its milliseconds, as codes; None when all can.

    The limits are those of `step_fault` and `time_fault`.
    """
    end = limits.MAX_WHOLE_STEP * limits.MICROS_PER_STEP
    if not len(steps) or (
        steps.min() >= 0
        and steps.max() < end
        and timestamps.min() >= limits.MIN_DATETIME_MS
        and timestamps.max() <= limits.MAX_DATETIME_MS
    ):
        return None
    out_of_time = (timestamps < limits.MIN_DATETIME_MS) | (timestamps > limits.MAX_DATETIME_MS)
    codes = np.where(out_of_time, pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE, pb.INGEST_CODE_OK)
    codes[steps >= end] = pb.INGEST_CODE_SERIES_STEP_TOO_LARGE
    codes[steps < 0] = pb.INGEST_CODE_SERIES_STEP_INVALID
    return codes


def step_micros(step: pb.Step) -> int:
    """Return a step in millionths."""
    return step.whole * limits.MICROS_PER_STEP + step.micro


def timestamp_ms(timestamp: Timestamp) -> int:
    """Return the nearest millisecond: clients compute nanoseconds through floats, so cutting off loses one in two."""
    return timestamp.seconds * 1000 + round(timestamp.nanos / 1_000_000)


def completion_ratio(preview: pb.Preview) -> float:
    """Return the ratio clamped to 0..1; NaN and an absent one are 0."""
    ratio = preview.completion_ratio
    return 0.0 if math.isnan(ratio) else min(max(ratio, 0.0), 1.0)


def encode_set(members: Iterable[str]) -> str:
    """Return the text that a set is stored as."""
    return json.dumps(sorted(members), ensure_ascii=False, separators=(",", ":"))


def decode_set(text: str) -> list[str]:
    """Return the sorted members of a stored set."""
    members: list[str] = json.loads(text)
    return members


def _string_fault(text: str) -> int:
    if len(text) * 4 > limits.MAX_STRING_BYTES and len(text.encode()) > limits.MAX_STRING_BYTES:
        return pb.INGEST_CODE_STRING_VALUE_EXCEEDS_SIZE_LIMIT
    return pb.INGEST_CODE_OK


def _histogram_fault(histogram: pb.Histogram) -> int:
    edges = histogram.bin_edges
    if any(math.isnan(edge) for edge in edges):
        return pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_CONTAINS_NAN
    if len(edges) > limits.MAX_HISTOGRAM_EDGES:
        return pb.INGEST_CODE_HISTOGRAM_TOO_MANY_BINS
    if any(left >= right for left, right in pairwise(edges)):
        return pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_NOT_INCREASING
    kind = histogram.WhichOneof("values")
    bins = 0 if kind is None else len(histogram.counts.values if kind == "counts" else histogram.densities.values)
    if bins != len(edges) - 1:
        return pb.INGEST_CODE_HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS
    return pb.INGEST_CODE_OK
