"""Whatever /proto/ answers in binary protobuf, the same path without /proto answers in JSON: the same thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from google.protobuf import message_factory

from neptune_api.conformance import operations
from neptune_api.http import json_codec
from neptune_api.http.rules import Format, all_rules
from neptune_api.v1 import ingest_pb2 as ingest
from neptune_api.v1 import series_pb2
from tests.http.test_door import submit, wait_applied

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from neptune_api.conformance.operations import Plain
    from neptune_api.http.rules import Rule
    from tests.http.caller import Caller

RULES = {
    f"{rule.name} {rule.http_verb}": rules
    for rules in all_rules().values()
    if "/proto/" in str((rule := rules[0]).template)
}
# Where the JSON of the REST API is a question of its own: levels of a tree.
OF_ITS_OWN = {"AttributesService.GetAttributeDefinitions GET": "AttributesService.GetAttributeTree"}
VALUES: dict[str, Plain] = {
    "lr": 0.5,
    "i": 2**53 + 1,
    "b": True,
    "s": "ünï",
    "set": frozenset({"x"}),
    "t": operations.timestamp(5),
}
POINTS: dict[str, Plain] = {"m": 1.5, "log": "text", "h": operations.counts([0, 1], [2]), "f": operations.file("a", 3)}


def with_run(owner: Caller, project: str) -> str:
    """Log a run with something of every type and return its identifier."""
    for operation in (
        operations.create("r", project=project),
        operations.update(
            operations.snapshot(assign=VALUES),
            operations.snapshot(POINTS, 1),
            operations.snapshot({"m": float("nan")}, 2),
            operations.snapshot({"m": float("-inf")}, 2.5, preview=0.25),
            project=project,
            run="r",
        ),
    ):
        status = wait_applied(owner, project, submit(owner, operation))
        assert {ingest.IngestCode.Name(each.detail) for each in status.code_by_count} == {"INGEST_CODE_OK"}
    return f"CUSTOM/{project}/r"


def series(holder: str, path: str, **more: Any) -> dict[str, Any]:
    return {"requestId": "0", "series": {"attribute": path, "holder": {"identifier": holder}, **more}}


def questions(project: str, holder: str) -> dict[str, tuple[dict[str, Any], Any]]:
    """Return the query string and the body of a question to each path."""
    run = {"holderIdentifier": holder, "holderType": "experiment"}
    search = {"attributeFilters": [{"path": "lr"}, {"path": "m"}], "query": {"query": "`lr`:float == 0.5"}}
    buckets = series_pb2.GetTimeseriesBucketsRequest(
        expressions=[
            series_pb2.BucketExpression(
                request_id="0",
                run_id=holder,
                custom_y_formula="${m}",
                lineage=series_pb2.BUCKET_LINEAGE_ONLY_OWNED,
                entity_type=series_pb2.BUCKET_ENTITY_TYPE_RUN,
            )
        ],
        view=series_pb2.BucketView(max_buckets=3),
    )
    return {
        "AttributesService.QueryAttributeValues POST": ({"projectIdentifier": project}, {}),
        "AttributesService.GetAttributes POST": (run, {"attributePathsFilter": [*VALUES, *POINTS]}),
        "AttributesService.GetAttributeDefinitions GET": ({"experimentIdentifier": holder}, None),
        "LeaderboardService.SearchLeaderboardEntries POST": ({"projectIdentifier": project, "type": "run"}, search),
        "LeaderboardService.SearchGlobalLeaderboardEntries POST": (
            {},
            {"query": {"query": "`lr`:float == 0.5"}, "pagination": {"limit": 1}},
        ),
        "SeriesService.GetFloatSeriesValues POST": (
            {},
            {"perSeriesPointsLimit": 9, "requests": [series(holder, "m", includePreview=True)]},
        ),
        "SeriesService.GetSingleFloatSeriesValues GET": (
            {"attribute": "m", "experimentId": holder, "includePreview": "true", "lineage": "FULL"},
            None,
        ),
        "SeriesService.GetSeriesValues POST": (
            {},
            {"requests": [series(holder, "h"), series(holder, "f") | {"requestId": "1"}]},
        ),
        "SeriesService.GetTimeseriesBuckets POST": ({}, buckets),
    }


def ask(
    owner: Caller, rule: Rule, question: tuple[dict[str, Any], Any], accept: str | None = None
) -> tuple[str, bytes]:
    """Ask and return the media type of the answer and the message in it, in binary: NaN is not equal to itself."""
    parameters, body = question
    if isinstance(body, series_pb2.GetTimeseriesBucketsRequest):
        body = (
            body.SerializeToString() if rule.request_format is Format.PROTOBUF else json_codec.write(body, empty=True)
        )
    target = f"{rule.template}?{urlencode(parameters)}"
    headers = {} if accept is None else {"Accept": accept}
    if isinstance(body, bytes):
        headers["Content-Type"] = rule.request_format.content_type
    reply = owner.call(rule.http_verb, target, body, headers=headers)
    assert reply.status == 200, reply
    message: Message = message_factory.GetMessageClass(rule.method.output_type)()
    if reply.headers["content-type"] == Format.JSON.content_type:
        json_codec.read(reply.body, message)
    else:
        message.ParseFromString(reply.body)
    return reply.headers["content-type"], message.SerializeToString(deterministic=True)


def test_every_path_has_its_twin() -> None:
    every = {(each.http_verb, str(each.template)): each for rules in all_rules().values() for each in rules}
    for name, (rule, *_) in RULES.items():
        twin = every[rule.http_verb, str(rule.template).replace("/proto/", "/").rstrip("/")]
        assert twin.name == OF_ITS_OWN.get(name, rule.name)
        assert twin.response_format is Format.JSON
    assert RULES.keys() == questions("", "").keys()


@pytest.mark.parametrize("name", RULES)
def test_the_twin_says_the_same(owner: Caller, project: str, name: str) -> None:
    question = questions(project, with_run(owner, project))[name]
    rule, *others = RULES[name]
    media_type, expected = ask(owner, rule, question)
    assert media_type == Format.PROTOBUF.content_type
    assert expected
    json_asked_for = ask(owner, rule, question, accept="application/json")
    assert json_asked_for == (Format.JSON.content_type, expected)
    for other in others:
        assert ask(owner, other, question) == (Format.JSON.content_type, expected)


def test_levels_of_the_tree(owner: Caller, project: str) -> None:
    holder = with_run(owner, project)

    def level(**parameters: Any) -> Any:
        query = urlencode({"experimentIdentifier": holder, **parameters})
        return owner.get(f"/api/leaderboard/v1/attributes/queryAttributeDefinitions?{query}").json()

    assert level(prefix="", attributeType="float") == {
        "entries": [{"name": "lr", "type": "float"}],
        "subPaths": ["sys/"],
        "totalCount": 1,
    }
    assert level(limit=0) == {"entries": [], "subPaths": [], "totalCount": level()["totalCount"]}
