"""A mirror on both sides of a fork: each sends its own copies."""

from __future__ import annotations

import dataclasses
from typing import Any

from neptune_api import Mirror
from tests.processes.scripts.common import PATIENCE, TARGET, create_run, in_child, log, open_channel, tell


def main() -> None:
    """Tell how it went. The second server is the first one: what comes twice there counts once."""
    with Mirror(TARGET) as mirror, open_channel(mirror=mirror) as channel:
        create_run(channel, "mirrored")
        log(channel, "mirrored", "parent", 0, 0.5)
        mirror.flush(PATIENCE)

        def work() -> dict[str, Any]:
            log(channel, "mirrored", "child", 0, 0.5)
            mirror.flush(PATIENCE)
            return dataclasses.asdict(mirror.counts)

        child = in_child(work)
        log(channel, "mirrored", "parent", 1, 0.5)
        mirror.flush(PATIENCE)
        tell(child=child.told, code=child.code, parent=dataclasses.asdict(mirror.counts))


main()
