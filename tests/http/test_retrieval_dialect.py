"""Searches and filters in the very words of released clients, old and new, over HTTP."""

from __future__ import annotations

import json
import re
import string
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from neptune_api.conformance import operations
from tests.http.test_door import submit, wait_applied

if TYPE_CHECKING:
    from tests.http.caller import Caller, Reply

SEARCH = "/api/leaderboard/v1/proto/leaderboard/entries/search/"
DEFINITIONS = "/api/leaderboard/v1/leaderboard/attributes/definitions/query"
# What a search always has, as clients send it.
USUAL: dict[str, Any] = {
    "attributeFilters": [{"path": "sys/custom_run_id"}, {"path": "sys/id"}],
    "experimentLeader": False,
    "pagination": {"limit": 10_000, "offset": 0},
    "sorting": {"sortBy": {"name": "sys/creation_time", "type": "datetime"}, "dir": "ascending"},
}


def write(owner: Caller, project: str, *sent: Any) -> None:
    for operation in sent:
        wait_applied(owner, project, submit(owner, operation))


def run(owner: Caller, project: str, name: str, **values: Any) -> None:
    write(
        owner,
        project,
        operations.create(name, project=project, experiment=f"of {name}"),
        operations.update(operations.snapshot(assign=values), project=project, run=name),
    )


def search(owner: Caller, project: str, body: dict[str, Any], **headers: str) -> Reply:
    target = f"{SEARCH}?{urlencode({'projectIdentifier': project, 'type': 'run'})}"
    return owner.post(target, USUAL | body, headers={"Accept": "application/json", **headers})


def found(reply: Reply) -> list[str]:
    assert reply.status == 200, reply
    entries = [{item["name"]: item for item in entry["attributes"]} for entry in reply.json()["entries"]]
    return [entry["sys/custom_run_id"]["stringProperties"]["value"] for entry in entries]


def sorting(**more: Any) -> dict[str, Any]:
    field = {"name": "x", "type": "int", **more.pop("field", {})}
    return {"sorting": {"dir": "descending", "sortBy": field, **more}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": None},
        {"query": {"query": ""}},
        {"query": {"query": " \n"}},
        {"pagination": None},
        {"experimentLeader": None},
        {"grouping": None, "queryNameAliases": None, "truncateStringTo": None},
        {"of a later version": {"nobody": ["knows"]}},
        sorting(aggregationMode="last"),
        sorting(aggregationMode="none"),
        sorting(aggregationMode="median"),
        sorting(aggregationMode=None),
        sorting(field={"aggregationMode": "auto"}),
        sorting(field={"aggregationMode": "median"}),
        sorting(field={"aggregationMode": None}),
        sorting(field={"type": None}),
    ],
)
def test_what_clients_say_of_a_search(owner: Caller, project: str, body: dict[str, Any]) -> None:
    for number, name in enumerate("ab"):
        run(owner, project, name, x=number)
    expected = ["b", "a"] if "sorting" in body else ["a", "b"]
    assert found(search(owner, project, body)) == expected
    metadata = json.dumps({"fn": "list_runs", "v": "1.14.1", "qid": "abcdefgh", "ud": None})
    assert found(search(owner, project, body, **{"X-Neptune-Client-Metadata": metadata})) == expected
    assert found(search(owner, project, body, **{"X-Neptune-Client-Metadata": "{"})) == expected


QUERIES = {
    # As neptune-query writes them: each part in parentheses, every value in double quotes.
    '((`sys/custom_run_id`:string MATCHES "^a") AND (`sys/custom_run_id`:string NOT MATCHES "b"))': "a",
    '((`x`:int == "0")) OR ((`x`:int >= "7"))': "a",
    'NOT ((`x`:int == "0"))': "b c",
    "(`x`:int EXISTS)": "a b",
    '(last(`m`:floatSeries) > "0.5")': "c",
    '(`s`:string == "back\\\\slash \\"quoted\\"\nline")': "c",
    '((`sys/custom_run_id`:string MATCHES ".+")) AND (`sys/archived`:bool != "True")': "a b c",
    '(`sys/creation_time`:datetime >= "2020-01-01T00:00:00.000001+00:00")': "a b c",
    # As neptune-fetcher writes them: one equals sign, booleans without quotes, names of states.
    "((`sys/trashed`:bool = false) AND (`sys/experiment/is_head`:bool = true))": "a b c",
    '((`sys/state`:experimentState = "running") OR (`sys/state`:experimentState = "idle"))': "a b c",
    '((`sys/owner`:string = "nobody") OR (`sys/id`:string > "A-0"))': "a b c",
    "(`x`:int >= 0)": "a b",
    "(`x`:integer = 1)": "b",
    # As people write them.
    "x = 1": "b",
    "x : int = 1 and sys/failed:bool = False": "b",
    "not x:int EXISTS": "c",
    "x:int NOT EXISTS": "c",
    "`x`:int = '1'": "b",
    r's MATCHES "\d|q.*d"': "c",
    "size:int > 1KB and size < 50MB": "c",
    "sys/creation_time:datetime > -2h AND sys/creation_time > -1M": "a b c",
    "sys/creation_time:datetime < 2020-01-01": "",
    "sys/creation_time:datetime > 2020-01-01T00:00+09": "a b c",
}


def test_queries_of_every_hand(owner: Caller, project: str) -> None:
    run(owner, project, "a", x=0)
    run(owner, project, "b", x=1)
    run(owner, project, "c", s='back\\slash "quoted"\nline', size=1_000_000)
    write(owner, project, operations.update(operations.snapshot({"m": 1.0}, 1), project=project, run="c"))
    for query, expected in QUERIES.items():
        assert found(search(owner, project, {"query": {"query": query}})) == expected.split(), query


NONE = """\
(((
() OR ()
key: float = (-_-)
x =
x : number = 1
x:float = inf
x:float == "NaN"
x ~ 1
s:string MATCHES "("
median(m) > 1
x:int == one
x = 1 y = 2
"x" = 1
"""


@pytest.mark.parametrize("query", NONE.splitlines())
def test_queries_that_are_none(owner: Caller, project: str, query: str) -> None:
    error = search(owner, project, {"query": {"query": query}})
    assert error.status == 400
    body = error.json()
    assert (body["code"], body["errorType"], body["title"]) == (400, "BAD_REQUEST", "Syntax error")
    assert re.search(r"line 1, column \d+: .*; expected ", body["message"])


def test_every_character_in_a_list_of_names(owner: Caller, project: str) -> None:
    """Clients ask for exact names by one regular expression, with whatever their language puts before a character."""
    names = [f"n{character}n" for character in string.printable if character.isprintable()] + ["naïve ünï 🙂", "n..n"]
    run(owner, project, "r", **dict.fromkeys(names, 1))
    for alternatives in (names, names[::-1], *([name] for name in names)):
        regex = "^(" + "|".join(re.escape(name) for name in alternatives) + ")$"
        if len(alternatives) == 1:
            regex = f"^{re.escape(alternatives[0])}$"
        body = {
            "projectIdentifiers": [project],
            "attributeNameFilter": {"mustMatchAny": [{"mustMatchRegexes": [regex]}]},
            "nextPage": {"limit": 10_000},
        }
        entries = owner.post(DEFINITIONS, body).json()["entries"]
        assert [entry["name"] for entry in entries] == sorted(alternatives)


def test_somebody_is_there(owner: Caller) -> None:
    assert owner.call("HEAD", "/api/leaderboard/").status < 500
