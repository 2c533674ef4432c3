"""What the directory answers with: users, workspaces, projects and members; and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neptune_api.v1.projects_service_pb2 import ProjectCodeAccess
    from neptune_api.v1.roles_pb2 import ProjectRole, ProjectVisibility, WorkspaceRole
    from neptune_api.v1.users_service_pb2 import AvatarSource


class TakenError(Exception):
    """Report that what must be unique is taken; the subclasses say what."""


class UsernameTakenError(TakenError):
    """Report that another user has the name."""


class ProjectNameTakenError(TakenError):
    """Report that another project of the workspace has the name."""


class ProjectKeyTakenError(TakenError):
    """Report that another project of the workspace has the key."""


class AlreadyMemberError(TakenError):
    """Report that the user is a member of the project already."""


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user."""

    id: int
    uuid: str
    username: str
    email: str
    first_name: str
    last_name: str
    created_ms: int
    token_generation: int
    """Which of the user's API tokens is valid."""
    has_logged_in: bool


@dataclass(frozen=True, slots=True)
class WorkspaceRecord:
    """A workspace, seen by one user."""

    id: int
    uuid: str
    name: str
    role: WorkspaceRole.ValueType | None
    """The user's role in it; None for an outsider."""


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """A project, seen by one user."""

    id: int
    uuid: str
    name: str
    key: str
    workspace_id: int
    workspace_uuid: str
    workspace: str
    """Name of the workspace."""
    description: str | None
    visibility: ProjectVisibility.ValueType
    code_access: ProjectCodeAccess.ValueType
    archived: bool
    avatar_url: str
    avatar_source: AvatarSource.ValueType
    display_class: str | None
    version: int
    created_ms: int
    activity_ms: int
    role: ProjectRole.ValueType
    """The user's role in it, from whatever source; PROJECT_ROLE_UNSPECIFIED when the user may not see it."""
    workspace_role: WorkspaceRole.ValueType | None
    """The user's role in the workspace; None for an outsider."""


@dataclass(frozen=True, slots=True)
class ProjectOverview(ProjectRecord):
    """A project with what takes counting."""

    member_count: int
    """Members of the project and owners of the workspace, each once."""
    workspace_size: int
    """Members of the workspace."""


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """A page of a listing of projects."""

    entries: list[ProjectOverview]
    matching: int
    """How many match, on every page together."""
    total: int
    """How many the user may see."""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A member of a project."""

    user: UserRecord
    role: ProjectRole.ValueType
    """The role given to the member; manager for an owner of the workspace."""
    is_owner: bool
    """Whether the member owns the workspace, which decides the role."""
