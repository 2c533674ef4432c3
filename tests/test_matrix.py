"""The wheel runs on every supported pair of protobuf and grpcio, and the floors are what is tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.version import Version

from tests.environments import ENVIRONMENTS, ROOT
from tests.matrix import IMPLEMENTATIONS, ROWS, SERVER_PYTHON, Row, floors, server_floors

ARITIES = ("unary", "client stream", "bidirectional stream", "server stream", "error")
HTTP_ARITIES = ("unary", "server stream")


@pytest.mark.slow
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_wheel_runs_on(row: Row, implementation: str) -> None:
    if not row.runs_here:
        pytest.skip(f"grpcio {row.grpcio} has no wheels for this Python")
    found = row.run(implementation)
    assert found["implementation"] == implementation
    assert (found["protobuf"], found["grpcio"]) == (row.protobuf, row.grpcio)
    assert Path(found["package"]).is_relative_to(ENVIRONMENTS), "the package under test is the installed one"
    sources = [path for path in (ROOT / "neptune_api/v1").glob("*.py") if path.stem != "__init__"]
    assert found["modules"] == len(sources)
    assert found["messages"] > 100
    over_http = [f"{kind} {arity}" for kind in ("http", "http aio") for arity in HTTP_ARITIES]
    assert found["calls"] == [*ARITIES, *(f"aio {arity}" for arity in ARITIES), *over_http]


@pytest.mark.slow
def test_the_server_runs_on_the_floors_of_its_dependencies() -> None:
    if sys.version_info[:2] > SERVER_PYTHON:
        pytest.skip("the floor of numpy has no wheels for this Python")
    found = server_floors()
    assert {name: Version(version) for name, version in found["versions"].items()} == {
        name: Version(version) for name, version in {**floors("dependencies"), **floors("server")}.items()
    }


def test_the_lowest_row_holds_the_floors() -> None:
    lowest = ROWS[0]
    pinned = {
        "grpcio": lowest.grpcio,
        "protobuf": lowest.protobuf,
        "googleapis-common-protos": lowest.common_protos,
    }
    assert {name: Version(version) for name, version in floors("dependencies").items()} == {
        name: Version(version) for name, version in pinned.items()
    }


def test_rows_ascend() -> None:
    for pick in ("protobuf", "grpcio", "common_protos"):
        versions = [Version(getattr(row, pick)) for row in ROWS]
        assert versions == sorted(versions), pick
