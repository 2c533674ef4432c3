"""Reading the points a run logged itself: chunks in, columns out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import sqlalchemy as sa

from neptune_api.server.store import columns as columns_
from neptune_api.server.store.columns import FloatColumns, PayloadColumns
from neptune_api.server.store.damage import chunk_error
from neptune_api.server.store.schema import chunks
from neptune_api.server.store.series import tail_points

if TYPE_CHECKING:
    from collections.abc import Callable

_Columns = TypeVar("_Columns", FloatColumns, PayloadColumns)


def read_floats(
    connection: sa.Connection, attribute_id: int, lower: int | None = None, upper: int | None = None
) -> FloatColumns:
    """Return the committed points of a float series with lower <= step <= upper (micro-steps), ascending.

    Raises CorruptChunkError when a checksum does not fit.
    """
    chunks_ = _read(connection, attribute_id, lower, upper, columns_.decode_floats, FloatColumns)
    tail = tail_points(connection, [attribute_id]).get(attribute_id)
    if tail is None:
        return chunks_
    inside = np.full(len(tail), True)
    if lower is not None:
        inside &= tail.steps >= lower
    if upper is not None:
        inside &= tail.steps <= upper
    return FloatColumns.concatenate([chunks_, tail[inside]])


def read_payloads(
    connection: sa.Connection, attribute_id: int, lower: int | None = None, upper: int | None = None
) -> PayloadColumns:
    """Return the points of any other series with lower <= step <= upper (micro-steps), ascending.

    Where a step was logged twice, the later point counts. Raises CorruptChunkError as `read_floats`.
    """
    return _read(connection, attribute_id, lower, upper, columns_.decode_payloads, PayloadColumns)


def _read(
    connection: sa.Connection,
    attribute_id: int,
    lower: int | None,
    upper: int | None,
    decode: Callable[[bytes], _Columns],
    kind: type[_Columns],
) -> _Columns:
    query = (
        sa.select(chunks.c.payload, chunks.c.checksum, chunks.c.id)
        .where(chunks.c.attribute_id == attribute_id)
        .order_by(chunks.c.id)
    )
    if lower is not None:
        query = query.where(chunks.c.last_step >= lower)
    if upper is not None:
        query = query.where(chunks.c.first_step <= upper)
    parts: list[_Columns] = []
    for payload, checksum, chunk_id in connection.execute(query):
        if columns_.checksum(payload) != checksum:
            raise chunk_error(connection, chunk_id)
        parts.append(decode(payload))
    whole: _Columns = kind.concatenate(parts)
    if len(whole) > 1 and not bool((np.diff(whole.steps) > 0).all()):
        order = np.argsort(whole.steps, kind="stable")
        steps = whole.steps[order]
        whole = whole[order[np.append(steps[1:] != steps[:-1], True)]]
    first = 0 if lower is None else int(np.searchsorted(whole.steps, lower, "left"))
    end = len(whole) if upper is None else int(np.searchsorted(whole.steps, upper, "right"))
    return whole if (first, end) == (0, len(whole)) else whole[first:end]
