"""Definitions of attributes, and the filters by name and type that values have too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import exceptions
from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import another_project, log, submit
from neptune_api.conformance.reading_helpers import definitions, of_types, one_of, run_of, user_names, values
from neptune_api.v1 import attributes_service_pb2 as pb
from neptune_api.v1.attributes_pb2 import AttributeDefinition, NextPage
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.queries_pb2 import AttributeNameFilter, AttributeNameFilterList, AttributeType, StringList

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def attributes(connection: Connection) -> Any:
    return connection.stub(AttributesServiceStub)


def test_definitions_are_each_pair_once_by_name_and_type(
    attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    log(connection, identifier, "a", configs={"x": 1, "y": "text"})
    log(connection, identifier, "b", configs={"x": "text", "y": "more"}, series={"m": {1: 1.0}})
    expected = [("m", "floatSeries"), ("x", "int"), ("x", "string"), ("y", "string")]
    for limit in (None, 1, 2, 3, 4, 10_000):
        for regex in (user_names(), AttributeNameFilter(must_match_regexes=["^[mxy]$"])):
            assert definitions(attributes, identifier, limit=limit, attribute_name_filter=regex) == expected
    everything = definitions(attributes, project.id)
    assert everything == sorted(everything)
    assert {("sys/id", "string"), ("sys/tags", "stringSet"), ("sys/trashed", "bool")} <= set(everything)
    for limit in (1, 7):
        assert definitions(attributes, identifier, identifier, project.id, limit=limit) == everything


def test_definitions_of_many_runs(attributes: Any, connection: Connection, identifier: str) -> None:
    """So many that names are looked up instead of runs."""
    sent = []
    for number in range(60):
        run = f"r{number}"
        sent.append(operations.create(run, project=identifier))
        configs = {"x": number if number % 2 else f"{number}", f"only/{number:02}": 1, "z": 1.0}
        sent.append(operations.update(operations.snapshot(assign=configs), run=run, project=identifier))
    submit(connection, *sent)
    expected = sorted(
        [*((f"only/{number:02}", "int") for number in range(60)), ("x", "int"), ("x", "string"), ("z", "float")]
    )
    for limit in (None, 1, 7, 63):
        assert definitions(attributes, identifier, limit=limit, attribute_name_filter=user_names()) == expected
    only = AttributeNameFilter(must_match_regexes=["^(only|x)"])
    for type_, found in (
        (AttributeType.ATTRIBUTE_TYPE_STRING, [("x", "string")]),
        (AttributeType.ATTRIBUTE_TYPE_INT, [item for item in expected if item[1] == "int"]),
    ):
        assert (
            definitions(attributes, identifier, attribute_name_filter=only, attribute_filter=of_types([type_])) == found
        )
    other = another_project(connection, identifier)
    log(connection, other, "a", configs={"only/59": 1, "only/60": 1, "x": 1})
    both = definitions(attributes, other, identifier, limit=5, attribute_name_filter=user_names())
    assert both == sorted([*expected, ("only/60", "int")])


def test_definitions_of_several_projects(attributes: Any, connection: Connection, identifier: str) -> None:
    other = another_project(connection, identifier)
    log(connection, identifier, "a", configs={"x": 1, "y": 1})
    log(connection, other, "a", configs={"x": 1, "z": 1})
    query: dict[str, Any] = {"attribute_name_filter": user_names()}
    assert [name for name, _ in definitions(attributes, identifier, other, **query)] == ["x", "y", "z"]
    assert [name for name, _ in definitions(attributes, "no/project", other, **query)] == ["x", "z"]
    runs = StringList(values=[run_of(connection, other, "a").id, f"{identifier}/NO-1"])
    found = definitions(attributes, identifier, other, experiment_ids_filter=runs, **query)
    assert [name for name, _ in found] == ["x", "z"]


def test_a_project_beside_the_query_counts_too(attributes: Any, connection: Connection, identifier: str) -> None:
    other = another_project(connection, identifier)
    log(connection, identifier, "a", configs={"x": 1})
    log(connection, other, "a", configs={"z": 1})
    for projects, expected in (([], ["x"]), ([other], ["x", "z"]), ([identifier], ["x"])):
        query = pb.AttributeDefinitionsQuery(project_identifiers=projects, attribute_name_filter=user_names())
        request = pb.QueryAttributeDefinitionsRequest(project_identifier=identifier, query=query)
        assert [entry.name for entry in attributes.QueryAttributeDefinitions(request).entries] == expected


def test_runs_choose_definitions(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "a", configs={"x": 1})
    log(connection, identifier, "b", configs={"y": 1})
    runs = [run_of(connection, identifier, name).id for name in "ab"]
    for chosen, expected in (
        ([runs[0]], ["x"]),
        (runs, ["x", "y"]),
        ([], []),
        (["unknown"], []),
        ([*runs, "?"], ["x", "y"]),
    ):
        found = definitions(
            attributes,
            identifier,
            experiment_ids_filter=StringList(values=chosen),
            attribute_name_filter=user_names(),
        )
        assert [name for name, _ in found] == expected


def test_definitions_of_one_run_by_type(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"x": 1, "y": 0.5}, series={"m": {1: 1.0}})
    run = run_of(connection, identifier, "r")

    def found(*types: AttributeType.ValueType) -> list[AttributeDefinition]:
        request = pb.GetAttributeDefinitionsRequest(experiment_identifier=run.id, attribute_type=types)
        return list(attributes.GetAttributeDefinitions(request).entries)

    assert found(AttributeType.ATTRIBUTE_TYPE_FLOAT_SERIES) == [AttributeDefinition(name="m", type="floatSeries")]
    assert AttributeDefinition(name="x", type="int") in found()
    assert found(AttributeType.ATTRIBUTE_TYPE_COMPLEX) == []


def test_definitions_of_one_run_without_a_filter(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "root", series={"m": {1: 1.0}, "late": {5: 1.0}})
    log(connection, identifier, "fork", configs={"x": 1}, parent="root", at=2)
    run = run_of(connection, identifier, "fork").id
    everything = attributes.GetAttributeDefinitions(
        pb.GetAttributeDefinitionsRequest(experiment_identifier=run)
    ).entries
    assert {"m", "x"} <= {item.name for item in everything}
    assert "late" not in {item.name for item in everything}
    for query in (None, pb.RunDefinitionsQuery()):
        request = pb.FilterAttributeDefinitionsRequest(experiment_identifier=run, query=query)
        assert attributes.FilterAttributeDefinitions(request).entries == everything
    tree = attributes.GetAttributeTree(pb.GetAttributeTreeRequest(experiment_identifier=run))
    assert tree == pb.AttributeTree(entries=everything, total_count=len(everything))


TREE = ["a", "a/b", "a/b/c", "a/d", "ab", "metrics/loss", "metrics/train/loss", "x//y"]
LEVELS: dict[str, tuple[list[str], list[str]]] = {
    "": (["a", "ab"], ["a/", "metrics/", "x/"]),
    "a": (["a", "ab"], ["a/"]),
    "a/": (["a/b", "a/d"], ["a/b/"]),
    "a/b/c": (["a/b/c"], []),
    "metrics/": (["metrics/loss"], ["metrics/train/"]),
    "m": ([], ["metrics/"]),
    "x/": ([], ["x//"]),
    "x//": (["x//y"], []),
    "nothing/": ([], []),
}


def test_levels_of_the_tree_of_paths(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={**dict.fromkeys(TREE, 1.5), "text": "", "a/text": ""})
    run = run_of(connection, identifier, "r").id

    def level(**fields: Any) -> tuple[list[str], list[str], int]:
        request = pb.GetAttributeTreeRequest(
            experiment_identifier=run, attribute_type=[AttributeType.ATTRIBUTE_TYPE_FLOAT], **fields
        )
        tree = attributes.GetAttributeTree(request)
        names = [item.name for item in tree.entries if not item.name.startswith("sys/")]
        return names, [path for path in tree.sub_paths if path != "sys/"], tree.total_count

    for prefix, (entries, sub_paths) in LEVELS.items():
        assert level(prefix=prefix) == (entries, sub_paths, len(entries)), prefix
    for limit in (0, 1, 2, 10_000):
        pages = [level(prefix="a/", limit=limit, offset=offset) for offset in (0, 1, 2)]
        expected = [LEVELS["a/"][0][offset : offset + limit] for offset in (0, 1, 2)]
        assert pages == [(entries, ["a/b/"], 2) for entries in expected]


@pytest.mark.parametrize(("field", "value"), [("limit", -1), ("limit", 10_001), ("offset", -1)])
def test_bad_pages_of_the_tree_are_refused(attributes: Any, identifier: str, field: str, value: int) -> None:
    request = pb.GetAttributeTreeRequest(experiment_identifier=f"{identifier}/X-1", **{field: value})  # type: ignore[arg-type] # mypy cannot tell the fields apart
    with pytest.raises(exceptions.InvalidArgumentException) as caught:
        attributes.GetAttributeTree(request)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_definitions_of_no_run(attributes: Any, identifier: str) -> None:
    for call, kind in (
        (attributes.FilterAttributeDefinitions, pb.FilterAttributeDefinitionsRequest),
        (attributes.GetAttributeTree, pb.GetAttributeTreeRequest),
    ):
        with pytest.raises(exceptions.NotFoundException):
            call(kind(experiment_identifier=f"{identifier}/X-1"))
        for name in ("", "X-1"):
            with pytest.raises(exceptions.InvalidArgumentException) as caught:
                call(kind(experiment_identifier=name))
            assert [violation.field for violation in caught.value.violations] == ["experiment_identifier"]


NAMES = ["a", "a.b", "b", "metrics/train/loss", "metrics/val/loss", "weights #1", "ünï"]
FILTERS: dict[str, tuple[AttributeNameFilter, list[str]]] = {
    "nothing said": (AttributeNameFilter(), NAMES),
    "empty alternatives": (one_of(), []),
    "an empty alternative": (one_of(AttributeNameFilter()), NAMES),
    "search, not match": (AttributeNameFilter(must_match_regexes=["loss"]), NAMES[3:5]),
    "anchors": (AttributeNameFilter(must_match_regexes=["^a$"]), ["a"]),
    "case": (AttributeNameFilter(must_match_regexes=["LOSS"]), []),
    "everything": (AttributeNameFilter(must_match_regexes=[".*", ""]), NAMES),
    "and": (AttributeNameFilter(must_match_regexes=["loss$", "train"]), NAMES[3:4]),
    "not": (AttributeNameFilter(must_not_match_regexes=["loss", "^a"]), ["b", "weights #1", "ünï"]),
    "not everything": (one_of(AttributeNameFilter(must_not_match_regexes=[".*"])), []),
    "and not": (AttributeNameFilter(must_match_regexes=["loss"], must_not_match_regexes=["val"]), NAMES[3:4]),
    "or": (
        one_of(AttributeNameFilter(must_match_regexes=["val"]), AttributeNameFilter(must_match_regexes=["^b$"])),
        ["b", NAMES[4]],
    ),
    "or and more": (
        AttributeNameFilter(
            must_match_any=AttributeNameFilterList(values=[AttributeNameFilter(must_match_regexes=["^a"])]),
            must_not_match_regexes=["b"],
        ),
        ["a"],
    ),
    "alternatives inside": (one_of(one_of(AttributeNameFilter(must_match_regexes=["^b$"])), one_of()), ["b"]),
    "escapes": (
        AttributeNameFilter(must_match_regexes=[f"^({'|'.join(map(re.escape, ['a.b', 'weights #1', 'x-y']))})$"]),
        ["a.b", "weights #1"],
    ),
    "classes": (AttributeNameFilter(must_match_regexes=[r"[[:digit:]]|\x62$"]), ["a.b", "b", "weights #1"]),
    "unicode": (AttributeNameFilter(must_match_regexes=["^.n.$"]), ["ünï"]),
}


@pytest.mark.parametrize("case", FILTERS)
def test_name_filters(attributes: Any, connection: Connection, identifier: str, case: str) -> None:
    name_filter, expected = FILTERS[case]
    log(connection, identifier, "r", configs=dict.fromkeys(NAMES, 1))
    integers = of_types([AttributeType.ATTRIBUTE_TYPE_INT])
    query: dict[str, Any] = {"attribute_name_filter": name_filter, "attribute_filter": integers}
    found = [name for name, _ in definitions(attributes, identifier, **query) if not name.startswith("sys/")]
    assert found == expected
    found = [name for _, name in values(attributes, identifier, **query) if not name.startswith("sys/")]
    assert found == expected
    of_run = pb.FilterAttributeDefinitionsRequest(
        experiment_identifier=f"CUSTOM/{identifier}/r",
        attribute_type=[AttributeType.ATTRIBUTE_TYPE_INT],
        query=pb.RunDefinitionsQuery(attribute_name_filter=name_filter),
    )
    found = [item.name for item in attributes.FilterAttributeDefinitions(of_run).entries]
    assert [name for name in found if not name.startswith("sys/")] == expected


def test_the_deprecated_regex_counts_too(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"ab": 1, "a": 1, "b": 1})
    query: dict[str, Any] = {
        "attribute_name_filter": AttributeNameFilter(must_match_regexes=["^a"]),
        "attribute_name_regex": "b$",
    }
    assert definitions(attributes, identifier, **query) == [("ab", "int")]


@pytest.mark.parametrize("regex", ["(", "a{2000}", r"(a)\1", "(?=a)", "[z-a]", "a**"])
def test_what_is_no_regular_expression_is_refused(attributes: Any, identifier: str, regex: str) -> None:
    name_filter = one_of(AttributeNameFilter(must_not_match_regexes=[regex]))
    calls: list[Callable[[], Any]] = [
        lambda: definitions(attributes, identifier, attribute_name_filter=name_filter),
        lambda: values(attributes, identifier, attribute_name_filter=name_filter),
    ]
    for call in calls:
        with pytest.raises(exceptions.InvalidArgumentException, match="RE2") as caught:
            call()
        (violation,) = caught.value.violations
        assert violation.field.endswith("attribute_name_filter.must_match_any.must_not_match_regexes")
    with pytest.raises(exceptions.InvalidArgumentException, match="RE2"):
        definitions(attributes, identifier, attribute_name_regex=regex)


@pytest.mark.parametrize(
    "page", [{"limit": 0}, {"limit": 10_001}, {"next_page_token": "x"}, {"next_page_token": "WyJ2Il0"}]
)
def test_bad_pages_are_refused(attributes: Any, identifier: str, page: dict[str, Any]) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: definitions(attributes, identifier, next_page=NextPage(**page)),
        lambda: values(attributes, identifier, next_page=NextPage(**page)),
    ]
    for call in calls:
        with pytest.raises(exceptions.InvalidArgumentException) as caught:
            call()
        assert [violation.field.rpartition(".")[2] for violation in caught.value.violations] == list(page)


def test_unknown_types_are_refused(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r")
    run = run_of(connection, identifier, "r")
    for number in (0, 99):
        types: Any = [number]
        calls: list[Callable[[], Any]] = [
            lambda types=types: definitions(attributes, identifier, attribute_filter=of_types(types)),  # type: ignore[misc] # bound now
            lambda types=types: values(attributes, identifier, attribute_filter=of_types(types)),  # type: ignore[misc] # bound now
            lambda types=types: attributes.GetAttributeDefinitions(  # type: ignore[misc] # bound now
                pb.GetAttributeDefinitionsRequest(experiment_identifier=run.id, attribute_type=types)
            ),
        ]
        for call in calls:
            with pytest.raises(exceptions.InvalidArgumentException):
                call()


def test_projects_are_required(attributes: Any) -> None:
    with pytest.raises(exceptions.InvalidArgumentException, match=r"query\.project_identifiers"):
        definitions(attributes)
    with pytest.raises(exceptions.InvalidArgumentException):
        values(attributes, "")
