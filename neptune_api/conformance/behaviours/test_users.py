from __future__ import annotations

import hashlib
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.people import Person, add_member, colleague, create_run, home, outsider, refused, unique
from neptune_api.exceptions import (
    AlreadyExistsException,
    InvalidArgumentException,
    PermissionDeniedException,
    UnauthorizedException,
)
from neptune_api.v1 import users_service_pb2 as pb
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MEMBER, WORKSPACE_ROLE_MEMBER, WORKSPACE_ROLE_OWNER
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.people import Host, Wire
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


@pytest.fixture
def stub(wire: Wire) -> UsersServiceStub:
    return wire.connect().stub(UsersServiceStub)


def create(stub: UsersServiceStub, username: str, workspace: str | None = None, **fields: Any) -> pb.CreateUserResponse:
    request = pb.CreateUserRequest(
        username=username, organization_identifier=home() if workspace is None else workspace, **fields
    )
    return stub.CreateUser(request)


def identity(stub: UsersServiceStub) -> pb.UserIdentity:
    return stub.GetUserIdentity(pb.GetUserIdentityRequest())


def profile(stub: UsersServiceStub) -> pb.UserProfile:
    return stub.GetUserProfile(pb.GetUserProfileRequest())


def listed(stub: UsersServiceStub, *usernames: str) -> list[pb.PublicUserProfile]:
    return list(stub.ListUsers(pb.ListUsersRequest(username=usernames)).users)


def names(profiles: list[pb.PublicUserProfile]) -> list[str]:
    return [profile.username for profile in profiles]


# Identity and profile


def test_owner_is_identified(stub: UsersServiceStub, server: Host) -> None:
    found = identity(stub)
    assert found.username == server.username
    assert str(uuid.UUID(found.id)) == found.id
    [membership] = found.workspaces
    assert membership.organization_name == home()
    assert str(uuid.UUID(membership.organization_id)) == membership.organization_id
    assert membership.role == WORKSPACE_ROLE_OWNER


def test_member_of_no_workspace_is_identified(wire: Wire, server: Host) -> None:
    person = outsider(server)
    found = identity(person.users(wire))
    assert found.username == person.name
    assert not found.workspaces
    assert found.email == ""


def test_profile_is_complete(wire: Wire, stub: UsersServiceStub) -> None:
    name = unique("ada")
    before = time.time()
    created = create(stub, name, email="ada@example.org", first_name="Ada", last_name="Lovelace")
    found = profile(Person(name, created.api_token).users(wire))
    assert before - 1 <= found.created.ToNanoseconds() / 1e9 <= time.time()
    found.ClearField("created")
    assert found == pb.UserProfile(
        username=name,
        first_name="Ada",
        last_name="Lovelace",
        email="ada@example.org",
        avatar_source=pb.AVATAR_SOURCE_DEFAULT,
        username_hash=hashlib.sha256(name.encode()).hexdigest(),
        has_logged_to_cli=True,  # the channel has exchanged the API token
        links=pb.UserProfileLinks(),
    )
    assert found.HasField("links")


def test_profile_tells_of_runs(wire: Wire, server: Host, project: ProjectWithRole) -> None:
    person = outsider(server)
    add_member(wire, project, person, PROJECT_ROLE_MEMBER)
    assert not profile(person.users(wire)).has_created_experiments
    create_run(wire, person, project, "run")
    assert profile(person.users(wire)).has_created_experiments


@pytest.mark.parametrize("call", [identity, profile, listed, lambda stub: create(stub, "x")])
def test_token_is_needed(wire: Wire, call: Callable[[UsersServiceStub], object]) -> None:
    stub = wire.connect("").stub(UsersServiceStub)
    refused(UnauthorizedException, lambda: call(stub), reason="UNAUTHORIZED")


# Listing


def test_users_are_listed_in_the_order_asked_for(stub: UsersServiceStub, server: Host) -> None:
    one, two = colleague(server).name, colleague(server).name
    asked = [two, "nobody", server.username, "no name", one, "", two]
    assert names(listed(stub, *asked)) == [two, server.username, one]
    assert listed(stub) == []


def test_users_of_other_workspaces_are_left_out(wire: Wire, stub: UsersServiceStub, server: Host) -> None:
    loner, stranger, member = outsider(server), outsider(server, unique("elsewhere")), colleague(server)
    asked = [loner.name, stranger.name, member.name, server.username]
    assert names(listed(stub, *asked)) == [member.name, server.username]
    assert names(listed(member.users(wire), *asked)) == [member.name, server.username]
    assert names(listed(loner.users(wire), *asked)) == [loner.name]
    assert names(listed(stranger.users(wire), *asked)) == [stranger.name]


def test_public_profile_shows_the_address_to_the_user_alone(wire: Wire, stub: UsersServiceStub) -> None:
    name = unique("ada")
    created = create(stub, name, email="ada@example.org", first_name="Ada")
    [seen] = listed(stub, name)
    assert seen == pb.PublicUserProfile(
        username=name, first_name="Ada", avatar_source=pb.AVATAR_SOURCE_DEFAULT, links=pb.UserProfileLinks()
    )
    [own] = listed(Person(name, created.api_token).users(wire), name)
    assert own.email == "ada@example.org"


def test_a_thousand_names_may_be_asked_for(stub: UsersServiceStub, server: Host) -> None:
    asked = [f"nobody-{number}" for number in range(999)]
    assert names(listed(stub, *asked, server.username)) == [server.username]
    error = refused(
        InvalidArgumentException,
        lambda: listed(stub, *asked, server.username, "one-more"),
        reason="BAD_REQUEST",
        fields=["username"],
    )
    assert "1,001 elements, the limit is 1,000" in error.details()


# Creation


def test_created_user_belongs_to_the_workspace_and_can_call(wire: Wire, stub: UsersServiceStub) -> None:
    name = unique("ada")
    created = create(stub, name, email="ada@example.org")
    [membership] = created.user.workspaces
    assert (membership.organization_name, membership.role) == (home(), WORKSPACE_ROLE_MEMBER)
    assert created.user.username == name
    assert created.user.email == "ada@example.org"
    assert identity(Person(name, created.api_token).users(wire)) == created.user


def test_owner_of_a_workspace_adds_owners(wire: Wire, server: Host) -> None:
    workspace = unique("workspace")
    boss = outsider(server, workspace).users(wire)
    [membership] = identity(boss).workspaces
    second = create(boss, unique("second"), membership.organization_id, role=WORKSPACE_ROLE_OWNER)
    assert [found.role for found in second.user.workspaces] == [WORKSPACE_ROLE_OWNER]
    third = create(Person("", second.api_token).users(wire), unique("third"), workspace)
    assert [found.role for found in third.user.workspaces] == [WORKSPACE_ROLE_MEMBER]


@pytest.mark.parametrize("workspace", [None, "unknown", "00000000-0000-4000-8000-000000000000", "no name"])
@pytest.mark.parametrize("kind", [colleague, outsider])
def test_only_owners_of_the_workspace_create_users(
    wire: Wire, server: Host, kind: Callable[[Host], Person], workspace: str | None
) -> None:
    theirs = kind(server).users(wire)
    error = refused(
        PermissionDeniedException, lambda: create(theirs, unique("user"), workspace), reason="ACCESS_DENIED"
    )
    if kind is colleague and workspace is None:
        assert "role owner" in error.details()
    assert (workspace or home()) in error.details()


def test_user_name_is_unique_on_the_server(wire: Wire, stub: UsersServiceStub, server: Host) -> None:
    stranger = outsider(server)
    for name in (server.username, stranger.name):
        error = refused(AlreadyExistsException, partial(create, stub, name), reason="CONFLICT")
        assert name in error.details()


@pytest.mark.parametrize("length", [12, 64])
@pytest.mark.parametrize("filler", ["x", "é", ".", "-", "_"])
def test_good_names_are_taken(stub: UsersServiceStub, filler: str, length: int) -> None:
    name = uuid.uuid4().hex[:10]
    name += filler * ((length - len(name)) // len(filler.encode()))
    assert len(name.encode()) == length
    assert create(stub, name).user.username == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a@b", "a\n", "x" * 65, "ß" * 33], ids=ascii)
def test_bad_names_are_refused(stub: UsersServiceStub, name: str) -> None:
    refused(InvalidArgumentException, lambda: create(stub, name), reason="BAD_REQUEST", fields=["username"])


TEXTS = {"email": 254, "first_name": 128, "last_name": 128}


@pytest.mark.parametrize("field", TEXTS)
def test_texts_have_limits(wire: Wire, stub: UsersServiceStub, field: str) -> None:
    longest = "é" * (TEXTS[field] // 2)
    name = unique("user")
    created = create(stub, name, **{field: longest})
    assert getattr(profile(Person(name, created.api_token).users(wire)), field) == longest
    for bad in (longest + "x", "a\0b"):
        refused(
            InvalidArgumentException,
            partial(create, stub, unique("user"), **{field: bad}),
            reason="BAD_REQUEST",
            fields=[field],
        )


@pytest.mark.parametrize("role", [3, -1])
def test_unknown_role_is_refused(stub: UsersServiceStub, role: int) -> None:
    refused(
        InvalidArgumentException, lambda: create(stub, unique("user"), role=role), reason="BAD_REQUEST", fields=["role"]
    )


def test_workspace_is_required(stub: UsersServiceStub) -> None:
    refused(
        InvalidArgumentException,
        lambda: create(stub, unique("user"), ""),
        reason="BAD_REQUEST",
        fields=["organization_identifier"],
    )
