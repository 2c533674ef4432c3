"""A server that speaks S3, by moto: prints its port and ends with its input. Runs in an environment of its own."""

from __future__ import annotations

import logging
import sys

from moto.server import ThreadedMotoServer

logging.disable()
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
sys.stdout.write(f"{server.get_host_and_port()[1]}\n")
sys.stdout.flush()
sys.stdin.read()
server.stop()
