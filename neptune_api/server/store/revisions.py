"""Revisions of projects: what changes runs of a project advances its revision, and says of which runs.

Whoever keeps something in memory that was read at one revision learns from the database, at another, which runs to read
again. A revision is seen in the same snapshot as the changes that made it, whichever process made them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from neptune_api.server.store.key_conditions import among, is_listed, listing
from neptune_api.server.store.schema import projects, run_revisions, runs
from neptune_api.server.store.table_rows import upserting_selected

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def advance(connection: sa.Connection, run_keys: Collection[int]) -> None:
    """Note that runs are created or changed in the transaction of a connection, or are about to be deleted."""
    if run_keys:
        dialect = connection.dialect.name
        for statement in _advancing(dialect):
            connection.execute(statement, {"run_keys": listing(dialect, run_keys)})


def current(connection: sa.Connection, project_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the revisions of projects, which begins the snapshot of a connection that has read nothing yet."""
    query = sa.select(projects.c.id, projects.c.revision).where(among(connection, projects.c.id, project_ids))
    found = {row.id: row.revision for row in connection.execute(query)}
    return tuple(found.get(key, -1) for key in project_ids)


def changed_since(connection: sa.Connection, project_id: int, revision: int, *, most: int) -> list[int] | None:
    """Return the keys of runs that are other ones than at a revision, and of all that descend from them, ascending.

    Descendants see what their ancestors log. None when there are more than `most`.
    """
    since = sa.select(run_revisions.c.run_id).where(
        run_revisions.c.project_id == project_id, run_revisions.c.revision > revision
    )
    line = since.cte("line", recursive=True)
    line = line.union(_children(connection, line))
    found = connection.scalars(sa.select(line.c.run_id).limit(most + 1)).all()
    return None if len(found) > most else sorted(found)


@functools.cache
def _advancing(dialect: str) -> tuple[sa.Executable, ...]:
    """Return the statements of `advance`: every batch needs them, and to make them takes longer than to execute them.

    Neither joins runs with projects: PostgreSQL would go through all runs for each project as long as it knows little
    of the tables.
    """
    theirs = is_listed(dialect, runs.c.id, sa.bindparam("run_keys"))
    is_one = projects.c.id.in_(sa.select(runs.c.project_id).where(theirs).distinct())
    revision = sa.select(projects.c.revision).where(projects.c.id == runs.c.project_id).scalar_subquery()
    changed = sa.select(runs.c.id, runs.c.project_id, revision).where(theirs)
    return (
        # Whoever else changes runs of these projects waits here: revisions come in the order in which they are seen.
        projects.update().where(is_one).values(revision=projects.c.revision + 1),
        upserting_selected(dialect, run_revisions, changed),
    )


def _children(connection: sa.Connection, line: sa.CTE) -> sa.Select[Any]:
    """Return the query for the runs whose parents are in a line."""
    is_child = runs.c.parent_id == line.c.run_id
    if connection.dialect.name != "postgresql":
        return sa.select(runs.c.id).join(line, is_child)
    # OFFSET keeps it from a join that goes through all forks again for every generation.
    children = sa.select(runs.c.id).where(is_child).offset(0).lateral()
    return sa.select(children.c.id).select_from(line).join(children, sa.true())
