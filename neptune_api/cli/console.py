"""What every command shares: output, complaints, reading of arguments."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from neptune_api.credentials import redact


class UsageError(Exception):
    """Say in one sentence why a command cannot run as it was given; its exit code is 2."""


def say(text: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{text}\n")


def complain(text: str) -> None:
    """Write a line to stderr, without anything that looks like a token."""
    sys.stderr.write(f"{redact(text)}\n")


def seconds(text: str) -> float:
    """Return a command line argument as a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def read_text(argument: str) -> str:
    """Return the text an argument stands for: `@FILE` a file, `-` the standard input, all else itself.

    Raises UsageError for a file that cannot be read.
    """
    try:
        if argument == "-":
            return sys.stdin.read()
        if argument.startswith("@"):
            return Path(argument[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{argument[1:]} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{argument} is not UTF-8 text: byte {error.start} is wrong.") from error
    return argument
