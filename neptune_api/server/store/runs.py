"""Runs: how callers name them, finding and listing them, trashing, archiving and deleting them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import sqlalchemy as sa

from neptune_api.server.store import revisions
from neptune_api.server.store.lineage import batches
from neptune_api.server.store.schema import attributes, experiments, projects, runs, users

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SHORT_ID: Final = re.compile(r"([A-Z0-9]{1,10})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class RunIdentifier:
    """Name a run: by `uuid`, by `key` and `number` of its short id, or by `run_id`; `project` is `workspace/name`.

    A project alone names no run.
    """

    project: str | None = None
    uuid: str | None = None
    key: str | None = None
    number: int | None = None
    run_id: str | None = None

    @classmethod
    def parse(cls, text: str) -> RunIdentifier:
        """Read `workspace/project/SHORT-ID`, `SHORT-ID`, a UUID or `CUSTOM/workspace/project/<run id>`.

        Everything after the third slash of the last form is the run id. Raises ValueError for anything else.
        """
        if _UUID.fullmatch(text):
            return cls(uuid=text.lower())
        parts = text.split("/", 3)
        if len(parts) == 4 and parts[0] == "CUSTOM" and all(parts):
            return cls(f"{parts[1]}/{parts[2]}", run_id=parts[3])
        short_id = _SHORT_ID.fullmatch(parts[-1])
        if short_id is not None and all(parts) and len(parts) in {1, 3}:
            project = "/".join(parts[:2]) if len(parts) == 3 else None
            return cls(project, key=short_id[1], number=int(short_id[2]))
        raise ValueError(
            "a run is named workspace/project/SHORT-ID, by its UUID, or CUSTOM/workspace/project/<run id>; where the "
            "project is known, SHORT-ID will do"
        )

    @property
    def short_id(self) -> str | None:
        """Project key, `-`, number; None when the run is named otherwise."""
        return None if self.number is None else f"{self.key}-{self.number}"


class RunRecord(NamedTuple):
    """A run; `key` is the integer by which the store knows it, times are milliseconds, steps are micro-steps."""

    key: int
    uuid: str
    project_id: int
    project_uuid: str
    project_key: str
    run_id: str
    number: int
    experiment: str | None
    parent_key: int | None
    parent_number: int | None
    fork_step: int | None
    owner: str
    created_ms: int
    trashed: bool
    archived: bool

    @property
    def short_id(self) -> str:
        """Key of the project, `-`, number."""
        return f"{self.project_key}-{self.number}"

    @property
    def parent_short_id(self) -> str | None:
        """The same of the parent, which is in the same project; None for a run without one."""
        return None if self.parent_number is None else f"{self.project_key}-{self.parent_number}"


def find(
    connection: sa.Connection, identifiers: Iterable[RunIdentifier], project_ids: Mapping[str | None, int]
) -> dict[RunIdentifier, RunRecord]:
    """Return the runs that exist, by their identifiers.

    `project_ids` has a key for every project that may be searched: `workspace/name`, and None for identifiers without a
    project. UUIDs are searched everywhere.
    """
    uuids: list[str] = []
    numbers: dict[int, list[int]] = defaultdict(list)
    run_ids: dict[int, list[str]] = defaultdict(list)
    wanted = list(dict.fromkeys(identifiers))
    for item in wanted:
        project_id = project_ids.get(item.project)
        if item.uuid is not None:
            uuids.append(item.uuid)
        elif project_id is not None and item.number is not None:
            numbers[project_id].append(item.number)
        elif project_id is not None and item.run_id is not None:
            run_ids[project_id].append(item.run_id)
    by_uuid = {run.uuid: run for run in _select_in(connection, runs.c.uuid, uuids)}
    by_short_id: dict[tuple[int, str], RunRecord] = {}
    by_run_id: dict[tuple[int, str], RunRecord] = {}
    for project_id, values in numbers.items():
        for run in _select_in(connection, runs.c.number, values, runs.c.project_id == project_id):
            by_short_id[project_id, run.short_id] = run
    for project_id, names in run_ids.items():
        for run in _select_in(connection, runs.c.run_id, names, runs.c.project_id == project_id):
            by_run_id[project_id, run.run_id] = run
    found: dict[RunIdentifier, RunRecord] = {}
    for item in wanted:
        project_id = project_ids.get(item.project, -1)
        if item.uuid is not None:
            match = by_uuid.get(item.uuid)
        elif item.run_id is not None:
            match = by_run_id.get((project_id, item.run_id))
        else:
            match = by_short_id.get((project_id, item.short_id or ""))
        if match is not None:
            found[item] = match
    return found


def page(
    connection: sa.Connection, project_id: int, *, after_number: int = 0, limit: int, trashed: bool | None = None
) -> list[RunRecord]:
    """Return at most `limit` runs of a project with numbers above `after_number`, oldest first."""
    query = _records().where(runs.c.project_id == project_id, runs.c.number > after_number)
    if trashed is not None:
        query = query.where(runs.c.trashed.is_(trashed))
    return [RunRecord(*row) for row in connection.execute(query.order_by(runs.c.number).limit(limit)).all()]


def last_applied(connection: sa.Connection, keys: Collection[int]) -> dict[int, int]:
    """Return when something was last applied to runs, in milliseconds, by their keys."""
    found: dict[int, int] = {}
    select = sa.select(attributes.c.run_id, attributes.c.int_value).where(attributes.c.name == "sys/ping_time")
    for batch in batches(list(keys)):
        found.update(map(tuple, connection.execute(select.where(attributes.c.run_id.in_(batch))).all()))
    return found


def set_flag(
    connection: sa.Connection, keys: Collection[int], flag: Literal["trashed", "archived"], value: bool, now_ms: int
) -> None:
    """Trash or archive runs, or undo it: the run, its sys/* attribute and its time of modification."""
    revisions.advance(connection, keys)
    for batch in batches(list(keys)):
        connection.execute(runs.update().where(runs.c.id.in_(batch)).values({flag: value}))
        _set_attribute(connection, batch, f"sys/{flag}", int(value))
        _set_attribute(connection, batch, "sys/modification_time", now_ms)


def delete(connection: sa.Connection, keys: Collection[int], now_ms: int) -> None:
    """Delete runs with everything in them.

    Their forks become runs without a parent. Of an experiment whose head is deleted, the youngest run left becomes the
    head.
    """
    lost_heads: list[tuple[int, str]] = []
    orphans: list[int] = []
    for batch in batches(list(keys)):
        heads = sa.select(experiments.c.project_id, experiments.c.name).where(experiments.c.head_id.in_(batch))
        lost_heads += [(row.project_id, row.name) for row in connection.execute(heads)]
        orphans += connection.scalars(sa.select(runs.c.id).where(runs.c.parent_id.in_(batch)))
    revisions.advance(connection, [*keys, *orphans])
    for batch in batches(list(keys)):
        connection.execute(runs.update().where(runs.c.parent_id.in_(batch)).values(parent_id=None, fork_step=None))
        connection.execute(runs.delete().where(runs.c.id.in_(batch)))
    deleted = set(keys)
    _describe_orphans(connection, [key for key in orphans if key not in deleted], now_ms)
    new_heads: list[int] = []
    for project_id, name in lost_heads:
        youngest = connection.scalar(
            sa.select(sa.func.max(runs.c.id)).where(runs.c.project_id == project_id, runs.c.experiment == name)
        )
        if youngest is not None:
            connection.execute(experiments.insert().values(project_id=project_id, name=name, head_id=youngest))
            _set_attribute(connection, [youngest], "sys/experiment/is_head", 1)
            _set_attribute(connection, [youngest], "sys/modification_time", now_ms)
            new_heads.append(youngest)
    revisions.advance(connection, new_heads)


def _describe_orphans(connection: sa.Connection, keys: Sequence[int], now_ms: int) -> None:
    for batch in batches(keys):
        gone = attributes.c.name.in_(("sys/forking/parent", "sys/forking/step"))
        connection.execute(attributes.delete().where(attributes.c.run_id.in_(batch), gone))
        _set_attribute(connection, batch, "sys/modification_time", now_ms)
    relative = attributes.update().where(
        attributes.c.run_id == sa.bindparam("run_key"), attributes.c.name == "sys/relative_creation_time_ms"
    )
    relative = relative.values(int_value=sa.bindparam("milliseconds"))
    select = sa.select(runs.c.id, runs.c.parent_id, runs.c.created_ms)
    generation: list[Any] = []
    for batch in batches(keys):
        generation += connection.execute(select.where(runs.c.id.in_(batch)))
    # When the first ancestor of each run was created.
    origins = {row.id: row.created_ms for row in generation}
    depth = 0
    while generation:
        children: list[Any] = []
        for rows in batches(generation):
            batch_keys = [row.id for row in rows]
            _set_attribute(connection, batch_keys, "sys/forking/depth", depth)
            connection.execute(
                relative,
                [{"run_key": row.id, "milliseconds": row.created_ms - origins[row.id]} for row in rows],
            )
            children += connection.execute(select.where(runs.c.parent_id.in_(batch_keys)))
        generation = [row for row in children if row.id not in origins]
        origins |= {row.id: origins[row.parent_id] for row in generation}
        depth += 1


def _set_attribute(connection: sa.Connection, run_keys: Sequence[int], name: str, value: int) -> None:
    connection.execute(
        attributes.update().where(attributes.c.run_id.in_(run_keys), attributes.c.name == name).values(int_value=value)
    )


def _select_in(
    connection: sa.Connection, column: sa.Column[Any], values: Sequence[Any], *conditions: sa.ColumnElement[bool]
) -> list[RunRecord]:
    found: list[RunRecord] = []
    for batch in batches(values):
        query = _records().where(column.in_(batch), *conditions)
        found += [RunRecord(*row) for row in connection.execute(query).all()]
    return found


def _records() -> sa.Select[Any]:
    """Return the query for the fields of RunRecord, to be narrowed down."""
    parent = runs.alias("parent")
    return (
        sa.select(
            runs.c.id,
            runs.c.uuid,
            runs.c.project_id,
            projects.c.uuid,
            projects.c.key,
            runs.c.run_id,
            runs.c.number,
            runs.c.experiment,
            runs.c.parent_id,
            parent.c.number,
            runs.c.fork_step,
            users.c.username,
            runs.c.created_ms,
            runs.c.trashed,
            runs.c.archived,
        )
        .join_from(runs, projects, projects.c.id == runs.c.project_id)
        .join(users, users.c.id == runs.c.owner_id)
        .join(parent, parent.c.id == runs.c.parent_id, isouter=True)
    )
