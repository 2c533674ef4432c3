"""Forks: what a child may do with channels, and that it never hangs, crashes or harms its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.processes.conftest import Run

OWNER = {"answer": "owner"}
SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
AT_ONCE = 1.0


@pytest.fixture(autouse=True)
def _no_fork_support_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUPPORT, raising=False)


def check_refusal(told: dict[str, Any], reason: str) -> None:
    """Check that a child was told at once why gRPC does not work and what to do."""
    assert told["error"] == "FailedPreconditionException"
    assert "gRPC does not work in this process" in told["text"]
    assert reason in told["text"]
    assert "'spawn' or 'forkserver'" in told["text"]
    assert "transport='http'" in told["text"]
    assert told.get("seconds", 0) < AT_ONCE


@pytest.mark.parametrize("support", [None, "1", "0"])
def test_both_sides_of_a_fork_go_on_with_a_channel(
    run: Run, wire: str, support: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if support is not None:
        monkeypatch.setenv(SUPPORT, support)
    told = run("channels").told()
    cases = [told[name] for name in ("unused", "used", "left")]
    assert [(case["parent"], case["code"]) for case in cases] == [("owner", 0)] * 3
    assert told["busy"]["codes"] == [0] * 4
    assert told["busy"]["unused"] == ["unused", 0]
    assert told["busy"]["kept"] == [True] * 4
    children = [told["unused"]["child"], told["used"]["child"], told["new"], told["grandchild"]]
    children += told["busy"]["children"]
    if wire == "grpc" and support == "0":
        for child in children:
            check_refusal(child, f"with {SUPPORT}=0. Unset the variable")
    else:
        assert children == [OWNER] * 8
    assert told["left"]["child"]["error"] == "ValueError"
    assert "closed channel" in told["left"]["child"]["text"]


def test_calls_under_way_are_the_parents_alone(run: Run, wire: str) -> None:
    # gRPC's threads in the child may tell of files of the parent.
    told = run("midst", GRPC_VERBOSITY="NONE").told()
    assert told["code"] == 0
    child = told["child"]
    for name in ("same", "new"):
        if wire == "grpc":
            check_refusal(child[name], "Fork when none of them is")
        else:
            assert child[name].items() >= OWNER.items()
    assert child["auto"].items() >= OWNER.items()
    for name in ("stream", "silent", "future"):
        assert child[name]["error"] in {"LostCall", "FutureCancelledError"}
        assert child[name]["seconds"] < AT_ONCE
    assert child["code"]["answer"] == "StatusCode.CANCELLED"
    assert told["running"] == [True, True]
    assert told["points"] == 500_000
    assert (told["over"], told["parent"]) == (OWNER, "owner")


def test_an_aio_channel_stays_with_its_process(run: Run, wire: str) -> None:
    told = run("aio_channels", GRPC_VERBOSITY="ERROR").told()
    child = told["child"]
    assert child["same"]["error"] == "FailedPreconditionException"
    assert "Open a channel here, in a coroutine" in child["same"]["text"]
    if wire == "grpc":
        check_refusal(child["new"], "an aio channel")
    else:
        assert child["new"] == OWNER
    assert child["left"] == {"answer": "left"}
    assert child["seconds"] < AT_ONCE
    assert (told["code"], told["parent"], told["over"], told["again"]) == (0, "owner", OWNER, "owner")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_a_data_loader_log(run: Run, method: str) -> None:
    told = run("workers", method).told()
    assert told["items"] == [[index, index * index] for index in range(20)]
    assert told["codes"] == [0, 0]
    assert told["names"] == ["owner"]
    assert told["elsewhere"]
    assert told["lost"] == []


@pytest.mark.parametrize("wire", ["grpc"], indirect=True)
def test_a_server_stays_with_its_process(run: Run) -> None:
    told = run("local_server", GRPC_VERBOSITY="ERROR").told()
    child = told["child"]
    assert child["stopped"] == {"answer": "None"}
    assert "the server does not run" in child["running"]["text"]
    check_refusal(child["grpc"], "a server")
    assert (child["http"], child["auto"]) == (OWNER, OWNER)
    assert (told["code"], told["parent"], told["kept"], told["gone"]) == (0, "owner", True, True)
