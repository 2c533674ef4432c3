"""Submitting operations, what becomes of them, and who may ask."""

from __future__ import annotations

import base64
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc import code_pb2

from neptune_api import exceptions
from neptune_api.conformance.lab import Lab, Refusal
from neptune_api.conformance.logging_helpers import another_project
from neptune_api.conformance.operations import append, assign, create, snapshot, update
from neptune_api.conformance.outcomes import counts_of_status
from neptune_api.conformance.people import outsider, refused
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.ingest_service_pb2 import GetRequestStatusRequest
from neptune_api.v1.projects_service_pb2 import (
    DeleteProjectMemberRequest,
    DeleteProjectRequest,
    GetProjectDetailsRequest,
)
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MANAGER, PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.people import Host, Person
    from neptune_api.v1.roles_pb2 import ProjectRole

MIB = 1024 * 1024
UNKNOWN = [{"INTERNAL": 1}]


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


# Accepting


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (pb.RunOperation(), "project"),
        (pb.RunOperation(run_id="run", create=pb.CreateRun()), "project"),
        (create(run=""), "run_id"),
        (pb.RunOperation(project="local/lab", run_id="run"), "operation"),
    ],
)
def test_an_incomplete_operation_is_not_accepted(lab: Lab, operation: pb.RunOperation, field: str) -> None:
    refused(exceptions.InvalidArgumentException, lambda: lab.submit(operation), reason="BAD_REQUEST", fields=[field])


def test_an_operation_of_16_mib_and_no_more(lab: Lab) -> None:
    lab.apply_one(create())
    operation = lab.placed(update(*(snapshot(assign={f"a{number}": "x" * MIB}) for number in range(15))))
    operation.api_key = b""
    operation.api_key = b"x" * (16 * MIB - operation.ByteSize() - 2)  # its length takes two bytes more than that of b""
    assert operation.ByteSize() == 16 * MIB
    assert lab.apply_one(operation) == {"OK": 15}
    operation.api_key += b"x"
    with pytest.raises(exceptions.ResourceExhaustedException, match=r"16,777,217 bytes, the limit is 16,777,216"):
        lab.submit(operation)


def test_the_id_comes_in_both_fields(lab: Lab) -> None:
    response = lab.ingest.Submit(lab.placed(create()))
    assert response.request_id
    assert list(response.request_ids) == [response.request_id]


@pytest.mark.parametrize("kind", ["update", "update_batch"])
def test_a_snapshot_alone_or_in_a_batch(lab: Lab, kind: str) -> None:
    operation = update(snapshot({"m": 1.0}, 1, assign={"a": 1}))
    if kind == "update":
        operation.update.CopyFrom(operation.update_batch.snapshots[0])
    assert lab.apply(create(), operation) == [{"OK": 1}, {"OK": 2}]
    assert lab.user_values("run") == {"a": 1}
    assert [point.value for point in lab.floats("run", "m")] == [1.0]


# Statuses


def one(lab: Lab, request_id: str) -> GetRequestStatusRequest:
    return GetRequestStatusRequest(project_identifier=lab.project, request_id=request_id)


def test_statuses_come_in_the_order_asked_for(lab: Lab) -> None:
    ids = [lab.submit(operation) for operation in (create(), create(), assign({"": 1}), assign({"a": 1, "b": 2}))]
    results = [{"OK": 1}, {"RUN_DUPLICATE": 1}, {"FIELD_PATH_EMPTY": 1}, {"OK": 2}]
    assert lab.results(ids) == results
    assert lab.results(ids[::-1]) == results[::-1]
    assert lab.results([ids[1], "unknown", ids[1], ids[0]]) == [results[1], *UNKNOWN, results[1], results[0]]
    assert lab.statuses([]) == []


def test_an_unknown_request(lab: Lab) -> None:
    for status in (*lab.statuses([uuid.uuid4().hex]), lab.ingest.GetRequestStatus(one(lab, "no such id"))):
        (item,) = status.code_by_count
        assert (item.code, item.count, item.detail) == (code_pb2.NOT_FOUND, 1, pb.INGEST_CODE_INTERNAL)
        assert status.shared_error_message == "There is no such request, or it is not yours to see."
    assert lab.details(uuid.uuid4().hex) == []


def test_a_status_needs_an_id(lab: Lab) -> None:
    call = lambda: lab.ingest.GetRequestStatus(one(lab, ""))  # noqa: E731 # `refused` takes a function
    refused(exceptions.InvalidArgumentException, call, reason="BAD_REQUEST", fields=["request_id"])


def test_as_many_statuses_as_the_limit_and_no_more(lab: Lab) -> None:
    ids = [lab.submit(create()), *["unknown"] * 9_998]
    ids.append(lab.submit(create()))
    assert lab.results(ids) == [{"OK": 1}, *UNKNOWN * 9_998, {"RUN_DUPLICATE": 1}]
    with pytest.raises(exceptions.InvalidArgumentException, match=r"10,001 ids; ask for at most 10,000"):
        lab.statuses([*ids, "unknown"])


# Whose requests


def everything_of(lab: Lab, request_id: str) -> list[Any]:
    return [
        *map(counts_of_status, lab.statuses([request_id])),
        counts_of_status(lab.ingest.GetRequestStatus(one(lab, request_id))),
        lab.refusals(request_id),
    ]


def test_who_may_know_what_became_of_a_request(
    lab: Lab, wire: Wire, server: Host, make_user: Callable[..., Person]
) -> None:
    lab.apply_one(create())
    request_id = lab.submit(assign({"": 1}))
    lab.settled([request_id])
    known = [{"FIELD_PATH_EMPTY": 1}] * 2 + [[Refusal("", "FIELD_PATH_EMPTY")]]
    assert everything_of(lab, request_id) == known
    viewer = Lab(wire.connect(make_user(lab.project, PROJECT_ROLE_VIEWER).api_token), lab.project)
    assert everything_of(viewer, request_id) == known
    for nobody in (make_user(), outsider(server)):
        stranger = Lab(wire.connect(nobody.api_token), lab.project)
        assert everything_of(stranger, request_id) == [*UNKNOWN * 2, []]
    elsewhere = Lab(viewer.connection, another_project(lab.connection, lab.project))
    assert everything_of(elsewhere, request_id) == [*UNKNOWN * 2, []]


def test_a_request_stays_its_senders(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    user = make_user(lab.project, PROJECT_ROLE_MEMBER)
    member = Lab(wire.connect(user.api_token), lab.project)
    request_id = member.submit(create())
    assert member.results([request_id]) == [{"OK": 1}]
    lab.connection.stub(ProjectsServiceStub).DeleteProjectMember(
        DeleteProjectMemberRequest(project_identifier=lab.project, user_id=user.name)
    )
    assert everything_of(member, request_id) == [{"OK": 1}, {"OK": 1}, []]
    assert list(map(counts_of_status, member.statuses([request_id], project=""))) == [{"OK": 1}]


@pytest.mark.parametrize(
    ("role", "may_write"),
    [(PROJECT_ROLE_VIEWER, False), (PROJECT_ROLE_MEMBER, True), (PROJECT_ROLE_MANAGER, True)],
)
def test_who_may_write(
    lab: Lab, wire: Wire, make_user: Callable[..., Person], role: ProjectRole.ValueType, may_write: bool
) -> None:
    user = make_user(lab.project, role)
    theirs = Lab(wire.connect(user.api_token), lab.project)
    if may_write:
        assert theirs.apply(create(), append({"m": 1.0}, 1)) == [{"OK": 1}] * 2
        assert lab.values("run")["sys/owner"] == user.name
    else:
        refused(exceptions.PermissionDeniedException, lambda: theirs.submit(create()), reason="ACCESS_DENIED")
        assert lab.apply_one(create()) == {"OK": 1}


def test_those_who_do_not_see_a_project_cannot_tell_it_from_none(
    lab: Lab, wire: Wire, server: Host, make_user: Callable[..., Person]
) -> None:
    for user in (make_user(), outsider(server)):
        stranger = Lab(wire.connect(user.api_token), lab.project)
        assert stranger.apply(create(), create(project="local/unknown")) == [{"PROJECT_NOT_FOUND": 1}] * 2
    assert lab.apply_one(assign({"a": 1})) == {"RUN_NOT_FOUND": 1}


# Details


@pytest.fixture
def refusing(lab: Lab) -> tuple[list[str], list[str]]:
    """Return requests, and the paths refused in them in order."""
    lab.apply_one(create())
    paths = [[f"sys/{request}-{number:02}" for number in range(count)] for request, count in enumerate((25, 0, 10, 1))]
    ids = [lab.submit(update(*(snapshot(assign={path: 1}) for path in ["ok", *group]))) for group in paths]
    lab.settled(ids)
    return ids, [path for group in paths for path in group]


@pytest.mark.parametrize("limit", [1, 7, 25, 26, 35, 36, 10_000])
def test_details_in_pages(lab: Lab, refusing: tuple[list[str], list[str]], limit: int) -> None:
    ids, paths = refusing
    found: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        page = lab.details_page(ids, cursor=cursor, limit=limit)
        found += [item.path for item in page.details]
        pages += 1
        if not page.next_cursor:
            break
        assert len(page.details) == limit
        cursor = page.next_cursor
    assert found == paths
    assert pages == max(1, -(-len(paths) // limit))


def test_details_name_their_request(lab: Lab, refusing: tuple[list[str], list[str]]) -> None:
    ids, paths = refusing
    details = lab.details(*ids)
    assert [item.request_id.value for item in details] == [ids[0]] * 25 + [ids[2]] * 10 + [ids[3]]
    assert [item.path for item in lab.details(ids[3], ids[0])] == [paths[-1], *paths[:25]]


@pytest.mark.parametrize(
    "cursor", ["x", "!!!", "ł", "0.0", *(base64.b64encode(text).decode() for text in (b"4.0", b"-1.0", b"0.-1", b"0"))]
)
def test_a_bad_cursor(lab: Lab, refusing: tuple[list[str], list[str]], cursor: str) -> None:
    call = lambda: lab.details_page(refusing[0], cursor=cursor)  # noqa: E731 # as above
    refused(exceptions.InvalidArgumentException, call, reason="BAD_REQUEST", fields=["check.next_cursor"])


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_bad_limit(lab: Lab, limit: int) -> None:
    call = lambda: lab.details_page(["unknown"], limit=limit)  # noqa: E731 # as above
    refused(exceptions.InvalidArgumentException, call, reason="BAD_REQUEST", fields=["check.limit"])


def test_details_of_as_many_requests_as_the_limit_and_no_more(lab: Lab) -> None:
    assert lab.details(*["unknown"] * 1000) == []
    with pytest.raises(exceptions.InvalidArgumentException, match=r"1,001 ids; ask for at most 1,000"):
        lab.details(*["unknown"] * 1001)


# Partial failure


def test_one_bad_point_in_ten_thousand(lab: Lab) -> None:
    lab.apply_one(create())
    count, bad = 10_000, 6_789
    snapshots = [snapshot({"m": float(number)}, number) for number in range(count)]
    snapshots[bad].step.micro = 1_000_000
    request_id = lab.submit(update(*snapshots))
    assert lab.results([request_id]) == [{"OK": 9_999, "SERIES_STEP_INVALID": 1}]
    assert lab.refusals(request_id) == [Refusal("m", "SERIES_STEP_INVALID")]
    points = lab.floats("run", "m")
    assert [point.value for point in points] == [float(number) for number in range(count) if number != bad]


def test_faults_of_many_kinds_in_one_request(lab: Lab) -> None:
    lab.apply(create(), assign({"text": "x"}))
    request_id = lab.submit(
        update(
            snapshot({"m": 1.0, "": 1.0, "text": 1.0}, 1, assign={"sys/id": "x", "a": 1}),
            snapshot({"m": 1.0, "n": 1.0, "sys/m": 1.0}, 1, assign={"a": "now a text"}),
            snapshot({"m": 0.5, "n": 2.0}, 10**12),
        )
    )
    assert lab.results([request_id]) == [
        {
            "OK": 3,
            "FIELD_PATH_EMPTY": 1,
            "FIELD_PATH_NON_WRITABLE": 2,
            "FIELD_TYPE_CONFLICTING": 2,
            "SERIES_POINT_DUPLICATE": 1,
            "SERIES_STEP_TOO_LARGE": 2,
        }
    ]
    assert len(lab.details(request_id)) == 8
    assert lab.user_values("run") == {"a": 1, "text": "x"}
    assert [point[::2] for point in lab.floats("run", "m") + lab.floats("run", "n")] == [(1.0, 1.0)] * 2


# Sending again


def test_the_same_key_is_the_same_request(lab: Lab) -> None:
    key = uuid.uuid4().hex
    lab.apply_one(create())
    first = lab.submit(append({"m": 1.0}), key)  # without a step: applied twice, it would be two points
    again = [lab.submit(append({"m": 1.0}), key) for _ in range(3)]
    assert again == [first] * 3
    assert lab.results([first]) == [{"OK": 1}]
    assert lab.submit(append({"m": 1.0}), key) == first
    assert [point.step for point in lab.floats("run", "m")] == [0]
    assert lab.submit(append({"m": 1.0}), key + "2") != first


def test_the_same_key_of_another_user_is_another_request(
    lab: Lab, wire: Wire, make_user: Callable[..., Person]
) -> None:
    key = uuid.uuid4().hex
    member = Lab(wire.connect(make_user(lab.project).api_token), lab.project)
    ids = [lab.submit(create(), key), member.submit(create(), key)]
    assert ids[0] != ids[1]
    assert lab.results(ids) == [{"OK": 1}, {"RUN_DUPLICATE": 1}]


def test_calls_without_a_key_are_requests_of_their_own(lab: Lab) -> None:
    assert lab.apply(create(), create()) == [{"OK": 1}, {"RUN_DUPLICATE": 1}]


@pytest.mark.parametrize(("size", "is_taken"), [(128, True), (129, False)])
def test_a_key_has_128_bytes_at_most(lab: Lab, size: int, is_taken: bool) -> None:
    key = uuid.uuid4().hex.ljust(size, "x")
    if is_taken:
        assert lab.submit(create(), key) == lab.submit(create(), key)
    else:
        with pytest.raises(exceptions.InvalidArgumentException, match="more than 128 bytes"):
            lab.submit(create(), key)


# Projects


def test_a_missing_project_is_created_on_request(wire: Wire, server: Host, make_user: Callable[..., Person]) -> None:
    project = f"{server.workspace}/p-{uuid.uuid4().hex}"
    user = make_user()
    lab = Lab(wire.connect(user.api_token), project)
    operation = create(project=project)
    assert lab.apply_one(operation) == {"PROJECT_NOT_FOUND": 1}
    operation.create_missing_project = True
    assert lab.apply(operation, operation, assign({"a": 1})) == [{"OK": 1}, {"RUN_DUPLICATE": 1}, {"OK": 1}]
    details = lab.connection.stub(ProjectsServiceStub).GetProjectDetails(
        GetProjectDetailsRequest(project_identifier=project)
    )
    assert details.user_role_in_project == PROJECT_ROLE_MANAGER
    assert lab.values("run")["sys/owner"] == user.name


def test_a_missing_project_is_not_created_for_an_outsider(lab: Lab, wire: Wire, server: Host) -> None:
    project = f"{server.workspace}/p-{uuid.uuid4().hex}"
    stranger = Lab(wire.connect(outsider(server).api_token), project)
    operation = create(project=project)
    operation.create_missing_project = True
    assert stranger.apply_one(operation) == {"PROJECT_NOT_FOUND": 1}
    hidden = stranger.placed(create(project=lab.project))
    hidden.create_missing_project = True
    assert stranger.apply_one(hidden) == {"PROJECT_NOT_FOUND": 1}
    operation.create_missing_project = False
    assert Lab(lab.connection, project).apply_one(operation) == {"PROJECT_NOT_FOUND": 1}


def test_a_name_that_no_project_can_have_is_not_created(lab: Lab, server: Host) -> None:
    operation = create(project=f"{server.workspace}/a b")
    operation.create_missing_project = True
    assert lab.apply_one(operation) == {"PROJECT_INVALID_NAME": 1}


def test_the_flag_does_no_harm_to_a_project_that_exists(lab: Lab, wire: Wire, make_user: Callable[..., Person]) -> None:
    operation = lab.placed(create())
    operation.create_missing_project = True
    assert lab.apply_one(operation) == {"OK": 1}
    viewer = Lab(wire.connect(make_user(lab.project, PROJECT_ROLE_VIEWER).api_token), lab.project)
    refused(exceptions.PermissionDeniedException, lambda: viewer.submit(operation), reason="ACCESS_DENIED")


def test_a_deleted_project_takes_its_requests_with_it(lab: Lab) -> None:
    lab.apply_one(create())
    request_id = lab.submit(assign({"a": 1}))
    assert lab.results([request_id]) == [{"OK": 1}]
    lab.connection.stub(ProjectsServiceStub).DeleteProject(DeleteProjectRequest(project_identifier=lab.project))
    assert lab.results([request_id]) == UNKNOWN
    assert lab.apply(assign({"a": 1}), create()) == [{"PROJECT_NOT_FOUND": 1}] * 2
    operation = lab.placed(create())
    operation.create_missing_project = True
    assert lab.apply(assign({"a": 1}), operation) == [{"PROJECT_NOT_FOUND": 1}, {"OK": 1}]
    assert lab.user_values("run") == {}


def test_projects_are_apart(lab: Lab) -> None:
    other = Lab(lab.connection, another_project(lab.connection, lab.project))
    assert lab.apply(create(), assign({"a": 1})) == [{"OK": 1}] * 2
    assert other.apply(assign({"a": 1}), create(), assign({"a": "x"})) == [{"RUN_NOT_FOUND": 1}, {"OK": 1}, {"OK": 1}]
    assert (lab.user_values("run"), other.user_values("run")) == ({"a": 1}, {"a": "x"})


# Many at once


def test_several_writers_to_one_run(lab: Lab, wire: Wire) -> None:
    labs = [Lab(wire.connect(), lab.project) for _ in range(4)]

    def write(number: int) -> list[dict[str, int]]:
        theirs = labs[number]
        operations = [create(), *(append({f"m{number}": float(step), "last": 1.0}, step) for step in range(20))]
        ids = [theirs.submit(theirs.placed(operation)) for operation in operations]
        return theirs.results(ids)

    with ThreadPoolExecutor(len(labs)) as pool:
        results = list(pool.map(write, range(len(labs))))
    assert sorted(str(result[0]) for result in results) == ["{'OK': 1}"] + ["{'RUN_DUPLICATE': 1}"] * 3
    for number in range(len(labs)):
        assert [point.step for point in lab.floats("run", f"m{number}")] == list(range(20))
    # The series that all wrote to has each step once, the highest included; who came late was told so.
    last = [point.step for point in lab.floats("run", "last")]
    assert last == sorted(set(last))
    assert last[-1] == 19
    codes = {code for result in results for counts in result for code in counts}
    assert codes <= {"OK", "RUN_DUPLICATE", "SERIES_POINT_DUPLICATE", "SERIES_STEP_NON_INCREASING"}


def test_what_is_done_can_be_read(lab: Lab) -> None:
    lab.apply_one(create())
    for number in range(20):
        (status,) = lab.settled([lab.submit(append({"m": float(number)}, number))])
        assert counts_of_status(status) == {"OK": 1}
        assert lab.floats("run", "m")[-1].value == number
