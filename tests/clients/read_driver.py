"""Evaluates expressions with the clients that read: they come pickled on the input, what they give goes to the output.

Runs in an environment of its own, where those clients are as they were released. An expression is what a user would
write, with `nq` for neptune_query or `alpha` and `ReadOnlyProject` for those of neptune-fetcher. Data frames, objects
of the clients and exceptions come back as what both sides can read: see `portable`.
"""

# The clients are in no environment that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import pickle
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

MISSING = ("missing",)


def names_of(client: str) -> dict[str, Any]:
    """Return what expressions can name; only one of the two clients is there."""
    if client == "neptune-query":
        found = {"nq": importlib.import_module("neptune_query")}
        importlib.import_module("neptune_query.experimental")
        filters = importlib.import_module("neptune_query.filters")
        importlib.import_module("neptune_query.runs")
    else:
        legacy = importlib.import_module("neptune_fetcher")
        found = {name: getattr(legacy, name) for name in ("ReadOnlyProject", "ReadOnlyRun")}
        found["alpha"] = importlib.import_module("neptune_fetcher.alpha")
        importlib.import_module("neptune_fetcher.alpha.runs")
        filters = importlib.import_module("neptune_fetcher.alpha.filters")
    return found | {name: getattr(filters, name) for name in ("Attribute", "AttributeFilter", "Filter")}


def portable(value: Any) -> Any:
    """Return a value without anything of pandas, numpy and the clients: times as milliseconds, NaN as NaN."""
    if isinstance(value, pd.DataFrame):
        return {
            "index": [portable(label) for label in value.index.tolist()],
            "columns": [portable(label) for label in value.columns.tolist()],
            "rows": [
                [portable(value.iat[row, column]) for column in range(value.shape[1])] for row in range(value.shape[0])
            ],
            "names": (list(value.index.names), list(value.columns.names)),
        }
    if value is None or value is pd.NaT or value is pd.NA:
        return MISSING
    if isinstance(value, pd.Interval):
        return (portable(value.left), portable(value.right), value.closed)
    if hasattr(value, "timestamp"):
        return ("ms", round(value.timestamp() * 1000))
    if isinstance(value, (np.generic, Path)):
        return portable(value.item()) if isinstance(value, np.generic) else str(value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: portable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return (type(value).__name__, fields)
    if isinstance(value, dict):
        return {portable(key): portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, types.GeneratorType)):
        return tuple(portable(item) for item in value) if isinstance(value, tuple) else [portable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return {portable(item) for item in value}
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return value


def evaluated(expression: str, names: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", portable(eval(expression, dict(names)))  # it comes from our own tests
    except Exception as error:  # noqa: BLE001 # which one it is, is what tests ask
        return "error", (type(error).__name__, str(error))


def main() -> None:
    client = sys.argv[1]
    # What the client prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    names = names_of(client)
    pickle.dump(version(client), answers)
    answers.flush()
    while True:
        try:
            environment, expression = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        before = dict(os.environ)
        os.environ.update(environment)
        answer = evaluated(expression, names)
        os.environ.clear()
        os.environ.update(before)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
