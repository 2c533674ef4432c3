"""Random queries over random runs against an evaluator that looks at one run after the other."""

from __future__ import annotations

import math
import random
import re
import statistics
import time
import tracemalloc
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neptune_api.conformance import operations
from neptune_api.server import nql, regexes
from neptune_api.server.nql.parser import TYPES
from neptune_api.server.regexes import RegexError, required_text, searcher
from neptune_api.server.store import search
from neptune_api.server.store.kept_searches import KeptSearches
from neptune_api.server.store.search import Order
from neptune_api.server.store.series import FloatSummaries
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = 60
NAMES = ["a", "b", "c/d"]
TEXTS = ["", "a", "b", "ab", "Ab", "b" * 300 + "a", "ünï", "a,b"]
NUMBERS = [-1.0, 0.0, 0.5, 1.0, 2.0, 1e300]
EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
MOMENTS = [EPOCH, EPOCH + timedelta(milliseconds=1), EPOCH + timedelta(days=40)]
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "last": lambda points: points[-1],
    "min": lambda points: min(finite(points), default=math.nan),
    "max": lambda points: max(finite(points), default=math.nan),
    "average": lambda points: statistics.fmean(finite(points)) if finite(points) else math.nan,
    "variance": lambda points: statistics.pvariance(finite(points)) if finite(points) else math.nan,
}


def finite(points: list[float]) -> list[float]:
    return [point for point in points if math.isfinite(point)]


@dataclass
class Run:
    """What a run has, by name: a type as queries write it, and a value; points of series by step."""

    name: str
    experiment: str | None
    parent: Run | None = None
    fork_step: int = 0
    own: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def get(self, name: str) -> tuple[str, Any] | None:
        """Return the type and value of an attribute, points of ancestors included."""
        found = self.own.get(name)
        inherited = None if self.parent is None else self.parent.get(name)
        if inherited is None or not inherited[0].endswith("Series"):
            return found
        if found is not None and found[0] != inherited[0]:
            return found
        points = {step: point for step, point in inherited[1].items() if step <= self.fork_step}
        if found is not None:
            points |= found[1]
        return (inherited[0], points) if points else None


def random_value(chance: random.Random, type_: str, start: int) -> Any:
    if type_ == "int":
        return chance.choice([-1, 0, 1, 2])
    if type_ == "float":
        return chance.choice([*NUMBERS, math.nan, math.inf])
    if type_ == "bool":
        return chance.random() < 0.5
    if type_ == "string":
        return chance.choice(TEXTS)
    if type_ == "datetime":
        return chance.choice(MOMENTS)
    if type_ == "stringSet":
        return frozenset(chance.sample(TEXTS, chance.randrange(3)))
    if type_ == "fileRef":
        return operations.file("x")
    some = range(start, start + chance.randint(1, 3))
    values: dict[str, Callable[[], Any]] = {
        "floatSeries": lambda: chance.choice([*NUMBERS[:-1], math.nan, math.inf]),
        "stringSeries": lambda: chance.choice(TEXTS),
        "histogramSeries": lambda: operations.counts([0, 1], [1]),
        "fileRefSeries": lambda: operations.file("x"),
    }
    return {step: values[type_]() for step in some}


SINGLE = ["int", "float", "bool", "string", "datetime", "stringSet", "fileRef"]
SERIES = ["floatSeries", "stringSeries", "histogramSeries", "fileRefSeries"]


def random_runs(chance: random.Random) -> list[Run]:
    runs: list[Run] = []
    for number in range(RUNS):
        parent = chance.choice(runs) if runs and chance.random() < 0.3 else None
        run = Run(f"r{number}", chance.choice([None, "e", "f"]), parent)
        start = 1
        if parent is not None:
            run.fork_step = chance.randint(1, 5)
            start = run.fork_step + 1
        for name in NAMES:
            if chance.random() < 0.8:
                inherited = run.get(name)
                # The type of what is inherited stays.
                type_ = chance.choice(SINGLE + SERIES) if inherited is None else inherited[0]
                run.own[name] = (type_, random_value(chance, type_, start))
        runs.append(run)
    return runs


def store_runs(bench: Bench, runs: list[Run]) -> None:
    sent = []
    for run in runs:
        more: dict[str, Any] = {} if run.parent is None else {"parent": run.parent.name, "at": run.fork_step}
        sent.append(operations.create(run.name, experiment=run.experiment, **more))
        configs = {name: value for name, (type_, value) in run.own.items() if type_ in SINGLE}
        snapshots = [operations.snapshot(assign=configs)]
        for name, (type_, points) in run.own.items():
            if type_ in SERIES:
                snapshots += [operations.snapshot({name: point}, step) for step, point in points.items()]
        sent.append(operations.update(*snapshots, run=run.name))
    for counts in bench.apply(*sent):
        assert set(counts) == {"OK"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bench, list[Run]]]:
    runs = random_runs(random.Random(7))
    is_sqlite = request.param == "sqlite"
    store = tmp_path_factory.mktemp("nql") if is_sqlite else request.getfixturevalue("postgres").create_database()
    with Bench(store, durable=False) as bench:
        store_runs(bench, runs)
        yield bench, runs


# A query as its text and as a function that tells whether it holds for a run.
Query = tuple[str, "Callable[[Run], bool]"]


def quoted(value: Any) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: left == right,
    "=": lambda left, right: left == right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
REGEXES = ["", "a", "^a", "b$", "^$", "[aü]", "a|b", "(?i)AB", ",", "^b+a$", r"\w,", "n.$", "ab?", "A"]
OPERATORS = {
    "int": [*COMPARISONS, "!="],
    "float": [*COMPARISONS, "!="],
    "floatSeries": [*COMPARISONS, "!="],
    "bool": ["==", "!="],
    "datetime": [*COMPARISONS, "!="],
    "string": [*COMPARISONS, "!=", "CONTAINS", "NOT CONTAINS", "MATCHES", "NOT MATCHES"],
    "stringSeries": [*COMPARISONS, "!=", "CONTAINS", "NOT CONTAINS", "MATCHES", "NOT MATCHES"],
    "stringSet": ["CONTAINS", "NOT CONTAINS"],
    "fileRef": [],
    "histogramSeries": [],
    "fileRefSeries": [],
    "complex": [],
}


def comparable(run: Run, name: str, type_: str, aggregate: str) -> Any:
    """Return what a criterion compares; None where it is missing."""
    found = run.get(name)
    if found is None or found[0] != type_:
        return None
    value = found[1]
    if type_ == "floatSeries":
        return AGGREGATES[aggregate]([value[step] for step in sorted(value)])
    if type_.endswith("Series"):
        return value[max(value)]
    return value


@st.composite
def criteria(draw: st.DrawFn) -> Query:
    name = draw(st.sampled_from([*NAMES, "missing"]))
    type_ = draw(st.sampled_from(list(OPERATORS)))
    operator = draw(st.sampled_from([*OPERATORS[type_], "EXISTS", "NOT EXISTS"]))
    aggregate = draw(st.sampled_from(list(AGGREGATES)))
    reference = f"`{name}`:{type_}"
    if type_ == "floatSeries" and not (aggregate == "last" and draw(st.booleans())):
        reference = f"{aggregate}({reference})"
    if operator.endswith("EXISTS"):
        return (
            f"{reference} {operator}",
            lambda run: (comparable(run, name, type_, aggregate) is not None) == (operator == "EXISTS"),
        )
    word = operator.removeprefix("NOT ")
    value: Any = draw(
        {
            "int": st.sampled_from([-1, 0, 0.5, 1, 2, 3]),
            "float": st.sampled_from(NUMBERS),
            "floatSeries": st.sampled_from([*NUMBERS, 0.25, 0.75]),
            "bool": st.booleans(),
            "datetime": st.sampled_from(MOMENTS),
        }.get(type_, st.sampled_from(REGEXES if word == "MATCHES" else TEXTS))
    )

    def holds(left: Any) -> bool:
        if word == "MATCHES":
            return re.search(value, left) is not None
        if word == "CONTAINS":
            return value in left
        return COMPARISONS["==" if word == "!=" else word](left, value)

    is_negated = operator.startswith("NOT ") or operator == "!="

    def verdict(run: Run) -> bool:
        left = comparable(run, name, type_, aggregate)
        return (left is not None and holds(left)) != is_negated

    return f"{reference} {operator} {quoted(value)}", verdict


def joined(terms: list[Query], word: str) -> Query:
    text = f" {word} ".join(f"({text})" for text, _ in terms)
    combine = all if word == "AND" else any
    return text, lambda run: combine(holds(run) for _, holds in terms)


queries = st.recursive(
    criteria(),
    lambda inner: st.one_of(
        st.builds(joined, st.lists(inner, min_size=1, max_size=4), st.sampled_from(["AND", "OR"])),
        inner.map(lambda query: (f"NOT ({query[0]})", lambda run, holds=query[1]: not holds(run))),
    ),
    max_leaves=40,
)


def found_by(
    bench: Bench,
    text: str,
    order: Order,
    *,
    heads: bool = False,
    offset: int = 0,
    limit: int = 10_000,
    kept: KeptSearches | None = None,
) -> tuple[int, list[str]]:
    with bench.database.read() as connection:
        found = search.search(
            connection,
            [bench.project_id],
            nql.parse(text),
            order,
            heads_only=heads,
            offset=offset,
            limit=limit,
            summaries=FloatSummaries(),
            now=time.time(),
            check=lambda: None,
            kept=kept,
        )
        return found.total, [f"r{run.number - 1}" for run in search.entries(connection, found.keys)]


BY_CREATION = Order("sys/creation_time", TYPES["datetime"], None, descending=False)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries, heads=st.booleans())
def test_search_finds_what_brute_force_finds(world: tuple[Bench, list[Run]], query: Query, heads: bool) -> None:
    bench, runs = world
    text, holds = query
    latest = {run.experiment: run.name for run in runs if run.experiment is not None}
    looked_at = [run for run in runs if not heads or run.name in latest.values()]
    expected = [run.name for run in looked_at if holds(run)]
    assert found_by(bench, text, BY_CREATION, heads=heads) == (len(expected), expected)
    # The second time, what the first time found may be kept, and without that what it read.
    for most in (search._MAX_TERMS, -1):
        kept = KeptSearches()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "_MAX_TERMS", most)
            for _ in range(3):
                assert found_by(bench, text, BY_CREATION, heads=heads, kept=kept) == (len(expected), expected)


ORDERED = ["int", "float", "bool", "string", "datetime", "floatSeries", "stringSeries"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=queries,
    name=st.sampled_from(NAMES),
    type_=st.sampled_from(ORDERED),
    aggregate=st.sampled_from(list(AGGREGATES)),
    descending=st.booleans(),
    offset=st.integers(0, 70),
    limit=st.integers(0, 70),
    ranked=st.sampled_from([0, 10, 1000]),
)
def test_pages_are_slices_of_the_sorted_whole(
    world: tuple[Bench, list[Run]],
    query: Query,
    name: str,
    type_: str,
    aggregate: str,
    descending: bool,
    offset: int,
    limit: int,
    ranked: int,
) -> None:
    bench, runs = world
    text, holds = query
    there: list[tuple[Any, int]] = []
    missing: list[int] = []
    for number, run in enumerate(runs):
        if not holds(run):
            continue
        value = comparable(run, name, type_, aggregate)
        if value is None or value != value:  # noqa: PLR0124  # NaN
            missing.append(number)
        else:
            there.append((value, number))
    there.sort(reverse=descending)
    missing.sort(reverse=descending)
    expected = [f"r{number}" for number in [number for _, number in there] + missing]
    order = Order(name, TYPES[type_], nql.Aggregate(aggregate), descending)
    assert found_by(bench, text, order, offset=offset, limit=limit) == (len(expected), expected[offset:][:limit])
    for most in (search._MAX_TERMS, -1):
        kept = KeptSearches()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "_RANKED", ranked)
            patch.setattr(search, "_MAX_TERMS", most)
            for first in (offset, 0, offset + limit, offset):
                page = (len(expected), expected[first:][:limit])
                assert found_by(bench, text, order, offset=first, limit=limit, kept=kept) == page


PIECES = [
    "a",
    "b",
    "ab",
    ".",
    "*",
    "+",
    "?",
    "[",
    "]",
    "[ab]",
    "[^a]",
    "{2}",
    "{0,1}",
    "{",
    "}",
    "(",
    ")",
    "(?:",
    "(?P<a>",
]
PIECES += [
    "|",
    "(a|b)",
    "(ab)?",
    "(?i)",
    "\\",
    "\\d",
    "\\b",
    "\\w",
    "\\.",
    "\\x41",
    "\\Q",
    "\\E",
    "\\pL",
    "\\A",
    "\\z",
    "\\C",
    "\\s",
    "\\B",
    "\n",
    "\\n",
    "(?-m)",
    "(?s)",
    "(?m)",
    "(?i-sm:",
    "[[:alpha:]]",
    "^",
    "$",
]
PATTERNS = st.lists(st.sampled_from([*PIECES, "é", "-", " ", "A"]), max_size=9).map("".join)


@settings(max_examples=500, deadline=None)
@given(pattern=PATTERNS, text=st.text(alphabet="ab.[](){}|\\é A-0", max_size=14))
def test_the_required_text_of_a_regex_is_in_whatever_matches(pattern: str, text: str) -> None:
    try:
        search_ = searcher(pattern)
    except RegexError:
        return
    if search_(text):
        assert required_text(pattern) in text


@settings(max_examples=500, deadline=None)
@given(
    pattern=PATTERNS,
    texts=st.lists(st.text(alphabet="ab.[](){}|\\é A-0\n", max_size=6), max_size=30),
    lines=st.integers(1, 12),
    in_a_row=st.integers(1, 3),
    trial=st.sampled_from([0, 4, 256]),
)
# RE2 finds a place that is no boundary between the bytes of a character.
@example(pattern="\\B", texts=["béb", "a"], lines=12, in_a_row=3, trial=256)
def test_many_texts_are_searched_as_each_is(
    pattern: str, texts: list[str], lines: int, in_a_row: int, trial: int
) -> None:
    try:
        search_ = searcher(pattern)
    except RegexError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regexes, "_LINES", lines)
        patch.setattr(regexes, "_IN_A_ROW", in_a_row)
        patch.setattr(regexes, "_TRIAL", trial)
        assert regexes.found_in(pattern, texts).tolist() == [search_(text) for text in texts]


def test_long_texts_are_not_copied_into_one() -> None:
    texts = ["x" * 1_000_000] * 100
    tracemalloc.start()
    try:
        assert not regexes.found_in("yz", texts).any()
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="abANDORT=!<>()`\"':.,-0123 \n\\é", max_size=40))
def test_any_text_is_a_query_or_a_clear_error(text: str) -> None:
    try:
        nql.parse(text)
    except nql.QueryError as caught:
        error = caught
    else:
        return
    assert 0 <= error.position <= len(text)
    assert error.expected
    before = text[: error.position].split("\n")
    assert (error.line, error.column) == (len(before), len(before[-1]) + 1)
