"""The HTTP door, beside the gRPC one: the same answers, in the words of the REST API."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf import message_factory

from neptune_api.http import framing, transcode
from neptune_api.http.errors import decode_error
from neptune_api.http.rules import Format, all_rules
from neptune_api.server.errors import StatusError
from neptune_api.v1 import ingest_pb2 as ingest
from neptune_api.v1 import runs_service_pb2, series_service_pb2
from neptune_api.v1.auth_service_pb2 import AuthorizedUser
from tests.http.caller import PATIENCE, Caller, read
from tests.http.lab import AUTHORIZE, READ_COLUMNS, serving

INGEST = "/api/client/v1/ingest"
PROJECTS = "/api/backend/v1/projects"


def submit(owner: Caller, operation: ingest.RunOperation) -> str:
    reply = owner.post(INGEST, operation.SerializeToString(), headers={"Content-Type": "application/x-protobuf"})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-protobuf")
    answer = ingest.SubmitResponse.FromString(reply.body)
    assert answer.request_id == answer.request_ids[-1]
    return answer.request_id


def wait_applied(owner: Caller, project: str, request_id: str) -> ingest.RequestStatus:
    target = f"{INGEST}/check?projectIdentifier={quote(project, safe='')}"
    body = ingest.RequestIdList(ids=[ingest.RequestId(value=request_id)]).SerializeToString()
    end = time.monotonic() + PATIENCE
    while True:
        reply = owner.post(target, body, headers={"Content-Type": "application/x-protobuf"})
        assert reply.status == 200
        (status,) = ingest.BulkRequestStatus.FromString(reply.body).statuses
        if not any(each.code == grpc.StatusCode.UNAVAILABLE.value[0] for each in status.code_by_count):
            return status
        assert time.monotonic() < end


def test_write_and_read(owner: Caller, project: str) -> None:
    """What is written in one form is read in the others."""
    submit(owner, ingest.RunOperation(project=project, run_id="r", create=ingest.CreateRun(family="r")))
    update = ingest.RunOperation(project=project, run_id="r")
    snapshot = update.update_batch.snapshots.add()
    snapshot.assign["lr"].float64 = 0.5
    snapshot.assign["when"].timestamp.FromMilliseconds(1_700_000_000_123)
    snapshot.append["loss"].float64 = float("nan")
    snapshot.step.whole = 3
    snapshot.timestamp.FromMilliseconds(1_700_000_000_000)
    status = wait_applied(owner, project, submit(owner, update))
    assert {each.code for each in status.code_by_count} == {0}

    target = f"/api/client/v1/runs?projectIdentifier={quote(project, safe='')}"
    (run,) = owner.get(target).json()["runs"]
    assert (run["customId"], run["trashed"]) == ("r", False)
    binary = owner.get(target, headers={"Accept": "application/x-protobuf"})
    (same,) = runs_service_pb2.ListRunsResponse.FromString(binary.body).runs
    assert same.short_id == run["shortId"]

    holder = f"{project}/{run['shortId']}"
    query = {
        "request": {
            "perSeriesPointsLimit": 10,
            "order": "descending",
            "requests": [{"requestId": "0", "series": {"attribute": "loss", "holder": {"identifier": holder}}}],
        }
    }["request"]
    path = "/api/leaderboard/v1/proto/attributes/series/float"
    assert owner.post(path, query).headers["content-type"] == "application/x-protobuf"
    (series,) = owner.post(path, query, headers={"Accept": "application/json"}).json()["series"]
    assert series["series"]["values"] == [
        {"timestampMillis": 1_700_000_000_000, "step": 3.0, "value": "NaN", "isPreview": False, "completionRatio": 1.0}
    ]
    attributes = owner.post(
        f"/api/leaderboard/v1/attributes/attributes?holderIdentifier={quote(holder, safe='')}&holderType=experiment",
        {"attributePathsFilter": ["when", "lr"]},
    ).json()["attributes"]
    found = {each["name"]: each for each in attributes}
    assert found["lr"]["floatProperties"]["value"] == 0.5
    assert found["when"]["datetimeProperties"]["value"] == "2023-11-14T22:13:20.123Z"


def test_operations_in_json(owner: Caller, project: str) -> None:
    reply = owner.post(
        INGEST, {"project": project, "runId": "j", "create": {"family": "j"}}, headers={"Accept": "application/json"}
    )
    assert reply.status == 200
    assert {each.code for each in wait_applied(owner, project, reply.json()["requestId"]).code_by_count} == {0}


def test_defaults_are_written(owner: Caller, project: str) -> None:
    (entry,) = [
        each
        for each in owner.get(f"{PROJECTS}?userRelation=viewerOrHigher&sortBy=lastViewed").json()["entries"]
        if f"local/{each['name']}" == project
    ]
    assert entry["archived"] is False
    assert entry["avatarUrl"] == ""
    assert entry["visibility"] == "priv"
    assert entry["timeOfCreation"].endswith("Z")
    assert "description" not in entry


def test_null_is_absent_and_an_empty_list_is_not(owner: Caller, project: str) -> None:
    path = "/api/leaderboard/v1/leaderboard/attributes/definitions/query"
    body: dict[str, Any] = {"projectIdentifiers": [project], "experimentIdsFilter": None, "nextPage": {}, "unknown": 1}
    wait_applied(
        owner,
        project,
        submit(owner, ingest.RunOperation(project=project, run_id="r", create=ingest.CreateRun(family="r"))),
    )
    everything = owner.post(path, body)
    assert everything.status == 200, everything
    assert {"name": "sys/id", "type": "string"} in everything.json()["entries"]
    assert owner.post(path, {**body, "experimentIdsFilter": []}).json()["entries"] == []
    assert owner.post(path, {**body, "attributeNameFilter": {"mustMatchAny": []}}).json()["entries"] == []


@pytest.mark.parametrize(
    ("verb", "target", "body", "status", "expected"),
    [
        (
            "GET",
            f"{PROJECTS}/get?projectIdentifier=local/none",
            None,
            404,
            {"status": "NOT_FOUND", "title": "Not found"},
        ),
        ("POST", PROJECTS, {"name": "?", "organizationIdentifier": "local"}, 400, {"status": "INVALID_ARGUMENT"}),
        ("POST", PROJECTS, b"{", 400, {"title": "Invalid argument"}),
        ("POST", PROJECTS, b"\xff\xfe{}", 400, {"status": "INVALID_ARGUMENT"}),
        ("POST", PROJECTS, {"name": 5}, 400, {"status": "INVALID_ARGUMENT"}),
        ("GET", "/api/client/v1/runs?projectIdentifier=x&pageSize=a", None, 400, {}),
        ("GET", "/api/backend/v1/projects/members/%ff", None, 400, {"message": "The path of the URL is not in UTF-8."}),
        ("GET", "/", None, 404, {"status": "UNIMPLEMENTED"}),
        ("GET", "/api/backend/v1/nothing", None, 404, {"status": "UNIMPLEMENTED"}),
        ("GET", f"{PROJECTS}/", None, 404, {}),
        ("POST", "/api/leaderboard/v1/proto/leaderboard/entries/search", {}, 404, {}),
        ("PATCH", PROJECTS, {}, 405, {"status": "UNIMPLEMENTED"}),
        ("DELETE", "/healthz", None, 405, {}),
        ("POST", "/api/client/v1/ingest/stream", b"", 422, {"status": "UNIMPLEMENTED"}),
    ],
)
def test_errors(owner: Caller, verb: str, target: str, body: Any, status: int, expected: dict[str, Any]) -> None:
    reply = owner.call(verb, target, body)
    assert reply.status == status, reply
    error = reply.json()
    assert error["code"] == status
    assert error["message"]
    assert {key: error[key] for key in expected} == expected
    if status == 405:
        assert "GET" in reply.headers["allow"]


def test_errors_name_the_field(owner: Caller) -> None:
    reply = owner.call("PUT", f"{PROJECTS}?projectIdentifier=local/p", {"archived": "yes"})
    status = decode_error(reply.status, reply.body)
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "project_to_update.archived: must be true or false, not a text" in status.message
    assert "errorType" not in reply.json()  # the clients of /api/backend/ know none for it
    search = owner.post("/api/leaderboard/v1/leaderboard/attributes/definitions/query", {"nextPage": 5})
    assert search.json()["errorType"] == "BAD_REQUEST"


def test_queries_that_cannot_be_parsed(owner: Caller, project: str) -> None:
    """Clients know them by the title."""
    target = "/api/leaderboard/v1/proto/leaderboard/entries/search/?type=run&projectIdentifier="
    reply = owner.post(f"{target}{quote(project, safe='')}", {"query": {"query": "(`a` :: = 5"}})
    assert (reply.status, reply.json()["title"]) == (400, "Syntax error")
    missing = owner.post(f"{target}local%2Fnowhere", {"attributeFilters": []})
    assert (missing.status, missing.json()["errorType"]) == (403, "ACCESS_DENIED")


def test_taken_names_and_missing_workspaces(owner: Caller, project: str) -> None:
    name = project.partition("/")[2]
    taken = owner.post(PROJECTS, {"name": name, "organizationIdentifier": "local", "description": None})
    assert taken.status == 409
    assert taken.json()["errorType"] == taken.json()["type"] == "PROJECT_NAME_COLLISION"
    nowhere = {"name": name, "organizationIdentifier": "nowhere"}
    plain = owner.post(PROJECTS, nowhere, headers={"Accept": "*/*"})
    assert (plain.status, plain.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert plain.body.startswith(b"Organization nowhere not found")
    assert owner.post(PROJECTS, nowhere, headers={"Accept": "application/json"}).json()["code"] == 404


def test_other_media_types(owner: Caller) -> None:
    reply = owner.post(PROJECTS, b"name=x", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert reply.status == 415
    assert "application/json" in reply.json()["message"]
    assert owner.post(PROJECTS, b"x", headers={"Content-Encoding": "gzip"}).status == 415


def test_hostile_path_values_stay_values(owner: Caller, project: str) -> None:
    (rule,) = all_rules()["/neptune_api.v1.ProjectsService/UpdateProjectMember"]
    request_type: Any = message_factory.GetMessageClass(rule.method.input_type)
    for user in ("../../projects", "a/b?c=d#e", "..", "x:y", "%2e%2e%2f", "\r\nx: y"):
        message = request_type(project_identifier=project, user_id=user)
        message.member.role = 1
        request = transcode.encode_request(rule, message)
        reply = owner.call(request.verb, request.target, request.body, headers=dict(request.headers))
        assert reply.status == 404, reply
        assert "user" in reply.json()["message"].lower()


def test_head(owner: Caller) -> None:
    assert owner.call("HEAD", "/api/leaderboard/").status == 200
    head = owner.call("HEAD", PROJECTS)
    body = owner.get(PROJECTS)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == body.headers["content-length"]
    assert owner.call("HEAD", "/nothing").status == 404


def test_connections_are_kept(owner: Caller) -> None:
    connection = owner.connect()
    for expected in (200, 404, 200, 401, 415, 200):
        headers = {} if expected == 401 else {"Authorization": f"Bearer {owner.access_token}"}
        if expected == 415:
            connection.request("POST", PROJECTS, b"x", {**headers, "Content-Type": "text/plain"})
        else:
            connection.request("GET", "/nothing" if expected == 404 else PROJECTS, headers=headers)
        assert read(connection).status == expected
        assert connection.sock is not None
    connection.close()


def test_a_small_answer_comes_in_one_piece(owner: Caller) -> None:
    with owner.raw() as opened:
        for _ in range(3):
            opened.sendall(b"GET /api/backend/v1/clients/config HTTP/1.1\r\nHost: here\r\n\r\n")
            head, _, body = opened.recv(65_536).partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in head
            assert json.loads(body)["apiUrl"] == "http://here"
        # Two requests at once, and no body at all.
        opened.sendall(b"HEAD /api/leaderboard/ HTTP/1.1\r\nHost: here\r\n\r\n" * 2)
        heads = opened.recv(65_536)
        while heads.count(b"\r\n\r\n") < 2:
            heads += opened.recv(65_536)
        assert heads.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_an_answer_that_breaks_off_shows_what_there_is() -> None:
    async def break_off(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        raise OSError("gone")

    with serving({}, files=break_off, files_prefix="/files") as caller:
        answer = caller.send(b"GET /files/x HTTP/1.1\r\nHost: here\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"content-length: 10\r\n\r\n")


def test_bodies_that_look_like_heads() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    length = str(3 * len(head)).encode()

    async def tell(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": head, "more_body": more})

    with serving({}, files=tell, files_prefix="/files") as caller:
        for _ in range(2):
            assert caller.get("/files/x").body == 3 * head


def test_chunked_bodies(owner: Caller) -> None:
    connection = owner.connect()
    pieces = iter([b'{"name": "chunked-project",', b' "organizationIdentifier": "local"}'])
    headers = {"Authorization": f"Bearer {owner.access_token}", "Content-Type": "application/json"}
    connection.request("POST", PROJECTS, pieces, headers, encode_chunked=True)
    assert read(connection).json()["name"] == "chunked-project"
    connection.close()


def test_get_with_a_body(owner: Caller, project: str) -> None:
    """Clients of the ingest API send one; the query string has it all."""
    target = f"{INGEST}/check?projectIdentifier={quote(project, safe='')}&requestId=unknown"
    reply = owner.call("GET", target, b"\x0a\x01x", headers={"Content-Type": "application/x-protobuf"})
    assert reply.status == 200
    assert ingest.RequestStatus.FromString(reply.body).code_by_count[0].code == grpc.StatusCode.NOT_FOUND.value[0]


# Deadlines, streams, faults: with servicers that do as they are told


@pytest.mark.parametrize("timeout", ["100m", "300m"])
def test_deadlines(timeout: str) -> None:
    """Before anybody has looked whether the caller is still there, and after."""
    go_on = threading.Event()

    def behave(_request: Any, context: Any) -> AuthorizedUser:
        assert 0 < context.time_remaining() < PATIENCE
        go_on.wait(PATIENCE)
        return AuthorizedUser()

    with serving({AUTHORIZE: behave}) as caller:
        reply = caller.get("/api/backend/v1/authorization/authorize", headers={"grpc-timeout": timeout})
        go_on.set()
        assert (reply.status, reply.json()["status"]) == (504, "DEADLINE_EXCEEDED")
        assert caller.get("/api/backend/v1/authorization/authorize", headers={"grpc-timeout": "0n"}).status == 504
        bad = caller.get("/api/backend/v1/authorization/authorize", headers={"grpc-timeout": "soon"})
        assert bad.status == 400
        assert "grpc-timeout" in bad.json()["message"]


def test_callers_that_leave() -> None:
    begun, left = threading.Event(), threading.Event()

    def behave(_request: Any, context: Any) -> AuthorizedUser:
        begun.set()
        end = time.monotonic() + PATIENCE
        while context.is_active() and time.monotonic() < end:
            time.sleep(0.01)  # a servicer that looks from time to time
        if not context.is_active():
            left.set()
        return AuthorizedUser()

    with serving({AUTHORIZE: behave}) as caller:
        with caller.raw() as opened:
            opened.sendall(b"GET /api/backend/v1/authorization/authorize HTTP/1.1\r\nHost: x\r\n\r\n")
            assert begun.wait(PATIENCE)
        assert left.wait(PATIENCE)


def messages(count: int) -> list[series_service_pb2.ReadColumnsResponse]:
    return [series_service_pb2.ReadColumnsResponse(series_index=n, last=True) for n in range(count)]


@pytest.mark.parametrize("written", list(Format))
@pytest.mark.parametrize("failing", [False, True])
def test_streams(written: Format, failing: bool) -> None:
    def behave(_request: Any, _context: Any) -> Any:
        yield from messages(3)
        if failing:
            raise StatusError(grpc.StatusCode.ABORTED, "Enough.", reason="CONFLICT", retry_seconds=1)

    with serving({READ_COLUMNS: behave}) as caller:
        reply = caller.post("/api/client/v1/columns:read", b"", headers={"Accept": written.content_type})
    assert (reply.status, reply.headers["content-type"]) == (200, written.stream_content_type)
    (rule,) = all_rules()[READ_COLUMNS]
    decoder = framing.FrameDecoder(rule, reply.headers["content-type"], max_bytes=1000)
    found: list[Any] = []
    failed = None
    try:
        found.extend(decoder.feed(reply.body))
    except framing.StreamFailed as error:
        failed = error.status
    decoder.close()
    assert len(reply.body.splitlines()) == (4 if failing else 3) or written is Format.PROTOBUF
    assert found == messages(3) or failing
    assert (failed is not None) is failing
    if failed is not None:
        assert (failed.code, failed.message) == (grpc.StatusCode.ABORTED.value[0], "Enough.")


def test_streams_that_fail_before_they_begin() -> None:
    def behave(_request: Any, _context: Any) -> Any:
        if _request is not None:
            raise StatusError(grpc.StatusCode.UNAVAILABLE, "Not now.", retry_seconds=1.2)
        yield from messages(1)

    with serving({READ_COLUMNS: behave}) as caller:
        reply = caller.post("/api/client/v1/columns:read", b"")
    assert (reply.status, reply.headers["retry-after"]) == (503, "2")
    assert reply.json()["message"] == "Not now."


def test_streams_that_nobody_reads_end() -> None:
    ended = threading.Event()

    def behave(_request: Any, _context: Any) -> Any:
        try:
            while True:
                yield series_service_pb2.ReadColumnsResponse(series_index=1)
        finally:
            ended.set()

    with serving({READ_COLUMNS: behave}) as caller:
        with caller.raw() as opened:
            opened.sendall(b"POST /api/client/v1/columns:read HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert opened.recv(1000)
        assert ended.wait(PATIENCE)


def test_faults_tell_an_incident_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def behave(_request: Any, _context: Any) -> Any:
        raise RuntimeError("a secret path")

    def stream(_request: Any, _context: Any) -> Any:
        yield from messages(1)
        raise RuntimeError("a secret path")

    with serving({AUTHORIZE: behave, READ_COLUMNS: stream}) as caller:
        reply = caller.get("/api/backend/v1/authorization/authorize")
        streamed = caller.post("/api/client/v1/columns:read", b"", headers={"Accept": "application/json"})
    assert reply.status == 500
    assert b"secret" not in reply.body + streamed.body
    assert json.loads(streamed.body.splitlines()[-1])["error"]["status"] == "INTERNAL"
    incident = reply.json()["details"][0]["metadata"]["incident"]
    assert incident in caplog.text
    assert "a secret path" in caplog.text


def test_stopping() -> None:
    """Idle connections are closed, calls may finish for a moment, what lasts longer hears that the server ends."""
    begun, go_on = threading.Event(), threading.Event()

    def behave(_request: Any, _context: Any) -> AuthorizedUser:
        begun.set()
        go_on.wait(PATIENCE)
        return AuthorizedUser()

    with serving({AUTHORIZE: behave}) as caller:
        idle = caller.connect()
        idle.request("GET", "/healthz")
        assert read(idle).status == 200
        replies: list[Any] = []
        calling = threading.Thread(target=lambda: replies.append(caller.get("/api/backend/v1/authorization/authorize")))
        calling.start()
        assert begun.wait(PATIENCE)
        began = time.monotonic()
        assert caller.door.stop(0.2) is False  # the servicer hangs
        assert time.monotonic() - began < 2
        calling.join(PATIENCE)
        go_on.set()
    (reply,) = replies
    assert (reply.status, reply.json()["status"]) == (503, "UNAVAILABLE")
    assert reply.headers["retry-after"] == "1"
    assert idle.sock.recv(1) == b""
    idle.close()


def test_stop_lets_calls_finish() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def behave(_request: Any, _context: Any) -> AuthorizedUser:
        begun.set()
        go_on.wait(PATIENCE)
        return AuthorizedUser(username="done")

    with serving({AUTHORIZE: behave}) as caller:
        replies: list[Any] = []
        calling = threading.Thread(target=lambda: replies.append(caller.get("/api/backend/v1/authorization/authorize")))
        calling.start()
        assert begun.wait(PATIENCE)
        stopped: list[bool] = []
        stopping = threading.Thread(target=lambda: stopped.append(caller.door.stop(PATIENCE)))
        stopping.start()
        go_on.set()
        calling.join(PATIENCE)
        stopping.join(PATIENCE)
    assert replies[0].json() == {"username": "done"}
    assert stopped == [True]


def test_every_rpc_answers(owner: Caller) -> None:
    """No RPC is without a route, and none fails on a request without anything in it."""
    for path, rules in all_rules().items():
        for rule in rules:
            target = str(rule.template).replace("*", "x")
            if rule.name in {"AuthService.RevokeApiToken", "AuthService.ExchangeApiToken"}:
                continue
            reply = owner.call(rule.http_verb, target, b"" if rule.body else None)
            assert reply.status < 500, (path, reply)


def test_health(stranger: Caller) -> None:
    for path in ("/healthz", "/api/backend/healthz", "/api/backend/startup"):
        reply = stranger.get(path)
        assert reply.status == 200
        assert {each["name"]: each["status"] for each in reply.json()} == {"database": "OK", "applier": "OK"}
    assert stranger.get("/api/backend/status").json() == {}
    with serving({}, health=lambda: {"database": False, "applier": True}) as caller:
        reply = caller.get("/healthz")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert {"name": "database", "status": "FAILED"} in reply.json()


def test_what_is_no_json(owner: Caller) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"[]", b"\xff", b'"text"'):
        reply = owner.post("/api/backend/v1/projects", body, headers=headers)
        assert reply.status == 400
        (info,) = (each for each in reply.json()["details"] if each["@type"].endswith("ErrorInfo"))
        assert info["reason"] == "MALFORMED_JSON_REQUEST"
