"""The wheel: what is in it, which version it says it is, and floors that its gencode can run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import build_protos
from neptune_api._version import __version__
from neptune_api.credentials import TOKEN_VARIABLE
from neptune_api.server import LocalServer

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = ("__pycache__", ".*", "build", "dist", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy, because setuptools leaves its scratch files in the source folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE), dirs_exist_ok=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(wheel.read(f"neptune_api-{__version__}.dist-info/METADATA").decode())


def requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def core_floors(metadata: Message) -> dict[str, Version]:
    """Return the floor of each core dependency; anything but a bare floor fails."""
    floors = {}
    for requirement in requirements(metadata):
        if requirement.marker is None:
            (specifier,) = requirement.specifier
            assert specifier.operator == ">=", f"{requirement}: a core dependency has a floor and no cap"
            floors[requirement.name] = Version(specifier.version)
    return floors


def test_the_wheel_holds_one_package_and_no_tests_but_behaviours(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"neptune_api", f"neptune_api-{__version__}.dist-info"}
    ours = ("neptune_api/pytest", "neptune_api/conformance/behaviours/")
    assert not [name for name in names if "test" in Path(name).name and not name.startswith(ours)]
    assert not [name for name in names if name.endswith(".proto")]


def test_the_wheel_holds_every_module_type_and_page_of_the_package(wheel: zipfile.ZipFile) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.pyi", "py.typed", "static/*", "nql.md")
        for path in (ROOT / "neptune_api").rglob(pattern)
    }
    assert {name for name in wheel.namelist() if name.startswith("neptune_api/")} == here
    assert "neptune_api/py.typed" in here
    assert "neptune_api/v1/ingest_service_pb2_grpc.pyi" in here


def test_the_wheel_holds_a_server_to_the_contract(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """With the packages of this environment, but nothing of the repository."""
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(installed)
    with LocalServer() as server:
        command = [sys.executable, "-m", "neptune_api", "conformance", "--wire", "grpc"]
        command += ["--only", "a set knows its members exactly"]
        environment = {**os.environ, "PYTHONPATH": str(installed), TOKEN_VARIABLE: server.api_token}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=elsewhere, env=environment, timeout=120
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^nql +1 +0 +0$", done.stdout, re.MULTILINE)
    code = "import neptune_api.conformance.suite as suite; print(suite.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=elsewhere, env=environment
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)


def test_the_metadata_says_what_it_is(wheel: zipfile.ZipFile, metadata: Message) -> None:
    folder = f"neptune_api-{__version__}.dist-info"
    assert (metadata["Name"], metadata["Version"]) == ("neptune-api", __version__)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.10")
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert "neptune-api = neptune_api.cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()


def test_the_core_has_three_dependencies(metadata: Message) -> None:
    assert set(core_floors(metadata)) == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_runtime_extras_have_no_upper_caps(metadata: Message) -> None:
    for requirement in requirements(metadata):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "server"}):
            assert {specifier.operator for specifier in requirement.specifier} == {">="}, requirement


def test_the_pinned_compiler_is_not_newer_than_the_floors(metadata: Message) -> None:
    floors = core_floors(metadata)
    pins = dict(pin.split("==") for pin in build_protos.TOOL_VERSIONS["compiler"])
    assert Version(pins["grpcio-tools"]) <= floors["grpcio"]
    # A patch release of protobuf may compile: the gencode carries the stamp of protoc, see the next test.
    assert Version(pins["protobuf"]).release[:2] <= floors["protobuf"].release[:2]
    assert Version(pins["googleapis-common-protos"]).release[:2] <= floors["googleapis-common-protos"].release[:2]


def test_the_gencode_is_stamped_with_the_floor_and_checks_no_version(metadata: Message) -> None:
    floor = core_floors(metadata)["protobuf"]
    modules = sorted((ROOT / "neptune_api/v1").glob("*_pb2*.py"))
    assert modules
    for module in modules:
        text = module.read_text()
        if stamp := re.search(r"^# Protobuf Python Version: (\S+)$", text, flags=re.MULTILINE):
            assert Version(stamp[1]) <= floor, module.name
        else:
            assert module.stem.endswith("_pb2_grpc"), f"{module.name} has no protobuf version stamp"
        assert "ValidateProtobufRuntimeVersion" not in text, module.name
        assert "GRPC_GENERATED_VERSION" not in text, module.name


def test_the_version_is_that_of_the_newest_changelog_entry() -> None:
    headings = re.findall(r"^## \[?([^\s\]]+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings, "CHANGELOG.md has no `## [version]` heading"
    # Between releases the entry is Unreleased and the version is one under development.
    assert headings[0] == ("Unreleased" if Version(__version__).is_devrelease else __version__)
