"""Both doors of a server under load at once, each beside itself alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Final

from benchmarks.load import THREADS
from benchmarks.processes import Server
from benchmarks.report import Reference, Row
from benchmarks.rounds import interleave
from benchmarks.table import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rounds import Bench

_SECONDS: Final = 3.0
_ALONE: Final = "alone"


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the rows."""
    seconds = max(0.2, _SECONDS * bench.scale)
    both: dict[str, list[float]] = {"gRPC": [], "HTTP": []}
    with Server(bench.folder / "data") as server:
        urls = {"gRPC": f"grpc://{server.grpc_target}", "HTTP": server.http_url}
        environment = {**os.environ, "NEPTUNE_API_TOKEN": server.api_token}

        def together() -> float:
            for name, rate in zip(both, _load(list(urls.values()), seconds, environment), strict=True):
                both[name].append(rate)
            return sum(rates[-1] for rates in both.values())

        figures = interleave(
            bench,
            5,
            {
                "gRPC": lambda: _load([urls["gRPC"]], seconds, environment)[0],
                "both": together,
                "HTTP": lambda: _load([urls["HTTP"]], seconds, environment)[0],
            },
        )
    for name, other in (("gRPC", "HTTP"), ("HTTP", "gRPC")):
        yield Row(
            name=f"doors-{name.lower()}",
            what=f"GetUserIdentity over {name}, {THREADS} threads, while {THREADS} others do so over {other}",
            unit="calls/s",
            figures=tuple(both[name]),
            references=(Reference(_ALONE, figures[name]),),
        )


def _load(urls: list[str], seconds: float, environment: dict[str, str]) -> list[float]:
    """Load each address from a process of its own, all at once; return how many calls a second each got."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", url, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for url in urls
    ]
    try:
        for process in processes:
            _line(process.stdout)
        for process in processes:
            if process.stdin is not None:
                process.stdin.write("start\n")
                process.stdin.flush()
        return [float(_line(process.stdout)) for process in processes]
    finally:
        for process in processes:
            process.communicate()


def _line(stream: IO[str] | None) -> str:
    line = "" if stream is None else stream.readline()
    if not line:
        raise RuntimeError("the process that makes the calls has ended")
    return line
