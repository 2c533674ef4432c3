"""The wheel runs on every supported pair of protobuf and grpcio, and the floors are what is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.environments import ENVIRONMENTS, ROOT
from tests.matrix import IMPLEMENTATIONS, ROWS, Row

ARITIES = ("unary", "client stream", "bidirectional stream", "server stream", "error")


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
    assert found["calls"] == [*ARITIES, *(f"aio {arity}" for arity in ARITIES)]


def test_the_lowest_row_holds_the_floors() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    match = re.search(r"^dependencies = \[(.*?)^\]", project, flags=re.MULTILINE | re.DOTALL)
    assert match
    floors = {}
    for requirement in map(Requirement, re.findall(r'"(.+?)"', match[1])):
        (specifier,) = requirement.specifier
        assert specifier.operator == ">=", f"{requirement} has more than a floor"
        floors[requirement.name] = Version(specifier.version)
    assert floors == {
        "grpcio": Version(ROWS[0].grpcio),
        "protobuf": Version(ROWS[0].protobuf),
        "googleapis-common-protos": Version(ROWS[0].common_protos),
    }


def test_rows_ascend() -> None:
    for pick in ("protobuf", "grpcio", "common_protos"):
        versions = [Version(getattr(row, pick)) for row in ROWS]
        assert versions == sorted(versions), pick
