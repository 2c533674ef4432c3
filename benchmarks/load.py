"""Makes small calls as fast as it can, from threads: `python -m benchmarks.load URL SECONDS`; prints calls per second.

The API token comes from the environment. The clock starts when a line comes on stdin: several can start at once.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Final

import neptune_api
from neptune_api.models import GetUserIdentityRequest
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

THREADS: Final = 4


def main() -> None:
    """Make the calls."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    counts = [0] * THREADS
    with neptune_api.channel(url) as channel:
        users = UsersServiceStub(channel)
        users.GetUserIdentity(GetUserIdentityRequest())
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + seconds

        def work(index: int) -> None:
            while time.monotonic() < end:
                users.GetUserIdentity(GetUserIdentityRequest())
                counts[index] += 1

        threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(sum(counts) / seconds)


if __name__ == "__main__":
    main()
