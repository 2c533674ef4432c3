"""The documents: their programs and commands run, their links lead somewhere, their tables are true."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pool

from neptune_api import __version__
from neptune_api.exceptions import NeptuneApiError, UnimplementedException
from neptune_api.server import LocalServer, limits

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Its commands are run by tests/languages, which knows whether there are compilers.
OTHER_LANGUAGES = ROOT / "docs/other-languages.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    line: int
    text: str


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, *languages: str) -> list[Block]:
    """Return the blocks of these languages."""
    text = document.read_text()
    found = [Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2]) for match in FENCE.finditer(text)]
    return [block for block in found if block.language in languages]


def prose(document: Path) -> str:
    """Return a document without its blocks."""
    return FENCE.sub("", document.read_text())


def commands() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for block in blocks(document, "sh") if document != OTHER_LANGUAGES else ():
            for line in block.text.splitlines():
                yield name(document), line


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


# Blocks


def test_every_block_says_its_language() -> None:
    for document in DOCUMENTS:
        for match in FENCE.finditer(document.read_text()):
            assert match[1] in {"json", "python", "sh", "text"}, f"{name(document)}: {match[2][:80]}"


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if blocks(path, "python")], ids=name)
def test_python_runs_and_prints_what_its_comments_say(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [
        comment
        for block in blocks(document, "python")
        for comment in re.findall(r"^ *print\(.*\)  # (.+)$", block.text, re.MULTILINE)
    ]
    printed = io.StringIO()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    monkeypatch.chdir(tmp_path)
    with LocalServer() as server, contextlib.redirect_stdout(printed):
        monkeypatch.setenv("NEPTUNE_API_TOKEN", server.api_token)
        for block in blocks(document, "python"):
            # As many empty lines in front as bring tracebacks to the right line of the document.
            code = compile("\n" * (block.line - 1) + block.text, str(document), "exec", dont_inherit=True)
            exec(code, namespace)
    lines = printed.getvalue().splitlines()
    assert [line for line in lines if line in expected] == expected, lines


def test_python_blocks_are_formatted_and_clean() -> None:
    for document in DOCUMENTS:
        # One program, as it is run: names that no block has bound would be found too.
        source = "".join(block.text for block in blocks(document, "python"))
        ignored = "--ignore=INP001,T201,D,E402,I001,ASYNC,S101,S310,F811,TC"
        command = [sys.executable, "-m", "ruff", "check", "--quiet", ignored, "--stdin-filename=examples/doc.py", "-"]
        checked = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{name(document)}: {checked.stdout}{checked.stderr}"
        for block in blocks(document, "python"):
            command = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename=doc.py", "-"]
            formatted = subprocess.run(command, cwd=ROOT, input=block.text, capture_output=True, text=True, check=True)
            assert formatted.stdout == block.text, f"{name(document)}:{block.line}"


# Commands


@pytest.mark.parametrize(("document", "command"), list(commands()))
def test_command(
    document: str, command: str, server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *arguments = shlex.split(command)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", server.api_token)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if program == "make":
        check_make(arguments)
    elif program == "pip":
        check_install(arguments)
    elif (program, arguments[:1]) == ("neptune-api", ["serve"]):
        check_serve(arguments, tmp_path)
    elif program == "neptune-api":
        if arguments[0] == "doctor":
            with LocalServer(tmp_path / arguments[1]):
                pass
        call = [sys.executable, "-m", "neptune_api", *arguments]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert done.stdout.strip()
        assert str(server.api_token) not in done.stdout
    elif program == "pytest":
        call = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout
    else:
        assert program == "python", f"{document} has a command that nothing here knows how to check"
        assert (ROOT / arguments[0]).is_file()


def check_make(arguments: list[str]) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    dry = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr


def check_install(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    for argument in arguments[1:]:
        match = re.fullmatch(r"\.(?:\[(\w+)\])?", argument)
        assert match, f"{argument} would come from a package index, which has another package of this name"
        assert match[1] is None or match[1] in extras()


def check_serve(arguments: list[str], folder: Path) -> None:
    if "0.0.0.0" in arguments:
        # Nothing in a test listens beyond this machine: see that the options exist.
        shown = subprocess.run(
            [sys.executable, "-m", "neptune_api", "serve", "--help"], capture_output=True, text=True, check=True
        )
        assert {word for word in arguments if word.startswith("--")} <= set(re.findall(r"--[\w-]+", shown.stdout))
        return
    ready = folder / "ready.json"
    if "--ready-file" not in arguments:
        arguments += ["--ready-file", str(ready)]
    process = subprocess.Popen(
        [sys.executable, "-m", "neptune_api", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(ready, process)
        assert sorted(json.loads(ready.read_text())) == [
            "api_token",
            "grpc_target",
            "http_url",
            "username",
            "workspace",
        ]
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert "export NEPTUNE_API_TOKEN=" in stdout
    assert not ready.exists()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    tick = threading.Event()
    for _ in range(1000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        tick.wait(0.02)
    pytest.fail(f"{path} did not appear")


# Links and names


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_resolve(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{name(document)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(document)} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_paths_in_the_text_exist(document: Path) -> None:
    roots = ("neptune_api/", "proto/", "tests/", "docs/", "examples/", "tools/", "server/", "store/")
    for path in re.findall(r"`([\w./]+)`", prose(document)):
        if path.startswith(roots):
            places = (ROOT, ROOT / "neptune_api", ROOT / "neptune_api/server")
            assert any((place / path).exists() for place in places), f"{name(document)} names {path}"


def test_every_document_is_reached_from_the_readme() -> None:
    linked = {(ROOT / link).resolve() for link in LINK.findall(prose(ROOT / "README.md")) if "://" not in link}
    assert set(DOCUMENTS) - {ROOT / "README.md"} <= linked


# Tables


def rows(document: str, heading: str) -> dict[str, tuple[str, ...]]:
    """Return the rows of the table under a heading by their first cell."""
    section = (ROOT / document).read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines]
    return {first: tuple(rest) for first, *rest in cells}


def extras() -> dict[str, set[str]]:
    """Return the packages of each extra of pyproject.toml, without versions."""
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    found = {}
    for extra, content in re.findall(r"^(\w+) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL):
        found[extra] = set(re.findall(r'^ +"([\w-]+)', content, re.MULTILINE))
    return found


def core() -> list[tuple[str, str]]:
    """Return the packages that every installation needs, with their floors."""
    text = (ROOT / "pyproject.toml").read_text()
    content = text.partition("\ndependencies = [\n")[2].partition("\n]")[0]
    return re.findall(r'"([\w-]+)>=([\d.]+)"', content)


def test_the_table_of_extras_is_that_of_the_package() -> None:
    table = rows("README.md", "## Install")
    assert set(table) == set(extras())
    for extra in ("server", "examples"):
        assert set(table[extra][0].split(", ")) == extras()[extra]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"The core needs three packages: {', '.join(' '.join(pair) for pair in core())}, or any later" in readme


def test_every_dependency_is_explained() -> None:
    explained = set(rows("docs/dependencies.md", "## Core"))
    assert explained == {package for package, _ in core()}
    assert set(rows("docs/dependencies.md", "## Extra `server`")) == extras()["server"]
    assert set(rows("docs/dependencies.md", "## Extra `examples`")) == extras()["examples"]
    development = {package for cell in rows("docs/dependencies.md", "## Development") for package in cell.split(", ")}
    assert development == extras()["dev"] - {"neptune-api"}


def test_the_table_of_limits_is_that_of_the_server() -> None:
    mebibyte = 1024 * 1024
    assert rows("README.md", "## Limits") == {
        "request message": (f"{limits.MAX_REQUEST_BYTES // mebibyte} MiB",),
        "operation on a run": (f"{limits.MAX_OPERATION_BYTES // mebibyte} MiB",),
        "attribute path": (f"{limits.MAX_ATTRIBUTE_PATH_BYTES:,} bytes",),
        "string, single or in a series": (f"{limits.MAX_STRING_BYTES // mebibyte} MiB",),
        "histogram": (f"{limits.MAX_HISTOGRAM_EDGES - 1} bins",),
        "step": ("from 0, less than 10¹², in millionths",),
        "points of one float series in one answer": (f"{limits.MAX_POINTS_PER_SERIES:,}",),
        "outcome of a submitted request": (f"kept for {limits.REQUEST_STATUS_RETENTION_SECONDS // 86400} days",),
    }
    assert (limits.MAX_WHOLE_STEP, limits.MICROS_PER_STEP) == (10**12, 10**6)


def test_the_states_of_rpcs_are_those_of_the_server() -> None:
    table = rows("docs/coverage.md", "# Coverage")
    stated = {rpc for rpc, (_, state) in table.items() if state.startswith("UNIMPLEMENTED: ")}
    assert all(state == "works" for rpc, (_, state) in table.items() if rpc not in stated)
    found, codes = set(), set()
    pool = descriptor_pool.Default()
    with LocalServer() as server, server.channel() as channel:
        for rpc in table:
            service, _, method = rpc.partition(".")
            descriptor = pool.FindServiceByName(f"neptune_api.v1.{service}").methods_by_name[method]
            kind = f"{_side(descriptor.client_streaming)}_{_side(descriptor.server_streaming)}"
            call = getattr(channel, kind)(f"/neptune_api.v1.{service}/{method}")
            # The empty request is fine for some and refused by others, but only what is missing is UNIMPLEMENTED.
            try:
                answer = call(iter([b""]) if descriptor.client_streaming else b"")
                if descriptor.server_streaming:
                    list(answer)
            except UnimplementedException:
                found.add(rpc)
            except NeptuneApiError as error:
                codes.add(error.code())
    assert found == stated
    assert grpc.StatusCode.INTERNAL not in codes


def _side(is_stream: bool) -> str:
    return "stream" if is_stream else "unary"


def test_the_changelog_begins_with_this_version() -> None:
    (newest, *_) = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == ("Unreleased" if ".dev" in __version__ else __version__)
