"""Every IngestCode: when it comes, what goes with it, and that the change beside it is applied."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from neptune_api.conformance.lab import Lab
from neptune_api.conformance.operations import (
    START_MS,
    append,
    assign,
    change,
    counts,
    create,
    densities,
    file,
    snapshot,
    timestamp,
    update,
    value,
)
from neptune_api.conformance.outcomes import name_of
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.projects_service_pb2 import ProjectUpdate, UpdateProjectRequest
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api.conformance.connections import Wire
    from neptune_api.conformance.operations import Plain
    from neptune_api.conformance.people import Host

MIB = 1024 * 1024
NEVER = {
    "BATCH_CONTAINS_DEPENDENT_RUNS": "only the official internal batch API creates several runs in one operation",
    "FLOAT_VALUE_NAN_INF_UNSUPPORTED": "NaN and infinities are values",
}
GRPC_CODES = {
    "OK": code_pb2.OK,
    "PROJECT_NOT_FOUND": code_pb2.NOT_FOUND,
    "RUN_NOT_FOUND": code_pb2.NOT_FOUND,
    "RUN_DUPLICATE": code_pb2.ALREADY_EXISTS,
    "RUN_CONFLICTING": code_pb2.ALREADY_EXISTS,
    "RUN_FORK_PARENT_NOT_FOUND": code_pb2.NOT_FOUND,
    "SERIES_POINT_DUPLICATE": code_pb2.ALREADY_EXISTS,
    "DATETIME_VALUE_OUT_OF_RANGE": code_pb2.OUT_OF_RANGE,
    "INGEST_SUSPENDED": code_pb2.FAILED_PRECONDITION,
    "INTERNAL": code_pb2.INTERNAL,
}
WHOLE_REQUEST = {
    "PROJECT_NOT_FOUND",
    "PROJECT_INVALID_NAME",
    "RUN_NOT_FOUND",
    "RUN_CONFLICTING",
    "RUN_INVALID_CREATION_PARAMETERS",
    "INGEST_SUSPENDED",
    "INTERNAL",
}


@pytest.fixture
def lab(wire: Wire, identifier: str) -> Lab:
    return Lab(wire.connect(), identifier)


@dataclass(frozen=True)
class Case:
    """An operation after others in which a number of changes is applied and one path, or more, refused with a code."""

    id: str
    code: str
    operation: pb.RunOperation
    before: Sequence[pb.RunOperation] = ()
    accepted: int = 0
    paths: Sequence[str] = ("bad",)
    sentence: str = field(default=" ")
    """What the sentence has to say: the limit, mostly."""


def points(bad: Plain, **others: Plain) -> pb.RunOperation:
    return append({"bad": bad, **others}, 1)


def at(bad: pb.Step, good: pb.Step) -> pb.RunOperation:
    return update(snapshot({"good": 1.0}, good), snapshot({"bad": 1.0}, bad))


def assigned(path: str, plain: Plain = 1) -> pb.RunOperation:
    return assign({path: plain, "good": plain})


def whole(code: str, case_id: str, operation: pb.RunOperation, *before: pb.RunOperation, sentence: str = " ") -> Case:
    """Return a case in which a whole operation is refused."""
    return Case(f"{code.lower()}-{case_id}", code, operation, before, paths=("",), sentence=sentence)


def invalid(case_id: str, *, run: str = "new", sentence: str, **fields: object) -> Case:
    """Return a case in which a run is not created, because of one field of CreateRun."""
    operation = pb.RunOperation(project="local/lab", run_id=run, create=pb.CreateRun(**fields))  # type: ignore[arg-type]  # the fields are those of the cases below
    return whole("RUN_INVALID_CREATION_PARAMETERS", case_id, operation, sentence=sentence)


def fork(**fields: object) -> pb.ForkPoint:
    return pb.ForkPoint(**{"parent_run_id": "run", **fields})  # type: ignore[arg-type]  # as above


CASES = [
    whole("PROJECT_NOT_FOUND", "name", assign({"a": 1}, project="local/unknown"), sentence="create it first"),
    whole("PROJECT_NOT_FOUND", "workspace", create(project="unknown/lab")),
    whole("PROJECT_NOT_FOUND", "longest-name", create(project="local/" + "x" * 128)),
    whole("PROJECT_NOT_FOUND", "uuid", create(project=str(uuid.UUID(int=7)))),
    whole("PROJECT_INVALID_NAME", "no-name", create(project="local/"), sentence="1 to 128"),
    whole("PROJECT_INVALID_NAME", "no-workspace", create(project="/lab")),
    whole("PROJECT_INVALID_NAME", "no-slash", create(project="lab")),
    whole("PROJECT_INVALID_NAME", "two-slashes", create(project="local/a/b")),
    whole("PROJECT_INVALID_NAME", "space", create(project="local/a b")),
    whole("PROJECT_INVALID_NAME", "too-long", create(project="local/" + "x" * 129), sentence="128"),
    whole("RUN_NOT_FOUND", "update", assign({"a": 1}, run="unknown"), sentence="create it first"),
    whole("RUN_NOT_FOUND", "other-case", assign({"a": 1}, run="RUN")),
    whole("RUN_DUPLICATE", "same", create()),
    whole("RUN_DUPLICATE", "other-experiment-and-time", create(experiment="e", created=1, inherit=True)),
    whole("RUN_CONFLICTING", "family", create(family="other")),
    whole("RUN_CONFLICTING", "fork-point", create(parent="unknown")),
    invalid("run-id", run="x" * 731, sentence="731 bytes of UTF-8; the limit is 730"),
    invalid("run-id-bytes", run="ł" * 365 + "x", sentence="730"),
    invalid("run-id-slash", run="a/b", sentence="'/'"),
    invalid("run-id-nul", run="a\0b", sentence="NUL"),
    invalid("inner-run-id", run_id="other", sentence="differ"),
    invalid("family", family="f" * 731, sentence="730"),
    invalid("experiment", experiment_id="ł" * 366, sentence="732 bytes"),
    invalid("parent-missing", fork_point=pb.ForkPoint(), sentence="no parent"),
    invalid("parent-id", fork_point=fork(parent_run_id="p" * 731), sentence="730"),
    invalid("parent-project", fork_point=fork(parent_project="local/other"), sentence="same project"),
    invalid("fork-step", fork_point=fork(step=pb.Step(whole=10**12)), sentence="1,000,000,000,000"),
    invalid("fork-micro", fork_point=fork(step=pb.Step(micro=10**6)), sentence="1,000,000"),
    invalid("owner", owner=pb.Owner(user_id="somebody"), sentence="owner"),
    invalid("service-account", owner=pb.Owner(service_account_id="ci@local"), sentence="owner"),
    invalid("creation-time", creation_time=Timestamp(seconds=10_413_792_000), sentence="2299-12-31"),
    Case("run_fork_parent_not_found", "RUN_FORK_PARENT_NOT_FOUND", create("new", parent="unknown"), paths=("",)),
    Case(
        "path-size",
        "FIELD_PATH_EXCEEDS_SIZE_LIMIT",
        assign({"p" * 1025: 1, "p" * 1024: 1}),
        accepted=1,
        paths=("p" * 1025,),
        sentence="1,024",
    ),
    Case(
        "path-size-bytes",
        "FIELD_PATH_EXCEEDS_SIZE_LIMIT",
        append({"ł" * 512 + "p": 1.0, "ł" * 512: 1.0}, 1),
        accepted=1,
        paths=("ł" * 512 + "p",),
    ),
    Case("path-empty-assign", "FIELD_PATH_EMPTY", assigned("", file("f")), accepted=1, paths=("",)),
    Case("path-empty-append", "FIELD_PATH_EMPTY", append({"": file("f"), "good": 1.0}, 1), accepted=1, paths=("",)),
    Case("path-empty-set", "FIELD_PATH_EMPTY", update(snapshot(sets={"": change(add=["x"])})), accepted=0, paths=("",)),
    Case("path-nul", "FIELD_PATH_INVALID", assigned("a\0b"), accepted=1, paths=("a\0b",), sentence="NUL"),
    Case("path-sys", "FIELD_PATH_NON_WRITABLE", assigned("sys/id", "X-1"), accepted=1, paths=("sys/id",)),
    Case("path-sys-new", "FIELD_PATH_NON_WRITABLE", assigned("sys/mine"), accepted=1, paths=("sys/mine",)),
    Case("path-sys-series", "FIELD_PATH_NON_WRITABLE", append({"sys/m": 1.0, "good": 1.0}, 1), (), 1, ("sys/m",)),
    Case("type-assign-nothing", "FIELD_TYPE_UNSUPPORTED", assigned("bad", pb.Value()), paths=("bad", "good")),
    Case("type-assign-histogram", "FIELD_TYPE_UNSUPPORTED", assign({"bad": counts([0, 1], [1]), "good": 1}), (), 1),
    Case("type-append-nothing", "FIELD_TYPE_UNSUPPORTED", points(pb.Value(), good=1.0), (), 1),
    Case("type-append-int", "FIELD_TYPE_UNSUPPORTED", points(1, good=1.0), (), 1),
    Case("type-append-bool", "FIELD_TYPE_UNSUPPORTED", points(True, good="x"), (), 1),
    Case("type-append-time", "FIELD_TYPE_UNSUPPORTED", points(timestamp(0), good=file("x")), (), 1),
    Case("type-append-set", "FIELD_TYPE_UNSUPPORTED", points(frozenset({"x"}), good=counts([0, 1], [1])), (), 1),
    Case("type-set-nothing", "FIELD_TYPE_UNSUPPORTED", update(snapshot(sets={"bad": pb.ModifySet()}))),
    Case("type-preview", "FIELD_TYPE_UNSUPPORTED", append({"bad": "text", "good": 1.0}, 1, preview=0.5), (), 1),
    Case("type-changed", "FIELD_TYPE_CONFLICTING", assign({"bad": 1.0, "good": 2}), [assign({"bad": 1})], 1),
    Case("type-single-to-series", "FIELD_TYPE_CONFLICTING", points(1.0, good=1.0), [assign({"bad": 1.0})], 1),
    Case("type-series-to-single", "FIELD_TYPE_CONFLICTING", assign({"bad": 1.0, "good": 1.0}), [points(1.0)], 1),
    Case("type-series-to-series", "FIELD_TYPE_CONFLICTING", append({"bad": "x", "good": "x"}, 2), [points(1.0)], 1),
    Case(
        "type-set-of-text",
        "FIELD_TYPE_CONFLICTING",
        update(snapshot(sets={"bad": change(add=["x"]), "good": change(add=["x"])})),
        [assign({"bad": "x"})],
        1,
    ),
    Case("type-of-tags", "FIELD_TYPE_CONFLICTING", assigned("sys/tags", "x"), (), 1, ("sys/tags",)),
    Case("type-of-failed", "FIELD_TYPE_CONFLICTING", assigned("sys/failed", 1), (), 1, ("sys/failed",)),
    Case(
        "type-of-description",
        "FIELD_TYPE_CONFLICTING",
        append({"sys/description": "x"}, 1),
        (),
        0,
        ("sys/description",),
    ),
    Case("duplicate-float", "SERIES_POINT_DUPLICATE", points(1.0, good=1.0), [points(1.0)], 1),
    Case("duplicate-nan", "SERIES_POINT_DUPLICATE", points(math.nan, good=1.0), [points(math.nan)], 1),
    Case("duplicate-text", "SERIES_POINT_DUPLICATE", points("x", good="x"), [points("x")], 1),
    Case("duplicate-file", "SERIES_POINT_DUPLICATE", points(file("x"), good=file("x")), [points(file("x"))], 1),
    Case("duplicate-histogram", "SERIES_POINT_DUPLICATE", points(counts([0, 1], [1])), [points(counts([0, 1], [1]))]),
    Case("duplicate-older", "SERIES_POINT_DUPLICATE", points(1.0, good=1.0), [points(1.0), append({"bad": 2.0}, 2)], 1),
    Case(
        "duplicate-older-file",
        "SERIES_POINT_DUPLICATE",
        points(file("x"), good=file("x")),
        [points(file("x")), append({"bad": file("y")}, 2, START_MS + 1)],
        1,
    ),
    Case("step-before", "SERIES_STEP_NON_INCREASING", points(2.0, good=1.0), [append({"bad": 1.0}, 1.000001)], 1),
    Case("step-equal", "SERIES_STEP_NON_INCREASING", points(2.0, good=1.0), [points(1.0)], 1),
    Case("step-equal-text", "SERIES_STEP_NON_INCREASING", points("y", good="x"), [points("x")], 1),
    Case(
        "step-of-fork",
        "SERIES_STEP_NOT_AFTER_FORK_POINT",
        update(
            snapshot({"bad": 1.0}, 1.999999),
            snapshot({"bad": file("x")}, 2),
            snapshot({"good": 1.0}, 2.000001),
            run="child",
        ),
        [create("child", parent="run", at=2)],
        1,
        ("bad", "bad"),
    ),
    Case(
        "timestamp",
        "SERIES_TIMESTAMP_DECREASING",
        append({"bad": 2.0, "good": 1.0}, 2, START_MS - 1),
        [points(1.0)],
        1,
    ),
    Case(
        "timestamp-file",
        "SERIES_TIMESTAMP_DECREASING",
        append({"bad": file("y"), "good": file("y")}, 0, START_MS - 1),
        [points(file("x"))],
        1,
    ),
    Case(
        "datetime-before",
        "DATETIME_VALUE_OUT_OF_RANGE",
        assign({"bad": timestamp(-2_208_988_800_001), "good": timestamp(-2_208_988_800_000)}),
        (),
        1,
        sentence="1900-01-01",
    ),
    Case(
        "datetime-after",
        "DATETIME_VALUE_OUT_OF_RANGE",
        assign({"bad": timestamp(10_413_792_000_000), "good": timestamp(10_413_791_999_999)}),
        (),
        1,
        sentence="2299-12-31",
    ),
    Case(
        "datetime-of-point",
        "DATETIME_VALUE_OUT_OF_RANGE",
        update(snapshot({"good": 1.0}, 1, 10_413_791_999_999), snapshot({"bad": 1.0}, 1, 10_413_792_000_000)),
        (),
        1,
    ),
    Case("string", "STRING_VALUE_EXCEEDS_SIZE_LIMIT", assign({"bad": "x" * (MIB + 1), "good": "x" * MIB}), (), 1),
    Case(
        "string-bytes",
        "STRING_VALUE_EXCEEDS_SIZE_LIMIT",
        append({"bad": "ł" * (MIB // 2) + "x", "good": "ł" * (MIB // 2)}, 1),
        (),
        1,
        sentence="1,048,576",
    ),
    Case(
        "string-set",
        "STRING_SET_EXCEEDS_SIZE_LIMIT",
        assign({"bad": frozenset({"x" * MIB, "y"}), "good": frozenset({"x" * (MIB - 1), "y"})}),
        (),
        1,
    ),
    Case(
        "string-set-grows",
        "STRING_SET_EXCEEDS_SIZE_LIMIT",
        update(snapshot(sets={"bad": change(add=["y"])}), snapshot(sets={"good": change(add=["y"])})),
        [assign({"bad": frozenset({"x" * MIB}), "good": frozenset({"x" * (MIB - 1)})})],
        1,
        sentence="1,048,576",
    ),
    Case("file", "FILE_REF_EXCEEDS_SIZE_LIMIT", assign({"bad": file("p" * 4087), "good": file("p" * 4086)}), (), 1),
    Case("file-point", "FILE_REF_EXCEEDS_SIZE_LIMIT", points(file("p", 1, "m" * 4096), good=file("p")), (), 1),
    Case(
        "step-too-large",
        "SERIES_STEP_TOO_LARGE",
        at(pb.Step(whole=10**12), pb.Step(whole=10**12 - 1, micro=999_999)),
        (),
        1,
        sentence="1,000,000,000,000",
    ),
    Case(
        "step-invalid",
        "SERIES_STEP_INVALID",
        at(pb.Step(micro=1_000_000), pb.Step(micro=999_999)),
        (),
        1,
        sentence="1,000,000",
    ),
    Case(
        "preview",
        "SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP",
        update(snapshot({"bad": 2.0}, 1, preview=0.5), snapshot({"bad": 2.0}, 1.000001, preview=0.5)),
        [points(1.0)],
        1,
    ),
    Case("nan-edge", "HISTOGRAM_BIN_EDGES_CONTAINS_NAN", points(counts([0, math.nan], [1]), good=1.0), (), 1),
    Case(
        "edges",
        "HISTOGRAM_TOO_MANY_BINS",
        points(counts(range(514), [1] * 513), good=counts(range(513), [1] * 512)),
        (),
        1,
        sentence="513",
    ),
    Case("edges-equal", "HISTOGRAM_BIN_EDGES_NOT_INCREASING", points(densities([0, 0], [1]), good=1.0), (), 1),
    Case("edges-decrease", "HISTOGRAM_BIN_EDGES_NOT_INCREASING", points(counts([0, 2, 1], [1, 1])), (), 0),
    Case("bins-fewer", "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS", points(counts([0, 1, 2], [1]), good=1.0), (), 1),
    Case("bins-more", "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS", points(densities([0, 1], [1, 2])), (), 0),
    Case("bins-none", "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS", points(pb.Histogram(bin_edges=[0, 1])), (), 0),
]
# These take more than an operation; each has a test below.
ALONE = {"INGEST_SUSPENDED", "INTERNAL"}


def test_every_code_is_tested_or_cannot_occur() -> None:
    tested = {case.code for case in CASES} | ALONE | {"OK"}
    assert tested.isdisjoint(NEVER)
    assert tested | set(NEVER) == {name_of(number) for number in pb.IngestCode.values()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_code(lab: Lab, case: Case) -> None:
    assert lab.apply(create(), *case.before) == [{"OK": 1}] + [
        {"OK": sum(len(item.assign) + len(item.append) for item in operation.update_batch.snapshots) or 1}
        for operation in case.before
    ]
    request_id = lab.submit(case.operation)
    (status,) = lab.settled([request_id])
    assert_status(status, case.code, refused=len(case.paths), accepted=case.accepted)
    details = lab.details(request_id)
    assert sorted(item.path for item in details) == sorted(case.paths)
    for detail in details:
        assert name_of(detail.ingest_code) == case.code
        assert detail.request_id.value == request_id
        assert detail.error_detail.endswith(".")
        assert case.sentence in detail.error_detail
    if case.code in WHOLE_REQUEST:
        assert status.shared_error_message == details[0].error_detail
    else:
        assert not status.HasField("shared_error_message")


def assert_status(status: pb.RequestStatus, code: str, *, refused: int, accepted: int) -> None:
    expected = [(code_pb2.OK, accepted, "OK")] if accepted else []
    expected.append((GRPC_CODES.get(code, code_pb2.INVALID_ARGUMENT), refused, code))
    assert [(item.code, item.count, name_of(item.detail)) for item in status.code_by_count] == expected


def test_an_archived_project_takes_nothing(lab: Lab) -> None:
    lab.apply_one(create())
    projects = lab.connection.stub(ProjectsServiceStub)

    def archive(archived: bool) -> None:
        projects.UpdateProject(
            UpdateProjectRequest(project_identifier=lab.project, project_to_update=ProjectUpdate(archived=archived))
        )

    archive(True)
    ids = [lab.submit(create("other")), lab.submit(update(snapshot({"m": 1.0}, 1, assign={"a": 1, "b": 2})))]
    first, second = lab.settled(ids)
    assert_status(first, "INGEST_SUSPENDED", refused=1, accepted=0)
    assert_status(second, "INGEST_SUSPENDED", refused=3, accepted=0)
    assert [item.path for item in lab.details(*ids)] == ["", ""]
    assert "unarchive it" in first.shared_error_message
    assert lab.user_values("run") == {}
    archive(False)
    assert lab.apply(create("other"), assign({"a": 1})) == [{"OK": 1}, {"OK": 1}]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_are_values(lab: Lab, number: float) -> None:
    assert lab.apply(create(), assign({"a": number}), points(number)) == [{"OK": 1}] * 3
    assert repr(lab.user_values("run")["a"]) == repr(number)
    assert [repr(point.value) for point in lab.floats("run", "bad")] == [repr(number)]


@pytest.mark.parametrize(
    "operation",
    [
        create("x" * 730),
        create("ł" * 365),
        create("new", family="f" * 730, experiment="e" * 730),
        create("new", parent="run", at=pb.Step(whole=10**12 - 1, micro=999_999)),
        create("new", created=-2_208_988_800_000),
        pb.RunOperation(
            project="local/lab",
            run_id="new",
            create=pb.CreateRun(run_id="new", owner=pb.Owner(user_id="owner"), fork_point=fork()),
        ),
    ],
    ids=["run-id", "run-id-bytes", "names", "fork-step", "creation-time", "inner-run-id-and-owner"],
)
def test_runs_at_the_limits_are_created(lab: Lab, server: Host, operation: pb.RunOperation) -> None:
    if operation.create.HasField("owner"):
        operation = lab.placed(operation)
        operation.create.owner.user_id = server.username
    assert lab.apply(create(), operation) == [{"OK": 1}] * 2
    assert lab.values(operation.run_id)["sys/custom_run_id"] == operation.run_id


def test_the_parent_project_may_be_named(lab: Lab) -> None:
    operation = lab.placed(create("new", parent="run"))
    operation.create.fork_point.parent_project = lab.project
    assert lab.apply(create(), operation) == [{"OK": 1}] * 2
    assert lab.values("new")["sys/forking/depth"] == 1


def test_an_empty_value_is_a_value(lab: Lab) -> None:
    empty: dict[str, Plain] = {"text": "", "set": frozenset(), "file": pb.FileRef(), "zero": 0, "no": False}
    assert lab.apply(create(), assign(empty), append({"texts": "", "files": value(pb.FileRef())}, 1)) == [
        {"OK": 1},
        {"OK": 5},
        {"OK": 2},
    ]
    assert lab.user_values("run") == {**empty, "set": set()}
