"""What clients do before their first call: configuration, discovery, exchange, refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import jwt
import pytest

from neptune_api.server.server import Server
from tests.http.caller import Caller

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.server import LocalServer

CONFIG = "/api/backend/v1/clients/config"
EXCHANGE = "/api/backend/v1/authorization/oauth-token"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def pair(server: LocalServer, stranger: Caller) -> Any:
    """A pair of tokens of the owner."""
    return stranger.get(EXCHANGE, headers={"X-Neptune-Api-Token": server.api_token}).json()


@pytest.fixture(scope="module")
def endpoint(stranger: Caller) -> str:
    """The path of the token endpoint, found as clients find it."""
    config = stranger.get(CONFIG).json()
    found = stranger.get(urlsplit(config["security"]["openIdDiscovery"]).path)
    assert found.status == 200
    return str(urlsplit(found.json()["token_endpoint"]).path)


def test_configuration(server: LocalServer, stranger: Caller) -> None:
    config = stranger.get(f"{CONFIG}?alpha=true", headers={"X-Neptune-Api-Token": "anything"}).json()
    assert config["apiUrl"] == server.http_url
    assert config["pyLibVersions"] == {}
    assert config["security"]["clientId"]
    assert config["security"]["openIdDiscovery"].startswith(server.http_url)


def test_addresses_are_those_that_the_caller_used(stranger: Caller, server: LocalServer) -> None:
    config = stranger.get(CONFIG, headers={"Host": "neptune.example:4711"}).json()
    assert config["apiUrl"] == "http://neptune.example:4711"
    discovery = urlsplit(config["security"]["openIdDiscovery"])
    assert discovery.netloc == "neptune.example:4711"
    found = stranger.get(discovery.path, headers={"Host": "neptune.example:4711"}).json()
    assert found["token_endpoint"].startswith("http://neptune.example:4711/")
    assert found["authorization_endpoint"]
    for evil in ("x/../y", "a b", "x@y", '"', "x" * 300):
        assert stranger.get(CONFIG, headers={"Host": evil}).json()["apiUrl"] == server.http_url


def test_chosen_addresses_hold(tmp_path: Path) -> None:
    with Server(tmp_path, public_url="https://neptune.example/api-root/") as server:
        port = server._http_socket.getsockname()[1]
        caller = Caller(f"http://127.0.0.1:{port}")
        assert caller.get(CONFIG).json()["apiUrl"] == "https://neptune.example/api-root"


def test_exchange(pair: Any) -> None:
    assert pair.keys() == {"accessToken", "refreshToken", "username"}
    claims = jwt.decode(pair["accessToken"], options={"verify_signature": False})
    assert {"exp", "iss", "azp"} <= claims.keys()


@pytest.mark.parametrize("expires_in", ["-10.01", "0", "3570.5", None])
def test_refresh(stranger: Caller, pair: Any, endpoint: str, expires_in: str | None) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": pair["refreshToken"], "client_id": "neptune-cli"}
    if expires_in is not None:
        form["expires_in"] = expires_in
    reply = stranger.post(endpoint, urlencode(form).encode(), headers=FORM)
    assert reply.status == 200
    answer = reply.json()
    assert answer["token_type"] == "Bearer"
    assert 0 < answer["expires_in"] <= 3600
    again = Caller(f"http://{stranger.address[0]}:{stranger.address[1]}", answer["access_token"])
    assert again.get("/api/backend/v1/authorization/authorize").json() == {"username": pair["username"]}
    form["refresh_token"] = answer["refresh_token"]
    assert stranger.post(endpoint, urlencode(form).encode(), headers=FORM).status == 200


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "unsupported_grant_type"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": ""}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "made-up"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "x" * 5000}, "invalid_grant"),
    ],
)
def test_refusals(stranger: Caller, endpoint: str, form: dict[str, str], error: str) -> None:
    reply = stranger.post(endpoint, urlencode(form).encode(), headers=FORM)
    answer = reply.json()
    assert (reply.status, answer["error"], answer["code"]) == (400, error, 400)
    assert answer["error_description"] == answer["message"]
    assert form.get("refresh_token", "x")[:50].encode() not in reply.body or not form.get("refresh_token")


def test_access_tokens_do_not_refresh(stranger: Caller, pair: Any, endpoint: str) -> None:
    form = urlencode({"grant_type": "refresh_token", "refresh_token": pair["accessToken"]}).encode()
    assert stranger.post(endpoint, form, headers=FORM).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"grant_type=%ff", b"a=b&" * 100, b"{}"])
def test_bodies_that_are_no_form(stranger: Caller, endpoint: str, body: bytes) -> None:
    reply = stranger.post(endpoint, body, headers=FORM)
    assert (reply.status, reply.json()["code"]) == (400, 400)


def test_forms_are_small(stranger: Caller, endpoint: str) -> None:
    assert stranger.post(endpoint, b"x" * 65_537, headers=FORM).status == 413
    assert stranger.get(endpoint).status == 405
