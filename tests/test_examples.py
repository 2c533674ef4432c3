"""The examples, run as a newcomer runs them; each in a process of its own, which has to leave nothing behind."""

from __future__ import annotations

import fcntl
import importlib.util
import math
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PNG = b"\x89PNG\r\n\x1a\n"
SERIES = (
    "progress",
    "model/weights",
    "train/accuracy",
    "train/batch_loss",
    "train/loss",
    "validation/accuracy",
    "validation/loss",
)


def start(example: str, *arguments: str, folder: Path, stderr: int) -> subprocess.Popen[str]:
    """Start an example in a folder, with warnings as errors and temporary files where they can be counted."""
    (folder / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEPTUNE", "PYTHON"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / example), *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )


def assert_nothing_left(process: subprocess.Popen[str], folder: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # the process led a group of its own
    assert list((folder / "tmp").iterdir()) == []


def run(example: str, *arguments: str, folder: Path) -> str:
    """Run an example to its end; return what it printed."""
    process = start(example, *arguments, folder=folder, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, ""), stdout
    assert_nothing_left(process, folder)
    return stdout


def load(example: str) -> ModuleType:
    """Import an example without running it."""
    spec = importlib.util.spec_from_file_location(example.removesuffix(".py"), EXAMPLES / example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "facade.py",
        "minimal_aio.py",
        "minimal_sync.py",
        "test_training.py",  # by tests/testing/test_plugin.py
        "train_digits.py",
    }


@pytest.mark.parametrize("example", ["minimal_sync.py", "minimal_aio.py"])
def test_minimal(example: str, tmp_path: Path) -> None:
    assert run(example, folder=tmp_path) == "owner of local\n"


def test_facade(tmp_path: Path) -> None:
    lines = run("facade.py", folder=tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["user", "run", "project", "missing", "token"]
    assert lines[1] == "run      local/demo/DEMO-1, experiment 'first try'"
    assert lines[2] == "project  demo, PROJECT_ROLE_MANAGER is owner"
    assert lines[3].startswith("missing  NOT_FOUND: ")
    assert "no token at all" not in lines[4]


def check_digits(output: str, folder: Path, epochs: int) -> None:
    lines = output.splitlines()
    assert any(line.startswith("run        local/digits/DIGI-1") for line in lines)
    assert "read back  every value, step, timestamp and byte is the one that was logged" in lines
    rows = {line.split()[0]: line.split() for line in lines if line}
    batches = 8 * epochs
    for path in SERIES:
        assert rows[path][2] == f"{batches if path == 'train/batch_loss' else epochs:,}"
    assert f"logged     {6 * epochs + batches:,} points in {epochs + 2} operations" in lines
    assert "sys/tags" in rows
    assert rows["config/epochs"] == ["config/epochs", "int", str(epochs)]
    for name in ("curves.png", "confusion_matrix.png"):
        assert (folder / "quickstart-output" / name).read_bytes().startswith(PNG)
        assert f"  {Path('quickstart-output', name)}" in output
    size = (folder / "quickstart-output/confusion_matrix.png").stat().st_size
    assert f"mlp-1/confusion_matrix.png ({size / 1000:.0f} kB)" in output
    assert all(len(line) <= 80 for line in lines), "wider than a small terminal"


def test_train_digits(tmp_path: Path) -> None:
    check_digits(run("train_digits.py", "--epochs", "4", folder=tmp_path), tmp_path, 4)


def test_train_digits_replaces_old_pictures_and_git_ignores_them(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "curves.png").write_text("old")
    run("train_digits.py", "--epochs", "1", "--output", str(pictures), folder=tmp_path)
    assert (pictures / "curves.png").read_bytes().startswith(PNG)
    subprocess.run(["git", "init", "-q", str(pictures)], check=True)
    status = ["git", "-C", str(pictures), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.slow
def test_train_digits_as_make_quickstart_runs_it(tmp_path: Path) -> None:
    check_digits(run("train_digits.py", folder=tmp_path), tmp_path, 120)


def test_train_digits_shows_progress_on_a_terminal(tmp_path: Path) -> None:
    terminal, child_side = pty.openpty()
    fcntl.ioctl(child_side, termios.TIOCSWINSZ, struct.pack("4H", 30, 80, 0, 0))
    process = start("train_digits.py", "--epochs", "2", folder=tmp_path, stderr=child_side)
    os.close(child_side)
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # how a terminal says that its last writer is gone
        pass
    os.close(terminal)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"training" in shown
    assert b"2/2" in shown
    assert b"accuracy" in shown
    assert max(map(len, shown.decode().replace("\r", "\n").splitlines())) <= 80


def test_train_digits_refuses_no_epochs(tmp_path: Path) -> None:
    process = start("train_digits.py", "--epochs", "0", folder=tmp_path, stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--epochs must be at least 1" in stderr
    assert not (tmp_path / "quickstart-output").exists()


def test_train_digits_notices_the_smallest_difference() -> None:
    digits: Any = load("train_digits.py")
    sent = {"loss": [digits.Point(1.0, 1000, 0.1), digits.Point(2.0, 1001, 0.2)]}
    digits.compare(sent, {"loss": list(sent["loss"]), "sys/id": "more is fine"})
    wrong = {
        "value": [digits.Point(1.0, 1000, 0.1), digits.Point(2.0, 1001, math.nextafter(0.2, 1))],
        "time": [digits.Point(1.0, 1000, 0.1), digits.Point(2.0, 1002, 0.2)],
        "step": [digits.Point(1.0, 1000, 0.1), digits.Point(2.000001, 1001, 0.2)],
        "missing point": sent["loss"][:1],
        "additional point": [*sent["loss"], digits.Point(3.0, 1003, 0.3)],
    }
    for points in wrong.values():
        with pytest.raises(AssertionError, match="loss came back changed"):
            digits.compare(sent, {"loss": points})
    with pytest.raises(AssertionError, match="loss was sent, but did not come back"):
        digits.compare(sent, {})
