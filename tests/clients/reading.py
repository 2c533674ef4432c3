"""The released clients that read, each in a process of its own that evaluates expressions."""

from __future__ import annotations

import math
import pickle
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.environments import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMON: Final = (
    "pandas==3.1.1; python_version >= '3.11'",
    "pandas==2.3.3; python_version < '3.11'",
    "protobuf==6.33.6",
)
"""What pip chooses beside the clients by itself: what a new user of them has."""

QUERY: Final = Environment("neptune-query-alone", ("neptune-query==1.14.1", *COMMON), package=False)
FETCHER: Final = Environment("neptune-fetcher", ("neptune-fetcher==0.23.0", *COMMON), package=False)
DRIVER: Final = Path(__file__).with_name("read_driver.py")

NAN: Final = "nan"
"""A number that is none, or nothing where numbers are, as read_driver returns it."""

MISSING: Final = ("missing",)
"""Nothing, as read_driver returns it."""


def ms(milliseconds: int) -> tuple[str, int]:
    """Return a time as read_driver returns it."""
    return ("ms", milliseconds)


def plain(value: float) -> Any:
    """Return a number as read_driver returns it."""
    return NAN if math.isnan(value) else value


def points(label: str, values: Mapping[Any, float]) -> dict[Any, Any]:
    """Return points by step as those of a frame by the labels of its rows."""
    return {(label, float(step)): plain(value) for step, value in values.items()}


class ClientError(Exception):
    """What the client raised: `name` is that of its class."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass(frozen=True)
class Frame:
    """A data frame."""

    index: list[Any]
    columns: list[Any]
    rows: list[list[Any]]

    def column(self, label: Any) -> dict[Any, Any]:
        """Return the values of a column by the labels of the rows."""
        position = self.columns.index(label)
        return {label: row[position] for label, row in zip(self.index, self.rows, strict=True)}

    def records(self) -> dict[Any, dict[Any, Any]]:
        """Return the values by the labels of rows and columns, without those that are missing."""
        return {
            label: {name: value for name, value in zip(self.columns, row, strict=True) if value not in (NAN, MISSING)}
            for label, row in zip(self.index, self.rows, strict=True)
        }


class Reader:
    """One process of a client. `project` is the one it reads when an expression names none."""

    def __init__(self, environment: Environment, environ: Mapping[str, str], folder: Path) -> None:
        client, _, pinned = environment.pins[0].partition("==")
        self.project = ""
        self._log = (folder / f"{client}.log").open("w+")
        self._process = subprocess.Popen(
            [environment.python(), DRIVER, client],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._answer() == pinned

    def __call__(self, expression: str, **environment: str) -> Any:
        """Return the value of an expression; raise ClientError for what it raises."""
        assert self._process.stdin is not None
        environment = {"NEPTUNE_PROJECT": self.project, **environment}
        self._process.stdin.write(pickle.dumps((environment, expression)))
        self._process.stdin.flush()
        kind, value = self._answer()
        if kind == "error":
            raise ClientError(*value)
        return value

    def frame(self, expression: str, **environment: str) -> Frame:
        """Return the data frame that an expression gives."""
        found = self(expression, **environment)
        return Frame(found["index"], found["columns"], found["rows"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            self._log.seek(0)
            raise AssertionError(self._log.read()) from None


def uncalled(reader: Reader, tests: Path, *owners: str, known: Mapping[str, str] | None = None) -> set[str]:
    """Return the public functions of modules and classes, each named as expressions do, that a file never calls.

    `known` gives owners that expressions name in another way, such as objects of a class.
    """
    text = tests.read_text(encoding="utf-8")
    found: set[str] = set()
    for owner in owners:
        listed = f"getattr({owner}, '__all__', None) or [name for name in dir({owner}) if name[0] != '_']"
        functions = f"[name for name in {listed} if __import__('inspect').isroutine(getattr({owner}, name))]"
        called = (known or {}).get(owner, re.escape(owner))
        found |= {f"{owner}.{name}" for name in reader(functions) if not re.search(rf"{called}\.{name}\(", text)}
    return found
