"""UsersService: who is calling, who else is there."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import grpc

from neptune_api.server.errors import already_exists
from neptune_api.server.identity import current_caller
from neptune_api.server.limits import (
    MAX_EMAIL_BYTES,
    MAX_PERSON_NAME_BYTES,
    MAX_USERNAME_BYTES,
    MAX_USERS_PER_LISTING,
)
from neptune_api.server.services.timestamps import timestamp_of
from neptune_api.server.store.records import UsernameTakenError
from neptune_api.server.validation import Checks
from neptune_api.v1.roles_pb2 import (
    WORKSPACE_ROLE_MEMBER,
    WORKSPACE_ROLE_OWNER,
    WORKSPACE_ROLE_UNSPECIFIED,
    WorkspaceRole,
)
from neptune_api.v1.users_service_pb2 import (
    AVATAR_SOURCE_DEFAULT,
    CreateUserResponse,
    ListUsersResponse,
    PublicUserProfile,
    UserIdentity,
    UserProfile,
    UserProfileLinks,
    WorkspaceMembership,
)
from neptune_api.v1.users_service_pb2_grpc import UsersServiceServicer

if TYPE_CHECKING:
    from neptune_api.server.access import Access
    from neptune_api.server.identity import Identity
    from neptune_api.server.store.directory import Directory
    from neptune_api.server.store.records import UserRecord
    from neptune_api.v1.users_service_pb2 import (
        CreateUserRequest,
        GetUserIdentityRequest,
        GetUserProfileRequest,
        ListUsersRequest,
    )


class UsersService(UsersServiceServicer):
    """Looks up users and adds them to a workspace."""

    def __init__(self, *, directory: Directory, identity: Identity, access: Access) -> None:
        self._directory = directory
        self._identity = identity
        self._access = access

    def GetUserIdentity(self, request: GetUserIdentityRequest, context: grpc.ServicerContext) -> UserIdentity:
        """Return the identity of the caller."""
        return self._identity_of(self._caller())

    def GetUserProfile(self, request: GetUserProfileRequest, context: grpc.ServicerContext) -> UserProfile:
        """Return the caller's profile."""
        user = self._caller()
        return UserProfile(
            username=user.username,
            first_name=user.first_name,
            last_name=user.last_name,
            email=user.email,
            avatar_source=AVATAR_SOURCE_DEFAULT,
            created=timestamp_of(user.created_ms),
            username_hash=hashlib.sha256(user.username.encode()).hexdigest(),
            has_logged_to_cli=user.has_logged_in,
            has_created_experiments=self._directory.owns_run(user.id),
            links=UserProfileLinks(),
        )

    def ListUsers(self, request: ListUsersRequest, context: grpc.ServicerContext) -> ListUsersResponse:
        """Return the public profiles of those of the named users that the caller may know."""
        with Checks() as check:
            check.at_most("username", len(request.username), MAX_USERS_PER_LISTING)
        caller = current_caller()
        known = self._directory.colleagues(request.username, of=caller.user_id)
        names = (name for name in dict.fromkeys(request.username) if name in known)
        return ListUsersResponse(users=[_public_profile(known[name], caller.user_id) for name in names])

    def CreateUser(self, request: CreateUserRequest, context: grpc.ServicerContext) -> CreateUserResponse:
        """Create a user as a member of a workspace."""
        with Checks() as check:
            check.name("username", request.username, MAX_USERNAME_BYTES)
            check.required("organization_identifier", request.organization_identifier)
            check.known("role", request.role, WorkspaceRole)
            check.text("email", request.email, MAX_EMAIL_BYTES)
            check.text("first_name", request.first_name, MAX_PERSON_NAME_BYTES)
            check.text("last_name", request.last_name, MAX_PERSON_NAME_BYTES)
        workspace = self._access.workspace(
            request.organization_identifier, WORKSPACE_ROLE_OWNER, missing=grpc.StatusCode.PERMISSION_DENIED
        )
        try:
            user = self._directory.create_user(
                request.username,
                email=request.email,
                first_name=request.first_name,
                last_name=request.last_name,
                workspace_id=workspace.id,
                role=request.role or WORKSPACE_ROLE_MEMBER,
            )
        except UsernameTakenError:
            raise already_exists(
                f"The user name {request.username} is taken on this server: choose another.", "CONFLICT"
            ) from None
        return CreateUserResponse(user=self._identity_of(user), api_token=self._identity.api_token_of(user.id))

    def _caller(self) -> UserRecord:
        user = self._directory.user(current_caller().user_id)
        if user is None:
            raise LookupError("the calling user is not in the directory")
        return user

    def _identity_of(self, user: UserRecord) -> UserIdentity:
        return UserIdentity(
            id=user.uuid,
            username=user.username,
            email=user.email,
            workspaces=[
                WorkspaceMembership(
                    organization_id=workspace.uuid,
                    organization_name=workspace.name,
                    role=workspace.role or WORKSPACE_ROLE_UNSPECIFIED,
                )
                for workspace in self._directory.workspaces(user.id)
            ],
        )


def _public_profile(user: UserRecord, viewer_id: int) -> PublicUserProfile:
    return PublicUserProfile(
        username=user.username,
        first_name=user.first_name or None,
        last_name=user.last_name or None,
        # Users cannot say that they share their address, so only they see it.
        email=(user.email or None) if user.id == viewer_id else None,
        avatar_source=AVATAR_SOURCE_DEFAULT,
        links=UserProfileLinks(),
    )
