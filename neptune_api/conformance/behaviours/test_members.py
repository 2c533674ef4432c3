from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

import pytest

from neptune_api.conformance.people import Person, add_member, colleague, home, outsider, refused, unique
from neptune_api.exceptions import (
    AlreadyExistsException,
    FailedPreconditionException,
    InvalidArgumentException,
    NotFoundException,
    PermissionDeniedException,
)
from neptune_api.v1 import projects_service_pb2 as pb
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MANAGER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_UNSPECIFIED,
    PROJECT_ROLE_VIEWER,
    PROJECT_VISIBILITY_PUB,
    PROJECT_VISIBILITY_WORKSPACE,
)
from neptune_api.v1.users_service_pb2 import AVATAR_SOURCE_DEFAULT, CreateUserRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.people import Host, Wire
    from neptune_api.v1.roles_pb2 import ProjectRole

ROLES = [PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER]


@pytest.fixture
def stub(wire: Wire) -> ProjectsServiceStub:
    return wire.connect().stub(ProjectsServiceStub)


def members(stub: ProjectsServiceStub, project: str) -> dict[str, pb.ProjectMember]:
    answer = stub.ListProjectMembers(pb.ListProjectMembersRequest(project_identifier=project))
    found = {member.registered_member_info.username: member for member in answer.members}
    assert len(found) == len(answer.members)
    assert list(found) == sorted(found)
    return found


def add(
    stub: ProjectsServiceStub, project: str, user: str, role: ProjectRole.ValueType = PROJECT_ROLE_VIEWER
) -> pb.ProjectMember:
    member = pb.NewProjectMember(user_id=user, role=role)
    return stub.AddProjectMember(pb.AddProjectMemberRequest(project_identifier=project, member=member))


def change(
    stub: ProjectsServiceStub, project: str, user: str, role: ProjectRole.ValueType = PROJECT_ROLE_MEMBER
) -> pb.ProjectMember:
    member = pb.ProjectMemberUpdate(role=role)
    request = pb.UpdateProjectMemberRequest(project_identifier=project, user_id=user, member=member)
    return stub.UpdateProjectMember(request)


def remove(stub: ProjectsServiceStub, project: str, user: str) -> pb.DeleteProjectMemberResponse:
    return stub.DeleteProjectMember(pb.DeleteProjectMemberRequest(project_identifier=project, user_id=user))


def get(stub: ProjectsServiceStub, project: str, user: str) -> pb.ProjectMember:
    return stub.GetProjectMemberV2(pb.GetProjectMemberV2Request(project_identifier=project, user_id=user))


def role_of(wire: Wire, person: Person, project: str) -> int:
    request = pb.GetProjectDetailsRequest(project_identifier=project)
    return person.projects(wire).GetProjectDetails(request).user_role_in_project


# Happy paths


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", [colleague, outsider])
def test_added_member_has_the_role(
    wire: Wire,
    stub: ProjectsServiceStub,
    server: Host,
    project: pb.ProjectWithRole,
    kind: Callable[[Host], Person],
    role: ProjectRole.ValueType,
) -> None:
    person = kind(server)
    added = add(stub, project.id, person.name, role)
    assert added == pb.ProjectMember(
        role=role,
        registered_member_info=pb.RegisteredMemberInfo(username=person.name, avatar_source=AVATAR_SOURCE_DEFAULT),
        editable_role=True,
        can_leave_project=True,
    )
    assert members(stub, project.id)[person.name] == added
    assert get(stub, project.id, person.name) == added
    assert role_of(wire, person, project.id) == role


def test_member_is_named_by_name_or_uuid(wire: Wire, stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    request = CreateUserRequest(
        username=unique("ada"), organization_identifier=home(), first_name="Ada", last_name="Lovelace"
    )
    user = wire.connect().stub(UsersServiceStub).CreateUser(request).user
    added = add(stub, f"{home()}/{project.name}", user.id)
    assert added.registered_member_info == pb.RegisteredMemberInfo(
        username=user.username, first_name="Ada", last_name="Lovelace", avatar_source=AVATAR_SOURCE_DEFAULT
    )
    assert get(stub, project.id, user.id) == get(stub, project.id, user.username) == added
    assert change(stub, project.id, user.id.upper()).role == PROJECT_ROLE_MEMBER
    remove(stub, project.id, user.id)
    assert user.username not in members(stub, project.id)


def test_owner_of_the_workspace_is_a_member_that_cannot_be_managed(
    wire: Wire, stub: ProjectsServiceStub, server: Host
) -> None:
    # In a project of somebody else, the owner has no membership of its own.
    creator = colleague(server)
    request = pb.CreateProjectRequest(name=unique("p"), organization_identifier=home())
    project = creator.projects(wire).CreateProject(request)
    listed = members(stub, project.id)
    assert set(listed) >= {creator.name, server.username}
    assert project.user_count == len(listed)
    assert listed[creator.name].role == PROJECT_ROLE_MANAGER
    assert listed[creator.name].editable_role
    assert listed[server.username].role == PROJECT_ROLE_MANAGER
    assert not listed[server.username].editable_role
    assert not listed[server.username].can_leave_project
    assert get(stub, project.id, server.username) == listed[server.username]


def test_role_changes_take_effect(
    wire: Wire, stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole
) -> None:
    person = outsider(server)
    add(stub, project.id, person.name)
    for role in (PROJECT_ROLE_MANAGER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER, PROJECT_ROLE_VIEWER):
        assert change(stub, project.id, person.name, role).role == role
        assert role_of(wire, person, project.id) == role


def test_manager_manages_members_itself_included(wire: Wire, server: Host, project: pb.ProjectWithRole) -> None:
    manager, person = outsider(server), outsider(server)
    add_member(wire, project, manager, PROJECT_ROLE_MANAGER)
    theirs = manager.projects(wire)
    assert add(theirs, project.id, person.name).editable_role
    assert change(theirs, project.id, person.name, PROJECT_ROLE_MANAGER).role == PROJECT_ROLE_MANAGER
    assert not change(theirs, project.id, manager.name, PROJECT_ROLE_VIEWER).editable_role
    refused(PermissionDeniedException, lambda: change(theirs, project.id, person.name), reason="ACCESS_DENIED")


def test_viewer_sees_roles_it_may_not_change(wire: Wire, server: Host, project: pb.ProjectWithRole) -> None:
    person = outsider(server)
    add_member(wire, project, person, PROJECT_ROLE_VIEWER)
    listed = members(person.projects(wire), project.id)
    assert not any(member.editable_role for member in listed.values())
    assert listed[person.name].can_leave_project


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("by", ["name", "uuid", "UUID"])
def test_member_may_leave(
    wire: Wire, server: Host, project: pb.ProjectWithRole, role: ProjectRole.ValueType, by: str
) -> None:
    person = outsider(server)
    add_member(wire, project, person, role)
    theirs = person.projects(wire)
    identifier = person.name if by == "name" else person.uuid(wire)
    assert (
        remove(theirs, project.id, identifier.upper() if by == "UUID" else identifier)
        == pb.DeleteProjectMemberResponse()
    )
    call = partial(members, theirs, project.id)
    refused(NotFoundException, call, reason="PROJECT_NOT_FOUND")


def test_members_of_an_archived_project_can_be_managed(
    stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole
) -> None:
    stub.UpdateProject(
        pb.UpdateProjectRequest(project_identifier=project.id, project_to_update=pb.ProjectUpdate(archived=True))
    )
    person = outsider(server)
    add(stub, project.id, person.name)
    change(stub, project.id, person.name)
    remove(stub, project.id, person.name)


# Roles


OPERATIONS: dict[str, tuple[Callable[[ProjectsServiceStub, str, str], object], ProjectRole.ValueType]] = {
    "ListProjectMembers": (lambda stub, project, _user: members(stub, project), PROJECT_ROLE_VIEWER),
    "GetProjectMemberV2": (get, PROJECT_ROLE_VIEWER),
    "AddProjectMember": (add, PROJECT_ROLE_MANAGER),
    "UpdateProjectMember": (change, PROJECT_ROLE_MANAGER),
    "DeleteProjectMember": (remove, PROJECT_ROLE_MANAGER),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("role", [PROJECT_ROLE_UNSPECIFIED, *ROLES])
def test_operations_need_their_role(
    wire: Wire,
    stub: ProjectsServiceStub,
    server: Host,
    project: pb.ProjectWithRole,
    operation: str,
    role: ProjectRole.ValueType,
) -> None:
    call, needed = OPERATIONS[operation]
    target, person = outsider(server), outsider(server)
    add(stub, project.id, target.name)
    if role:
        add(stub, project.id, person.name, role)
    before = members(stub, project.id)
    theirs = person.projects(wire)
    if role == PROJECT_ROLE_UNSPECIFIED:
        refused(NotFoundException, lambda: call(theirs, project.id, target.name), reason="PROJECT_NOT_FOUND")
    elif role < needed:
        error = refused(
            PermissionDeniedException, lambda: call(theirs, project.id, target.name), reason="ACCESS_DENIED"
        )
        assert "role manager" in error.details()
    elif operation == "AddProjectMember":
        refused(AlreadyExistsException, lambda: call(theirs, project.id, target.name), reason="CONFLICT")
    else:
        call(theirs, project.id, target.name)
        return
    assert members(stub, project.id) == before


def test_who_may_not_remove_members_learns_nothing_about_users(
    wire: Wire, stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole
) -> None:
    person = outsider(server)
    add(stub, project.id, person.name)
    theirs = person.projects(wire)
    calls = [partial(remove, theirs, project.id, name) for name in (server.username, "nobody", str(uuid.uuid4()))]
    sentences = {refused(PermissionDeniedException, call, reason="ACCESS_DENIED").details() for call in calls}
    assert len(sentences) == 1


# Errors


def test_member_cannot_be_added_twice(stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole) -> None:
    person = colleague(server)
    add(stub, project.id, person.name)
    for name in (person.name, server.username):
        call = partial(add, stub, project.id, name, PROJECT_ROLE_MANAGER)
        error = refused(AlreadyExistsException, call, reason="CONFLICT")
        assert name in error.details()
    assert members(stub, project.id)[person.name].role == PROJECT_ROLE_VIEWER


@pytest.mark.parametrize("call", [change, remove])
def test_owner_of_the_workspace_cannot_be_managed(
    stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole, call: Callable[..., object]
) -> None:
    refused(
        FailedPreconditionException,
        lambda: call(stub, project.id, server.username),
        reason="CANNOT_MANAGE_ORGANIZATION_OWNER_IN_PROJECT",
    )
    assert members(stub, project.id)[server.username].role == PROJECT_ROLE_MANAGER


@pytest.mark.parametrize("call", [change, remove, get])
def test_user_who_is_no_member_is_not_found(
    stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole, call: Callable[..., object]
) -> None:
    person = colleague(server)
    error = refused(NotFoundException, lambda: call(stub, project.id, person.name), reason="USER_NOT_IN_PROJECT")
    assert person.name in error.details()


@pytest.mark.parametrize("visibility", [PROJECT_VISIBILITY_PUB, PROJECT_VISIBILITY_WORKSPACE])
def test_who_only_sees_a_project_is_no_member_and_cannot_leave(
    wire: Wire,
    stub: ProjectsServiceStub,
    server: Host,
    project: pb.ProjectWithRole,
    visibility: int,
) -> None:
    update = pb.ProjectUpdate(visibility=visibility)  # type: ignore[arg-type] # an enum value
    stub.UpdateProject(pb.UpdateProjectRequest(project_identifier=project.id, project_to_update=update))
    person = colleague(server)
    theirs = person.projects(wire)
    assert person.name not in members(theirs, project.id)
    refused(NotFoundException, lambda: remove(theirs, project.id, person.name), reason="USER_NOT_IN_PROJECT")


@pytest.mark.parametrize("call", [add, change, remove, get])
@pytest.mark.parametrize("user", ["nobody", "00000000-0000-4000-8000-000000000000", "no name", "x" * 10_000])
def test_unknown_user_is_not_found(
    stub: ProjectsServiceStub, project: pb.ProjectWithRole, call: Callable[..., object], user: str
) -> None:
    error = refused(NotFoundException, lambda: call(stub, project.id, user), reason="USER_NOT_FOUND")
    assert user[:70] in error.details()


ANY_CALL: list[Callable[[ProjectsServiceStub, str, str], object]] = [
    add,
    change,
    remove,
    get,
    lambda stub, project, _user: members(stub, project),
]
ANY_CALL_IDS = ["add", "change", "remove", "get", "list"]


@pytest.mark.parametrize("call", ANY_CALL, ids=ANY_CALL_IDS)
def test_unknown_project_is_not_found(stub: ProjectsServiceStub, call: Callable[..., object]) -> None:
    for identifier in ("local/unknown", "unknown/unknown", str(uuid.uuid4()), "unknown"):
        refused(NotFoundException, partial(call, stub, identifier, "owner"), reason="PROJECT_NOT_FOUND")


@pytest.mark.parametrize("call", ANY_CALL, ids=ANY_CALL_IDS)
def test_project_identifier_is_required(stub: ProjectsServiceStub, call: Callable[..., object]) -> None:
    refused(
        InvalidArgumentException, lambda: call(stub, "", "owner"), reason="BAD_REQUEST", fields=["project_identifier"]
    )


@pytest.mark.parametrize(
    ("call", "field"), [(add, "member.user_id"), (change, "user_id"), (remove, "user_id"), (get, "user_id")]
)
def test_user_is_required(
    stub: ProjectsServiceStub, project: pb.ProjectWithRole, call: Callable[..., object], field: str
) -> None:
    refused(InvalidArgumentException, lambda: call(stub, project.id, ""), reason="BAD_REQUEST", fields=[field])


@pytest.mark.parametrize("call", [add, change])
@pytest.mark.parametrize("role", [0, 4, -1])
def test_role_must_be_known(
    stub: ProjectsServiceStub, project: pb.ProjectWithRole, call: Callable[..., object], role: int
) -> None:
    error = refused(
        InvalidArgumentException,
        lambda: call(stub, project.id, "owner", role),
        reason="BAD_REQUEST",
        fields=["member.role"],
    )
    assert "PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER" in error.details()


def test_member_must_be_there(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    adding = pb.AddProjectMemberRequest(project_identifier=project.id)
    refused(InvalidArgumentException, lambda: stub.AddProjectMember(adding), reason="BAD_REQUEST", fields=["member"])
    changing = pb.UpdateProjectMemberRequest(project_identifier=project.id, user_id="owner")
    refused(
        InvalidArgumentException, lambda: stub.UpdateProjectMember(changing), reason="BAD_REQUEST", fields=["member"]
    )


def test_everything_wrong_is_named_at_once(stub: ProjectsServiceStub) -> None:
    request = pb.AddProjectMemberRequest(member=pb.NewProjectMember())
    refused(
        InvalidArgumentException,
        lambda: stub.AddProjectMember(request),
        reason="BAD_REQUEST",
        fields=["project_identifier", "member.user_id", "member.role"],
    )
