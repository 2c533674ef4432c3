"""Virtual environments with pinned packages and the wheel of this checkout, kept under .tools/envs between runs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".tools/envs"
PACKAGE_SOURCES = ("neptune_api", "pyproject.toml", "README.md", "LICENSE")


class SetupError(Exception):
    """An environment could not be made; the text holds what the failing command printed."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: the pinned packages, then the wheel of this checkout if `package` says so."""

    name: str
    pins: tuple[str, ...]
    package: bool = True

    def python(self) -> Path:
        """Return the environment's interpreter, making the environment or renewing the wheel first where needed.

        Processes that ask for the same environment wait for each other. Raises SetupError.
        """
        folder = ENVIRONMENTS / self.name
        python = folder / "bin/python"
        pins = "\n".join((f"python=={sys.version.split()[0]}", *self.pins, ""))
        with locked(f"{self.name}.lock"):
            if not python.exists() or read(folder / "pins.txt") != pins:
                venv.create(folder, clear=True, with_pip=False, symlinks=True)
                pip(python, *self.pins)
                (folder / "pins.txt").write_text(pins)
            if self.package and read(folder / "wheel.txt") != (built := wheel()).parent.name:
                pip(python, "--no-deps", "--force-reinstall", str(built))
                run([sys.executable, "-m", "pip", f"--python={python}", "check"])
                (folder / "wheel.txt").write_text(built.parent.name)
        return python


def read(path: Path) -> str | None:
    """Return the text of a file, None when there is none."""
    return path.read_text() if path.is_file() else None


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock among processes."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENTS / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str | Path], *, cwd: Path = ROOT) -> None:
    """Run a command; raise SetupError with what it printed when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise SetupError(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def pip(python: Path, *arguments: str) -> None:
    """Install into an environment that has no pip of its own, which saves making one."""
    run([sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--only-binary=:all:", *arguments])


def package_digest() -> str:
    """Return a digest of everything that goes into the wheel."""
    digest = hashlib.sha256()
    for source in PACKAGE_SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = file.read_bytes()
                digest.update(f"{file.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()[:16]


def wheel() -> Path:
    """Return a wheel of the checkout as it is now, built once for each state of its sources.

    The build runs in a copy, because setuptools leaves its scratch files in the source folder. Raises
    SetupError.
    """
    with locked("wheel.lock"):
        wheels = ENVIRONMENTS / "wheel"
        folder = wheels / package_digest()
        if not folder.is_dir():
            shutil.rmtree(wheels, ignore_errors=True)
            wheels.mkdir()
            with tempfile.TemporaryDirectory(dir=ENVIRONMENTS) as scratch:
                source, out = Path(scratch, "source"), Path(scratch, "out")
                source.mkdir()
                for name in PACKAGE_SOURCES:
                    path = ROOT / name
                    if path.is_dir():
                        shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        shutil.copy(path, source / name)
                run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source])
                out.rename(folder)
        (built,) = folder.glob("*.whl")
    return built
