"""Does with neptune-scale what it is told: steps come pickled on the input, what came of them goes into a JSON file.

Runs in an environment of its own, where that client is as it was released. A step is the name of a method of the run,
or of one of the functions below, and its arguments. ("File", arguments), ("Histogram", arguments) and
("SourceTrackingConfig", arguments) stand for objects of the client.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neptune_scale import Run, projects
from neptune_scale.api.run import SourceTrackingConfig
from neptune_scale.types import File, Histogram

PATIENCE = 60.0
TYPES = {"File": File, "Histogram": Histogram, "SourceTrackingConfig": SourceTrackingConfig}


def built(value: Any) -> Any:
    """Return a value with the client's objects in place of what stands for them."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] in TYPES:
        return TYPES[value[0]](**built(value[1]))
    if isinstance(value, dict):
        return {key: built(item) for key, item in value.items()}
    return value


class Driver:
    """One process that logs: its runs, and what the client reported."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.results: list[Any] = []
        self.reports: list[tuple[str, str]] = []

    def do(self, name: str, arguments: dict[str, Any]) -> Any:
        if name in OWN:
            return OWN[name](self, **arguments)
        return getattr(self.run, name)(**built(arguments))

    def open(self, **arguments: Any) -> None:
        def report(kind: str) -> Any:
            return lambda error, _last_seen: self.reports.append((kind, f"{type(error).__name__}: {error}"))

        quiet = {"enable_console_log_capture": False, "source_tracking_config": None}
        self.run = Run(
            **{**quiet, **built(arguments)},
            on_error_callback=report("error"),
            on_warning_callback=report("warning"),
            on_network_error_callback=report("network"),
        )

    def write(self, stream: str, text: str) -> None:
        getattr(sys, stream).write(text)
        getattr(sys, stream).flush()

    def meet(self, here: str, there: str) -> None:
        """Say by a file that this far is done, and wait until another process says so of itself."""
        Path(here).touch()
        end = time.monotonic() + PATIENCE
        while not Path(there).exists():
            assert time.monotonic() < end, "the other process does not come"
            time.sleep(0.01)

    def create_project(self, **arguments: Any) -> Any:
        return projects.create_project(**arguments)

    def list_projects(self) -> Any:
        return projects.list_projects()

    def fails(self, step: str, arguments: dict[str, Any]) -> str:
        """Return the name of the exception that a step raises."""
        try:
            self.do(step, arguments)
        except Exception as error:  # noqa: BLE001 # which one it is, is what the test asks
            return type(error).__name__
        return ""


OWN = {name: getattr(Driver, name) for name in ("open", "write", "meet", "create_project", "list_projects", "fails")}


def main() -> None:
    driver = Driver()
    for name, arguments in pickle.load(sys.stdin.buffer):
        driver.results.append(driver.do(name, arguments))
    found = {"version": version("neptune-scale"), "results": driver.results, "reports": driver.reports}
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
