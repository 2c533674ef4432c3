"""Runs the behaviours on a server elsewhere, by pytest."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

pytest.register_assert_rewrite("neptune_api.conformance")

from neptune_api.conformance.fixtures import MATRIX, ONCE_PER_DOOR, Hosts  # noqa: E402 # its asserts are rewritten
from neptune_api.conformance.results import Result, Results, one_line  # noqa: E402
from neptune_api.exceptions import NeptuneApiError  # noqa: E402
from neptune_api.server import limits  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from neptune_api.conformance.results import Outcome
    from neptune_api.conformance.target import Target

BEHAVIOURS: Final = Path(__file__).parent / "behaviours"

WIRES: Final = {"grpc": ("grpc",), "http": ("http", "http-json")}
"""What behaviours run over, by what an address speaks: over HTTP, messages in binary and in JSON."""


_HOSTS: Final = pytest.StashKey[Hosts]()


@pytest.fixture(scope="session")
def hosts(pytestconfig: pytest.Config) -> Hosts:
    """The one server there is."""
    return pytestconfig.stash[_HOSTS]


class UnknownNameError(ValueError):
    """Say that no area and no behaviour has a name."""


def areas() -> dict[str, Path]:
    """Return the file of each area."""
    return {_area(path): path for path in sorted(BEHAVIOURS.glob("test_*.py"))}


def run(target: Target, wires: Sequence[str], only: Sequence[str] = (), *, progress: bool = False) -> Results:
    """Run the behaviours, or those of areas or names, over wires to a server that was inspected; return what they say.

    `progress` tells on stderr how far it is. Raises UnknownNameError. The process cannot run other tests afterwards.
    """
    paths, names = _chosen(only)
    results = Results(
        ", ".join(target.addresses.values()), target.info.version, target.username, target.workspace, tuple(wires)
    )
    for variable in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(variable, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others' plugins know nothing of these tests
    arguments = ["-c", os.devnull, f"--rootdir={BEHAVIOURS}", f"--confcutdir={BEHAVIOURS}"]
    arguments += ["--import-mode=importlib", "-p", "no:cacheprovider"]
    plugin = _Plugin(target, wires, names, results, progress=progress)
    try:
        code = pytest.main([*arguments, "-p", "no:warnings", *map(str, paths)], plugins=[plugin, sys.modules[__name__]])
    finally:
        target.close()
    results.left = target.left
    results.limits = _other_limits(target)
    results.ended_early = code == pytest.ExitCode.INTERRUPTED
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}:
        raise RuntimeError(f"pytest ended with {code!r}: {plugin.trouble}")
    return results


def _other_limits(target: Target) -> list[str]:
    """Return the limits that differ from those that the suite knows, in words."""
    told = target.info.limits
    known = [(field.name, getattr(limits, field.name.upper(), None)) for field in told.DESCRIPTOR.fields]
    return [
        f"{name} is {getattr(told, name):,}, not {value:,}"
        for name, value in known
        if value is not None and target.info.version and getattr(told, name) != value
    ]


def _area(path: Path) -> str:
    return path.stem.removeprefix("test_").replace("_", " ")


def _sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _chosen(only: Sequence[str]) -> tuple[list[Path], set[str]]:
    """Return the files to run, and the names of behaviours in them to keep; none for all."""
    files = areas()
    if not only:
        return list(files.values()), set()
    pattern = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)
    where: dict[str, list[Path]] = {}  # by sentence, which several areas may share
    for path in files.values():
        for name in pattern.findall(path.read_text(encoding="utf-8")):
            where.setdefault(_sentence(name), []).append(path)
    paths: dict[Path, None] = {}
    names: set[str] = set()
    for wanted in only:
        name = re.sub(r"[-_\s]+", " ", wanted).strip().lower()
        folded = {known.lower(): known for known in where}
        if name in files:
            paths[files[name]] = None
            names |= {known for known, places in where.items() if files[name] in places}
        elif name in folded:
            paths |= dict.fromkeys(where[folded[name]])
            names.add(folded[name])
        else:
            near = difflib.get_close_matches(name, [*files, *folded], n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"areas are {', '.join(files)}."
            raise UnknownNameError(f"No area and no behaviour is called {wanted!r}; {hint}")
    return list(paths), names


class _Plugin:
    """Tells behaviours where they run, and takes down what becomes of them."""

    def __init__(
        self, target: Target, wires: Sequence[str], names: set[str], results: Results, *, progress: bool
    ) -> None:
        self._target = target
        self._wires = tuple(wires)
        self._names = names
        self._results = results
        self._progress = progress
        self._folder = tempfile.TemporaryDirectory(prefix="neptune-api-")
        self._count = 0
        self.trouble = ""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[_HOSTS] = self
        config.stash[MATRIX] = tuple((wire, "") for wire in self._wires)
        config.addinivalue_line("markers", "slow: takes more than 10 seconds")
        config.addinivalue_line("markers", f"{ONCE_PER_DOOR}: depends on no more than the door and the message")
        # The report is ours.
        config.pluginmanager.unregister(config.pluginmanager.get_plugin("terminalreporter"))
        from hypothesis import configuration, settings

        configuration.set_hypothesis_home_dir(self._folder.name)  # it would make one where the command is run
        settings.register_profile("conformance", deadline=None, database=None)
        settings.load_profile("conformance")

    def get(self, store: str) -> Target:
        """Return the server."""
        del store
        return self._target

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.trouble = one_line(str(report.longrepr)[-1000:])

    def pytest_internalerror(self, excrepr: object) -> None:
        self.trouble = one_line(str(excrepr)[-1000:])

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self._names:
            kept = [item for item in items if _sentence(_function(item)) in self._names]
            config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
            items[:] = kept
        self._count = len(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            self._target.failed = True
        if call.when == "call" or not report.passed:
            self._note(item, call, report)
        return report

    def _note(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        outcome: Outcome = "fails" if report.failed else "skipped" if report.skipped else "holds"
        wire, case = _case(item, self._wires)
        result = Result(
            _area(item.path),
            _sentence(_function(item)),
            case,
            wire,
            outcome,
            "" if call.excinfo is None else one_line(_seen(call.excinfo.value)),
            report.duration,
        )
        known = self._results.results
        if known and outcome == "fails" and _same(known[-1], result):
            if known[-1].outcome == "fails":
                return  # what was seen first says more than what came of it
            known.pop()  # it held, and could not be tidied up
        known.append(result)
        if self._progress:
            sys.stderr.write(f"\r\x1b[K{len(known):,} of {self._count:,}  {result.area}")
            sys.stderr.flush()

    def pytest_unconfigure(self) -> None:
        self._folder.cleanup()

    def pytest_sessionfinish(self) -> None:
        if self._progress:
            sys.stderr.write("\r\x1b[K")


def _function(item: pytest.Item) -> str:
    return getattr(item, "originalname", None) or item.name


def _case(item: pytest.Item, wires: Sequence[str]) -> tuple[str, str]:
    """Return the wire and the rest of what an item is a case of."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return "", ""
    wire = callspec.params.get("wire", "")
    rest = str(callspec.id)
    if wire:
        rest = "-".join(part for part in re.split(rf"(?:^|-){re.escape(wire)}(?=-|$)", rest, maxsplit=1) if part)
    return wire, one_line(rest.strip("-"))


def _same(one: Result, other: Result) -> bool:
    return (one.area, one.behaviour, one.case, one.wire) == (other.area, other.behaviour, other.case, other.wire)


def _seen(error: BaseException) -> str:
    """Return in a sentence what was seen when something else was demanded."""
    if isinstance(error, NeptuneApiError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, AssertionError):
        return str(error) or f"an assertion does not hold: {_line(error)}"
    if isinstance(error, pytest.fail.Exception | pytest.skip.Exception):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _line(error: BaseException) -> str:
    """Return the line that an error was raised in."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ is not None else []
    context = frames[-1].code_context if frames else None
    return context[0].strip() if context else "of which no source is there"
