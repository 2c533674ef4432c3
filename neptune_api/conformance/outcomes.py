"""What became of submitted operations, counted."""

from __future__ import annotations

from neptune_api.v1 import ingest_pb2 as pb

Counts = dict[str, int]
"""How often each IngestCode came out: its name without the prefix -> count."""


def counts_of_status(status: pb.RequestStatus) -> Counts:
    counts = {name_of(item.detail): item.count for item in status.code_by_count}
    assert len(counts) == len(status.code_by_count), "each pair of code and detail comes once"
    return counts


def name_of(code: int) -> str:
    return pb.IngestCode.Name(code).removeprefix("INGEST_CODE_")  # type: ignore[arg-type]  # a number is what it takes
