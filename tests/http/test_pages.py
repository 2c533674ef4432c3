"""The API page: its document tells what the door does, its viewer asks nobody else, and it works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.http.rules import Router, all_rules
from neptune_api.server.http.pages import OPENAPI_PATH, Pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.server import LocalServer
    from tests.http.caller import Caller

STATIC = resources.files("neptune_api.server.http") / "static"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def document(stranger: Caller) -> Any:
    """The OpenAPI document."""
    reply = stranger.get(OPENAPI_PATH)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    return reply.json()


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts(item)


def test_the_document_has_every_route(document: Any) -> None:
    router = Router(rule for rules in all_rules().values() for rule in rules)
    described = set()
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            match = router.match(verb.upper(), re.sub(r"\{[^}]*\}", "x", path))
            assert match is not None
            assert operation["operationId"].startswith(match.rule.name.replace(".", "_"))
            assert operation["description"]
            assert bool(match.rule.body) is ("requestBody" in operation)
            names = {(each["in"], each["name"]) for each in operation["parameters"]}
            assert {name for place, name in names if place == "path"} == set(re.findall(r"\{([^}]*)\}", path))
            assert {name for place, name in names if place == "query"} == match.rule.query.keys()
            described.add(match.rule)
    routes = {rule for rules in all_rules().values() for rule in rules if not rule.method.client_streaming}
    assert described == routes
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)


def test_the_document_is_whole(document: Any) -> None:
    assert document["openapi"].startswith("3.")
    schemas = document["components"]["schemas"]
    used = {part["$ref"] for part in parts(document) if "$ref" in part}
    assert used == {f"#/components/schemas/{name}" for name in schemas}
    assert schemas["ProjectVisibility"]["enum"] == ["priv", "pub", "workspace"]
    assert schemas["AttributeValuesQuery"]["properties"]["experimentIdsFilter"]["type"] == "array"
    assert schemas["FileToSign"]["required"] == ["path", "project_identifier", "permission"]


def test_the_document_tells_what_is_open(document: Any) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    anonymous = {operation["operationId"] for operation in operations if operation.get("security") == []}
    assert anonymous == {
        "AuthService_ExchangeApiToken",
        "AuthService_RefreshToken",
        "ConfigService_GetClientConfig",
        "ConfigService_GetServerInfo",
    }


def test_answers_are_as_the_document_says(owner: Caller, project: str, document: Any) -> None:
    """The keys of real answers are those of the schema, the ones it has to have included."""
    schema = document["components"]["schemas"]["ProjectWithRole"]
    entries = owner.get("/api/backend/v1/projects").json()["entries"]
    assert any(f"local/{entry['name']}" == project for entry in entries)
    for entry in entries:
        assert entry.keys() <= schema["properties"].keys()
        assert entry["visibility"] in document["components"]["schemas"]["ProjectVisibility"]["enum"]


def test_pages_ask_nobody_else(stranger: Caller) -> None:
    for path in Pages.paths:
        reply = stranger.get(path)
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        if path.endswith(("/docs", "start.js")):
            assert b"//" not in reply.body.replace(b"// ", b"").replace(b"https://goo.gl", b"")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_works_in_a_browser(server: LocalServer, tmp_path: Any) -> None:
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=10000", "--dump-dom", f"{server.http_url}/docs",
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip # pairs of option and value
    assert "RunsService" in done.stdout
    assert "Log in" in done.stdout
    assert "Failed to load" not in done.stdout
    assert json.loads((STATIC / "openapi.json").read_text(encoding="utf-8"))["info"]["title"] in done.stdout
