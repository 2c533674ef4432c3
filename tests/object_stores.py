"""Object stores for the tests: servers that speak S3 and Google Cloud Storage, in an environment of their own."""

from __future__ import annotations

import subprocess
import urllib.parse
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.environments import Environment
from tests.files.raw_http import PATIENCE, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

STORES = Environment(
    "object-stores",
    # moto's own extra for a server brings what all of Amazon's services need.
    ("moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "gcp-storage-emulator==2026.7.19", "cryptography>=42"),
    package=False,
)
BUCKET = "bucket"


@contextmanager
def running(script: str, *arguments: str) -> Iterator[str]:
    """Run the script of a store and give the store's address."""
    path = Path(__file__).with_name(script)
    with subprocess.Popen(
        [STORES.python(), path, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server that speaks S3 and has a bucket."""
    with running("s3_process.py") as endpoint:
        assert ask("PUT", f"{endpoint}/{BUCKET}").status == 200
        yield endpoint


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The place for files in that bucket, whose credentials are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    return f"s3://{BUCKET}/some/prefix?{urllib.parse.urlencode({'endpoint': s3_endpoint, 'region': 'us-east-1'})}"
