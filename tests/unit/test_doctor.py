"""The doctor: what it prints of a sound store, and one kind of damage after the other."""

from __future__ import annotations

import sqlite3
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from neptune_api.cli import main
from neptune_api.conformance.operations import append, assign, create, snapshot, update
from neptune_api.server import LocalServer
from neptune_api.server.files.folder import Folder
from neptune_api.server.files.inspection import inspect
from neptune_api.server.store import schema
from neptune_api.server.store.oplog import Kind
from tests import earlier
from tests.stores import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    Damage = Callable[[sa.Connection], Any]

NAMES = tuple(f"m{number}" for number in range(3))


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A store with chunks, tails, texts, previews, a fork, and an operation that waits."""
    place: Path | str = tmp_path / "data"
    if request.param == "postgresql":
        place = request.getfixturevalue("postgres").create_database()
    else:
        LocalServer(tmp_path / "data").start().stop()  # makes the secrets
    fill(place)
    return place


def fill(place: Path | str) -> None:
    with Bench(place, durable=False) as bench:
        bench.apply(create(experiment="e"), create("fork", parent="run", at=3), assign({"lr": 1.0}))
        bench.apply(*(append({"text": f"t{number}"}, number) for number in range(5)))
        bench.apply_one(update(*(snapshot(dict.fromkeys(NAMES, float(number) * 1e3), number) for number in range(50))))
        bench.store.compact()
        applier = bench.store._applier
        with applier._standing_still:
            bench.submit(update(*(snapshot(dict.fromkeys(NAMES, float("nan")), 50 + number) for number in range(9))))
            bench.submit(append({"m0": 7.0}, 100, preview=0.5), append({"m1": 7.0}, 60))
            applier._apply_batch()
            applier._stopping.set()
        bench.submit(append({"m0": 7.0}, 101))
        # The log keeps the last of these by its layout.
        wide = {f"wide/{number:03}/of/many": 1.0 for number in range(150)}
        for number in range(3):
            bench.store.submit_many([bench.read(append(wide, number))])


def doctor(capsys: pytest.CaptureFixture[str], place: Path | str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["doctor", str(place)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def damage(place: Path | str, change: Damage) -> None:
    """Change the database behind the program's back, with nothing that keeps rows together."""
    if isinstance(place, str):
        engine = sa.create_engine(sa.make_url(place).set(drivername="postgresql+psycopg"))
    else:
        engine = sa.create_engine(f"sqlite:///{place / 'store.sqlite3'}")
    with engine.begin() as connection:
        change(connection)
    engine.dispose()


def test_a_sound_store(location: Path | str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = doctor(capsys, location)
    assert (code, err) == (0, "")
    assert out.endswith("\nNo damage found.\n")
    assert f"schema version {schema.VERSION}" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "runs 2" in " ".join(lines)
    assert any(line.startswith("155 points in 4 chunks: ") for line in lines), out
    assert any(line.startswith("28 points in 1 tails: ") for line in lines), out
    assert any(line.startswith("4 operations wait to be applied, the outcomes of") for line in lines)
    assert "correct-horse" not in out


def test_a_server_may_be_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalServer(tmp_path / "data"):
        code, out, _ = doctor(capsys, tmp_path / "data")
    assert (code, out.splitlines()[-1]) == (0, "No damage found.")


def changed(table: sa.Table, column: str, value: Any, where: Any = None) -> Damage:
    """Return what sets a column."""
    statement = table.update().values({column: value})
    return lambda connection: connection.execute(statement if where is None else statement.where(where))


def flipped(table: sa.Table) -> Damage:
    """Return what changes one byte of the first payload."""

    def change(connection: sa.Connection) -> None:
        row = connection.execute(sa.select(table.c.id, table.c.payload).order_by(table.c.id).limit(1)).one()
        payload = bytearray(row.payload)
        payload[-1] ^= 1
        connection.execute(table.update().where(table.c.id == row.id).values(payload=bytes(payload)))

    return change


def cut(table: sa.Table) -> Damage:
    """Return what shortens the first payload, with the checksum that goes with it."""

    def change(connection: sa.Connection) -> None:
        row = connection.execute(sa.select(table.c.id, table.c.payload).order_by(table.c.id).limit(1)).one()
        payload = row.payload[:-1]
        sound = {"payload": payload, "checksum": zlib.crc32(payload)}
        connection.execute(table.update().where(table.c.id == row.id).values(sound))

    return change


def series_of(name: str) -> sa.ColumnElement[bool]:
    query = sa.select(schema.attributes.c.id).where(schema.attributes.c.name == name)
    return schema.series.c.attribute_id.in_(query)


_SERIES = schema.series
_M0 = series_of("m0")
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a chunk": (flipped(schema.chunks), "of the series text of run run, 5 points, does not have its checksum."),
    "a tail": (flipped(schema.tails), "of run run, 28 points, does not have its checksum."),
    "a short chunk": (cut(schema.chunks), "of the series text of run run: The payloads of the chunk do not fill it."),
    "a short tail": (cut(schema.tails), "of run run: A tail is shorter than its header tells."),
    "a number of points": (changed(schema.tails, "count", 5), "of run run has 28 points, not 5."),
    "a place of a chunk": (changed(schema.chunks, "last_step", 1), "does not have the number or the steps that its"),
    "a chunk that is gone": (
        lambda connection: connection.execute(schema.chunks.delete()),
        "The summary of the series m0 of run run is not that of its points: number of points, first step",
    ),
    "a count": (changed(_SERIES, "count", 7, _M0), "m0 of run run is not that of its points: number of points."),
    "a minimum": (changed(_SERIES, "minimum", -5.0, _M0), "m0 of run run is not that of its points: minimum."),
    "a sum": (changed(_SERIES, "total", 1.0, _M0), "m0 of run run is not that of its points: sum."),
    "a variance": (changed(_SERIES, "deviations", 1.0, _M0), "m0 of run run is not that of its points: variance."),
    "a last text": (changed(_SERIES, "last_payload", b"x", series_of("text")), "not that of its points: last value."),
    "a preview": (changed(_SERIES, "has_preview", False, _M0), "m0 of run run has 1 previews, its summary says other"),
    "a summary": (
        lambda connection: connection.execute(_SERIES.delete().where(_M0)),
        "The series m0 of run run has no summary.",
    ),
    "an experiment": (
        changed(schema.experiments, "name", "other"),
        "The experiment other is represented by run run, which is not of it.",
    ),
    "a number": (
        changed(schema.projects, "next_run_number", 2),
        "The next run of the project lab would get the number 2",
    ),
    "a revision": (changed(schema.projects, "revision", 0), "lab is at revision 0, and some of its runs have changed"),
    "an operation": (changed(schema.operations, "payload", b"\xff\xff"), "of the log is no message."),
    "a block": (
        changed(schema.operations, "payload", b"short", schema.operations.c.kind == Kind.BLOCK),
        "of the log is no message.",
    ),
    "a layout": (changed(schema.layouts, "region", b"x"), "of the log is no message."),
    "a lost operation": (
        lambda connection: connection.execute(schema.operations.delete()),
        "waits for an operation that is not in the log.",
    ),
    "a lost request": (
        lambda connection: connection.execute(schema.requests.delete().where(schema.requests.c.status.is_(None))),
        "of the log has no request.",
    ),
    "an outcome": (changed(schema.requests, "status", b""), "of the log is applied already."),
}


def test_every_kind_of_damage(location: Path | str, capsys: pytest.CaptureFixture[str]) -> None:
    missed = {}
    # The checks are the same for every database, but not the statements: some of each kind will do.
    kinds = list(DAMAGES)[:: 1 if isinstance(location, Path) else 3]
    for kind in kinds:
        change, sentence = DAMAGES[kind]
        kept = backup(location)
        damage(location, change)
        code, out, err = doctor(capsys, location)
        if code != 1 or sentence not in out or err or " finding" not in out:
            missed[kind] = (code, out, err)
        restore(location, kept)
    assert missed == {}
    assert doctor(capsys, location)[0] == 0


def backup(place: Path | str) -> dict[str, list[dict[str, Any]]]:
    kept: dict[str, list[dict[str, Any]]] = {}

    def read(connection: sa.Connection) -> None:
        for table in schema.metadata.sorted_tables:
            written = [column for column in table.columns if column.computed is None]
            kept[table.name] = [dict(row) for row in connection.execute(sa.select(*written)).mappings()]

    damage(place, read)
    return kept


def restore(place: Path | str, kept: dict[str, list[dict[str, Any]]]) -> None:
    def write(connection: sa.Connection) -> None:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())
        for table in schema.metadata.sorted_tables:
            if kept[table.name]:
                connection.execute(table.insert(), kept[table.name])

    damage(place, write)


def test_rows_that_refer_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # PostgreSQL does not let this happen.
    fill(tmp_path / "data")
    LocalServer(tmp_path / "data").start().stop()
    file = sqlite3.connect(tmp_path / "data" / "store.sqlite3")
    file.execute("DELETE FROM runs WHERE run_id = 'fork'")
    file.commit()
    file.close()
    code, out, _ = doctor(capsys, tmp_path / "data")
    assert code == 1
    assert "rows of attributes name a row of runs that does not exist." in out


def test_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LocalServer(tmp_path / "data").start().stop()
    fill(tmp_path / "data")
    path = tmp_path / "data" / "store.sqlite3"
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 8192):
        content[start : start + 1000] = bytes(1000)
    path.write_bytes(content)
    code, out, err = doctor(capsys, tmp_path / "data")
    assert (code, err) == (1, "")
    assert " finding" in out
    path.write_bytes(b"no database " * 1000)
    code, out, err = doctor(capsys, tmp_path / "data")
    assert (code, err) == (1, "")
    assert "- The database cannot be read: file is not a database." in out


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    LocalServer(data).start().stop()
    assert f"  0 files in {data / 'files'}: 0 B\n" in doctor(capsys, data)[1]
    fill(data)
    with Bench(data) as bench, bench.database.read() as connection:
        project = connection.execute(sa.select(schema.projects.c.uuid)).scalar_one()
    folder = Folder(data / "files")
    for number in range(3):
        upload = folder.begin(project, f"models/{number}", "text/plain")
        upload.write(b"weights" * 1000)
        upload.commit()
    unfinished = folder.begin(project, "models/3", "text/plain")
    code, out, _ = doctor(capsys, data)
    assert (code, out.splitlines()[-1]) == (0, "No damage found.")
    assert f"  3 files in {data / 'files'}: 21.0 kB\n" in out
    unfinished.discard()

    places = sorted(path for path in (data / "files" / project).glob("*/*"))
    flipped = bytearray(places[0].read_bytes())
    flipped[10] ^= 1
    places[0].write_bytes(flipped)
    places[1].write_bytes(places[1].read_bytes()[:-1])
    places[2].rename(places[2].with_name("0" * 62))
    left = data / "files" / "5d3f4f4e-0000-4000-8000-000000000000"
    left.mkdir()
    (data / "files" / "lost+found").mkdir()
    code, out, err = doctor(capsys, data)
    assert (code, err) == (1, "")
    for finding in (
        f"- {places[0]}, a file of the project lab, is damaged: its content does not have the MD5 of its note.",
        f"- {places[1]}, a file of the project lab, is damaged: a file does not end in its note.",
        "is damaged: its note is that of another file.",
        f"- {left} belongs to no project: its project was deleted when the server ended. Remove the folder.",
    ):
        assert finding in out
    assert "lost+found" not in out


def test_a_project_that_comes_while_files_are_looked_at(tmp_path: Path) -> None:
    """A server may be running: folders are listed before projects are."""
    project = str(uuid.uuid4())

    def names() -> dict[str, str]:
        folder = Folder(tmp_path)
        folder.clean()
        folder.begin(project, "late", "").commit()
        return {}

    assert inspect(tmp_path, names).findings == []
    assert [finding.split(" ", 1)[1] for finding in inspect(tmp_path, dict).findings] == [
        "belongs to no project: its project was deleted when the server ended. Remove the folder."
    ]


def test_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LocalServer(tmp_path).start().stop()
    path = tmp_path / "secrets.json"
    path.write_text("{}")
    code, out, _ = doctor(capsys, tmp_path)
    assert code == 1
    assert "secrets.json is damaged" in out
    path.unlink()
    code, out, _ = doctor(capsys, tmp_path)
    assert code == 1
    assert "secrets.json cannot be used: No such file" in out
    assert not path.exists()


def test_what_cannot_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = doctor(capsys, tmp_path / "empty")
    assert (code, out) == (2, "")
    assert err == f"{tmp_path / 'empty'} is no data folder: it has no file store.sqlite3.\n"
    assert not list((tmp_path / "empty").iterdir())
    code, out, err = doctor(capsys, "postgresql://ann:hunter2@127.0.0.1:1/none")
    assert (code, out) == (2, "")
    assert "cannot be used: connection to server" in err
    assert "hunter2" not in err
    earlier.restore(tmp_path / "old")
    code, out, err = doctor(capsys, tmp_path / "old")
    assert (code, out) == (2, "")
    assert "has schema version 0001" in err
    assert "start a server on it" in err
