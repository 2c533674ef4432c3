"""Verdicts: what became of an operation, as clients are told."""

from __future__ import annotations

from collections import Counter
from typing import Final

from neptune_api.server.store import rules
from neptune_api.v1 import ingest_pb2 as pb

_MAX_DETAILS: Final = 10_000
_WHOLE_REQUEST: Final = {
    pb.INGEST_CODE_PROJECT_NOT_FOUND,
    pb.INGEST_CODE_PROJECT_INVALID_NAME,
    pb.INGEST_CODE_RUN_NOT_FOUND,
    pb.INGEST_CODE_RUN_CONFLICTING,
    pb.INGEST_CODE_RUN_INVALID_CREATION_PARAMETERS,
    pb.INGEST_CODE_INGEST_SUSPENDED,
    pb.INGEST_CODE_INTERNAL,
}


class Verdict:
    """Collect what became of the atomic changes of one operation."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._counts: Counter[int] = Counter()
        self._details: list[pb.IngestResultDetail] = []

    def accept(self, count: int = 1) -> None:
        """Count changes that were applied."""
        if count:
            self._counts[pb.INGEST_CODE_OK] += count

    def refuse(self, code: int, path: str = "", count: int = 1, sentence: str | None = None) -> None:
        """Count changes that were not, for this reason; `sentence` says more than the usual one."""
        self._counts[code] += count
        if len(self._details) < _MAX_DETAILS:
            self._details.append(
                pb.IngestResultDetail(
                    request_id=pb.RequestId(value=self._request_id),
                    path=path,
                    ingest_code=code,  # type: ignore[arg-type]  # codes are plain integers inside the store
                    error_detail=sentence or rules.SENTENCES[code],
                )
            )

    def status(self) -> bytes:
        """Return the serialized RequestStatus."""
        status = pb.RequestStatus()
        for code, count in sorted((self._counts or Counter({pb.INGEST_CODE_OK: 0})).items()):
            status.code_by_count.add(code=rules.grpc_code(code), count=count, detail=code)
        if set(self._counts) & _WHOLE_REQUEST:
            status.shared_error_message = self._details[0].error_detail
        return status.SerializeToString()

    def details(self) -> bytes | None:
        """Return the serialized BulkIngestResultDetail; None when nothing was refused."""
        return pb.BulkIngestResultDetail(details=self._details).SerializeToString() if self._details else None
