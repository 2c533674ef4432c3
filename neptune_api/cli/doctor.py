"""`neptune-api doctor`: what it takes from the command line. The checks come with the server extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neptune_api.cli.console import complain

if TYPE_CHECKING:
    import argparse


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="check a data folder or a database, and say how large it is",
        description="Check everything that a store holds: the database's own integrity, checksums of points, summaries "
        "against points, references, the operation log, secrets. Changes nothing; a server may be running. The exit "
        "code is 1 when something is damaged. Needs the server extra.",
        allow_abbrev=False,
    )
    parser.add_argument("store", metavar="DIR | URL", help="a data folder, or postgresql://user:password@host/database")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from neptune_api.server import missing_extra

    try:
        from neptune_api.server.doctor import examine

        return examine(arguments.store)
    except ModuleNotFoundError as error:
        sentence = missing_extra(error)
        if sentence is None:
            raise
        complain(sentence)
        return 2
