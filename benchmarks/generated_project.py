"""Projects of a size at which clients would log for hours, written straight into the tables of a store.

Some runs go the usual way, through the operation log; the others are copies of their rows, made by the database, with
names, times and configs of their own. All have an experiment each and the sys/* attributes of any run.

    python -m benchmarks.generated_project FOLDER_OR_URL [RUNS]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from neptune_api.server.store import schema
from neptune_api.server.store.database import Database, is_url
from neptune_api.server.store.directory import Directory, ensure_owner
from neptune_api.server.store.store import Store, Submission
from neptune_api.v1 import ingest_pb2 as pb
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKSPACE: Final = "local"
OWNER: Final = "owner"
FLOATS: Final = tuple(f"config/float_{number}" for number in range(7))
INTS: Final = tuple(f"config/int_{number}" for number in range(7))
TEXTS: Final = tuple(f"config/text_{number}" for number in range(6))
RUNS: Final = 100_000
START_MS: Final = 1_700_000_000_000

_LOGGED_RUNS: Final = 20
_ROWS_AT_ONCE: Final = 200_000
_NAMES_AT_ONCE: Final = 10_000
_PRIME: Final = 99_991
_APPLY_SECONDS: Final = 300.0
_UUID: Final = "00000000-0000-4000-8000-"
_FIRST_UUID: Final = 100_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a project is."""

    project: str
    runs: int
    has_configs: bool = False
    """Whether the runs have FLOATS, INTS and TEXTS."""
    series: int = 0
    """Float series of each run, of `steps` points."""
    steps: int = 0
    attributes: int = 0
    """Int attributes of each run, beside configs and series."""

    @property
    def series_names(self) -> list[str]:
        """Paths of the series."""
        return [f"metrics/series_{number:03}" for number in range(self.series)]

    @property
    def attribute_names(self) -> list[str]:
        """Paths of the int attributes."""
        return [f"group-{number % 97:02}/attribute-{number:06}" for number in range(self.attributes)]


def many_runs(runs: int = RUNS, project: str = "many-runs") -> Shape:
    """Return runs with 20 configs and 5 series each."""
    return Shape(project, _whole_blocks(runs), has_configs=True, series=5, steps=100)


def many_attributes(attributes: int = RUNS) -> Shape:
    """Return one run."""
    return Shape("many-attributes", 1, attributes=attributes)


def many_series(runs: int = 1_000, series: int = 1_000) -> Shape:
    """Return runs with as many series each, of 100 points."""
    return Shape("many-series", _whole_blocks(runs), series=series, steps=100)


def _whole_blocks(runs: int) -> int:
    """Return so many runs, or a few more: those that are logged are copied all together."""
    return runs if runs < _LOGGED_RUNS else -(-runs // _LOGGED_RUNS) * _LOGGED_RUNS


def float_of(number: int, place: int) -> float:
    """Return the value of FLOATS[place] of the run with a number: from 0 to 1, the same in few runs."""
    return (number * 7919 + place * 104_729) % _PRIME / _PRIME


def int_of(number: int, place: int) -> int:
    """Return the value of INTS[place]: from 0 to 999."""
    return (number * 31 + place * 17) % 1000


def text_of(number: int, place: int) -> str:
    """Return the value of TEXTS[place]: `resnet`, a number from 18 to 152, `-`, the number of the run."""
    return f"resnet{18 + (number * 13 + place) % 135}-{number}"


def generate(database: Database, shape: Shape) -> int:
    """Write a project into a store that nobody else uses and return its id."""
    directory = Directory(database)
    user = ensure_owner(directory, WORKSPACE, OWNER)
    workspace_id = directory.ensure_workspace(WORKSPACE)
    project_id = directory.create_project(shape.project, workspace_id=workspace_id, creator_id=user.id)
    logged = min(_LOGGED_RUNS, shape.runs)
    _log(database, shape, logged, user_id=user.id, project_id=project_id)
    if shape.runs > logged:
        _copy(database, project_id, logged, -(-shape.runs // logged))
    _settle(database)
    return project_id


def _log(database: Database, shape: Shape, runs: int, *, user_id: int, project_id: int) -> None:
    store = Store(database)
    store.start()
    try:
        for number in range(1, runs + 1):
            payloads = [operation.SerializeToString() for operation in _operations(shape, number)]
            ids = store.submit_many([Submission(payload, user_id, project_id) for payload in payloads])
            store.wait_applied(ids, _APPLY_SECONDS)
        store.compact()
    finally:
        store.close()


def _operations(shape: Shape, number: int) -> Iterator[pb.RunOperation]:
    run_id = f"run-{number}"
    yield pb.RunOperation(run_id=run_id, create=pb.CreateRun(experiment_id=f"experiment-{number}"))
    configs: dict[str, pb.Value] = {}
    if shape.has_configs:
        configs |= {name: pb.Value(float64=float_of(number, place)) for place, name in enumerate(FLOATS)}
        configs |= {name: pb.Value(int64=int_of(number, place)) for place, name in enumerate(INTS)}
        configs |= {name: pb.Value(string=text_of(number, place)) for place, name in enumerate(TEXTS)}
    configs |= {name: pb.Value(int64=place) for place, name in enumerate(shape.attribute_names)}
    names = list(configs)
    for first in range(0, len(names), _NAMES_AT_ONCE):
        some = {name: configs[name] for name in names[first : first + _NAMES_AT_ONCE]}
        yield _update(run_id, pb.UpdateRunSnapshot(assign=some))
    values = np.random.default_rng(number).random((shape.steps, shape.series))
    for step, row in enumerate(values.tolist()):
        append = {name: pb.Value(float64=value) for name, value in zip(shape.series_names, row, strict=True)}
        snapshot = pb.UpdateRunSnapshot(append=append)
        snapshot.step.whole = step
        snapshot.timestamp.FromMilliseconds(START_MS + step * 1000)
        yield _update(run_id, snapshot)


def _update(run_id: str, snapshot: pb.UpdateRunSnapshot) -> pb.RunOperation:
    return pb.RunOperation(run_id=run_id, update_batch=pb.UpdateRunSnapshots(snapshots=[snapshot]))


def _copy(database: Database, project_id: int, logged: int, blocks: int) -> None:
    """Copy all the rows of the runs that were logged, each time as one block; keys go on where the last block ends."""
    copies = _Copies(database, project_id, logged)
    at_once = max(1, _ROWS_AT_ONCE // copies.rows)
    for first in range(1, blocks, at_once):
        with database.write() as connection:
            for statement in copies.statements(first, min(first + at_once, blocks)):
                connection.execute(statement)
    with database.write() as connection:
        is_it = schema.projects.c.id == project_id
        connection.execute(schema.projects.update().where(is_it).values(next_run_number=blocks * logged + 1))


class _Copies:
    """The statements that copy the runs of a project."""

    def __init__(self, database: Database, project_id: int, logged: int) -> None:
        self._logged = logged
        self._runs = _Span(schema.runs, schema.runs.c.project_id == project_id)
        theirs = sa.select(schema.runs.c.id).where(self._runs.which)
        self._attributes = _Span(schema.attributes, schema.attributes.c.run_id.in_(theirs))
        ids = sa.select(schema.attributes.c.id).where(self._attributes.which)
        self._series = _Span(schema.series, schema.series.c.attribute_id.in_(ids), "attribute_id")
        self._chunks = _Span(schema.chunks, schema.chunks.c.attribute_id.in_(ids))
        self._project_id = project_id
        self.rows = 0
        with database.read() as connection:
            is_it = schema.projects.c.id == project_id
            self._project_key = connection.execute(sa.select(schema.projects.c.key).where(is_it)).scalar_one()
            for span in (self._runs, self._attributes, self._series, self._chunks):
                self.rows += span.measure(connection)

    def statements(self, first: int, end: int) -> Iterator[sa.Insert]:
        """Yield what makes the blocks from the first one to the one before the end."""
        start = sa.select(sa.literal(first, sa.BigInteger).label("number")).cte("blocks", recursive=True)
        later = start.c.number + sa.literal(1, sa.BigInteger)
        blocks = start.union_all(sa.select(later).where(later < end))
        block = blocks.c.number
        runs, attributes = self._runs.copy(), self._attributes.copy()
        run_number = runs.c.number + block * self._logged
        run_name, experiment = _joined("run-", run_number), _joined("experiment-", run_number)
        run_key = self._runs.key(runs.c.id, block)
        yield self._runs.insert(
            runs,
            blocks,
            {
                "uuid": _joined(_UUID, run_key + _FIRST_UUID),
                "run_id": run_name,
                "number": run_number,
                "experiment": experiment,
                "family": run_name,
                "created_ms": runs.c.created_ms + block * 1000,
            },
        )
        heads = sa.select(runs.c.project_id, experiment, run_key).select_from(sa.join(blocks, runs, sa.true()))
        is_logged = runs.c.id.between(self._runs.first, self._runs.last)
        yield schema.experiments.insert().from_select(
            ["project_id", "name", "head_id"], heads.where(runs.c.project_id == self._project_id, is_logged)
        )
        number = attributes.c.run_id - (self._runs.first - 1) + block * self._logged
        place = sa.cast(sa.func.substr(attributes.c.name, sa.func.length(attributes.c.name)), sa.BigInteger)
        name = attributes.c.name
        yield self._attributes.insert(
            attributes,
            blocks,
            {
                "run_id": self._runs.key(attributes.c.run_id, block),
                "int_value": sa.case(
                    (name.in_(INTS), (number * 31 + place * 17) % 1000),
                    (attributes.c.type == T.ATTRIBUTE_TYPE_DATETIME, attributes.c.int_value + block * 1000),
                    else_=attributes.c.int_value,
                ),
                "float_value": sa.case(
                    (
                        name.in_(FLOATS),
                        sa.cast((number * 7919 + place * 104_729) % _PRIME, sa.Double) / sa.literal(float(_PRIME)),
                    ),
                    else_=attributes.c.float_value,
                ),
                "text_value": sa.case(
                    (name.in_(TEXTS), _joined("resnet", 18 + (number * 13 + place) % 135, "-", number)),
                    (name == "sys/id", _joined(f"{self._project_key}-", number)),
                    (name.in_(("sys/custom_run_id", "sys/family")), _joined("run-", number)),
                    (name.in_(("sys/name", "sys/experiment/name")), _joined("experiment-", number)),
                    (
                        name == "sys/diagnostics/run_uuid",
                        _joined(_UUID, self._runs.key(attributes.c.run_id, block) + _FIRST_UUID),
                    ),
                    else_=attributes.c.text_value,
                ),
            },
        )
        for span in (self._series, self._chunks):
            copy = span.copy()
            yield span.insert(copy, blocks, {"attribute_id": self._attributes.key(copy.c.attribute_id, block)})


class _Span:
    """Rows of a table whose keys follow one another, and copies of them with the keys that follow these."""

    def __init__(self, table: sa.Table, which: sa.ColumnElement[bool], key: str = "id") -> None:
        self.which = which
        self.first = self.last = 0
        self._table = table
        self._key = key

    def measure(self, connection: sa.Connection) -> int:
        """Find the keys and return how many rows there are."""
        key = self._table.c[self._key]
        found = connection.execute(
            sa.select(sa.func.min(key), sa.func.max(key), sa.func.count()).where(self.which)
        ).one()
        self.first, self.last, count = found[0] or 0, found[1] or -1, found[2]
        return int(count)

    def copy(self) -> Any:
        """Return the table as what rows are copied from."""
        return self._table.alias()

    def key(self, column: sa.ColumnElement[int], block: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
        """Return the key that the copy of a row has in a block."""
        return column + block * (self.last - self.first + 1)

    def insert(self, source: Any, blocks: sa.CTE, changes: dict[str, Any]) -> sa.Insert:
        """Return the statement that writes the copies of all blocks, with changes of columns."""
        key = source.c[self._key]
        columns = [column.name for column in self._table.c if column.computed is None]
        values = {"id": self.key(key, blocks.c.number), **changes}
        selected = sa.select(*(values[name] if name in values else source.c[name] for name in columns))
        selected = selected.select_from(sa.join(blocks, source, sa.true()))
        return self._table.insert().from_select(columns, selected.where(key.between(self.first, self.last)))


def _joined(*parts: Any) -> sa.ColumnElement[str]:
    texts = [sa.literal(part, sa.Text) if isinstance(part, str) else sa.cast(part, sa.Text) for part in parts]
    whole: sa.ColumnElement[str] = texts[0]
    for text in texts[1:]:
        whole = whole.concat(text)
    return whole


def _settle(database: Database) -> None:
    """Do what PostgreSQL does by itself some minutes after so much has been written."""
    if not database.is_shared:
        return
    tables = (schema.runs, schema.experiments, schema.attributes, schema.series, schema.chunks)
    with database.write() as connection:
        for table in tables:
            if "id" in table.c:
                sequence = sa.func.pg_get_serial_sequence(table.name, "id")
                connection.execute(
                    sa.select(sa.func.setval(sequence, sa.select(sa.func.max(table.c.id)).scalar_subquery()))
                )
    with database.backend.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in tables:
            connection.execute(sa.text(f"VACUUM (ANALYZE) {table.name}"))


def main() -> None:
    """Generate the projects."""
    began = time.perf_counter()
    location = sys.argv[1]
    database = Database(location if is_url(location) else Path(location))
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else RUNS
    try:
        for shape in (many_runs(runs), many_attributes(runs), many_series(max(1, runs // 100), max(1, runs // 100))):
            generate(database, shape)
            print(f"{shape.project}: after {time.perf_counter() - began:.0f} s")
    finally:
        database.close()


if __name__ == "__main__":
    main()
