from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.people import Person, add_member, home, outsider, refused
from neptune_api.conformance.project_helpers import create, get, update
from neptune_api.exceptions import (
    InvalidArgumentException,
    NotFoundException,
)
from neptune_api.v1 import projects_service_pb2 as pb
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import (
    PROJECT_ROLE_MANAGER,
    PROJECT_ROLE_MEMBER,
    PROJECT_ROLE_VIEWER,
    PROJECT_VISIBILITY_PUB,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.people import Host, Wire


@pytest.fixture
def stub(wire: Wire) -> ProjectsServiceStub:
    return wire.connect().stub(ProjectsServiceStub)


@dataclass(frozen=True)
class Shelf:
    """A workspace with the projects b, a and c, created in this order."""

    workspace: str
    stub: ProjectsServiceStub

    def list(self, **fields: Any) -> pb.ProjectList:
        """List the projects of the workspace only: tests share the server, and some projects are public."""
        return self.stub.ListProjects(pb.ListProjectsRequest(organization_identifier=self.workspace, **fields))


@pytest.fixture
def shelf(wire: Wire, workspace: str, boss: Person) -> Shelf:
    stub = boss.projects(wire)
    for name, description in (("b", "Ärger"), ("a", None), ("c", "100% plain")):
        create(stub, name, workspace, description=description)
    return Shelf(workspace, stub)


def names(projects: pb.ProjectList) -> list[str]:
    return [entry.name for entry in projects.entries]


KEYS: dict[str, Callable[[pb.ProjectWithRole], object]] = {
    "name": lambda project: project.name,
    "timeOfCreation": lambda project: project.time_of_creation.ToMilliseconds(),
    "lastActivity": lambda project: project.last_activity.ToMilliseconds(),
    "lastViewed": lambda project: project.last_activity.ToMilliseconds(),
}


def test_listing_comes_by_name(shelf: Shelf) -> None:
    assert names(shelf.list()) == ["a", "b", "c"]


@pytest.mark.parametrize("field", KEYS)
@pytest.mark.parametrize("direction", ["ascending", "descending", None])
def test_listing_is_sorted(shelf: Shelf, field: str, direction: str | None) -> None:
    for name in "acb":
        update(shelf.stub, f"{shelf.workspace}/{name}", description=name)
    entries = shelf.list(sort_by=[field], sort_direction=[] if direction is None else [direction]).entries
    descending = direction == "descending" or (direction is None and field != "name")
    assert len(entries) == 3
    # Equal ones stay in the order of their creation, b a c.
    oldest_first = sorted(entries, key=lambda project: "bac".index(project.name))
    assert list(entries) == sorted(oldest_first, key=KEYS[field], reverse=descending)  # type: ignore[arg-type] # numbers or texts


def test_listing_is_sorted_by_several_fields(shelf: Shelf) -> None:
    listing = shelf.list(sort_by=["name", "timeOfCreation"], sort_direction=["descending"])
    assert names(listing) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", "abc"),
        ("B", "b"),
        ("ärg", "b"),
        ("ÄRGER", "b"),
        ("PLAIN", "c"),
        ("100%", "c"),
        ("%", "c"),
        ("_", ""),
        ("x", ""),
    ],
)
def test_listing_is_searched(shelf: Shelf, search: str, found: str) -> None:
    listing = shelf.list(search_term=search)
    assert names(listing) == list(found)
    assert listing.matching_item_count == len(found)
    assert listing.total_item_count >= 3


def test_listing_finds_keys(shelf: Shelf) -> None:
    create(shelf.stub, "other", shelf.workspace, project_key="ZEBRA9")
    assert names(shelf.list(search_term="zebra")) == ["other"]


@pytest.mark.parametrize(
    ("offset", "limit", "page"),
    [
        (None, None, "abc"),
        (0, 10_000, "abc"),
        (1, None, "bc"),
        (None, 2, "ab"),
        (1, 1, "b"),
        (0, 0, ""),
        (3, 5, ""),
        (2**31 - 1, 1, ""),
    ],
)
def test_listing_comes_in_pages(shelf: Shelf, offset: int | None, limit: int | None, page: str) -> None:
    listing = shelf.list(offset=offset, limit=limit)
    assert names(listing) == list(page)
    assert listing.matching_item_count == 3
    assert listing.total_item_count >= 3


@pytest.mark.parametrize(
    ("relation", "roles"),
    [
        ("viewerOrHigher", "abc"),
        ("memberOrHigher", "bc"),
        ("manager", "c"),
        ("member", "b"),
        ("viewer", "a"),
    ],
)
def test_listing_filters_by_role(
    wire: Wire, server: Host, workspace: str, shelf: Shelf, relation: str, roles: str
) -> None:
    person = outsider(server)
    for name, role in zip("abc", (PROJECT_ROLE_VIEWER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_MANAGER), strict=True):
        shelf.stub.AddProjectMember(
            pb.AddProjectMemberRequest(
                project_identifier=f"{workspace}/{name}", member=pb.NewProjectMember(user_id=person.name, role=role)
            )
        )
    listing = person.projects(wire).ListProjects(
        pb.ListProjectsRequest(organization_identifier=workspace, user_relation=relation)
    )
    assert names(listing) == list(roles)
    assert listing.matching_item_count == len(roles)


def test_listing_filters_by_workspace(
    wire: Wire, server: Host, workspace: str, shelf: Shelf, project: pb.ProjectWithRole
) -> None:
    person = outsider(server)
    add_member(wire, project, person, PROJECT_ROLE_VIEWER)
    update(shelf.stub, f"{workspace}/a", visibility=PROJECT_VISIBILITY_PUB)
    theirs = person.projects(wire)

    def listed(identifier: str) -> pb.ProjectList:
        return theirs.ListProjects(pb.ListProjectsRequest(organization_identifier=identifier))

    for identifier in (workspace, get(shelf.stub, f"{workspace}/a").organization_id):
        assert names(listed(identifier)) == ["a"]
    assert project.name in names(listed(home()))
    everything = theirs.ListProjects(pb.ListProjectsRequest())
    assert listed(workspace).total_item_count == everything.total_item_count == everything.matching_item_count


def test_listing_of_an_invisible_workspace_is_not_found(wire: Wire, server: Host, workspace: str, shelf: Shelf) -> None:
    theirs = outsider(server).projects(wire)
    for identifier in (workspace, "unknown"):
        request = pb.ListProjectsRequest(organization_identifier=identifier)
        call = partial(theirs.ListProjects, request)
        error = refused(NotFoundException, call, reason="ORGANIZATION_NOT_FOUND")
        assert error.details().startswith(f"Organization {identifier} not found")


def test_member_of_an_empty_workspace_lists_nothing(wire: Wire, workspace: str, boss: Person) -> None:
    listing = boss.projects(wire).ListProjects(pb.ListProjectsRequest(organization_identifier=workspace))
    assert names(listing) == []
    assert listing.matching_item_count == 0


@pytest.mark.parametrize(
    ("fields", "reason", "violations"),
    [
        ({"organization_identifier": ""}, "BAD_REQUEST", ["organization_identifier"]),
        ({"user_relation": "owner"}, "BAD_REQUEST", ["user_relation"]),
        ({"user_relation": ""}, "BAD_REQUEST", ["user_relation"]),
        ({"sort_by": ["size"]}, "INVALID_SORT_PARAMS", ["sort_by"]),
        ({"sort_by": ["name", "Name"]}, "INVALID_SORT_PARAMS", ["sort_by"]),
        ({"sort_by": ["name"], "sort_direction": ["up"]}, "INVALID_SORT_PARAMS", ["sort_direction"]),
        ({"sort_direction": ["ascending"]}, "INVALID_SORT_PARAMS", ["sort_direction"]),
        ({"sort_by": ["name"] * 5}, "BAD_REQUEST", ["sort_by"]),
        ({"offset": -1}, "INVALID_OFFSET", ["offset"]),
        ({"limit": -1}, "BAD_REQUEST", ["limit"]),
        ({"limit": 10_001}, "BAD_REQUEST", ["limit"]),
        ({"limit": -1, "offset": -2, "sort_by": ["x"]}, "INVALID_SORT_PARAMS", ["sort_by", "offset", "limit"]),
    ],
)
def test_bad_listings_are_refused(
    stub: ProjectsServiceStub, fields: dict[str, Any], reason: str, violations: list[str]
) -> None:
    request = pb.ListProjectsRequest(**fields)
    refused(InvalidArgumentException, lambda: stub.ListProjects(request), reason=reason, fields=violations)


def test_error_stays_small_whatever_the_request(stub: ProjectsServiceStub, wire: Wire) -> None:
    many = 2 if wire.http else 1000  # where the request is a URL
    request = pb.ListProjectsRequest(sort_by=["ß" * 1000] * 3, sort_direction=["💥\n" * 1000] * many)
    with pytest.raises(InvalidArgumentException) as caught:
        stub.ListProjects(request)
    assert 1 <= len(caught.value.violations) <= 10
    assert caught.value.details().startswith("sort_by: is")
