"""The protos keep their own rules, and the server answers what docs/coverage.md says."""

from __future__ import annotations

import fcntl
import importlib
import itertools
import re
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc
import pytest
from google.api import annotations_pb2 as http_annotations
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodOptions

import build_protos
from neptune_api.conformance.field_tables import REQUESTS
from neptune_api.conformance.fields import Ignored, find
from neptune_api.server import LocalServer
from neptune_api.v1.annotations_pb2 import HTTP_FORMAT_PROTOBUF, access, http_bodies, http_header, http_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    # The types of protobuf know two classes for each kind of descriptor and take now this, now that one.
    Descriptor: TypeAlias = Any
    EnumDescriptor: TypeAlias = Any
    FieldDescriptor: TypeAlias = Any
    MethodDescriptor: TypeAlias = Any

ROOT = Path(__file__).resolve().parent.parent
COVERAGE = ROOT / "docs/coverage.md"
PACKAGE = "neptune_api.v1"
MODULES = sorted(path.stem for path in (ROOT / "neptune_api/v1").glob("*_pb2.py"))
FILES = [importlib.import_module(f"{PACKAGE}.{module}").DESCRIPTOR for module in MODULES]

ANONYMOUS = {
    "AuthService.ExchangeApiToken",
    "AuthService.RefreshToken",
    "ConfigService.GetClientConfig",
    "ConfigService.GetServerInfo",
}

# RPCs that must not be called again when the outcome of a call is unknown, with the reason.
NOT_IDEMPOTENT = {
    "AuthService.RevokeApiToken": "a second call revokes the token that came after",
    "IngestService.SubmitStream": "a stream cannot be replayed from the middle",
    "IngestService.SubmitAcknowledged": "a stream cannot be replayed from the middle",
    "ProjectsService.CreateProject": "a second call finds the name taken",
    "ProjectsService.DeleteProject": "a second call does not find the project",
    "ProjectsService.AddProjectMember": "a second call finds the member there",
    "ProjectsService.DeleteProjectMember": "a second call does not find the member",
    "RunsService.DeleteRuns": "a second call reports the runs as missing",
    "SeriesService.AppendColumnsStream": "a stream cannot be replayed from the middle",
    "UsersService.CreateUser": "a second call finds the name taken, and the token of the first is lost",
}


def methods() -> list[MethodDescriptor]:
    return [method for file in FILES for service in file.services_by_name.values() for method in service.methods]


def name_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


RPCS = [pytest.param(method, id=name_of(method)) for method in methods()]


class Binding(NamedTuple):
    """One HTTP rule of an RPC."""

    verb: str
    path: str
    body: str
    response_body: str
    additional: bool

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"\{(.*?)\}", self.path)


def bindings(method: MethodDescriptor) -> list[Binding]:
    rule = method.GetOptions().Extensions[http_annotations.http]
    return [
        Binding(kind.upper(), getattr(each, kind), each.body, each.response_body, each is not rule)
        for each in (rule, *rule.additional_bindings)
        if (kind := each.WhichOneof("pattern")) is not None
    ]


def message_types() -> list[Descriptor]:
    def walk(types: Any) -> Iterator[Descriptor]:
        for descriptor in types:
            if not descriptor.GetOptions().map_entry:
                yield descriptor
                yield from walk(descriptor.nested_types)

    return [found for file in FILES for found in walk(file.message_types_by_name.values())]


def enum_types() -> list[EnumDescriptor]:
    nested = [enum for message in message_types() for enum in message.enum_types]
    return [*(enum for file in FILES for enum in file.enum_types_by_name.values()), *nested]


def enums_within(field: FieldDescriptor, seen: set[str]) -> Iterator[EnumDescriptor]:
    """Yield the enum types that a field can carry, however deep."""
    if field.enum_type is not None:
        yield field.enum_type
    elif field.message_type is not None and field.message_type.full_name not in seen:
        seen.add(field.message_type.full_name)
        for inner in field.message_type.fields:
            yield from enums_within(inner, seen)


def declared(message: Descriptor) -> dict[str, FieldDescriptorProto]:
    """Return the fields of a message as the compiler describes them, which is the same in all versions of protobuf."""
    proto = descriptor_pb2.DescriptorProto()
    message.CopyToProto(proto)
    return {field.name: field for field in proto.field}


def is_single_text(field: FieldDescriptorProto) -> bool:
    return field.type == field.TYPE_STRING and field.label == field.LABEL_OPTIONAL


# ---------------------------------------------------------------- names and comments


@cache
def described_files() -> list[descriptor_pb2.FileDescriptorProto]:
    """Compile the protos with their comments, by the tools that make the package."""
    if sys.version_info[:2] > build_protos.PYTHONS[1]:
        pytest.skip("the pinned grpcio-tools has no wheels for this Python")
    build_protos.TOOLS.mkdir(exist_ok=True)
    with (build_protos.TOOLS / "lock").open("w") as lock, tempfile.TemporaryDirectory() as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tools may have to be made first, by one process only
        target = Path(scratch, "descriptors.binpb")
        build_protos.descriptors(build_protos.environments(), build_protos.PROTO, target)
        found = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    return list(found.file)


def ours() -> list[descriptor_pb2.FileDescriptorProto]:
    return [file for file in described_files() if file.package == PACKAGE]


def described_parts(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield everything that needs a comment: its name and its path in the descriptor."""

    def enum(found: descriptor_pb2.EnumDescriptorProto, scope: str, at: tuple[int, ...]) -> Iterator[Any]:
        yield scope + found.name, at
        for i, value in enumerate(found.value):
            yield f"{scope}{found.name}.{value.name}", (*at, 2, i)

    def message(found: descriptor_pb2.DescriptorProto, scope: str, at: tuple[int, ...]) -> Iterator[Any]:
        if found.options.map_entry:
            return
        inner = f"{scope}{found.name}."
        yield scope + found.name, at
        for i, field in enumerate(found.field):
            yield inner + field.name, (*at, 2, i)
        for i, oneof in enumerate(found.oneof_decl):
            if not oneof.name.startswith("_"):  # those are made by protoc for optional fields
                yield inner + oneof.name, (*at, 8, i)
        for i, nested in enumerate(found.nested_type):
            yield from message(nested, inner, (*at, 3, i))
        for i, nested_enum in enumerate(found.enum_type):
            yield from enum(nested_enum, inner, (*at, 4, i))

    yield f"package of {file.name}", (2,)
    for i, service in enumerate(file.service):
        yield service.name, (6, i)
        for m, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, i, 2, m)
    for i, top in enumerate(file.message_type):
        yield from message(top, "", (4, i))
    for i, top_enum in enumerate(file.enum_type):
        yield from enum(top_enum, "", (5, i))
    for i, extension in enumerate(file.extension):
        yield extension.name, (7, i)


def test_everything_has_a_comment() -> None:
    missing = []
    count = 0
    for file in ours():
        comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
        for name, at in described_parts(file):
            count += 1
            if not comments.get(at, "").strip():
                missing.append(f"{file.name}: {name}")
    assert not missing
    assert count > 500


def test_comments_say_which_fields_are_ignored() -> None:
    """What the suite demands no effect of is said to be ignored where users read about it, and vice versa."""
    comments: dict[str, str] = {}
    for file in ours():
        texts = {tuple(at.path): at.leading_comments.lower() for at in file.source_code_info.location}
        comments |= {f"{PACKAGE}.{name}": texts[at] for name, at in described_parts(file) if at in texts}
    by_name = {name_of(method): method.input_type for method in methods()}
    plans = [
        (find(by_name[rpc], path).full_name, isinstance(plan, Ignored))
        for rpc, requests in REQUESTS.items()
        for request in requests
        for path, plan in request.fields.items()
    ]
    ignored = {name for name, is_ignored in plans if is_ignored}
    effective = {name for name, _ in plans} - ignored
    assert not [name for name in ignored if "ignored" not in comments[name]]
    assert not [name for name in effective if "ignored" in comments.get(name, "")]


def test_path_package_and_python_path_are_one() -> None:
    assert {file.name for file in ours()} == {
        f"neptune_api/v1/{module.removesuffix('_pb2')}.proto" for module in MODULES
    }


def test_nothing_can_meet_the_names_of_released_clients_or_of_google() -> None:
    """Released clients register neptune.* and google_rpc.* in the same process; a second definition would not load."""
    names = [file.name for file in described_files()]
    assert len(names) == len(set(names))
    for file in ours():
        assert file.name.startswith("neptune_api/v1/")
        assert not file.name.startswith("neptune_pb/")
        for imported in file.dependency:
            assert imported.startswith(("neptune_api/v1/", "google/")), f"{file.name} imports {imported}"
    for name in (found.full_name for found in (*message_types(), *enum_types())):
        assert name.startswith(f"{PACKAGE}."), name
        assert not name.startswith("neptune."), name


def test_json_names_are_unique() -> None:
    for message in message_types():
        counts = Counter(field.json_name for field in message.fields)
        counts.update(oneof.name for oneof in message.oneofs)  # some versions of protobuf keep both in one table
        assert max(counts.values(), default=1) == 1, f"{message.full_name}: {counts}"


def test_http_names_of_enum_values_are_unique() -> None:
    for enum in enum_types():
        names = [value.GetOptions().Extensions[http_name] for value in enum.values]
        counts = Counter(filter(None, names))
        assert max(counts.values(), default=1) == 1, f"{enum.full_name}: {counts}"


# ---------------------------------------------------------------- HTTP rules


@pytest.mark.parametrize("method", RPCS)
def test_an_rpc_has_http_rules_that_fit_its_messages(method: MethodDescriptor) -> None:
    request, response = method.input_type, method.output_type
    found = bindings(method)
    assert found, "google.api.http has no path"
    for binding in found:
        assert binding.verb in {"GET", "POST", "PUT", "PATCH", "DELETE"}
        assert re.fullmatch(r"(/([\w.-]+|\{\w+\}))+(:\w+)?/?", binding.path), binding.path
        assert len(binding.parameters) == len(set(binding.parameters))
        for parameter in binding.parameters:
            field = declared(request)[parameter]
            assert is_single_text(field), parameter
            assert not field.proto3_optional, f"{parameter} is in the path, so it is always there"
        assert bool(binding.body) == (binding.verb in {"POST", "PUT", "PATCH"}), "a body where the verb has one"
        if binding.body not in {"", "*"}:
            assert binding.body in request.fields_by_name
            assert binding.body not in binding.parameters
        if binding.response_body:
            assert binding.response_body in response.fields_by_name


@pytest.mark.parametrize("method", RPCS)
def test_what_is_in_no_path_and_no_body_fits_a_query_string_or_header(method: MethodDescriptor) -> None:
    for binding in bindings(method):
        if binding.body == "*":
            continue
        for field in method.input_type.fields:
            if field.name in {*binding.parameters, binding.body}:
                continue
            assert field.message_type is None, f"{field.name} is a message in a query string"
            if field.GetOptions().Extensions[http_header]:
                assert is_single_text(declared(method.input_type)[field.name]), f"{field.name} is a header"


def test_no_two_routes_take_the_same_request() -> None:
    routes = [(name_of(method), binding) for method in methods() for binding in bindings(method)]
    for (name, one), (other_name, other) in itertools.combinations(routes, 2):
        if one.verb != other.verb or len(one.segments) != len(other.segments):
            continue
        pairs = zip(one.segments, other.segments, strict=True)
        # A parameter takes any segment but an empty one.
        both = all(a == b or ("{" in a + b and a and b) for a, b in pairs)
        assert not both, f"{one.verb} {one.path} of {name} and {other.path} of {other_name}"


def test_enums_have_names_on_the_http_wire() -> None:
    """Where JSON or a query string carries an enum, every value but zero has its text."""
    nameless = set()
    for method in methods():
        bodies = method.GetOptions().Extensions[http_bodies]
        for binding in bindings(method):
            # The additional rules of an RPC are the JSON forms of a binary one.
            json_request = binding.additional or bodies.request != HTTP_FORMAT_PROTOBUF
            json_response = binding.additional or bodies.response != HTTP_FORMAT_PROTOBUF
            text = [
                field for field in method.input_type.fields if json_request or binding.body not in {"*", field.name}
            ]
            text += method.output_type.fields if json_response else []
            seen: set[str] = set()
            for enum in itertools.chain.from_iterable(enums_within(field, seen) for field in text):
                nameless |= {
                    f"{name_of(method)}: {value.name}"
                    for value in enum.values
                    if value.number and not value.GetOptions().Extensions[http_name]
                }
    assert not sorted(nameless)


# ---------------------------------------------------------------- idempotency and access


@pytest.mark.parametrize("method", RPCS)
def test_an_rpc_says_whether_it_may_be_repeated(method: MethodDescriptor) -> None:
    level = method.GetOptions().idempotency_level
    if name_of(method) in NOT_IDEMPOTENT:
        assert level == MethodOptions.IDEMPOTENCY_UNKNOWN
    else:
        assert level in {MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT}
    for binding in bindings(method):
        if binding.verb == "GET":
            assert level == MethodOptions.NO_SIDE_EFFECTS, "what HTTP calls safe has no side effects"
        elif binding.verb == "PUT":
            assert level != MethodOptions.IDEMPOTENCY_UNKNOWN, "what HTTP calls idempotent is"


def test_reasons_are_given_for_rpcs_that_exist() -> None:
    assert NOT_IDEMPOTENT.keys() <= {name_of(method) for method in methods()}


def test_four_rpcs_need_no_token() -> None:
    anonymous = {name_of(method) for method in methods() if method.GetOptions().Extensions[access].anonymous}
    assert anonymous == ANONYMOUS


# ---------------------------------------------------------------- what the server answers


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
}


def answer(channel: grpc.Channel, method: MethodDescriptor) -> grpc.StatusCode:
    """Call an RPC with an empty request, or a stream of one, and return the status code."""
    kind = "_".join("stream" if side else "unary" for side in (method.client_streaming, method.server_streaming))
    request = message_factory.GetMessageClass(method.input_type)()
    rpc = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    try:
        response = rpc(iter([request]) if method.client_streaming else request, timeout=30)
        if method.server_streaming:
            list(response)
    except grpc.RpcError as error:
        # What calls raise is a grpc.Call as well, which the types do not say.
        return cast("grpc.Call", error).code()
    return grpc.StatusCode.OK


def coverage() -> list[tuple[str, str, str]]:
    """Return the rows of docs/coverage.md about RPCs: name, verb and path, state."""
    rows = []
    for line in COVERAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and re.fullmatch(r"\w+Service\.\w+", cells[0]):
            rows.append((cells[0], cells[1], cells[2]))
    return rows


def test_the_coverage_table_lists_every_rpc_once_with_its_route() -> None:
    first = {name_of(method): bindings(method)[0] for method in methods()}
    expected = [(name, f"{binding.verb} {binding.path}") for name, binding in first.items()]
    assert sorted((name, route) for name, route, _ in coverage()) == sorted(expected)


def test_the_coverage_table_says_what_the_server_answers(server: LocalServer) -> None:
    """Called with an empty request, an RPC is UNIMPLEMENTED or not, as the table says; no such call is a fault."""
    said = {name: state for name, _, state in coverage()}
    assert {state.partition(":")[0] for state in said.values()} <= {"works", "UNIMPLEMENTED"}
    # Revoking is done to another user's token.
    with server.channel() as channel, server.channel(server.create_user("revoker")) as other:
        found = {
            name_of(method): answer(other if method.name == "RevokeApiToken" else channel, method)
            for method in methods()
        }
    assert not {name: code for name, code in found.items() if code in FAULTS}
    unimplemented = {name for name, code in found.items() if code is grpc.StatusCode.UNIMPLEMENTED}
    assert unimplemented == {name for name, state in said.items() if state.startswith("UNIMPLEMENTED")}


def test_without_a_token_the_server_answers_the_four_only(server: LocalServer) -> None:
    with grpc.insecure_channel(server.grpc_target) as channel:
        found = {name_of(method): answer(channel, method) for method in methods()}
    refused = {name for name, code in found.items() if code is grpc.StatusCode.UNAUTHENTICATED}
    # An empty refresh token is a bad one, which has the same code as none.
    assert refused - {"AuthService.RefreshToken"} == found.keys() - ANONYMOUS
    assert found["ConfigService.GetClientConfig"] is found["ConfigService.GetServerInfo"] is grpc.StatusCode.OK
