"""The outside of an operation, read without its inside: what accepting needs to know of megabytes of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from google.protobuf.message import DecodeError

from neptune_api._wire import LENGTH, VARINT, encode_varint, fields, varint
from neptune_api.v1.ingest_pb2 import RunOperation

if TYPE_CHECKING:
    from neptune_api.server.store.layouts import BlockRecord

    Kind = Literal["create", "update", "update_batch"]

# Tags of fields: number and wire type.
_PROJECT: Final = 1 << 3 | LENGTH
_RUN_ID: Final = 2 << 3 | LENGTH
_CREATE_MISSING_PROJECT: Final = 3 << 3 | VARINT
_SNAPSHOT: Final = bytes([1 << 3 | LENGTH])  # UpdateRunSnapshots.snapshots
_KINDS: Final[dict[int, Kind]] = {6 << 3 | LENGTH: "create", 7 << 3 | LENGTH: "update", 8 << 3 | LENGTH: "update_batch"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A serialized neptune_api.v1.RunOperation: its plain fields, and the bytes of the operation itself.

    `kind` is None when there is no operation. `record` has its points where it has been read and is nothing else.
    """

    payload: bytes
    project: str
    run_id: str
    create_missing_project: bool
    kind: Kind | None
    body: memoryview
    record: BlockRecord | None = None

    @property
    def snapshots(self) -> bytes | memoryview:
        """The snapshots of an update or a batch of them: a serialized neptune_api.v1.UpdateRunSnapshots."""
        return b"".join((_SNAPSHOT, encode_varint(len(self.body)), self.body)) if self.kind == "update" else self.body

    @classmethod
    def parse(cls, payload: bytes) -> Envelope:
        """Read the outside; raises DecodeError for bytes that are no message, or not with these fields."""
        project = run_id = ""
        create_missing = False
        kinds: list[Kind] = []
        body = memoryview(b"")
        try:
            for tag, start, end in fields(payload):
                if tag == _PROJECT:
                    project = payload[start:end].decode()
                elif tag == _RUN_ID:
                    run_id = payload[start:end].decode()
                elif tag == _CREATE_MISSING_PROJECT:
                    create_missing = bool(varint(payload, start)[0])
                elif tag in _KINDS:
                    kinds.append(_KINDS[tag])
                    body = memoryview(payload)[start:end]
        except UnicodeDecodeError as error:
            raise DecodeError("A text is not UTF-8.") from error
        if len(kinds) > 1:
            # The last one counts, merged with those before it that are alike: protobuf knows how.
            return cls.parse(RunOperation.FromString(payload).SerializeToString())
        return cls(payload, project, run_id, create_missing, kinds[0] if kinds else None, body)
