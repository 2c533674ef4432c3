"""The programs of docs/other-languages.md, built and run by the commands that stand there.

They are built in a copy under .tools/languages, once for each state of their sources, by one process only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.environments import ROOT, locked, run

DOCUMENT = ROOT / "docs/other-languages.md"
STATIC = "neptune_api/server/http/static"
BUILT = ROOT / ".tools/languages"
PATIENCE = 120
"""Seconds for a program, which itself gives up after 30, on a busy machine."""

_ARGUMENT = "workspace/project"  # what the document calls the project
_MADE = ("gen", "gopath", "logpoint", "classes", "node_modules", "dist")


class MissingError(Exception):
    """A compiler or library is not installed; the text says which, and what to do."""


@dataclass(frozen=True)
class Language:
    """A section of the document and the folder of examples that it is about."""

    folder: str
    heading: str
    needs: tuple[str, ...]
    """Commands, and files by their paths."""
    install: str
    """How the needs are installed."""

    @property
    def lines(self) -> list[str]:
        """The commands of the section."""
        return section(self.heading).splitlines()

    @property
    def calls(self) -> list[str]:
        """The commands that run a program."""
        return [line for line in self.lines if line.endswith(_ARGUMENT)]

    def script(self, call: str) -> str:
        """Return what runs a program, for the project in $PROJECT."""
        settings = [line for line in self.lines if line.startswith(("cd ", "export "))]
        return "\n".join(["set -eu", *settings, f'{call.removesuffix(_ARGUMENT)}"$PROJECT"'])

    def build(self) -> Path:
        """Return the copy in which the programs are built. Raises MissingError, and SetupError when a step fails."""
        missing = [need for need in self.needs if shutil.which(need) is None and not Path(need).is_file()]
        if missing:
            raise MissingError(f"{self.heading} needs {', '.join(missing)}: {self.install}")
        steps = "\n".join(["set -eu", *(line for line in self.lines if line not in self.calls)])
        sources = [f"examples/{self.folder}", STATIC]
        with locked(f"language-{self.folder}.lock"):
            copy = BUILT / self.folder / _digest(steps, sources)
            if not (copy / "built").is_file():
                shutil.rmtree(copy.parent, ignore_errors=True)
                for source in sources:
                    shutil.copytree(ROOT / source, copy / source, ignore=shutil.ignore_patterns(*_MADE))
                run(["env", *(f"{name}={value}" for name, value in _BUILDING.items()), "sh", "-c", steps], cwd=copy)
                (copy / "built").touch()
        return copy


@dataclass(frozen=True)
class Program:
    """A program of one of the languages."""

    name: str
    language: Language
    call: str
    """The line of the document that runs it."""

    def run(self, api_token: str, *projects: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the program as the user of a token; what it prints never has the token.

        Raises MissingError, and SetupError when it cannot be built.
        """
        copy = self.language.build()
        script = self.language.script(self.call)
        if not projects:
            script = script.removesuffix(' "$PROJECT"')
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=copy,
            env=_ENVIRONMENT | {"NEPTUNE_API_TOKEN": api_token, "PROJECT": "".join(projects)} | environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        if api_token:
            assert api_token not in done.stdout + done.stderr
        return done


def section(heading: str) -> str:
    """Return the commands under a heading of the document, or, for the empty text, all of them."""
    text = DOCUMENT.read_text()
    if heading:
        text = text.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


# buf is among the tools of this environment.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("NEPTUNE", "PYTHON"))}
_ENVIRONMENT["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
_BUILDING = {
    "PATH": _ENVIRONMENT["PATH"],
    "GOCACHE": str(BUILT / "go-cache"),
    "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",  # javac ends before the better compiler pays
}


def _digest(steps: str, sources: list[str]) -> str:
    """Return a digest of everything that a build depends on, the compilers excepted."""
    digest = hashlib.sha256(steps.encode())
    for source in sources:
        for path in sorted((ROOT / source).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.is_file() and not set(_MADE) & set(relative.parts):
                digest.update(f"\0{relative.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


_DEBIAN = "`make languages`, as root on Debian, installs it"
TYPESCRIPT = Language("typescript", "TypeScript", ("node", "npm"), "install Node.js with npm")
GO = Language(
    "go",
    "Go",
    ("go", "protoc-gen-go", "protoc-gen-go-grpc", "/usr/share/gocode/src/google.golang.org/grpc/clientconn.go"),
    _DEBIAN,
)
JAVA = Language(
    "java",
    "Java",
    ("javac", "protoc", "grpc_java_plugin", "/usr/share/java/grpc-netty.jar", "/usr/share/java/netty-codec-http2.jar"),
    _DEBIAN,
)

PROGRAMS = (
    Program("typescript", TYPESCRIPT, TYPESCRIPT.calls[0]),
    Program("typescript-http", TYPESCRIPT, TYPESCRIPT.calls[1]),
    Program("go", GO, GO.calls[0]),
    Program("java", JAVA, JAVA.calls[0]),
)
