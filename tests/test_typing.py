"""Types as a user gets them: the installed wheel under mypy --strict and strict pyright, without settings of ours.

The files of tests/typing are the cases. What they expect, errors included, stands in them: a comment that ignores an
error which does not come up is itself an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import ENVIRONMENTS, ROOT, Environment

USER = Environment(
    "typing",
    (
        "protobuf==7.36.2",
        "grpcio==1.85.1",
        "googleapis-common-protos==1.76.0",
        "types-grpcio==1.85.0.20261028",
        "types-protobuf==7.35.1.20260906",
        "numpy==2.2.6",  # the extra columns; the last one for Python 3.10
    ),
)
CASES = sorted(path for path in (ROOT / "tests/typing").glob("*.py"))
MISUSE = "misuse.py"
PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.10",
    "enableTypeIgnoreComments": False,  # those are for mypy
    "reportUnnecessaryTypeIgnoreComment": "error",
}

pytestmark = pytest.mark.slow


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Copy the cases to where no checkout and no settings are around."""
    for path in CASES:
        shutil.copy(path, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return tmp_path


def mypy(folder: Path) -> list[str]:
    """Return the errors that mypy --strict finds in a folder."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-version=3.10",
        "--no-error-summary",
    ]
    command += ["--config-file=", f"--python-executable={USER.python()}", f"--cache-dir={ENVIRONMENTS / 'mypy-cache'}"]
    done = subprocess.run([*command, "."], cwd=folder, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    assert done.returncode in {0, 1}, done.stdout
    return done.stdout.splitlines()


def pyright(folder: Path) -> list[str]:
    """Return the errors and warnings that pyright finds in a folder."""
    command: list[str | Path] = [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={USER.python()}"]
    done = subprocess.run(
        [*command, "-p", folder],
        cwd=folder,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(folder.glob("*.py")))
    return [
        f"{Path(found['file']).name}:{found['range']['start']['line'] + 1}: {found.get('rule')}: {found['message']}"
        for found in report["generalDiagnostics"]
        if found["severity"] != "information"
    ]


def test_mypy_finds_what_the_cases_expect_and_nothing_else(cases: Path) -> None:
    assert mypy(cases) == []


def test_pyright_finds_what_the_cases_expect_and_nothing_else(cases: Path) -> None:
    assert pyright(cases) == []


def test_the_checkers_do_look(cases: Path) -> None:
    """Without its comments every line of misuse.py that carries one is an error, under both checkers."""
    misuse = cases / MISUSE
    lines = misuse.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if "# type: ignore[" in line}
    assert expected == {number for number, line in enumerate(lines, 1) if "# pyright: ignore[" in line}
    assert len(expected) > 20
    for path in cases.glob("*.py"):
        if path != misuse:
            path.unlink()
    misuse.write_text("\n".join(line.partition("  # type: ignore[")[0] for line in lines))
    by_mypy = {int(line.split(":")[1]) for line in mypy(cases) if ": error:" in line}
    by_pyright = {int(line.split(":")[1]) for line in pyright(cases)}
    assert by_mypy == expected
    assert by_pyright == expected
