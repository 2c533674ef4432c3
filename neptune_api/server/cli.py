"""What `neptune-api serve` does: start, tell where, wait for a signal, stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neptune_api.cli.console import complain, say
from neptune_api.credentials import TOKEN_VARIABLE, redact
from neptune_api.server.server import Server, ServerError, TlsFiles
from neptune_api.server.store.database import StoreError

if TYPE_CHECKING:
    import argparse

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class RedactingFormatter(logging.Formatter):
    """Formats log records as usual, without anything that looks like a token."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        return redact(super().format(record))


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM and return the exit code: 0, or 2 when the server cannot start."""
    _log_to_stderr(arguments.log_level)
    _hold_signals()
    try:
        finished = _serve(arguments)
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


def _serve(arguments: argparse.Namespace) -> bool:
    ready_file: Path | None = arguments.ready_file
    if ready_file is not None:
        # One that an earlier server left behind would say that calls are accepted already.
        _remove(ready_file)
    server = Server(
        arguments.data,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        workspace=arguments.workspace,
        username=arguments.username,
        public_host=arguments.public_host,
        tls=_tls_files(arguments),
        allow_plaintext=arguments.allow_plaintext,
    )
    try:
        server.start()
        _announce(server)
        if ready_file is not None:
            _write_ready_file(ready_file, server)
        _wait_for_signal()
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
    say(f"HTTP  not in this version; {addresses.http_url} is reserved for it")
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


def _hold_signals() -> None:
    """Let no thread be interrupted by the signals that end the server: one that comes early waits for its turn."""
    for number in _ENDING:
        # A shell starts background jobs with Ctrl-C ignored, and what is ignored cannot be waited for.
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def _wait_for_signal() -> None:
    signal.sigwait(_ENDING)
    # Whoever cannot wait for the end may send another one.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
