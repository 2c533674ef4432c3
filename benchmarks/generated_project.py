"""A project with many runs, written straight into the tables of a store: what searches are measured on.

One run goes the usual way, through the operation log; the others are copies of its rows with values of their own. All
have 20 configs, 5 float series of 100 points, an experiment each and the sys/* attributes of any run.

    python benchmarks/generated_project.py FOLDER [RUNS]
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from neptune_api.server.store import columns, schema
from neptune_api.server.store.columns import FloatColumns
from neptune_api.server.store.database import Database
from neptune_api.server.store.directory import Directory, ensure_owner
from neptune_api.server.store.store import Store
from neptune_api.server.store.summaries import FloatSummary
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKSPACE: Final = "local"
PROJECT: Final = "generated"
RUNS: Final = 100_000
FLOATS: Final = tuple(f"config/float_{number}" for number in range(7))
"""Uniform from 0 to 1."""
INTS: Final = tuple(f"config/int_{number}" for number in range(7))
"""Uniform from 0 to 999."""
TEXTS: Final = tuple(f"config/text_{number}" for number in range(6))
"""`resnet` and a number from 18 to 152, `-`, the number of the run."""
SERIES: Final = tuple(f"metrics/series_{number}" for number in range(5))
_POINTS: Final = 100
_START_MS: Final = 1_700_000_000_000
_VARIANTS: Final = 500
_BATCH: Final = 500


def generate(database: Database, runs: int = RUNS, *, seed: int = 1) -> int:
    """Fill an empty store and return the id of the project."""
    project_id, user_id = _project(database)
    _log_template(database, project_id, user_id)
    chance = random.Random(seed)  # noqa: S311  # no secrets
    with database.write() as connection:
        template = connection.execute(sa.select(schema.runs)).mappings().one()
        found = connection.execute(sa.select(schema.attributes).order_by(schema.attributes.c.id)).mappings().all()
        summaries = {row["attribute_id"]: row for row in connection.execute(sa.select(schema.series)).mappings()}
        numbers = range(2, runs + 1)
        for start in range(0, len(numbers), _BATCH):
            some = numbers[start : start + _BATCH]
            connection.execute(schema.runs.insert(), [_run(template, number) for number in some])
            connection.execute(
                schema.experiments.insert(),
                [{"project_id": project_id, "name": f"experiment-{number}", "head_id": number} for number in some],
            )
            connection.execute(
                schema.attributes.insert(), [row for number in some for row in _attributes(found, number, chance)]
            )
        variants = _variants(chance)
        width = len(found)
        series = [
            (number, row["id"] + (number - 1) * width, summaries[row["id"]])
            for number in numbers
            for row in found
            if row["id"] in summaries
        ]
        for start in range(0, len(series), _BATCH):
            rows = [(item, chance.choice(variants)) for item in series[start : start + _BATCH]]
            connection.execute(
                schema.series.insert(),
                [{**template_row, "attribute_id": key, **summary} for (_, key, template_row), (summary, _) in rows],
            )
            connection.execute(
                schema.chunks.insert(), [{"attribute_id": key, **chunk} for (_, key, _), (_, chunk) in rows]
            )
        connection.execute(schema.projects.update().values(next_run_number=runs + 1))
    return project_id


def _project(database: Database) -> tuple[int, int]:
    directory = Directory(database)
    user = ensure_owner(directory, WORKSPACE, "owner")
    workspace_id = directory.ensure_workspace(WORKSPACE)
    return directory.create_project(PROJECT, workspace_id=workspace_id, creator_id=user.id), user.id


def _log_template(database: Database, project_id: int, user_id: int) -> None:
    create = pb.CreateRun(experiment_id="experiment-1")
    configs: dict[str, pb.Value] = {}
    configs |= {name: pb.Value(float64=0.5) for name in FLOATS}
    configs |= {name: pb.Value(int64=500) for name in INTS}
    configs |= {name: pb.Value(string="resnet18-1") for name in TEXTS}
    snapshots = [pb.UpdateRunSnapshot(assign=configs)]
    for step in range(_POINTS):
        snapshot = pb.UpdateRunSnapshot(append={name: pb.Value(float64=0.5) for name in SERIES})
        snapshot.step.whole = step
        snapshot.timestamp.FromMilliseconds(_START_MS + step)
        snapshots.append(snapshot)
    operations = (
        pb.RunOperation(run_id="run-1", create=create),
        pb.RunOperation(run_id="run-1", update_batch=pb.UpdateRunSnapshots(snapshots=snapshots)),
    )
    store = Store(database)
    store.start()
    try:
        ids = [
            store.submit(operation.SerializeToString(), user_id=user_id, project_id=project_id)
            for operation in operations
        ]
        store.wait_applied(ids, 60)
        store.compact()
    finally:
        store.close()


def _run(template: Any, number: int) -> dict[str, Any]:
    return {
        **template,
        "id": number,
        "uuid": str(uuid.UUID(int=number)),
        "number": number,
        "run_id": f"run-{number}",
        "family": f"run-{number}",
        "experiment": f"experiment-{number}",
        "created_ms": template["created_ms"] + number,
    }


def _attributes(template: Any, number: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    texts = {
        "sys/id": f"GENERATED-{number}",
        "sys/custom_run_id": f"run-{number}",
        "sys/family": f"run-{number}",
        "sys/name": f"experiment-{number}",
        "sys/experiment/name": f"experiment-{number}",
        "sys/diagnostics/run_uuid": str(uuid.UUID(int=number)),
    }
    for row in template:
        name = row["name"]
        changed: dict[str, Any] = {}
        if name in texts:
            changed = {"text_value": texts[name]}
        elif name in FLOATS:
            changed = {"float_value": chance.random()}
        elif name in INTS:
            changed = {"int_value": chance.randrange(1000)}
        elif name in TEXTS:
            changed = {"text_value": f"resnet{chance.randint(18, 152)}-{number}"}
        elif row["type"] == _DATETIME:
            changed = {"int_value": row["int_value"] + number}
        copy = {**row, **changed, "id": row["id"] + (number - 1) * len(template), "run_id": number}
        del copy["short_text"]
        yield copy


def _variants(chance: random.Random) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return summaries and chunks of series."""
    steps = np.arange(_POINTS, dtype=np.int64) * 1_000_000
    variants: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for _ in range(_VARIANTS):
        values = np.array([chance.random() for _ in range(_POINTS)])
        points = FloatColumns(steps, _START_MS + np.arange(_POINTS, dtype=np.int64), values)
        summary = FloatSummary.of(points)
        payload = columns.encode(points)
        variants.append(
            (
                {
                    "last_value": summary.last,
                    "minimum": summary.minimum,
                    "maximum": summary.maximum,
                    "total": summary.total,
                    "deviations": summary.deviations,
                },
                {
                    "first_step": 0,
                    "last_step": int(steps[-1]),
                    "count": _POINTS,
                    "payload": payload,
                    "checksum": columns.checksum(payload),
                },
            )
        )
    return variants


_DATETIME: Final = 5  # neptune_api.v1.AttributeType


if __name__ == "__main__":
    began = time.perf_counter()
    opened = Database(Path(sys.argv[1]))
    try:
        generate(opened, int(sys.argv[2]) if len(sys.argv) > 2 else RUNS)
    finally:
        opened.close()
    print(f"{time.perf_counter() - began:.0f} s")
