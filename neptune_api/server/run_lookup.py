"""Finding the runs that requests name, among those the caller may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from neptune_api.server.errors import StatusError, invalid
from neptune_api.server.store import runs
from neptune_api.server.store.runs import RunIdentifier, RunRecord
from neptune_api.server.validation import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    import sqlalchemy as sa

    from neptune_api.server.access import Access
    from neptune_api.server.store.records import ProjectRecord
    from neptune_api.v1.roles_pb2 import ProjectRole


def parse_holder(field: str, text: str) -> RunIdentifier:
    """Read the identifier of a run where no project is known; raises INVALID_ARGUMENT about `field`."""
    if not text:
        raise invalid(field, "is required: a run.")
    try:
        identifier = RunIdentifier.parse(text)
    except ValueError as error:
        raise invalid(field, f'is "{shown(text)}"; {error}.') from None
    if identifier.project is None and identifier.uuid is None:
        raise invalid(
            field, f'is "{shown(text)}", which names no project; say workspace/project/{identifier.short_id}.'
        )
    return identifier


def parse_series_holder(field: str, text: str) -> RunIdentifier:
    """Do as parse_holder, but take `workspace/project/<any other name>` for a run that does not exist.

    Series of unknown runs are empty, and how a run that does not exist would be named is nobody's business.
    """
    try:
        return parse_holder(field, text)
    except StatusError:
        parts = text.split("/")
        if len(parts) != 3 or not all(parts) or parts[0] == "CUSTOM":
            raise
        return RunIdentifier("/".join(parts[:2]))


def find_in_project(connection: sa.Connection, project: ProjectRecord, names: Iterable[str]) -> dict[str, RunRecord]:
    """Return the runs of a project that exist, by the names a request gives them; other names are left out."""
    identifiers: dict[str, RunIdentifier] = {}
    for name in names:
        try:
            identifiers[name] = RunIdentifier.parse(name)
        except ValueError:
            continue
    own = {None: project.id, f"{project.workspace}/{project.name}": project.id}
    found = runs.find(connection, identifiers.values(), own)
    by_name = {name: found.get(identifier) for name, identifier in identifiers.items()}
    return {name: run for name, run in by_name.items() if run is not None and run.project_id == project.id}


def find_anywhere(
    connection: sa.Connection,
    access: Access,
    identifiers: Iterable[RunIdentifier],
    role: ProjectRole.ValueType,
    *,
    writing: bool = False,
    hide_projects: bool = False,
) -> dict[RunIdentifier, tuple[RunRecord, ProjectRecord]]:
    """Return the runs that exist with their projects; runs of projects the caller may not see do not exist.

    A project that an identifier names but that does not exist, or may not be seen, raises NOT_FOUND unless
    `hide_projects`. For a project of a run, `role` and `writing` are those of `Access.project`.
    """
    wanted = list(identifiers)
    projects: dict[str, ProjectRecord | None] = {}

    def project(name: str, *, hide: bool) -> ProjectRecord | None:
        if name not in projects:
            try:
                projects[name] = access.project(name, role, writing=writing)
            except StatusError as error:
                if not hide or error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
                projects[name] = None
        return projects[name]

    ids: dict[str | None, int] = {}
    for name in dict.fromkeys(item.project for item in wanted):
        record = None if name is None else project(name, hide=hide_projects)
        if record is not None:
            ids[name] = record.id
    found: dict[RunIdentifier, tuple[RunRecord, ProjectRecord]] = {}
    for item, run in runs.find(connection, wanted, ids).items():
        record = project(run.project_uuid if item.project is None else item.project, hide=True)
        if record is not None:
            found[item] = (run, record)
    return found
