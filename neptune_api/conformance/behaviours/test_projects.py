from __future__ import annotations

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc import code_pb2

from neptune_api.conformance.people import (
    Person,
    add_member,
    colleague,
    create_run,
    home,
    outsider,
    owner,
    refused,
    unique,
)
from neptune_api.conformance.project_helpers import create, details, get, update
from neptune_api.exceptions import (
    AlreadyExistsException,
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
    PROJECT_VISIBILITY_PRIV,
    PROJECT_VISIBILITY_PUB,
    PROJECT_VISIBILITY_WORKSPACE,
    WORKSPACE_ROLE_MEMBER,
    WORKSPACE_ROLE_OWNER,
)
from neptune_api.v1.users_service_pb2 import AVATAR_SOURCE_DEFAULT, AVATAR_SOURCE_UNICODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.people import Host, Wire
    from neptune_api.v1.roles_pb2 import ProjectRole, ProjectVisibility


@pytest.fixture
def stub(wire: Wire) -> ProjectsServiceStub:
    return wire.connect().stub(ProjectsServiceStub)


# Create


def test_project_is_created_with_defaults(wire: Wire, workspace: str, boss: Person) -> None:
    stub = boss.projects(wire)
    before = time.time()
    project = create(stub, "project", workspace)
    assert str(uuid.UUID(project.id)) == project.id
    assert str(uuid.UUID(project.organization_id)) == project.organization_id
    assert project.organization_name == workspace
    assert project.visibility == PROJECT_VISIBILITY_PRIV
    assert project.code_access == pb.PROJECT_CODE_ACCESS_DEFAULT
    assert project.user_role_in_project == PROJECT_ROLE_MANAGER
    assert project.user_role_in_organization == WORKSPACE_ROLE_OWNER
    assert project.user_count == 1
    assert before - 1 <= project.time_of_creation.ToNanoseconds() / 1e9 <= time.time()
    assert project.last_activity == project.time_of_creation
    assert project.project_key == "PROJ"
    assert project.avatar_source == AVATAR_SOURCE_DEFAULT
    assert project.avatar_url == ""
    assert project.version == 2
    assert not project.archived
    assert not project.featured
    for absent in ("description", "background_url", "display_class"):
        assert not project.HasField(absent)
    assert details(stub, project.id) == project


def test_project_is_created_as_asked(stub: ProjectsServiceStub) -> None:
    name, key = unique("project"), f"K{uuid.uuid4().int % 10**8}"
    project = create(
        stub,
        name,
        description="",
        project_key=key,
        visibility=PROJECT_VISIBILITY_WORKSPACE,
        avatar_url="https://example.org/a.png",
        avatar_source=AVATAR_SOURCE_UNICODE,
        display_class="blue",
        version=2,
    )
    assert project.name == name
    assert project.HasField("description")
    assert project.description == ""
    assert project.project_key == key
    assert project.visibility == PROJECT_VISIBILITY_WORKSPACE
    assert project.avatar_url == "https://example.org/a.png"
    assert project.avatar_source == AVATAR_SOURCE_UNICODE
    assert project.display_class == "blue"
    assert details(stub, f"{home()}/{name}") == project


def test_workspace_can_be_named_by_uuid(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    assert create(stub, unique("project"), project.organization_id).organization_name == home()


def test_member_of_the_workspace_creates_projects_and_manages_them(wire: Wire, server: Host) -> None:
    stub = colleague(server).projects(wire)
    project = create(stub, unique("project"))
    assert project.user_role_in_project == PROJECT_ROLE_MANAGER
    assert project.user_role_in_organization == WORKSPACE_ROLE_MEMBER
    assert project.user_count >= 2  # the owners of the workspace, and the creator
    assert project.organization_type == pb.ORGANIZATION_TYPE_TEAM
    assert update(stub, project.id, description="mine").description == "mine"


def test_workspace_of_one_is_individual(wire: Wire, workspace: str, boss: Person) -> None:
    project = create(boss.projects(wire), "p", workspace)
    assert project.organization_type == pb.ORGANIZATION_TYPE_INDIVIDUAL


def test_made_keys_differ_within_a_workspace(wire: Wire, workspace: str, boss: Person) -> None:
    stub = boss.projects(wire)
    keys = [create(stub, name, workspace).project_key for name in ("mnist", "mnist-2", "mnis", "mnis.", "my-net")]
    assert keys == ["MNIS", "M2", "MNIS2", "MNIS3", "MN"]


@pytest.mark.parametrize("name", ["x", "a_b-c.d", "Größe", "データ", "x" * 128, "ß" * 64])
def test_good_names_are_taken(wire: Wire, workspace: str, boss: Person, name: str) -> None:
    stub = boss.projects(wire)
    assert create(stub, name, workspace).name == name
    assert get(stub, f"{workspace}/{name}").name == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "a\0", "x" * 129, "ß" * 65, "e\u0301", "😀"], ids=ascii)
def test_bad_names_are_refused(stub: ProjectsServiceStub, name: str) -> None:
    refused(InvalidArgumentException, lambda: create(stub, name), reason="PROJECT_NAME_INVALID", fields=["name"])


@pytest.mark.parametrize("key", ["A", "1A", "ABCDEFGHI9"])
def test_good_keys_are_taken(wire: Wire, workspace: str, boss: Person, key: str) -> None:
    assert create(boss.projects(wire), "p", workspace, project_key=key).project_key == key


@pytest.mark.parametrize("key", ["", "a", "123", "ABCDEFGHIJK", "A-B", "Ä", "A "])
def test_bad_keys_are_refused(stub: ProjectsServiceStub, key: str) -> None:
    call = partial(create, stub, unique("p"), project_key=key)
    refused(InvalidArgumentException, call, reason="PROJECT_KEY_INVALID", fields=["project_key"])


LIMITS = {"description": 4096, "avatar_url": 2048, "display_class": 128}


@pytest.mark.parametrize("field", LIMITS)
def test_texts_up_to_their_limit_are_taken(stub: ProjectsServiceStub, field: str) -> None:
    longest = "ä" * (LIMITS[field] // 2)
    project = create(stub, unique("p"), **{field: longest})
    assert getattr(project, field) == longest
    project = update(stub, project.id, **{field: "y" * LIMITS[field]})
    assert getattr(project, field) == "y" * LIMITS[field]


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("bad", ["long", "zero"])
def test_texts_beyond_their_limit_are_refused(
    stub: ProjectsServiceStub, project: pb.ProjectWithRole, field: str, bad: str
) -> None:
    text = "ä" * (LIMITS[field] // 2) + "x" if bad == "long" else "a\0b"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: create(stub, unique("p"), **{field: text}), field),
        (lambda: update(stub, project.id, **{field: text}), f"project_to_update.{field}"),
    ]
    for call, name in calls:
        error = refused(InvalidArgumentException, call, reason="BAD_REQUEST", fields=[name])
        assert (f"{LIMITS[field] + 1:,} bytes" if bad == "long" else "U+0000") in error.details()
    assert details(stub, project.id) == project


@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"visibility": 4}, ["visibility"]),
        ({"visibility": -1}, ["visibility"]),
        ({"avatar_source": 99}, ["avatar_source"]),
        ({"version": 1}, ["version"]),
        ({"version": 0}, ["version"]),
        ({"organization_identifier": ""}, ["organization_identifier"]),
        ({"version": 3, "visibility": 7, "description": "x" * 5000}, ["description", "visibility", "version"]),
    ],
)
def test_every_bad_field_is_named(stub: ProjectsServiceStub, fields: dict[str, Any], violations: list[str]) -> None:
    request = pb.CreateProjectRequest(**{"name": unique("p"), "organization_identifier": home()} | fields)
    refused(InvalidArgumentException, lambda: stub.CreateProject(request), reason="BAD_REQUEST", fields=violations)


@pytest.mark.parametrize("name", ["unknown", "no such/name", "00000000-0000-4000-8000-000000000000", "x" * 100_000])
def test_unknown_workspace_is_not_found(stub: ProjectsServiceStub, name: str) -> None:
    error = refused(NotFoundException, lambda: create(stub, unique("p"), name), reason="ORGANIZATION_NOT_FOUND")
    assert error.details().startswith(f"Organization {name} not found" if len(name) < 80 else "Organization xxx")
    assert "not found" in error.details()


def test_foreign_workspace_looks_unknown(wire: Wire, server: Host) -> None:
    stub = outsider(server).projects(wire)
    foreign = refused(NotFoundException, lambda: create(stub, unique("p")), reason="ORGANIZATION_NOT_FOUND")
    unknown = refused(NotFoundException, lambda: create(stub, unique("p"), "unknown"), reason="ORGANIZATION_NOT_FOUND")
    assert foreign.details().replace(home(), "unknown") == unknown.details()


def test_name_and_key_are_unique_in_the_workspace(
    stub: ProjectsServiceStub, wire: Wire, project: pb.ProjectWithRole, workspace: str, boss: Person
) -> None:
    error = refused(AlreadyExistsException, lambda: create(stub, project.name), reason="PROJECT_NAME_COLLISION")
    assert project.name in error.details()
    call = partial(create, stub, unique("p"), project_key=project.project_key)
    error = refused(AlreadyExistsException, call, reason="PROJECT_KEY_COLLISION")
    assert project.project_key in error.details()
    # In another workspace both are free.
    create(boss.projects(wire), project.name, workspace, project_key=project.project_key)


# Get


def test_project_is_found_by_name_and_by_uuid(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    expected = pb.Project(
        id=project.id,
        name=project.name,
        organization_name=home(),
        organization_id=project.organization_id,
        project_key=project.project_key,
        version=2,
    )
    for identifier in (f"{home()}/{project.name}", project.id, project.id.upper()):
        assert get(stub, identifier) == expected
        assert details(stub, identifier) == project


IDENTIFIED: list[Callable[[ProjectsServiceStub, str], object]] = [
    get,
    details,
    lambda stub, identifier: update(stub, identifier, description="new"),
    lambda stub, identifier: stub.DeleteProject(pb.DeleteProjectRequest(project_identifier=identifier)),
]
IDENTIFIED_IDS = ["GetProject", "GetProjectDetails", "UpdateProject", "DeleteProject"]


@pytest.mark.parametrize("call", IDENTIFIED, ids=IDENTIFIED_IDS)
def test_project_identifier_is_required(stub: ProjectsServiceStub, call: Callable[..., object]) -> None:
    refused(InvalidArgumentException, lambda: call(stub, ""), reason="BAD_REQUEST", fields=["project_identifier"])


@pytest.mark.parametrize("call", IDENTIFIED, ids=IDENTIFIED_IDS)
@pytest.mark.parametrize(
    "identifier",
    ["local/unknown", "unknown/unknown", "unknown", "/", "a/b/c", "00000000-0000-4000-8000-000000000000", "x" * 10_000],
)
def test_unknown_project_is_not_found(stub: ProjectsServiceStub, call: Callable[..., object], identifier: str) -> None:
    error = refused(NotFoundException, lambda: call(stub, identifier), reason="PROJECT_NOT_FOUND")
    assert identifier[:70] in error.details()
    assert len(error.details()) < 300


@pytest.mark.parametrize("call", IDENTIFIED, ids=IDENTIFIED_IDS)
def test_project_out_of_sight_answers_like_an_unknown_one(
    wire: Wire, server: Host, project: pb.ProjectWithRole, call: Callable[..., object]
) -> None:
    stub = colleague(server).projects(wire)
    nowhere = str(uuid.uuid4())
    hidden = refused(NotFoundException, lambda: call(stub, project.id), reason="PROJECT_NOT_FOUND")
    unknown = refused(NotFoundException, lambda: call(stub, nowhere), reason="PROJECT_NOT_FOUND")
    assert hidden.details().replace(project.id, nowhere) == unknown.details()


# Visibility


@pytest.mark.parametrize(
    ("visibility", "person", "given", "role"),
    [
        (PROJECT_VISIBILITY_PRIV, owner, None, PROJECT_ROLE_MANAGER),
        (PROJECT_VISIBILITY_PRIV, colleague, None, PROJECT_ROLE_UNSPECIFIED),
        (PROJECT_VISIBILITY_PRIV, colleague, PROJECT_ROLE_VIEWER, PROJECT_ROLE_VIEWER),
        (PROJECT_VISIBILITY_PRIV, outsider, None, PROJECT_ROLE_UNSPECIFIED),
        (PROJECT_VISIBILITY_PRIV, outsider, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MEMBER),
        (PROJECT_VISIBILITY_WORKSPACE, owner, None, PROJECT_ROLE_MANAGER),
        (PROJECT_VISIBILITY_WORKSPACE, colleague, None, PROJECT_ROLE_MEMBER),
        (PROJECT_VISIBILITY_WORKSPACE, colleague, PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER),
        (PROJECT_VISIBILITY_WORKSPACE, colleague, PROJECT_ROLE_MANAGER, PROJECT_ROLE_MANAGER),
        (PROJECT_VISIBILITY_WORKSPACE, outsider, None, PROJECT_ROLE_UNSPECIFIED),
        (PROJECT_VISIBILITY_WORKSPACE, outsider, PROJECT_ROLE_VIEWER, PROJECT_ROLE_VIEWER),
        (PROJECT_VISIBILITY_PUB, owner, None, PROJECT_ROLE_MANAGER),
        (PROJECT_VISIBILITY_PUB, colleague, None, PROJECT_ROLE_VIEWER),
        (PROJECT_VISIBILITY_PUB, colleague, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MEMBER),
        (PROJECT_VISIBILITY_PUB, outsider, None, PROJECT_ROLE_VIEWER),
        (PROJECT_VISIBILITY_PUB, outsider, PROJECT_ROLE_MANAGER, PROJECT_ROLE_MANAGER),
    ],
)
def test_visibility_and_membership_decide_the_role(
    wire: Wire,
    stub: ProjectsServiceStub,
    server: Host,
    project: pb.ProjectWithRole,
    visibility: ProjectVisibility.ValueType,
    person: Callable[[Host], Person],
    given: ProjectRole.ValueType | None,
    role: ProjectRole.ValueType,
) -> None:
    update(stub, project.id, visibility=visibility)
    someone = person(server)
    if given is not None:
        add_member(wire, project, someone, given)
    theirs = someone.projects(wire)

    listed = {entry.id: entry for entry in theirs.ListProjects(pb.ListProjectsRequest()).entries}

    if role == PROJECT_ROLE_UNSPECIFIED:
        assert project.id not in listed
        refused(NotFoundException, lambda: details(theirs, project.id), reason="PROJECT_NOT_FOUND")
    else:
        seen = details(theirs, project.id)
        assert seen.user_role_in_project == role
        assert seen.HasField("user_role_in_organization") is (person is not outsider)
        assert listed[project.id] == seen


# Update


def test_update_changes_what_it_names(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    changes: dict[str, Any] = {
        "name": unique("renamed"),
        "description": "text",
        "visibility": PROJECT_VISIBILITY_PUB,
        "code_access": pb.PROJECT_CODE_ACCESS_RESTRICTED,
        "archived": True,
        "avatar_url": "https://example.org/b.png",
        "avatar_source": AVATAR_SOURCE_UNICODE,
        "display_class": "red",
    }
    assert set(changes) == {field.name for field in pb.ProjectUpdate.DESCRIPTOR.fields}
    expected = project
    for field, value in changes.items():
        updated = update(stub, project.id, **{field: value})
        setattr(expected, field, value)
        assert updated.last_activity.ToNanoseconds() >= expected.last_activity.ToNanoseconds()
        expected.last_activity.CopyFrom(updated.last_activity)
        assert updated == expected
    assert get(stub, f"{home()}/{changes['name']}").id == project.id


def test_empty_update_changes_nothing(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    assert update(stub, project.id) == project


def test_texts_can_be_emptied(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    update(stub, project.id, description="text", avatar_url="a")
    emptied = update(stub, project.id, description="", avatar_url="")
    assert emptied.HasField("description")
    assert (emptied.description, emptied.avatar_url) == ("", "")


def test_archived_project_can_be_changed_and_unarchived(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    assert update(stub, project.id, archived=True).archived
    assert update(stub, project.id, archived=True).archived
    assert update(stub, project.id, description="still here").archived
    assert not update(stub, project.id, archived=False).archived


def test_new_name_must_be_free(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    other = create(stub, unique("other"))
    call = partial(update, stub, project.id, name=other.name, description="new")
    refused(AlreadyExistsException, call, reason="PROJECT_NAME_COLLISION")
    assert details(stub, project.id) == project
    assert update(stub, project.id, name=project.name).name == project.name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ""}, "PROJECT_NAME_INVALID"),
        ({"name": "a b"}, "PROJECT_NAME_INVALID"),
        ({"name": "x" * 129}, "PROJECT_NAME_INVALID"),
        ({"visibility": 0}, "BAD_REQUEST"),
        ({"visibility": 4}, "BAD_REQUEST"),
        ({"code_access": 0}, "BAD_REQUEST"),
        ({"code_access": 3}, "BAD_REQUEST"),
        ({"avatar_source": 0}, "BAD_REQUEST"),
        ({"avatar_source": 6}, "BAD_REQUEST"),
    ],
)
def test_bad_updates_are_refused(
    stub: ProjectsServiceStub, project: pb.ProjectWithRole, changes: dict[str, Any], reason: str
) -> None:
    [field] = changes
    refused(
        InvalidArgumentException,
        lambda: update(stub, project.id, **changes),
        reason=reason,
        fields=[f"project_to_update.{field}"],
    )
    assert details(stub, project.id) == project


def test_update_must_be_there(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    request = pb.UpdateProjectRequest(project_identifier=project.id)
    refused(
        InvalidArgumentException,
        lambda: stub.UpdateProject(request),
        reason="BAD_REQUEST",
        fields=["project_to_update"],
    )


# Delete


def test_deleted_project_is_gone(stub: ProjectsServiceStub, project: pb.ProjectWithRole) -> None:
    request = pb.DeleteProjectRequest(project_identifier=f"{home()}/{project.name}")
    assert stub.DeleteProject(request) == pb.DeleteProjectResponse()
    for call in (lambda: details(stub, project.id), lambda: stub.DeleteProject(request)):
        refused(NotFoundException, call, reason="PROJECT_NOT_FOUND")
    # Name and key are free again.
    again = create(stub, project.name, project_key=project.project_key)
    assert again.id != project.id


def test_deleted_project_takes_its_runs_along(
    wire: Wire, stub: ProjectsServiceStub, server: Host, project: pb.ProjectWithRole
) -> None:
    assert [found.code for found in create_run(wire, owner(server), project, "run").code_by_count] == [code_pb2.OK]
    stub.DeleteProject(pb.DeleteProjectRequest(project_identifier=project.id))
    again = create(stub, project.name)
    # The run is not there any more, nor remembered: creating it is no repetition.
    status = create_run(wire, owner(server), again, "run")
    assert [(found.code, found.detail) for found in status.code_by_count] == [(code_pb2.OK, 0)]


# Roles


@pytest.mark.parametrize("role", [PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER])
@pytest.mark.parametrize(
    ("call", "needed"),
    list(zip(IDENTIFIED, [PROJECT_ROLE_VIEWER] * 2 + [PROJECT_ROLE_MANAGER] * 2, strict=True)),
    ids=IDENTIFIED_IDS,
)
def test_operations_need_their_role(
    wire: Wire,
    server: Host,
    project: pb.ProjectWithRole,
    role: ProjectRole.ValueType,
    call: Callable[..., object],
    needed: ProjectRole.ValueType,
) -> None:
    person = outsider(server)
    add_member(wire, project, person, role)
    theirs = person.projects(wire)
    if role >= needed:
        call(theirs, project.id)
        return
    error = refused(PermissionDeniedException, lambda: call(theirs, project.id), reason="ACCESS_DENIED")
    assert "role manager" in error.details()
    assert f"{home()}/{project.name}" in error.details()
    assert not details(theirs, project.id).HasField("description")
