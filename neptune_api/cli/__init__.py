"""The command line: `neptune-api serve`, `doctor`, `call`, `describe`, `token` and `conformance`.

Results go to stdout, sentences about what went wrong to stderr, never with a token in them. The exit code is 0, 1 when
the server or a check said no, 2 when the command cannot run as it was given, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from neptune_api._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_COMMANDS: Final = ("serve", "doctor", "call", "describe", "token", "conformance")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; without arguments, those of the process."""
    parser = argparse.ArgumentParser(
        prog="neptune-api", description="Serve the Neptune API, call it and look at it.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"neptune-api {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {name: import_module(f"{__name__}.{name}") for name in _COMMANDS}
    for module in modules.values():
        module.add_parser(commands)
    parsed = parser.parse_args(arguments)
    try:
        code: int = modules[parsed.command].run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
