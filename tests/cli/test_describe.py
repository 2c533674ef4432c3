"""`neptune-api describe`: everything on the surface can be looked up, and mistyped names find their way."""

from __future__ import annotations

from typing import Any

import pytest

from neptune_api.cli.surface import Surface


def test_everything_is_listed(process: Any) -> None:
    result = process("describe")
    assert result.code == 0
    for name, service in Surface().services.items():
        assert f"\n{name}  " in f"\n{result.out}"
        for method in service.methods:
            assert f"    {method.name}" in result.out
    assert all(line == line.rstrip() for line in result.out.splitlines())
    line = next(line for line in result.out.splitlines() if line.startswith("    GetProject "))
    assert line.split(maxsplit=3)[1:] == ["GET", "/api/backend/v1/projects/get", "[reads only]"]


def test_everything_can_be_described(cli: Any) -> None:
    surface = Surface()
    names = [*surface.services, *surface.types]
    names += [f"{name}.{method.name}" for name, service in surface.services.items() for method in service.methods]
    assert len(names) > 100
    for name in names:
        for spelled in (name, f"neptune_api.v1.{name}"):
            result = cli("describe", spelled)
            assert result.code == 0
            assert f"neptune_api.v1.{name}" in result.out.partition("\n")[0]


def test_service(cli: Any) -> None:
    out = cli("describe", "IngestService").out
    assert "service neptune_api.v1.IngestService" in out
    assert "SubmitAcknowledged(stream RunOperation) returns (stream SubmitResponse)" in out
    assert "streams both ways" in out


def test_method(cli: Any) -> None:
    out = cli("describe", "auth.exchange_api_token").out
    assert "rpc neptune_api.v1.AuthService.ExchangeApiToken(ExchangeApiTokenRequest) returns (OauthToken)" in out
    assert "no token needed" in out
    assert "UNAUTHENTICATED when the token cannot be decoded" in out
    assert "message neptune_api.v1.OauthToken" in out


def test_message(cli: Any) -> None:
    lines = [line.split() for line in cli("describe", "RunOperation").out.splitlines()]
    assert lines[0] == ["message", "neptune_api.v1.RunOperation"]
    assert ["1", "project", "string"] in lines
    assert ["3", "create_missing_project", "optional", "bool"] in lines
    assert ["6", "create", "CreateRun", "one", "of", "operation"] in lines
    assert "map<string, Value>" in cli("describe", "UpdateRunSnapshot").out
    assert "repeated string" in cli("describe", "SubmitResponse").out
    assert "no fields" in cli("describe", "AuthorizeRequest").out


def test_enum(cli: Any) -> None:
    out = cli("describe", "ProjectVisibility").out
    assert out.startswith("enum neptune_api.v1.ProjectVisibility\n")
    assert any(line.split()[-1] == "priv" for line in out.splitlines())


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("ProjectServices", "ProjectsService"),
        ("RunOperatoin", "RunOperation"),
        ("IngestService.Submitt", "IngestService.Submit"),
        ("zzzzzz", "neptune-api describe"),
        ("", "neptune-api describe"),
    ],
)
def test_unknown_names(cli: Any, name: str, suggestion: str) -> None:
    result = cli("describe", name)
    assert result.code == 2
    assert result.out == ""
    assert suggestion in result.err
