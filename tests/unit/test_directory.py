from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from neptune_api.server.store import schema
from neptune_api.server.store.database import Database, StoreError
from neptune_api.server.store.directory import Directory, _free_key, ensure_owner
from neptune_api.server.store.records import (
    AlreadyMemberError,
    ProjectKeyTakenError,
    ProjectNameTakenError,
    ProjectRecord,
    UsernameTakenError,
)
from neptune_api.server.validation import Checks
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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neptune_api.server.store.records import UserRecord

NOBODY, VIEWER, MEMBER, MANAGER = (
    PROJECT_ROLE_UNSPECIFIED,
    PROJECT_ROLE_VIEWER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_MANAGER,
)
PRIV, PUB, WORKSPACE = PROJECT_VISIBILITY_PRIV, PROJECT_VISIBILITY_PUB, PROJECT_VISIBILITY_WORKSPACE
ROLES = (VIEWER, MEMBER, MANAGER)
VISIBILITIES = (PRIV, WORKSPACE, PUB)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path)
    yield database
    database.close()


@pytest.fixture
def directory(database: Database) -> Directory:
    return Directory(database)


@pytest.fixture
def owner(directory: Directory) -> UserRecord:
    return ensure_owner(directory, "lab", "owner")


@pytest.fixture
def lab(directory: Directory, owner: UserRecord) -> int:
    return directory.ensure_workspace("lab")


def seen(directory: Directory, identifier: str, user: UserRecord) -> ProjectRecord:
    project = directory.find_project(identifier, user.id)
    assert project is not None
    return project


# Users


def test_users_are_found_by_name_and_by_uuid(directory: Directory) -> None:
    user = directory.create_user("alice", email="a@example.org", first_name="Alice", last_name="L")
    assert directory.user(user.id) == user
    assert directory.find_user("alice") == user
    assert directory.find_user(user.uuid) == user
    assert directory.find_user(user.uuid.upper()) == user
    assert directory.user(4711) is None
    for identifier in ("", "bob", "ALICE", "a/b", "alice\0", "x" * 65, "00000000-0000-4000-8000-000000000000"):
        assert directory.find_user(identifier) is None


def test_user_name_cannot_be_taken_twice(directory: Directory) -> None:
    directory.create_user("alice")
    with pytest.raises(UsernameTakenError):
        directory.create_user("alice")


def test_name_that_is_anothers_uuid_leads_to_the_other(directory: Directory) -> None:
    alice = directory.create_user("alice")
    directory.create_user(alice.uuid)
    found = directory.find_user(alice.uuid)
    assert found is not None
    assert found.username == "alice"


def test_colleagues_share_a_workspace(directory: Directory, lab: int, owner: UserRecord) -> None:
    other = directory.ensure_workspace("other")
    alice = directory.create_user("alice", workspace_id=lab)
    bob = directory.create_user("bob", workspace_id=other)
    loner = directory.create_user("loner")
    both = directory.create_user("both", workspace_id=lab)
    directory.set_workspace_role(other, both.id, WORKSPACE_ROLE_MEMBER)
    names = ["owner", "alice", "bob", "loner", "both", "unknown", "not a name"]

    def known(user: UserRecord) -> set[str]:
        return set(directory.colleagues(names, of=user.id))

    assert known(alice) == {"owner", "alice", "both"}
    assert known(bob) == {"bob", "both"}
    assert known(both) == {"owner", "alice", "bob", "both"}
    assert known(loner) == {"loner"}
    assert directory.colleagues([], of=alice.id) == {}


def test_more_colleagues_than_one_statement_takes(directory: Directory, owner: UserRecord) -> None:
    assert set(directory.colleagues([f"user-{n}" for n in range(1500)] + ["owner"], of=owner.id)) == {"owner"}


# Workspaces


def test_ensure_owner_creates_once(directory: Directory) -> None:
    first = ensure_owner(directory, "lab", "owner")
    assert ensure_owner(directory, "lab", "owner") == first
    [workspace] = directory.workspaces(first.id)
    assert (workspace.name, workspace.role) == ("lab", WORKSPACE_ROLE_OWNER)


def test_ensure_owner_makes_a_member_an_owner(directory: Directory, lab: int) -> None:
    alice = directory.create_user("alice", workspace_id=lab)
    assert ensure_owner(directory, "lab", "alice") == alice
    [workspace] = directory.workspaces(alice.id)
    assert workspace.role == WORKSPACE_ROLE_OWNER


@pytest.mark.parametrize(("workspace", "user"), [("", "owner"), ("a b", "owner"), ("x" * 65, "owner"), ("lab", "a/b")])
def test_ensure_owner_refuses_what_is_no_name(directory: Directory, workspace: str, user: str) -> None:
    with pytest.raises(StoreError, match="cannot have the name"):
        ensure_owner(directory, workspace, user)
    assert directory.find_user("owner") is None


def test_workspaces_are_found_by_name_and_by_uuid(directory: Directory, lab: int, owner: UserRecord) -> None:
    stranger = directory.create_user("stranger")
    mine = directory.find_workspace("lab", owner.id)
    assert mine is not None
    assert (mine.id, mine.name, mine.role) == (lab, "lab", WORKSPACE_ROLE_OWNER)
    assert directory.find_workspace(mine.uuid, owner.id) == mine
    assert directory.find_workspace(mine.uuid, stranger.id) == dataclasses.replace(mine, role=None)
    for identifier in ("", "unknown", "a/b", "00000000-0000-4000-8000-000000000000"):
        assert directory.find_workspace(identifier, owner.id) is None


# Roles


@pytest.mark.parametrize(
    ("visibility", "workspace_role", "given", "role"),
    [
        # Nobody: neither in the workspace nor in the project.
        (PRIV, None, None, NOBODY),
        (WORKSPACE, None, None, NOBODY),
        (PUB, None, None, VIEWER),
        # A member of the workspace.
        (PRIV, WORKSPACE_ROLE_MEMBER, None, NOBODY),
        (WORKSPACE, WORKSPACE_ROLE_MEMBER, None, MEMBER),
        (PUB, WORKSPACE_ROLE_MEMBER, None, VIEWER),
        # An owner of the workspace.
        *((visibility, WORKSPACE_ROLE_OWNER, None, MANAGER) for visibility in VISIBILITIES),
        *((PRIV, WORKSPACE_ROLE_OWNER, given, MANAGER) for given in ROLES),
        # A member of the project from outside.
        *((visibility, None, given, given) for visibility, given in product(VISIBILITIES, ROLES)),
        # A member of both: the higher role wins.
        (WORKSPACE, WORKSPACE_ROLE_MEMBER, VIEWER, MEMBER),
        (WORKSPACE, WORKSPACE_ROLE_MEMBER, MANAGER, MANAGER),
        (PRIV, WORKSPACE_ROLE_MEMBER, VIEWER, VIEWER),
        (PUB, WORKSPACE_ROLE_MEMBER, MEMBER, MEMBER),
    ],
)
def test_highest_role_wins(
    directory: Directory,
    lab: int,
    owner: UserRecord,
    visibility: int,
    workspace_role: int | None,
    given: int | None,
    role: int,
) -> None:
    directory.create_project("p", workspace_id=lab, creator_id=owner.id, visibility=visibility)  # type: ignore[arg-type] # enum values, untyped in the table
    user = directory.create_user("user")
    if given is not None:
        directory.add_member(seen(directory, "lab/p", user), user.id, ProjectRole.ValueType(given))
    if workspace_role is not None:
        directory.set_workspace_role(lab, user.id, workspace_role)  # type: ignore[arg-type] # as above

    project = seen(directory, "lab/p", user)

    assert project.role == role
    assert project.workspace_role == workspace_role
    visible = role != NOBODY
    assert [seen.id for seen in directory.visible_projects(user.id)] == [project.id] * visible
    assert directory.sees_workspace(lab, user.id) is visible
    page = directory.list_projects(user.id)
    assert (page.total, page.matching) == (visible, visible)
    assert [(entry.id, entry.role) for entry in page.entries] == [(project.id, role)] * visible


# Projects


def test_projects_are_found_by_uuid_and_by_full_name(directory: Directory, lab: int, owner: UserRecord) -> None:
    project_id = directory.create_project("p.1-a_b", workspace_id=lab, creator_id=owner.id, description="text")
    project = seen(directory, "lab/p.1-a_b", owner)
    assert project.id == project_id
    assert project.description == "text"
    assert project.created_ms == project.activity_ms
    assert directory.find_project(project.uuid, owner.id) == project
    assert directory.find_project(project.uuid.upper(), owner.id) == project
    for identifier in ("", "/", "lab", "lab/", "/p.1-a_b", "lab/P.1-a_b", "lab/p.1-a_b/", "lab/p.1-a_b\0", "x" * 9999):
        assert directory.find_project(identifier, owner.id) is None


def test_names_and_keys_are_unique_in_a_workspace(directory: Directory, lab: int, owner: UserRecord) -> None:
    directory.create_project("p", workspace_id=lab, creator_id=owner.id, key="KEY")
    with pytest.raises(ProjectNameTakenError):
        directory.create_project("p", workspace_id=lab, creator_id=owner.id, key="OTHER")
    with pytest.raises(ProjectKeyTakenError):
        directory.create_project("q", workspace_id=lab, creator_id=owner.id, key="KEY")
    other = directory.ensure_workspace("other")
    directory.create_project("p", workspace_id=other, creator_id=owner.id, key="KEY")
    assert directory.find_project("lab/q", owner.id) is None


def test_concurrent_creations_of_one_name_give_one_project(directory: Directory, lab: int, owner: UserRecord) -> None:
    start = threading.Barrier(4)

    def create(_: int) -> bool:
        start.wait()
        try:
            directory.create_project("p", workspace_id=lab, creator_id=owner.id)
        except ProjectNameTakenError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(create, range(4))) == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "taken", "key"),
    [
        ("mnist", (), "MNIS"),
        ("ab", (), "AB"),
        ("my-first_project", (), "MFP"),
        ("a.b.c.d.e.f", (), "ABCDE"),
        ("2024", (), "P2024"),
        ("3-4", (), "P34"),
        ("...", (), "P"),
        ("Größe", (), "GROE"),
        ("データ", (), "P"),
        ("mnist", ("MNIS",), "MNIS2"),
        ("mnist", ("MNIS", "MNIS2", "MNIS4"), "MNIS3"),
    ],
)
def test_key_is_made_from_the_name(name: str, taken: tuple[str, ...], key: str) -> None:
    assert _free_key(name, taken) == key


@given(st.lists(st.from_regex(r"[\w.-]{1,128}", fullmatch=True), max_size=20))
def test_made_keys_are_valid_and_unique(names: list[str]) -> None:
    keys: set[str] = set()
    for name in names:
        key = _free_key(name, keys)
        assert key not in keys
        with Checks() as check:
            check.project_key("project_key", key)
        keys.add(key)


def test_update_changes_what_it_is_given(directory: Directory, lab: int, owner: UserRecord) -> None:
    directory.create_project("p", workspace_id=lab, creator_id=owner.id, description="old", display_class="c")
    before = seen(directory, "lab/p", owner)
    directory.update_project(before, {})
    assert seen(directory, "lab/p", owner) == before
    directory.update_project(before, {"name": "q", "archived": True, "description": ""})
    after = seen(directory, "lab/q", owner)
    assert after.activity_ms >= before.activity_ms
    assert after == dataclasses.replace(before, name="q", archived=True, description="", activity_ms=after.activity_ms)
    assert directory.find_project("lab/p", owner.id) is None


def test_update_keeps_names_unique(directory: Directory, lab: int, owner: UserRecord) -> None:
    for name in ("p", "q"):
        directory.create_project(name, workspace_id=lab, creator_id=owner.id)
    project = seen(directory, "lab/p", owner)
    with pytest.raises(ProjectNameTakenError):
        directory.update_project(project, {"name": "q", "archived": True})
    assert not seen(directory, "lab/p", owner).archived
    directory.update_project(project, {"name": "p", "archived": True})
    assert seen(directory, "lab/p", owner).archived


def test_deletion_takes_along_what_belongs_to_the_project(
    database: Database, directory: Directory, lab: int, owner: UserRecord
) -> None:
    doomed, other = (directory.create_project(name, workspace_id=lab, creator_id=owner.id) for name in ("p", "q"))
    with database.write() as connection:
        for number, project_id in enumerate((doomed, other, None)):
            connection.execute(
                schema.operations.insert().values(
                    request_id=f"r{number}", project_id=project_id, user_id=owner.id, accepted_ms=0, payload=b""
                )
            )
            connection.execute(
                schema.requests.insert().values(
                    request_id=f"r{number}", project_id=project_id, user_id=owner.id, accepted_ms=0
                )
            )
        for project_id in (doomed, other):
            run = connection.execute(
                schema.runs.insert().values(
                    uuid=f"run-{project_id}",
                    project_id=project_id,
                    run_id="r",
                    number=1,
                    family="f",
                    owner_id=owner.id,
                    created_ms=0,
                )
            ).inserted_primary_key
            assert run is not None
            connection.execute(schema.experiments.insert().values(project_id=project_id, name="e", head_id=run[0]))
            connection.execute(schema.attributes.insert().values(run_id=run[0], name="a", type=1))

    with database.write() as connection:
        assert directory.delete_project(connection, doomed)
    with database.write() as connection:
        assert not directory.delete_project(connection, doomed)

    with database.read() as connection:

        def owners(table: sa.Table) -> list[int | None]:
            return list(connection.scalars(sa.select(table.c.project_id).order_by(table.c.project_id)))

        assert owners(schema.operations) == owners(schema.requests) == [None, other]
        assert owners(schema.runs) == owners(schema.experiments) == owners(schema.project_members) == [other]
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.attributes)) == 1
    assert directory.find_project("lab/p", owner.id) is None


# Listings


@pytest.fixture
def crowd(database: Database, directory: Directory, lab: int, owner: UserRecord) -> Directory:
    """A directory with projects b, a, c, created in this order, last written to in the order c, a, b."""
    for name, description in (("b", "Ärger"), ("a", None), ("c", "plain")):
        directory.create_project(
            name, workspace_id=lab, creator_id=owner.id, description=description, key=f"K{name.upper()}"
        )
    with database.write() as connection:
        for created, (name, activity) in enumerate((("b", 30), ("a", 20), ("c", 10))):
            connection.execute(
                schema.projects.update()
                .where(schema.projects.c.name == name)
                .values(created_ms=created, activity_ms=activity)
            )
    return directory


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ([], "abc"),
        ([("name", False)], "abc"),
        ([("name", True)], "cba"),
        ([("timeOfCreation", False)], "bac"),
        ([("timeOfCreation", True)], "cab"),
        ([("lastActivity", True)], "bac"),
        ([("lastActivity", False)], "cab"),
        ([("lastViewed", True)], "bac"),
    ],
)
def test_listing_is_sorted(crowd: Directory, owner: UserRecord, order: list[tuple[str, bool]], names: str) -> None:
    assert [entry.name for entry in crowd.list_projects(owner.id, order=order).entries] == list(names)


def test_listing_sorts_by_further_fields_and_then_by_age(
    crowd: Directory, database: Database, owner: UserRecord
) -> None:
    with database.write() as connection:
        connection.execute(schema.projects.update().values(activity_ms=5))
    page = crowd.list_projects(owner.id, order=[("lastActivity", True), ("name", True)])
    assert [entry.name for entry in page.entries] == ["c", "b", "a"]
    page = crowd.list_projects(owner.id, order=[("lastActivity", True)])
    assert [entry.name for entry in page.entries] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ("", "abc"),
        ("A", "ac"),
        ("ärg", "b"),
        ("ÄRGER", "b"),
        ("kc", "c"),
        ("Plain", "c"),
        ("%", ""),
        ("_", ""),
        ("a\nk", ""),
    ],
)
def test_search_looks_into_name_key_and_description(
    crowd: Directory, owner: UserRecord, search: str, names: str
) -> None:
    page = crowd.list_projects(owner.id, search=search)
    assert [entry.name for entry in page.entries] == list(names)
    assert page.matching == len(names)
    assert page.total == 3


@pytest.mark.parametrize("search", ["", "K"])
@pytest.mark.parametrize(
    ("offset", "limit", "names"), [(0, None, "abc"), (1, None, "bc"), (0, 2, "ab"), (1, 1, "b"), (0, 0, ""), (3, 5, "")]
)
def test_listing_comes_in_pages(
    crowd: Directory, owner: UserRecord, search: str, offset: int, limit: int | None, names: str
) -> None:
    page = crowd.list_projects(owner.id, search=search, offset=offset, limit=limit)
    assert [entry.name for entry in page.entries] == list(names)
    assert (page.matching, page.total) == (3, 3)


def test_listing_filters_by_workspace_and_role(crowd: Directory, lab: int, owner: UserRecord) -> None:
    other = crowd.ensure_workspace("other")
    alice = crowd.create_user("alice", workspace_id=lab)
    crowd.create_project("own", workspace_id=other, creator_id=alice.id)
    crowd.create_project("open", workspace_id=lab, creator_id=owner.id, visibility=PUB)

    def names(**filters: object) -> list[str]:
        page = crowd.list_projects(alice.id, **filters)  # type: ignore[arg-type] # the filters of the calls below
        assert page.matching == len(page.entries)
        assert page.total == 2
        return [entry.name for entry in page.entries]

    assert names() == ["open", "own"]
    assert names(workspace_id=lab) == ["open"]
    assert names(workspace_id=other) == ["own"]
    assert names(roles=[MANAGER]) == ["own"]
    assert names(roles=[VIEWER, MEMBER]) == ["open"]
    assert names(roles=[MEMBER]) == []


# Members


def test_members_are_those_of_the_project_and_the_owners_of_the_workspace(
    directory: Directory, lab: int, owner: UserRecord
) -> None:
    alice, bob, second = (directory.create_user(name, workspace_id=lab) for name in ("alice", "bob", "second"))
    directory.set_workspace_role(lab, second.id, WORKSPACE_ROLE_OWNER)
    stranger = directory.create_user("stranger")
    project_id = directory.create_project("p", workspace_id=lab, creator_id=alice.id, visibility=WORKSPACE)
    project = seen(directory, "lab/p", owner)
    assert directory.add_member(project, stranger.id, VIEWER)

    members = [(member.user.username, member.role, member.is_owner) for member in directory.members(project)]

    assert members == [
        ("alice", MANAGER, False),
        ("owner", MANAGER, True),
        ("second", MANAGER, True),
        ("stranger", VIEWER, False),
    ]
    assert directory.member(project, bob.id) is None
    overview = directory.overview(project_id, bob.id)
    assert overview is not None
    assert (overview.member_count, overview.workspace_size) == (4, 4)
    assert overview.role == MEMBER


def test_owner_who_is_a_member_too_counts_once(directory: Directory, lab: int, owner: UserRecord) -> None:
    project_id = directory.create_project("p", workspace_id=lab, creator_id=owner.id)
    overview = directory.overview(project_id, owner.id)
    assert overview is not None
    assert overview.member_count == 1
    assert [member.user.username for member in directory.members(overview)] == ["owner"]
    assert directory.overview(4711, owner.id) is None


def test_members_come_change_and_go(directory: Directory, lab: int, owner: UserRecord) -> None:
    directory.create_project("p", workspace_id=lab, creator_id=owner.id)
    project = seen(directory, "lab/p", owner)
    alice = directory.create_user("alice")
    assert not directory.set_member_role(project, alice.id, MEMBER)
    assert not directory.remove_member(project, alice.id)
    assert directory.add_member(project, alice.id, VIEWER)
    with pytest.raises(AlreadyMemberError):
        directory.add_member(project, alice.id, MEMBER)
    with pytest.raises(AlreadyMemberError):
        directory.add_member(project, owner.id, MEMBER)
    assert directory.set_member_role(project, alice.id, MEMBER)
    assert seen(directory, "lab/p", alice).role == MEMBER
    assert directory.remove_member(project, alice.id)
    assert seen(directory, "lab/p", alice).role == NOBODY


def test_nobody_joins_a_deleted_project(database: Database, directory: Directory, lab: int, owner: UserRecord) -> None:
    directory.create_project("p", workspace_id=lab, creator_id=owner.id)
    project = seen(directory, "lab/p", owner)
    alice = directory.create_user("alice")
    with database.write() as connection:
        directory.delete_project(connection, project.id)
    assert not directory.add_member(project, alice.id, VIEWER)
    directory.update_project(project, {"archived": True})
    assert directory.find_project("lab/p", owner.id) is None


def test_statements_are_portable(database: Database, directory: Directory, lab: int, owner: UserRecord) -> None:
    statements: list[sa.ClauseElement] = []
    engine = database._engine

    @sa.event.listens_for(engine, "before_execute")
    def note(_connection: object, statement: sa.ClauseElement, *_: object) -> None:
        statements.append(statement)

    directory.create_project("p", workspace_id=lab, creator_id=owner.id)
    project = seen(directory, "lab/p", owner)
    user = directory.create_user("alice", workspace_id=lab)
    directory.colleagues(["alice"], of=owner.id)
    directory.find_workspace("lab", owner.id)
    directory.sees_workspace(lab, owner.id)
    directory.visible_projects(owner.id)
    order = [("lastActivity", True)]
    directory.list_projects(owner.id, workspace_id=lab, roles=[MANAGER], order=order, offset=1, limit=2)
    directory.add_member(project, user.id, VIEWER)
    directory.members(project)
    directory.update_project(project, {"name": "q"})
    directory.revoke_token(user.id)
    directory.owns_run(owner.id)
    with database.write() as connection:
        directory.delete_project(connection, project.id)

    assert len(statements) > 20
    for statement in statements:
        assert str(statement.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call, unused-ignore] # not typed in SQLAlchemy


def test_user_owns_a_run_once_there_is_one(
    database: Database, directory: Directory, lab: int, owner: UserRecord
) -> None:
    project_id = directory.create_project("p", workspace_id=lab, creator_id=owner.id)
    assert not directory.owns_run(owner.id)
    with database.write() as connection:
        connection.execute(
            schema.runs.insert().values(
                uuid="u", project_id=project_id, run_id="r", number=1, family="f", owner_id=owner.id, created_ms=0
            )
        )
    assert directory.owns_run(owner.id)
