"""What `neptune-api doctor` does: check a data folder or a database, and say how large it is. It changes nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from neptune_api.cli.console import complain, say
from neptune_api.server.files.inspection import inspect
from neptune_api.server.identity import Secrets
from neptune_api.server.store import checks, schema, settings, sizes, versions
from neptune_api.server.store.database import is_url
from neptune_api.server.store.faults import StoreError
from neptune_api.server.store.sqlite import DATABASE_FILE, open_read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KILO: Final = 1000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def examine(location: str) -> int:
    """Print sizes and what is damaged; return 0 when nothing is, 1 when something is, 2 when nothing can be checked."""
    try:
        with _opened(location) as (label, connection):
            found = _check_version(connection, label)
            say(f"{label}, schema version {found}")
            _say_sizes(location, connection)
            findings = list(checks.findings(connection))
            files = _files_folder(location, connection)
            if files is not None:
                findings += _inspect_files(files, lambda: _project_names(location))
    except StoreError as error:
        complain(str(error))
        return 2
    except sa.exc.DatabaseError as error:
        # Such as a file that is no database any more.
        findings = [f"The database cannot be read: {str(error.orig).strip().splitlines()[0]}."]
    if not is_url(location):
        findings += _secrets(Path(location))
    say()
    if not findings:
        say("No damage found.")
        return 0
    say("1 finding:" if len(findings) == 1 else f"{len(findings)} findings:")
    for finding in findings:
        say(f"- {finding}")
    return 1


def _check_version(connection: sa.Connection, label: str) -> str:
    found = versions.version_of(connection)
    if found is None:
        raise StoreError(f"{label} holds no store: no server has been started on it yet.")
    versions.check_known(found, label)
    if found != schema.VERSION:
        raise StoreError(
            f"{label} has schema version {found}, this version of neptune-api checks {schema.VERSION}: start a server "
            "on it, which brings it up to date."
        )
    return found


@contextlib.contextmanager
def _opened(location: str) -> Iterator[tuple[str, sa.Connection]]:
    """Give what the place is called, and a connection that reads one snapshot of it."""
    if is_url(location):
        from neptune_api.server.store.postgresql import Address

        address = Address(location)
        engine, label = address.engine, address.label
    else:
        address = None
        engine, label = open_read_only(Path(location)), f"The data folder {location}"
    try:
        with engine.connect() as connection:
            yield label, connection
    except sa.exc.OperationalError as error:
        if address is None:
            raise  # what cannot be read of a file is a finding
        raise StoreError(f"{label} cannot be used: {address.reason(error)}.") from error
    finally:
        engine.dispose()


def _files_folder(location: str, connection: sa.Connection) -> Path | None:
    """Return the folder of files; None when there is none, or they are in an object store, which checks for itself."""
    chosen = settings.read_settings(connection).get("files", settings.DATA_FILES)
    if chosen == settings.DATA_FILES:
        return None if is_url(location) else Path(location, "files")
    return None if "://" in chosen else Path(chosen)


def _project_names(location: str) -> dict[str, str]:
    with _opened(location) as (_, connection):  # of now: the other connection reads an older snapshot
        return sizes.project_names(connection)


def _inspect_files(folder: Path, names: Callable[[], dict[str, str]]) -> list[str]:
    try:
        found = inspect(folder, names)
    except FileNotFoundError:  # no server has been started with it yet
        return []
    except OSError as error:
        return [f"The folder of files {folder} cannot be read: {error.strerror}."]
    say(f"  {found.number:,} files in {folder}: {_bytes(found.size)}")
    return found.findings


def _secrets(folder: Path) -> list[str]:
    try:
        Secrets.read(folder)
    except StoreError as error:
        return [str(error)]
    return []


def _say_sizes(location: str, connection: sa.Connection) -> None:
    if not is_url(location):
        for file in sorted(Path(location).glob(f"{DATABASE_FILE}*")):
            say(f"  {file.name:<24}{_bytes(file.stat().st_size):>12}")
    say()
    say(f"  {'table':<24}{'rows':>12}{'size':>12}")
    for table in sizes.table_sizes(connection):
        size = "" if table.size is None else _bytes(table.size)
        say(f"  {table.name:<24}{table.rows:>12,}{size:>12}".rstrip())
    say()
    for points in sizes.points(connection):
        each = f", {points.size / points.number:.1f} bytes each" if points.number else ""
        say(f"  {points.number:,} points in {points.rows:,} {points.table}: {_bytes(points.size)}{each}")
    waiting, kept = sizes.log(connection)
    say(f"  {waiting:,} operations wait to be applied, the outcomes of {kept:,} requests are kept")


def _bytes(size: float) -> str:
    for unit in _UNITS:
        if size < _KILO or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KILO
    raise AssertionError
