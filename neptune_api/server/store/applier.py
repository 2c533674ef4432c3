"""The applier: takes accepted operations off the log, in order, and makes them readable."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.store import rules, schema, system_attributes
from neptune_api.server.store.run_state import Preview, RunState
from neptune_api.server.store.run_store import RunStore
from neptune_api.server.store.written_points import WrittenPoints
from neptune_api.server.validation import as_uuid, is_name
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server.store.database import Database
    from neptune_api.server.store.oplog import Operation, OperationLog
    from neptune_api.server.store.run_state import Attribute, PointValue, Series

_LOG: Final = logging.getLogger(__name__)
# What is applied in one transaction: enough to share its fsync, little enough to keep readers current.
_BATCH_OPERATIONS: Final = 256
_BATCH_BYTES: Final = 32 * 1024 * 1024
_RETRY_SECONDS: Final = 1.0
_MAX_DETAILS: Final = 10_000


class Verdict:
    """Collect what became of the atomic changes of one operation."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._counts: Counter[int] = Counter()
        self._details: list[pb.IngestResultDetail] = []

    def accept(self, count: int = 1) -> None:
        """Count changes that were applied."""
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


_WHOLE_REQUEST: Final = {
    pb.INGEST_CODE_PROJECT_NOT_FOUND,
    pb.INGEST_CODE_PROJECT_INVALID_NAME,
    pb.INGEST_CODE_RUN_NOT_FOUND,
    pb.INGEST_CODE_RUN_CONFLICTING,
    pb.INGEST_CODE_RUN_INVALID_CREATION_PARAMETERS,
    pb.INGEST_CODE_INGEST_SUSPENDED,
    pb.INGEST_CODE_INTERNAL,
}


class Applier:
    """Apply operations in the order of the log, in a thread of its own.

    A batch is one transaction: its changes, the outcomes of its requests and the trimming of the log are on disk
    together or not at all.
    """

    def __init__(self, database: Database, log: OperationLog) -> None:
        self._database = database
        self._log = log
        self._standing_still = threading.RLock()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="neptune-applier", daemon=True)
        with database.read() as connection:
            self._runs = RunStore(connection)

    def start(self) -> None:
        """Begin to apply what is in the log."""
        self._work.set()
        self._thread.start()

    def wake(self) -> None:
        """Tell that the log has grown."""
        self._work.set()

    def stop(self, timeout: float) -> None:
        """Stop after the batch at hand; what is left in the log is applied after the next start."""
        self._stopping.set()
        self._work.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[sa.Connection]:
        """Give a write connection while nothing is applied; what the applier remembers of runs is forgotten after."""
        with self._standing_still:
            try:
                with self._database.write() as connection:
                    yield connection
            finally:
                self._runs.clear()

    @contextlib.contextmanager
    def progress(self) -> Iterator[threading.Condition]:
        """Give the condition that is notified after every batch."""
        with self._progress:
            yield self._progress

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._work.wait()
            self._work.clear()
            try:
                while not self._stopping.is_set() and self._apply_batch():
                    pass
            except Exception:  # noqa: BLE001 # nothing may end this thread
                _LOG.exception("Applying failed; trying again in %s s", _RETRY_SECONDS)
                self._stopping.wait(_RETRY_SECONDS)
                self._work.set()

    def _apply_batch(self) -> bool:
        with self._standing_still:
            batch = self._log.pending(_BATCH_OPERATIONS, _BATCH_BYTES)
            if not batch:
                return False
            try:
                self._apply(batch)
            except sa.exc.OperationalError:
                # The database, not an operation, is at fault: nothing is lost, the log is applied later.
                self._runs.clear()
                raise
            except Exception:  # noqa: BLE001 # one of the operations is at fault, whatever it did
                _LOG.exception("A batch of %d operations failed; applying them one by one", len(batch))
                self._runs.clear()
                for operation in batch:
                    self._apply_alone(operation)
        with self._progress:
            self._progress.notify_all()
        return True

    def _apply_alone(self, operation: Operation) -> None:
        try:
            self._apply([operation])
        except sa.exc.OperationalError:
            self._runs.clear()
            raise
        except Exception:  # noqa: BLE001 # the outcome of the operation tells of it
            _LOG.exception("Operation %d (request %s) cannot be applied", operation.sequence, operation.request_id)
            self._runs.clear()
            verdict = Verdict(operation.request_id)
            verdict.refuse(pb.INGEST_CODE_INTERNAL)
            with self._database.write() as connection:
                self._log.settle(connection, [(operation, verdict.status(), verdict.details())])

    def _apply(self, batch: list[Operation]) -> None:
        with self._database.read() as connection:
            work = _Batch(self._runs, connection)
            settled = [work.apply(operation) for operation in batch]
            work.finish()
        with self._database.write() as connection:
            work.write_projects(connection)
            self._runs.write(connection)
            work.write_heads(connection)
            self._log.settle(connection, settled)
        self._runs.written()


class _Batch:
    """Apply the operations of one batch to run states; reads through one snapshot, writes nothing by itself."""

    def __init__(self, runs: RunStore, connection: sa.Connection) -> None:
        self._runs = runs
        self._connection = connection
        self._written = WrittenPoints(connection)
        self._projects: dict[int, sa.Row[str, str, bool, int] | None] = {}
        self._run_numbers: dict[int, int] = {}
        self._activity: dict[int, int] = {}
        self._owners: dict[int, str] = {}
        self._heads: dict[tuple[int, str], int] = {}

    def apply(self, operation: Operation) -> tuple[Operation, bytes, bytes | None]:
        """Apply one operation and return it with its serialized status and details."""
        verdict = Verdict(operation.request_id)
        message = pb.RunOperation.FromString(operation.payload)
        project = self._project(operation.project_id)
        kind = message.WhichOneof("operation")
        if operation.project_id is None or project is None:
            code = (
                pb.INGEST_CODE_PROJECT_NOT_FOUND
                if _is_project_name(message.project)
                else pb.INGEST_CODE_PROJECT_INVALID_NAME
            )
            verdict.refuse(code, count=_size(message))
        elif project.archived:
            verdict.refuse(pb.INGEST_CODE_INGEST_SUSPENDED, count=_size(message))
        elif kind == "create":
            self._create(operation, operation.project_id, message, verdict)
        else:
            run = self._runs.find(self._connection, operation.project_id, message.run_id)
            if run is None:
                verdict.refuse(pb.INGEST_CODE_RUN_NOT_FOUND, count=_size(message))
            else:
                snapshots = [message.update] if kind == "update" else message.update_batch.snapshots
                for snapshot in snapshots:
                    self._update(run, snapshot, operation.accepted_ms, verdict)
                self._touch(run, operation.accepted_ms)
        return operation, verdict.status(), verdict.details()

    def finish(self) -> None:
        """Bring the activity attributes of every changed run up to date."""
        for run in self._runs.changed.values():
            system_attributes.describe_activity(run, self._runs.put)

    def write_projects(self, connection: sa.Connection) -> None:
        """Write the last activity and the next run numbers of projects."""
        projects = schema.projects
        for project_id, activity_ms in self._activity.items():
            values: dict[str, int] = {"activity_ms": activity_ms}
            if project_id in self._run_numbers:
                values["next_run_number"] = self._run_numbers[project_id]
            connection.execute(projects.update().where(projects.c.id == project_id).values(values))

    def write_heads(self, connection: sa.Connection) -> None:
        """Write which run represents each experiment."""
        experiments = schema.experiments
        for (project_id, name), run_key in self._heads.items():
            same = (experiments.c.project_id == project_id, experiments.c.name == name)
            done = connection.execute(experiments.update().where(*same).values(head_id=run_key))
            if not done.rowcount:
                connection.execute(experiments.insert().values(project_id=project_id, name=name, head_id=run_key))

    def _touch(self, run: RunState, now_ms: int) -> None:
        run.last_applied_ms = run.modified_ms = now_ms
        self._runs.touch(run)
        self._activity[run.project_id] = now_ms

    def _project(self, project_id: int | None) -> sa.Row[str, str, bool, int] | None:
        if project_id is None:
            return None
        if project_id not in self._projects:
            projects = schema.projects
            query = sa.select(projects.c.uuid, projects.c.key, projects.c.archived, projects.c.next_run_number)
            self._projects[project_id] = self._connection.execute(
                query.where(projects.c.id == project_id)
            ).one_or_none()
        return self._projects[project_id]

    def _owner(self, user_id: int) -> str:
        if user_id not in self._owners:
            users = schema.users
            self._owners[user_id] = (
                self._connection.scalar(sa.select(users.c.username).where(users.c.id == user_id)) or ""
            )
        return self._owners[user_id]

    # Creating runs

    def _create(self, operation: Operation, project_id: int, message: pb.RunOperation, verdict: Verdict) -> None:
        create = message.create
        fault = rules.creation_fault(message, self._owner(operation.user_id))
        if fault is not None:
            verdict.refuse(pb.INGEST_CODE_RUN_INVALID_CREATION_PARAMETERS, sentence=fault)
            return
        requested_parent = requested_step = parent = None
        if create.HasField("fork_point"):
            requested_parent = create.fork_point.parent_run_id
            if create.fork_point.HasField("step"):
                requested_step = rules.step_micros(create.fork_point.step)
            parent = self._runs.find(self._connection, project_id, requested_parent)
        family = create.family or (parent.family if parent is not None else message.run_id)
        existing = self._runs.find(self._connection, project_id, message.run_id)
        if existing is not None:
            same = (existing.requested_parent, existing.requested_fork_step) == (requested_parent, requested_step)
            duplicate = same and existing.family == (create.family or existing.family)
            verdict.refuse(pb.INGEST_CODE_RUN_DUPLICATE if duplicate else pb.INGEST_CODE_RUN_CONFLICTING)
            return
        run = RunState(
            id=self._runs.run_keys(),
            uuid=str(uuid.uuid4()),
            project_id=project_id,
            run_id=message.run_id,
            number=self._next_number(project_id),
            experiment=create.experiment_id or None,
            family=family,
            requested_parent=requested_parent,
            requested_fork_step=requested_step,
            parent_id=None if parent is None else parent.id,
            fork_step=None,
            owner_id=operation.user_id,
            created_ms=rules.timestamp_ms(create.creation_time)
            if create.HasField("creation_time")
            else operation.accepted_ms,
            is_stored=False,
        )
        if parent is not None:
            run.fork_step = parent.last_step() if requested_step is None else requested_step
        self._runs.keep(run)
        self._describe(run, parent, create, operation.accepted_ms)
        self._touch(run, operation.accepted_ms)
        if requested_parent is not None and parent is None:
            verdict.refuse(pb.INGEST_CODE_RUN_FORK_PARENT_NOT_FOUND)
        else:
            verdict.accept()

    def _describe(self, run: RunState, parent: RunState | None, create: pb.CreateRun, now_ms: int) -> None:
        project = self._project(run.project_id)
        if project is None:  # `apply` has checked
            raise RuntimeError("The project is gone.")
        put = self._runs.put
        if run.experiment is not None:
            self._take_over(run, run.experiment, now_ms)
        system_attributes.describe_creation(
            run,
            put,
            short_id=f"{project.key}-{run.number}",
            owner=self._owner(run.owner_id),
            project_uuid=project.uuid,
            tracker=create.tracker,
        )
        system_attributes.describe_depth(run, put, parent)
        if run.requested_parent is not None:
            system_attributes.describe_fork(run, put, parent=parent, requested_parent=run.requested_parent)
        if parent is not None and create.inherit_configs:
            for attribute in parent.attributes.values():
                if attribute.value is not None and not attribute.name.startswith("sys/"):
                    put(run, attribute.name, attribute.type, attribute.value)

    def _take_over(self, run: RunState, experiment: str, now_ms: int) -> None:
        key = (run.project_id, experiment)
        head = self._heads.get(key)
        if head is None:
            experiments = schema.experiments
            head = self._connection.scalar(
                sa.select(experiments.c.head_id).where(
                    experiments.c.project_id == run.project_id, experiments.c.name == experiment
                )
            )
        if head is not None:
            previous = self._runs.get(self._connection, head)
            self._runs.put(previous, "sys/experiment/is_head", previous.attributes["sys/experiment/is_head"].type, 0)
            previous.modified_ms = now_ms
            self._runs.touch(previous)
        self._heads[key] = run.id

    def _next_number(self, project_id: int) -> int:
        project = self._project(project_id)
        number = self._run_numbers.get(project_id) or (project.next_run_number if project is not None else 1)
        self._run_numbers[project_id] = number + 1
        return number

    # Changing runs

    def _update(self, run: RunState, snapshot: pb.UpdateRunSnapshot, accepted_ms: int, verdict: Verdict) -> None:
        for path, value in snapshot.assign.items():
            self._settle(verdict, path, self._assign(run, path, value))
        for path, change in snapshot.modify_sets.items():
            self._settle(verdict, path, self._modify_set(run, path, change))
        if not snapshot.append:
            return
        if snapshot.HasField("step"):
            fault, step = rules.step_fault(snapshot.step), rules.step_micros(snapshot.step)
        else:
            step = _following_step(run, snapshot)
            fault = rules.step_fault(pb.Step(whole=step // limits.MICROS_PER_STEP))
        timestamp = rules.timestamp_ms(snapshot.timestamp) if snapshot.HasField("timestamp") else accepted_ms
        fault = fault or rules.time_fault(timestamp)
        if fault != pb.INGEST_CODE_OK:
            for path in snapshot.append:
                verdict.refuse(fault, path)
            return
        ratio = rules.completion_ratio(snapshot.preview) if snapshot.preview.is_preview else None
        for path, value in snapshot.append.items():
            self._settle(verdict, path, self._append(run, path, value, step, timestamp, ratio))

    @staticmethod
    def _settle(verdict: Verdict, path: str, code: int) -> None:
        if code == pb.INGEST_CODE_OK:
            verdict.accept()
        else:
            verdict.refuse(code, path)

    def _assign(self, run: RunState, path: str, value: pb.Value) -> int:
        kind = value.WhichOneof("value") or ""
        type_ = rules.ASSIGN_TYPES.get(kind)
        fault = rules.path_fault(path)
        if fault == pb.INGEST_CODE_OK and type_ is None:
            fault = pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED
        if fault != pb.INGEST_CODE_OK or type_ is None:
            return fault
        fault = self._type_fault(run, path, type_) or rules.value_fault(kind, value)
        if fault != pb.INGEST_CODE_OK:
            return fault
        if kind == "timestamp":
            self._runs.put(run, path, type_, rules.timestamp_ms(value.timestamp))
        elif kind == "string_set":
            self._runs.put(run, path, type_, frozenset(value.string_set.values))
        elif kind == "bool":
            self._runs.put(run, path, type_, int(value.bool))
        else:
            self._runs.put(run, path, type_, getattr(value, kind))
        return pb.INGEST_CODE_OK

    def _modify_set(self, run: RunState, path: str, change: pb.ModifySet) -> int:
        fault = rules.path_fault(path)
        if fault == pb.INGEST_CODE_OK and change.WhichOneof("type") != "string":
            fault = pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED
        type_ = rules.ASSIGN_TYPES["string_set"]
        fault = fault or self._type_fault(run, path, type_)
        if fault != pb.INGEST_CODE_OK:
            return fault
        attribute = run.attributes.get(path)
        members = set(attribute.value) if attribute is not None and isinstance(attribute.value, frozenset) else set()
        for member, action in change.string.values.items():
            if action == pb.SET_OPERATION_ADD:
                members.add(member)
            elif action == pb.SET_OPERATION_REMOVE:
                members.discard(member)
        fault = rules.set_fault(members)
        if fault == pb.INGEST_CODE_OK:
            self._runs.put(run, path, type_, frozenset(members))
        return fault

    def _append(self, run: RunState, path: str, value: pb.Value, step: int, timestamp: int, ratio: float | None) -> int:
        kind = value.WhichOneof("value") or ""
        type_ = rules.APPEND_TYPES.get(kind)
        fault = rules.path_fault(path)
        if fault == pb.INGEST_CODE_OK and (type_ is None or (ratio is not None and kind != "float64")):
            fault = pb.INGEST_CODE_FIELD_TYPE_UNSUPPORTED
        if fault != pb.INGEST_CODE_OK or type_ is None:
            return fault
        fault = self._type_fault(run, path, type_) or rules.value_fault(kind, value)
        if fault == pb.INGEST_CODE_OK and run.fork_step is not None and step <= run.fork_step:
            fault = pb.INGEST_CODE_SERIES_STEP_NOT_AFTER_FORK_POINT
        if fault != pb.INGEST_CODE_OK:
            return fault
        point: PointValue = value.float64 if kind == "float64" else value.SerializeToString()
        attribute = run.attributes.get(path)
        logged: PointValue | None = None
        if attribute is not None and attribute.series is not None:
            if ratio is None:
                logged = self._logged(attribute, attribute.series, step)
            fault = _point_fault(attribute, attribute.series, step, timestamp, point, logged, ratio)
            if fault != pb.INGEST_CODE_OK:
                return fault
        if attribute is None:
            attribute = self._runs.add(run, path, type_)
        run.changed[path] = attribute
        if attribute.series is None:  # `_type_fault` has checked
            raise RuntimeError("A series attribute has no series.")
        if ratio is None:
            attribute.series.add(step, timestamp, point, is_new=logged is None)
        else:
            _preview(attribute.series, step, Preview(timestamp, value.float64, ratio))
        return pb.INGEST_CODE_OK

    def _logged(self, attribute: Attribute, series: Series, step: int) -> PointValue | None:
        """Return the committed value at a step of a series; None when there is none."""
        if series.last_step is None or step > series.last_step:
            return None
        if step == series.last_step:
            return series.last_value
        waiting = series.waiting_value(step)
        if waiting is not None or not attribute.is_stored:
            return waiting
        return self._written.value(attribute.id, step, is_float=series.is_float)

    def _type_fault(self, run: RunState, path: str, type_: int) -> int:
        attribute = run.attributes.get(path)
        known = attribute.type if attribute is not None else rules.system_type(path)
        if known is None and run.parent_id is not None:
            known = self._inherited_type(run, path)
        return pb.INGEST_CODE_OK if known is None or known == type_ else pb.INGEST_CODE_FIELD_TYPE_CONFLICTING

    def _inherited_type(self, run: RunState, path: str) -> int | None:
        bound = run.fork_step
        while run.parent_id is not None and bound is not None:
            parent = self._runs.get(self._connection, run.parent_id)
            attribute = parent.attributes.get(path)
            if attribute is not None and attribute.series is not None:
                first = attribute.series.first_step
                if first is not None and first <= bound:
                    return attribute.type
            run = parent
            bound = None if run.fork_step is None else min(bound, run.fork_step)
        return None


def _point_fault(
    attribute: Attribute,
    series: Series,
    step: int,
    timestamp: int,
    value: PointValue,
    logged: PointValue | None,
    ratio: float | None,
) -> int:
    """Return why a point cannot follow those of its series, of which `logged` is at the same step."""
    is_late = series.last_step is not None and step <= series.last_step
    if ratio is not None:
        return pb.INGEST_CODE_SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP if is_late else pb.INGEST_CODE_OK
    if logged is not None and _is_same(value, logged):
        return pb.INGEST_CODE_SERIES_POINT_DUPLICATE
    if is_late and attribute.type in rules.ORDERED_SERIES:
        return pb.INGEST_CODE_SERIES_STEP_NON_INCREASING
    if series.last_timestamp is not None and timestamp < series.last_timestamp:
        return pb.INGEST_CODE_SERIES_TIMESTAMP_DECREASING
    return pb.INGEST_CODE_OK


def _preview(series: Series, step: int, preview: Preview) -> None:
    series.previews[step] = preview
    series.last_preview = step if series.last_preview is None else max(step, series.last_preview)


def _following_step(run: RunState, snapshot: pb.UpdateRunSnapshot) -> int:
    """Return the next whole step after the last one of the series in a snapshot, in micro-steps."""
    lasts = [run.fork_step] if run.fork_step is not None else []
    for path in snapshot.append:
        attribute = run.attributes.get(path)
        if attribute is not None and attribute.series is not None and attribute.series.last_step is not None:
            lasts.append(attribute.series.last_step)
    return (max(lasts) // limits.MICROS_PER_STEP + 1) * limits.MICROS_PER_STEP if lasts else 0


def _is_same(left: PointValue, right: PointValue) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    return left == right


def _is_project_name(text: str) -> bool:
    workspace, _, name = text.partition("/")
    return as_uuid(text) is not None or (bool(workspace) and is_name(name, limits.MAX_PROJECT_NAME_BYTES))


def _size(message: pb.RunOperation) -> int:
    """Return the number of atomic changes of an operation."""
    kind = message.WhichOneof("operation")
    if kind == "create":
        return 1
    snapshots = [message.update] if kind == "update" else message.update_batch.snapshots
    return sum(len(snapshot.assign) + len(snapshot.modify_sets) + len(snapshot.append) for snapshot in snapshots)
