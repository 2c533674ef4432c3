"""`neptune-api describe`: the surface of the API, from the descriptors in this package. No server is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neptune_api.cli.console import UsageError, complain, say

if TYPE_CHECKING:
    import argparse

    from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor, ServiceDescriptor
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

_INDENT: Final = "    "


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "describe",
        help="list services, methods, messages and their fields",
        description="Without a name: every service and method. With one: everything about it.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="SERVICE[.METHOD] | MESSAGE | ENUM")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from google.protobuf.descriptor import EnumDescriptor, MethodDescriptor, ServiceDescriptor

    from neptune_api.cli.surface import Surface

    surface = Surface()
    if arguments.name is None:
        for service in surface.services.values():
            _list(service)
        return 0
    try:
        thing = surface.any(arguments.name)
    except UsageError as error:
        complain(str(error))
        return 2
    if isinstance(thing, ServiceDescriptor):
        _describe_service(thing)
    elif isinstance(thing, MethodDescriptor):
        _describe_method(thing)
    elif isinstance(thing, EnumDescriptor):
        _describe_enum(thing)
    else:
        _describe_message(thing)
    return 0


def _list(service: ServiceDescriptor) -> None:
    from neptune_api.cli.surface import documentation

    say(f"{service.name}  {_first_line(documentation(service))}")
    width = max(len(method.name) for method in service.methods)
    for method in service.methods:
        say(f"{_INDENT}{method.name:{width}}  {_rule(method)}  [{_traits(method)}]")
    say()


def _describe_service(service: ServiceDescriptor) -> None:
    from neptune_api.cli.surface import documentation

    say(f"service {service.full_name}")
    _say_indented(documentation(service))
    for method in service.methods:
        say()
        say(_signature(method))
        say(f"{_INDENT}{_rule(method)}  [{_traits(method)}]")
        say(f"{_INDENT}{_first_line(documentation(service, method))}")


def _describe_method(method: MethodDescriptor) -> None:
    from neptune_api.cli.surface import documentation

    service = method.containing_service
    say(f"rpc {service.full_name}.{_signature(method)}")
    _say_indented(documentation(service, method))
    say()
    say(f"{_INDENT}{_rule(method)}  [{_traits(method)}]")
    kinds = [method.input_type]
    if method.output_type is not method.input_type:
        kinds.append(method.output_type)
    for kind in kinds:
        say()
        _describe_message(kind)


def _describe_message(message: Descriptor) -> None:
    from google.protobuf.descriptor_pb2 import DescriptorProto

    proto = DescriptorProto()
    message.CopyToProto(proto)
    say(f"message {message.full_name}")
    if not proto.field:
        say(f"{_INDENT}no fields")
        return
    maps = {nested.name: nested for nested in proto.nested_type if nested.options.map_entry}
    rows = []
    for field in proto.field:
        rule, kind = _kind(field, maps)
        oneof = ""
        if field.HasField("oneof_index") and not field.proto3_optional:
            oneof = f"one of {proto.oneof_decl[field.oneof_index].name}"
        rows.append((str(field.number), field.name, f"{rule}{kind}", oneof))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, name, kind, oneof in rows:
        say(f"{_INDENT}{number:>{widths[0]}}  {name:{widths[1]}}  {kind:{widths[2]}}  {oneof}".rstrip())


def _describe_enum(enum: EnumDescriptor) -> None:
    from neptune_api.v1.annotations_pb2 import http_name

    say(f"enum {enum.full_name}")
    width = max(len(value.name) for value in enum.values)
    for value in enum.values:
        text = value.GetOptions().Extensions[http_name]
        say(f"{_INDENT}{value.number:>3}  {value.name:{width}}  {text}".rstrip())


def _signature(method: MethodDescriptor) -> str:
    asks = "stream " * bool(method.client_streaming) + method.input_type.name
    answers = "stream " * bool(method.server_streaming) + method.output_type.name
    return f"{method.name}({asks}) returns ({answers})"


def _rule(method: MethodDescriptor) -> str:
    from google.api import annotations_pb2, http_pb2

    rule: http_pb2.HttpRule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index] # its stub has no type for extensions
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        return "gRPC only"
    path = rule.custom.path if pattern == "custom" else getattr(rule, pattern)
    verb = rule.custom.kind if pattern == "custom" else pattern.upper()
    return f"{verb} {path}"


def _traits(method: MethodDescriptor) -> str:
    from google.protobuf.descriptor_pb2 import MethodOptions

    from neptune_api.v1.annotations_pb2 import access

    options = method.GetOptions()
    traits = {
        MethodOptions.NO_SIDE_EFFECTS: ["reads only"],
        MethodOptions.IDEMPOTENT: ["safe to repeat"],
        MethodOptions.IDEMPOTENCY_UNKNOWN: ["not safe to repeat"],
    }[options.idempotency_level]
    if method.client_streaming or method.server_streaming:
        sides = (
            "both ways"
            if method.client_streaming and method.server_streaming
            else ("requests" if method.client_streaming else "responses")
        )
        traits.append(f"streams {sides}")
    if options.Extensions[access].anonymous:
        traits.append("no token needed")
    return ", ".join(traits)


def _kind(field: FieldDescriptorProto, maps: dict[str, Any]) -> tuple[str, str]:
    """Return how often a field may stand and of what type it is, in the words of a .proto file."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    if field.type_name:
        full = field.type_name.removeprefix(".")
        entry = maps.get(full.rpartition(".")[2])
        if entry is not None:
            key, value = (_kind(part, {})[1] for part in entry.field)
            return "", f"map<{key}, {value}>"
        name = full.removeprefix("neptune_api.v1.")
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "repeated ", name
    return "optional " * field.proto3_optional, name


def _first_line(text: str) -> str:
    return text.strip().partition("\n\n")[0].replace("\n", " ")


def _say_indented(text: str) -> None:
    for line in text.splitlines():
        say(f"{_INDENT}{line}".rstrip())
