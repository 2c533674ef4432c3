"""Messages as HTTP requests and responses, and back. Pure functions; transports call them on both sides.

After google/api/http.proto: variables fill the path, `body` fills the body, what is left goes into the query string.
Beyond it, fields with `http_header` travel in that header, and a body that is no message of its own (a list, say)
travels in binary as the enclosing message with nothing but that field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from neptune_api.http import json_codec
from neptune_api.http.json_codec import TranscodeError, enum_names, value_reader
from neptune_api.http.rules import Format, is_repeated, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

    from neptune_api.http.rules import FieldPath, Rule, Variable

    Headers: TypeAlias = Sequence[tuple[str, str]]

__all__ = [
    "HttpRequest",
    "MediaTypeError",
    "TranscodeError",
    "accepted_format",
    "body_format",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
]


class MediaTypeError(TranscodeError):
    """A body of a media type that no message is written in."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What goes over the wire; a transport adds Host, Content-Length and what belongs to the connection."""

    verb: str
    target: str
    """Path and query string, percent-encoded."""
    headers: Headers
    body: bytes


def encode_request(rule: Rule, message: Message, format: Format | None = None) -> HttpRequest:  # noqa: A002 # what else
    """Return the request of an RPC, asking for the answer in the same `format`; None means what the rule says.

    Raises TranscodeError for an empty path value, a header value that is no printable ASCII, and a timestamp that JSON
    cannot say.
    """
    # Path and header come out of a body that is everything.
    headers: list[tuple[str, str]] = [("Accept", (format or rule.response_format).content_type)]
    for header, field in rule.headers.items():
        value: str = getattr(message, field.name)
        if value or (field.has_presence and message.HasField(field.name)):
            if not (value.isascii() and value.isprintable() and value == value.strip()):
                raise TranscodeError(f"must be printable ASCII, as it travels in the header {header}", field.name)
            headers.append((header, value))
    target = rule.template.literal or _encode_path(rule, message)
    if rule.query and (query := _encode_query(rule, message)):
        target = f"{target}?{query}"
    if not rule.body:
        return HttpRequest(rule.http_verb, target, headers, b"")
    written = format or rule.request_format
    if rule.body == "*":
        bound = [variable.field for variable in rule.template.variables]
        bound += [(field.name,) for field in rule.headers.values()]
        body = _write(_without(message, bound) if bound else message, written, empty=False)
    else:
        found = _encode_part(message, rule.body, written, empty=False)
        if found is None:
            return HttpRequest(rule.http_verb, target, headers, b"")
        body = found
    # It stands for the presence of the body as well: an empty message may have no bytes.
    headers.append(("Content-Type", written.content_type))
    return HttpRequest(rule.http_verb, target, headers, body)


def decode_request(
    rule: Rule,
    path_values: Mapping[FieldPath, str],
    query: str,
    headers: Mapping[str, str],
    body: bytes,
) -> Message:
    """Return the request of an RPC.

    `path_values` are those of rules.Match; `query` is the query string, percent-encoded; the names in `headers` are in
    lower case. Raises TranscodeError, and MediaTypeError for a body of another media type.
    """
    cls = message_factory.GetMessageClass(rule.method.input_type)
    message: Message
    content_type = headers.get("content-type")
    if rule.body == "*" and body:
        message = _read(cls, body, body_format(content_type, rule.request_format))
    else:
        message = cls()
        if rule.body not in {"", "*"} and (body or content_type is not None):
            _decode_part(message, rule.body, body, body_format(content_type, rule.request_format))
    if query and rule.query:
        _decode_query(rule, query, message)
    for header, field in rule.headers.items():
        value = headers.get(header.lower())
        if value is not None:
            if not value.isascii():
                raise TranscodeError(f"the header {header} must be printable ASCII", field.name)
            setattr(message, field.name, value)
    for path, text in path_values.items():
        _set_text(message, path, _chain(rule.method.input_type, path)[-1], text)
    return message


def encode_response(rule: Rule, message: Message, format: Format) -> bytes:  # noqa: A002 # what else
    """Return the body of a response, or of one message of a response stream. Raises TranscodeError."""
    if rule.response_body:
        return _encode_part(message, rule.response_body, format, empty=True) or b""
    return _write(message, format, empty=True)


def decode_response(rule: Rule, body: bytes, content_type: str | None) -> Message:
    """Return the response in a body. Raises TranscodeError, and MediaTypeError for another media type."""
    cls = message_factory.GetMessageClass(rule.method.output_type)
    written = body_format(content_type, rule.response_format)
    if not rule.response_body:
        return _read(cls, body, written) if body else cls()
    message: Message = cls()
    _decode_part(message, rule.response_body, body, written)
    return message


# Media types

_PROTOBUF_TYPES: Final = frozenset(
    {Format.PROTOBUF.value, Format.PROTOBUF.stream_content_type, "application/protobuf", "application/octet-stream"}
)


# A program sends and gets few different ones, over and over; a stranger may send as many as he likes.
@lru_cache(maxsize=64)
def _named_format(media_type: str) -> Format | None:
    media_type = media_type.strip().lower()
    if media_type in _PROTOBUF_TYPES:
        return Format.PROTOBUF
    if media_type in {Format.JSON.value, Format.JSON.stream_content_type} or media_type.endswith("+json"):
        return Format.JSON
    return None


def body_format(content_type: str | None, default: Format) -> Format:
    """Return how a body of a media type is written, `default` without one. Raises MediaTypeError."""
    if not content_type:
        return default
    found = _named_format(content_type.partition(";")[0])
    if found is None:
        raise MediaTypeError(
            f"a body of the media type {content_type[:80]!r} cannot be read: send {Format.JSON.value} or "
            f"{Format.PROTOBUF.value}"
        )
    return found


@lru_cache(maxsize=64)
def accepted_format(accept: str | None, default: Format) -> Format:
    """Return how a caller with this `Accept` header wants its answer; `default` when it says nothing about it."""
    if not accept or accept == "*/*":
        return default
    best, best_weight = default, 0.0
    for part in accept.split(","):
        media_type, *parameters = part.split(";")
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.strip().partition("=")
            if name.lower() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        wanted = default if media_type.strip() in {"*/*", "application/*"} else _named_format(media_type)
        if wanted is not None and weight > best_weight:
            best, best_weight = wanted, weight
    return best


# Bodies


def _write(message: Message, format: Format, *, empty: bool) -> bytes:  # noqa: A002 # what else
    if format is Format.PROTOBUF:
        return message.SerializeToString()
    return json_codec.write(message, empty=empty)


def _read(cls: type[Message], body: bytes, format: Format) -> Message:  # noqa: A002 # what else
    if format is Format.JSON:
        message = cls()
        json_codec.read(body, message)
        return message
    try:
        return cls.FromString(body)
    except DecodeError:
        name = cls.DESCRIPTOR.full_name
        raise TranscodeError(
            f"the body of {len(body):,} bytes is not a {name}: the bytes are cut short, or no protobuf message, or of "
            "another type"
        ) from None


def _encode_part(message: Message, name: str, format: Format, *, empty: bool) -> bytes | None:  # noqa: A002 # what else
    """Return a field as a body; None when it is absent."""
    field = _field(message, name)
    if field.has_presence and not message.HasField(name):
        return None
    value = getattr(message, name)
    if format is Format.JSON:
        convert = json_codec.field_writer(field, empty)
        return json_codec.dump(value if convert is None else convert(value))
    if field.message_type is not None and not is_repeated(field):
        return bytes(value.SerializeToString())
    alone = type(message)()
    alone.CopyFrom(message)
    for other in message.DESCRIPTOR.fields:
        if other.name != name:
            alone.ClearField(other.name)
    return alone.SerializeToString()


def _decode_part(message: Message, name: str, body: bytes, format: Format) -> None:  # noqa: A002 # what else
    """Fill a field from a body; an empty one in JSON leaves the field absent."""
    field = _field(message, name)
    if format is Format.JSON:
        value = json_codec.load(body) if body else None
        if value is not None:
            json_codec.field_filler(field)(message, value)
        return
    if field.message_type is not None and not is_repeated(field):
        part = getattr(message, name)
        part.CopyFrom(_read(type(part), body, format))
        part.SetInParent()
    else:
        alone = _read(type(message), body, format)
        for other in message.DESCRIPTOR.fields:
            if other.name != name:
                alone.ClearField(other.name)
        message.MergeFrom(alone)


def _field(message: Message, name: str) -> FieldDescriptor:
    descriptor: Any = message.DESCRIPTOR  # its two names are not one type
    field: FieldDescriptor = descriptor.fields_by_name[name]
    return field


def _without(message: Message, fields: Iterable[FieldPath]) -> Message:
    rest = type(message)()
    rest.CopyFrom(message)
    for path in fields:
        holder: Any = rest
        for name in path[:-1]:
            holder = getattr(holder, name)
        holder.ClearField(path[-1])
    return rest


# Paths and query strings


def _chain(message: Descriptor, path: FieldPath) -> list[FieldDescriptor]:
    found = [resolve(message, path[: length + 1]) for length in range(len(path))]
    return [field for field in found if field is not None]


def _encode_path(rule: Rule, message: Message) -> str:
    segments = list(rule.template.segments)
    wanted: dict[FieldPath, str] = {}
    # From the end, so that the indexes before stay right.
    for variable in reversed(rule.template.variables):
        holder: Any = message
        for name in variable.field[:-1]:
            holder = getattr(holder, name)
        field = _chain(rule.method.input_type, variable.field)[-1]
        text = wanted[variable.field] = _text_writer(field)(getattr(holder, field.name))
        segments[variable.first : variable.last] = _quote_path(variable, rule, text).split("/")
    path = "/" + "/".join(segments) + (f":{rule.template.verb}" if rule.template.verb else "")
    if rule.template.capture(path[1:].split("/")) != wanted:
        names = ", ".join(".".join(variable.field) for variable in rule.template.variables)
        raise TranscodeError(f"must fill the path {rule.template}, and so not be empty", names)
    return path


def _quote_path(variable: Variable, rule: Rule, text: str) -> str:
    quoted = quote(text, safe="/" if variable.many(rule.template.segments) else "")
    # Clients and proxies take segments of dots for steps in a file system, and remove them.
    return "/".join(part.replace(".", "%2E") if part in {".", ".."} else part for part in quoted.split("/"))


def _encode_query(rule: Rule, message: Message) -> str:
    pairs: list[tuple[str, str]] = []
    for name, chain in rule.query.items():
        holder: Any = message
        for outer in chain[:-1]:
            if not holder.HasField(outer.name):
                break
            holder = getattr(holder, outer.name)
        else:
            field = chain[-1]
            value = getattr(holder, field.name)
            write = _text_writer(field)
            if is_repeated(field):
                pairs += [(name, write(item)) for item in value]
            elif holder.HasField(field.name) if field.has_presence else value != field.default_value:
                pairs.append((name, write(value)))
    return urlencode(pairs) if pairs else ""


def _decode_query(rule: Rule, query: str, message: Message) -> None:
    parameters = _parameters(rule)
    seen: set[FieldPath] = set()
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise TranscodeError("the query string is not in UTF-8") from None
    except ValueError as error:
        raise TranscodeError(f"the query string cannot be read: {error}") from None
    for name, text in pairs:
        found = parameters.get(name)
        if found is None:
            continue
        path, field = found
        if not is_repeated(field):
            if path in seen:
                raise TranscodeError("is given more than once", ".".join(path))
            seen.add(path)
        _set_text(message, path, field, text)


@cache
def _parameters(rule: Rule) -> Mapping[str, tuple[FieldPath, FieldDescriptor]]:
    """Return the fields in a query string by the names of their parameters, in JSON and in proto spelling."""
    found: dict[str, tuple[FieldPath, FieldDescriptor]] = {}
    for name, chain in rule.query.items():
        path = tuple(field.name for field in chain)
        found[name] = found[".".join(path)] = path, chain[-1]
    return found


def _set_text(message: Message, path: FieldPath, field: FieldDescriptor, text: str) -> None:
    holder: Any = message
    for name in path[:-1]:
        holder = getattr(holder, name)
        holder.SetInParent()
    try:
        if field.message_type is not None:
            json_codec.reader_of(field.message_type)(getattr(holder, field.name), text)
        elif is_repeated(field):
            getattr(holder, field.name).append(_text_reader(field)(text))
        else:
            setattr(holder, field.name, _text_reader(field)(text))
    except TranscodeError as error:
        error.field = ".".join(path)
        raise


@cache
def _text_writer(field: FieldDescriptor) -> Callable[[Any], str]:
    if field.type == field.TYPE_BOOL:
        return lambda value: "true" if value else "false"
    write = json_codec.value_writer(field, True)
    return str if write is None else lambda value: str(write(value))


@cache
def _text_reader(field: FieldDescriptor) -> Callable[[str], Any]:
    read = value_reader(field)
    if field.type == field.TYPE_BOOL:
        words = {"true": True, "false": False}
        # Other texts are refused in the words of the reader.
        return lambda text: read(words.get(text.lower(), text))
    if field.enum_type is not None:
        names = frozenset(enum_names(field.enum_type).values())
        return lambda text: read(int(text) if text.isascii() and text.isdigit() and text not in names else text)
    return read
