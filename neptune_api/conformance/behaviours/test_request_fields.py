"""Every field of every request has an effect, or an error that names it: nothing is ignored that is not said to be.

The tables in neptune_api.conformance.field_tables have a value for each field; a field without one fails here.
"""

from __future__ import annotations

import difflib
import importlib
import re
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import grpc
import pytest

from neptune_api.cli.surface import Surface
from neptune_api.conformance import operations
from neptune_api.conformance.field_tables import NO_FIELDS, REQUESTS
from neptune_api.conformance.fields import UNKNOWN_NUMBER, Each, Ignored, Later, Set, build, find, patch, paths
from neptune_api.conformance.lab import Lab
from neptune_api.conformance.logging_helpers import log
from neptune_api.conformance.people import colleague, unique
from neptune_api.conformance.project_helpers import create
from neptune_api.credentials import redact
from neptune_api.exceptions import NeptuneApiError
from neptune_api.v1 import auth_service_pb2 as auth
from neptune_api.v1 import projects_service_pb2 as projects
from neptune_api.v1 import runs_service_pb2 as runs
from neptune_api.v1 import users_service_pb2 as users
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MEMBER
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.fields import Descriptor, Request
    from neptune_api.conformance.people import Host, Person

Names = dict[str, str]
REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}
METHODS = {
    f"{name}.{method.name}": method for name, service in Surface().services.items() for method in service.methods
}
STREAMS = {rpc for rpc, method in METHODS.items() if method.client_streaming}
SUBMITS = ("IngestService.Submit", "IngestService.SubmitStream", "IngestService.SubmitAcknowledged")
STATUSES = (
    "IngestService.GetRequestStatus",
    "IngestService.BulkGetRequestStatus",
    "IngestService.BulkGetRequestDetails",
)
APPENDS = ("SeriesService.AppendColumns", "SeriesService.AppendColumnsStream")


# The tables


def values(message: Descriptor) -> Iterator[tuple[str, str]]:
    """Yield path and name of every value of every enum; the first, which is not to say anything, left out."""
    for path in paths(message):
        enum = find(message, path).enum_type
        if enum is not None:
            yield from ((path, value.name) for value in enum.values if value.number)


def test_every_rpc_is_in_the_tables() -> None:
    assert REQUESTS.keys() | NO_FIELDS == METHODS.keys()
    assert not [rpc for rpc in NO_FIELDS if METHODS[rpc].input_type.fields]


@pytest.mark.parametrize("rpc", sorted(REQUESTS))
def test_every_field_is_in_the_tables(rpc: str) -> None:
    """What to do: write a line that shows what the new field does, in the table of its RPC."""
    known = list(paths(METHODS[rpc].input_type))
    listed = [path for request in REQUESTS[rpc] for path in request.fields]
    assert sorted(listed) == sorted(known)
    for path, _ in values(METHODS[rpc].input_type):
        assert any(isinstance(request.fields.get(path), Each) for request in REQUESTS[rpc]), path


# The scene


@dataclass
class Scene:
    """Runs that differ in all that a request can ask for, in one project, and a run in another one."""

    server: Host
    wire: Wire
    connection: Connection
    names: Names

    @property
    def lab(self) -> Lab:
        return Lab(self.connection, self.names["project"])

    @cached_property
    def somebody(self) -> Person:
        """A colleague, who is a member of the project."""
        person = colleague(self.server)
        self.admit(person, self.names["project"])
        return person

    def admit(self, person: Person, project: str) -> None:
        member = projects.NewProjectMember(user_id=person.name, role=PROJECT_ROLE_MEMBER)
        self.connection.stub(ProjectsServiceStub).AddProjectMember(
            projects.AddProjectMemberRequest(project_identifier=project, member=member)
        )


def a_key() -> str:
    return f"K{uuid.uuid4().hex[:7]}".upper()


def lay_out(server: Host, connection: Connection) -> Names:
    """Log the runs and return the names of everything."""
    stub = connection.stub(ProjectsServiceStub)
    mark = uuid.uuid4().hex[:16]
    made = [
        create(
            stub,
            unique(f"fields-{letter}"),
            description=f"{mark}{number}",
            project_key=f"K{uuid.uuid4().hex[:7]}".upper(),
        )
        for letter, number in (("a", "-2"), ("b", ""))
    ]
    project, other = (f"{item.organization_name}/{item.name}" for item in made)
    lab = Lab(connection, project)
    log(
        connection,
        project,
        "root",
        experiment="e",
        configs={
            "count": 1,
            "mark": mark,
            "mixed": "b",
            "rate": 0.5,
            "yes": True,
            "when": operations.timestamp(10**12),
        },
        series={
            "loss": {step: float(step) for step in range(4)},
            "accuracy": {1: 0.5, 2: 0.25},
            "ranked": {0: 0.0, 1: 3.0, 2: 2.0, 3: 50.0, 4: 2.0},
            "log": {0: "zero", 1: "one", 2: "two"},
            "bins": {0: operations.counts([0.0, 1.0], [1])},
            "files": {0: operations.file("a")},
        },
        tags=["there"],
    )
    lab.apply_one(operations.assign({"file": operations.file("b")}, run="root", project=project))
    log(
        connection,
        project,
        "fork",
        experiment="e",
        parent="root",
        at=2,
        configs={"count": 3, "mark": mark, "mixed": 2},
        series={"loss": {3: -3.0, 4: -4.0}, "ranked": {3: 1.0, 4: 1.5}, "log": {3: "three"}, "accuracy": {3: 0.125}},
    )
    log(
        connection,
        project,
        "leaf",
        experiment="f",
        parent="fork",
        at=3,
        configs={"count": 2, "mark": mark, "mixed": 1.0},
        series={"ranked": {4: -9.0, 5: 2.5}},
    )
    log(connection, other, "root", configs={"count": 9}, series={"elsewhere": {0: 9.0}})
    preview = operations.append({"loss": 99.0, "accuracy": 99.0}, 9, preview=0.5, run="fork", project=project)
    assert lab.apply_one(preview) == {"OK": 2}
    for run in ("root", "fork", "leaf"):
        lab.apply_one(operations.assign({"sys/description": run}, run=run, project=project))
    refused = lab.submit(operations.assign({"": 1, "sys/id": "x"}, run="root", project=project))
    lab.settled([refused])
    found = connection.stub(RunsServiceStub).ListRuns(runs.ListRunsRequest(project_identifier=project))
    names = {run.custom_id: f"{project}/{run.short_id}" for run in found.runs}
    return {
        **names,
        "project": project,
        "other": other,
        "workspace": server.workspace,
        "username": server.username,
        "api_token": server.api_token,
        "mark": mark,
        "refused": refused,
    }


_kept: WeakKeyDictionary[Host, Names] = WeakKeyDictionary()


@pytest.fixture
def scene(server: Host, wire: Wire) -> Scene:
    """The scene, on a server of this project the same one for the whole session; elsewhere each test tidies up."""
    connection = wire.connect()
    names = _kept.get(server) or lay_out(server, connection)
    if server.witness is None:
        _kept[server] = names
    return Scene(server, wire, connection, names)


# What an RPC needs anew for each request, and what to look at afterwards


def a_run(scene: Scene, *, trashed: bool = False, archived: bool = False) -> Names:
    new = unique("run")
    log(scene.connection, scene.names["project"], new, tags=["there"])
    stub = scene.connection.stub(RunsServiceStub)
    run = stub.GetRun(runs.GetRunRequest(experiment_id=f"CUSTOM/{scene.names['project']}/{new}"))
    identifier = f"{scene.names['project']}/{run.short_id}"
    if trashed:
        stub.TrashRuns(
            runs.TrashRunsRequest(project_identifier=scene.names["project"], experiment_identifiers=[identifier])
        )
    if archived:
        stub.ArchiveRuns(runs.ArchiveRunsRequest(runs=[identifier]))
    return {"new": identifier, "custom": new}


def a_project(scene: Scene) -> Names:
    names = a_name(scene)
    made = create(scene.connection.stub(ProjectsServiceStub), unique("fresh"), project_key=names["key"])
    return {**names, "fresh": f"{made.organization_name}/{made.name}"}


def a_member(scene: Scene, *, added: bool) -> Names:
    names = a_project(scene)
    if added:
        scene.admit(scene.somebody, names["fresh"])
    return {**names, "colleague": scene.somebody.name}


def a_refused_request(scene: Scene) -> Names:
    """Somebody else's, which therefore only those who may see the project may ask about."""
    lab = Lab(scene.wire.connect(scene.somebody.api_token), scene.names["project"])
    request_id = lab.submit(operations.assign({"x" * 2000: 1, "sys/owner": "x"}, run="root", project=lab.project))
    lab.settled([request_id])
    return {"theirs": request_id}


def a_name(scene: Scene) -> Names:
    return {"new": unique("new"), "missing": f"{scene.server.workspace}/{unique('missing')}", "key": a_key()}


def a_started_run(scene: Scene) -> Names:
    names = a_name(scene)
    scene.lab.apply_one(operations.create(names["new"], project=scene.names["project"]))
    return names


def a_refresh_token(scene: Scene) -> Names:
    stub = scene.wire.connect("").stub(AuthServiceStub)
    return {
        "refresh_token": stub.ExchangeApiToken(
            auth.ExchangeApiTokenRequest(api_token=scene.server.api_token)
        ).refresh_token
    }


PREPARED: dict[str, Callable[[Scene], Names]] = {
    "AuthService.RefreshToken": a_refresh_token,
    "ProjectsService.CreateProject": a_name,
    "ProjectsService.UpdateProject": a_project,
    "ProjectsService.DeleteProject": a_project,
    "ProjectsService.AddProjectMember": lambda scene: a_member(scene, added=False),
    "ProjectsService.UpdateProjectMember": lambda scene: a_member(scene, added=True),
    "ProjectsService.DeleteProjectMember": lambda scene: a_member(scene, added=True),
    "ProjectsService.GetProjectMemberV2": lambda scene: a_member(scene, added=True),
    "RunsService.CreateRun": a_name,
    "RunsService.TrashRuns": a_run,
    "RunsService.RestoreRuns": lambda scene: a_run(scene, trashed=True),
    "RunsService.DeleteRuns": lambda scene: a_run(scene, trashed=True),
    "RunsService.ArchiveRuns": a_run,
    "RunsService.UnarchiveRuns": lambda scene: a_run(scene, archived=True),
    "RunsService.UpdateTagsBulk": a_run,
    "UsersService.CreateUser": a_name,
    **dict.fromkeys(APPENDS, a_started_run),
    **dict.fromkeys(STATUSES, a_refused_request),
}


def state(scene: Scene, request: Any, answer: Any) -> str:
    """Return what became of a request, and what the run that it is about looks like."""
    told = []
    for response in answer if isinstance(answer, list) else [answer]:
        ids = [response.request_id]
        told += [str(status) for status in scene.lab.settled(ids)]
        told += [str(detail) for detail in scene.lab.details(*ids)]
    told += attributes(Lab(scene.connection, request.project), request.run_id)
    return "\n".join(told)


CLOCKED = {"sys/running_time_seconds", "sys/experiment/running_time_seconds", "sys/relative_creation_time_ms"}


def attributes(lab: Lab, run: str) -> list[str]:
    """Return the attributes of a run with the points of its series, as texts; none when there is no run."""
    try:
        found = lab.attributes(run)
    except NeptuneApiError:
        return []
    told = [f"{lab.project}/{run}"]
    for path, item in sorted(found.items()):
        if path in CLOCKED:
            continue
        told.append(str(item))
        if item.type == "floatSeries":
            told += [*map(str, lab.floats(run, path)), *map(str, lab.previews(run, path))]
        elif item.type.endswith("Series"):
            told += map(str, lab.points(run, path))
    return told


def tags(scene: Scene, request: Any, answer: Any) -> str:
    (change,) = request.update_per_project.values()
    stub, told = scene.connection.stub(RunsServiceStub), [str(answer)]
    for identifier in change.experiment_identifiers:
        try:
            run = stub.GetRun(runs.GetRunRequest(experiment_id=identifier))
        except NeptuneApiError:
            continue
        told += attributes(scene.lab, run.custom_id)
    return "\n".join(told)


def created_run(scene: Scene, request: Any, answer: Any) -> str:
    return "\n".join([str(answer), *attributes(Lab(scene.connection, request.project_identifier), answer.custom_id)])


def uploaded(scene: Scene, request: Any, answer: Any) -> str:
    """Return the answer and whether the URL lets one write."""
    (file,) = answer.files
    put = urllib.request.Request(file.url, b"x", method="PUT")
    try:
        with urllib.request.urlopen(put, timeout=30) as response:
            said = response.status
    except urllib.error.HTTPError as error:
        said = error.code
        error.close()
    return f"{answer} PUT {said}"


def created_user(scene: Scene, request: Any, answer: Any) -> str:
    asked = users.ListUsersRequest(username=[answer.user.username])
    return f"{answer} {scene.connection.stub(UsersServiceStub).ListUsers(asked)}"


AFTERWARDS: dict[str, Callable[[Scene, Any, Any], str]] = {
    "RunsService.CreateRun": created_run,
    "RunsService.UpdateTagsBulk": tags,
    "StorageService.CreateSignedUrls": uploaded,
    "UsersService.CreateUser": created_user,
    **dict.fromkeys((*SUBMITS, *APPENDS), state),
}


# Comparing


@dataclass(frozen=True)
class Outcome:
    """What a request led to: a text without what is new each time, or a refusal and its words."""

    text: str
    code: grpc.StatusCode = grpc.StatusCode.OK
    answer: Any = field(default=None, compare=False)

    def names(self, path: str) -> bool:
        """Tell whether a refusal names the field, or a message that it is in."""
        said = re.sub(r"[^a-z]", "", self.text.lower())
        return any(re.sub(r"[^a-z]", "", part.lower()) in said for part in path.split("."))


_NOW = re.compile(r"(?<!\d)1[789]\d{8}(?:\d{3})?(?!\d)")


def plain(text: str, names: Mapping[str, str]) -> str:
    """Return a text without ids, times of now and names that were made for the request."""
    for name in ("new", "custom", "fresh", "missing", "key"):
        if name in names:
            text = text.replace(names[name], f"<{name}>").replace(names[name].rpartition("/")[2], f"<{name}>")
    text = re.sub(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}", "<id>", redact(text))
    text = re.sub(r"\b([A-Z0-9]{1,10})-\d+\b", "<short id>", text)
    # A whole second has no nanos.
    text = re.sub(r"\s*nanos: \d+|X-Amz-\w+=\w+", "", text)
    today = time.time()
    return _NOW.sub(lambda match: "<now>" if abs(int(match[0][:10]) - today) < 86_400 else match[0], text)


def send(scene: Scene, rpc: str, json: Mapping[str, Any]) -> Outcome:
    """Send a request, made anew, and return what it led to."""
    service, _, method = rpc.partition(".")
    names = scene.names | PREPARED.get(rpc, a_name)(scene)
    if rpc in SUBMITS and "create" not in json:
        scene.lab.apply_one(operations.create(names["new"], project=scene.names["project"]))
    message = build(METHODS[rpc].input_type, json, names)
    anonymous = rpc in {"AuthService.ExchangeApiToken", "AuthService.RefreshToken"}
    connection = scene.wire.connect("") if anonymous else scene.connection
    module = importlib.import_module(f"neptune_api.v1.{service.removesuffix('Service').lower()}_service_pb2_grpc")
    call = getattr(connection.stub(getattr(module, f"{service}Stub")), method)
    try:
        answer = call([message] if rpc in STREAMS else message)
    except NeptuneApiError as error:
        fields = " ".join(violation.field for violation in error.violations)
        return Outcome(plain(f"{error.details()} {fields}", names), error.code())
    look = AFTERWARDS.get(rpc)
    said = str(answer) if look is None else look(scene, message, answer)
    return Outcome(plain(said, names), answer=answer)


def make(rpc: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request in JSON, from its fields by path."""
    json: dict[str, Any] = {}
    for part in parts:
        for path, value in part.items():
            patch(json, METHODS[rpc].input_type, path, value)
    return json


def requests(
    scene: Scene, rpc: str, request: Request, path: str, plan: Any, known: dict[str, Outcome]
) -> Iterator[tuple[str, Outcome, Outcome]]:
    """Yield, for each value of a field, what it is, and what came of a request without and with it."""
    given: Mapping[str, Any] = getattr(plan, "given", {})
    if str(given) not in known:
        known[str(given)] = send(scene, rpc, make(rpc, request.base, given))
    before = known[str(given)]
    if isinstance(plan, Each):
        numbers = [value.name for value in find(METHODS[rpc].input_type, path).enum_type.values if value.number]
        chosen: list[Any] = [*numbers, UNKNOWN_NUMBER]
    elif isinstance(plan, Later):
        chosen = [plan.of(before.answer)]
        assert chosen != [""], "there is no later page"
    else:
        chosen = [plan.value if isinstance(plan, Set | Ignored) else plan]
    for value in chosen:
        yield str(value), before, send(scene, rpc, make(rpc, request.base, given, {path: value}))


def difference(before: Outcome, after: Outcome) -> str:
    """Return the lines that differ."""
    old, new = ([outcome.code.name, *outcome.text.splitlines()] for outcome in (before, after))
    lines = difflib.unified_diff(old, new, n=0, lineterm="")
    return "; ".join(line for line in lines if not line.startswith(("---", "+++", "@@")))[:400]


def check(path: str, plan: Any, value: str, before: Outcome, after: Outcome) -> str | None:
    """Return what is wrong with what a value led to."""
    if after.code in REFUSALS and not after.names(path):
        return f"{path} = {value} is refused, but the sentence does not name it: {after.text}"
    is_alike = isinstance(plan, Each) and (value in plan.alike or (plan.tolerated and value == str(UNKNOWN_NUMBER)))
    if isinstance(plan, Ignored) or is_alike:
        return None if after == before else f"{path} = {value} is said to change nothing: {difference(before, after)}"
    if after == before:
        return f"{path} = {value} is ignored: with and without it {after.code.name} {after.text[:200]!r}"
    return None


CASES = [
    pytest.param(rpc, request, id=rpc if len(REQUESTS[rpc]) == 1 else f"{rpc}-{position}")
    for rpc in REQUESTS
    for position, request in enumerate(REQUESTS[rpc])
    if request.fields
]


@pytest.mark.once_per_door
@pytest.mark.parametrize(("rpc", "request_"), CASES)
def test_every_field_has_an_effect_or_an_error_that_names_it(scene: Scene, rpc: str, request_: Request) -> None:
    """A field that is said to be ignored has none of both."""
    first, second = (send(scene, rpc, make(rpc, request_.base)) for _ in range(2))
    assert first == second, f"the same request twice leads to something else: {difference(first, second)}"
    known = {str({}): first}
    wrong = [
        problem
        for path, plan in request_.fields.items()
        for value, before, after in requests(scene, rpc, request_, path, plan, known)
        if (problem := check(path, plan, value, before, after)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_an_unknown_field_is_passed_over(scene: Scene) -> None:
    """Clients may be newer than the server."""
    request = projects.GetProjectRequest(project_identifier=scene.names["project"])
    unknown = runs.ListRunsRequest(page_token="x").SerializeToString()  # field 4, of which this request has none
    call = scene.connection.raw("/neptune_api.v1.ProjectsService/GetProject")
    assert call(request.SerializeToString() + unknown) == call(request.SerializeToString())
