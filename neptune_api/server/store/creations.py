"""Creating runs: ids, forks, experiments."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa

from neptune_api.server.store import rules, schema, system_attributes
from neptune_api.server.store.run_state import RunState
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from neptune_api.server.store.oplog import Operation
    from neptune_api.server.store.run_store import RunStore
    from neptune_api.server.store.verdict import Verdict

    Project = sa.Row[str, str, bool, int]


class Creations:
    """Create the runs of one batch; reads through one snapshot, `write` writes what is not in run states."""

    def __init__(self, runs: RunStore, connection: sa.Connection) -> None:
        self._runs = runs
        self._connection = connection
        self._projects: dict[int, Project | None] = {}
        self._run_numbers: dict[int, int] = {}
        self._owners: dict[int, str] = {}
        self._heads: dict[tuple[int, str], int] = {}

    def create(
        self, operation: Operation, project_id: int, message: pb.RunOperation, verdict: Verdict
    ) -> RunState | None:
        """Create a run and return it; None when it was not created."""
        create = message.create
        fault = rules.creation_fault(message, self._owner(operation.user_id))
        if fault is not None:
            verdict.refuse(pb.INGEST_CODE_RUN_INVALID_CREATION_PARAMETERS, sentence=fault)
            return None
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
            return None
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
        if requested_parent is not None and parent is None:
            verdict.refuse(pb.INGEST_CODE_RUN_FORK_PARENT_NOT_FOUND)
        else:
            verdict.accept()
        return run

    def _describe(self, run: RunState, parent: RunState | None, create: pb.CreateRun, now_ms: int) -> None:
        project = self.project(run.project_id)
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
        system_attributes.describe_descent(run, put, parent)
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
        project = self.project(project_id)
        number = self._run_numbers.get(project_id) or (project.next_run_number if project is not None else 1)
        self._run_numbers[project_id] = number + 1
        return number

    def project(self, project_id: int | None) -> Project | None:
        """Return uuid, key, archived and next run number of a project; None when there is none."""
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

    def write(self, connection: sa.Connection) -> None:
        """Write the next run numbers of projects, and which run represents each experiment."""
        projects, experiments = schema.projects, schema.experiments
        for project_id, number in self._run_numbers.items():
            connection.execute(projects.update().where(projects.c.id == project_id).values(next_run_number=number))
        for (project_id, name), run_key in self._heads.items():
            same = (experiments.c.project_id == project_id, experiments.c.name == name)
            done = connection.execute(experiments.update().where(*same).values(head_id=run_key))
            if not done.rowcount:
                connection.execute(experiments.insert().values(project_id=project_id, name=name, head_id=run_key))
