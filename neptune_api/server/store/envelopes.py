"""The outside of an operation, read without its inside: what accepting needs to know of megabytes of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from google.protobuf.message import DecodeError

from neptune_api.server.store.wire import varint
from neptune_api.v1.ingest_pb2 import RunOperation

if TYPE_CHECKING:
    Kind = Literal["create", "update", "update_batch"]

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_PROJECT: Final = 1
_RUN_ID: Final = 2
_CREATE_MISSING_PROJECT: Final = 3
_KINDS: Final[dict[int, Kind]] = {6: "create", 7: "update", 8: "update_batch"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A serialized neptune_api.v1.RunOperation: its plain fields, and the bytes of the operation itself.

    `kind` is None when there is no operation.
    """

    payload: bytes
    project: str
    run_id: str
    create_missing_project: bool
    kind: Kind | None
    body: bytes

    @classmethod
    def parse(cls, payload: bytes) -> Envelope:
        """Read the outside; raises DecodeError for bytes that are no message, or not with these fields."""
        project = run_id = b""
        create_missing = False
        kinds: list[Kind] = []
        body = b""
        position = 0
        try:
            while position < len(payload):
                tag, position = varint(payload, position)
                field, wire_type = tag >> 3, tag & 7
                if wire_type == _LENGTH:
                    length, position = varint(payload, position)
                    end = position + length
                    if end > len(payload):
                        raise DecodeError("A field is longer than the message.")
                    if field == _PROJECT:
                        project = payload[position:end]
                    elif field == _RUN_ID:
                        run_id = payload[position:end]
                    elif field in _KINDS:
                        kinds.append(_KINDS[field])
                        body = payload[position:end]
                    position = end
                elif wire_type == _VARINT:
                    value, position = varint(payload, position)
                    if field == _CREATE_MISSING_PROJECT:
                        create_missing = bool(value)
                elif wire_type in {_FIXED64, _FIXED32} and field:
                    position += 8 if wire_type == _FIXED64 else 4
                else:
                    raise DecodeError("A field has an unknown wire type.")
            if len(kinds) > 1:
                # The last one counts, merged with those before it that are alike: protobuf knows how.
                return cls.parse(RunOperation.FromString(payload).SerializeToString())
            return cls(payload, project.decode(), run_id.decode(), create_missing, kinds[0] if kinds else None, body)
        except (IndexError, UnicodeDecodeError) as error:
            raise DecodeError("The message ends within a field, or a text is not UTF-8.") from error
