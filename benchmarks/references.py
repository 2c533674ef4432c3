"""What stands beside our figures: a plain file, and other packages in environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import environment
from tests.clients.reading import QUERY
from tests.environments import Environment, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from typing_extensions import Self

    from benchmarks.rounds import Bench

APPEND: Final = "fsynced append of the same bytes"
"""Name of the reference that append_synced measures."""

IMPORTS: Final = "`python -c 'import grpc, numpy, sqlalchemy'`"
"""Name of the reference that import_libraries measures."""

_FOLDER: Final = Path(__file__).parent


def import_libraries() -> float:
    """Return the seconds that a process takes which imports what a server stands on, and nothing else."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import grpc, numpy, sqlalchemy"], check=True, env=environment())
    return time.perf_counter() - started


def append_synced(path: Path, blocks: Iterable[bytes]) -> float:
    """Append blocks to a new file, each one on disk before the next; return the seconds it took.

    The blocks are made before the clock starts.
    """
    made = list(blocks)
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for block in made:
            file.write(block)
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


class Peer:
    """Another package, measured by a script that the Python of its environment runs; see mlflow_peer.py."""

    name: str
    requirement: str
    script: str

    def __init__(self, process: subprocess.Popen[str]) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process has to be started with pipes")
        self.pid: Final = process.pid
        self._questions = process.stdin
        self._answers = process.stdout

    @classmethod
    @contextmanager
    def beside(cls, bench: Bench, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Self | None]:
        """Install the package if need be and run its script; None, and a note, when it cannot be or is not wanted."""
        if not bench.peers:
            bench.note(f"{cls.name} was not measured: the run was without other products.")
            yield None
            return
        package = cls.requirement.partition("==")[0]
        bench.say(f"preparing {cls.requirement} (installed once, up to two minutes)")
        try:
            python = cls.environment().python()
        except (SetupError, OSError) as error:
            bench.note(f"{cls.name} was not measured: it could not be installed ({_last_line(error)}).")
            yield None
            return
        folder = bench.folder / package
        folder.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with (
            (bench.folder / f"{package}.log").open("w+") as log,
            subprocess.Popen(
                [str(python), str(_FOLDER / cls.script), str(folder), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", **(environ or {})},
            ) as process,
        ):
            peer = cls(process)
            if peer._is_ready():
                yield peer
            else:
                log.seek(0)
                bench.note(f"{cls.name} was not measured: it does not start ({_last_line(log.read())}).")
                yield None

    @classmethod
    def environment(cls) -> Environment:
        """Return where the package is."""
        return Environment(cls.requirement.partition("==")[0], (cls.requirement,), package=False)

    def _is_ready(self) -> bool:
        return self._answers.readline() == "ready\n"

    def ask(self, **question: object) -> float:
        """Return how many seconds the script needs for what it is asked to do."""
        print(json.dumps(question), file=self._questions, flush=True)
        seconds: float = json.loads(self._answers.readline())["seconds"]
        return seconds


class Mlflow(Peer):
    """MLflow's server over SQLite, and its client."""

    name = "MLflow 3.17.2, log_batch"
    requirement = "mlflow==3.17.2"
    script = "mlflow_peer.py"

    def log_batch(self, *, series: int, points: int) -> float:
        """Log points, 1,000 a request, and return how many a second were taken."""
        return points / self.ask(series=series, points=points)


class NeptuneApi(Peer):
    """The client of the older package neptune-api, asking our server."""

    name = "neptune-api 0.26.0"
    requirement = "neptune-api==0.26.0"
    script = "neptune_api_peer.py"

    def calls(self, count: int, *, in_flight: int = 0) -> float:
        """Make calls, one after the other or with asyncio and so many in flight; return how many a second."""
        return count / self.ask(calls=count, in_flight=in_flight)


class NeptuneQuery(Peer):
    """The released client neptune-query, which asks our server over HTTP."""

    name = "neptune-query 1.14.1"
    requirement = "neptune-query==1.14.1"
    script = "neptune_query_peer.py"

    @classmethod
    def environment(cls) -> Environment:
        """Return where the package is: where the tests have it."""
        return QUERY

    def call(self, expression: str, *, size: int) -> float:
        """Evaluate an expression whose value has a size; return how many seconds it took."""
        return self.ask(expression=expression, size=size)


def _last_line(text: object) -> str:
    return (str(text).strip().splitlines() or ["no output"])[-1]
