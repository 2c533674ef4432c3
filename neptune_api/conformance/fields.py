"""Every field of every request: what setting it has to change.

A table has, for each RPC, a request that is fine and, for each field of it, by path, a value that makes a difference:
another answer, another state afterwards, or an error that names the field. Fields of nested messages have paths with
dots; of repeated messages the first is meant, of maps the entry `key`. Every value of an enum is a field of its own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format, message_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from google.protobuf.message import Message

    # The types of protobuf know two classes for each kind of descriptor and take now this, now that one.
    Descriptor: TypeAlias = Any
    FieldDescriptor: TypeAlias = Any

KEY: Final = "key"
UNKNOWN_NUMBER: Final = 1_000_003
_OPAQUE: Final = "google.protobuf."  # messages of which the whole is one value


@dataclass(frozen=True)
class Set:
    """A value for a field, and what else the request needs for it to mean something."""

    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    """Other fields, by path; they are in the request that the one with the field is compared with."""


@dataclass(frozen=True)
class Each:
    """Every value of an enum in turn, an unknown number at the end."""

    alike: frozenset[str] = frozenset()
    """Values that mean what leaving the field out means."""
    given: Mapping[str, Any] = field(default_factory=dict)
    tolerated: str = ""
    """Why an unknown number means what leaving the field out means; empty where it is refused."""


@dataclass(frozen=True)
class Ignored:
    """A value that changes nothing, and why; the comment of the field says so as well."""

    value: Any
    because: str
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Later:
    """A value that an earlier answer gives, such as a page token."""

    of: Callable[[Any], Any]
    """From the answer to the request that the value is added to."""
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request that is fine, and its fields; texts may have placeholders in braces."""

    base: Mapping[str, Any]
    """By path, the value that it has, as JSON of protobuf."""
    fields: Mapping[str, Any]
    """By path: Set, Each, Ignored or Later; a plain value is one to set."""


def below(prefix: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a message as those of one that has it at `prefix`, with what they are given."""
    found = {}
    for path, plan in fields.items():
        given = getattr(plan, "given", None)
        found[f"{prefix}.{path}"] = replace(plan, given=below(prefix, given)) if given else plan
    return found


def paths(message: Descriptor, *, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the path of every field that holds a value; of a message in itself once."""
    for item in message.fields:
        path = f"{prefix}{item.name}"
        inner = item.message_type
        if inner is None or inner.full_name.startswith(_OPAQUE):
            yield path
        elif inner.GetOptions().map_entry:
            yield f"{path}.{KEY}"
            value = inner.fields_by_name["value"]
            if value.message_type is None:
                yield f"{path}.value"
            else:
                yield from paths(value.message_type, prefix=f"{path}.value.", above=(*above, inner.full_name))
        elif inner.full_name in (*above, message.full_name) or not inner.fields:
            yield path
        else:
            yield from paths(inner, prefix=f"{path}.", above=(*above, message.full_name))


def find(message: Descriptor, path: str) -> FieldDescriptor:
    """Return the field at a path."""
    found: FieldDescriptor = None
    for name in path.split("."):
        if found is not None:
            message = found.message_type
        found = message.fields_by_name[name]
    return found


def patch(request: dict[str, Any], message: Descriptor, path: str, value: Any) -> None:
    """Set the field at a path of a request in JSON."""
    name, _, rest = path.partition(".")
    item = message.fields_by_name[name]
    inner = item.message_type
    if not rest:
        is_list = _repeated(item) and not isinstance(value, list | dict)
        request[item.json_name] = copy.deepcopy([value] if is_list else value)
        return
    if inner.GetOptions().map_entry:
        entries = request.setdefault(item.json_name, {})
        part, _, deeper = rest.partition(".")
        if part == KEY:
            # The entry there is under another key, or two where there is none to begin with.
            entries[value] = copy.deepcopy(next(iter(entries.values())))
            if len(entries) > 1:
                entries.pop(next(iter(entries)))
        elif not deeper:
            entries[next(iter(entries), KEY)] = value
        else:
            _clear_oneof(entry := entries.setdefault(next(iter(entries), KEY), {}), part_of(inner), deeper)
            patch(entry, part_of(inner), deeper, value)
        return
    if _repeated(item):
        elements = request.setdefault(item.json_name, [])
        if not elements:
            elements.append({})
        target = elements[0]
    else:
        target = request.setdefault(item.json_name, {})
    _clear_oneof(target, inner, rest)
    patch(target, inner, rest, value)


def part_of(entry: Descriptor) -> Descriptor:
    """Return the message type of the values of a map."""
    return entry.fields_by_name["value"].message_type


def _clear_oneof(target: dict[str, Any], message: Descriptor, path: str) -> None:
    """Remove the other members of the oneof that a path leads into."""
    oneof = message.fields_by_name[path.partition(".")[0]].containing_oneof
    for other in oneof.fields if oneof is not None else ():
        if other.name != path.partition(".")[0]:
            target.pop(other.json_name, None)


def _repeated(item: FieldDescriptor) -> bool:
    # Newer runtimes have is_repeated, older ones the label.
    repeated = getattr(item, "is_repeated", None)
    return bool(item.label == item.LABEL_REPEATED if repeated is None else repeated)


def fill_in(value: Any, names: Mapping[str, str]) -> Any:
    """Return JSON with its placeholders replaced."""
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, dict):
        return {fill_in(key, names): fill_in(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_in(item, names) for item in value]
    return value


def build(message: Descriptor, json: Any, names: Mapping[str, str]) -> Message:
    """Return a request from its JSON."""
    return json_format.ParseDict(fill_in(json, names), message_factory.GetMessageClass(message)())
