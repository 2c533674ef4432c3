"""tools/facade.py: method names, parameters and docstrings made from descriptors."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING

import pytest
from google.protobuf import descriptor_pb2

import build_protos
from tools import facade

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] > build_protos.PYTHONS[1], reason="the pinned grpcio-tools has no wheels for this Python"
)

PROTO = """
syntax = "proto3";
package neptune_api.v1;
import "google/api/annotations.proto";
import "google/protobuf/timestamp.proto";

service ThingsService {
  // Makes a thing, with a \\\\ and three quotes \"\"\" in its comment.
  //
  // - an item
  //   that goes on
  rpc MakeThing(MakeThingRequest) returns (Thing) {
    option (google.api.http) = {post: "/things" body: "*"};
  }
  rpc PingV2(Empty) returns (Empty) {
    option (google.api.http) = {custom: {kind: "HEAD" path: "/ping"}};
  }
  rpc WatchThings(Empty) returns (stream Thing) {
    option (google.api.http) = {get: "/watch"};
  }
}

message Empty {}

message Thing {
  enum Color {
    COLOR_UNSPECIFIED = 0;
  }
}

message MakeThingRequest {
  // The class.
  //
  // More about it.
  optional string class = 1;
  repeated Thing request = 2;
  map<string, int64> timeout = 3;
  Thing.Color metadata = 4;
  google.protobuf.Timestamp self = 5;
  bytes plain = 6;
}
"""


@pytest.fixture
def schema(tmp_path: Path) -> facade.Schema:
    return read(tmp_path, PROTO)


def read(folder: Path, proto: str) -> facade.Schema:
    protos = folder / "neptune_api/v1"
    protos.mkdir(parents=True)
    (protos / "things_service.proto").write_text(proto)
    target = folder / "descriptors.binpb"
    build_protos.TOOLS.mkdir(exist_ok=True)
    build_protos.descriptors(build_protos.environments(), folder, target)
    return facade.Schema(descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()))


@pytest.mark.parametrize(
    ("verb", "rpc", "name"),
    [
        ("post", "GetUserIdentity", "post_get_user_identity"),
        ("get", "GetProjectDetails", "get_project_details"),
        ("post", "GetProjectMemberV2", "post_get_project_member_v2"),
        ("get", "GetAPIToken", "get_api_token"),
        ("get", "Get", "get"),
        ("get", "Getter", "get_getter"),
    ],
)
def test_a_method_is_verb_and_rpc_without_a_doubled_verb(verb: str, rpc: str, name: str) -> None:
    assert facade.method_name(verb, rpc) == name


def test_parameters_have_the_types_of_the_constructor_and_names_python_allows(schema: facade.Schema) -> None:
    module = ast.parse(facade.client_source(schema))
    client = next(node for node in module.body if isinstance(node, ast.ClassDef))
    methods = {node.name: node for node in client.body if isinstance(node, ast.FunctionDef)}
    assert set(methods) == {"_things_service", "post_make_thing", "head_ping_v2"}, "streams are not in the facade"
    arguments = methods["post_make_thing"].args
    assert [ast.unparse(argument) for argument in (*arguments.args, *arguments.kwonlyargs)] == [
        "self",
        "request: models.MakeThingRequest | None",
        "class_: str | None",
        "request_: Iterable[models.Thing] | None",
        "timeout_: Mapping[str, int] | None",
        "metadata_: models.Thing.Color.ValueType | None",
        "self_: timestamp_pb2.Timestamp | None",
        "plain: bytes | None",
        "timeout: float | None",
        "metadata: Metadata | None",
    ]
    assert ast.unparse(methods["post_make_thing"].body[1]) == (
        "fields: dict[str, object] = {'class': class_, 'request': request_, 'timeout': timeout_, "
        "'metadata': metadata_, 'self': self_, 'plain': plain}"
    )


def test_the_docstring_is_the_comment_then_the_parameters(schema: facade.Schema) -> None:
    module = ast.parse(facade.client_source(schema))
    client = next(node for node in module.body if isinstance(node, ast.ClassDef))
    method = next(node for node in client.body if isinstance(node, ast.FunctionDef) and node.name == "post_make_thing")
    text = ast.get_docstring(method)
    assert text is not None
    lines = text.splitlines()
    assert lines[:6] == [
        'Makes a thing, with a \\\\ and three quotes """ in its comment.',
        "",
        "- an item",
        "  that goes on",
        "",
        "RPC: `ThingsService.MakeThing`, `POST /things`.",
    ]
    assert "    class_: The class." in lines


def test_imports_are_those_the_annotations_need(schema: facade.Schema) -> None:
    text = facade.client_source(schema)
    assert (
        "    from collections.abc import Iterable, Mapping\n\n    from google.protobuf import timestamp_pb2\n" in text
    )
    assert "from neptune_api.v1" not in text.replace("from neptune_api.v1.things_service_pb2_grpc import", "")


def test_models_are_the_top_level_types(schema: facade.Schema) -> None:
    assert '__all__ = [\n    "Empty",\n    "MakeThingRequest",\n    "Thing",\n]\n' in facade.models_source(schema)


def test_an_rpc_without_http_rule_is_refused(tmp_path: Path) -> None:
    schema = read(tmp_path, PROTO.replace('option (google.api.http) = {post: "/things" body: "*"};', ""))
    with pytest.raises(facade.FacadeError, match=r"ThingsService\.MakeThing has no google\.api\.http option"):
        facade.client_source(schema)
