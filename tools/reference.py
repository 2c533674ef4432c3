"""Write docs/errors.md and docs/limits.md from the tables that the code goes by.

    python tools/reference.py DESCRIPTORS OUT

Run by build_protos.py in the compiler environment; DESCRIPTORS is a FileDescriptorSet with comments, OUT the folder
with the freshly compiled package. Codes and statuses come from neptune_api.exceptions, what channels repeat from
neptune_api.options, reasons from neptune_api.server.reasons, ingest codes and the words about limits from the protos,
numbers from neptune_api.server.limits. What is here is what no other place knows.
"""

from __future__ import annotations

import inspect
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf import descriptor_pb2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neptune_api
from tools.openapi import PACKAGE, comments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
ERRORS: Final = "docs/errors.md"
LIMITS: Final = "docs/limits.md"

ERRORS_HEAD: Final = """# Errors

Every failed call raises the exception of its status code, a class of `neptune_api.exceptions` and a `grpc.RpcError`, on
both wires, for threads and for asyncio. Of the exception, `details()` is the sentence, `error_info.reason` the cause as
a name, `violations` what is wrong with which field, `retry_delay` the seconds after which to try again.

This page is written by `build_protos.py` from the tables that the code goes by.

## Status codes

Channels repeat calls that may be repeated when they fail with the codes marked so, {attempts} attempts in all and with
growing waits; when it says "if asked to", only if the server says when. HTTP bodies carry the code itself, because some
statuses stand for several.
"""

REASONS_HEAD: Final = """
## Reasons

`error_info.reason` over both wires, `errorType` in a body of the REST API. Those of files come from signed URLs, which
are no RPCs.
"""

INGEST_HEAD: Final = """
## Outcomes of operations

An operation is accepted as a whole and judged value by value when it is applied: what is wrong with one value is no
failed call. `IngestService.BulkGetRequestStatus` counts these codes for each request, `BulkGetRequestDetails` says
which path each one is about. The other values of the operation are written all the same. Nothing that is refused here
gets better by sending it again.
"""

RELEASED_HEAD: Final = """
## What released clients make of it

They speak HTTP, and most of them see no more than the status. The statuses of the tables above are chosen so that what
cannot succeed is not repeated, as far as the clients let the server choose.
"""

RELEASED: Final = (
    ("400, 404, 409, 410, 413, 422", "goes on repeating, in rounds of six minutes", "raises an error"),
    ("401", "goes on repeating with the same token", "raises an error; of the API token: names the credentials"),
    ("403", "stops, with an error", "raises an error; for `ACCESS_DENIED` one that names the project"),
    ("408", "repeats", "raises an error"),
    ("429, 5xx", "repeats", "repeats, for half an hour at most; waits as `Retry-After` says"),
    ("any that Python does not know", "stops, with an error", "repeats, for half an hour at most"),
)
"""HTTP status, what neptune-scale 0.30.0 does, what neptune-query 1.14.1 and neptune-fetcher 0.23.0 do."""

LIMITS_HEAD: Final = """# Limits

What the server takes, in numbers. `ConfigService.GetServerInfo` tells them to programs, in the message `Limits`, whose
fields these are. They are the same for every server of a version: no option changes one, and
[limits.py](../neptune_api/server/limits.py) is the one place where they stand. A limit can be met exactly, unless it
says "smaller"; beyond it nothing is cut off in silence. What an error says is in [errors](errors.md).

This page is written by `build_protos.py`.
"""


class Enforcement(NamedTuple):
    """Where a limit meets a caller, and what comes beyond it."""

    where: str
    beyond: str


_INVALID: Final = "INVALID_ARGUMENT"
_LARGE: Final = "RESOURCE_EXHAUSTED, `REQUEST_TOO_LARGE`"
_EXHAUSTED: Final = "RESOURCE_EXHAUSTED"
_WRITES: Final = "operations and batches of columns"
_OPERATIONS: Final = "operations"

ENFORCEMENTS: Final[Mapping[str, Enforcement]] = {
    "max_request_bytes": Enforcement("every RPC", _LARGE),
    "max_run_id_bytes": Enforcement("creating runs", "INVALID_ARGUMENT; outcome RUN_INVALID_CREATION_PARAMETERS"),
    "max_experiment_name_bytes": Enforcement(
        "creating runs", "INVALID_ARGUMENT; outcome RUN_INVALID_CREATION_PARAMETERS"
    ),
    "max_attribute_path_bytes": Enforcement(_WRITES, "outcome FIELD_PATH_EXCEEDS_SIZE_LIMIT"),
    "max_string_bytes": Enforcement(_OPERATIONS, "outcome STRING_VALUE_EXCEEDS_SIZE_LIMIT"),
    "max_string_set_bytes": Enforcement(_OPERATIONS, "outcome STRING_SET_EXCEEDS_SIZE_LIMIT"),
    "max_file_ref_bytes": Enforcement(_OPERATIONS, "outcome FILE_REF_EXCEEDS_SIZE_LIMIT"),
    "max_histogram_edges": Enforcement(_OPERATIONS, "outcome HISTOGRAM_TOO_MANY_BINS"),
    "max_step": Enforcement(f"{_WRITES}, fork steps", "outcome SERIES_STEP_TOO_LARGE; INVALID_ARGUMENT for forks"),
    "step_resolution": Enforcement(f"{_WRITES}, fork steps", "outcome SERIES_STEP_INVALID"),
    "min_datetime_millis": Enforcement(
        f"{_WRITES}: values, and times of points", "outcome DATETIME_VALUE_OUT_OF_RANGE"
    ),
    "max_datetime_millis": Enforcement(
        f"{_WRITES}: values, and times of points", "outcome DATETIME_VALUE_OUT_OF_RANGE"
    ),
    "max_status_ids": Enforcement("IngestService.BulkGetRequestStatus", _INVALID),
    "max_project_name_bytes": Enforcement("creating and renaming projects", "INVALID_ARGUMENT, `PROJECT_NAME_INVALID`"),
    "max_project_key_length": Enforcement("creating projects", "INVALID_ARGUMENT, `PROJECT_KEY_INVALID`"),
    "max_project_description_bytes": Enforcement("creating and updating projects", _INVALID),
    "max_bulk_runs": Enforcement("trashing, restoring, deleting, archiving and tagging runs", _INVALID),
    "max_page_size": Enforcement("listings, searches, definitions, values", _INVALID),
    "max_points_per_series": Enforcement("SeriesService.GetFloatSeriesValues, GetSingleFloatSeriesValues", _INVALID),
    "max_series_query_path_bytes": Enforcement("SeriesService.GetSeriesValues", _INVALID),
    "max_username_bytes": Enforcement("creating users", _INVALID),
    "request_status_retention_seconds": Enforcement(
        "IngestService, all that tells outcomes", "the id is as unknown: NOT_FOUND in its status"
    ),
    "max_operation_bytes": Enforcement("IngestService, all that submits", _LARGE),
    "max_detail_ids": Enforcement("IngestService.BulkGetRequestDetails", _INVALID),
    "max_float_series_per_query": Enforcement("SeriesService.GetFloatSeriesValues", _INVALID),
    "max_points_per_answer": Enforcement("SeriesService.GetFloatSeriesValues", _EXHAUSTED),
    "max_series_answer_bytes": Enforcement(
        "SeriesService.GetSeriesValues", "the page ends, the next one goes on; INVALID_ARGUMENT to ask for more"
    ),
    "max_values_page_bytes": Enforcement(
        "AttributesService.QueryAttributeValues", "the page ends, the next one goes on"
    ),
    "max_users_per_listing": Enforcement("UsersService.ListUsers", _INVALID),
    "max_token_bytes": Enforcement("AuthService.ExchangeApiToken, RefreshToken", _INVALID),
    "max_email_bytes": Enforcement("creating users", _INVALID),
    "max_person_name_bytes": Enforcement("creating users", _INVALID),
    "max_avatar_url_bytes": Enforcement("creating and updating projects", _INVALID),
    "max_display_class_bytes": Enforcement("creating and updating projects", _INVALID),
    "max_idempotency_key_bytes": Enforcement("IngestService.Submit, in metadata", _INVALID),
    "max_files_to_sign": Enforcement("StorageService.CreateSignedUrls", _INVALID),
    "max_file_path_bytes": Enforcement("StorageService.CreateSignedUrls", _INVALID),
    "max_batch_id_bytes": Enforcement("SeriesService.AppendColumns, AppendColumnsStream", _INVALID),
    "max_column_series": Enforcement("SeriesService.AppendColumns, AppendColumnsStream, ReadColumns", _INVALID),
    "max_query_bytes": Enforcement("LeaderboardService.SearchLeaderboardEntries", _INVALID),
    "max_query_depth": Enforcement("LeaderboardService.SearchLeaderboardEntries", _INVALID),
    "max_search_answer_bytes": Enforcement("LeaderboardService.SearchLeaderboardEntries", _EXHAUSTED),
    "max_buckets": Enforcement("SeriesService.GetTimeseriesBuckets", _INVALID),
    "max_bucket_series": Enforcement("SeriesService.GetTimeseriesBuckets", _INVALID),
    "max_streams": Enforcement("streaming RPCs", "RESOURCE_EXHAUSTED, `TOO_MANY_STREAMS`, to be repeated"),
    "max_http_connections": Enforcement("HTTP", "503"),
    "max_http_target_bytes": Enforcement("HTTP", "414"),
    "max_http_headers_bytes": Enforcement("HTTP", "431"),
    "max_http_headers": Enforcement("HTTP", "431"),
    "max_metadata_bytes": Enforcement("gRPC", "RESOURCE_EXHAUSTED, from gRPC itself"),
    "max_mime_type_bytes": Enforcement("uploads to signed URLs", "400"),
    "max_signed_url_seconds": Enforcement("uploads and downloads by signed URLs", "403"),
}
"""By the field of Limits."""


def main() -> int:
    """Write the documents."""
    descriptors, out = Path(sys.argv[1]), Path(sys.argv[2])
    # The fresh stubs in place of those of the last build.
    neptune_api.__path__.insert(0, str(out / "neptune_api"))
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    notes = comments(files)
    for name, lines in ((ERRORS, errors(notes)), (LIMITS, limits(notes))):
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def errors(notes: Mapping[str, str]) -> Iterator[str]:
    """Give the lines of the document of errors."""
    import grpc

    from neptune_api.exceptions import HTTP_STATUS, exception_class
    from neptune_api.options import RetryPolicy
    from neptune_api.server.reasons import REASONS
    from neptune_api.v1 import ingest_pb2

    yield ERRORS_HEAD.format(attempts=RetryPolicy().max_attempts)
    codes = []
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        raised = exception_class(code)
        http, repeated = str(HTTP_STATUS[code]), "yes" if code in RetryPolicy().codes else ""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            http, repeated = f"{http}, 413 without a delay", "if asked to"
        codes.append((code.name, code.value[0], http, f"`{raised.__name__}`", repeated, _sentence(raised)))
    yield from _table(("code", "number", "HTTP", "exception", "repeated", "what, and what to do"), codes)
    yield REASONS_HEAD
    reasons = [
        (f"`{name}`", ", ".join(code.name for code in reason.codes) or "of files", reason.meaning, reason.advice)
        for name, reason in sorted(REASONS.items())
    ]
    yield from _table(("reason", "code", "what happened", "what to do"), reasons)
    yield INGEST_HEAD
    enum = ingest_pb2.IngestCode.DESCRIPTOR
    outcomes = [
        (value.name.removeprefix("INGEST_CODE_"), value.number, _note(notes, f"{enum.full_name}.{value.name}"))
        for value in sorted(enum.values, key=lambda value: value.number)
    ]
    yield from _table(("outcome", "number", "what happened"), outcomes)
    yield RELEASED_HEAD
    yield from _table(("status", "neptune-scale 0.30.0", "neptune-query 1.14.1, neptune-fetcher 0.23.0"), RELEASED)


def limits(notes: Mapping[str, str]) -> Iterator[str]:
    """Give the lines of the document of limits. Raises ValueError when a limit is not explained here."""
    from neptune_api.server.limits import enforced_limits

    told = enforced_limits()
    fields = {field.name: field for field in told.DESCRIPTOR.fields}
    if fields.keys() != ENFORCEMENTS.keys():
        raise ValueError(f"tools/reference.py has to explain: {', '.join(sorted(fields.keys() ^ ENFORCEMENTS.keys()))}")
    yield LIMITS_HEAD
    rows = [
        (
            f"`{name}`",
            _amount(name, getattr(told, name)),
            _note(notes, field.full_name),
            ENFORCEMENTS[name].where,
            ENFORCEMENTS[name].beyond,
        )
        for name, field in fields.items()
    ]
    yield from _table(("limit", "number", "of what", "where", "beyond it"), rows)


def _amount(name: str, number: float) -> str:
    if name == "step_resolution":
        return "10⁻⁶"
    if name.endswith("datetime_millis"):
        return (_EPOCH + timedelta(milliseconds=number)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown = f"{round(number):,}"
    unit = next((unit for unit in ("bytes", "seconds") if unit in name), "")
    readable = ""
    for factor, larger in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if unit == "bytes" and number % factor == 0:
            readable = f" ({round(number / factor)} {larger})"
            break
    return f"{shown} {unit}{readable}".strip()


def _sentence(raised: type) -> str:
    return " ".join((inspect.getdoc(raised) or "").split())


def _note(notes: Mapping[str, str], name: str) -> str:
    """Return a comment of the protos on one line, without what it says to buf."""
    if not name.startswith(PACKAGE):
        raise ValueError(f"{name} is not of {PACKAGE}")
    lines = (line for line in notes[name].splitlines() if not line.startswith("buf:"))
    return " ".join(" ".join(lines).split())


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    names = tuple(head)
    yield _row(names)
    yield _row(["---"] * len(names))
    yield from map(_row, rows)


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |")


if __name__ == "__main__":
    sys.exit(main())
