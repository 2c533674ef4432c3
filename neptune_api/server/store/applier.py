"""The applier: takes accepted operations off the log, in order, and makes them readable."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.store import schema, system_attributes
from neptune_api.server.store.blocks import Block
from neptune_api.server.store.column_batches import ColumnBatch
from neptune_api.server.store.column_updates import ColumnUpdates
from neptune_api.server.store.compaction import compact
from neptune_api.server.store.creations import Creations
from neptune_api.server.store.envelopes import Envelope
from neptune_api.server.store.faults import CorruptChunkError, DatabaseFaultError
from neptune_api.server.store.layouts import BlockRecord
from neptune_api.server.store.leases import NO_PROJECT, LeaseLostError, SharedLeases, SoleOwner
from neptune_api.server.store.oplog import Kind
from neptune_api.server.store.run_store import RunStore
from neptune_api.server.store.updates import Updates
from neptune_api.server.store.verdict import Verdict
from neptune_api.server.validation import as_uuid, is_name
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server.store.blocks import BlockDecoder
    from neptune_api.server.store.database import Database
    from neptune_api.server.store.layouts import LayoutShelf
    from neptune_api.server.store.leases import Leases
    from neptune_api.server.store.oplog import Operation, OperationLog
    from neptune_api.server.store.run_state import RunState

_LOG: Final = logging.getLogger(__name__)
# What is applied in one transaction: enough to share its fsync, little enough to keep readers current.
_BATCH_OPERATIONS: Final = 256
_BATCH_BYTES: Final = 16 * 1024 * 1024
_FULL_BATCH: Final = 32
# How often outcomes that have been kept long enough are dropped.
_FORGET_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 1.0
# After a batch that is not full, so many times as long as it took; at most that many seconds, and no longer once
# nothing has come for so many.
_PAUSES: Final = 2.0
_MAX_PAUSE_SECONDS: Final = 0.1
_QUIET_SECONDS: Final = 0.025
# Without anything to apply for so long, what is still in tails is moved into chunks.
_IDLE_SECONDS: Final = 1.0


class _StoppedError(Exception):
    """Report that the store closes: what is not applied stays in the log."""


class Applier:
    """Apply operations in the order of the log, in a thread of its own, as far as its process has the leases.

    A batch is one transaction: its changes, the outcomes of its requests and the trimming of the log are on disk
    together or not at all.
    """

    def __init__(self, database: Database, log: OperationLog, blocks: BlockDecoder) -> None:
        self._database = database
        self._log = log
        self._standing_still = threading.RLock()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="neptune-applier", daemon=True)
        self._blocks = blocks
        self._damaged: set[int] = set()
        self._seconds = 0.0  # that the last batch took
        self._runs = RunStore(database)
        self._leases: Leases = (
            SharedLeases(database, forget=self._runs.forget, accepted=self.wake, applied=self._tell)
            if database.is_shared
            else SoleOwner()
        )

    def start(self) -> None:
        """Begin to apply what is in the log."""
        self._work.set()
        self._leases.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True between start() and the end."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Tell that the log has grown."""
        self._work.set()

    def stop(self, timeout: float) -> None:
        """Stop after the operation at hand; what is left in the log is applied after the next start."""
        self._stopping.set()
        self._work.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._leases.stop()

    def compact(self, until: threading.Event | None = None) -> None:
        """Move the points in tails into chunks, run by run, until there is none left or the event is set."""
        more = True
        while more and not (self._stopping.is_set() or (until is not None and until.is_set())):
            # A lease that is lost is somebody else's work; the other runs go on.
            with contextlib.suppress(LeaseLostError):
                more = self._compact_one()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[sa.Connection]:
        """Give a write connection while nothing is applied; what the applier remembers of runs is forgotten after."""
        with self._standing_still:
            try:
                with self._database.write() as connection:
                    self._leases.suspend(connection)
                    yield connection
            finally:
                self._runs.clear()

    @contextlib.contextmanager
    def progress(self) -> Iterator[threading.Condition]:
        """Give the condition that is notified after every batch."""
        with self._progress:
            yield self._progress

    def _run(self) -> None:
        forgotten = time.monotonic()
        waiting_for: str | None = None
        is_untidy = True
        while not self._stopping.is_set():
            has_work = self._work.wait(_IDLE_SECONDS)
            self._work.clear()
            try:
                while not self._stopping.is_set() and (size := self._timed_batch()):
                    is_untidy = True
                    if self._log.layouts.is_full:
                        self._log.make_room()
                    # A batch has costs of its own, and submitting waits while it is written: let some come together.
                    if size < _FULL_BATCH:
                        self._pause(min(_PAUSES * self._seconds, _MAX_PAUSE_SECONDS))
                if not has_work:
                    self.compact(until=self._work)
                    if is_untidy and not self._work.is_set():
                        self._database.tidy(self._work)
                        is_untidy = False
                if waiting_for is not None:
                    waiting_for = None
                    _LOG.warning("Applying goes on")
                if time.monotonic() - forgotten > _FORGET_SECONDS:
                    self._log.forget()
                    forgotten = time.monotonic()
            except _StoppedError:
                return
            except LeaseLostError:
                self._work.set()
            except DatabaseFaultError as fault:
                if str(fault) != waiting_for:
                    waiting_for = str(fault)
                    _LOG.warning("Applying waits for the database: %s", fault)
                self._stopping.wait(_RETRY_SECONDS)
                self._work.set()
            except Exception:  # noqa: BLE001 # nothing may end this thread
                _LOG.exception("Applying failed; trying again in %s s", _RETRY_SECONDS)
                self._stopping.wait(_RETRY_SECONDS)
                self._work.set()

    def _pause(self, seconds: float) -> None:
        """Let operations come together for some time, or until they do not come any more: then somebody waits."""
        end = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := end - time.monotonic()) > 0:
            # What has come so far is in the log, where the next batch looks.
            self._work.clear()
            if not self._work.wait(min(left, _QUIET_SECONDS)):
                return

    def _timed_batch(self) -> int:
        begin = time.monotonic()
        size = self._apply_batch()
        self._seconds = time.monotonic() - begin
        return size

    def _apply_batch(self) -> int:
        with self._standing_still:
            projects = self._leases.claim(self._log.projects())
            batch = self._log.pending(_BATCH_OPERATIONS, _BATCH_BYTES, projects)
            if not batch:
                return 0
            try:
                self._apply(batch)
            except (DatabaseFaultError, LeaseLostError, _StoppedError):
                # Not an operation is at fault: nothing is lost, the log is applied later.
                self._runs.clear()
                raise
            except Exception:  # noqa: BLE001 # one of the operations is at fault, whatever it did
                _LOG.exception("A batch of %d operations failed; applying them one by one", len(batch))
                self._runs.clear()
                for operation in batch:
                    self._apply_alone(operation)
        self._tell()
        return len(batch)

    def _tell(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _apply_alone(self, operation: Operation) -> None:
        try:
            self._apply([operation])
        except (DatabaseFaultError, LeaseLostError, _StoppedError):
            self._runs.clear()
            raise
        except Exception:  # noqa: BLE001 # the outcome of the operation tells of it
            _LOG.exception("Operation %d (request %s) cannot be applied", operation.sequence, operation.request_id)
            self._runs.clear()
            verdict = Verdict(operation.request_id)
            verdict.refuse(pb.INGEST_CODE_INTERNAL)
            with self._writing([operation]) as connection:
                self._log.settle(connection, [(operation, verdict.status(), verdict.details())])

    def _apply(self, batch: list[Operation]) -> None:
        with self._database.read() as connection:
            work = _Batch(self._runs, connection, self._blocks, self._log.layouts)
            settled = [work.apply(operation) for operation in self._until_stopped(batch)]
            work.finish()
        changes = self._runs.gather()
        with self._writing(batch) as connection:
            self._runs.write(connection, changes)
            work.write(connection)
            self._log.settle(connection, settled)
        full = [run for run in self._runs.changed.values() if run.has_full_tail]
        self._runs.written()
        for run in full:
            if not self._stopping.is_set():
                self._compact(run.id)

    @contextlib.contextmanager
    def _writing(self, batch: list[Operation]) -> Iterator[sa.Connection]:
        with self._database.write(serial=False) as connection:
            self._leases.confirm(connection, {operation.project_id or NO_PROJECT for operation in batch})
            yield connection
            self._database.announce(connection, "applied")

    def _until_stopped(self, batch: list[Operation]) -> Iterator[Operation]:
        for operation in batch:
            if self._stopping.is_set():
                raise _StoppedError
            yield operation
        # The folder may soon be another server's.
        if self._stopping.is_set():
            raise _StoppedError

    def _compact(self, run_key: int) -> None:
        try:
            with self._database.write(serial=False) as connection:
                of_run = sa.select(schema.runs.c.project_id).where(schema.runs.c.id == run_key)
                self._leases.confirm(connection, connection.scalars(of_run).all())
                compact(connection, run_key, self._runs.chunk_keys)
        except CorruptChunkError:
            # Readers of the damaged series hear of it; the others stay readable from the tails.
            _LOG.exception("Run %d keeps its points in tails", run_key)
            self._damaged.add(run_key)
        self._runs.compacted(run_key)

    def _compact_one(self) -> bool:
        """Compact a run that has points in tails; tell whether there was one."""
        with self._standing_still:
            runs, tails = schema.runs, schema.tails
            projects = self._leases.claim(sa.select(runs.c.project_id).join_from(tails, runs))
            query = sa.select(tails.c.run_id).where(tails.c.run_id.not_in(self._damaged)).limit(1)
            if projects is not None:
                query = query.join_from(tails, runs).where(runs.c.project_id.in_(projects))
            with self._database.read() as connection:
                run_key = connection.scalar(query)
            if run_key is not None:
                self._compact(run_key)
        return run_key is not None


class _Batch:
    """Apply the operations of one batch to run states; reads through one snapshot."""

    def __init__(self, runs: RunStore, connection: sa.Connection, blocks: BlockDecoder, layouts: LayoutShelf) -> None:
        self._runs = runs
        self._connection = connection
        self._blocks = blocks
        self._layouts = layouts
        self._creations = Creations(runs, connection)
        self._updates = Updates(runs, connection)
        self._columns = ColumnUpdates(runs, self._updates)
        self._activity: dict[int, int] = {}

    def apply(self, operation: Operation) -> tuple[Operation, bytes, bytes | None]:
        """Apply one operation and return it with its serialized status and details."""
        verdict = Verdict(operation.request_id)
        change = self._parse(operation)
        project_id = operation.project_id
        project = None if project_id is None else self._creations.project(project_id)
        if project_id is None or project is None:
            code = (
                pb.INGEST_CODE_PROJECT_NOT_FOUND
                if _is_project_name(change.project)
                else pb.INGEST_CODE_PROJECT_INVALID_NAME
            )
            verdict.refuse(code, count=_size(change))
        elif project.archived:
            verdict.refuse(pb.INGEST_CODE_INGEST_SUSPENDED, count=_size(change))
        elif isinstance(change, Envelope) and change.kind == "create":
            run = self._creations.create(operation, project_id, pb.RunOperation.FromString(operation.payload), verdict)
            if run is not None:
                self._touch(run, operation.accepted_ms)
        else:
            run = self._runs.find(self._connection, project_id, change.run_id)
            if run is None:
                verdict.refuse(pb.INGEST_CODE_RUN_NOT_FOUND, count=_size(change))
            else:
                if isinstance(change, Envelope):
                    self._update(run, change, operation.accepted_ms, verdict)
                elif isinstance(change, BlockRecord):
                    self._updates.apply_block(run, change.block, verdict)
                else:
                    self._columns.apply(run, change, verdict)
                self._touch(run, operation.accepted_ms)
        return operation, verdict.status(), verdict.details()

    def finish(self) -> None:
        """Bring the activity attributes of every changed run up to date."""
        for run in self._runs.changed.values():
            system_attributes.describe_activity(run, self._runs.put)

    def write(self, connection: sa.Connection) -> None:
        """Write what is not in run states: of projects and experiments."""
        self._creations.write(connection)
        projects = schema.projects
        for project_id, activity_ms in self._activity.items():
            is_later = projects.c.activity_ms < activity_ms
            update = projects.update().where(projects.c.id == project_id, is_later)
            connection.execute(update.values(activity_ms=activity_ms))

    def _parse(self, operation: Operation) -> Envelope | BlockRecord | ColumnBatch:
        if operation.layout_key is not None:
            return BlockRecord.parse(operation.payload, self._layouts.get(self._connection, operation.layout_key))
        return (ColumnBatch if operation.kind is Kind.COLUMNS else Envelope).parse(operation.payload)

    def _update(self, run: RunState, envelope: Envelope, accepted_ms: int, verdict: Verdict) -> None:
        for item in self._blocks.decode(envelope.snapshots):
            if isinstance(item, Block):
                self._updates.apply_block(run, item, verdict)
            else:
                self._updates.apply_snapshot(run, item, accepted_ms, verdict)

    def _touch(self, run: RunState, now_ms: int) -> None:
        # The clock may have been set back.
        run.last_applied_ms = max(run.last_applied_ms, now_ms)
        run.modified_ms = max(run.modified_ms, now_ms)
        self._runs.touch(run)
        self._activity[run.project_id] = now_ms


def _is_project_name(text: str) -> bool:
    workspace, _, name = text.partition("/")
    return as_uuid(text) is not None or (bool(workspace) and is_name(name, limits.MAX_PROJECT_NAME_BYTES))


def _size(change: Envelope | BlockRecord | ColumnBatch) -> int:
    """Return the number of atomic changes of an operation."""
    if not isinstance(change, Envelope):
        return change.size
    message = pb.RunOperation.FromString(change.payload)
    kind = message.WhichOneof("operation")
    if kind == "create":
        return 1
    snapshots = [message.update] if kind == "update" else message.update_batch.snapshots
    return sum(len(snapshot.assign) + len(snapshot.modify_sets) + len(snapshot.append) for snapshot in snapshots)
