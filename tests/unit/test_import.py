"""Importing the package is cheap, and its names are there all the same."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import neptune_api

HEAVY = (
    "grpc",
    "google.protobuf",
    "google.rpc",
    "importlib.metadata",
    "asyncio",
    "dataclasses",
    "logging",
    "numpy",
    "socket",
    "ssl",
    "typing",
    "neptune_api.aio",
    "neptune_api.channels",
    "neptune_api.columns",
    "neptune_api.exceptions",
    "neptune_api.http",
    "neptune_api.options",
    "neptune_api.server",
    "neptune_api.v1",
)


def modules_after(code: str) -> set[str]:
    program = f"import sys; before = set(sys.modules); {code}; print('\\n'.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = modules_after("import neptune_api; neptune_api.__version__; dir(neptune_api)")
    assert "neptune_api" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_options_load_no_protobuf() -> None:
    assert "google.protobuf" not in modules_after("import neptune_api; neptune_api.ChannelOptions()")


def test_a_server_on_a_folder_starts_without_what_it_may_never_need() -> None:
    loaded = modules_after("import neptune_api.server.cli; from neptune_api.server import LocalServer; LocalServer()")
    assert "neptune_api.server.server" in loaded
    assert loaded.isdisjoint(("alembic", "numpy.typing", "obstore", "psycopg", "sqlalchemy.dialects.postgresql"))


@pytest.mark.parametrize("name", neptune_api.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(neptune_api, name) is not None
    assert name in dir(neptune_api)


@pytest.mark.parametrize(
    "code",
    [
        "from neptune_api import models; models.RunOperation",
        "import neptune_api; neptune_api.aio.channel",
        "import neptune_api.aio; neptune_api.aio.channel",
        "from neptune_api.exceptions import UnauthorizedException",
        "import neptune_api; neptune_api.exceptions.UnauthorizedException",
        "import neptune_api.channels, neptune_api; assert callable(neptune_api.channel)",
        "from neptune_api import *; channel, ChannelOptions",
    ],
)
def test_names_load_in_a_fresh_process(code: str) -> None:
    modules_after(code)


def test_the_factory_is_a_function_and_the_modules_are_modules() -> None:
    assert callable(neptune_api.channel)
    assert not isinstance(neptune_api.channel, ModuleType)
    assert isinstance(neptune_api.aio, ModuleType)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'chanel'"):
        neptune_api.chanel  # type: ignore[attr-defined] # noqa: B018 # that it is not there is the point
