from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from neptune_api.server.access import Access
from neptune_api.server.errors import StatusError
from neptune_api.server.identity import Caller, calling_as
from neptune_api.server.store.database import Database
from neptune_api.server.store.directory import Directory, ensure_owner
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MANAGER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_VIEWER,
    PROJECT_VISIBILITY_PRIV,
    PROJECT_VISIBILITY_PUB,
    PROJECT_VISIBILITY_WORKSPACE,
    WORKSPACE_ROLE_MEMBER,
    WORKSPACE_ROLE_OWNER,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from neptune_api.server.store.records import UserRecord
    from neptune_api.v1.roles_pb2 import ProjectVisibility

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    database = Database(tmp_path)
    yield Directory(database)
    database.close()


@pytest.fixture
def access(directory: Directory) -> Access:
    return Access(directory)


@pytest.fixture
def owner(directory: Directory) -> UserRecord:
    return ensure_owner(directory, "lab", "owner")


@pytest.fixture
def member(directory: Directory, owner: UserRecord) -> UserRecord:
    return directory.create_user("member", workspace_id=directory.ensure_workspace("lab"))


@pytest.fixture
def stranger(directory: Directory) -> UserRecord:
    return directory.create_user("stranger")


@pytest.fixture
def make(directory: Directory, owner: UserRecord) -> Callable[..., int]:
    def create(name: str, visibility: ProjectVisibility.ValueType = PROJECT_VISIBILITY_PRIV) -> int:
        lab = directory.ensure_workspace("lab")
        return directory.create_project(name, workspace_id=lab, creator_id=owner.id, visibility=visibility)

    return create


def being(user: UserRecord) -> Caller:
    return Caller(user.id, user.uuid, user.username)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str | None, str]:
    with pytest.raises(StatusError) as caught:
        call()
    return caught.value.code, caught.value.reason, caught.value.message


def test_project_is_given_to_who_has_the_role(
    access: Access, make: Callable[..., int], owner: UserRecord, member: UserRecord
) -> None:
    project_id = make("p", PROJECT_VISIBILITY_WORKSPACE)
    for user, role in ((owner, PROJECT_ROLE_MANAGER), (member, PROJECT_ROLE_MEMBER)):
        with calling_as(being(user)):
            project = access.project("lab/p", role)
            assert (project.id, project.role) == (project_id, role)
            assert access.find_project(project.uuid) == project
            assert access.visible_projects() == [project]
    with calling_as(being(member)):
        code, reason, message = refusal(lambda: access.project("lab/p", PROJECT_ROLE_MANAGER))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
    assert "the role manager in the project lab/p; yours is member" in message


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND"),
        (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"),
    ],
)
def test_hidden_project_answers_like_an_unknown_one(
    access: Access, make: Callable[..., int], stranger: UserRecord, code: grpc.StatusCode, reason: str
) -> None:
    make("hidden")
    with calling_as(being(stranger)):
        assert access.find_project("lab/hidden") is None
        hidden = refusal(lambda: access.project("lab/hidden", PROJECT_ROLE_MANAGER, writing=True, missing=code))
        unknown = refusal(lambda: access.project("lab/nobody", missing=code))
    assert hidden[:2] == (code, reason)
    assert (*hidden[:2], hidden[2].replace("hidden", "nobody")) == unknown


def test_identifier_is_required(access: Access, owner: UserRecord) -> None:
    with calling_as(being(owner)):
        for call in (
            lambda: access.project("", field="f"),
            lambda: access.workspace("", field="f"),
            lambda: access.visible_workspace("", field="f"),
        ):
            code, _, message = refusal(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert message.startswith("f: is required")


def test_archived_project_cannot_be_written(
    access: Access, directory: Directory, make: Callable[..., int], owner: UserRecord
) -> None:
    make("p")
    with calling_as(being(owner)):
        project = access.project("lab/p", PROJECT_ROLE_MEMBER, writing=True)
        directory.update_project(project, {"archived": True})
        assert access.project("lab/p", PROJECT_ROLE_MANAGER).archived
        code, reason, _ = refusal(lambda: access.project("lab/p", PROJECT_ROLE_MEMBER, writing=True))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT")
        directory.update_project(project, {"archived": False})
        assert access.project("lab/p", PROJECT_ROLE_MEMBER, writing=True).id == project.id


def test_low_role_is_told_before_the_archive(
    access: Access, directory: Directory, make: Callable[..., int], owner: UserRecord, stranger: UserRecord
) -> None:
    make("p", PROJECT_VISIBILITY_PUB)
    with calling_as(being(owner)):
        directory.update_project(access.project("lab/p"), {"archived": True})
    with calling_as(being(stranger)):
        code, _, _ = refusal(lambda: access.project("lab/p", PROJECT_ROLE_MEMBER, writing=True))
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_workspace_is_given_to_who_has_the_role(
    access: Access, owner: UserRecord, member: UserRecord, stranger: UserRecord
) -> None:
    with calling_as(being(owner)):
        lab = access.workspace("lab", WORKSPACE_ROLE_OWNER)
        assert access.workspace(lab.uuid) == lab
    with calling_as(being(member)):
        assert access.workspace("lab").role == WORKSPACE_ROLE_MEMBER
        code, reason, message = refusal(lambda: access.workspace("lab", WORKSPACE_ROLE_OWNER))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
        assert "the role owner in the organization lab; yours is member" in message
    with calling_as(being(stranger)):
        code, reason, message = refusal(lambda: access.workspace("lab"))
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
        assert message.startswith("Organization lab not found")
        assert refusal(lambda: access.workspace("lab", missing=grpc.StatusCode.PERMISSION_DENIED))[:2] == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ACCESS_DENIED",
        )


def test_workspace_is_visible_to_who_sees_one_of_its_projects(
    access: Access, make: Callable[..., int], stranger: UserRecord
) -> None:
    with calling_as(being(stranger)):
        make("hidden")
        assert refusal(lambda: access.visible_workspace("lab"))[0] is grpc.StatusCode.NOT_FOUND
        make("open", PROJECT_VISIBILITY_PUB)
        assert access.visible_workspace("lab").name == "lab"


def test_missing_project_is_created_for_members_of_the_workspace(
    access: Access, directory: Directory, member: UserRecord, stranger: UserRecord
) -> None:
    lab = directory.find_workspace("lab", member.id)
    assert lab is not None
    with calling_as(being(stranger)):
        assert access.create_missing_project("lab/new") is None
    with calling_as(being(member)):
        for identifier in ("lab", "lab/", "lab/a b", "lab/a/b", "unknown/new", f"{lab.uuid}/new", UNKNOWN, "/new", ""):
            assert access.create_missing_project(identifier) is None
        created = access.create_missing_project("lab/new")
        assert access.project("lab/new", PROJECT_ROLE_MANAGER).id == created
        assert access.create_missing_project("lab/new") == created


def test_existing_project_is_not_given_to_who_may_not_write(
    access: Access, directory: Directory, make: Callable[..., int], member: UserRecord
) -> None:
    make("hidden")
    make("open", PROJECT_VISIBILITY_PUB)
    with calling_as(being(member)):
        assert access.create_missing_project("lab/hidden") is None
        assert access.create_missing_project("lab/open") is None
        assert access.project("lab/open").role == PROJECT_ROLE_VIEWER


def test_concurrent_creations_give_one_project(access: Access, member: UserRecord) -> None:
    start = threading.Barrier(4)

    def create(_: int) -> int | None:
        with calling_as(being(member)):
            start.wait()
            return access.create_missing_project("lab/new")

    with ThreadPoolExecutor(4) as pool:
        created = set(pool.map(create, range(4)))
    assert len(created) == 1
    assert None not in created
