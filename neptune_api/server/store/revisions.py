"""Revisions of projects: what changes runs of a project advances its revision, and says of which runs.

Whoever keeps something in memory that was read at one revision learns from the database, at another, which runs to read
again. A revision is seen in the same snapshot as the changes that made it, whichever process made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from neptune_api.server.store.key_conditions import among
from neptune_api.server.store.schema import projects, run_revisions, runs
from neptune_api.server.store.table_rows import upsert_selected

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def advance(connection: sa.Connection, run_keys: Collection[int]) -> None:
    """Note that runs are created or changed in the transaction of a connection, or are about to be deleted."""
    if not run_keys:
        return
    theirs = among(connection, runs.c.id, run_keys)
    # Whoever else changes runs of these projects waits here: revisions come in the order in which they are seen.
    is_one = projects.c.id.in_(sa.select(runs.c.project_id).where(theirs))
    connection.execute(projects.update().where(is_one).values(revision=projects.c.revision + 1))
    found = sa.select(runs.c.id, runs.c.project_id, projects.c.revision).join_from(runs, projects)
    upsert_selected(connection, run_revisions, found.where(theirs))


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
    line = line.union(sa.select(runs.c.id).join(line, runs.c.parent_id == line.c.run_id))
    found = connection.scalars(sa.select(line.c.run_id).limit(most + 1)).all()
    return None if len(found) > most else sorted(found)
