"""Fields of the requests that write to runs: operations, columns, runs as a whole, tags, and what became of it."""

from __future__ import annotations

from typing import Any

from neptune_api.conformance.fields import Each, Ignored, Later, Request, Set, below

_INSIDE = "belongs to the official service's inside"
_AT = "2001-02-03T04:05:06Z"

_OPERATION = {"project": "{project}", "run_id": "{new}"}
_WHOLE = {
    "project": "{other}",
    "run_id": "{new}-2",
    "create_missing_project": Set(True, {"project": "{missing}"}),
    "api_key": Ignored("eA==", _INSIDE),
}

_INSIDE_FIELDS = {
    "request_id": Ignored("x", _INSIDE),
    "start_processing_time": Ignored(_AT, _INSIDE),
    "offset_metadata.broker_version": Ignored(1, _INSIDE),
    "offset_metadata.message_offset": Ignored("1", _INSIDE),
}

_FORKED = {"fork_point.parent_run_id": "root"}
_CREATION = {
    "run_id": "{new}-2",
    "fork_point.parent_project": Set("{other}", _FORKED),
    "fork_point.parent_run_id": "root",
    "fork_point.step.whole": Set("1", _FORKED),
    "fork_point.step.micro": Set("500000", {**_FORKED, "fork_point.step.whole": "1"}),
    "fork_point.requested_parent_id": Ignored("x", _INSIDE, _FORKED),
    "creation_time": _AT,
    "family": "a family",
    "experiment_id": "an experiment",
    "owner.user_id": "somebody-else",
    "owner.service_account_id": "robot",
    "tracker": "a tracker",
    "inherit_configs": Set(True, _FORKED),
    **_INSIDE_FIELDS,
}

_POINT = {"append.value.float64": 1.5}
_TEXT = {"assign.value.string": "x"}


_FILE = {"file_ref.path": "p", "file_ref.size_bytes": "1", "file_ref.mime_type": "m"}
_BINS = {"histogram.bin_edges": [0.0, 1.0], "histogram.counts.values": ["1"]}
_HISTOGRAM = {"bin_edges": [0.0, 2.0], "counts.values": ["2"], "densities.values": [0.5]}
_VALUES = {
    "float64": 2.5,
    "int64": "2",
    "bool": True,
    "string": "y",
    "timestamp": _AT,
    "string_set.values": ["a"],
    "file_ref.path": Set("q", _FILE),
    "file_ref.size_bytes": Set("2", _FILE),
    "file_ref.mime_type": Set("n", _FILE),
}
_ADDED = {"modify_sets.value.string.values.value": "SET_OPERATION_ADD"}
_PREVIEW = {"preview.is_preview": True, "preview.completion_ratio": 0.25}
_SNAPSHOT = {
    "step.whole": Set("7", _POINT),
    "step.micro": Set("500000", _POINT),
    "timestamp": Set(_AT, _POINT),
    "assign.key": Set("another", _TEXT),
    **below("assign.value", _VALUES),
    **below("assign.value.histogram", _HISTOGRAM),  # whatever it has, it is refused: histograms come in series
    "modify_sets.key": Set("another", _ADDED),
    "modify_sets.value.string.values.key": Set("another", _ADDED),
    "modify_sets.value.string.values.value": Each(given={"assign.value.string_set.values": ["key"]}),
    "append.key": Set("another", _POINT),
    **below("append.value", _VALUES),
    **below("append.value", {f"histogram.{path}": Set(value, _BINS) for path, value in _HISTOGRAM.items()}),
    "preview.is_preview": Set(True, _POINT),
    "preview.completion_ratio": Set(0.75, {**_POINT, **_PREVIEW}),
    **_INSIDE_FIELDS,
}

OPERATIONS = (
    Request(
        {**_OPERATION, "create": {}},
        {**_WHOLE, **below("create", _CREATION)},
    ),
    Request({**_OPERATION, "update": {}}, below("update", _SNAPSHOT)),
    Request({**_OPERATION, "update_batch": {}}, below("update_batch.snapshots", _SNAPSHOT)),
)
"""Of the three ways to submit a RunOperation, by the kind of the operation."""


def _cursor(answer: Any) -> Any:
    return answer.next_cursor


STATUSES = {
    "IngestService.GetRequestStatus": Request(
        {"project_identifier": "{project}", "request_id": "{theirs}"},
        {"project_identifier": "{other}", "request_id": "{refused}"},
    ),
    "IngestService.BulkGetRequestStatus": Request(
        {"project_identifier": "{project}", "request_ids.ids.value": "{theirs}"},
        {"project_identifier": "{other}", "request_ids.ids.value": "{refused}"},
    ),
    "IngestService.BulkGetRequestDetails": Request(
        {"project_identifier": "{project}", "check.ids.value": "{theirs}"},
        {
            "project_identifier": "{other}",
            "check.project": Set("{other}", {"project_identifier": "", "check.project": "{project}"}),
            "check.ids.value": "{refused}",
            "check.next_cursor": Later(_cursor, {"check.limit": 1}),
            "check.limit": 1,
        },
    ),
}

_COLUMNS = {
    "steps.micros": ["1000000", "2000000"],
    "timestamps.millis": ["1000", "2000"],
    "values.values": [0.5, 1.5],
}
COLUMNS = Request(
    {
        "project": "{project}",
        "run_id": "{new}",
        "batch_id": "{new}",
        "series.path": "m",
        **{f"series.columns.{path}": value for path, value in _COLUMNS.items()},
    },
    {
        "project": "{other}",
        "run_id": "{new}-2",
        "batch_id": "",
        "series.path": "n",
        "series.columns.steps.micros": ["1000000", "3000000"],
        "series.columns.timestamps.millis": ["1000", "3000"],
        "series.columns.values.values": [0.5, 2.5],
        "series.columns.preview_ratios.ratios": [0.5, 0.75],
    },
)
"""Of the two ways to append columns."""

_BULK = Request(
    {"project_identifier": "{project}", "experiment_identifiers": ["{new}"]},
    {"project_identifier": "{other}", "experiment_identifiers": ["{new}", "nobody"]},
)

RUNS = {
    "RunsService.CreateRun": Request(
        {"project_identifier": "{project}", "run_id": "{new}"},
        {
            "project_identifier": "{other}",
            "run_id": "{new}-2",
            "experiment_name": "an experiment",
            "creation_time": _AT,
            "parent_run_id": "root",
            "fork_step": Set(1.0, {"parent_run_id": "root"}),
            "family": "a family",
            "inherit_configs": Set(True, {"parent_run_id": "root"}),
        },
    ),
    "RunsService.GetRun": Request({"experiment_id": "{root}"}, {"experiment_id": "{fork}"}),
    "RunsService.ListRuns": Request(
        {"project_identifier": "{project}"},
        {
            "project_identifier": "{other}",
            "trashed": True,
            "page_size": 1,
            "page_token": Later(lambda answer: answer.next_page_token, {"page_size": 1}),
        },
    ),
    "RunsService.TrashRuns": _BULK,
    "RunsService.RestoreRuns": _BULK,
    "RunsService.DeleteRuns": _BULK,
    "RunsService.ArchiveRuns": Request({"runs": ["{new}"]}, {"runs": ["{new}", "nobody"]}),
    "RunsService.UnarchiveRuns": Request({"runs": ["{new}"]}, {"runs": ["{new}", "nobody"]}),
    "RunsService.UpdateTagsBulk": Request(
        {
            "update_per_project": {
                "{project}": {
                    "attributePathToBeUpdated": "sys/tags",
                    "experimentIdentifiers": ["{new}"],
                    "tagsToAdd": ["a"],
                }
            }
        },
        {
            "update_per_project.key": "{other}",
            "update_per_project.value.attribute_path_to_be_updated": "sys/group_tags",
            "update_per_project.value.experiment_identifiers": ["nobody"],
            "update_per_project.value.tags_to_add": ["b"],
            "update_per_project.value.tags_to_delete": ["there"],
        },
    ),
}

STORAGE = {
    "StorageService.CreateSignedUrls": Request(
        {"files.path": "p", "files.project_identifier": "{project}", "files.permission": "FILE_PERMISSION_READ"},
        {
            "files.path": "q",
            "files.project_identifier": "{other}",
            "files.permission": Each(alike=frozenset({"FILE_PERMISSION_READ"})),
            "files.size": Ignored("1", "is a hint", {"files.permission": "FILE_PERMISSION_WRITE"}),
        },
    ),
    "StorageService.CompleteMultipartUpload": Request(
        {"project_identifier": "{project}", "path": "p", "upload_id": "u", "parts.etag": "e", "parts.part_number": 1},
        {
            "project_identifier": "",
            "path": "",
            "upload_id": "",
            "parts.etag": Ignored("f", "belongs to an upload in parts, of which this server begins none"),
            "parts.part_number": Ignored(2, "belongs to an upload in parts, of which this server begins none"),
        },
    ),
}

WRITING = {**STATUSES, **RUNS, **STORAGE}
