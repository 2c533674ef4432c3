"""Programs in processes of their own, each a script beside this file, in which every warning is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neptune_api.credentials import TOKEN_VARIABLE, redact

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@dataclass(frozen=True)
class Ended:
    """What a program said and how it ended."""

    code: int
    """Exit code; that of the signal, negative, for one that a signal ended."""
    out: str
    err: str
    seconds: float
    """From its last word on, or from the signal."""

    def told(self) -> Any:
        """What the program told, if it ended well and said nothing else."""
        assert (self.code, self.err) == (0, ""), f"exit code {self.code}: {self.err}"
        return json.loads(self.out.splitlines()[-1])


def run(script: str, *arguments: str, environment: Mapping[str, str], number: signal.Signals | None = None) -> Ended:
    """Run a script until it ends; send it a signal, if asked for, when it says "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", f"tests.processes.scripts.{script}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    with process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            began = time.monotonic()
            if number is not None:
                assert first == "ready\n", process.communicate()
                process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert redact(first + out) == first + out
    assert redact(err) == err
    return Ended(process.returncode, first + out, err, time.monotonic() - began)


def addresses(target: str, token: str, project: str) -> dict[str, str]:
    """Return what a script needs to know, as its environment."""
    return {"TEST_TARGET": target, TOKEN_VARIABLE: token, "TEST_PROJECT": project}
