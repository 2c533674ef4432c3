"""Times of the store as protobuf timestamps."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp_of(milliseconds: int) -> Timestamp:
    """Return milliseconds since the epoch as a Timestamp."""
    timestamp = Timestamp()
    timestamp.FromMilliseconds(milliseconds)
    return timestamp
