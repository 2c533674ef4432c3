"""Access: who may do what. The only place that compares roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from neptune_api.server.errors import StatusError, denied, failed_precondition, invalid
from neptune_api.server.identity import current_caller
from neptune_api.server.limits import MAX_PROJECT_NAME_BYTES
from neptune_api.server.store.records import ProjectNameTakenError
from neptune_api.server.validation import is_name, shown
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_UNSPECIFIED,
    PROJECT_ROLE_VIEWER,
    WORKSPACE_ROLE_MEMBER,
    ProjectRole,
    WorkspaceRole,
)

if TYPE_CHECKING:
    from neptune_api.server.store.directory import Directory
    from neptune_api.server.store.records import ProjectRecord, WorkspaceRecord

_DENIED: Final = "ACCESS_DENIED"


class Access:
    """Find workspaces and projects for the current caller, and refuse those it may not see or change."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def find_project(self, identifier: str) -> ProjectRecord | None:
        """Return the project with a UUID or a `workspace/name`; None when the caller may not see one."""
        project = self._directory.find_project(identifier, current_caller().user_id)
        return project if project is not None and project.role != PROJECT_ROLE_UNSPECIFIED else None

    def project(
        self,
        identifier: str,
        role: ProjectRole.ValueType = PROJECT_ROLE_VIEWER,
        *,
        writing: bool = False,
        missing: grpc.StatusCode = grpc.StatusCode.NOT_FOUND,
        field: str = "project_identifier",
    ) -> ProjectRecord:
        """Return the project with a UUID or a `workspace/name`, in which the caller must have `role` or a higher one.

        `writing` says that runs are to be changed. Raises INVALID_ARGUMENT without an identifier, `missing` for a
        project that does not exist or that the caller may not see, PERMISSION_DENIED for a lower role and, when
        writing, FAILED_PRECONDITION for an archived project.
        """
        if not identifier:
            raise invalid(field, "is required; say workspace/name or the UUID of a project")
        project = self.find_project(identifier)
        if project is None:
            raise project_missing(identifier, missing)
        require_role(project, role)
        if writing:
            require_writable(project)
        return project

    def visible_projects(self) -> list[ProjectRecord]:
        """Return the projects that the caller may see, oldest first."""
        return self._directory.visible_projects(current_caller().user_id)

    def create_missing_project(self, identifier: str) -> int | None:
        """Create the project `workspace/name` for the caller and return its id; None where the caller cannot have it.

        When others create it at the same time, there is one project, and its id is returned to those who may write.
        """
        workspace_name, _, name = identifier.partition("/")
        caller = current_caller()
        workspace = self._directory.find_workspace(workspace_name, caller.user_id)
        if (
            workspace is None
            or workspace.role is None
            or workspace.name != workspace_name
            or not is_name(name, MAX_PROJECT_NAME_BYTES)
        ):
            return None
        try:
            return self._directory.create_project(name, workspace_id=workspace.id, creator_id=caller.user_id)
        except ProjectNameTakenError:
            project = self.find_project(identifier)
            return project.id if project is not None and project.role >= PROJECT_ROLE_MEMBER else None

    def workspace(
        self,
        identifier: str,
        role: WorkspaceRole.ValueType = WORKSPACE_ROLE_MEMBER,
        *,
        missing: grpc.StatusCode = grpc.StatusCode.NOT_FOUND,
        field: str = "organization_identifier",
    ) -> WorkspaceRecord:
        """Return the workspace with a UUID or a name, in which the caller must have `role` or a higher one.

        Raises INVALID_ARGUMENT without an identifier, `missing` for a workspace that does not exist or that the caller
        does not belong to, PERMISSION_DENIED for a lower role.
        """
        workspace = self._workspace(identifier, field)
        if workspace is None or workspace.role is None:
            raise workspace_missing(identifier, missing)
        if workspace.role < role:
            raise denied(
                f"This needs the role {_word(WorkspaceRole.Name(role))} in the organization {workspace.name}; "
                f"yours is {_word(WorkspaceRole.Name(workspace.role))}. Ask an owner of the organization."
            )
        return workspace

    def visible_workspace(self, identifier: str, *, field: str = "organization_identifier") -> WorkspaceRecord:
        """Return a workspace that the caller belongs to or may see a project of.

        Raises INVALID_ARGUMENT without an identifier, NOT_FOUND for any other workspace.
        """
        workspace = self._workspace(identifier, field)
        if workspace is not None and (
            workspace.role is not None or self._directory.sees_workspace(workspace.id, current_caller().user_id)
        ):
            return workspace
        raise workspace_missing(identifier)

    def _workspace(self, identifier: str, field: str) -> WorkspaceRecord | None:
        if not identifier:
            raise invalid(field, "is required; say the name or the UUID of a workspace")
        return self._directory.find_workspace(identifier, current_caller().user_id)


def require_role(project: ProjectRecord, role: ProjectRole.ValueType) -> None:
    """Check that the user has `role` or a higher one in a project it may see.

    Raises PERMISSION_DENIED.
    """
    if project.role < role:
        raise denied(
            f"This needs the role {_word(ProjectRole.Name(role))} in the project {project.workspace}/{project.name}; "
            f"yours is {_word(ProjectRole.Name(project.role))}. Ask a manager of the project."
        )


def require_writable(project: ProjectRecord) -> None:
    """Check that runs of a project may be changed.

    Raises FAILED_PRECONDITION for an archived project.
    """
    if project.archived:
        raise failed_precondition(
            f"The project {project.workspace}/{project.name} is archived and read-only: a manager can make it "
            "writable again with ProjectsService.UpdateProject.",
            "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT",
        )


def project_missing(identifier: str, code: grpc.StatusCode = grpc.StatusCode.NOT_FOUND) -> StatusError:
    """Return the answer about a project that does not exist or that the caller may not see."""
    return StatusError(
        code,
        f"Project {shown(identifier)} not found, or you may not see it. A project is named workspace/name or by its "
        "UUID.",
        reason="PROJECT_NOT_FOUND" if code is grpc.StatusCode.NOT_FOUND else _DENIED,
    )


def workspace_missing(identifier: str, code: grpc.StatusCode = grpc.StatusCode.NOT_FOUND) -> StatusError:
    """Return the answer about a workspace that does not exist or that the caller may not see."""
    # Released clients know the error by the words at its beginning.
    return StatusError(
        code,
        f"Organization {shown(identifier)} not found, or you are not a member of it.",
        reason="ORGANIZATION_NOT_FOUND" if code is grpc.StatusCode.NOT_FOUND else _DENIED,
    )


def _word(enum_value: str) -> str:
    """Return `owner` for `WORKSPACE_ROLE_OWNER`."""
    return enum_value.rpartition("_")[2].lower()
