"""IngestService: operations in, outcomes out."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Final

import grpc
from google.rpc import code_pb2

from neptune_api.options import IDEMPOTENCY_KEY
from neptune_api.server import limits
from neptune_api.server.errors import StatusError, invalid, too_large
from neptune_api.server.identity import current_caller
from neptune_api.server.store.oplog import Submission
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1 import ingest_service_pb2_grpc
from neptune_api.v1.roles_pb2 import ProjectRole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from neptune_api.server.access import Access
    from neptune_api.server.store.envelopes import Envelope
    from neptune_api.server.store.store import Outcome, Store
    from neptune_api.v1 import ingest_service_pb2

# Operations of a stream that share a commit: the caller hears of none before the end.
_STREAM_GROUP: Final = 64
_STREAM_GROUP_BYTES: Final = 4 * 1024 * 1024


class IngestService(ingest_service_pb2_grpc.IngestServiceServicer):
    """Accept operations and tell what became of them."""

    def __init__(self, *, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        # Points by the ten thousand stay bytes until they are arrays: no message, and no object per point.
        self.request_readers: Final = dict.fromkeys(
            ("Submit", "SubmitStream", "SubmitAcknowledged"), store.read_operation
        )

    def Submit(  # type: ignore[override]  # see request_readers
        self, request: Envelope, context: grpc.ServicerContext
    ) -> pb.SubmitResponse:
        submission = self._submission(request, _idempotency_key(context))
        return _accepted(self._store.submit_many([submission]))

    def SubmitStream(  # type: ignore[override]  # see request_readers
        self,
        request_iterator: Iterator[Envelope],
        context: grpc.ServicerContext,
    ) -> pb.SubmitResponse:
        request_ids: list[str] = []
        for group in _groups(self._submissions(request_iterator, _idempotency_key(context))):
            request_ids += self._store.submit_many(group)
        if not request_ids:
            raise invalid("operation", "the stream is empty; send at least one operation.")
        return _accepted(request_ids)

    def SubmitAcknowledged(  # type: ignore[override]  # see request_readers
        self, request_iterator: Iterator[Envelope], context: grpc.ServicerContext
    ) -> Iterator[pb.SubmitResponse]:
        for submission in self._submissions(request_iterator, _idempotency_key(context)):
            yield _accepted(self._store.submit_many([submission]))

    def GetRequestStatus(
        self, request: ingest_service_pb2.GetRequestStatusRequest, context: grpc.ServicerContext
    ) -> pb.RequestStatus:
        if not request.request_id:
            raise invalid("request_id", "is required: an id that Submit returned.")
        return _status(self._outcomes(request.project_identifier, [request.request_id])[0])

    def BulkGetRequestStatus(
        self, request: ingest_service_pb2.BulkGetRequestStatusRequest, context: grpc.ServicerContext
    ) -> pb.BulkRequestStatus:
        ids = [item.value for item in request.request_ids.ids]
        if len(ids) > limits.MAX_STATUS_IDS:
            raise invalid("request_ids", f"has {len(ids):,} ids; ask for at most {limits.MAX_STATUS_IDS:,} at once.")
        outcomes = self._outcomes(request.project_identifier, ids)
        return pb.BulkRequestStatus(statuses=[_status(outcome) for outcome in outcomes])

    def BulkGetRequestDetails(
        self, request: ingest_service_pb2.BulkGetRequestDetailsRequest, context: grpc.ServicerContext
    ) -> pb.BulkIngestResultDetail:
        check = request.check
        ids = [item.value for item in check.ids]
        if len(ids) > limits.MAX_DETAIL_IDS:
            raise invalid("check.ids", f"has {len(ids):,} ids; ask for at most {limits.MAX_DETAIL_IDS:,} at once.")
        limit = check.limit if check.HasField("limit") else limits.MAX_PAGE_SIZE
        if not 1 <= limit <= limits.MAX_PAGE_SIZE:
            raise invalid("check.limit", f"is {limit}; it has to be 1 to {limits.MAX_PAGE_SIZE:,}.")
        position, skipped = _cursor(check.next_cursor, len(ids))
        page = pb.BulkIngestResultDetail()
        outcomes = self._outcomes(request.project_identifier or check.project, ids[position:])
        for index, outcome in enumerate(outcomes, position):
            if outcome is None or outcome.details is None:
                continue
            start = skipped if index == position else 0
            details = pb.BulkIngestResultDetail.FromString(outcome.details).details[start:]
            room = limit - len(page.details)
            page.details.extend(details[:room])
            if len(details) > room:
                page.next_cursor = urlsafe_b64encode(f"{index}.{start + room}".encode()).decode()
                break
        return page

    def _submissions(self, operations: Iterable[Envelope], idempotency_key: str | None) -> Iterator[Submission]:
        for position, operation in enumerate(operations):
            key = None if idempotency_key is None else f"{idempotency_key}/{position}"
            try:
                yield self._submission(operation, key)
            except StatusError as error:
                raise error.at(position, f"Operation {position} of the stream") from error

    def _submission(self, operation: Envelope, idempotency_key: str | None) -> Submission:
        size = len(operation.payload)
        if size > limits.MAX_OPERATION_BYTES:
            raise too_large("The operation", size, limits.MAX_OPERATION_BYTES, "split it into several.")
        if not operation.project:
            raise invalid("project", "is required: workspace/name.")
        if not operation.run_id:
            raise invalid("run_id", "is required.")
        if operation.kind is None:
            raise invalid("operation", "is required: one of create, update, update_batch.")
        project_id = self._project_id(operation.project, create_missing=operation.create_missing_project)
        user_id = current_caller().user_id
        return Submission(operation.payload, user_id, project_id, idempotency_key, record=operation.record)

    def _project_id(self, identifier: str, *, create_missing: bool) -> int | None:
        """Return the project's key; None when there is none: the status of the request will tell."""
        try:
            return self._access.project(identifier, ProjectRole.PROJECT_ROLE_MEMBER).id
        except StatusError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
        return self._access.create_missing_project(identifier) if create_missing else None

    def _outcomes(self, project_identifier: str, request_ids: list[str]) -> list[Outcome | None]:
        """Return the outcomes that the caller may see; None for the others."""
        caller = current_caller()
        project_id: int | None = None
        if project_identifier:
            try:
                project_id = self._access.project(project_identifier, ProjectRole.PROJECT_ROLE_VIEWER).id
            except StatusError as error:
                # A client that wrote to a project that does not exist has to learn it from the status.
                if error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
        return [
            outcome
            if outcome is not None
            and (outcome.user_id == caller.user_id or (project_id is not None and outcome.project_id == project_id))
            else None
            for outcome in self._store.outcomes(request_ids)
        ]


def _accepted(request_ids: list[str]) -> pb.SubmitResponse:
    return pb.SubmitResponse(request_id=request_ids[-1], request_ids=request_ids)


def _status(outcome: Outcome | None) -> pb.RequestStatus:
    if outcome is None:
        status = pb.RequestStatus(shared_error_message="There is no such request, or it is not yours to see.")
        status.code_by_count.add(code=code_pb2.NOT_FOUND, count=1, detail=pb.INGEST_CODE_INTERNAL)
        return status
    if outcome.status is None:
        status = pb.RequestStatus()
        status.code_by_count.add(code=code_pb2.UNAVAILABLE, count=1, detail=pb.INGEST_CODE_OK)
        return status
    return pb.RequestStatus.FromString(outcome.status)


def _idempotency_key(context: grpc.ServicerContext) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == IDEMPOTENCY_KEY:
            key = value.decode(errors="replace") if isinstance(value, bytes) else value
            if len(key.encode()) > limits.MAX_IDEMPOTENCY_KEY_BYTES:
                raise invalid(IDEMPOTENCY_KEY, f"has more than {limits.MAX_IDEMPOTENCY_KEY_BYTES} bytes; send a UUID.")
            return key or None
    return None


def _groups(submissions: Iterator[Submission]) -> Iterator[list[Submission]]:
    group: list[Submission] = []
    size = 0
    try:
        for submission in submissions:
            group.append(submission)
            size += len(submission.payload)
            if len(group) == _STREAM_GROUP or size > _STREAM_GROUP_BYTES:
                yield group
                group, size = [], 0
    except StatusError:
        # What came before the bad operation stays accepted.
        if group:
            yield group
        raise
    if group:
        yield group


def _cursor(text: str, length: int) -> tuple[int, int]:
    if not text:
        return 0, 0
    try:
        position, done = map(int, urlsafe_b64decode(text.encode()).decode().split("."))
    except (binascii.Error, ValueError):
        position = done = -1
    if not (0 <= position < length and done >= 0):
        raise invalid("check.next_cursor", "is not a cursor of this query; begin again without one.")
    return position, done
