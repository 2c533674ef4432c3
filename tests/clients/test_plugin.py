"""A released client in its own environment, tested by a project that uses the pytest plugin, as the documents say."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.clients.conftest import SCALE

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/testing.md"


def documented(language: str) -> str:
    """Return the block of a language in the section about released clients."""
    section = DOCUMENT.read_text().partition("\n## Released clients\n")[2].partition("\n## ")[0]
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_a_project_tests_its_training(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, wire: str) -> None:
    for name in ("NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT", "PYTEST_ADDOPTS", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CLIENTS_PYTHON", str(SCALE.python()))
    pytester.makepyfile(train=documented("text"))
    pytester.makepyfile(test_train=f"import grpc\n{textwrap.dedent(documented('python'))}")
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error\n")
    result = pytester.runpytest_subprocess(f"--neptune-wire={wire}")
    result.assert_outcomes(passed=1)
