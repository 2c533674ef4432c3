"""Fixtures for the command line: commands in this process or in one of their own, and a server to call."""

from __future__ import annotations

import functools
import io
import sys
from typing import TYPE_CHECKING

import pytest

from neptune_api.cli import main
from neptune_api.credentials import TOKEN_VARIABLE
from neptune_api.server import LocalServer
from tests.cli import processes
from tests.cli.processes import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.cli.processes import Serving


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that runs a command in this process."""

    def run(*arguments: str, stdin: str = "", token: str | None = None) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        if token is not None:
            monkeypatch.setenv(TOKEN_VARIABLE, token)
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Result]:
    """A function that runs a command in a process of its own."""
    return functools.partial(processes.run, tmp_path)


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., AbstractContextManager[Serving]]:
    """A function that serves a folder in a process of its own, for the length of a `with` block."""
    return functools.partial(processes.serve, tmp_path)


@pytest.fixture(scope="session")
def local() -> Iterator[LocalServer]:
    """A server in this process."""
    with LocalServer() as server:
        yield server
