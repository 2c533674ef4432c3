"""Consumers in other languages against a real server: what they do, what they send, and what they say when it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import code_pb2

from neptune_api import ApiToken
from neptune_api.models import (
    AttributesHolder,
    FloatSeriesQuery,
    FloatSeriesValuesQuery,
    GetFloatSeriesValuesRequest,
    RequestStatus,
    TimeSeries,
)
from neptune_api.server import LocalServer
from neptune_api.server.server import Server
from neptune_api.v1.ingest_pb2 import INGEST_CODE_OK, INGEST_CODE_SERIES_STEP_NON_INCREASING
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from tests.environments import ROOT
from tests.languages.programs import Language, MissingError
from tests.unit.certificates import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from neptune_api.server.handlers import Handler
    from neptune_api.server.testing import ScriptedServer
    from tests.languages.programs import Program

pytestmark = pytest.mark.slow

REFUSED = ApiToken.mint(api_url="http://127.0.0.1:9", grpc_url="grpc://127.0.0.1:9", api_key="0" * 64)
STEPS = [
    "AuthService.ExchangeApiToken",
    "RunsService.CreateRun",
    "IngestService.Submit",
    "IngestService.GetRequestStatus",
    "SeriesService.GetFloatSeriesValues",
]


def points(channel: grpc.Channel, run: str) -> list[tuple[float, float]]:
    """Return steps and values of the series, as the Python client reads them."""
    series = TimeSeries(attribute="train/loss", holder=AttributesHolder(identifier=run, type="experiment"))
    query = FloatSeriesValuesQuery(
        per_series_points_limit=10, requests=[FloatSeriesQuery(request_id="points", series=series)]
    )
    answer = SeriesServiceStub(channel).GetFloatSeriesValues(GetFloatSeriesValuesRequest(request=query))
    return [(point.step, point.value) for point in answer.series[0].series.values]


def printed(stdout: str) -> tuple[str, list[tuple[float, float]]]:
    """Return the run and the points that a program printed."""
    run, *lines = stdout.splitlines()
    found = [re.fullmatch(r"point  train/loss: step (\S+), value (\S+)", line) for line in lines]
    return run.removeprefix("run    "), [(float(match[1]), float(match[2])) for match in found if match]


def test_logs_a_point_and_reads_it_back(
    program: Program, neptune_server: ScriptedServer, neptune_project: str, neptune_channel: grpc.Channel
) -> None:
    neptune_server.recorder.clear()
    done = program.run(neptune_server.api_token, neptune_project)
    assert (done.returncode, done.stderr) == (0, ""), done
    run, found = printed(done.stdout)
    assert run.startswith(f"{neptune_project}/")
    assert found == [(1.0, 0.25)]

    calls = list(neptune_server.recorder)
    assert list(dict.fromkeys(call.method for call in calls)) == STEPS
    assert {call.door for call in calls} == {"http" if program.name == "typescript-http" else "grpc"}
    for call in calls:
        assert ("authorization" in dict(call.metadata)) is (call.method != STEPS[0])
    assert points(neptune_channel, run) == found


def test_a_token_of_another_server(program: Program, neptune_server: ScriptedServer, neptune_project: str) -> None:
    token = ApiToken.parse(neptune_server.api_token)
    stranger = ApiToken.mint(api_url=token.api_url, grpc_url=token.grpc_url)
    done = program.run(stranger.encode(), neptune_project)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("UNAUTHENTICATED: The API token is not known here")
    assert done.stderr.endswith("\n  reason UNAUTHORIZED\n")


def test_a_text_that_is_no_token(program: Program) -> None:
    done = program.run("correct-horse-battery", "local/demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "NEPTUNE_API_TOKEN is not an API token: it is no JSON object in base64\n"


def test_a_project_that_does_not_exist(program: Program, neptune_server: ScriptedServer) -> None:
    done = program.run(neptune_server.api_token, "local/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("NOT_FOUND: Project local/nowhere not found")
    assert done.stderr.endswith("\n  reason PROJECT_NOT_FOUND\n")


def test_details_of_an_error(program: Program, neptune_server: ScriptedServer, neptune_project: str) -> None:
    neptune_server.faults.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        "Not like this.",
        method="CreateRun",
        reason="NOT_LIKE_THIS",
        violations=[("run_id", "is not pretty")],
        retry_after=0.25,
        times=None,  # told when to come back, gRPC in Java does, whatever the status code
    )
    done = program.run(neptune_server.api_token, neptune_project)
    assert (done.returncode, done.stdout) == (1, "")
    first, *details = done.stderr.splitlines()
    assert first == "INVALID_ARGUMENT: Not like this."
    assert {"  reason NOT_LIKE_THIS", "  field run_id: is not pretty"} < set(details)
    (seconds,) = re.findall(r"^  try again in ([\d.]+) ?s$", done.stderr, re.MULTILINE)
    assert (float(seconds), len(details)) == (0.25, 3)


def test_a_change_that_is_refused(program: Program, neptune_server: ScriptedServer, neptune_project: str) -> None:
    pending, refused = (
        RequestStatus(code_by_count=[RequestStatus.CodeByCount(code=code, count=1, detail=detail)])
        for code, detail in (
            (code_pb2.UNAVAILABLE, INGEST_CODE_OK),
            (code_pb2.INVALID_ARGUMENT, INGEST_CODE_SERIES_STEP_NON_INCREASING),
        )
    )
    neptune_server.replies.add("GetRequestStatus", pending)
    neptune_server.replies.add("GetRequestStatus", refused)
    done = program.run(neptune_server.api_token, neptune_project)
    assert done.returncode == 1
    assert done.stdout.startswith(f"run    {neptune_project}/")
    assert re.fullmatch(r"the point was refused: (INGEST_CODE_)?SERIES_STEP_NON_INCREASING\n", done.stderr)


def test_an_answer_that_gets_lost_is_asked_for_again(
    program: Program, neptune_server: ScriptedServer, neptune_project: str, neptune_channel: grpc.Channel
) -> None:
    if program.name == "typescript-http":
        pytest.skip("makes each call once")
    neptune_server.recorder.clear()
    neptune_server.faults.drop(applied=True, method="Submit")
    done = program.run(neptune_server.api_token, neptune_project)
    assert (done.returncode, done.stderr) == (0, ""), done
    first, second = neptune_server.recorder.calls("Submit")
    key = dict(first.metadata)["x-idempotency-key"]
    assert key
    assert key == dict(second.metadata)["x-idempotency-key"]
    assert first.request == second.request
    run, found = printed(done.stdout)
    assert points(neptune_channel, run) == found == [(1.0, 0.25)]


class Deadlines:
    """Notes how long the callers of a server are going to wait."""

    def __init__(self) -> None:
        self.seconds: list[float | None] = []

    def adapt(self, handler: Handler) -> Handler:
        answering = handler.answering()

        def note(request: Any, context: Any) -> Any:
            self.seconds.append(context.time_remaining())
            return answering.behaviour(request, context)

        return replace(handler, answering=lambda: replace(answering, behaviour=note))


def test_every_call_has_a_deadline(program: Program) -> None:
    deadlines = Deadlines()
    with LocalServer(adapt=deadlines.adapt) as server:
        assert program.run(server.api_token, "local/nowhere").returncode == 1
    assert len(deadlines.seconds) == 2
    for seconds in deadlines.seconds:
        assert seconds is not None
        assert 0 < seconds <= 30


def test_nobody_there(program: Program) -> None:
    with LocalServer() as server:
        token = server.api_token
    done = program.run(token, "local/demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "fetch failed" in done.stderr if program.name == "typescript-http" else "UNAVAILABLE: " in done.stderr


def test_usage(program: Program) -> None:
    done = program.run("", "local/demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: NEPTUNE_API_TOKEN=... ")
    assert program.run(REFUSED.encode()).returncode == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make certificates")
def test_tls(program: Program, tmp_path: Path) -> None:
    if program.name == "java":
        pytest.skip("Debian's Netty is built without ALPN, which gRPC over TLS needs")
    files = self_signed(tmp_path, "server")
    certificate = str(files.certificate)
    with Server(tmp_path / "data", workspace="local", username="owner", tls=files) as server:
        refused = program.run(server.api_token, "local/demo")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "certificate" in refused.stderr.lower(), refused
        trusting = {
            "go": {"SSL_CERT_FILE": certificate},
            "typescript": {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": certificate},
            "typescript-http": {"NODE_EXTRA_CA_CERTS": certificate},
        }[program.name]
        done = program.run(server.api_token, "local/nowhere", **trusting)
    assert done.returncode == 1
    assert "NOT_FOUND: Project local/nowhere not found" in done.stderr


def test_what_is_missing_is_named() -> None:
    language = Language("go", "Go", ("sh", "no-such-compiler", "/no/such/library"), "ask your package manager")
    with pytest.raises(MissingError, match=r"^Go needs no-such-compiler, /no/such/library: ask your package manager$"):
        language.build()


@pytest.mark.skipif(shutil.which("gofmt") is None, reason="there is no gofmt")
def test_go_is_formatted() -> None:
    found = subprocess.run(["gofmt", "-l", ROOT / "examples/go"], check=True, capture_output=True, text=True)
    assert found.stdout == ""
