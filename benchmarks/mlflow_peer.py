"""MLflow's side of a comparison: its server over SQLite and its own client, run by the Python of its environment.

Reads lines of JSON from stdin, `{"series": 10, "points": 5000}`, logs that many points to a new run by log_batch and
answers with the seconds it took. The first line it writes says that it is ready.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

BATCH = 1000  # what its server takes at most
START_SECONDS = 240


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 # its own server
                return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)


def log(client: MlflowClient, series: int, points: int) -> float:
    """Log points to a new run and return the seconds."""
    run_id = client.create_run("0").info.run_id
    metrics = [
        Metric(f"metric-{index % series}", index * 0.1, 1_700_000_000_000 + index, index // series)
        for index in range(points)
    ]
    started = time.perf_counter()
    for start in range(0, points, BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    return time.perf_counter() - started


def main() -> None:
    """Serve the folder given as argument until stdin ends."""
    folder = Path(sys.argv[1])
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    with (folder / "mlflow.log").open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, start_new_session=True)
    try:
        wait_until_up(url, server)
        client = MlflowClient(url)
        log(client, 10, BATCH)
        print("ready", flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps({"seconds": log(client, asked["series"], asked["points"])}), flush=True)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


if __name__ == "__main__":
    main()
