"""Compare proto/ with the last release by `buf breaking`.

    python tools/breaking.py

The baseline is the newest release tag v* before HEAD; as long as there is none, the last commit. Exits 1 when the wire
or the JSON of a released message changed incompatibly.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).with_name("buf")


def git(*arguments: str) -> bytes | None:
    """Return what a git command prints, or None when it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def baseline() -> tuple[str, bytes] | None:
    """Return the name of the baseline and a tar of its proto folder; None when no commit has one."""
    tag = git("describe", "--tags", "--abbrev=0", "--match=v*")
    ref = tag.decode().strip() if tag else "HEAD"
    archive = git("archive", "--format=tar", ref, "proto")
    return (ref, archive) if archive else None


def main() -> int:
    """Run the comparison; return buf's exit code."""
    found = baseline()
    if found is None:
        print("buf breaking: no commit holds proto/ yet, nothing to compare with")
        return 0
    ref, archive = found
    if ref == "HEAD":
        message = (
            "there is no release tag v* in this clone, so proto/ is compared with the last commit; if there has been a "
            "release, `git fetch --tags` brings its tag"
        )
    else:
        message = f"proto/ against the release {ref}"
    print(f"buf breaking: {message}", flush=True)  # before what buf prints
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(scratch, filter="data")
        # The baseline is read with today's configuration, which is the one that must hold.
        shutil.copy(ROOT / "buf.yaml", scratch)
        shutil.copytree(ROOT / ".tools/compiler/googleapis", Path(scratch, ".tools/compiler/googleapis"))
        return subprocess.run([BUF, "breaking", "--against", scratch], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
