"""RunsService: creating, finding, trashing, archiving, deleting and tagging runs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api.server import limits, page_tokens
from neptune_api.server.errors import StatusError, already_exists, failed_precondition, invalid, not_found
from neptune_api.server.identity import current_caller
from neptune_api.server.run_lookup import find_anywhere, find_in_project, parse_holder
from neptune_api.server.store import rules, runs, steps
from neptune_api.server.store.oplog import Submission
from neptune_api.server.store.runs import RunIdentifier
from neptune_api.server.store.system_attributes import IDLE_AFTER_MS
from neptune_api.server.validation import Checks, as_uuid
from neptune_api.v1 import ingest_pb2, runs_service_pb2_grpc
from neptune_api.v1 import runs_service_pb2 as pb
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MANAGER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import sqlalchemy as sa

    from neptune_api.server.access import Access
    from neptune_api.server.store.oplog import Outcome
    from neptune_api.server.store.records import ProjectRecord
    from neptune_api.server.store.runs import RunRecord
    from neptune_api.server.store.store import Store
    from neptune_api.v1.roles_pb2 import ProjectRole

    # Returns why a run cannot be changed; None when it can.
    Fault = Callable[[RunRecord], "pb.BulkRunError.Reason.ValueType | None"]
    # Changes runs by their keys, at this time in milliseconds.
    Change = Callable[[sa.Connection, list[int], int], None]

_DEFAULT_PAGE_SIZE: Final = 1_000
_APPLY_SECONDS: Final = 60.0
_LISTING: Final = "runs"
_TAG_PATHS: Final = ("sys/tags", "sys/group_tags")
_SENTENCES: Final = {
    pb.BulkRunError.REASON_TRASHED: "The run is in the trash: restore it first.",
    pb.BulkRunError.REASON_ALREADY_TRASHED: "The run is in the trash already.",
    pb.BulkRunError.REASON_NOT_EXISTS: "There is no such run, or you may not see it.",
    pb.BulkRunError.REASON_NOT_IN_TRASH: "The run is not in the trash.",
    pb.BulkRunError.REASON_IS_PROJECT: "This names a project, not a run.",
}
_CREATED: Final = {
    ingest_pb2.INGEST_CODE_OK,
    ingest_pb2.INGEST_CODE_RUN_DUPLICATE,
    ingest_pb2.INGEST_CODE_RUN_FORK_PARENT_NOT_FOUND,
}


class RunsService(runs_service_pb2_grpc.RunsServiceServicer):
    """Create, find and tidy up runs."""

    def __init__(self, *, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    def CreateRun(self, request: pb.CreateRunRequest, context: grpc.ServicerContext) -> pb.Run:
        _check_creation(request)
        project = self._access.project(request.project_identifier, PROJECT_ROLE_MEMBER, writing=True)
        run_id = request.run_id or str(uuid.uuid4())
        operation = ingest_pb2.RunOperation(
            project=f"{project.workspace}/{project.name}", run_id=run_id, create=_creation(request)
        )
        submission = Submission(operation.SerializeToString(), current_caller().user_id, project.id)
        (outcome,) = self._apply([submission], context)
        for fault in _codes(outcome):
            if fault not in _CREATED:
                raise _creation_error(fault)
        with self._store.database.read() as connection:
            identifier = RunIdentifier(run_id=run_id)
            found = runs.find(connection, [identifier], {None: project.id}).get(identifier)
            if found is None:
                raise not_found("The run was deleted while it was being created.", "EXPERIMENT_NOT_FOUND")
            return self._messages(connection, [found], project)[0]

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.Run:
        identifier = parse_holder("experiment_id", request.experiment_id)
        with self._store.database.read() as connection:
            found = find_anywhere(connection, self._access, [identifier], PROJECT_ROLE_VIEWER).get(identifier)
            if found is None:
                raise not_found("There is no such run, or you may not see it.", "EXPERIMENT_NOT_FOUND")
            run, project = found
            return self._messages(connection, [run], project)[0]

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        size = request.page_size if request.HasField("page_size") else _DEFAULT_PAGE_SIZE
        if not 1 <= size <= limits.MAX_PAGE_SIZE:
            raise invalid("page_size", f"is {size}; it has to be 1 to {limits.MAX_PAGE_SIZE:,}.")
        after = 0
        if request.page_token:
            (after,) = page_tokens.decode("page_token", request.page_token, _LISTING, [int])
        project = self._access.project(request.project_identifier, PROJECT_ROLE_VIEWER)
        trashed = request.trashed if request.HasField("trashed") else None
        with self._store.database.read() as connection:
            # One more than the page holds tells whether there is a next page.
            found = runs.page(connection, project.id, after_number=after, limit=size + 1, trashed=trashed)
            response = pb.ListRunsResponse(runs=self._messages(connection, found[:size], project))
        if len(found) > size:
            response.next_page_token = page_tokens.encode(_LISTING, found[size - 1].number)
        return response

    def TrashRuns(self, request: pb.TrashRunsRequest, context: grpc.ServicerContext) -> pb.BulkRunResult:
        def fault(run: RunRecord) -> pb.BulkRunError.Reason.ValueType | None:
            return pb.BulkRunError.REASON_ALREADY_TRASHED if run.trashed else None

        return self._change_in_project(request, PROJECT_ROLE_MEMBER, fault, _set("trashed", True))

    def RestoreRuns(self, request: pb.RestoreRunsRequest, context: grpc.ServicerContext) -> pb.BulkRunResult:
        return self._change_in_project(request, PROJECT_ROLE_MEMBER, _not_in_trash, _set("trashed", False))

    def DeleteRuns(self, request: pb.DeleteRunsRequest, context: grpc.ServicerContext) -> pb.BulkRunResult:
        return self._change_in_project(request, PROJECT_ROLE_MANAGER, _not_in_trash, runs.delete)

    def ArchiveRuns(self, request: pb.ArchiveRunsRequest, context: grpc.ServicerContext) -> pb.BulkRunResult:
        return self._set_archived(request.runs, True)

    def UnarchiveRuns(self, request: pb.UnarchiveRunsRequest, context: grpc.ServicerContext) -> pb.BulkRunResult:
        return self._set_archived(request.runs, False)

    def UpdateTagsBulk(
        self, request: pb.UpdateTagsBulkRequest, context: grpc.ServicerContext
    ) -> pb.UpdateTagsBulkResponse:
        updates = dict(request.update_per_project.items())
        _check_bulk("update_per_project", sum(len(update.experiment_identifiers) for update in updates.values()))
        for update in updates.values():
            if update.attribute_path_to_be_updated not in ("", *_TAG_PATHS):
                raise invalid("attribute_path_to_be_updated", f"has to be {' or '.join(_TAG_PATHS)}.")
        # All projects are looked up before anything is changed in one of them.
        projects = {
            name: self._access.project(name, PROJECT_ROLE_MEMBER, writing=True, field="update_per_project")
            for name in updates
        }
        response = pb.UpdateTagsBulkResponse()
        for name, update in updates.items():
            response.results_by_project[name].CopyFrom(self._update_tags(projects[name], update, context))
        return response

    def _messages(self, connection: sa.Connection, found: Sequence[RunRecord], project: ProjectRecord) -> list[pb.Run]:
        applied_ms = runs.last_applied(connection, [run.key for run in found])
        idle_before = int(self._store.clock() * 1000) - IDLE_AFTER_MS
        return [_message(run, project, is_idle=applied_ms.get(run.key, run.created_ms) < idle_before) for run in found]

    def _update_tags(
        self, project: ProjectRecord, update: pb.UpdateTags, context: grpc.ServicerContext
    ) -> pb.BulkRunResult:
        with self._store.database.read() as connection:
            found = find_in_project(connection, project, update.experiment_identifiers)
        result = self._sort_out(update.experiment_identifiers, found, _in_trash)
        changed = list(dict.fromkeys(found[name].run_id for name in result.updated_experiment_identifiers))
        change = ingest_pb2.ModifySet()
        for tag in update.tags_to_delete:
            change.string.values[tag] = ingest_pb2.SET_OPERATION_REMOVE
        for tag in update.tags_to_add:
            # Removal comes first, so that a tag in both lists stays.
            change.string.values[tag] = ingest_pb2.SET_OPERATION_ADD
        if not changed or not change.string.values:
            return result
        operation = ingest_pb2.RunOperation(project=f"{project.workspace}/{project.name}")
        operation.update.modify_sets[update.attribute_path_to_be_updated or _TAG_PATHS[0]].CopyFrom(change)
        submissions = []
        for run_id in changed:
            operation.run_id = run_id
            submissions.append(Submission(operation.SerializeToString(), current_caller().user_id, project.id))
        faults: dict[str, str] = {}
        for run_id, outcome in zip(changed, self._apply(submissions, context), strict=True):
            for code in _codes(outcome):
                if code != ingest_pb2.INGEST_CODE_OK:
                    faults[run_id] = rules.SENTENCES[code]
        if faults:
            names = list(result.updated_experiment_identifiers)
            result.updated_experiment_identifiers[:] = [name for name in names if found[name].run_id not in faults]
            for name in names:
                if found[name].run_id in faults:
                    result.errors.add(experiment_identifier=name, message=faults[found[name].run_id])
        return result

    def _change_in_project(
        self,
        request: pb.TrashRunsRequest | pb.RestoreRunsRequest | pb.DeleteRunsRequest,
        role: ProjectRole.ValueType,
        fault: Fault,
        change: Change,
    ) -> pb.BulkRunResult:
        names = request.experiment_identifiers
        _check_bulk("experiment_identifiers", len(names))
        project = self._access.project(request.project_identifier, role, writing=True)
        with self._store.exclusive() as connection:
            found = find_in_project(connection, project, names)
            result = self._sort_out(names, found, fault)
            change(connection, _keys(result, found), int(self._store.clock() * 1000))
        return result

    def _set_archived(self, names: Sequence[str], archived: bool) -> pb.BulkRunResult:
        _check_bulk("runs", len(names))
        identifiers: dict[str, RunIdentifier] = {}
        for name in names:
            try:
                identifiers[name] = RunIdentifier.parse(name)
            except ValueError:
                continue
        with self._store.exclusive() as connection:
            known = find_anywhere(
                connection,
                self._access,
                identifiers.values(),
                PROJECT_ROLE_MEMBER,
                writing=True,
                hide_projects=True,
            )
            found = {name: known[item][0] for name, item in identifiers.items() if item in known}
            result = self._sort_out(names, found, _in_trash)
            _set("archived", archived)(connection, _keys(result, found), int(self._store.clock() * 1000))
        return result

    def _sort_out(self, names: Iterable[str], found: dict[str, RunRecord], fault: Fault) -> pb.BulkRunResult:
        """Return which of the named runs can be changed, and why the others cannot."""
        result = pb.BulkRunResult()
        projects: set[str] | None = None
        for name in names:
            run = found.get(name)
            reason = None if run is None else fault(run)
            if run is None:
                if projects is None:
                    visible = self._access.visible_projects()
                    projects = {item.uuid for item in visible} | {f"{item.workspace}/{item.name}" for item in visible}
                is_project = (as_uuid(name) or name) in projects
                reason = pb.BulkRunError.REASON_IS_PROJECT if is_project else pb.BulkRunError.REASON_NOT_EXISTS
            if reason is None:
                result.updated_experiment_identifiers.append(name)
            else:
                result.errors.add(experiment_identifier=name, message=_SENTENCES[reason], reason=reason)
        return result

    def _apply(self, submissions: Sequence[Submission], context: grpc.ServicerContext) -> list[Outcome]:
        request_ids = self._store.submit_many(submissions)
        remaining = context.time_remaining()
        try:
            return self._store.wait_applied(
                request_ids, _APPLY_SECONDS if remaining is None else min(remaining, _APPLY_SECONDS)
            )
        except TimeoutError:
            raise StatusError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "The change is accepted and on disk but was not applied in time: read again a little later.",
            ) from None


def _message(run: RunRecord, project: ProjectRecord, *, is_idle: bool) -> pb.Run:
    message = pb.Run(
        id=run.uuid,
        custom_id=run.run_id,
        short_id=run.short_id,
        project_id=project.uuid,
        project_name=project.name,
        organization_id=project.workspace_uuid,
        organization_name=project.workspace,
        parent_id=project.uuid,
        trashed=run.trashed,
        type="run",
        experiment_name=run.experiment,
        archived=run.archived,
        owner=run.owner,
        parent_short_id=run.parent_short_id,
        fork_step=None if run.fork_step is None else steps.to_double(run.fork_step),
        state=pb.RUN_STATE_IDLE if is_idle else pb.RUN_STATE_RUNNING,
    )
    message.creation_time.FromMilliseconds(run.created_ms)
    return message


def _check_creation(request: pb.CreateRunRequest) -> None:
    with Checks() as checks:
        checks.required("project_identifier", request.project_identifier)
        texts: list[tuple[str, int]] = [
            ("run_id", limits.MAX_RUN_ID_BYTES),
            ("experiment_name", limits.MAX_EXPERIMENT_NAME_BYTES),
            ("parent_run_id", limits.MAX_RUN_ID_BYTES),
            ("family", limits.MAX_RUN_ID_BYTES),
        ]
        for field, limit in texts:
            if request.HasField(field):  # type: ignore[arg-type]  # one of the names above, each an optional field
                value: str = getattr(request, field)
                if not value:
                    checks.add(field, "is empty; say something or leave it out")
                checks.text(field, value, limit)
        if "/" in request.run_id:
            checks.add("run_id", "contains a slash, which separates the parts of a run's identifier; use another one")
        if request.HasField("fork_step"):
            if not request.parent_run_id:
                checks.add("fork_step", "is given without parent_run_id; a run without a parent has no fork step")
            _check_fork_step(checks, request.fork_step)
        if request.HasField("creation_time"):
            created = request.creation_time
            milliseconds = rules.timestamp_ms(created)
            if not 0 <= created.nanos < 1_000_000_000:
                checks.add("creation_time", f"has {created.nanos} nanos; they have to be 0 to 999,999,999")
            elif not limits.MIN_DATETIME_MS <= milliseconds <= limits.MAX_DATETIME_MS:
                checks.add("creation_time", "lies outside of 1900-01-01 to 2299-12-31")


def _check_fork_step(checks: Checks, step: float) -> None:
    if not 0 <= step < limits.MAX_WHOLE_STEP:  # NaN neither
        checks.add("fork_step", f"is {step}; it has to be 0 or more and less than {limits.MAX_WHOLE_STEP:,}")
    elif abs(steps.to_double(steps.nearest(step)) - step) > step * 2.0**-52:
        checks.add("fork_step", f"is {step!r}; it has to be a multiple of 0.000001")


def _creation(request: pb.CreateRunRequest) -> ingest_pb2.CreateRun:
    create = ingest_pb2.CreateRun(inherit_configs=request.inherit_configs)
    if request.experiment_name:
        create.experiment_id = request.experiment_name
    if request.family:
        create.family = request.family
    if request.HasField("creation_time"):
        create.creation_time.CopyFrom(request.creation_time)
    if request.parent_run_id:
        create.fork_point.parent_run_id = request.parent_run_id
        if request.HasField("fork_step"):
            whole, micro = divmod(steps.nearest(request.fork_step), limits.MICROS_PER_STEP)
            create.fork_point.step.MergeFrom(ingest_pb2.Step(whole=whole, micro=micro))
    return create


def _creation_error(code: ingest_pb2.IngestCode.ValueType) -> StatusError:
    if code == ingest_pb2.INGEST_CODE_RUN_CONFLICTING:
        return already_exists(rules.SENTENCES[code], "RUN_CONFLICTING")
    if code == ingest_pb2.INGEST_CODE_INGEST_SUSPENDED:
        return failed_precondition(rules.SENTENCES[code], "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT")
    if code == ingest_pb2.INGEST_CODE_PROJECT_NOT_FOUND:
        return not_found(rules.SENTENCES[code], "PROJECT_NOT_FOUND")
    # `_check_creation` lets nothing else through.
    return StatusError(grpc.StatusCode.INTERNAL, rules.SENTENCES[code], reason=ingest_pb2.IngestCode.Name(code))


def _codes(outcome: Outcome) -> list[ingest_pb2.IngestCode.ValueType]:
    status = ingest_pb2.RequestStatus.FromString(outcome.status or b"")
    return [item.detail for item in status.code_by_count]


def _set(flag: Any, value: bool) -> Change:
    return lambda connection, keys, now_ms: runs.set_flag(connection, keys, flag, value, now_ms)


def _keys(result: pb.BulkRunResult, found: dict[str, RunRecord]) -> list[int]:
    return list(dict.fromkeys(found[name].key for name in result.updated_experiment_identifiers))


def _in_trash(run: RunRecord) -> pb.BulkRunError.Reason.ValueType | None:
    return pb.BulkRunError.REASON_TRASHED if run.trashed else None


def _not_in_trash(run: RunRecord) -> pb.BulkRunError.Reason.ValueType | None:
    return None if run.trashed else pb.BulkRunError.REASON_NOT_IN_TRASH


def _check_bulk(field: str, count: int) -> None:
    if count > limits.MAX_BULK_RUNS:
        raise invalid(field, f"names {count:,} runs; name at most {limits.MAX_BULK_RUNS:,} at once.")
