"""`neptune-api conformance`: hold a server to the contract."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from neptune_api.cli.console import UsageError, complain, read_text, say
from neptune_api.credentials import TOKEN_VARIABLE, Secret

if TYPE_CHECKING:
    from neptune_api.conformance.results import Results
    from neptune_api.conformance.target import Target

_ROLES = ("colleague", "outsider")


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "conformance",
        help="run the contract suite against a server and say what holds",
        description="Run every behaviour of the contract against a server and print what holds, by area. Behaviours "
        "make projects of their own and delete them. The exit code is 0 when all holds, 1 when something fails, 2 when "
        "the suite cannot run. Needs the conformance extra.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="URL",
        help="the server: grpcs://host:port or https://host/path, grpc:// or http:// for plaintext; one per wire; "
        "default: those of the token",
    )
    parser.add_argument(
        "--wire",
        choices=("grpc", "http", "both"),
        help="what to speak; the address of the wire that --target does not name is the token's, if it is on the same "
        "host; default: whatever there is an address for",
    )
    parser.add_argument("--token", metavar="TOKEN", help=f"API token, @FILE or - for stdin; default: {TOKEN_VARIABLE}")
    parser.add_argument(
        "--token-of",
        action="append",
        default=[],
        type=_person,
        metavar="ROLE=VARIABLE",
        help="environment variable with the API token of another user: a colleague is a member of the workspace, an "
        "outsider is not; may be repeated, also for the same role. Behaviours that lack somebody are skipped",
    )
    parser.add_argument("--workspace", help="where to make projects; default: the first workspace of the token's user")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="areas or behaviours, as the table names them"
    )
    parser.add_argument(
        "--rate", type=_rate, default=100.0, metavar="CALLS", help="most calls a second; 0: no limit; default: 100"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to a JSON file as well")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results to a JUnit XML file as well")
    parser.add_argument("--keep-project", action="store_true", help="leave the projects of behaviours that fail")
    parser.add_argument("--ca-file", metavar="FILE", help="PEM file of the authorities to trust")
    parser.add_argument("--no-verify", action="store_true", help="trust any certificate; over HTTP only")
    parser.add_argument(
        "--allow-insecure-token", action="store_true", help="send tokens unencrypted to another machine"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        from neptune_api.conformance import suite
        from neptune_api.conformance.target import TargetError
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "neptune_api"}:
            raise
        complain(f'The suite needs the package {package}, which is missing: pip install "neptune-api[conformance]"')
        return 2
    try:
        for path in filter(None, (arguments.json, arguments.junit)):
            _check_writable(path)
        target = _target(arguments)
        try:
            wires = [wire for kind in target.addresses for wire in suite.WIRES[kind]]
            target.inspect()
            results = suite.run(target, wires, arguments.only, progress=sys.stderr.isatty())
        finally:
            target.close()
        for line in results.lines():
            say(line)
        _write(results, arguments)
    except (UsageError, TargetError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain(str(error).replace("set ChannelOptions(allow_insecure_token=True)", "pass --allow-insecure-token"))
        return 2
    if results.ended_early:
        return 130
    return 0 if results.holds else 1


def _target(arguments: argparse.Namespace) -> Target:
    from neptune_api.conformance.target import Target
    from neptune_api.options import ChannelOptions

    token = Secret(_token(arguments))
    people: dict[str, list[str]] = {}
    for role, variable in arguments.token_of:
        value = os.environ.get(variable, "").strip()
        if not value:
            raise UsageError(f"There is no API token of a {role} in {variable}.")
        people.setdefault(role, []).append(Secret(value))
    options = ChannelOptions(
        ca_file=arguments.ca_file,
        allow_insecure_token=arguments.allow_insecure_token,
        verify=not arguments.no_verify,
    )
    return Target(
        _addresses(arguments, token),
        token,
        workspace=arguments.workspace,
        people=people,
        options=options,
        rate=arguments.rate,
        keep=arguments.keep_project,
    )


def _addresses(arguments: argparse.Namespace, token: str) -> dict[str, str]:
    """Return the address for each wire that is to be spoken."""
    from neptune_api.channels import parse_target
    from neptune_api.credentials import ApiToken

    parsed = ApiToken.parse(token, source="--token" if arguments.token else TOKEN_VARIABLE)
    given: dict[str, str] = {}
    for url in arguments.target:
        kind = parse_target(url).wire
        if kind in given:
            raise UsageError(f"{given[kind]} and {url} are both for {kind}: name one server.")
        given[kind] = url
    hosts = {_host(url) for url in given.values()}
    for kind, url in (("grpc", parsed.grpc_url), ("http", parsed.api_url)):
        if url and (not hosts or _host(url) in hosts):
            given.setdefault(kind, url)
    if not given:
        raise UsageError("There is no address: pass --target.")
    wanted = {"grpc", "http"} if arguments.wire == "both" else {arguments.wire} if arguments.wire else set(given)
    for kind in sorted(wanted - set(given)):
        raise UsageError(f"There is no address for {kind}: the token names none on this host, add --target with it.")
    return {kind: given[kind] for kind in ("grpc", "http") if kind in wanted}


def _host(url: str) -> str | None:
    return urlsplit(url if "://" in url else f"//{url}").hostname


def _token(arguments: argparse.Namespace) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "") if arguments.token is None else read_text(arguments.token)
    if not token.strip():
        raise UsageError(f"There is no API token: pass --token or set {TOKEN_VARIABLE}.")
    return token


def _person(text: str) -> tuple[str, str]:
    role, separator, variable = text.partition("=")
    if not separator or role not in _ROLES or not variable:
        raise argparse.ArgumentTypeError(f"{text!r} is not {' or '.join(f'{role}=VARIABLE' for role in _ROLES)}")
    return role, variable


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of calls")
    return rate


def _check_writable(path: Path) -> None:
    """Find out before the suite has run that its results cannot be written. Raises UsageError."""
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _write(results: Results, arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        text = json.dumps(results.as_json(), indent=2, ensure_ascii=False)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")
    if arguments.junit is not None:
        arguments.junit.write_bytes(results.as_junit())
