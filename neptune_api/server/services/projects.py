"""ProjectsService: projects and their members."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from neptune_api.server import limits
from neptune_api.server.access import project_missing, require_role
from neptune_api.server.errors import already_exists, failed_precondition, not_found
from neptune_api.server.files.storage import StorageError
from neptune_api.server.identity import current_caller
from neptune_api.server.services.timestamps import timestamp_of
from neptune_api.server.store.directory import PROJECT_VERSION, SORT_FIELDS
from neptune_api.server.store.records import AlreadyMemberError, ProjectKeyTakenError, ProjectNameTakenError
from neptune_api.server.validation import Checks, one_of, shown
from neptune_api.v1.projects_service_pb2 import (
    ORGANIZATION_TYPE_INDIVIDUAL,
    ORGANIZATION_TYPE_TEAM,
    DeleteProjectMemberResponse,
    DeleteProjectResponse,
    ListProjectMembersResponse,
    Project,
    ProjectCodeAccess,
    ProjectList,
    ProjectMember,
    ProjectWithRole,
    RegisteredMemberInfo,
)
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceServicer
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MANAGER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_UNSPECIFIED,
    PROJECT_ROLE_VIEWER,
    PROJECT_VISIBILITY_PRIV,
    ProjectRole,
    ProjectVisibility,
)
from neptune_api.v1.users_service_pb2 import AVATAR_SOURCE_DEFAULT, AvatarSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    import grpc
    import sqlalchemy as sa

    from neptune_api.server.access import Access
    from neptune_api.server.errors import StatusError
    from neptune_api.server.files.storage import FileStorage
    from neptune_api.server.store.directory import Directory
    from neptune_api.server.store.records import MemberRecord, ProjectOverview, ProjectRecord, UserRecord
    from neptune_api.v1.projects_service_pb2 import (
        AddProjectMemberRequest,
        CreateProjectRequest,
        DeleteProjectMemberRequest,
        DeleteProjectRequest,
        GetProjectDetailsRequest,
        GetProjectMemberV2Request,
        GetProjectRequest,
        ListProjectMembersRequest,
        ListProjectsRequest,
        ProjectUpdate,
        UpdateProjectMemberRequest,
        UpdateProjectRequest,
    )


_RELATIONS: Final[Mapping[str, tuple[ProjectRole.ValueType, ...]]] = {
    "viewerOrHigher": (PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER),
    "memberOrHigher": (PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER),
    "manager": (PROJECT_ROLE_MANAGER,),
    "member": (PROJECT_ROLE_MEMBER,),
    "viewer": (PROJECT_ROLE_VIEWER,),
}
_LOGGER: Final = logging.getLogger("neptune_api.server.files")
_DIRECTIONS: Final = {"ascending": False, "descending": True}


class ProjectsService(ProjectsServiceServicer):
    """Creates, finds, changes and deletes projects; manages their members."""

    def __init__(
        self,
        *,
        directory: Directory,
        access: Access,
        exclusive: Callable[[], AbstractContextManager[sa.Connection]],
        storage: FileStorage | None,
    ) -> None:
        """Take in `exclusive` what gives a write connection while no operation is being applied."""
        self._directory = directory
        self._access = access
        self._exclusive = exclusive
        self._storage = storage

    def CreateProject(self, request: CreateProjectRequest, context: grpc.ServicerContext) -> ProjectWithRole:
        """Create a project with the caller as its manager."""
        with Checks() as check:
            check.name("name", request.name, limits.MAX_PROJECT_NAME_BYTES, reason="PROJECT_NAME_INVALID")
            check.required("organization_identifier", request.organization_identifier)
            _check_texts(check, request, "")
            check.known("visibility", request.visibility, ProjectVisibility)
            check.known("avatar_source", request.avatar_source, AvatarSource)
            if request.HasField("project_key"):
                check.project_key("project_key", request.project_key)
            if request.HasField("version") and request.version != PROJECT_VERSION:
                check.add("version", f"is {request.version}; only {PROJECT_VERSION} is known, leave it out")
        caller = current_caller()
        workspace = self._access.workspace(request.organization_identifier)
        try:
            project_id = self._directory.create_project(
                request.name,
                workspace_id=workspace.id,
                creator_id=caller.user_id,
                key=request.project_key if request.HasField("project_key") else None,
                description=request.description if request.HasField("description") else None,
                visibility=request.visibility or PROJECT_VISIBILITY_PRIV,
                avatar_url=request.avatar_url,
                avatar_source=request.avatar_source or AVATAR_SOURCE_DEFAULT,
                display_class=request.display_class if request.HasField("display_class") else None,
            )
        except ProjectNameTakenError:
            raise _name_taken(workspace.name, request.name) from None
        except ProjectKeyTakenError:
            raise already_exists(
                f"The organization {workspace.name} has a project with the key {request.project_key}: choose another "
                "key, or leave it out to have one made.",
                "PROJECT_KEY_COLLISION",
            ) from None
        return self._details(project_id, f"{workspace.name}/{request.name}")

    def GetProject(self, request: GetProjectRequest, context: grpc.ServicerContext) -> Project:
        """Return a project's names and ids."""
        project = self._access.project(request.project_identifier)
        return Project(
            id=project.uuid,
            name=project.name,
            organization_name=project.workspace,
            organization_id=project.workspace_uuid,
            project_key=project.key,
            version=project.version,
        )

    def GetProjectDetails(self, request: GetProjectDetailsRequest, context: grpc.ServicerContext) -> ProjectWithRole:
        """Return everything about a project."""
        project = self._access.project(request.project_identifier)
        return self._details(project.id, request.project_identifier)

    def ListProjects(self, request: ListProjectsRequest, context: grpc.ServicerContext) -> ProjectList:
        """List the projects that the caller may see."""
        offset = request.offset if request.HasField("offset") else None
        limit = request.limit if request.HasField("limit") else None
        with Checks() as check:
            if request.HasField("user_relation") and request.user_relation not in _RELATIONS:
                check.add("user_relation", f'is "{shown(request.user_relation)}"; {one_of(_RELATIONS)}')
            _check_order(check, request)
            check.page(offset=offset, limit=limit)
        workspace_id = None
        if request.HasField("organization_identifier"):
            workspace_id = self._access.visible_workspace(request.organization_identifier).id
        page = self._directory.list_projects(
            current_caller().user_id,
            workspace_id=workspace_id,
            roles=_RELATIONS[request.user_relation] if request.HasField("user_relation") else None,
            search=request.search_term,
            order=_order(request),
            offset=offset or 0,
            limit=limit,
        )
        return ProjectList(
            entries=[_project_with_role(project) for project in page.entries],
            matching_item_count=page.matching,
            total_item_count=page.total,
        )

    def UpdateProject(self, request: UpdateProjectRequest, context: grpc.ServicerContext) -> ProjectWithRole:
        """Change a project; an archived one too, because only its runs are read-only."""
        update = request.project_to_update
        with Checks() as check:
            check.required("project_identifier", request.project_identifier)
            check.required("project_to_update", request.HasField("project_to_update"))
            prefix = "project_to_update."
            if update.HasField("name"):
                check.name(f"{prefix}name", update.name, limits.MAX_PROJECT_NAME_BYTES, reason="PROJECT_NAME_INVALID")
            _check_texts(check, update, prefix)
            # Present but unspecified would be a change to nothing.
            check.known(
                f"{prefix}visibility", update.visibility, ProjectVisibility, required=update.HasField("visibility")
            )
            check.known(
                f"{prefix}code_access", update.code_access, ProjectCodeAccess, required=update.HasField("code_access")
            )
            check.known(
                f"{prefix}avatar_source", update.avatar_source, AvatarSource, required=update.HasField("avatar_source")
            )
        project = self._access.project(request.project_identifier, PROJECT_ROLE_MANAGER)
        try:
            # The fields are named like the columns.
            self._directory.update_project(project, {field.name: value for field, value in update.ListFields()})
        except ProjectNameTakenError:
            raise _name_taken(project.workspace, update.name) from None
        return self._details(project.id, request.project_identifier)

    def DeleteProject(self, request: DeleteProjectRequest, context: grpc.ServicerContext) -> DeleteProjectResponse:
        """Delete a project with all its runs and files."""
        project = self._access.project(request.project_identifier, PROJECT_ROLE_MANAGER)
        with self._exclusive() as connection:
            if not self._directory.delete_project(connection, project.id):
                raise project_missing(request.project_identifier)
        try:
            if self._storage is not None:
                self._storage.delete_project(project.uuid)
        except StorageError as error:
            # Nobody can reach the files any more; whoever runs the server can remove them.
            _LOGGER.error("%s", error)  # noqa: TRY400 # the sentence says it; the trace is the library's
        return DeleteProjectResponse()

    def ListProjectMembers(
        self, request: ListProjectMembersRequest, context: grpc.ServicerContext
    ) -> ListProjectMembersResponse:
        """List the members of a project and the owners of its workspace."""
        project = self._access.project(request.project_identifier)
        return ListProjectMembersResponse(
            members=[_project_member(project, member) for member in self._directory.members(project)]
        )

    def AddProjectMember(self, request: AddProjectMemberRequest, context: grpc.ServicerContext) -> ProjectMember:
        """Make a user a member of a project."""
        with Checks() as check:
            check.required("project_identifier", request.project_identifier)
            if check.required("member", request.HasField("member")):
                check.required("member.user_id", request.member.user_id)
                check.known("member.role", request.member.role, ProjectRole, required=True)
        project = self._access.project(request.project_identifier, PROJECT_ROLE_MANAGER)
        user = self._user(request.member.user_id)
        try:
            if not self._directory.add_member(project, user.id, request.member.role):
                raise project_missing(request.project_identifier)
        except AlreadyMemberError:
            raise already_exists(
                f"{user.username} is a member of {project.workspace}/{project.name} already: change the role with "
                "UpdateProjectMember.",
                "CONFLICT",
            ) from None
        return self._member(project, user)

    def UpdateProjectMember(self, request: UpdateProjectMemberRequest, context: grpc.ServicerContext) -> ProjectMember:
        """Change the role of a member of a project."""
        with Checks() as check:
            check.required("project_identifier", request.project_identifier)
            check.required("user_id", request.user_id)
            if check.required("member", request.HasField("member")):
                check.known("member.role", request.member.role, ProjectRole, required=True)
        project = self._access.project(request.project_identifier, PROJECT_ROLE_MANAGER)
        user = self._user(request.user_id)
        self._require_no_owner(project, user)
        if not self._directory.set_member_role(project, user.id, request.member.role):
            raise _not_a_member(project, user)
        # Looked up again: who gives away its own role may not change roles any more.
        return self._member(self._access.project(project.uuid), user)

    def DeleteProjectMember(
        self, request: DeleteProjectMemberRequest, context: grpc.ServicerContext
    ) -> DeleteProjectMemberResponse:
        """Remove a user from a project."""
        with Checks() as check:
            check.required("project_identifier", request.project_identifier)
            check.required("user_id", request.user_id)
        project = self._access.project(request.project_identifier)
        caller = current_caller()
        if request.user_id != caller.username and request.user_id.lower() != caller.uuid:
            # Before the user is looked up: whoever may not remove members learns nothing about users.
            require_role(project, PROJECT_ROLE_MANAGER)
        user = self._user(request.user_id)
        self._require_no_owner(project, user)
        if not self._directory.remove_member(project, user.id):
            raise _not_a_member(project, user)
        return DeleteProjectMemberResponse()

    def GetProjectMemberV2(self, request: GetProjectMemberV2Request, context: grpc.ServicerContext) -> ProjectMember:
        """Return one member of a project."""
        with Checks() as check:
            check.required("project_identifier", request.project_identifier)
            check.required("user_id", request.user_id)
        project = self._access.project(request.project_identifier)
        return self._member(project, self._user(request.user_id))

    def _details(self, project_id: int, identifier: str) -> ProjectWithRole:
        project = self._directory.overview(project_id, current_caller().user_id)
        if project is None or project.role == PROJECT_ROLE_UNSPECIFIED:  # deleted or hidden a moment ago
            raise project_missing(identifier)
        return _project_with_role(project)

    def _user(self, identifier: str) -> UserRecord:
        user = self._directory.find_user(identifier)
        if user is None:
            raise not_found(
                f"User {shown(identifier)} not found. A user is named by user name or UUID.", "USER_NOT_FOUND"
            )
        return user

    def _member(self, project: ProjectRecord, user: UserRecord) -> ProjectMember:
        member = self._directory.member(project, user.id)
        if member is None:
            raise _not_a_member(project, user)
        return _project_member(project, member)

    def _require_no_owner(self, project: ProjectRecord, user: UserRecord) -> None:
        member = self._directory.member(project, user.id)
        if member is not None and member.is_owner:
            raise failed_precondition(
                f"{user.username} owns the organization {project.workspace}, and with it has the role manager in all "
                "its projects; that cannot be changed in a project.",
                "CANNOT_MANAGE_ORGANIZATION_OWNER_IN_PROJECT",
            )


def _check_texts(check: Checks, message: CreateProjectRequest | ProjectUpdate, prefix: str) -> None:
    check.text(f"{prefix}description", message.description, limits.MAX_PROJECT_DESCRIPTION_BYTES)
    check.text(f"{prefix}avatar_url", message.avatar_url, limits.MAX_AVATAR_URL_BYTES)
    check.text(f"{prefix}display_class", message.display_class, limits.MAX_DISPLAY_CLASS_BYTES)


def _check_order(check: Checks, request: ListProjectsRequest) -> None:
    check.at_most("sort_by", len(request.sort_by), len(SORT_FIELDS))
    for field in request.sort_by:
        if field not in SORT_FIELDS:
            check.add("sort_by", f'is "{shown(field)}"; {one_of(SORT_FIELDS)}', reason="INVALID_SORT_PARAMS")
    for direction in request.sort_direction:
        if direction not in _DIRECTIONS:
            check.add("sort_direction", f'is "{shown(direction)}"; {one_of(_DIRECTIONS)}', reason="INVALID_SORT_PARAMS")
    if len(request.sort_direction) > len(request.sort_by):
        check.add(
            "sort_direction",
            f"has {len(request.sort_direction):,} directions for {len(request.sort_by):,} sort fields; leave out those "
            "too many",
            reason="INVALID_SORT_PARAMS",
        )


def _order(request: ListProjectsRequest) -> list[tuple[str, bool]]:
    said = [_DIRECTIONS[direction] for direction in request.sort_direction]
    missing = [field != "name" for field in request.sort_by[len(said) :]]
    return list(zip(request.sort_by, said + missing, strict=True))


def _name_taken(workspace: str, name: str) -> StatusError:
    return already_exists(
        f"The organization {workspace} has a project with the name {name}: choose another name.",
        "PROJECT_NAME_COLLISION",
    )


def _not_a_member(project: ProjectRecord, user: UserRecord) -> StatusError:
    return not_found(
        f"{user.username} is not a member of the project {project.workspace}/{project.name}.", "USER_NOT_IN_PROJECT"
    )


def _project_with_role(project: ProjectOverview) -> ProjectWithRole:
    return ProjectWithRole(
        id=project.uuid,
        name=project.name,
        organization_id=project.workspace_uuid,
        organization_name=project.workspace,
        organization_type=ORGANIZATION_TYPE_TEAM if project.workspace_size > 1 else ORGANIZATION_TYPE_INDIVIDUAL,
        project_key=project.key,
        description=project.description,
        visibility=project.visibility,
        code_access=project.code_access,
        time_of_creation=timestamp_of(project.created_ms),
        last_activity=timestamp_of(project.activity_ms),
        user_count=project.member_count,
        user_role_in_project=project.role,
        user_role_in_organization=project.workspace_role,
        archived=project.archived,
        featured=False,  # nobody can choose projects to show to newcomers
        avatar_url=project.avatar_url,
        avatar_source=project.avatar_source,
        display_class=project.display_class,
        version=project.version,
    )


def _project_member(project: ProjectRecord, member: MemberRecord) -> ProjectMember:
    return ProjectMember(
        role=member.role,
        registered_member_info=RegisteredMemberInfo(
            username=member.user.username,
            first_name=member.user.first_name,
            last_name=member.user.last_name,
            avatar_source=AVATAR_SOURCE_DEFAULT,
        ),
        editable_role=project.role == PROJECT_ROLE_MANAGER and not member.is_owner,
        can_leave_project=not member.is_owner,
    )
