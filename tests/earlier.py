"""A data folder as the version before migrations left it, and how it was made.

tests/data/schema_0001.sql is what this program wrote when it ran over that version's code (the first commit that has
store/compaction.py): some operations applied, compacted in part, and one still in the log.

    PYTHONPATH=<checkout of that version> python tests/earlier.py > tests/data/schema_0001.sql
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neptune_api.conformance.operations import append, assign, change, counts, create, file, snapshot, update
from tests.stores import Bench

if TYPE_CHECKING:
    from neptune_api.v1 import ingest_pb2 as pb

DUMP: Final = Path(__file__).parent / "data" / "schema_0001.sql"
RUNS: Final = ("run", "fork", "late")
USER_ID: Final = 1

COMPACTED: Final[list[pb.RunOperation]] = [
    create(experiment="baseline", family="family"),
    assign({"lr": 0.1, "layers": 3, "name": "näme", "tags": frozenset({"a", "b"}), "weights": file("w.bin", 9)}),
    *(append({"loss": 1.0 / (number + 1), "note": f"step {number}"}, at=number) for number in range(40)),
    append({"bins": counts([0.0, 0.5, 1.0], [3, 4])}, at=1),
]
IN_TAILS: Final[list[pb.RunOperation]] = [
    *(append({"loss": float("nan") if number == 45 else 0.5}, at=number) for number in range(40, 50)),
    append({"loss": 0.25}, at=60, preview=0.5),
    update(snapshot(sets={"tags": change(add=["c"], remove=["a"])})),
    create("fork", parent="run", at=20),
    append({"loss": 7.0}, at=21, run="fork"),
]
ACCEPTED: Final[list[pb.RunOperation]] = [create("late"), append({"loss": 1.0}, at=1, run="late")]


def write(bench: Bench) -> None:
    """Apply all but the last operations, which stay in the log."""
    bench.apply(*COMPACTED)
    bench.store.compact()
    bench.apply(*IN_TAILS)
    bench.store._applier.stop(1)
    bench.submit(*ACCEPTED)


def restore(folder: Path) -> None:
    """Make the folder."""
    folder.mkdir(parents=True)
    database = sqlite3.connect(folder / "store.sqlite3")
    database.executescript(DUMP.read_text(encoding="utf-8"))
    database.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        with Bench(Path(name)) as made:
            write(made)
        source = sqlite3.connect(Path(name) / "store.sqlite3")
        sys.stdout.writelines(f"{line}\n" for line in source.iterdump())
