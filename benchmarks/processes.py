"""Servers as processes of their own, and what the system says about processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import neptune_api

if TYPE_CHECKING:
    from types import TracebackType

    import grpc
    import grpc.aio
    from typing_extensions import Self

    from neptune_api.options import ChannelOptions

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 120.0


def environment() -> dict[str, str]:
    """Return the environment for processes: an installed package has bytecode, so this one may write its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Server:
    """`neptune-api serve` over a folder, or the store at a URL; a process of its own, which a `with` block runs."""

    def __init__(self, folder: Path, *arguments: str, store: str | None = None) -> None:
        self.folder = folder
        self._place = ["--data", str(folder)] if store is None else ["--store", store]
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.api_token = self.grpc_target = self.http_url = self.workspace = ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        ready = self.folder.with_name(f"{self.folder.name}.ready.json")
        self._log = tempfile.TemporaryFile()  # lives as long as the process
        command = [sys.executable, "-m", "neptune_api", "serve", *self._place, "--ready-file", ready]
        self._process = subprocess.Popen(
            [*map(str, command), "--log-level", "warning", *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=environment(),
        )
        end = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                self._process.wait()
                raise RuntimeError(f"the server does not start: {self.log()}")
            time.sleep(0.002)
        found = json.loads(ready.read_text(encoding="utf-8"))
        self.api_token, self.grpc_target = found["api_token"], found["grpc_target"]
        self.http_url, self.workspace = found["http_url"], found["workspace"]
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._log.close()

    @property
    def pid(self) -> int:
        """The process."""
        if self._process is None:
            raise RuntimeError("the server has to be started first")
        return self._process.pid

    def log(self) -> str:
        """Return what the server wrote to stderr."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def channel(self, *, options: ChannelOptions | None = None) -> grpc.Channel:
        """Open a channel as the owner of the workspace."""
        return neptune_api.channel(f"grpc://{self.grpc_target}", api_token=self.api_token, options=options)

    def aio_channel(self) -> grpc.aio.Channel:
        """Open a channel for asyncio."""
        return neptune_api.aio.channel(f"grpc://{self.grpc_target}", api_token=self.api_token)


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU that a process has used, all threads together. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int | str = "self") -> int:
    """Return the most memory that a process had resident since `reset_peak`. Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_peak(pid: int | str = "self") -> None:
    """Count the peak of a process anew. Linux only."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def written_bytes(pid: int) -> int:
    """Return the bytes that a process has had written to disk. Linux only."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
