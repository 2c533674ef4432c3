"""Messages as JSON in the dialect of the REST API, by readers and writers that are compiled once per message type.

Like the JSON form of proto3 that google.protobuf.json_format writes, and several times as fast, with these differences:

- 64-bit integers are numbers; texts are accepted as well.
- Integers with `http_datetime`, milliseconds since the epoch, are instants like google.protobuf.Timestamp.
- Enum values are named by their `http_name`, if they have one; proto names and numbers are accepted as well. Others
  are refused, unless the enum is `http_open`.
- A message with `http_list` is the bare array of its only field. `null` is absent everywhere, `[]` is not.
- Fields without presence are always written, whatever their value, except an unspecified enum; readers of the REST API
  demand the keys.
- Unknown keys are ignored. NaN and infinities are written as texts, and accepted as texts and as bare words.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from codecs import BOM_UTF8
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from neptune_api.http.rules import TIMESTAMP, is_repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
    from google.protobuf.message import Message
    from typing_extensions import Self

    Write: TypeAlias = Callable[[Any], Any]
    """From the value of a field to what `json` writes."""
    Read: TypeAlias = Callable[[Any], Any]
    """From what `json` reads to the value of a field."""
    Fill: TypeAlias = Callable[[Any, Any], None]
    """Puts what `json` reads into a message."""


class TranscodeError(ValueError):
    """A request or response that is no encoding of the message it should be, or that HTTP cannot carry.

    `field` is the path of the field in proto spelling, empty for the whole; `description` says what is wrong with it.
    """

    def __init__(self, description: str, field: str = "") -> None:
        super().__init__(description)
        self.field = field
        self.description = description

    def within(self, name: str) -> Self:
        """Return the error as one about a field further out."""
        joint = "" if not self.field or self.field.startswith("[") else "."
        self.field = f"{name}{joint}{self.field}"
        return self

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


def write(message: Message, *, empty: bool = True) -> bytes:
    """Return a message as JSON in UTF-8; `empty` lists and maps are written too, or left out.

    Raises TranscodeError for a timestamp outside of the years 1 to 9999.
    """
    return dump(writer_of(message.DESCRIPTOR, empty)(message))


def dump(value: Any) -> bytes:
    """Return JSON in UTF-8 without white space."""
    return _ENCODER.encode(value).encode()


def read(text: bytes, message: Message) -> None:
    """Fill a message from JSON in UTF-8. Raises TranscodeError."""
    reader_of(message.DESCRIPTOR)(message, load(text))


def load(text: bytes) -> Any:
    """Return what JSON in UTF-8 says. Raises TranscodeError for other text."""
    try:
        # A decoder of our own: given bytes, json.loads would guess at UTF-16 and UTF-32.
        return json.loads(text.removeprefix(BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise TranscodeError(f"the JSON is not in UTF-8: byte {error.start} cannot be decoded") from None
    except json.JSONDecodeError as error:
        raise TranscodeError(f"the JSON is malformed at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise TranscodeError("the JSON is nested too deeply") from None
    except ValueError:
        raise TranscodeError("the JSON holds a number with too many digits") from None


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


# Writing


@cache
def writer_of(descriptor: Descriptor, empty: bool) -> Write:
    """Return the function that makes of a message what `json` writes, `empty` lists and maps included or not."""
    special = _SPECIAL_WRITERS.get(descriptor.full_name)
    if special is not None:
        return special
    if is_http_list(descriptor):
        (field,) = descriptor.fields
        write_items, name = _list_writer(field, empty), field.name
        return lambda message: write_items(getattr(message, name))
    # Filled at the first use, in one step: messages may contain themselves, and threads may come at the same time.
    writers: dict[int, tuple[str, Write | None]] = {}
    defaults: dict[str, Any] = {}

    def compile_fields() -> None:
        for field in descriptor.fields:
            if is_repeated(field):
                if empty:
                    defaults[field.json_name] = {} if is_map(field) else []
            elif not field.has_presence:
                default = field.default_value
                if field.enum_type is not None:
                    if field.enum_type.values_by_number[0].name.endswith("_UNSPECIFIED"):
                        continue
                    default = enum_names(field.enum_type)[0]
                if is_http_datetime(field):
                    default = _write_millis(0)
                defaults[field.json_name] = "" if default == b"" else default
        writers.update({field.number: (field.json_name, field_writer(field, empty)) for field in descriptor.fields})

    def write_message(message: Message) -> dict[str, Any]:
        if not writers:
            compile_fields()
        result = defaults.copy()
        for field, value in message.ListFields():
            name, convert = writers[field.number]
            try:
                result[name] = value if convert is None else convert(value)
            except TranscodeError as error:
                raise error.within(field.name) from None
        return result

    return write_message


def field_writer(field: FieldDescriptor, empty: bool) -> Write | None:
    """Return how to write a field's value; None when `json` writes it as it is."""
    if is_map(field):
        key, value = map_entry(field)
        write_value = value_writer(value, empty)
        as_key: Callable[[Any], str] = _bool_key if key.type == key.TYPE_BOOL else str
        if write_value is None:
            return lambda values: {as_key(key): value for key, value in values.items()}
        return lambda values: {as_key(key): write_value(value) for key, value in values.items()}
    return _list_writer(field, empty) if is_repeated(field) else value_writer(field, empty)


def _bool_key(key: bool) -> str:
    return "true" if key else "false"


def _list_writer(field: FieldDescriptor, empty: bool) -> Write:
    write_item = value_writer(field, empty)
    if write_item is None:
        return list
    if field.type == field.TYPE_DOUBLE:
        return lambda values: list(values) if all(map(math.isfinite, values)) else [*map(write_item, values)]
    return lambda values: [*map(write_item, values)]


def value_writer(field: FieldDescriptor, empty: bool) -> Write | None:
    """Return how to write one value of a field; None when `json` writes it as it is."""
    if field.message_type is not None:
        return writer_of(field.message_type, empty)
    if field.enum_type is not None:
        names = enum_names(field.enum_type)
        return lambda number: names.get(number, number)
    if is_http_datetime(field):
        return _write_millis
    writers: dict[int, Write] = {
        field.TYPE_DOUBLE: _write_double,
        field.TYPE_FLOAT: _write_float,
        field.TYPE_BYTES: _write_bytes,
    }
    return writers.get(field.type)


def _write_double(value: float) -> float | str:
    return value if math.isfinite(value) else _NON_FINITE[str(value)]


def _write_float(value: float) -> float | str:
    """Write the shortest number that is the same 32-bit float."""
    if not math.isfinite(value):
        return _NON_FINITE[str(value)]
    if value.is_integer() and abs(value) < 1 << 24:
        return value
    for digits in range(6, 9):
        shorter = float(f"{value:.{digits}g}")
        try:
            if _FLOAT.unpack(_FLOAT.pack(shorter))[0] == value:
                return shorter
        except OverflowError:
            continue
    return float(f"{value:.9g}")


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _write_timestamp(message: Any) -> str:
    return _write_instant(message.seconds, message.nanos)


def _write_millis(millis: int) -> str:
    return _write_instant(millis // 1000, millis % 1000 * 1_000_000)


def _write_instant(seconds: int, nanos: int) -> str:
    if not (_MIN_SECONDS <= seconds <= _MAX_SECONDS and 0 <= nanos < 1_000_000_000):
        raise TranscodeError("a timestamp lies outside of the years 1 to 9999, which JSON cannot say")
    fraction = f".{nanos:09d}" if nanos % 1000 else f".{nanos // 1000:06d}" if nanos % 1_000_000 else ""
    if not fraction and nanos:
        fraction = f".{nanos // 1_000_000:03d}"
    days, rest = divmod(seconds, 86_400)
    day = datetime.fromordinal(_EPOCH_DAY + days).date().isoformat()
    return f"{day}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}{fraction}Z"


_FLOAT: Final = struct.Struct("<f")
_NON_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_EPOCH_DAY: Final = datetime(1970, 1, 1, tzinfo=timezone.utc).toordinal()
_MIN_SECONDS: Final = -62_135_596_800
_MAX_SECONDS: Final = 253_402_300_799
_SPECIAL_WRITERS: Final[Mapping[str, Write]] = {TIMESTAMP: _write_timestamp}


# Reading


@cache
def reader_of(descriptor: Descriptor) -> Fill:
    """Return the function that fills a message from what `json` reads."""
    special = _SPECIAL_READERS.get(descriptor.full_name)
    if special is not None:
        return special
    if is_http_list(descriptor):
        (field,) = descriptor.fields
        fill = _list_filler(field)

        def read_list(message: Message, value: Any) -> None:
            message.SetInParent()
            fill(message, value)

        return read_list
    # Filled at the first use, in one step: messages may contain themselves, and threads may come at the same time.
    fillers: dict[str, Fill] = {}

    def compile_fields() -> None:
        by_name = {field.name: field_filler(field) for field in descriptor.fields}
        # JSON names last, so that another field's proto spelling never hides one.
        fillers.update({**by_name, **{field.json_name: by_name[field.name] for field in descriptor.fields}})

    def read_message(message: Message, value: Any) -> None:
        if type(value) is not dict:
            raise TranscodeError(f"must be a JSON object, not {kind_of(value)}")
        if not fillers:
            compile_fields()
        message.SetInParent()
        for key, inner in value.items():
            if inner is not None and (filler := fillers.get(key)) is not None:
                filler(message, inner)

    return read_message


def field_filler(field: FieldDescriptor) -> Fill:
    """Return the function that puts what `json` reads into a field of a message; its errors name the field."""
    fill = _plain_filler(field)
    name = field.name
    oneof = field.containing_oneof
    real_oneof = oneof.name if oneof is not None and len(oneof.fields) > 1 else None

    def fill_field(message: Any, value: Any) -> None:
        if real_oneof is not None and (other := message.WhichOneof(real_oneof)) not in {None, name}:
            raise TranscodeError(f"excludes {other}, which is given too", name)
        try:
            fill(message, value)
        except TranscodeError as error:
            raise error.within(name) from None

    return fill_field


def _plain_filler(field: FieldDescriptor) -> Fill:
    if is_map(field):
        return _map_filler(field)
    if is_repeated(field):
        return _list_filler(field)
    name = field.name
    if field.message_type is not None:
        fill_message = reader_of(field.message_type)
        return lambda message, value: fill_message(getattr(message, name), value)
    read_value = value_reader(field)
    return lambda message, value: setattr(message, name, read_value(value))


def _list_filler(field: FieldDescriptor) -> Fill:
    name = field.name
    if field.message_type is not None:
        fill_message = reader_of(field.message_type)

        def fill_messages(message: Any, value: Any) -> None:
            if type(value) is not list:
                raise TranscodeError(f"must be a JSON array, not {kind_of(value)}")
            items = getattr(message, name)
            for index, item in enumerate(value):
                try:
                    fill_message(items.add(), item)
                except TranscodeError as error:
                    raise error.within(f"[{index}]") from None

        return fill_messages
    read_value = value_reader(field)

    def fill_values(message: Any, value: Any) -> None:
        if type(value) is not list:
            raise TranscodeError(f"must be a JSON array, not {kind_of(value)}")
        try:
            getattr(message, name).extend([read_value(item) for item in value])
        except TranscodeError:
            for index, item in enumerate(value):
                try:
                    read_value(item)
                except TranscodeError as error:
                    raise error.within(f"[{index}]") from None
            raise

    return fill_values


def _map_filler(field: FieldDescriptor) -> Fill:
    name = field.name
    key_field, value_field = map_entry(field)
    read_key = value_reader(key_field)
    is_bool = key_field.type == key_field.TYPE_BOOL
    fill_message = None if value_field.message_type is None else reader_of(value_field.message_type)
    read_value = None if fill_message is not None else value_reader(value_field)

    def fill_map(message: Any, value: Any) -> None:
        if type(value) is not dict:
            raise TranscodeError(f"must be a JSON object, not {kind_of(value)}")
        values = getattr(message, name)
        for key, item in value.items():
            if item is None:
                continue
            try:
                own = read_key(_BOOLS.get(key, key) if is_bool else key)
                if read_value is not None:
                    values[own] = read_value(item)
                elif fill_message is not None:
                    fill_message(values[own], item)
            except TranscodeError as error:
                raise error.within(f"[{json.dumps(key)}]") from None

    return fill_map


def value_reader(field: FieldDescriptor) -> Read:
    """Return how to read one value of a field that is no message."""
    kind = field.type
    if is_http_datetime(field):
        return _read_millis
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if kind in {field.TYPE_DOUBLE, field.TYPE_FLOAT}:
        return _read_double
    if kind == field.TYPE_STRING:
        return _read_text
    if kind == field.TYPE_BOOL:
        return _read_bool
    if kind == field.TYPE_BYTES:
        return _read_bytes
    return _integer_reader(
        64 if kind in {getattr(field, f"TYPE_{name}") for name in _WIDE} else 32,
        signed=kind not in {getattr(field, f"TYPE_{name}") for name in _UNSIGNED},
    )


def _read_text(value: Any) -> str:
    if type(value) is not str:
        raise TranscodeError(f"must be a text, not {kind_of(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise TranscodeError("is no text: it has half of a surrogate pair") from None
    return value


def _read_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise TranscodeError(f"must be true or false, not {kind_of(value)}")
    return value


def _read_double(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int or (type(value) is str and _NUMBER.fullmatch(value)):
        try:
            return float(value)
        except OverflowError:
            raise TranscodeError("is too large for a 64-bit number") from None
    raise TranscodeError(f"must be a number, not {kind_of(value)}")


def _integer_reader(bits: int, *, signed: bool) -> Read:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def read_integer(value: Any) -> int:
        number = value
        if (type(value) is str and _INTEGER.fullmatch(value)) or (type(value) is float and value.is_integer()):
            number = int(value)
        if type(number) is not int:
            raise TranscodeError(f"must be a whole number, not {kind_of(value)}")
        if not low <= number <= high:
            raise TranscodeError(f"must be a whole number from {low} to {high}")
        return number

    return read_integer


def _read_bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise TranscodeError(f"must be a text in base64, not {kind_of(value)}")
    try:
        # Both alphabets, with and without padding.
        text = value.encode("ascii").translate(_URL_SAFE).rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise TranscodeError("must be a text in base64") from None


def _enum_reader(enum: EnumDescriptor) -> Read:
    from neptune_api.v1.annotations_pb2 import http_open

    is_open: bool = enum.GetOptions().Extensions[http_open]
    numbers = {value.name: value.number for value in enum.values}
    names = enum_names(enum)
    numbers.update({name: number for number, name in names.items()})

    def read_enum(value: Any) -> int:
        if type(value) is str and value in numbers:
            return numbers[value]
        if type(value) is int and -(1 << 31) <= value < 1 << 31:
            return value
        if is_open and type(value) is str:
            return 0
        allowed = ", ".join(name for number, name in sorted(names.items()) if not name.endswith("_UNSPECIFIED"))
        given = f"{value[:40]!r}" if type(value) is str else kind_of(value)
        raise TranscodeError(f"must be one of {allowed}, not {given}")

    return read_enum


def _read_timestamp(message: Any, value: Any) -> None:
    seconds, nanos = _read_instant(value)
    message.SetInParent()
    message.seconds = seconds
    message.nanos = nanos


def _read_millis(value: Any) -> int:
    seconds, nanos = _read_instant(value)
    return seconds * 1000 + nanos // 1_000_000


def _read_instant(value: Any) -> tuple[int, int]:
    """Return seconds since the epoch and nanoseconds after them."""
    found = _RFC3339.fullmatch(value) if type(value) is str else None
    if found is None:
        raise TranscodeError("must be a text such as 2026-01-31T12:00:00.123Z")
    try:
        moment = datetime.fromisoformat(f"{found['moment'].upper()}+00:00")
    except ValueError as error:
        raise TranscodeError(f"is no instant: {error}") from None
    zone = 0
    if found["sign"]:
        zone = (int(found["hours"]) * 60 + int(found["minutes"])) * (-60 if found["sign"] == "-" else 60)
    seconds = (moment.toordinal() - _EPOCH_DAY) * 86_400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    if not _MIN_SECONDS <= seconds - zone <= _MAX_SECONDS:
        raise TranscodeError("lies outside of the years 1 to 9999")
    return seconds - zone, int(f"{(found['fraction'] or ''):<09}"[:9])


_WIDE: Final = ("INT64", "UINT64", "SINT64", "FIXED64", "SFIXED64")
_UNSIGNED: Final = ("UINT32", "UINT64", "FIXED32", "FIXED64")
_BOOLS: Final = {"true": True, "false": False}
_NUMBER: Final = re.compile(r"-?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|Infinity)|NaN", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{1,20}", re.ASCII)
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_RFC3339: Final = re.compile(
    r"(?P<moment>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>\d\d):(?P<minutes>[0-5]\d))",
    re.ASCII,
)
_SPECIAL_READERS: Final[Mapping[str, Fill]] = {TIMESTAMP: _read_timestamp}


# What both share


def is_map(field: FieldDescriptor) -> bool:
    """Tell whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_http_datetime(field: FieldDescriptor) -> bool:
    """Tell whether an integer field holds milliseconds since the epoch that JSON writes as an instant."""
    from neptune_api.v1.annotations_pb2 import http_datetime

    wanted: bool = field.GetOptions().Extensions[http_datetime]
    return wanted


def map_entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """Return the fields of a map that stand for its keys and its values."""
    entry: Any = field.message_type
    return entry.fields_by_name["key"], entry.fields_by_name["value"]


def is_http_list(descriptor: Descriptor) -> bool:
    """Tell whether a message is written as the bare array of its only field."""
    from neptune_api.v1.annotations_pb2 import http_list

    wanted: bool = descriptor.GetOptions().Extensions[http_list]
    return wanted


@cache
def enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Return the text of each value of an enum by its number."""
    from neptune_api.v1.annotations_pb2 import http_name

    names: dict[int, str] = {}
    for value in enum.values:
        names.setdefault(value.number, value.GetOptions().Extensions[http_name] or value.name)
    return names


def kind_of(value: Any) -> str:
    """Return what JSON calls a value, with its article."""
    return {
        dict: "an object",
        list: "an array",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }.get(type(value), "null")
