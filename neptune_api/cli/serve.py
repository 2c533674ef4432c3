"""`neptune-api serve`: what it takes from the command line. The server itself comes with the server extra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neptune_api.cli.console import complain

if TYPE_CHECKING:
    import argparse

STORE_VARIABLE: Final = "NEPTUNE_API_STORE"
"""The environment variable with the URL of the store."""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "serve",
        help="run a server over a data folder or a PostgreSQL database",
        description="Run a server until Ctrl-C or SIGTERM. The first start in a folder creates a workspace, its owner "
        "and the owner's API token; the same folder gives the same token again. Needs the server extra; --store needs "
        "the postgres extra as well.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data; made when missing")
    parser.add_argument(
        "--store",
        metavar="URL",
        help=f"postgresql://user:password@host/database, in place of a folder; several servers may share it. Without "
        f"--data and --store: the URL in {STORE_VARIABLE}, where no other user sees the password",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument(
        "--grpc-port", type=int, default=0, metavar="PORT", help="0, the default: the folder's last one, or a free one"
    )
    parser.add_argument("--http-port", type=int, default=0, metavar="PORT", help="as --grpc-port, for the HTTP API")
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="JSON file that is there while calls are accepted"
    )
    parser.add_argument("--workspace", metavar="NAME", help="default: the folder's last one, else local")
    parser.add_argument("--username", metavar="NAME", help="owner of the workspace; default: the last one, else owner")
    parser.add_argument("--public-host", metavar="NAME", help="name by which clients reach --host; default: --host")
    parser.add_argument(
        "--public-url", metavar="URL", help="address of the HTTP API to clients, when a proxy stands in front of it"
    )
    parser.add_argument(
        "--files",
        metavar="PLACE",
        help="where contents of files are kept: a folder, s3://bucket/prefix, gs://..., az://..., with options behind "
        "?, or data for --data; default: the last place, else data. Stores need the objects extra",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM file of the certificate chain; turns TLS on")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file of its private key")
    parser.add_argument(
        "--allow-plaintext", action="store_true", help="listen beyond this machine without TLS, on a trusted network"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if arguments.store is None and arguments.data is None:
        arguments.store = os.environ.get(STORE_VARIABLE)
    if arguments.store is None and arguments.data is None:
        complain(f"Say where the data is: --data DIR, --store URL, or the URL in {STORE_VARIABLE}.")
        return 2
    from neptune_api.server import missing_extra, no_garbage

    try:
        with no_garbage():
            from neptune_api.server.cli import serve
        return serve(arguments)
    except ModuleNotFoundError as error:
        sentence = missing_extra(error)
        if sentence is None:
            raise
        complain(sentence)
        return 2
