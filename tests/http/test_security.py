"""Who gets in, who sees what, and what never comes out of the HTTP door."""

from __future__ import annotations

import base64
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from google.protobuf import message_factory

from neptune_api.http import transcode
from neptune_api.http.rules import TIMESTAMP, Format, all_rules, is_repeated
from neptune_api.server import LocalServer
from neptune_api.server.handlers import is_anonymous
from neptune_api.server.http.pages import Pages
from neptune_api.server.identity import DISCOVERY_PATH, TOKEN_PATH
from neptune_api.server.store.directory import Directory, ensure_owner
from tests.http.caller import Caller

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from neptune_api.http.rules import Rule

RULES = [rule for rules in all_rules().values() for rule in rules]
OPEN = {"AuthService.ExchangeApiToken", "AuthService.RefreshToken", "ConfigService.GetClientConfig"}
OPEN |= {"ConfigService.GetServerInfo"}
PROFILE = "/api/backend/v1/userProfile"


def test_nothing_but_what_is_meant_to_answers_without_a_token(stranger: Caller) -> None:
    assert {rule.name for rule in RULES if is_anonymous(rule.method)} == OPEN
    for rule in RULES:
        target = str(rule.template).replace("*", "x")
        reply = stranger.call(rule.http_verb, target, b"" if rule.body else None)
        if rule.name in OPEN:
            assert reply.status in {200, 400}, reply  # those that ask for a token in the request miss it
        elif rule.method.client_streaming:
            assert reply.status == 422
        else:
            assert reply.status == 401, (rule.name, reply)
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["status"] == "UNAUTHENTICATED"


def test_what_is_no_rpc_and_open(stranger: Caller) -> None:
    for path in (DISCOVERY_PATH, "/healthz", "/api/backend/healthz", "/api/backend/status", *Pages.paths):
        assert stranger.get(path).status == 200
    assert stranger.post(TOKEN_PATH, b"").status == 400


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def unsigned(claims: dict[str, Any]) -> str:
    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims)}."


def test_forged_and_stale_access_tokens(server: LocalServer, owner: Caller) -> None:
    assert owner.access_token is not None
    claims = claims_of(owner.access_token)
    secret = server._running._identity._token_secret
    pair = Caller(server.http_url).get(
        "/api/backend/v1/authorization/oauth-token", headers={"X-Neptune-Api-Token": server.api_token}
    )
    with LocalServer() as other:
        foreign = Caller.log_in(other).access_token
    forged = {
        "alg none": unsigned(claims),
        "another key": jwt.encode(claims, b"k" * 32, algorithm="HS256"),
        "another algorithm": jwt.encode(claims, secret * 2, algorithm="HS512"),
        "another server's": foreign,
        "of another issuer": jwt.encode({**claims, "iss": "https://issuer.example.org"}, secret, algorithm="HS256"),
        "made for another server": jwt.encode({**claims, "aud": str(uuid.uuid4())}, secret, algorithm="HS256"),
        "expired": jwt.encode({**claims, "exp": int(time.time()) - 1}, secret, algorithm="HS256"),
        "of nobody": jwt.encode({**claims, "sub": str(uuid.uuid4())}, secret, algorithm="HS256"),
        "a refresh token": pair.json()["refreshToken"],
        "an API token": server.api_token,
        "cut short": owner.access_token[:-4],
        "empty": "",
    }
    for what, token in forged.items():
        reply = owner.get(PROFILE, headers={"Authorization": f"Bearer {token}"})
        assert reply.status == 401, what
        assert not token or token.encode() not in reply.body, what
    assert owner.get(PROFILE, headers={"Authorization": f"Basic {owner.access_token}"}).status == 401
    assert owner.get(PROFILE, headers={"Authorization": f"bearer {owner.access_token}"}).status == 200
    good = jwt.encode({**claims, "exp": int(time.time()) + 60}, secret, algorithm="HS256")
    assert owner.get(PROFILE, headers={"Authorization": f"Bearer {good}"}).status == 200


def test_api_tokens_in_the_wrong_place(server: LocalServer, stranger: Caller) -> None:
    path = "/api/backend/v1/authorization/oauth-token"
    assert stranger.get(f"{path}?apiToken={server.api_token}").status == 400
    assert stranger.get(path, headers={"Authorization": f"Bearer {server.api_token}"}).status == 400
    # Released clients give up at 401 only; anything else they try again for half an hour.
    for wrong in (server.api_token[:-12] + "AAAA" + server.api_token[-8:], server.api_token[:40], "not a token"):
        assert stranger.get(path, headers={"X-Neptune-Api-Token": wrong}).status == 401


# Two workspaces


def outsider(server: LocalServer) -> Caller:
    """Return the owner of another workspace of the same server."""
    running = server._running
    name = f"w-{uuid.uuid4().hex}"
    user = ensure_owner(Directory(running._database), name, name)
    return Caller.log_in(server, running._identity.api_token_of(user.id))


def fill(message: Message, texts: dict[str, str], depth: int = 4) -> None:
    """Put identifiers into every field that takes one."""
    any_message: Any = message
    for field in any_message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1 and any_message.WhichOneof(oneof.name) is not None:
            continue
        value = getattr(any_message, field.name)
        if field.message_type is not None:
            entry = field.message_type
            if entry.full_name == TIMESTAMP or entry.GetOptions().map_entry or depth == 0:
                continue
            fill(value.add() if is_repeated(field) else value, texts, depth - 1)
            if not is_repeated(field):
                value.SetInParent()
        elif (text := texts.get(field.name)) is not None:
            if is_repeated(field):
                value.append(text)
            else:
                setattr(any_message, field.name, text)


def identifiers(project: str, run: str, workspace: str) -> dict[str, str]:
    named = dict.fromkeys(("project", "project_identifier", "project_identifiers", "update_per_project"), project)
    named |= dict.fromkeys(
        ("experiment_id", "experiment_identifier", "experiment_identifiers", "holder_identifier", "identifier", "runs"),
        f"{project}/{run}",
    )
    named |= {"run_id": run, "organization_identifier": workspace, "username": "owner", "user_id": "owner"}
    return {**named, "name": "x", "path": "a/b", "attribute": "sys/id", "request_id": "0", "batch_id": "b"}


@pytest.mark.parametrize(
    "rule",
    [rule for rule in RULES if not rule.method.client_streaming],
    ids=lambda rule: f"{rule.name} {rule.template}",
)
def test_another_workspace_is_as_if_it_were_not_there(server: LocalServer, owner: Caller, rule: Rule) -> None:
    """The same answer about what is there and what is not, but for the names that were asked about."""
    if rule.name in OPEN | {"AuthService.RevokeApiToken"}:
        return
    eve = outsider(server)
    name = f"hidden{uuid.uuid4().hex}"
    made = owner.post("/api/backend/v1/projects", {"name": name, "organizationIdentifier": "local"}).json()
    run = owner.post("/api/client/v1/runs", {"projectIdentifier": f"local/{name}", "runId": "r-hidden"}).json()
    assert run["shortId"]

    replies = []
    for project, short_id, workspace in (
        (f"local/{name}", run["shortId"], "local"),
        (f"local/{name[::-1]}", run["shortId"], "nowhere"),
    ):
        message = message_factory.GetMessageClass(rule.method.input_type)()
        fill(message, identifiers(project, short_id, workspace))
        request = transcode.encode_request(rule, message, Format.JSON)
        reply = eve.call(request.verb, request.target, request.body or None, headers=dict(request.headers))
        assert reply.status < 500, reply
        text = reply.body.decode(errors="replace").replace(project, "P").replace(workspace, "W")
        for unguessable in (made["id"], run["id"]):
            assert unguessable not in text
        replies.append((reply.status, _without_own_ids(text)))
    assert replies[0] == replies[1]


def _without_own_ids(text: str) -> str:
    """Return a text without the ids of what the call itself made."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and value.get("requestId"):
        value["requestId"] = value["requestIds"] = "made by the call"
    return json.dumps(value)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "a\x00b", "a\r\nb", "a\u202eb", " ", "x" * 129])
def test_names_that_could_be_paths(owner: Caller, name: str) -> None:
    reply = owner.post("/api/backend/v1/projects", {"name": name, "organizationIdentifier": "local"})
    assert (reply.status, reply.json()["status"]) == (400, "INVALID_ARGUMENT") if name != ".." else reply.status < 500
    assert b"\r" not in reply.body


@pytest.mark.parametrize(
    "path", ["/docs/../openapi.json", "/docs/%2e%2e/%2e%2e/etc/passwd", "/docs//", "/docs/x.js", "/static/"]
)
def test_pages_are_those_and_no_others(stranger: Caller, path: str) -> None:
    assert stranger.get(path).status == 404


def test_nothing_that_callers_send_becomes_a_header_or_a_line_of_the_log(
    owner: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for target in ("/%0d%0aX-Evil:%20yes", "/api/backend/v1/projects/get?projectIdentifier=a%0d%0aX-Evil:%20yes"):
            reply = owner.get(target, headers={"Accept": "*/*", "User-Agent": "x", "Referer": "%0d%0aevil"})
            assert reply.status == 404
            assert "x-evil" not in reply.headers
    assert not [record for record in caplog.records if "\n" in record.getMessage() or "Evil" in record.getMessage()]


def test_tokens_are_in_no_log(server: LocalServer, owner: Caller, caplog: pytest.LogCaptureFixture) -> None:
    assert owner.access_token is not None
    with caplog.at_level(logging.DEBUG):
        stranger = Caller(server.http_url)
        headers = {"X-Neptune-Api-Token": server.api_token}
        refresh = stranger.get("/api/backend/v1/authorization/oauth-token", headers=headers).json()["refreshToken"]
        form = f"grant_type=refresh_token&refresh_token={refresh}&client_id=x&expires_in=-1"
        stranger.post(TOKEN_PATH, form.encode())
        stranger.post(TOKEN_PATH, f"{form}x".replace("refresh_token&", "?&").encode())
        owner.get(PROFILE)
        owner.get(f"{PROFILE}?token={owner.access_token}")
        assert owner.access_token.encode() not in owner.get(f"/{owner.access_token}").body
        stranger.send(f"GET / HTTP/1.1\r\nAuthorization: Bearer {owner.access_token}\r\nbroken\r\n\r\n".encode())
    for secret in (server.api_token, owner.access_token, refresh):
        assert secret not in caplog.text
        assert secret.rpartition(".")[2] not in caplog.text


def test_responses_do_not_stay_in_caches(owner: Caller, server: LocalServer) -> None:
    reply = owner.get("/api/backend/v1/authorization/api-token")
    assert reply.json()["token"] == server.api_token
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "server" not in reply.headers
