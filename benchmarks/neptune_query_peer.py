"""neptune-query, run by the Python of its environment: asks the server whose token is in the environment.

Reads lines of JSON from stdin, `{"expression": "runs.list_runs()", "size": 100}`, evaluates the expression, where
`runs` is neptune_query.runs, and answers with the seconds it took, if what it gives has that size. The first line it
writes says that it is ready.
"""

# The client is in no environment that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import json
import os
import sys
import time

import neptune_query
from neptune_query import filters, runs

NAMES = {"neptune_query": neptune_query, "runs": runs, "Filter": filters.Filter}


def main() -> None:
    """Answer until stdin ends."""
    # What the client prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        found = eval(asked["expression"], dict(NAMES))  # noqa: S307 # it comes from the benchmarks
        seconds = time.perf_counter() - started
        if len(found) != asked["size"]:
            raise RuntimeError(f"{asked['expression']} gave {len(found)} instead of {asked['size']}")
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
