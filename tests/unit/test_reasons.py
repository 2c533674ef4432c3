"""The table of reasons has those that the server gives, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from neptune_api.conformance.behaviours.test_reasons import CASES
from neptune_api.server.reasons import REASONS

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "neptune_api/server"
# What no call alone brings about, by the test file that does.
ELSEWHERE = {
    "AUTHORIZATION_TOKEN_EXPIRED": "tests/contract/test_auth.py",
    "DATABASE_UNAVAILABLE": "tests/unit/test_faults.py",
    "DATA_DAMAGED": "tests/contract/test_damage.py",
    "DISK_FULL": "tests/unit/test_faults.py",
    "INCIDENT": "tests/unit/test_handlers.py",
    "INTERNAL_SERVER_ERROR": "tests/files/test_door.py",
    "JWT_VALIDATION_ERROR": "tests/contract/test_auth.py",
    "MALFORMED_JSON_REQUEST": "tests/http/test_door.py",
    "REQUEST_TIMEOUT": "tests/files/test_door.py",
    "SERVICE_UNAVAILABLE": "tests/files/test_door.py",
    "TOO_MANY_STREAMS": "tests/contract/test_doors.py",
    "UNAUTHORIZED": "tests/contract/test_auth.py",
}
# What makes an error, and what notes a violation with a reason of its own.
MAKERS = {
    "StatusError",
    "HttpError",
    "_Refusal",
    "already_exists",
    "denied",
    "failed_precondition",
    "invalid",
    "not_found",
    "add",
    "name",
    "required",
    "text",
}
NAME = re.compile(r"[A-Z]+(_[A-Z]+)*")
# Texts of this form that are something else: a status of HTTP's own protocol level, and what tests make up.
OTHERS = {"INVALID_ARGUMENT"}


def given(path: Path) -> set[str]:
    """Return the texts in the form of a reason that calls of MAKERS in a file have, and constants for them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in MAKERS:
                parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            parts = [] if node.value is None else [node.value]
        elif isinstance(node, ast.FunctionDef):
            parts = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
        for part in parts:
            # A reason may be chosen: one if this, else another.
            for each in (part.body, part.orelse) if isinstance(part, ast.IfExp) else (part,):
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and NAME.fullmatch(each.value):
                    found.add(each.value)
    return found


def test_the_table_has_every_reason_that_the_server_gives() -> None:
    files = [
        path
        for path in SERVER.rglob("*.py")
        if "testing" not in path.parts and path.name not in {"reasons.py", "dialect.py", "schema.py"}
    ]
    found = set().union(*map(given, files)) - OTHERS
    unexplained = {reason for reason in found if "_" in reason or reason in {"CONFLICT", "INCIDENT", "UNAUTHORIZED"}}
    assert unexplained - set(REASONS) == set()
    assert set(REASONS) - found == set()


def test_every_reason_is_brought_about_by_a_test() -> None:
    assert CASES.keys() | ELSEWHERE.keys() == REASONS.keys()
    assert not CASES.keys() & ELSEWHERE.keys()
    for name, (code, _) in CASES.items():
        assert code in REASONS[name].codes
    for name, file in ELSEWHERE.items():
        assert name in (ROOT / file).read_text(), f"{file} does not meet {name}"


def test_every_reason_says_what_happened_and_what_to_do() -> None:
    for name, reason in REASONS.items():
        assert NAME.fullmatch(name)
        assert reason.meaning.endswith(".")
        assert reason.advice.endswith((".", "`"))
