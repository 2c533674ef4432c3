"""Requests as large as clients send them: thousands of ids, of names of the greatest length, of alternatives."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log, submit
from neptune_api.conformance.reading_helpers import definitions, run_of, values
from neptune_api.conformance.search_helpers import matching, names, search
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.queries_pb2 import AttributeNameFilter, StringList

if TYPE_CHECKING:
    from neptune_api.conformance.connections import Connection, Wire

LONG = [f"int-value-{number:04}".rjust(1024, "0") for number in range(4_000)]


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def attributes(connection: Connection) -> Any:
    return connection.stub(AttributesServiceStub)


def test_thousands_of_the_longest_names(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs=dict(zip(LONG, range(4_000), strict=True)))
    expected = sorted(LONG)
    run = run_of(connection, identifier, "r").short_id
    cells = [(run, name) for name in expected]
    assert values(attributes, identifier, attribute_names_filter=StringList(values=LONG)) == cells
    several = [*LONG[:100], *(f"{number}".rjust(1024, "x") for number in range(3_900))]
    some = values(attributes, identifier, attribute_names_filter=StringList(values=several), limit=30)
    assert some == [(run, name) for name in sorted(LONG[:100])]
    # As clients ask for exact names, as much of them as they put into a regular expression; and as tests do.
    exact = AttributeNameFilter(must_match_regexes=[f"^({'|'.join(map(re.escape, LONG[:58]))})$"])
    assert definitions(attributes, identifier, attribute_name_filter=exact) == [(name, "int") for name in LONG[:58]]
    counted = AttributeNameFilter(
        must_match_regexes=[f"^0+int-value-({'|'.join(f'{number:04}' for number in range(4_000))})$"]
    )
    assert definitions(attributes, identifier, attribute_name_filter=counted) == [(name, "int") for name in expected]
    assert values(attributes, identifier, attribute_name_filter=counted) == cells


def test_thousands_of_runs(attributes: Any, connection: Connection, identifier: str) -> None:
    runs = [f"run-{number}" for number in range(60)]
    sent = [operations.create(run, project=identifier) for run in runs]
    sent += [
        operations.update(operations.snapshot(assign={"x": position}), run=run, project=identifier)
        for position, run in enumerate(runs)
    ]
    submit(connection, *sent)
    key = run_of(connection, identifier, "run-0").short_id.rpartition("-")[0]
    ids = StringList(values=[f"{identifier}/{key}-{number}" for number in range(1, 4_917)])
    only = AttributeNameFilter(must_match_regexes=["^x$"])
    found = definitions(attributes, identifier, experiment_ids_filter=ids, attribute_name_filter=only)
    assert found == [("x", "int")]
    cells = values(attributes, identifier, experiment_ids_filter=ids, attribute_names_filter=StringList(values=["x"]))
    assert cells == [(f"{key}-{number}", "x") for number in range(1, 61)]
    by_name = " OR ".join(f'(`sys/custom_run_id`:string == "run-{number}")' for number in range(5_000))
    assert matching(connection, identifier, by_name) == runs
    # As many attributes beside each run as clients ask for, and the two that name it.
    asked = ["sys/custom_run_id", "sys/id", *(f"{number}".rjust(1024, "p") for number in range(1_000))]
    assert names(search(connection, identifier, attributes=asked)) == runs
