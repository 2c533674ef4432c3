"""What `neptune-api serve` does: start, tell where, wait for a signal, stop."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neptune_api.cli.console import complain, say
from neptune_api.credentials import TOKEN_VARIABLE, redact
from neptune_api.server.http.pages import DOCS_PATH
from neptune_api.server.server import Server, ServerError, TlsFiles
from neptune_api.server.store.database import StoreError

if TYPE_CHECKING:
    import argparse
    from types import TracebackType

    from typing_extensions import Self


_GC_THRESHOLDS: Final = (50_000, 20, 100)


class RedactingFormatter(logging.Formatter):
    """Formats log records as usual, without anything that looks like a token."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        return redact(super().format(record))


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code: 0, or 2 when the server cannot start."""
    _log_to_stderr(arguments.log_level)
    try:
        with _EndingSignals() as signals:
            finished = _serve(arguments, signals)
    except (ServerError, StoreError) as error:
        complain(str(error))
        return 2
    if not finished:
        # Everything acknowledged is on disk. Leaving in the usual way would wait for the threads still at work.
        logging.getLogger("neptune_api.server").warning("left calls behind that did not end in time")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _serve(arguments: argparse.Namespace, signals: _EndingSignals) -> bool:
    ready_file: Path | None = arguments.ready_file
    if ready_file is not None:
        # One that an earlier server left behind would say that calls are accepted already.
        _remove(ready_file)
    server = Server(
        arguments.data,
        store=arguments.store,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        workspace=arguments.workspace,
        username=arguments.username,
        public_host=arguments.public_host,
        public_url=arguments.public_url,
        files=arguments.files,
        tls=_tls_files(arguments),
        allow_plaintext=arguments.allow_plaintext,
    )
    try:
        server.start()
        if ready_file is not None:
            _write_ready_file(ready_file, server)
        _announce(server)
        server.load()
        # What is loaded by now stays to the end: the garbage collector need not look through it again and again. What
        # calls make has hardly any cycles, and ten thousand rows should not make it look fourteen times.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        signals.wait()
        if ready_file is not None:
            _remove(ready_file)
    finally:
        finished = server.stop()
    return finished


def _tls_files(arguments: argparse.Namespace) -> TlsFiles | None:
    if arguments.tls_cert is None and arguments.tls_key is None:
        return None
    if arguments.tls_cert is None or arguments.tls_key is None:
        raise ServerError("TLS needs both --tls-cert and --tls-key.")
    return TlsFiles(certificate=arguments.tls_cert, key=arguments.tls_key)


def _announce(server: Server) -> None:
    addresses = server.addresses
    for note in server.notes:
        say(f"Note: {note}")
    say(f"Serving workspace {server.workspace} of user {server.username}; Ctrl-C stops.")
    say(f"gRPC  {addresses.grpc_url}")
    say(f"HTTP  {addresses.http_url} (in a browser: {addresses.http_url}{DOCS_PATH})")
    say()
    say("Paste into another terminal:")
    say()
    say(f"    export {TOKEN_VARIABLE}='{server.api_token}'")
    say("    neptune-api call UsersService.GetUserIdentity")
    say()
    sys.stdout.flush()


def _write_ready_file(path: Path, server: Server) -> None:
    content = {
        "grpc_target": server.addresses.grpc_target,
        "http_url": server.addresses.http_url,
        "api_token": server.api_token,
        "workspace": server.workspace,
        "username": server.username,
    }
    try:
        # For the owner's eyes only, from the first byte on: there is a secret in it.
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ServerError(f"The ready file {path} cannot be written: {error.strerror}.") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ServerError(f"The ready file {path} cannot be replaced: {error.strerror}.") from error


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What these have to say below that is said already.
    for name in ("uvicorn.error", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _EndingSignals:
    """Ctrl-C and SIGTERM as something to wait for; one that comes before the wait ends it at once.

    Blocking them for sigwait() would not do: threads that began before, such as those of numpy's linear algebra, would
    get them and end the process.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)

    def wait(self) -> None:
        """Wait for the first signal; the next one ends the process, for those who cannot wait for the end."""
        self._receiver.recv(1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        self._receiver.close()
        self._sender.close()
