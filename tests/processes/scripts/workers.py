"""Workers as a data loader has them: a dataset that logs, processes with queues, and a pool with a global channel."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from tests.processes.scripts.common import ask, create_run, log, open_channel, read, tell

if TYPE_CHECKING:
    import grpc

WORKERS = 2
ITEMS = 20

channel: grpc.Channel | None = None
"""The channel of the program, which workers inherit when they are forked and open themselves when they are not."""


def global_channel() -> grpc.Channel:
    """Return the channel of the program, opened when it is first needed."""
    global channel  # noqa: PLW0603 # as such programs do
    if channel is None:
        channel = open_channel()
    return channel


class Dataset:
    """Items that are logged when they are loaded; it has a channel, which does not travel to other processes."""

    def __init__(self) -> None:
        self._channel: grpc.Channel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_channel": None}

    def __getitem__(self, index: int) -> int:
        if self._channel is None:
            self._channel = open_channel()
        log(self._channel, "workers", f"loaded/{index}", 1, index)
        return index * index


def serve(dataset: Dataset, indices: Any, items: Any) -> None:
    """Load items until there is no more index."""
    while (index := indices.get()) is not None:
        items.put((index, dataset[index], os.getpid()))


def task(index: int) -> tuple[int, str, int]:
    """Do a task of a pool."""
    log(global_channel(), "workers", f"pooled/{index}", 1, index)
    return index, ask(global_channel()), os.getpid()


def main(method: str) -> None:
    """Tell what the workers did."""
    context: Any = multiprocessing.get_context(method)
    create_run(global_channel(), "workers")
    dataset = Dataset()
    dataset[ITEMS]  # the program itself has used it
    stop = threading.Event()
    logged = 0

    def write() -> None:
        nonlocal logged
        while not stop.is_set():
            log(global_channel(), "workers", "trained", logged, 0.5)
            logged += 1

    writer = threading.Thread(target=write)
    writer.start()
    indices, items = context.Queue(), context.Queue()
    workers = [context.Process(target=serve, args=(dataset, indices, items)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for index in [*range(ITEMS), *[None] * WORKERS]:
        indices.put(index)
    loaded = [items.get(timeout=20) for _ in range(ITEMS)]
    for worker in workers:
        worker.join(20)
    with context.Pool(WORKERS) as pool:
        pooled = pool.map_async(task, range(ITEMS)).get(20)
    stop.set()
    writer.join()
    expected = {f"{kind}/{index}": [(1.0, float(index))] for kind in ("loaded", "pooled") for index in range(ITEMS)}
    expected["trained"] = [(float(step), 0.5) for step in range(logged)]
    points = read(global_channel(), "workers", [*expected], 2 * ITEMS + logged)
    tell(
        items=sorted((index, item) for index, item, _ in loaded),
        codes=[worker.exitcode for worker in workers],
        names=sorted({name for _, name, _ in pooled}),
        elsewhere=os.getpid() not in {pid for *_, pid in (*loaded, *pooled)},
        lost=[name for name, found in zip(expected, points, strict=True) if found != expected[name]],
    )
    global_channel().close()


if __name__ == "__main__":
    main(sys.argv[1])
