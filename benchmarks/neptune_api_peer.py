"""The client of neptune-api 0.26.0, run by the Python of its environment: calls the server whose address it is given.

Reads lines of JSON from stdin, `{"calls": 500, "in_flight": 32}`, gets the client configuration that often, with
asyncio if any are to be in flight, and answers with the seconds it took. The first line it writes says that it is
ready.
"""

# The client is another package of the same name as ours, which is the one that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import asyncio
import json
import sys
import time

from neptune_api.api.backend import get_client_config
from neptune_api.client import Client


def one_by_one(client: Client, calls: int) -> float:
    """Return the seconds that calls take, one after the other."""
    started = time.perf_counter()
    for _ in range(calls):
        if get_client_config.sync(client=client) is None:
            raise RuntimeError("the server does not answer")
    return time.perf_counter() - started


async def in_flight(client: Client, calls: int, workers: int) -> float:
    """Return the seconds that calls take with so many under way at any time."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            if await get_client_config.asyncio(client=client) is None:
                raise RuntimeError("the server does not answer")

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return time.perf_counter() - started


def main() -> None:
    """Answer until stdin ends."""
    url = sys.argv[2]
    loop = asyncio.new_event_loop()
    with Client(base_url=url) as client:
        aio_client = Client(base_url=url)
        one_by_one(client, 10)
        print("ready", flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["in_flight"]:
                seconds = loop.run_until_complete(in_flight(aio_client, asked["calls"], asked["in_flight"]))
            else:
                seconds = one_by_one(client, asked["calls"])
            print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
