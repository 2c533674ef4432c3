"""Layouts in the database, so that an operation of points can lie in the log as nothing but their values.

Snapshots of the same ten thousand series are 600 kB each, of which 80 kB are values: the rest is the same every time.
Once a layout has been met a few times it is stored, and from then on operations refer to it. An operation that is not
just one block, or a small one, is kept as it came.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np
import sqlalchemy as sa

from neptune_api.server.recent import Recent
from neptune_api.server.store.blocks import Block, Layout
from neptune_api.server.store.schema import layouts, operations

if TYPE_CHECKING:
    from typing_extensions import Self

_LEAST_BYTES: Final = 4096
_WORTH_KEEPING: Final = 3  # how often a layout was met
_MOST_MET: Final = 4096
# In memory: of those that are stored, and of those that were read. Those of ten thousand series take about 3 MB each,
# and 0.6 on disk.
_MOST_BYTES: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct("<III")  # bytes of the project and of the run id, number of steps


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """An operation whose points are one block, as the log keeps it: a head, texts, steps, times, values."""

    project: str
    run_id: str
    block: Block

    @property
    def size(self) -> int:
        """Number of points."""
        return self.block.values.size

    def serialize(self) -> bytes:
        """Return the bytes of the record, all but its layout."""
        project, run_id, block = self.project.encode(), self.run_id.encode(), self.block
        return b"".join(
            (
                _HEAD.pack(len(project), len(run_id), len(block.steps)),
                project,
                run_id,
                block.steps.astype("<i8", copy=False).tobytes(),
                block.timestamps.astype("<i8", copy=False).tobytes(),
                block.values.astype("<f8", copy=False).tobytes(),
            )
        )

    @classmethod
    def parse(cls, payload: bytes, layout: Layout) -> Self:
        """Return the record; raises ValueError for bytes that are not one of this layout."""
        try:
            project_length, run_length, count = _HEAD.unpack_from(payload)
        except struct.error as error:
            raise ValueError("A block has no head.") from error
        series = len(layout.paths)
        run_start = _HEAD.size + project_length
        start = run_start + run_length
        if len(payload) != start + 8 * count * (2 + series):
            raise ValueError("A block has another size than its head and its layout tell.")
        project, run_id = payload[_HEAD.size : run_start].decode(), payload[run_start:start].decode()
        steps, timestamps = (
            np.frombuffer(payload, "<i8", count, start + 8 * count * place).astype(np.int64, copy=False)
            for place in range(2)
        )
        values = np.frombuffer(payload, "<f8", count * series, start + 16 * count).astype(np.float64, copy=False)
        return cls(project, run_id, Block(layout, steps, timestamps, values.reshape(count, series)))


class LayoutShelf:
    """Remember which layouts have been met, and which of them the database has; safe for threads."""

    def __init__(self) -> None:
        self._met: Recent[str, int] = Recent(_MOST_MET)
        self._stored: dict[str, Layout] = {}
        self._size = 0
        # What a key stands for never changes: these stay when it is in doubt whether the database has them.
        self._read: Recent[str, Layout] = Recent(_MOST_BYTES, attrgetter("size"))
        self._lock = threading.Lock()
        self._is_full = False

    @property
    def is_full(self) -> bool:
        """Tell whether a layout found no room since the last `clean`."""
        return self._is_full

    def keep(self, connection: sa.Connection, layout: Layout) -> bool:
        """Tell whether an operation may refer to a layout in the transaction at hand; store it when it is time."""
        with self._lock:
            if layout.key in self._stored:
                return True
            # One that is larger than all that is kept would never find room.
            if len(layout.fixed) < _LEAST_BYTES or layout.size > _MOST_BYTES:
                return False
            met = (self._met.get(layout.key) or 0) + 1
            self._met.put(layout.key, met)
            if met < _WORTH_KEEPING:
                return False
            if self._size + layout.size > _MOST_BYTES:
                self._is_full = True
                return False
            # Another process, or this one before it was restarted, may have stored it. What is damaged is mended.
            it, region = layouts.c.key == layout.key, bytes(layout.fixed)
            known = connection.scalar(sa.select(layouts.c.region).where(it))
            if known is None:
                connection.execute(layouts.insert().values(key=layout.key, region=region))
            elif known != region:
                connection.execute(layouts.update().where(it).values(region=region))
            self._stored[layout.key] = layout
            self._size += layout.size
            return True

    def get(self, connection: sa.Connection, key: str) -> Layout:
        """Return the layout that an operation of the log refers to; raises ValueError when it is damaged."""
        with self._lock:
            layout = self._stored.get(key)
        # Operations that another process accepted, or this one before it was restarted, come one after the other.
        layout = layout or self._read.get(key)
        if layout is not None:
            return layout
        layout = Layout.learn(connection.scalars(sa.select(layouts.c.region).where(layouts.c.key == key)).one())
        if layout is None or layout.key != key:
            raise ValueError(f"The layout {key} is damaged.")
        self._read.put(key, layout)
        return layout

    def doubt(self) -> None:
        """Ask the database again which layouts it has: a transaction failed, or another process removed some."""
        with self._lock:
            self._stored.clear()
            self._size = 0

    def clean(self, connection: sa.Connection) -> None:
        """Remove the layouts that no operation of the log refers to."""
        self.doubt()
        used = sa.exists().where(operations.c.layout_key == layouts.c.key)
        connection.execute(layouts.delete().where(~used))
        self._is_full = False
