"""NQL over the wires: every row of the tables of its document, and queries that want to do harm."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log, submit
from neptune_api.conformance.search_helpers import matching, search
from neptune_api.exceptions import InvalidArgumentException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neptune_api.conformance.connections import Connection, Wire

DOCUMENT = (Path(__file__).parents[1] / "nql.md").read_text(encoding="utf-8")


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


def rows(*header: str) -> Iterator[list[str]]:
    """Yield the rows of all tables with a header, without the backticks around a query."""
    wanted: list[str] | None = None
    for line in DOCUMENT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else None
        if cells is None or set(line) <= set("|- "):
            wanted = wanted if cells is None and line else None if cells is None else wanted
        elif cells == list(header):
            wanted = cells
        elif wanted == list(header):
            yield [cells[0].strip("| ").strip("`"), *(cell.strip("| ") for cell in cells[1:])]


RUNS = json.loads(next(re.finditer(r"```json\n(.*?)```", DOCUMENT, re.DOTALL))[1])
QUERIES = {query: runs.split() for query, runs in rows("query", "runs")}
ERRORS = {
    query: (int(position), message.replace("\\`", "`"))
    for query, position, message in rows("query", "position", "message")
}


def log_documented_project(connection: Connection, project: str) -> None:
    for name, attributes in RUNS.items():
        configs: dict[str, Any] = {}
        series: dict[str, Any] = {}
        creation: dict[str, Any] = {}
        for key, value in attributes.items():
            path, _, type_ = key.partition(":")
            if key.startswith("fork of "):
                creation = {"parent": key.split()[2], "at": value}
            elif type_.endswith("Series"):
                first = value if not creation else [None] * int(creation["at"]) + value
                series[path] = {
                    step: point_of(type_, point) for step, point in enumerate(first, 1) if point is not None
                }
            else:
                configs[path] = value_of(type_, value)
        log(connection, project, name, configs=configs, series=series, **creation)


def value_of(type_: str, value: Any) -> Any:
    if type_ == "stringSet":
        return frozenset(value)
    if type_ == "datetime":
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    if type_ == "fileRef":
        return operations.file(value)
    return float(value) if type_ == "float" else value


def point_of(type_: str, value: Any) -> Any:
    if type_ == "floatSeries":
        return float(value)
    if type_ == "histogramSeries":
        return operations.counts([0, 1], [value])
    return operations.file(value) if type_ == "fileRefSeries" else value


def test_the_document_has_every_operator_of_every_type() -> None:
    types = {"int", "float", "bool", "datetime", "string", "stringSet", "floatSeries", "stringSeries"}
    order = {"==", "!=", "<", "<=", ">", ">=", "EXISTS", "NOT EXISTS"}
    text = order | {"CONTAINS", "NOT CONTAINS", "MATCHES", "NOT MATCHES"}
    expected = {
        "int": order,
        "float": order,
        "datetime": order,
        "floatSeries": order,
        "bool": {"==", "!=", "EXISTS", "NOT EXISTS"},
        "string": text,
        "stringSeries": text,
        "stringSet": {"CONTAINS", "NOT CONTAINS", "EXISTS", "NOT EXISTS"},
    }
    found: dict[str, set[str]] = {type_: set() for type_ in types}
    for query in QUERIES:
        for type_, operator in re.findall(r"\w:(\w+)\)? ((?:NOT )?[A-Z]+|[=!<>]+)", query):
            if type_ in found:
                found[type_].add(operator)
    assert {type_: expected[type_] - found[type_] for type_ in types} == {type_: set() for type_ in types}
    assert len(QUERIES) > 110
    assert len(ERRORS) > 12


def test_every_row_of_the_document(connection: Connection, identifier: str) -> None:
    log_documented_project(connection, identifier)
    found = {query: matching(connection, identifier, query) for query in QUERIES}
    assert found == QUERIES


def test_every_error_of_the_document(connection: Connection, identifier: str) -> None:
    for query, (position, message) in ERRORS.items():
        with pytest.raises(InvalidArgumentException) as caught:
            search(connection, identifier, query)
        error = caught.value
        assert error.details() == f"params.query.query: {message}."
        assert [violation.field for violation in error.violations] == ["params.query.query"]
        assert error.error_info is not None
        assert error.error_info.reason == "BAD_REQUEST"
        assert error.error_info.metadata["title"] == "Syntax error"
        assert int(error.error_info.metadata["position"]) == position
        assert error.error_info.metadata["expected"] in message


def test_escapes_and_unicode(connection: Connection, identifier: str) -> None:
    strange = 'a "quoted" \\ back\\slash\nand a line, ü, 漢字, 🙂'
    log(connection, identifier, "r", configs={"päth with (spaces): 🙂": strange, "'single'": "it's"})
    log(connection, identifier, "other", configs={"päth with (spaces): 🙂": "other"})
    escaped = strange.replace("\\", "\\\\").replace('"', '\\"')
    for query in (
        f'`päth with (spaces): 🙂`:string == "{escaped}"',
        '`päth with (spaces): 🙂`:string CONTAINS "漢字, 🙂"',
        '`päth with (spaces): 🙂`:string MATCHES "^a .quoted.(?s:.*), .$"',
        r"""`'single'` : string = 'it\'s'""",
        '\n\t(\n`päth with (spaces): 🙂`:string\n!=\n"other"\n)AND(sys/id EXISTS)',
    ):
        assert matching(connection, identifier, query) == ["r"], query


def test_depth_and_length(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"x": 7})
    log(connection, identifier, "s", configs={"x": 8})
    deep = "(`x`:int == 7)"
    mixed = "(`x`:int == 7)"
    for number in range(1_000):
        deep = f"({deep}) AND (`x`:int < {number + 8})"
        mixed = f'NOT (({mixed}) {"AND" if number % 2 else "OR"} (`y{number}`:int == "1"))'
    assert matching(connection, identifier, deep) == ["r"]
    # The last level negates an AND with something that is false.
    assert matching(connection, identifier, mixed) == ["r", "s"]
    flat = " OR ".join(f'(`sys/custom_run_id`:string == "{name}")' for name in ["r", *map(str, range(5_000))])
    assert matching(connection, identifier, flat) == ["r"]
    regexes = " OR ".join(f'(`sys/custom_run_id`:string MATCHES "^{name}$")' for name in ["s", *map(str, range(1_000))])
    assert matching(connection, identifier, regexes) == ["s"]
    flat = " AND ".join(f"(`x`:int < {number})" for number in range(8, 5_008))
    assert matching(connection, identifier, flat) == ["r"]
    different = " AND ".join(f"(`x{number}`:int != {number})" for number in range(1_000))
    assert matching(connection, identifier, different) == ["r", "s"]
    assert matching(connection, identifier, "(" * 50_000 + "x = 7" + ")" * 50_000) == ["r"]
    assert matching(connection, identifier, "NOT " * 100_001 + "x = 7") == ["s"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("(" * 200_000, "at most 100,000 parentheses inside one another"),
        ("x = " + '"' + "y" * 4_200_000, "the limit is 4,194,304 bytes of UTF-8"),
        ('x = "' + "\\" * 100_001, 'another " behind the value'),
        ("`" + "x" * 100_000, "another ` behind the name"),
        ('s:string MATCHES "((a{100}){100}){100}"', "a regular expression of RE2"),
        ('s:string MATCHES "(?=x)"', "a regular expression of RE2"),
        (r's:string MATCHES "(x)\1"', "a regular expression of RE2"),
        ("x = 7 \x00", "AND, OR or the end"),
        ("🙂" * 10_000, "an operator"),
    ],
)
def test_queries_that_are_refused(connection: Connection, identifier: str, query: str, expected: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidArgumentException) as caught:
        search(connection, identifier, query)
    assert expected in (caught.value.details() or "")
    assert len(caught.value.details() or "") < 500
    # Nothing that takes minutes.
    assert time.process_time() - began < 30


def test_slow_regexes_are_not_slow(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"s": "a" * 100_000 + "!", "t": "x"})
    began = time.process_time()
    for regex in (
        "(a+)+$",
        "(a|a)+$",
        "(a|aa)+$",
        "(.*)*(.*)*(.*)*b$",
        "(a*)*(a{0,500}a{0,500})+x",
        "(a*)*" * 5_000 + "b",
    ):
        assert matching(connection, identifier, f's:string MATCHES "{regex}"') == [], regex
    assert time.process_time() - began < 30


def test_a_set_knows_its_members_exactly(connection: Connection, identifier: str) -> None:
    members = {"x,", ",y", '","', "[", "]", '"', "\\", "ü", "a b", "null", "1"}
    submit(connection, operations.create("r", project=identifier))
    change = operations.snapshot(sets={"sys/tags": operations.change(add=members)})
    submit(connection, operations.update(change, run="r", project=identifier))
    absent = {",", '","y', "x", "y", "", "[]", "u", "a", "2", "x,,y", 'x,",",y'}
    for member in sorted(members | absent):
        escaped = member.replace("\\", "\\\\").replace('"', '\\"')
        found = matching(connection, identifier, f'`sys/tags`:stringSet CONTAINS "{escaped}"')
        assert found == (["r"] if member in members else []), member


def test_long_texts_are_searched_whole(connection: Connection, identifier: str) -> None:
    for length in (255, 256, 257, 100_000):
        log(connection, identifier, f"r{length}", configs={"s": "x" * (length - 3) + "end"})
    everything = ["r255", "r256", "r257", "r100000"]
    assert matching(connection, identifier, 's:string MATCHES "xend$"') == everything
    assert matching(connection, identifier, 's:string CONTAINS "xend"') == everything
    assert matching(connection, identifier, 's:string MATCHES "^x{250,260}e"') == everything[:3]
    assert matching(connection, identifier, f's:string == "{"x" * 254}end"') == ["r257"]
    assert matching(connection, identifier, f's:string > "{"x" * 254}"') == everything[2:]


def test_numbers_at_the_ends_of_their_ranges(connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"big": 2**63 - 1, "small": -(2**63), "huge": 1e308})
    assert matching(connection, identifier, "big:int > 9e18") == ["r"]
    assert matching(connection, identifier, "small:int <= -9223372036854775808") == ["r"]
    assert matching(connection, identifier, "huge:float == 1e308") == ["r"]
    assert matching(connection, identifier, "big:int == 1e308") == []
