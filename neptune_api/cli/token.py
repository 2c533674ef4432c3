"""`neptune-api token`: what is inside an API token, whether it works, and texts without tokens."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from neptune_api.cli.console import UsageError, complain, read_text, say, seconds
from neptune_api.credentials import TOKEN_VARIABLE, ApiToken, InvalidTokenError, redact

if TYPE_CHECKING:
    import argparse

_ACTIONS: Final = ("show", "check", "redact")


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "token",
        help="look into an API token without giving it away",
        description="show: print what is inside, without the key. check: tell whether it can be decoded, with --server "
        "also whether the server accepts it. redact: copy stdin to stdout without tokens.",
        allow_abbrev=False,
    )
    parser.add_argument("action", nargs="?", default="show", metavar="{show,check,redact}", help="default: show")
    parser.add_argument(
        "token", nargs="?", metavar="TOKEN", help=f"@FILE or - for stdin will do; default: {TOKEN_VARIABLE}"
    )
    parser.add_argument("--server", action="store_true", help="check: ask the server that the token names")
    parser.add_argument("--timeout", type=seconds, default=10.0, metavar="SECONDS", help="check --server: default 10")
    parser.add_argument("--ca-file", metavar="FILE", help="check --server: PEM file of the authorities to trust")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    action, text = arguments.action, arguments.token
    if action not in _ACTIONS:
        if text is not None:
            complain(f"There is no action {action!r}: say one of {', '.join(_ACTIONS)}.")
            return 2
        action, text = "show", action
    if action == "redact":
        for line in sys.stdin if text is None else [f"{text}\n"]:
            sys.stdout.write(redact(line))
        return 0
    try:
        token = _read(text)
    except UsageError as error:
        complain(str(error))
        return 2
    except InvalidTokenError as error:
        complain(str(error))
        return 1
    if action == "show":
        _show(token)
        return 0
    return _check(token, arguments)


def _read(argument: str | None) -> ApiToken:
    if argument is not None:
        return ApiToken.parse(read_text(argument), source="stdin" if argument == "-" else "the argument")
    if os.environ.get(TOKEN_VARIABLE, "").strip():
        return ApiToken.parse(os.environ[TOKEN_VARIABLE], source=TOKEN_VARIABLE)
    if not sys.stdin.isatty() and (text := sys.stdin.read().strip()):
        return ApiToken.parse(text, source="stdin")
    raise UsageError(f"There is no API token: pass it as an argument, on stdin or in {TOKEN_VARIABLE}.")


def _show(token: ApiToken) -> None:
    say(f"api_url      {redact(token.api_url)}")
    say(f"api_address  {redact(token.api_address)}")
    say(f"grpc_url     {'none: this server speaks HTTP only' if token.grpc_url is None else redact(token.grpc_url)}")
    say(f"api_key      <redacted>, {len(token.api_key)} characters")


def _check(token: ApiToken, arguments: argparse.Namespace) -> int:
    if not arguments.server:
        say("The token can be decoded.")
        return 0
    from neptune_api.channels import channel
    from neptune_api.exceptions import NeptuneApiError
    from neptune_api.options import ChannelOptions
    from neptune_api.v1.auth_service_pb2 import ExchangeApiTokenRequest
    from neptune_api.v1.auth_service_pb2_grpc import AuthServiceStub

    if token.grpc_url is None:
        complain("The token names no gRPC address (grpc_url), so its server cannot be asked.")
        return 1
    try:
        options = ChannelOptions(ca_file=arguments.ca_file)
        with channel(token.grpc_url, api_token="", options=options) as anonymous:
            request = ExchangeApiTokenRequest(api_token=token.encode())
            granted = AuthServiceStub(anonymous).ExchangeApiToken(request, timeout=arguments.timeout)
    except NeptuneApiError as error:
        complain(f"{token.grpc_url} does not accept the token. {error.code().name}: {error.details()}")
        return 1
    except (ValueError, OSError, NotImplementedError) as error:
        complain(f"{token.grpc_url} cannot be asked: {error}")
        return 2
    say(f"{token.grpc_url} accepts the token: it belongs to {granted.username}.")
    return 0
