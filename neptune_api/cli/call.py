"""`neptune-api call`: any method of any service, JSON in, JSON out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from neptune_api.cli.console import UsageError, complain, read_text, say, seconds
from neptune_api.credentials import TOKEN_VARIABLE, redact

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import grpc
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from neptune_api.exceptions import NeptuneApiError


_OPTION: Final = "set ChannelOptions(allow_insecure_token=True)"  # how channels say it, to those who write Python


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "call",
        help="call a method and print the answer as JSON",
        description="Field names may be lowerCamelCase or as in the .proto files. A method that takes a stream reads "
        "a JSON array, or objects one after the other; the answers of a stream are printed one object per line.",
        allow_abbrev=False,
    )
    parser.add_argument("method", metavar="SERVICE.METHOD", help="such as ProjectsService.GetProject")
    parser.add_argument(
        "request", nargs="?", default="", metavar="JSON", help="JSON, @FILE, or - for stdin; default {}"
    )
    parser.add_argument(
        "--target",
        metavar="ADDRESS",
        help="grpcs://host:port or https://host/path, grpc:// or http:// for plaintext; default: the token's",
    )
    parser.add_argument(
        "--transport",
        choices=("auto", "grpc", "http"),
        help="which address of the token to take; auto tries gRPC, then HTTP; default: gRPC's, if there is one",
    )
    parser.add_argument("--token", metavar="TOKEN", help=f"API token, @FILE or - for stdin; default: {TOKEN_VARIABLE}")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="deadline of the call; default: 60")
    parser.add_argument("--ca-file", metavar="FILE", help="PEM file of the authorities to trust")
    parser.add_argument("--no-verify", action="store_true", help="trust any certificate; over HTTP only")
    parser.add_argument(
        "--allow-insecure-token", action="store_true", help="send the token unencrypted to another machine"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from neptune_api.channels import channel
    from neptune_api.cli.surface import Surface
    from neptune_api.exceptions import InvalidTokenError, NeptuneApiError
    from neptune_api.options import ChannelOptions

    if arguments.request == arguments.token == "-":
        complain("The request and the token cannot both come from stdin.")
        return 2
    try:
        method = Surface().method(arguments.method)
        requests = _requests(method, read_text(arguments.request))
        token = _token(method, arguments)
        options = ChannelOptions(
            ca_file=arguments.ca_file,
            allow_insecure_token=arguments.allow_insecure_token,
            verify=not arguments.no_verify,
        )
        with channel(arguments.target, api_token=token, options=options, transport=arguments.transport) as opened:
            for response in _call(opened, method, requests, arguments.timeout):
                say(_as_json(response, in_stream=bool(method.server_streaming)))
    except (UsageError, InvalidTokenError) as error:
        complain(str(error))
        return 2
    except NeptuneApiError as error:
        _complain_of(error)
        return 1
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        complain(str(error).replace(_OPTION, "pass --allow-insecure-token"))
        return 2
    return 0


def _token(method: MethodDescriptor, arguments: argparse.Namespace) -> str | None:
    """Return the token to call with: None for the one of the environment, empty for none."""
    if arguments.token is not None:
        return read_text(arguments.token)
    if os.environ.get(TOKEN_VARIABLE, "").strip():
        return None
    if not _is_anonymous(method):
        raise UsageError(f"There is no API token: pass --token or set {TOKEN_VARIABLE}.")
    if not arguments.target:
        raise UsageError(
            f"There is no address: pass --target, or a token, which has one, by --token or {TOKEN_VARIABLE}."
        )
    return ""


def _requests(method: MethodDescriptor, text: str) -> list[Message]:
    from google.protobuf import json_format, message_factory

    values = list(_values(text))
    if method.client_streaming:
        if len(values) == 1 and isinstance(values[0], list):
            values = values[0]
    elif len(values) != 1:
        if values:
            raise UsageError(f"{method.name} takes one request, and there are {len(values)} JSON values.")
        values = [{}]
    kind = message_factory.GetMessageClass(method.input_type)
    requests = []
    for position, value in enumerate(values):
        where = f"Request {position}" if method.client_streaming else "The request"
        if not isinstance(value, dict):
            raise UsageError(f"{where} is no JSON object with the fields of {method.input_type.name}.")
        for name in value:
            if not any(name in (field.name, field.json_name) for field in method.input_type.fields):
                known = ", ".join(field.json_name for field in method.input_type.fields)
                raise UsageError(
                    f"{where} has the field {name!r}, and {method.input_type.name} "
                    f"{f'has only {known}' if known else 'has no fields'}."
                )
        try:
            requests.append(json_format.ParseDict(value, kind()))
        except json_format.ParseError as error:
            raise UsageError(f"{where} is no {method.input_type.name}: {error}") from error
    return requests


def _values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    position = 0
    while (position := _skip_space(text, position)) < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UsageError(
                f"The request is no JSON: {error.msg} at line {error.lineno}, column {error.colno}."
            ) from None
        except RecursionError:
            raise UsageError("The request is no JSON that can be read: it is nested too deeply.") from None
        yield value


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _is_anonymous(method: MethodDescriptor) -> bool:
    from neptune_api.v1.annotations_pb2 import access

    anonymous: bool = method.GetOptions().Extensions[access].anonymous
    return anonymous


def _call(
    opened: grpc.Channel, method: MethodDescriptor, requests: list[Message], timeout: float | None
) -> Iterator[Any]:
    from google.protobuf import message_factory

    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds = {
        (False, False): opened.unary_unary,
        (False, True): opened.unary_stream,
        (True, False): opened.stream_unary,
        (True, True): opened.stream_stream,
    }
    open_call: Any = kinds[bool(method.client_streaming), bool(method.server_streaming)]
    call = open_call(
        path,
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answer = call(iter(requests) if method.client_streaming else requests[0], timeout=timeout)
    if method.server_streaming:
        yield from answer
    else:
        yield answer


def _as_json(message: Message, *, in_stream: bool) -> str:
    from google.protobuf import json_format

    return json_format.MessageToJson(message, indent=None if in_stream else 2, ensure_ascii=False)


def _complain_of(error: NeptuneApiError) -> None:
    complain(f"{error.code().name}: {error.details()}")
    for violation in error.violations:
        complain(f"    {violation.field or 'request'}: {violation.description}")
    if error.error_info is not None:
        facts = ", ".join(f"{key}={value}" for key, value in error.error_info.metadata.items())
        complain(redact(f"    reason {error.error_info.reason}{f' ({facts})' if facts else ''}"))
