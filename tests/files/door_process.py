"""A door in a process of its own: `python door_process.py FOLDER [BYTES]`, with a limit on the size of files.

Prints the port and the memory it took so far, in bytes, and after the end of its input the most it ever took.
"""

from __future__ import annotations

import resource
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from neptune_api.server.files.storage import FolderStorage

KEY = b"k" * 32


def peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def say(*numbers: int) -> None:
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


def main(root: Path, largest: int | None) -> None:
    if largest is not None:
        # The kernel's answer to a file that becomes too large is the one to a full disk, but for the number.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    storage = FolderStorage(root, KEY, knows=lambda _: True)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    server = uvicorn.Server(uvicorn.Config(storage.door, lifespan="off", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    say(listening.getsockname()[1], peak_memory())
    sys.stdin.read()
    server.should_exit = True
    thread.join()
    storage.close()
    say(peak_memory())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
