"""A program that ends while the second server of its mirror does not answer."""

from __future__ import annotations

import sys

from neptune_api import Mirror
from tests.processes.scripts.common import create_run, log, open_channel

mirror = Mirror(sys.argv[1], access_token="x")  # guards nothing
channel = open_channel(mirror=mirror)
create_run(channel, "mirrored")
for step in range(10):
    log(channel, "mirrored", "loss", step, 0.5)
print("ready", flush=True)  # noqa: T201 # the test counts from here
sys.exit(3)
