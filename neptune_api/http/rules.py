"""Routes of the HTTP API, read from the protos: google.api.http options and the annotations of this package.

A template is a path of segments, each a literal text, `*` (one segment) or `**` (the rest), and variables that name the
field of the request which those segments fill: `{user_id}`, `{project.name=*}`. Beyond google/api/http.proto a path may
end in a slash, because paths of the REST API do, and then only the path with the slash is meant.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from neptune_api._grpc.methods import service_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
    from typing_extensions import Self

FieldPath = tuple[str, ...]
"""Names of fields, from a field of the request inwards, in proto spelling."""


class RuleError(ValueError):
    """The HTTP rules of the protos contradict themselves or each other; the text says where."""


class Format(enum.Enum):
    """How a message is written into a body."""

    JSON = "application/json"
    PROTOBUF = "application/x-protobuf"

    @property
    def content_type(self) -> str:
        """The media type of a body with one message."""
        return self.value

    @property
    def stream_content_type(self) -> str:
        """The media type of a body with a stream of messages."""
        return "application/x-ndjson" if self is Format.JSON else "application/x-protobuf-stream"


@dataclass(frozen=True, slots=True)
class Variable:
    """A part of a path that fills a field."""

    field: FieldPath
    first: int
    """Index of its first segment."""
    last: int
    """Index after its last segment."""

    def many(self, segments: Sequence[str]) -> bool:
        """Tell whether it may span more than one segment, so that a slash in it is a slash of the path."""
        return self.last - self.first > 1 or "**" in segments[self.first : self.last]


_TOKEN: Final = re.compile(r"\{(?P<field>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:=(?P<inner>[^{}]+))?\}")
_ESCAPED_VERB: Final = re.compile(r":([^:/{}]+)$")


@dataclass(frozen=True)
class Template:
    """A path with holes."""

    segments: tuple[str, ...]
    """Literal texts, `*` and `**`; an empty text at the end stands for a slash there."""
    variables: tuple[Variable, ...]
    verb: str
    """The custom verb after the colon at the end of a template with a hole; empty without."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template as protos write it. Raises RuleError."""
        if not text.startswith("/"):
            raise RuleError(f"the path {text!r} does not begin with a slash")
        rest, verb = text[1:], ""
        if "{" in text or "*" in text:
            found = _ESCAPED_VERB.search(rest)
            if found:
                rest, verb = rest[: found.start()], found[1]
        segments: list[str] = []
        variables: list[Variable] = []
        for part in _split(rest):
            token = _TOKEN.fullmatch(part)
            if token is None:
                segments.append(part)
                continue
            inner = (token["inner"] or "*").split("/")
            field = tuple(token["field"].split("."))
            variables.append(Variable(field, len(segments), len(segments) + len(inner)))
            segments += inner
        for index, segment in enumerate(segments):
            last = index == len(segments) - 1
            if (
                (not segment and not last)
                or any(sign in segment for sign in "{}?#")
                or ("*" in segment and segment not in {"*", "**"})
                or (segment == "**" and not last)
            ):
                raise RuleError(f"the path {text!r} has a bad segment {segment!r}")
        fields = [variable.field for variable in variables]
        if len(set(fields)) < len(fields):
            raise RuleError(f"the path {text!r} names a field twice")
        return cls(tuple(segments), tuple(variables), verb)

    @cached_property
    def literal(self) -> str | None:
        """The path itself, when it has no holes."""
        return None if any(segment in {"*", "**"} for segment in self.segments) else str(self)

    def __str__(self) -> str:
        return "/" + "/".join(self.segments) + (f":{self.verb}" if self.verb else "")

    def capture(self, segments: Sequence[str]) -> dict[FieldPath, str] | None:
        """Return what percent-encoded segments of a path fill the variables with; None when they do not fit."""
        if self.verb:
            head, colon, verb = segments[-1].rpartition(":")
            if not colon or unquote(verb) != self.verb:
                return None
            segments = (*segments[:-1], head)
        own = self.segments
        rest = own[-1] == "**"
        if len(segments) < len(own) - 1 if rest else len(segments) != len(own):
            return None
        for mine, given in zip(own, segments, strict=False):
            if mine == "**":
                break
            if (not given) if mine == "*" else unquote(given) != mine:
                return None
        values: dict[FieldPath, str] = {}
        for variable in self.variables:
            last = None if rest and variable.last == len(own) else variable.last
            values[variable.field] = "/".join(
                unquote(part, errors="strict") for part in segments[variable.first : last]
            )
        return values

    @property
    def specificity(self) -> tuple[int, ...]:
        """A key that sorts templates which fit the same path: literal texts before holes, from the left."""
        return tuple({"*": 1, "**": 2}.get(segment, 0) for segment in self.segments) + ((0,) if self.verb else (3,))

    def overlaps(self, other: Template) -> bool:
        """Tell whether there is a path that fits both."""
        if self.verb and other.verb and self.verb != other.verb:
            return False
        ours, theirs = self.segments, other.segments
        for mine, their in zip(ours, theirs, strict=False):
            if "**" in {mine, their}:
                return True
            if "*" not in {mine, their} and mine != their:
                return False
        if len(ours) == len(theirs):
            return True
        longer, shorter = (ours, theirs) if len(ours) > len(theirs) else (theirs, ours)
        return longer[len(shorter)] == "**"


def _split(path: str) -> Iterator[str]:
    """Split at the slashes outside of braces."""
    depth = begin = 0
    for index, sign in enumerate(path):
        depth += (sign == "{") - (sign == "}")
        if sign == "/" and not depth:
            yield path[begin:index]
            begin = index + 1
    yield path[begin:]


@dataclass(frozen=True)
class Rule:
    """One way to call one RPC over HTTP."""

    method: MethodDescriptor
    http_verb: str
    """GET, POST, PUT, PATCH, DELETE or another one, in capitals."""
    template: Template
    body: str
    """`*` when the request is the body, else the name of the field that is; empty when there is no body."""
    response_body: str
    """Name of the field of the response that is the body; empty when the response is."""
    request_format: Format
    """How a request body is written when its content type does not say."""
    response_format: Format
    """How a response body is written when the caller does not say."""

    @property
    def path(self) -> str:
        """The method's path on the gRPC wire, `/package.Service/Method`."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def name(self) -> str:
        """The RPC as people write it: `RunsService.GetRun`."""
        return f"{self.method.containing_service.name}.{self.method.name}"

    @cached_property
    def headers(self) -> Mapping[str, FieldDescriptor]:
        """The fields of the request that travel in headers, by the header's name."""
        return {header: field for field in self.method.input_type.fields if (header := _header(field))}

    @cached_property
    def query(self) -> Mapping[str, tuple[FieldDescriptor, ...]]:
        """The fields that travel in the query string, by parameter name in JSON spelling; outer fields first."""
        if self.body == "*":
            return {}
        taken = {variable.field for variable in self.template.variables}
        found: dict[str, tuple[FieldDescriptor, ...]] = {}
        for field in self.method.input_type.fields:
            if field.name != self.body and not _header(field):
                self._query_parameters((field,), taken, found)
        return found

    def _query_parameters(
        self,
        chain: tuple[FieldDescriptor, ...],
        taken: set[FieldPath],
        found: dict[str, tuple[FieldDescriptor, ...]],
    ) -> None:
        field = chain[-1]
        if tuple(each.name for each in chain) in taken:
            return
        if field.message_type is None or field.message_type.full_name == TIMESTAMP:
            found[".".join(each.json_name for each in chain)] = chain
        elif is_repeated(field):
            raise RuleError(f"{self.name}: {field.full_name} repeats messages, which no query string can hold")
        elif field.message_type in {each.containing_type for each in chain}:
            raise RuleError(f"{self.name}: {field.full_name} contains itself, which no query string can hold")
        else:
            for inner in field.message_type.fields:
                self._query_parameters((*chain, inner), taken, found)

    def check(self) -> Self:
        """Return the rule. Raises RuleError when it names fields that are not there or cannot be where it puts them."""
        request, response = self.method.input_type, self.method.output_type
        for variable in self.template.variables:
            field = resolve(request, variable.field)
            if field is None or is_repeated(field) or field.message_type is not None:
                raise RuleError(f"{self.name}: {'.'.join(variable.field)} is no field that a path can fill")
        for kind, name, message in (("body", self.body, request), ("response_body", self.response_body, response)):
            if name not in {"", "*"} and name not in message.fields_by_name:
                raise RuleError(f"{self.name}: {kind} names {name}, which {message.full_name} does not have")
        for field in self.headers.values():
            if field.type != field.TYPE_STRING or is_repeated(field):
                raise RuleError(f"{self.name}: {field.full_name} cannot travel in a header, it is no single text")
        if self.http_verb == "GET" and self.body:
            raise RuleError(f"{self.name}: GET has no body")
        _ = self.query
        return self


TIMESTAMP: Final = "google.protobuf.Timestamp"


def is_repeated(field: FieldDescriptor) -> bool:
    """Tell whether a field is a list or a map."""
    known: bool | None = getattr(field, "is_repeated", None)
    if known is not None:
        return known
    # Before protobuf 6 there was only the label, which later versions warn about and their types do not know.
    old: Any = field
    return bool(old.label == old.LABEL_REPEATED)


def resolve(message: Descriptor, path: FieldPath) -> FieldDescriptor | None:
    """Return the field at a path; None when there is none."""
    found: FieldDescriptor | None = None
    inside: Descriptor | None = message
    for name in path:
        found = inside.fields_by_name.get(name) if inside is not None else None
        if found is None:
            return None
        inside = found.message_type
    return found


def _header(field: FieldDescriptor) -> str:
    from neptune_api.v1.annotations_pb2 import http_header

    name: str = field.GetOptions().Extensions[http_header]
    return name


@cache
def rules_of(method: MethodDescriptor) -> tuple[Rule, ...]:
    """Return the HTTP rules of an RPC, the primary one first; none when the proto has no google.api.http for it.

    The RPC's `http_bodies` speak for the primary rule. Additional ones are the JSON form of the same thing.
    Raises RuleError.
    """
    from google.api import annotations_pb2

    http: Any = annotations_pb2.http  # its types know no owner of the extension
    options = method.GetOptions()
    if not options.HasExtension(http):
        return ()
    primary: HttpRule = options.Extensions[http]
    rules = [_rule(method, primary, *_formats(method))]
    for additional in primary.additional_bindings:
        if additional.additional_bindings:
            raise RuleError(f"{method.full_name}: an additional binding has additional bindings")
        rules.append(_rule(method, additional, Format.JSON, Format.JSON))
    return tuple(rules)


def _formats(method: MethodDescriptor) -> tuple[Format, Format]:
    from neptune_api.v1.annotations_pb2 import HTTP_FORMAT_PROTOBUF, http_bodies

    bodies = method.GetOptions().Extensions[http_bodies]
    request, response = (
        Format.PROTOBUF if value == HTTP_FORMAT_PROTOBUF else Format.JSON for value in (bodies.request, bodies.response)
    )
    return request, response


def _rule(method: MethodDescriptor, rule: HttpRule, request: Format, response: Format) -> Rule:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise RuleError(f"{method.full_name}: an HTTP rule has no path")
    verb, path = (rule.custom.kind, rule.custom.path) if pattern == "custom" else (pattern, getattr(rule, pattern))
    return Rule(method, verb.upper(), Template.parse(path), rule.body, rule.response_body, request, response).check()


@cache
def all_rules() -> Mapping[str, tuple[Rule, ...]]:
    """Return the rules of every RPC of the API by the path it is called by, `/neptune_api.v1.RunsService/GetRun`."""
    return {
        f"/{service.full_name}/{method.name}": rules_of(method)
        for service in service_descriptors()
        for method in service.methods
    }


def find_rule(path: str | bytes) -> Rule | None:
    """Return the primary rule of the RPC called by a path; None when there is no such RPC or no rule for it."""
    found = all_rules().get(path.decode() if isinstance(path, bytes) else path)
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that fits a request."""

    rule: Rule
    values: Mapping[FieldPath, str]
    """What the path says, decoded, by the field it fills."""


class Router:
    """Finds the rule for a verb and a path.

    Raises RuleError when two rules fit one request and neither is more specific.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._literal: dict[str, dict[str, Rule]] = {}
        self._holes: list[Rule] = []
        for rule in rules:
            literal = rule.template.literal
            if literal is None:
                self._holes.append(rule)
            elif (other := self._literal.setdefault(literal, {}).setdefault(rule.http_verb, rule)) is not rule:
                raise RuleError(f"{other.name} and {rule.name} both answer {rule.http_verb} {literal}")
        self._holes.sort(key=lambda rule: rule.template.specificity)
        for index, rule in enumerate(self._holes):
            for other in self._holes[:index]:
                if (
                    other.http_verb == rule.http_verb
                    and other.template.specificity == rule.template.specificity
                    and other.template.overlaps(rule.template)
                ):
                    both = f"{rule.http_verb} {other.template} and {rule.template}"
                    raise RuleError(f"{other.name} and {rule.name} both answer {both}")

    def match(self, verb: str, path: str) -> Match | None:
        """Return what answers a request; `path` is as it came, percent-encoded and without the query string.

        Raises UnicodeDecodeError for a path value that is no UTF-8.
        """
        by_verb = self._literal.get(path)
        if by_verb is None and "%" in path:
            by_verb = self._literal.get("/".join(_decoded_literal(part) for part in path.split("/")))
        if by_verb is not None and verb in by_verb:
            return Match(by_verb[verb], {})
        for rule, values in self._fitting(path):
            if rule.http_verb == verb:
                return Match(rule, values)
        return None

    def verbs(self, path: str) -> frozenset[str]:
        """Return the verbs that a path answers; none when there is no such path."""
        return frozenset({*self._literal.get(path, ()), *(rule.http_verb for rule, _ in self._fitting(path))})

    def _fitting(self, path: str) -> Iterator[tuple[Rule, Mapping[FieldPath, str]]]:
        segments = path[1:].split("/")
        for rule in self._holes:
            values = rule.template.capture(segments)
            if values is not None:
                yield rule, values


def _decoded_literal(segment: str) -> str:
    """Return a segment decoded, unless it then would be several: `%2F` is no slash of the path."""
    decoded = unquote(segment)
    return segment if "/" in decoded else decoded
