"""The operation log: what is accepted is on disk, and every request has an outcome."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.store.faults import StoreClosedError
from neptune_api.server.store.layouts import LayoutShelf
from neptune_api.server.store.leases import NO_PROJECT
from neptune_api.server.store.schema import operations, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from neptune_api.server.store.database import Database
    from neptune_api.server.store.layouts import BlockRecord

_PROJECT: Final = sa.func.coalesce(operations.c.project_id, NO_PROJECT)
# SQLite takes at most 32,766 parameters in a statement.
_IDS_PER_QUERY: Final = 10_000


class KeyTakenError(Exception):
    """Report that an idempotency key names another operation already."""


class Kind(IntEnum):
    """What the payload of an operation is."""

    RUN_OPERATION = 0
    """A serialized neptune_api.v1.RunOperation."""
    COLUMNS = 1
    """A serialized neptune_api.v1.AppendColumnsRequest."""
    BLOCK = 2
    """A serialized BlockRecord: a RunOperation that is nothing but points of one layout."""


@dataclass(frozen=True, slots=True)
class Submission:
    """An operation to accept and who submits it.

    `project_id` is None when the project does not exist or the user may not see it. The same idempotency key of the
    same user, or the same batch id in the same project, names the same request. `record` says the same as the payload.
    """

    payload: bytes
    user_id: int
    project_id: int | None
    idempotency_key: str | None = None
    kind: Kind = Kind.RUN_OPERATION
    record: BlockRecord | None = None

    @property
    def unique_key(self) -> str | None:
        """What no two requests have in common, if anything."""
        if self.idempotency_key is None:
            return None
        owner = f"project {self.project_id}" if self.kind is Kind.COLUMNS else self.user_id
        return f"{owner}:{self.idempotency_key}"

    @property
    def checksum(self) -> int | None:
        """The CRC-32 of the payload where the same key does not go with another payload."""
        return zlib.crc32(self.payload) if self.kind is Kind.COLUMNS and self.idempotency_key is not None else None


@dataclass(frozen=True, slots=True)
class Operation:
    """An accepted operation that waits to be applied."""

    sequence: int
    request_id: str
    project_id: int | None
    user_id: int
    accepted_ms: int
    kind: Kind
    layout_key: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    `status` is a serialized RequestStatus, None while pending; `details` a serialized BulkIngestResultDetail, None when
    nothing was refused.
    """

    request_id: str
    user_id: int
    project_id: int | None
    status: bytes | None
    details: bytes | None


@dataclass(slots=True)
class _Group:
    submissions: Sequence[Submission]
    # Taken beforehand: while it commits, everybody waits.
    checksums: list[int | None]
    request_ids: list[str] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False


class OperationLog:
    """Append operations in groups: whoever comes first commits for all that wait, so a commit's fsync is shared."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._queue: list[_Group] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._closed = False
        self.layouts: Final = LayoutShelf()

    def append(self, submissions: Sequence[Submission]) -> list[str]:
        """Return the request ids of operations that are on disk now, in the order given.

        Raises StoreClosedError after `close`, KeyTakenError for a key of another batch of columns, whereupon none is
        accepted, and whatever the database raises when it cannot write.
        """
        group = _Group(submissions, [submission.checksum for submission in submissions])
        with self._queue_lock:
            if self._closed:
                raise StoreClosedError("The server is shutting down.")
            self._queue.append(group)
        with self._commit_lock:
            if not group.done:
                self._commit()
        if group.error is not None:
            raise group.error
        return group.request_ids

    def projects(self) -> sa.Select[int]:
        """Return the query for the projects of operations not applied yet."""
        return sa.select(_PROJECT)

    def pending(self, count: int, size: int, projects: Collection[int] | None = None) -> list[Operation]:
        """Return the oldest operations not applied yet: at most `count`, about `size` bytes, at least one.

        `projects` are those looked at, None is all.
        """
        columns = [operations.c[name] for name in Operation.__dataclass_fields__]
        waiting = sa.select(operations.c.sequence, sa.func.length(operations.c.payload)).order_by(operations.c.sequence)
        if projects is not None:
            waiting = waiting.where(_PROJECT.in_(projects))
        taken: list[int] = []
        with self._database.read() as connection:
            for sequence, length in connection.execute(waiting.limit(count)):
                taken.append(sequence)
                size -= length
                if size <= 0:
                    break
            if not taken:
                return []
            query = sa.select(*columns).where(operations.c.sequence.in_(taken)).order_by(operations.c.sequence)
            return [
                Operation(**{**row._mapping, "kind": Kind(row.kind)})  # noqa: SLF001  # as documented
                for row in connection.execute(query)
            ]

    def outcomes(self, request_ids: Iterable[str]) -> list[Outcome | None]:
        """Return what became of requests, in the order given; None for those never accepted or forgotten."""
        wanted = list(request_ids)
        found: dict[str, Outcome] = {}
        columns = [requests.c[name] for name in Outcome.__dataclass_fields__]
        with self._database.read() as connection:
            for start in range(0, len(wanted), _IDS_PER_QUERY):
                query = sa.select(*columns).where(requests.c.request_id.in_(wanted[start : start + _IDS_PER_QUERY]))
                for row in connection.execute(query):
                    found[row.request_id] = Outcome(*row)
        return [found.get(request_id) for request_id in wanted]

    def settle(self, connection: sa.Connection, settled: Sequence[tuple[Operation, bytes, bytes | None]]) -> None:
        """Record outcomes (operation, status, details) and trim the log, in the transaction that applied them."""
        connection.execute(
            requests.update()
            .where(requests.c.request_id == sa.bindparam("b_id"))
            .values(status=sa.bindparam("b_status"), details=sa.bindparam("b_details")),
            [
                {"b_id": operation.request_id, "b_status": status, "b_details": details}
                for operation, status, details in settled
            ],
        )
        connection.execute(
            operations.delete().where(operations.c.sequence == sa.bindparam("b_sequence")),
            [{"b_sequence": operation.sequence} for operation, _, _ in settled],
        )

    def forget(self) -> None:
        """Drop the outcomes of requests older than the retention time, and layouts that nothing waiting refers to."""
        horizon = self._now_ms() - limits.REQUEST_STATUS_RETENTION_SECONDS * 1000
        with self._database.write(serial=False) as connection:
            connection.execute(
                requests.delete().where(requests.c.accepted_ms < horizon, requests.c.status.is_not(None))
            )
        self.make_room()

    def make_room(self) -> None:
        """Drop the layouts that no operation refers to."""
        # What another process accepts meanwhile may refer to one of them: it is for the next time then.
        with (
            self._commit_lock,
            contextlib.suppress(sa.exc.IntegrityError),
            self._database.write(serial=False) as connection,
        ):
            self.layouts.clean(connection)

    def close(self) -> None:
        """Accept no more; what waits is committed first."""
        with self._queue_lock:
            self._closed = True
        with self._commit_lock:
            self._commit()

    def _commit(self) -> None:
        with self._queue_lock:
            groups, self._queue = self._queue, []
        if not groups:
            return
        try:
            try:
                self._write(groups)
            except sa.exc.IntegrityError:
                # Another process has accepted one of the idempotency keys just now: this time it is found. Or it has
                # removed a layout.
                for group in groups:
                    group.request_ids.clear()
                    group.error = None
                self.layouts.doubt()
                self._write(groups)
        except BaseException as error:  # noqa: BLE001 # every waiting caller has to hear of it
            self.layouts.doubt()
            for group in groups:
                group.error = error
        for group in groups:
            group.done = True

    def _write(self, groups: Sequence[_Group]) -> None:
        now = self._now_ms()
        keys = {submission.unique_key for group in groups for submission in group.submissions} - {None}
        with self._database.write(serial=False) as connection:
            known: dict[str | None, tuple[str, int | None]] = {}
            if keys:
                query = sa.select(requests.c.idempotency_key, requests.c.request_id, requests.c.payload_checksum)
                rows = connection.execute(query.where(requests.c.idempotency_key.in_(keys)))
                known = {row.idempotency_key: (row.request_id, row.payload_checksum) for row in rows}
            log_rows: list[dict[str, object]] = []
            request_rows: list[dict[str, object]] = []
            for group in groups:
                keyed = [
                    (item.unique_key, checksum)
                    for item, checksum in zip(group.submissions, group.checksums, strict=True)
                ]
                if any(key in known and known[key][1] != checksum for key, checksum in keyed):
                    group.error = KeyTakenError("The key names another operation.")
                    continue
                for submission, (key, checksum) in zip(group.submissions, keyed, strict=True):
                    if key is not None and key in known:
                        group.request_ids.append(known[key][0])
                        continue
                    request_id = uuid.uuid4().hex
                    if key is not None:
                        known[key] = request_id, checksum
                    common: dict[str, object] = {
                        "request_id": request_id,
                        "project_id": submission.project_id,
                        "user_id": submission.user_id,
                        "accepted_ms": now,
                    }
                    log_rows.append(common | self._content(connection, submission))
                    request_rows.append(common | {"idempotency_key": key, "payload_checksum": checksum})
                    group.request_ids.append(request_id)
            if log_rows:
                connection.execute(operations.insert(), log_rows)
                connection.execute(requests.insert(), request_rows)
                self._database.announce(connection, "accepted")

    def _content(self, connection: sa.Connection, submission: Submission) -> dict[str, object]:
        record = submission.record
        if record is not None and self.layouts.keep(connection, record.block.layout):
            return {"kind": Kind.BLOCK, "layout_key": record.block.layout.key, "payload": record.serialize()}
        return {"kind": submission.kind, "layout_key": None, "payload": submission.payload}

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
