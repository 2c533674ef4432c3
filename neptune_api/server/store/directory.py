"""The directory: users, workspaces and projects, and who belongs to which of them.

It knows nothing of tokens and decides nothing: it says what role a user has, server/access.py says what that allows.
"""

from __future__ import annotations

import re
import time
import unicodedata
import uuid
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.store import schema
from neptune_api.server.store.database import StoreError
from neptune_api.server.store.records import (
    AlreadyMemberError,
    MemberRecord,
    ProjectKeyTakenError,
    ProjectNameTakenError,
    ProjectOverview,
    ProjectPage,
    ProjectRecord,
    UsernameTakenError,
    UserRecord,
    WorkspaceRecord,
)
from neptune_api.server.validation import as_uuid, is_name
from neptune_api.v1.projects_service_pb2 import PROJECT_CODE_ACCESS_DEFAULT
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MANAGER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_UNSPECIFIED,
    PROJECT_ROLE_VIEWER,
    PROJECT_VISIBILITY_PRIV,
    PROJECT_VISIBILITY_PUB,
    PROJECT_VISIBILITY_WORKSPACE,
    WORKSPACE_ROLE_MEMBER,
    WORKSPACE_ROLE_OWNER,
    ProjectRole,
)
from neptune_api.v1.users_service_pb2 import AVATAR_SOURCE_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from neptune_api.server.store.database import Database
    from neptune_api.v1.roles_pb2 import ProjectVisibility, WorkspaceRole
    from neptune_api.v1.users_service_pb2 import AvatarSource

PROJECT_VERSION: Final = 2
"""The only version of a project's layout."""

# SQLite before 3.32 takes 999 parameters in one statement.
_MAX_PARAMETERS: Final = 500

_users = schema.users.c
_workspaces = schema.workspaces.c
_owners = schema.workspace_members.alias("owners")
_projects = schema.projects.c
_user_columns: Final = [_users[field.name] for field in fields(UserRecord)]

# The one place that says which role a user has in a project; the highest of the sources wins. 0 is
# PROJECT_ROLE_UNSPECIFIED: the user may not see the project.
_own_workspace = schema.workspace_members.alias("own_workspace")
_own_project = schema.project_members.alias("own_project")
_role: Final = sa.case(
    (_own_workspace.c.role == WORKSPACE_ROLE_OWNER, PROJECT_ROLE_MANAGER),
    (_own_project.c.role == PROJECT_ROLE_MANAGER, PROJECT_ROLE_MANAGER),
    (_own_project.c.role == PROJECT_ROLE_MEMBER, PROJECT_ROLE_MEMBER),
    (
        sa.and_(_projects.visibility == PROJECT_VISIBILITY_WORKSPACE, _own_workspace.c.role.is_not(None)),
        PROJECT_ROLE_MEMBER,
    ),
    (_own_project.c.role == PROJECT_ROLE_VIEWER, PROJECT_ROLE_VIEWER),
    (_projects.visibility == PROJECT_VISIBILITY_PUB, PROJECT_ROLE_VIEWER),
    else_=PROJECT_ROLE_UNSPECIFIED,
)

# Every project, with the columns of ProjectRecord for the user `viewer`. Statements that are built once cost a third of
# those that are built for every call, and most calls begin with a look at a project.
_SEEN: Final = sa.select(
    *(_projects[field.name] for field in fields(ProjectRecord) if field.name in _projects),
    _workspaces.uuid.label("workspace_uuid"),
    _workspaces.name.label("workspace"),
    _role.label("role"),
    _own_workspace.c.role.label("workspace_role"),
).select_from(
    schema.projects.join(schema.workspaces)
    .outerjoin(
        _own_workspace,
        sa.and_(
            _own_workspace.c.workspace_id == _projects.workspace_id, _own_workspace.c.user_id == sa.bindparam("viewer")
        ),
    )
    .outerjoin(
        _own_project,
        sa.and_(_own_project.c.project_id == _projects.id, _own_project.c.user_id == sa.bindparam("viewer")),
    )
)
_VISIBLE: Final = _SEEN.where(_role != PROJECT_ROLE_UNSPECIFIED)
_BY_UUID: Final = _SEEN.where(_projects.uuid == sa.bindparam("uuid"))
_BY_NAME: Final = _SEEN.where(_workspaces.name == sa.bindparam("workspace"), _projects.name == sa.bindparam("name"))


def _with_counts(projects: sa.Select[Any]) -> sa.Select[Any]:
    """Add the columns of ProjectOverview."""
    member, colleague = schema.project_members.alias("member"), schema.workspace_members.alias("colleague")
    owner = sa.and_(_owners.c.workspace_id == _projects.workspace_id, _owners.c.role == WORKSPACE_ROLE_OWNER)
    owners = sa.select(sa.func.count()).select_from(_owners).where(owner)
    is_owner = sa.exists().where(owner, _owners.c.user_id == member.c.user_id)
    others = sa.select(sa.func.count()).select_from(member).where(member.c.project_id == _projects.id, ~is_owner)
    size = sa.select(sa.func.count()).select_from(colleague).where(colleague.c.workspace_id == _projects.workspace_id)
    return projects.add_columns(
        (
            owners.correlate(schema.projects).scalar_subquery() + others.correlate(schema.projects).scalar_subquery()
        ).label("member_count"),
        size.correlate(schema.projects).scalar_subquery().label("workspace_size"),
    )


_OVERVIEW: Final = _with_counts(_SEEN).where(_projects.id == sa.bindparam("project_id"))

_ORDERS: Final = {
    "name": _projects.name,
    "timeOfCreation": _projects.created_ms,
    "lastActivity": _projects.activity_ms,
    # When somebody looks at a project is not recorded.
    "lastViewed": _projects.activity_ms,
}
SORT_FIELDS: Final = tuple(_ORDERS)
"""What listings of projects can be sorted by."""


class Directory:
    """Find, create, change and delete users, workspaces, projects and memberships.

    Methods that look something up return None for what does not exist. Names, keys and texts must have been validated.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    # Users

    def user(self, user_id: int) -> UserRecord | None:
        """Return the user with an id."""
        return self._one_user(_users.id == user_id)

    def find_user(self, identifier: str) -> UserRecord | None:
        """Return the user with a UUID or a name."""
        # UUIDs first: nobody can take another user's place by choosing its UUID as a name.
        if (key := as_uuid(identifier)) and (found := self._one_user(_users.uuid == key)):
            return found
        if not is_name(identifier, limits.MAX_USERNAME_BYTES):
            return None
        return self._one_user(_users.username == identifier)

    def _one_user(self, condition: sa.ColumnElement[bool]) -> UserRecord | None:
        with self._database.read() as connection:
            return next(_user_records(connection, condition), None)

    def colleagues(self, usernames: Iterable[str], *, of: int) -> dict[str, UserRecord]:
        """Return, by name, those of the named users that share a workspace with user `of`, that user included."""
        wanted = [name for name in dict.fromkeys(usernames) if is_name(name, limits.MAX_USERNAME_BYTES)]
        mine, theirs = schema.workspace_members.alias("mine"), schema.workspace_members.alias("theirs")
        shared = sa.exists().where(
            mine.c.user_id == of, theirs.c.workspace_id == mine.c.workspace_id, theirs.c.user_id == _users.id
        )
        with self._database.read() as connection:
            return {
                user.username: user
                for names in _batches(wanted)
                for user in _user_records(connection, sa.and_(_users.username.in_(names), (_users.id == of) | shared))
            }

    def create_user(
        self,
        username: str,
        *,
        email: str = "",
        first_name: str = "",
        last_name: str = "",
        workspace_id: int | None = None,
        role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER,
    ) -> UserRecord:
        """Create a user, as a member of a workspace if one is given.

        Raises UsernameTakenError.
        """
        user: dict[str, Any] = {
            "uuid": str(uuid.uuid4()),
            "username": username,
            "email": email,
            "first_name": first_name,
            "last_name": last_name,
            "created_ms": self._now_ms(),
            "token_generation": 0,
            "has_logged_in": False,
        }
        with self._database.write() as connection:
            if connection.scalar(sa.select(_users.id).where(_users.username == username)) is not None:
                raise UsernameTakenError(username)
            user_id = _inserted_id(connection.execute(schema.users.insert().values(user)))
            if workspace_id is not None:
                connection.execute(
                    schema.workspace_members.insert().values(workspace_id=workspace_id, user_id=user_id, role=role)
                )
        return UserRecord(id=user_id, **user)

    def note_login(self, user_id: int) -> None:
        """Remember that the user has exchanged an API token."""
        with self._database.write() as connection:
            connection.execute(schema.users.update().where(_users.id == user_id).values(has_logged_in=True))

    def revoke_token(self, user_id: int) -> None:
        """Make the next generation of the user's API token the valid one."""
        with self._database.write() as connection:
            connection.execute(
                schema.users.update()
                .where(_users.id == user_id)
                .values(token_generation=schema.users.c.token_generation + 1)
            )

    def owns_run(self, user_id: int) -> bool:
        """Tell whether the user owns a run."""
        with self._database.read() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(schema.runs.c.owner_id == user_id))))

    # Workspaces

    def workspaces(self, user_id: int) -> list[WorkspaceRecord]:
        """Return the workspaces that the user is a member of, by name."""
        statement = (
            sa.select(_workspaces.id, _workspaces.uuid, _workspaces.name, schema.workspace_members.c.role)
            .join_from(schema.workspaces, schema.workspace_members)
            .where(schema.workspace_members.c.user_id == user_id)
            .order_by(_workspaces.name)
        )
        with self._database.read() as connection:
            return [WorkspaceRecord(**row) for row in connection.execute(statement).mappings()]

    def find_workspace(self, identifier: str, user_id: int) -> WorkspaceRecord | None:
        """Return the workspace with a UUID or a name, as the user sees it."""
        if (key := as_uuid(identifier)) and (found := self._one_workspace(_workspaces.uuid == key, user_id)):
            return found
        if not is_name(identifier, limits.MAX_USERNAME_BYTES):
            return None
        return self._one_workspace(_workspaces.name == identifier, user_id)

    def _one_workspace(self, condition: sa.ColumnElement[bool], user_id: int) -> WorkspaceRecord | None:
        own = sa.and_(_own_workspace.c.workspace_id == _workspaces.id, _own_workspace.c.user_id == user_id)
        statement = (
            sa.select(_workspaces.id, _workspaces.uuid, _workspaces.name, _own_workspace.c.role)
            .select_from(schema.workspaces.outerjoin(_own_workspace, own))
            .where(condition)
        )
        with self._database.read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return WorkspaceRecord(**row) if row is not None else None

    def ensure_workspace(self, name: str) -> int:
        """Return the id of the workspace with a name, creating it if there is none."""
        with self._database.write() as connection:
            found = connection.scalar(sa.select(_workspaces.id).where(_workspaces.name == name))
            if found is not None:
                return int(found)
            return _inserted_id(
                connection.execute(
                    schema.workspaces.insert().values(uuid=str(uuid.uuid4()), name=name, created_ms=self._now_ms())
                )
            )

    def set_workspace_role(self, workspace_id: int, user_id: int, role: WorkspaceRole.ValueType) -> None:
        """Make the user a member of the workspace with this role, or change the role."""
        members = schema.workspace_members
        with self._database.write() as connection:
            own = sa.and_(members.c.workspace_id == workspace_id, members.c.user_id == user_id)
            if not connection.execute(members.update().where(own).values(role=role)).rowcount:
                connection.execute(members.insert().values(workspace_id=workspace_id, user_id=user_id, role=role))

    # Projects

    def find_project(self, identifier: str, user_id: int) -> ProjectRecord | None:
        """Return the project with a UUID or a `workspace/name`, as the user sees it, whatever its role."""
        workspace, slash, name = identifier.partition("/")
        if slash:
            if not is_name(workspace, limits.MAX_USERNAME_BYTES) or not is_name(name, limits.MAX_PROJECT_NAME_BYTES):
                return None
            return self._one_project(_BY_NAME, {"viewer": user_id, "workspace": workspace, "name": name})
        key = as_uuid(identifier)
        return self._one_project(_BY_UUID, {"viewer": user_id, "uuid": key}) if key else None

    def _one_project(self, statement: sa.Select[Any], parameters: dict[str, Any]) -> ProjectRecord | None:
        with self._database.read() as connection:
            row = connection.execute(statement, parameters).mappings().one_or_none()
        return ProjectRecord(**row) if row is not None else None

    def has_project(self, uuid: str) -> bool:
        """Tell whether there is a project with this UUID."""
        with self._database.read() as connection:
            return connection.execute(sa.select(_projects.id).where(_projects.uuid == uuid)).first() is not None

    def overview(self, project_id: int, user_id: int) -> ProjectOverview | None:
        """Return everything about a project, as the user sees it."""
        with self._database.read() as connection:
            found = connection.execute(_OVERVIEW, {"viewer": user_id, "project_id": project_id})
            row = found.mappings().one_or_none()
        return ProjectOverview(**row) if row is not None else None

    def visible_projects(self, user_id: int) -> list[ProjectRecord]:
        """Return the projects that the user may see, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(_VISIBLE.order_by(_projects.id), {"viewer": user_id}).mappings()
            return [ProjectRecord(**row) for row in rows]

    def sees_workspace(self, workspace_id: int, user_id: int) -> bool:
        """Tell whether the user may see a project of the workspace."""
        statement = _VISIBLE.where(_projects.workspace_id == workspace_id).limit(1)
        with self._database.read() as connection:
            return connection.execute(statement, {"viewer": user_id}).first() is not None

    def list_projects(
        self,
        user_id: int,
        *,
        workspace_id: int | None = None,
        roles: Collection[ProjectRole.ValueType] | None = None,
        search: str = "",
        order: Sequence[tuple[str, bool]] = (),
        offset: int = 0,
        limit: int | None = None,
    ) -> ProjectPage:
        """List the projects that the user may see: of one workspace, with one of the roles, with a text in them.

        `order` holds pairs of one of SORT_FIELDS and whether it descends; equal projects come oldest first. Without
        it, projects come by name.
        """
        statement, viewer = _VISIBLE, {"viewer": user_id}
        if workspace_id is not None:
            statement = statement.where(_projects.workspace_id == workspace_id)
        if roles is not None:
            statement = statement.where(_role.in_(sorted(roles)))
        keys = [_ORDERS[field].desc() if descends else _ORDERS[field].asc() for field, descends in order]
        ordered = _with_counts(statement).order_by(*keys or [_projects.name.asc()], _projects.id)
        with self._database.read() as connection:
            total = _count(connection, _VISIBLE, viewer)
            if search:
                # Not in SQL: SQLite folds the case of ASCII letters only.
                needle = search.casefold()
                found = [row for row in connection.execute(ordered, viewer).mappings() if _contains(row, needle)]
                matching = len(found)
                rows: Iterable[sa.RowMapping] = found[offset : None if limit is None else offset + limit]
            else:
                matching = _count(connection, statement, viewer)
                rows = connection.execute(ordered.offset(offset).limit(limit), viewer).mappings()
            return ProjectPage([ProjectOverview(**row) for row in rows], matching, total)

    def create_project(
        self,
        name: str,
        *,
        workspace_id: int,
        creator_id: int,
        key: str | None = None,
        description: str | None = None,
        visibility: ProjectVisibility.ValueType = PROJECT_VISIBILITY_PRIV,
        avatar_url: str = "",
        avatar_source: AvatarSource.ValueType = AVATAR_SOURCE_DEFAULT,
        display_class: str | None = None,
    ) -> int:
        """Create a project with its creator as manager and return its id; without a key, one is made from the name.

        Raises ProjectNameTakenError and ProjectKeyTakenError.
        """
        now = self._now_ms()
        # Looking before inserting is safe: transactions that write are serial, and it tells which column collides in
        # the same way on every database.
        with self._database.write() as connection:
            _check_name_free(connection, workspace_id, name)
            in_workspace = sa.select(_projects.key).where(_projects.workspace_id == workspace_id)
            if key is None:
                key = _free_key(name, set(connection.scalars(in_workspace)))
            elif connection.scalar(in_workspace.where(_projects.key == key)) is not None:
                raise ProjectKeyTakenError(key)
            project_id = _inserted_id(
                connection.execute(
                    schema.projects.insert().values(
                        uuid=str(uuid.uuid4()),
                        workspace_id=workspace_id,
                        name=name,
                        key=key,
                        description=description,
                        visibility=visibility,
                        code_access=PROJECT_CODE_ACCESS_DEFAULT,
                        avatar_url=avatar_url,
                        avatar_source=avatar_source,
                        display_class=display_class,
                        version=PROJECT_VERSION,
                        created_ms=now,
                        activity_ms=now,
                    )
                )
            )
            connection.execute(
                schema.project_members.insert().values(
                    project_id=project_id, user_id=creator_id, role=PROJECT_ROLE_MANAGER
                )
            )
        return project_id

    def update_project(self, project: ProjectRecord, changes: dict[str, Any]) -> None:
        """Change columns of a project; a project that has been deleted meanwhile stays deleted.

        Raises ProjectNameTakenError.
        """
        if not changes:
            return
        with self._database.write() as connection:
            if changes.get("name", project.name) != project.name:
                _check_name_free(connection, project.workspace_id, changes["name"])
            connection.execute(
                schema.projects.update().where(_projects.id == project.id).values(**changes, activity_ms=self._now_ms())
            )

    def delete_project(self, connection: sa.Connection, project_id: int) -> bool:
        """Delete a project with all that belongs to it, and tell whether it was there.

        The connection is the caller's, because the applier has to stand still meanwhile: it remembers runs.
        """
        # These have no foreign key: operations may name projects that do not exist.
        for table in (schema.operations, schema.requests, schema.leases):
            connection.execute(table.delete().where(table.c.project_id == project_id))
        return connection.execute(schema.projects.delete().where(_projects.id == project_id)).rowcount > 0

    # Members of projects

    def members(self, project: ProjectRecord) -> list[MemberRecord]:
        """Return the members of a project and the owners of its workspace, by name."""
        with self._database.read() as connection:
            return list(_member_records(connection, project, sa.true()))

    def member(self, project: ProjectRecord, user_id: int) -> MemberRecord | None:
        """Return one member of a project, or owner of its workspace."""
        with self._database.read() as connection:
            return next(_member_records(connection, project, _users.id == user_id), None)

    def add_member(self, project: ProjectRecord, user_id: int, role: ProjectRole.ValueType) -> bool:
        """Make a user a member of a project, and tell whether the project is still there.

        Raises AlreadyMemberError, also for an owner of the workspace.
        """
        with self._database.write() as connection:
            if connection.scalar(sa.select(_projects.id).where(_projects.id == project.id)) is None:
                return False
            if next(_member_records(connection, project, _users.id == user_id), None) is not None:
                raise AlreadyMemberError
            connection.execute(
                schema.project_members.insert().values(project_id=project.id, user_id=user_id, role=role)
            )
        return True

    def set_member_role(self, project: ProjectRecord, user_id: int, role: ProjectRole.ValueType) -> bool:
        """Change the role of a member, and tell whether there was one."""
        with self._database.write() as connection:
            update = schema.project_members.update().where(_membership(project, user_id)).values(role=role)
            return connection.execute(update).rowcount > 0

    def remove_member(self, project: ProjectRecord, user_id: int) -> bool:
        """Remove a member from a project, and tell whether there was one."""
        with self._database.write() as connection:
            delete = schema.project_members.delete().where(_membership(project, user_id))
            return connection.execute(delete).rowcount > 0

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def ensure_owner(directory: Directory, workspace_name: str, username: str) -> UserRecord:
    """Return the user of this name, owner of the workspace of this name; whatever is missing is created.

    Raises StoreError when a name cannot be one.
    """
    for kind, name in (("workspace", workspace_name), ("user", username)):
        if not is_name(name, limits.MAX_USERNAME_BYTES):
            raise StoreError(
                f"A {kind} cannot have the name {name!r}: use 1 to {limits.MAX_USERNAME_BYTES} letters, digits or "
                "the characters _ - ."
            )
    user = directory.find_user(username)
    if user is None:
        try:
            user = directory.create_user(username)
        except UsernameTakenError:  # another server on the same database starts at the same moment
            return ensure_owner(directory, workspace_name, username)
    workspace_id = directory.ensure_workspace(workspace_name)
    directory.set_workspace_role(workspace_id, user.id, WORKSPACE_ROLE_OWNER)
    return user


def _inserted_id(result: sa.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    assert key is not None  # noqa: S101 # for the type checker: the statement inserted one row
    return int(key[0])


def _batches(names: list[str]) -> Iterator[list[str]]:
    return (names[start : start + _MAX_PARAMETERS] for start in range(0, len(names), _MAX_PARAMETERS))


def _user_records(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Iterator[UserRecord]:
    for row in connection.execute(sa.select(*_user_columns).where(condition)).mappings():
        yield UserRecord(**row)


def _count(connection: sa.Connection, projects: sa.Select[Any], parameters: dict[str, Any]) -> int:
    return connection.scalar(projects.with_only_columns(sa.func.count()), parameters) or 0


def _contains(row: sa.RowMapping, needle: str) -> bool:
    return any(needle in (row[column] or "").casefold() for column in ("name", "key", "description"))


def _check_name_free(connection: sa.Connection, workspace_id: int, name: str) -> None:
    taken = sa.select(_projects.id).where(_projects.workspace_id == workspace_id, _projects.name == name)
    if connection.scalar(taken) is not None:
        raise ProjectNameTakenError(name)


def _free_key(name: str, taken: Collection[str]) -> str:
    """Make a key from a project's name: initials of several words, else the first letters; numbered when taken."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().upper()
    words = re.findall("[A-Z0-9]+", plain)
    stem = "".join(word[0] for word in words[:5]) if len(words) > 1 else "".join(words)[:4]
    if not any(character.isalpha() for character in stem):
        stem = f"P{stem}"
    if stem not in taken:
        return stem
    number = 2
    while True:
        candidate = f"{stem[: limits.MAX_PROJECT_KEY_LENGTH - len(str(number))]}{number}"
        if candidate not in taken:
            return candidate
        number += 1


def _member_records(
    connection: sa.Connection, project: ProjectRecord, condition: sa.ColumnElement[bool]
) -> Iterator[MemberRecord]:
    member = schema.project_members
    owner = sa.and_(
        _owners.c.user_id == _users.id,
        _owners.c.workspace_id == project.workspace_id,
        _owners.c.role == WORKSPACE_ROLE_OWNER,
    )
    statement = (
        sa.select(*_user_columns, member.c.role.label("given_role"), _owners.c.role.label("owner_role"))
        .select_from(
            schema.users.outerjoin(
                member, sa.and_(member.c.user_id == _users.id, member.c.project_id == project.id)
            ).outerjoin(_owners, owner)
        )
        .where(sa.or_(member.c.role.is_not(None), _owners.c.role.is_not(None)), condition)
        .order_by(_users.username)
    )
    for row in connection.execute(statement).mappings():
        user = {column.name: row[column.name] for column in _user_columns}
        is_owner = row["owner_role"] is not None
        role = PROJECT_ROLE_MANAGER if is_owner else ProjectRole.ValueType(row["given_role"])
        yield MemberRecord(UserRecord(**user), role, is_owner)


def _membership(project: ProjectRecord, user_id: int) -> sa.ColumnElement[bool]:
    members = schema.project_members.c
    return sa.and_(members.project_id == project.id, members.user_id == user_id)
