"""The store: a durable operation log in front of runs, attributes and series."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from neptune_api.server.store.applier import Applier
from neptune_api.server.store.blocks import Block, BlockDecoder
from neptune_api.server.store.envelopes import Envelope
from neptune_api.server.store.faults import DiskFullError
from neptune_api.server.store.layouts import BlockRecord
from neptune_api.server.store.oplog import KeyTakenError, Kind, OperationLog, Outcome, Submission
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from neptune_api.server.store.column_batches import ColumnBatch
    from neptune_api.server.store.database import Database

__all__ = ["KeyTakenError", "Outcome", "Store", "Submission"]

_LOG: Final = logging.getLogger(__name__)
_STOP_SECONDS: Final = 0.7
_LOOK_SECONDS: Final = 1.0


class Store:
    """Accept operations, apply them, tell what became of them.

    Readers go through `database` and the reading modules of this package; what changes runs outside of operations goes
    through `exclusive`.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.clock = clock
        self._log = OperationLog(database, clock)
        self._blocks = BlockDecoder()
        self._applier = Applier(database, self._log, self._blocks)

    def read_operation(self, payload: bytes) -> Envelope:
        """Return a serialized RunOperation as far as accepting it needs, having looked at all of it.

        Raises DecodeError for bytes that are not one.
        """
        envelope = Envelope.parse(payload)
        if envelope.kind not in {"update", "update_batch"}:
            pb.RunOperation.FromString(payload)
            return envelope
        last, count = None, 0
        for last in self._blocks.decode(envelope.snapshots):  # noqa: B007 # the last one is looked at
            count += 1
        if count != 1 or not isinstance(last, Block):
            return envelope
        return replace(envelope, record=BlockRecord(envelope.project, envelope.run_id, last))

    def start(self) -> None:
        """Begin to apply, what an earlier server left in the log first."""
        try:
            self._log.forget()
        except DiskFullError as fault:
            # To remove something takes a little space as well, and what there is can still be read.
            _LOG.warning("Nothing is tidied up before the start: %s", fault)
        self._applier.start()

    def close(self) -> None:
        """Accept no more, commit what waits, stop applying. What is accepted stays in the log for the next start."""
        self._log.close()
        self._applier.stop(_STOP_SECONDS)

    def submit(
        self, payload: bytes, *, user_id: int, project_id: int | None, idempotency_key: str | None = None
    ) -> str:
        """Accept one serialized RunOperation and return its request id; it is on disk then.

        Raises StoreClosedError while shutting down.
        """
        return self.submit_many([Submission(payload, user_id, project_id, idempotency_key)])[0]

    def append_columns(self, batch: ColumnBatch, *, user_id: int, project_id: int) -> str:
        """Accept a batch of columns and return its request id; it is on disk then, once for each batch id.

        Raises KeyTakenError when the batch id names another batch of the project, StoreClosedError while shutting down.
        """
        return self.submit_many([Submission(batch.payload, user_id, project_id, batch.batch_id, Kind.COLUMNS)])[0]

    def submit_many(self, submissions: Sequence[Submission]) -> list[str]:
        """Accept operations in one transaction and return their request ids in order."""
        request_ids = self._log.append(submissions)
        self._applier.wake()
        return request_ids

    def outcomes(self, request_ids: Iterable[str]) -> list[Outcome | None]:
        """Return what became of requests, in the order given; None for those never accepted or forgotten."""
        return self._log.outcomes(request_ids)

    def wait_applied(self, request_ids: Sequence[str], timeout: float) -> list[Outcome]:
        """Return the outcomes of accepted requests once all are applied.

        Raises TimeoutError after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        with self._applier.progress() as condition:
            while True:
                outcomes = self._log.outcomes(request_ids)
                done = [outcome for outcome in outcomes if outcome is not None and outcome.status is not None]
                if len(done) == len(request_ids):
                    return done
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{len(request_ids) - len(done)} operations were not applied in {timeout} s.")
                # Another process may apply them, and the word of that may get lost with a connection.
                condition.wait(min(left, _LOOK_SECONDS))

    @property
    def applying(self) -> bool:
        """True while accepted operations are applied."""
        return self._applier.alive

    def compact(self) -> None:
        """Move every point that is still in a tail into chunks, as the applier does when it has nothing else to do."""
        self._applier.compact()

    def exclusive(self) -> AbstractContextManager[sa.Connection]:
        """Give a write connection while nothing is applied."""
        return self._applier.exclusive()
