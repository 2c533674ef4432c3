"""Commands in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import TYPE_CHECKING, Any

from neptune_api.credentials import TOKEN_VARIABLE, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-W", "error", "-m", "neptune_api")
PATIENCE = 30.0


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    def no_token(self) -> Result:
        """Check that nothing that looks like a token was said."""
        assert redact(self.out) == self.out
        assert redact(self.err) == self.err
        return self

    def json(self) -> Any:
        """The output as JSON, of a command that succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return plain | {"PYTHONPATH": str(ROOT)} | changes


def run(folder: Path, *arguments: str, stdin: str = "", token: str | None = None, **changes: str) -> Result:
    """Run a command in a folder; `changes` are environment variables."""
    if token is not None:
        changes[TOKEN_VARIABLE] = token
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**changes),
        timeout=PATIENCE,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


class Serving:
    """A `neptune-api serve` that accepts calls."""

    def __init__(self, process: subprocess.Popen[str], ready_file: Path) -> None:
        self.process = process
        self.ready_file = ready_file
        end = time.monotonic() + PATIENCE
        while not ready_file.exists():
            try:
                code = process.wait(0.02)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < end, "the server does not get ready"
            else:
                raise AssertionError(f"the server ended with {code}: {process.communicate()}")
        self.mode = ready_file.stat().st_mode & 0o777
        self.ready: dict[str, str] = json.loads(ready_file.read_text())

    def end(self, number: Signals = SIGTERM) -> tuple[Result, float]:
        """Send a signal; return what the server said and how long it took to end."""
        began = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return Result(self.process.returncode, out, err), time.monotonic() - began


@contextmanager
def serve(folder: Path, *arguments: str) -> Iterator[Serving]:
    """Serve `folder`/data for the length of a `with` block."""
    ready_file = folder / "ready.json"
    command = [*COMMAND, "serve", "--data", str(folder / "data"), "--ready-file", str(ready_file), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield Serving(process, ready_file)
        finally:
            process.kill()
