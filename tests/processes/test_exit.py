"""Programs end at once, as they would without us, whatever they have left open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from signal import SIGINT, SIGTERM, Signals
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.processes.conftest import Run
    from tests.processes.programs import Ended

LIMIT = 2.0
"""Most seconds that an exit takes longer than one with nothing open, which takes its time on a busy machine, too."""
WAYS: tuple[tuple[str, Signals | None, int, str], ...] = (
    ("return", None, 0, ""),
    ("exit", None, 3, ""),
    ("error", None, 1, "ValueError: the end"),
    ("signal", SIGINT, -SIGINT, "KeyboardInterrupt"),
    ("signal", SIGTERM, -SIGTERM, ""),
)
"""How a program ends, by which signal, with which exit code, and what it says last."""


def check(ended: Ended, code: int, last: str, limit: float) -> None:
    """Check the exit code, the time, and that nothing was said but what Python says of an error."""
    assert ended.code == code, ended.err
    if last:
        assert ended.err.splitlines()[-1] == last
        assert ended.err.startswith("Traceback (most recent call last):")
        for noise in ("Exception ignored", "Warning", "fork_posix", "never retrieved", "Exception in thread"):
            assert noise not in ended.err
    else:
        assert ended.err == ""
    assert ended.seconds < limit


def check_all(run: Run, state: str, hole: str) -> None:
    """Let a program end in every way."""
    with ThreadPoolExecutor(2) as pool:  # more than there are processors would only wait for each other
        plain = pool.submit(run, "exits", "nothing", "return", hole)
        running = [
            (pool.submit(run, "exits", state, way, hole, number=number), code, last) for way, number, code, last in WAYS
        ]
    for program, code, last in running:
        check(program.result(), code, last, LIMIT + plain.result().seconds)


def test_channels_and_calls_hold_up_no_exit(run: Run, wire: str, hole: str) -> None:
    check_all(run, "calls", f"{wire}://{hole}")


def test_an_event_loop_holds_up_no_exit(run: Run, wire: str, hole: str) -> None:
    check_all(run, "loop", f"{wire}://{hole}")


@pytest.mark.parametrize("wire", ["grpc"], indirect=True)
def test_a_server_holds_up_no_exit(run: Run, hole: str) -> None:
    check_all(run, "server", f"grpc://{hole}")
