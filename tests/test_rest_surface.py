"""The HTTP rules and JSON names are those of the REST API, held against a list of its operations.

tests/rest_surface.txt has the facts; this file compares: verb, path, parameters, and every key of every body, however
deep, with its type.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from google.protobuf.descriptor import FieldDescriptor

from neptune_api.v1.annotations_pb2 import http_datetime, http_header, http_list, http_name, twin
from tests.test_protos import bindings, declared, methods, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.test_protos import Binding

SURFACE = (Path(__file__).parent / "rest_surface.txt").read_text(encoding="utf-8").splitlines()

# Keys of the REST API that have no field here, with the reason. Requests: key -> why sending it has no effect.
LEFT_OUT = {
    "AttributeDTO.complexProperties": "no attribute of that type is ever stored",
    "AttributeDTO.experimentStateProperties": "the official binary message has no such field; name and type tell",
    "AttributeDTO.gitRefProperties": "no attribute of that type is ever stored",
    "LeaderboardEntriesSearchResultDTO.groups": "there is no grouping",
    "ProjectMemberDTO.invitationInfo": "there are no invitations",
    "ProjectMemberDTO.organizationInvitationInfo": "there are no invitations",
    "QueryLeaderboardParamsGroupingParamsDTO.openedGroups": "there is no grouping",
    "QueryAttributesExperimentResultDTO.organizationName": "the official binary message has no such field",
    "QueryAttributesExperimentResultDTO.projectName": "the official binary message has no such field",
}
NUMBERS = {
    # The official binary messages count with 64 bits what JSON counts with 32.
    "int32": {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_INT64},
    "int64": {FieldDescriptor.TYPE_INT64},
    "double": {FieldDescriptor.TYPE_DOUBLE},
    "float": {FieldDescriptor.TYPE_FLOAT},
    "bool": {FieldDescriptor.TYPE_BOOL},
    "string": {FieldDescriptor.TYPE_STRING},
}


class Key(NamedTuple):
    """A parameter, or a key of a JSON object."""

    name: str
    optional: bool
    type: str


class Operation(NamedTuple):
    """One operation of the REST API."""

    name: str
    verb: str
    path: str
    parameters: tuple[Key, ...]
    body: str
    answer: str


def keys(text: str) -> Iterator[Key]:
    for name, optional, type_ in re.findall(r"([@\w-]+)(\??): ((?:map<.*?>|[^,{}])+)", text):
        yield Key(name, bool(optional), type_.strip())


def operations() -> Iterator[Operation]:
    for line in SURFACE:
        found = re.fullmatch(r"(\w+) ([A-Z]+) (/\S*)(?: \?\((.*?)\))?(?: \{(\S+)\})?(?: -> (\S+))?", line)
        if found:
            name, verb, path, parameters, body, answer = found.groups(default="")
            yield Operation(name, verb, path, tuple(keys(parameters)), body, answer)


def camel(path: str) -> str:
    """Write the parameters of a path as the REST API does."""
    return re.sub(r"\{(\w+)\}", lambda found: "{" + re.sub(r"_(\w)", lambda x: x[1].upper(), found[1]) + "}", path)


OBJECTS = {name: tuple(keys(body)) for line in SURFACE for name, body in re.findall(r"^([A-Z]\w+) \{ (.*) \}$", line)}
ENUMS = {
    name: set(values.split("|")) for line in SURFACE for name, values in re.findall(r"^(\w+) = enum\((.*)\)$", line)
}
OPERATIONS = list(operations())
ROUTES = {
    (binding.verb, camel(binding.path)): (method, binding) for method in methods() for binding in bindings(method)
}
OURS = ("/api/client/v1/",)  # where RPCs live for which the REST API has no operation


def named(field: Any) -> set[str]:
    return {value.GetOptions().Extensions[http_name] for value in field.enum_type.values if value.number}


class Comparison:
    """Differences between keys of the REST API and fields of messages; `whole` demands the optional keys too."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.found: list[str] = []
        self._seen: set[tuple[str, str]] = set()

    def message(self, type_: str, message: Any) -> None:
        """Compare a body, or a value in one, with a message."""
        if type_ not in OBJECTS:
            official = message.GetOptions().Extensions[twin]
            self.expect(official.endswith(f".{type_}"), f"{message.name} is no twin of {type_}")
            return
        if (type_, message.full_name) in self._seen:
            return
        self._seen.add((type_, message.full_name))
        fields = {field.json_name: field for field in message.fields}
        for key in OBJECTS[type_]:
            where = f"{type_}.{key.name}"
            if key.name in fields:
                self.expect(where not in LEFT_OUT, f"{where} has a field, and a reason why not")
                self.field(where, key.type, fields[key.name])
            elif where not in LEFT_OUT:
                self.expect(key.optional and not self.whole, f"{message.name} has nothing for {where}")

    def field(self, where: str, type_: str, field: Any) -> None:
        shape = declared(field.containing_type)[field.name]
        message = field.message_type
        repeated = shape.label == shape.LABEL_REPEATED
        if mapped := re.fullmatch(r"map<string,(\w+)>", type_):
            self.expect(repeated and message.GetOptions().map_entry, f"{where} is no map")
            self.message(mapped[1], message.fields_by_name["value"].message_type)
        elif type_.endswith("[]"):
            if message is not None and message.GetOptions().Extensions[http_list]:
                field = message.fields_by_name["values"]
            else:
                self.expect(repeated, f"{where} is no list")
            self.single(where, type_.removesuffix("[]"), field)
        else:
            self.expect(not repeated, f"{where} is a list")
            self.single(where, type_, field)

    def single(self, where: str, type_: str, field: Any) -> None:
        if type_ in NUMBERS:
            self.expect(field.type in NUMBERS[type_], f"{where} is no {type_}")
        elif type_ == "datetime":
            timestamp = field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp"
            self.expect(timestamp or field.GetOptions().Extensions[http_datetime], f"{where} is no datetime")
        elif type_ in ENUMS or type_.startswith("enum("):
            values = ENUMS.get(type_) or set(type_.removeprefix("enum(").removesuffix(")").split("|"))
            # Answers and twins carry some enums as texts.
            if field.type != FieldDescriptor.TYPE_STRING:
                self.expect(field.enum_type is not None and values <= named(field), f"{where} lacks one of {values}")
        elif self.expect(field.message_type is not None, f"{where} is no {type_}"):
            self.message(type_, field.message_type)

    def expect(self, holds: object, otherwise: str) -> bool:
        if not holds:
            self.found.append(otherwise)
        return bool(holds)


def answer_differences(operation: Operation, message: Any, binding: Binding) -> list[str]:
    compared = Comparison(whole=False)
    if binding.response_body:
        compared.field("answer", operation.answer, message.fields_by_name[binding.response_body])
    elif operation.answer:
        compared.message(operation.answer, message)
    else:
        compared.expect(not message.fields, f"{message.name} is not empty")
    return compared.found


def body_differences(operation: Operation, message: Any, binding: Binding) -> list[str]:
    compared = Comparison(whole=True)
    if not operation.body:
        compared.expect(not binding.body, "takes a body")
    elif binding.body == "*":
        compared.message(operation.body, message)
    else:
        compared.field("body", operation.body, message.fields_by_name[binding.body])
    return compared.found


def parameter_differences(operation: Operation, message: Any, binding: Binding) -> list[str]:
    if binding.body == "*":
        return [f"nothing takes {key.name}" for key in operation.parameters]
    fields = {}
    for field in message.fields:
        if field.name not in {*binding.parameters, binding.body}:
            header = field.GetOptions().Extensions[http_header]
            fields[f"@{header}" if header else field.json_name] = field
    compared = Comparison(whole=True)
    for key in operation.parameters:
        if compared.expect(key.name in fields, f"nothing takes {key.name}"):
            compared.field(key.name, key.type, fields.pop(key.name))
    compared.expect(not fields, f"takes {sorted(fields)}, which is no parameter")
    return compared.found


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.name for operation in OPERATIONS])
def test_an_operation_of_the_rest_api_has_its_verb_path_and_names(operation: Operation) -> None:
    method, binding = ROUTES[operation.verb, operation.path]
    assert parameter_differences(operation, method.input_type, binding) == []
    assert body_differences(operation, method.input_type, binding) == []
    assert answer_differences(operation, method.output_type, binding) == []


def test_every_other_route_is_outside_of_the_rest_api() -> None:
    official = {(operation.verb, operation.path) for operation in OPERATIONS}
    assert len(official) > 40
    # JSON twins are there even where the REST API has none.
    twins = {(verb, path.replace("/proto/", "/").rstrip("/")) for verb, path in official}
    for (verb, path), (method, _) in ROUTES.items():
        assert (verb, path) in official | twins or path.startswith(OURS), f"{name_of(method)}: {verb} {path}"


def test_reasons_are_given_for_keys_that_exist() -> None:
    assert LEFT_OUT.keys() <= {f"{name}.{key.name}" for name, found in OBJECTS.items() for key in found}
