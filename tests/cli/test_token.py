"""`neptune-api token`: a token is looked into, checked and hidden, never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import __version__
from neptune_api.credentials import ApiToken

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.server import LocalServer

KEY = "0123456789abcdef" * 4
TOKEN = ApiToken.mint(api_url="https://example.com", grpc_url="grpcs://example.com:443", api_key=KEY).encode()


def ways(cli: Any, *action: str) -> list[Any]:
    """The results of giving the token in every way there is."""
    return [
        cli("token", *action, TOKEN),
        cli("token", *action, "-", stdin=f" {TOKEN}\n"),
        cli("token", *action, stdin=f"{TOKEN}\n"),
        cli("token", *action, token=f"'{TOKEN}'"),
    ]


@pytest.mark.parametrize("action", [("show",), ()])
def test_show(cli: Any, action: tuple[str, ...]) -> None:
    for result in ways(cli, *action):
        assert result.no_token().code == 0
        assert KEY not in result.out
        assert [line.split(maxsplit=1) for line in result.out.splitlines()] == [
            ["api_url", "https://example.com"],
            ["api_address", "https://example.com"],
            ["grpc_url", "grpcs://example.com:443"],
            ["api_key", "<redacted>, 64 characters"],
        ]


def test_show_token_from_file(process: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    assert "https://example.com" in process("token", "show", "@token").no_token().out


def test_check(cli: Any) -> None:
    for result in ways(cli, "check"):
        assert (result.code, result.out) == (0, "The token can be decoded.\n")


@pytest.mark.parametrize("text", ["nonsense!", "e30=", TOKEN[:-8], "eyJhcGlfa2V5IjogIiJ9", "x" * 5000])
def test_undecodable(cli: Any, text: str) -> None:
    for action in ("show", "check"):
        result = cli("token", action, text)
        assert result.code == 1
        assert result.out == ""
        assert "is not valid" in result.err
        assert text not in result.err


def test_check_with_the_server(cli: Any, process: Any, local: LocalServer) -> None:
    accepted = process("token", "check", "--server", token=local.api_token).no_token()
    assert accepted.code == 0
    assert accepted.out == f"{local.grpc_url} accepts the token: it belongs to owner.\n"

    forged = ApiToken.mint(api_url=local.http_url, grpc_url=local.grpc_url).encode()
    refused = cli("token", "check", forged, "--server").no_token()
    assert refused.code == 1
    assert "does not accept the token. UNAUTHENTICATED" in refused.err


def test_check_with_a_server_that_cannot_be_asked(cli: Any) -> None:
    http_only = ApiToken.mint(api_url="https://example.com").encode()
    assert "names no gRPC address" in cli("token", "check", http_only, "--server").err
    away = ApiToken.mint(api_url="http://127.0.0.1:1", grpc_url="grpc://127.0.0.1:1").encode()
    result = cli("token", "check", away, "--server", "--timeout", "5").no_token()
    assert result.code == 1
    assert "UNAVAILABLE" in result.err
    odd = ApiToken.mint(api_url="http://127.0.0.1:1", grpc_url="ftp://127.0.0.1").encode()
    assert cli("token", "check", odd, "--server").code == 2


def test_redact(process: Any) -> None:
    text = f"token={TOKEN} and Authorization: Bearer abc.def.ghi\nnothing here\n"
    result = process("token", "redact", stdin=text)
    assert result.code == 0
    assert result.out == "token=<redacted> and Authorization: Bearer <redacted>\nnothing here\n"


def test_no_token_at_all(cli: Any) -> None:
    result = cli("token")
    assert result.code == 2
    assert "NEPTUNE_API_TOKEN" in result.err


def test_unknown_action(cli: Any) -> None:
    result = cli("token", "print", TOKEN).no_token()
    assert result.code == 2
    assert "show, check, redact" in result.err


def test_version_and_help(cli: Any, process: Any) -> None:
    assert process("--version").out == f"neptune-api {__version__}\n"
    for arguments in (("--help",), *((name, "--help") for name in ("serve", "call", "describe", "token"))):
        result = cli(*arguments)
        assert result.code == 0
        assert "usage: neptune-api" in result.out
    assert cli().code == 2
    assert cli("nothing").code == 2
