from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from neptune_api.server import limits
from neptune_api.server.store import schema
from neptune_api.server.store.database import Database
from neptune_api.server.store.faults import StoreClosedError
from neptune_api.server.store.oplog import OperationLog, Submission

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE = 30.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def log(database: Database) -> OperationLog:
    return OperationLog(database)


def submission(payload: bytes = b"x", *, user: int = 1, key: str | None = None) -> Submission:
    return Submission(payload, user, 7, key)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        threading.Event().wait(0.001)


class Commits:
    """Count the transactions of a database that write, and fail one on request."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        self.fail_after: int | None = None
        sa.event.listen(database._engine, "commit", self._commit)

    def _commit(self, connection: sa.Connection) -> None:
        self.count += 1
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                self.fail_after = None
                raise OSError("disk full")


def test_what_is_appended_is_pending_in_order(log: OperationLog) -> None:
    first = log.append([submission(b"a"), submission(b"b")])
    second = log.append([submission(b"c", user=2)])
    pending = log.pending(10, 1000)
    assert [(item.payload, item.user_id, item.project_id) for item in pending] == [
        (b"a", 1, 7),
        (b"b", 1, 7),
        (b"c", 2, 7),
    ]
    assert [item.request_id for item in pending] == first + second
    assert len({*first, *second}) == 3


def test_nothing_appended_is_nothing(log: OperationLog, database: Database) -> None:
    assert log.append([]) == []
    assert log.pending(10, 1000) == []


@pytest.mark.parametrize(("count", "size", "expected"), [(2, 1000, 2), (10, 5, 2), (10, 1, 1), (10, 0, 1), (10, 9, 3)])
def test_pending_is_bounded_but_never_stuck(log: OperationLog, count: int, size: int, expected: int) -> None:
    log.append([submission(b"abc") for _ in range(5)])
    assert len(log.pending(count, size)) == expected


def test_a_reopened_database_has_what_was_appended(tmp_path: Path) -> None:
    database = Database(tmp_path)
    ids = OperationLog(database).append([submission(b"a"), submission(b"b")])
    database.close()
    database = Database(tmp_path)
    assert [item.request_id for item in OperationLog(database).pending(10, 10)] == ids
    database.close()


def test_those_who_wait_share_one_commit(log: OperationLog, database: Database) -> None:
    commits = Commits(database)
    with ThreadPoolExecutor(16) as pool:
        with database.write():
            futures = [pool.submit(log.append, [submission(str(number).encode())]) for number in range(16)]
            # One thread commits for itself and stands at the database's lock; the others queue up behind it.
            wait_until(lambda: len(log._queue) == 15)
        ids = [future.result(DEADLINE)[0] for future in futures]
    assert commits.count == 1 + 2  # the one above, the first thread's, and one for all others
    assert len(set(ids)) == 16
    payloads = {item.request_id: item.payload for item in log.pending(100, 10_000)}
    assert [payloads[request_id] for request_id in ids] == [str(number).encode() for number in range(16)]


def test_a_failed_commit_reaches_everyone_who_waited_and_nobody_after(log: OperationLog, database: Database) -> None:
    commits = Commits(database)
    with ThreadPoolExecutor(4) as pool:
        with database.write():
            first = pool.submit(log.append, [submission()])
            wait_until(lambda: first.running() and log._commit_lock.locked() and not log._queue)
            others = [pool.submit(log.append, [submission(key="lost")]) for _ in range(3)]
            wait_until(lambda: len(log._queue) == 3)
            commits.fail_after = 2  # the one of this block and the first thread's
        assert len(first.result(DEADLINE)) == 1
        for other in others:
            with pytest.raises(OSError, match="disk full"):
                other.result(DEADLINE)
    assert len(log.pending(100, 10_000)) == 1
    assert len(log.append([submission(key="lost")])) == 1
    assert len(log.pending(100, 10_000)) == 2


def test_the_same_key_of_the_same_user_is_the_same_request(log: OperationLog) -> None:
    ((first,), again) = log.append([submission(b"a", key="k")]), log.append([submission(b"b", key="k"), submission()])
    assert again[0] == first
    assert again[1] != first
    (other_user,) = log.append([submission(b"c", user=2, key="k")])
    (other_key,) = log.append([submission(b"d", key="K")])
    twice = log.append([submission(b"e", key="e"), submission(b"f", key="e")])
    assert len({first, other_user, other_key, twice[0]}) == 4
    assert twice[0] == twice[1]
    assert [item.payload for item in log.pending(100, 1000)] == [b"a", b"x", b"c", b"d", b"e"]


def test_a_key_is_remembered_after_the_operation_is_applied(log: OperationLog, database: Database) -> None:
    (first,) = log.append([submission(key="k")])
    settle(log, database, b"done")
    assert log.append([submission(key="k")]) == [first]
    assert log.pending(10, 1000) == []


def test_outcomes_come_in_the_order_asked_for(log: OperationLog, database: Database) -> None:
    ids = log.append([submission(user=number) for number in range(3)])
    settle(log, database, b"done", b"details", count=2)
    wanted = [ids[2], "unknown", ids[0], ids[0], ids[1]]
    outcomes = log.outcomes(wanted)
    assert [outcome and (outcome.request_id, outcome.user_id, outcome.status) for outcome in outcomes] == [
        (ids[2], 2, None),
        None,
        (ids[0], 0, b"done"),
        (ids[0], 0, b"done"),
        (ids[1], 1, b"done"),
    ]
    assert outcomes[2] is not None
    assert outcomes[2].details == b"details"
    assert log.outcomes([]) == []


def test_more_outcomes_than_a_statement_takes_parameters(log: OperationLog) -> None:
    ids = log.append([submission() for _ in range(3)])
    wanted = [*(f"unknown {number}" for number in range(40_000)), *ids]
    outcomes = log.outcomes(wanted)
    assert outcomes[:40_000] == [None] * 40_000
    assert [outcome and outcome.request_id for outcome in outcomes[40_000:]] == ids


def test_settling_trims_the_log(log: OperationLog, database: Database) -> None:
    ids = log.append([submission(b"a"), submission(b"b"), submission(b"c")])
    settle(log, database, b"done", count=2)
    assert [item.payload for item in log.pending(10, 1000)] == [b"c"]
    assert [outcome and outcome.status for outcome in log.outcomes(ids)] == [b"done", b"done", None]


def test_sequences_are_not_used_twice(log: OperationLog, database: Database) -> None:
    log.append([submission()])
    (before,) = log.pending(1, 1)
    settle(log, database, b"done")
    log.append([submission()])
    (after,) = log.pending(1, 1)
    assert after.sequence > before.sequence


def test_old_outcomes_are_forgotten_and_pending_ones_are_not(log: OperationLog, database: Database) -> None:
    ids = log.append([submission(), submission(key="k"), submission()])
    settle(log, database, b"done", count=2)
    log.forget()
    assert None not in log.outcomes(ids)
    age(database, ids[1:])
    log.forget()
    outcomes = log.outcomes(ids)
    assert [outcome is None for outcome in outcomes] == [False, True, False]
    assert log.append([submission(key="k")]) != [ids[1]]


def test_a_closed_log_takes_nothing_and_keeps_what_it_took(log: OperationLog, database: Database) -> None:
    log.append([submission(b"a")])
    log.close()
    log.close()
    with pytest.raises(StoreClosedError, match="shutting down"):
        log.append([submission(b"b")])
    assert [item.payload for item in log.pending(10, 1000)] == [b"a"]


def test_closing_commits_those_who_wait(log: OperationLog, database: Database) -> None:
    with ThreadPoolExecutor(9) as pool:
        with database.write():
            futures = [pool.submit(log.append, [submission()]) for _ in range(8)]
            wait_until(lambda: len(log._queue) == 7)
            closing = pool.submit(log.close)
            wait_until(lambda: log._closed)
        closing.result(DEADLINE)
        ids = [future.result(DEADLINE)[0] for future in futures]
    assert {item.request_id for item in log.pending(100, 1000)} == set(ids)


def settle(
    log: OperationLog, database: Database, status: bytes, details: bytes | None = None, *, count: int = 1
) -> None:
    with database.write() as connection:
        log.settle(connection, [(item, status, details) for item in log.pending(count, 10**9)])


def age(database: Database, request_ids: list[str]) -> None:
    """Make requests older than the retention time."""
    seconds: Any = limits.REQUEST_STATUS_RETENTION_SECONDS + 60
    requests = schema.requests
    with database.write() as connection:
        connection.execute(
            requests.update()
            .where(requests.c.request_id.in_(request_ids))
            .values(accepted_ms=requests.c.accepted_ms - 1000 * seconds)
        )
