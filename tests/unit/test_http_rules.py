"""Routes: what templates mean, what the protos say, and that no request has two answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.http.rules import Format, Router, RuleError, Template, all_rules, find_rule, rules_of

RULES = [rule for rules in all_rules().values() for rule in rules]
API = Router(RULES)


def test_every_rpc_has_a_rule() -> None:
    assert len(all_rules()) > 50
    assert [path for path, rules in all_rules().items() if not rules] == []
    assert find_rule("/neptune_api.v1.RunsService/GetRun") is all_rules()["/neptune_api.v1.RunsService/GetRun"][0]
    assert find_rule(b"/neptune_api.v1.RunsService/GetRun") is find_rule("/neptune_api.v1.RunsService/GetRun")
    assert find_rule("/other.Service/Method") is None


def test_no_request_has_two_answers() -> None:
    """A router refuses rules that it cannot tell apart; beyond that, every path leads to the rule it was made from."""
    for rule in RULES:
        path = str(rule.template).replace("*", "value")
        match = API.match(rule.http_verb, path)
        assert match is not None
        assert match.rule is rule
        assert rule.http_verb in API.verbs(path)


@pytest.mark.parametrize(
    ("verb", "path", "name", "values"),
    [
        ("POST", "/api/leaderboard/v1/runs:archive", "RunsService.ArchiveRuns", {}),
        ("POST", "/api/leaderboard/v1/runs%3Aarchive", "RunsService.ArchiveRuns", {}),
        ("GET", "/api/client/v1/ingest/check", "IngestService.GetRequestStatus", {}),
        ("POST", "/api/client/v1/ingest/check", "IngestService.BulkGetRequestStatus", {}),
        (
            "DELETE",
            "/api/backend/v1/projects/members/a%2Fb%20c",
            "ProjectsService.DeleteProjectMember",
            {("user_id",): "a/b c"},
        ),
        (
            "POST",
            "/api/leaderboard/v1/proto/leaderboard/entries/search/",
            "LeaderboardService.SearchLeaderboardEntries",
            {},
        ),
    ],
)
def test_paths_that_lead_somewhere(verb: str, path: str, name: str, values: dict[tuple[str, ...], str]) -> None:
    match = API.match(verb, path)
    assert match is not None
    assert match.rule.name == name
    assert match.values == values


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/api/leaderboard/v1/proto/leaderboard/entries/search",
        "/api/backend/v1/projects/",
        "/api/backend/v1//projects",
        "/api%2Fbackend/v1/projects",
        "/api/backend/v1/projects/members/",
        "/api/backend/v1/projects/members/a/b",
        "/API/backend/v1/projects",
    ],
)
def test_paths_that_lead_nowhere(path: str) -> None:
    assert API.verbs(path) == frozenset()
    for verb in ("GET", "POST", "DELETE"):
        assert API.match(verb, path) is None


def test_another_verb() -> None:
    assert API.match("PUT", "/api/backend/v1/projects/get") is None
    assert API.verbs("/api/backend/v1/projects/get") == {"GET"}
    assert API.verbs("/api/backend/v1/projects/members/x") == {"PATCH", "DELETE"}


def test_formats() -> None:
    """http_bodies are about the first path; further ones are its JSON form."""
    primary, additional = all_rules()["/neptune_api.v1.LeaderboardService/SearchLeaderboardEntries"]
    assert (primary.request_format, primary.response_format) == (Format.JSON, Format.PROTOBUF)
    assert (additional.request_format, additional.response_format) == (Format.JSON, Format.JSON)
    assert primary.query.keys() == {"projectIdentifier", "type"}
    (exchange,) = all_rules()["/neptune_api.v1.AuthService/ExchangeApiToken"]
    assert exchange.headers.keys() == {"X-Neptune-Api-Token"}
    assert exchange.query == {}


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/v1/{a}", "/v1/x", {("a",): "x"}),
        ("/v1/{a.b}/c/{d}", "/v1/x/c/%2E%2E", {("a", "b"): "x", ("d",): ".."}),
        ("/v1/{a=p/*}", "/v1/p/x", {("a",): "p/x"}),
        ("/v1/{a=p/*}", "/v1/q/x", None),
        ("/v1/{a=p/**}/", None, "bad segment"),
        ("/v1/{a=**}", "/v1/x/y%2Fz", {("a",): "x/y/z"}),
        ("/v1/{a=**}", "/v1", {("a",): ""}),
        ("/v1/{a}:do", "/v1/x:do", {("a",): "x"}),
        ("/v1/{a}:do", "/v1/x%3Ado", None),
        ("/v1/{a}:do", "/v1/:do", None),
        ("/v1/{a}:do", "/v1/x:undo", None),
        ("/v1/*/y", "/v1/x/y", {}),
        ("/v1/{a}/", "/v1/x/", {("a",): "x"}),
        ("/v1/{a}/", "/v1/x", None),
        ("/v1/{a}", "/v1/", None),
        ("v1", None, "slash"),
        ("/v1//x", None, "bad segment"),
        ("/v1/{a}/{a}", None, "twice"),
        ("/v1/**/x", None, "bad segment"),
        ("/v1/x*", None, "bad segment"),
        ("/v1/{a", None, "bad segment"),
        ("/v1/{a}b", None, "bad segment"),
        ("/v1?x", None, "bad segment"),
    ],
)
def test_templates(template: str, path: str | None, values: Any) -> None:
    if path is None:
        with pytest.raises(RuleError, match=values):
            Template.parse(template)
        return
    assert Template.parse(template).capture(path[1:].split("/")) == values


def rule(verb: str, path: str, name: str = "S.M") -> Any:
    return SimpleNamespace(http_verb=verb, template=Template.parse(path), name=name)


def test_more_specific_rules_come_first() -> None:
    router = Router(
        rule("GET", path, name)
        for path, name in {
            "/v1/{a=**}": "rest",
            "/v1/{a}": "one",
            "/v1/x": "literal",
            "/v1/{a}:do": "verb",
            "/{a}/x/y": "late",
            "/v1/{a}/y": "early",
        }.items()
    )
    for path, name in {
        "/v1/x": "literal",
        "/v1/y": "one",
        "/v1/y/z": "rest",
        "/v1/y:do": "verb",
        "/v1/x/y": "early",
        "/v2/x/y": "late",
    }.items():
        match = router.match("GET", path)
        assert match is not None
        assert match.rule.name == name


@pytest.mark.parametrize(
    ("first", "second"), [("/v1/x", "/v1/x"), ("/v1/{a}", "/v1/{b}"), ("/v1/{a}/x", "/v1/*/x"), ("/{a=**}", "/{b=**}")]
)
def test_ambiguous_rules_are_refused(first: str, second: str) -> None:
    with pytest.raises(RuleError, match="both answer GET"):
        Router([rule("GET", first), rule("GET", second)])
    Router([rule("GET", first), rule("POST", second)])


@given(st.text(min_size=1, max_size=40))
def test_any_path_is_answered(path: str) -> None:
    """By a rule or by none; bytes that are no UTF-8 by an error that says so."""
    try:
        API.match("GET", path)
        API.verbs(f"/api/backend/v1/projects/members/{path}")
    except UnicodeDecodeError:
        assert "%" in path


def test_methods_without_a_rule() -> None:
    from google.protobuf import descriptor_pool
    from grpc_health.v1 import health_pb2  # type: ignore[import-untyped] # ships no types

    assert health_pb2.DESCRIPTOR
    service = descriptor_pool.Default().FindServiceByName("grpc.health.v1.Health")
    assert rules_of(service.methods_by_name["Check"]) == ()
