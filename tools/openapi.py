"""Write the OpenAPI document of the HTTP API from the descriptors of the compiled protos.

    python tools/openapi.py DESCRIPTORS OUT

Run by build_protos.py in the compiler environment; DESCRIPTORS is a FileDescriptorSet with comments, OUT the folder
with the freshly compiled package. Paths, parameters, bodies and names come from neptune_api.http, which the server and
the HTTP channels go by as well.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neptune_api

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

    from neptune_api.http.rules import Rule

PACKAGE = "neptune_api.v1."
DOCUMENT = "neptune_api/server/http/static/openapi.json"
JSON_TYPE = "application/json"
PROTOBUF_TYPE = "application/x-protobuf"
BINARY = {"type": "string", "format": "binary"}


def comments(files: descriptor_pb2.FileDescriptorSet) -> dict[str, str]:
    """Return the leading comments of the package's files by the full name of what they describe."""
    found: dict[str, str] = {}
    for file in files.file:
        if f"{file.package}." != PACKAGE:
            continue
        names: dict[tuple[int, ...], str] = {}

        def name_message(
            message: descriptor_pb2.DescriptorProto,
            scope: str,
            path: tuple[int, ...],
            names: dict[tuple[int, ...], str],
        ) -> None:
            full = f"{scope}{message.name}"
            names[path] = full
            names.update({(*path, 2, i): f"{full}.{field.name}" for i, field in enumerate(message.field)})
            for i, nested in enumerate(message.nested_type):
                name_message(nested, f"{full}.", (*path, 3, i), names)
            names.update({(*path, 4, i): f"{full}.{enum.name}" for i, enum in enumerate(message.enum_type)})

        for i, message in enumerate(file.message_type):
            name_message(message, PACKAGE, (4, i), names)
        for i, enum in enumerate(file.enum_type):
            names[5, i] = f"{PACKAGE}{enum.name}"
            names.update({(5, i, 2, j): f"{PACKAGE}{enum.name}.{value.name}" for j, value in enumerate(enum.value)})
        for i, service in enumerate(file.service):
            names[6, i] = f"{PACKAGE}{service.name}"
            names.update({(6, i, 2, j): f"{PACKAGE}{service.name}.{rpc.name}" for j, rpc in enumerate(service.method)})
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                lines = location.leading_comments.rstrip().split("\n")
                found[name] = "\n".join(line.removeprefix(" ") for line in lines)
    return found


class Document:
    """Collects operations and the schemas they refer to."""

    def __init__(self, notes: Mapping[str, str]) -> None:
        self._notes = notes
        self.paths: dict[str, dict[str, Any]] = {}
        self.schemas: dict[str, Any] = {}

    def add(self, rule: Rule, ordinal: int) -> None:
        """Add one way to call one RPC; `ordinal` tells several of the same RPC apart."""
        from neptune_api.http.rules import Format
        from neptune_api.v1.annotations_pb2 import access

        method = rule.method
        comment = self._notes.get(method.full_name, "")
        first = re.match(r".+?\.(?=\s|$)", comment, flags=re.DOTALL)
        operation: dict[str, Any] = {
            "operationId": f"{method.containing_service.name}_{method.name}" + (f"_{ordinal}" if ordinal else ""),
            "tags": [method.containing_service.name],
            "summary": " ".join(first.group().split()) if first else method.name,
            "description": comment,
            "parameters": self._parameters(rule),
        }
        if rule.body:
            operation["requestBody"] = self._request_body(rule)
        body: Any = self._response(rule)
        stream = bool(method.server_streaming)
        types = [written.stream_content_type if stream else written.content_type for written in Format]
        operation["responses"] = {
            # JSON first: it is what the API page asks for when nobody chooses.
            "200": {
                "description": "Messages, one per line or frame." if stream else "The answer.",
                "content": {types[0]: {"schema": body}, types[1]: {"schema": BINARY}},
            },
            "default": {
                "description": "The call failed.",
                "content": {JSON_TYPE: {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        }
        if method.GetOptions().Extensions[access].anonymous:
            operation["security"] = []
        self.paths.setdefault(_path(rule), {})[rule.http_verb.lower()] = operation

    def _parameters(self, rule: Rule) -> list[dict[str, Any]]:
        from neptune_api.http.rules import is_repeated, resolve

        request = rule.method.input_type
        found = []
        for variable in rule.template.variables:
            field = resolve(request, variable.field)
            if field is not None:  # rules name no others
                found.append(self._parameter("path", ".".join(variable.field), field, required=True))
        for name, chain in rule.query.items():
            parameter = self._parameter("query", name, chain[-1], required=self._required(chain[-1]))
            if is_repeated(chain[-1]):
                parameter["explode"] = True
            found.append(parameter)
        found += [
            self._parameter("header", name, field, required=self._required(field))
            for name, field in rule.headers.items()
        ]
        return found

    def _parameter(self, place: str, name: str, field: FieldDescriptor, *, required: bool) -> dict[str, Any]:
        parameter: dict[str, Any] = {"name": name, "in": place, "schema": self._field(field)}
        if note := self._notes.get(field.full_name):
            parameter["description"] = note
        if required:
            parameter["required"] = True
        return parameter

    def _required(self, field: FieldDescriptor) -> bool:
        return bool(re.search(r"\bRequired\b", self._notes.get(field.full_name, "")))

    def _request_body(self, rule: Rule) -> dict[str, Any]:
        request = rule.method.input_type
        bound = {variable.field[0] for variable in rule.template.variables}
        if rule.body == "*":
            schema = self._message(request) if not bound else self._object(request, without=bound)
        else:
            field = request.fields_by_name[rule.body]
            schema = self._field(field)
        return {"content": {JSON_TYPE: {"schema": schema}, PROTOBUF_TYPE: {"schema": BINARY}}}

    def _response(self, rule: Rule) -> Any:
        response = rule.method.output_type
        if rule.response_body:
            return self._field(response.fields_by_name[rule.response_body])
        schema = self._message(response)
        return {"type": "object", "properties": {"result": schema}} if rule.method.server_streaming else schema

    def _message(self, message: Descriptor) -> dict[str, Any]:
        from neptune_api.http.json_codec import is_http_list
        from neptune_api.http.rules import TIMESTAMP

        if message.full_name == TIMESTAMP:
            return {"type": "string", "format": "date-time"}
        if is_http_list(message):
            return self._field(message.fields[0])
        name = _schema_name(message.full_name)
        if name not in self.schemas:
            self.schemas[name] = {}  # messages may contain themselves
            self.schemas[name] = self._object(message)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, without: set[str] | frozenset[str] = frozenset()) -> dict[str, Any]:
        properties = {}
        required = []
        for field in message.fields:
            if field.name in without:
                continue
            schema = self._field(field)
            note = self._notes.get(field.full_name)
            if note:
                # Beside a reference, other keys are not read.
                schema = (
                    {"allOf": [schema], "description": note} if "$ref" in schema else {**schema, "description": note}
                )
            properties[field.json_name] = schema
            if self._required(field):
                required.append(field.json_name)
        found: dict[str, Any] = {"type": "object", "properties": properties}
        if note := self._notes.get(message.full_name):
            found["description"] = note
        if required:
            found["required"] = required
        return found

    def _field(self, field: FieldDescriptor) -> dict[str, Any]:
        from neptune_api.http.json_codec import is_map, map_entry
        from neptune_api.http.rules import is_repeated

        if is_map(field):
            return {"type": "object", "additionalProperties": self._value(map_entry(field)[1])}
        value = self._value(field)
        return {"type": "array", "items": value} if is_repeated(field) else value

    def _value(self, field: FieldDescriptor) -> dict[str, Any]:
        from neptune_api.http.json_codec import is_http_datetime

        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if is_http_datetime(field):
            return {"type": "string", "format": "date-time"}
        kinds: dict[int, dict[str, Any]] = {
            field.TYPE_STRING: {"type": "string"},
            field.TYPE_BYTES: {"type": "string", "format": "byte"},
            field.TYPE_BOOL: {"type": "boolean"},
            field.TYPE_DOUBLE: {"type": "number", "format": "double"},
            field.TYPE_FLOAT: {"type": "number", "format": "float"},
        }
        wide = {field.TYPE_INT64, field.TYPE_UINT64, field.TYPE_SINT64, field.TYPE_FIXED64, field.TYPE_SFIXED64}
        return kinds.get(field.type, {"type": "integer", "format": "int64" if field.type in wide else "int32"})

    def _enum(self, enum: EnumDescriptor) -> dict[str, Any]:
        from neptune_api.http.json_codec import enum_names

        name = _schema_name(enum.full_name)
        if name not in self.schemas:
            texts = [text for text in enum_names(enum).values() if not text.endswith("_UNSPECIFIED")]
            self.schemas[name] = {"type": "string", "enum": texts}
            if note := self._notes.get(enum.full_name):
                self.schemas[name]["description"] = note
        return {"$ref": f"#/components/schemas/{name}"}


def _schema_name(full_name: str) -> str:
    return full_name.removeprefix(PACKAGE)


def _path(rule: Rule) -> str:
    segments: list[str] = list(rule.template.segments)
    for variable in reversed(rule.template.variables):
        segments[variable.first : variable.last] = [f"{{{'.'.join(variable.field)}}}"]
    return "/" + "/".join(segments) + (f":{rule.template.verb}" if rule.template.verb else "")


ERROR = {
    "type": "object",
    "description": "A failed call.",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "The HTTP status."},
        "message": {"type": "string", "description": "What happened, the limit, and what to do."},
        "errorType": {"type": "string", "description": "The cause, for programs; absent when no known one fits."},
        "type": {"type": "string", "description": "The same as errorType."},
        "title": {"type": "string", "description": "The kind of failure, for people."},
        "status": {"type": "string", "description": "Name of the gRPC status code."},
        "details": {
            "type": "array",
            "description": "The details of google.rpc.Status, such as ErrorInfo, BadRequest and RetryInfo.",
            "items": {"type": "object", "additionalProperties": True},
        },
    },
}

DESCRIPTION = """\
The Neptune API over HTTP. Every operation is an RPC of `proto/neptune_api/v1`, where its comments come from.

**Log in** above with an API token, the text in `NEPTUNE_API_TOKEN`: this page exchanges it for an access token, which
it keeps in memory only and sends as `Authorization: Bearer <access token>` with each call.

Bodies are JSON or binary protobuf, by `Content-Type` and `Accept`. In JSON, 64-bit integers are numbers, `null` is
absent, unknown keys are ignored, NaN and infinities are the texts `NaN`, `Infinity` and `-Infinity`. A deadline is
given by the header `grpc-timeout`, such as `1500m`.
"""


def document(files: descriptor_pb2.FileDescriptorSet) -> dict[str, Any]:
    """Return the OpenAPI document."""
    from neptune_api.http.rules import all_rules

    notes = comments(files)
    found = Document(notes)
    rules = sorted(all_rules().values(), key=lambda rules: rules[0].name)
    for ways in rules:
        for ordinal, rule in enumerate(ways):
            if not rule.method.client_streaming:  # gRPC only
                found.add(rule, ordinal)
    services = sorted({rule.method.containing_service.full_name for ways in rules for rule in ways})
    return {
        "openapi": "3.0.3",
        "info": {"title": "Neptune API", "version": "1", "description": DESCRIPTION},
        # Wherever the document comes from, a proxy's path included.
        "servers": [{"url": "."}],
        "security": [{"accessToken": []}],
        "tags": [{"name": _schema_name(name), "description": notes.get(name, "")} for name in services],
        "paths": dict(sorted(found.paths.items())),
        "components": {
            "schemas": dict(sorted({**found.schemas, "Error": ERROR}.items())),
            "securitySchemes": {"accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def main() -> int:
    """Write the document."""
    descriptors, out = Path(sys.argv[1]), Path(sys.argv[2])
    # The fresh stubs in place of those of the last build.
    neptune_api.__path__.insert(0, str(out / "neptune_api"))
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    target = out / DOCUMENT
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document(files), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
