"""A channel before and after its first call, and amid calls of other threads, on both sides of a fork."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tests.processes.scripts.common import ask, create_run, in_child, log, open_channel, outcome, read, tell

if TYPE_CHECKING:
    import grpc

WRITERS = 4


def both_sides(channel: grpc.Channel) -> dict[str, Any]:
    """Use a channel in a child and then in this process."""
    child = in_child(lambda: outcome(lambda: ask(channel)))
    return {"child": child.told, "code": child.code, "parent": ask(channel)}


def left(channel: grpc.Channel) -> dict[str, Any]:
    """Leave the block of a channel in a child."""

    def leave() -> dict[str, str]:
        with channel:
            pass
        return outcome(lambda: ask(channel))

    child = in_child(leave)
    return {"child": child.told, "code": child.code, "parent": ask(channel)}


def grandchild(channel: grpc.Channel) -> Any:
    """Use a channel in the child of a child."""
    return in_child(lambda: in_child(lambda: outcome(lambda: ask(channel))).told).told


def busy(channel: grpc.Channel) -> dict[str, Any]:
    """Fork again and again while other threads log."""
    create_run(channel, "busy")
    stop = threading.Event()
    logged = [0] * WRITERS

    def write(number: int) -> None:
        while not stop.is_set():
            log(channel, "busy", f"writer/{number}", logged[number], 0.5)
            logged[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(4):
        before = sum(logged)
        while sum(logged) < before + WRITERS:
            pass
        children.append(in_child(lambda: outcome(lambda: ask(channel))))
    unused = in_child(lambda: "unused")
    stop.set()
    for thread in threads:
        thread.join()
    found = read(channel, "busy", [f"writer/{number}" for number in range(WRITERS)], sum(logged))
    return {
        "children": [child.told for child in children],
        "codes": [child.code for child in children],
        "unused": [unused.told, unused.code],
        "kept": [
            list(range(count)) == [step for step, _ in points] for count, points in zip(logged, found, strict=True)
        ],
    }


def main() -> None:
    """Tell how each went."""
    with open_channel() as unused:
        first = both_sides(unused)
    with open_channel() as channel:
        ask(channel)
        tell(
            unused=first,
            used=both_sides(channel),
            new=in_child(lambda: outcome(lambda: ask(open_channel()))).told,
            left=left(channel),
            grandchild=grandchild(channel),
            busy=busy(channel),
        )


main()
