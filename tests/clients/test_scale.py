"""neptune-scale 0.30.0 writes runs; every value is read back and compared."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.conformance.connections import GrpcConnection
from neptune_api.conformance.lab import Lab
from neptune_api.server import LocalServer
from neptune_api.v1.ingest_pb2 import FileRef
from neptune_api.v1.storage_service_pb2 import FILE_PERMISSION_READ, CreateSignedUrlsRequest, FileToSign
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub
from tests.clients.conftest import CLOSE, PATIENCE, Scale, create_project
from tests.files.raw_http import ask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neptune_api.conformance.lab import Point
    from tests.clients.conftest import Step

START = datetime(2024, 5, 6, 7, 8, 9, 123_000, tzinfo=timezone.utc)
START_MS = int(START.timestamp() * 1000)


def plain(points: Iterable[Point]) -> list[tuple[float, Any]]:
    """Return points without their times."""
    return [(point.step, point.value) for point in points]


def wait_for(path: Path) -> None:
    """Wait until a process of the client has made a file."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def below(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return what lies below a path, without it."""
    return {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix)}


def url_of(lab: Lab, path: str) -> str:
    """Return the URL by which a file is read."""
    file = FileToSign(path=path, project_identifier=lab.project, permission=FILE_PERMISSION_READ)
    signed = lab.connection.stub(StorageServiceStub).CreateSignedUrls(CreateSignedUrlsRequest(files=[file]))
    url: str = signed.files[0].url
    return url


def contents(lab: Lab, path: str) -> bytes:
    """Download a file as clients do: by a URL and nothing else."""
    answer = ask("GET", url_of(lab, path))
    assert answer.status == 200
    return answer.body


# Values: one process logs them all, because starting and ending one takes seconds


METRICS = dict(
    zip([0, 1, 2.5, 3.000001, 10, 123_456_789_012], [1.0, -2.5, 1e300, 5e-324, 0.1 + 0.2, 2.0**53], strict=True)
)
MANY_PATHS = [f"layer/{number:03}/norm" for number in range(200)]
CONFIGS: dict[str, Any] = {
    "int": 2**63 - 1,
    "negative": -(2**63),
    "float": 0.1,
    "inf": math.inf,
    "true": True,
    "false": False,
    "string": "ünïcode\n\t'quoted'",
    "empty": "",
    "long": "x" * 100_000,
    "datetime": START,
    "set": {"a", "b"},
    "list": ["x", "y", "x"],
}
TEXTS = ["first", "", "ünïcode\nof two lines", "x" * 200_000]
EDGES = [-math.inf, -1.5, 0.0, 2.0, math.inf]
LARGE = bytes(range(256)) * 50_000
ODD_PLACE = "weights/ünï code?&%2F+#.bin/" + "n" * 700
IMAGES = {step: f"image {step}".encode() * 1000 for step in (1, 2, 3.5)}

EVERYTHING: list[Step] = [
    *(
        (
            "log_metrics",
            {
                "data": {"train/loss": value, "train/ints": index, "ünïcode / path": -value},
                "step": step,
                "timestamp": START + timedelta(milliseconds=index),
            },
        )
        for index, (step, value) in enumerate(METRICS.items())
    ),
    *(
        ("log_metrics", {"data": {path: step + index / 1000 for index, path in enumerate(MANY_PATHS)}, "step": step})
        for step in range(50)
    ),
    ("log_metrics", {"data": {"previewed": 1.0}, "step": 1}),
    ("log_metrics", {"data": {"previewed": 2.0}, "step": 2, "preview": True, "preview_completion": 0.25}),
    ("log_metrics", {"data": {"previewed": 3.0}, "step": 3, "preview": True, "preview_completion": 0.5}),
    ("log_metrics", {"data": {"previewed": 2.5}, "step": 2}),
    ("log_configs", {"data": {f"config/{name}": value for name, value in CONFIGS.items()}}),
    ("log_configs", {"data": {"config": {"layers": {"count": 3}, "name": "m"}}, "flatten": True}),
    ("log_configs", {"data": {"config/odd": None, "config/nested": {"a": 1}}, "cast_unsupported": True}),
    ("log_configs", {"data": {"config/int": 5}}),
    ("add_tags", {"tags": ["a", "b", "c"]}),
    ("add_tags", {"tags": {"g", "h"}, "group_tags": True}),
    ("remove_tags", {"tags": ["b", "never there"]}),
    ("remove_tags", {"tags": ("h",), "group_tags": True}),
    ("add_tags", {"tags": ["d"]}),
    *(
        ("log_string_series", {"data": {"log": text}, "step": step / 2, "timestamp": START})
        for step, text in enumerate(TEXTS)
    ),
    (
        "log_histograms",
        {
            "histograms": {"counted": ("Histogram", {"bin_edges": EDGES, "counts": [0, 2**40, 3, 4]})},
            "step": 1,
            "timestamp": START,
        },
    ),
    (
        "log_histograms",
        {"histograms": {"dense": ("Histogram", {"bin_edges": [0, 1, 2], "densities": [0.25, 0.75]})}, "step": 2},
    ),
    (
        "assign_files",
        {
            "files": {
                "files/bytes": b"hello",
                "files/path": Path("report.html"),
                "files/name": "report.html",
                "files/empty": ("File", {"source": b"", "mime_type": "text/plain"}),
                "files/large": ("File", {"source": LARGE, "mime_type": "application/x-large", "size": 67}),
                "files/odd": ("File", {"source": b"odd", "destination": ODD_PLACE}),
                "replaced": ("File", {"source": b"first version", "destination": "same"}),
            }
        },
    ),
    *(
        (
            "log_files",
            {
                "files": {"images": ("File", {"source": image, "mime_type": "image/png"})},
                "step": step,
                "timestamp": START,
            },
        )
        for step, image in IMAGES.items()
    ),
    CLOSE[0],  # uploads overtake each other
    ("assign_files", {"files": {"replaced": ("File", {"source": b"second", "destination": "same"})}}),
]


@pytest.fixture(scope="module")
def logged(server: LocalServer, connection: GrpcConnection, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A project with a run that has everything."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "report.html").write_text("<p>report</p>")
    project = create_project(server, connection)
    Scale(server, project, folder).log("run", *EVERYTHING)
    return Lab(connection, project)


def test_metrics(logged: Lab) -> None:
    expected = [(step, START_MS + index, value) for index, (step, value) in enumerate(METRICS.items())]
    assert logged.floats("run", "train/loss") == expected
    assert logged.floats("run", "ünïcode / path") == [(step, ms, -value) for step, ms, value in expected]
    assert [point.value for point in logged.floats("run", "train/ints")] == [0, 1, 2, 3, 4, 5]
    assert logged.types("run")["train/ints"] == "floatSeries"


def test_many_metrics(logged: Lab) -> None:
    for index, path in enumerate(MANY_PATHS):
        assert plain(logged.floats("run", path)) == [(step, step + index / 1000) for step in range(50)]


def test_previews(logged: Lab) -> None:
    assert plain(logged.floats("run", "previewed")) == [(1.0, 1.0), (2.0, 2.5)]
    previews = logged.previews("run", "previewed")
    assert [(point.step, point.value, point.ratio) for point in previews] == [(3.0, 3.0, 0.5)]


def test_configs(logged: Lab) -> None:
    values = below(logged.user_values("run"), "config/")
    assert (values.pop("odd"), values.pop("nested")) == ("", str({"a": 1}))
    assert (values.pop("layers/count"), values.pop("name")) == (3, "m")
    assert values == {**CONFIGS, "int": 5, "datetime": START_MS, "list": {"x", "y"}}
    types = below(logged.types("run"), "config/")
    assert (types["int"], types["true"], types["set"]) == ("int", "bool", "stringSet")


def test_tags(logged: Lab) -> None:
    values = logged.values("run")
    assert values["sys/tags"] == {"a", "c", "d"}
    assert values["sys/group_tags"] == {"g"}


def test_string_series(logged: Lab) -> None:
    assert logged.points("run", "log") == [(step / 2, START_MS, text) for step, text in enumerate(TEXTS)]


def test_histograms(logged: Lab) -> None:
    ((step, ms, counted),) = logged.points("run", "counted")
    assert (step, ms) == (1.0, START_MS)
    assert (counted.type, list(counted.edges), list(counted.values)) == ("COUNTING", EDGES, [0, 2**40, 3, 4])
    ((step, _, dense),) = logged.points("run", "dense")
    assert (step, dense.type, list(dense.edges), list(dense.values)) == (2.0, "DENSITY", [0, 1, 2], [0.25, 0.75])


# Files


def test_assigned_files(logged: Lab) -> None:
    files = below(logged.user_values("run"), "files/")
    assert {name: contents(logged, file.path) for name, file in files.items()} == {
        "bytes": b"hello",
        "path": b"<p>report</p>",
        "name": b"<p>report</p>",
        "empty": b"",
        "large": LARGE,
        "odd": b"odd",
    }
    assert files["large"] == FileRef(path=files["large"].path, size_bytes=67, mime_type="application/x-large")
    assert files["path"].mime_type == "text/html"
    assert files["odd"].path == ODD_PLACE


def test_files_of_a_series(logged: Lab) -> None:
    points = logged.points("run", "images")
    assert [(point.step, point.ms) for point in points] == [(step, START_MS) for step in IMAGES]
    assert [contents(logged, point.value.path) for point in points] == list(IMAGES.values())
    assert [(point.value.size_bytes, point.value.mime_type) for point in points] == [
        (len(image), "image/png") for image in IMAGES.values()
    ]


def test_a_file_is_replaced_by_the_next_upload_to_its_place(logged: Lab) -> None:
    assert contents(logged, "same") == b"second"
    assert logged.user_values("run")["replaced"].size_bytes == 6


def test_files_in_an_object_store(s3_url: str, s3_endpoint: str, tmp_path: Path) -> None:
    """The store signs, and the client sends it the contents directly."""
    with LocalServer(tmp_path / "data", files=s3_url) as server:
        connection = GrpcConnection(server.channel(), http=False)
        project = f"{server.workspace}/p"
        scale = Scale(server, project, tmp_path)
        scale.do(
            ("create_project", {"name": project}),
            ("open", {"run_id": "run"}),
            ("assign_files", {"files": {"a": b"first", "large": ("File", {"source": b"x" * 10_000_000})}}),
            ("log_files", {"files": {"series": b"second"}, "step": 1}),
            *CLOSE,
        )
        lab = Lab(connection, project)
        files = lab.user_values("run")
        assert url_of(lab, files["a"].path).startswith(f"{s3_endpoint}/")
        assert contents(lab, files["a"].path) == b"first"
        assert contents(lab, files["large"].path) == b"x" * 10_000_000
        ((_, _, point),) = lab.points("run", "series")
        assert contents(lab, point.path) == b"second"
        connection.close()


# Runs


@pytest.mark.parametrize("inherit", [True, False])
def test_forks(scale: Scale, lab: Lab, inherit: bool) -> None:
    scale.log(
        "parent",
        ("log_configs", {"data": {"lr": 0.1, "name": "p"}}),
        *(("log_metrics", {"data": {"m": float(step)}, "step": step}) for step in range(5)),
        experiment_name="experiment",
    )
    scale.log(
        "child",
        ("log_configs", {"data": {"lr": 0.2}}),
        *(("log_metrics", {"data": {"m": step + 0.5}, "step": step}) for step in (3, 4)),
        fork_run_id="parent",
        fork_step=2,
        inherit_configs=inherit,
    )
    assert plain(lab.floats("child", "m")) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.5), (4, 4.5)]
    assert plain(lab.floats("parent", "m")) == [(step, float(step)) for step in range(5)]
    assert lab.user_values("child") == ({"lr": 0.2, "name": "p"} if inherit else {"lr": 0.2})
    values = lab.values("child")
    assert values["sys/forking/parent"] == lab.values("parent")["sys/id"]
    assert (values["sys/forking/step"], values["sys/forking/depth"]) == (2.0, 1)
    assert lab.values("parent")["sys/name"] == "experiment"


def test_resuming_a_run(scale: Scale, lab: Lab) -> None:
    outcomes = [
        scale.try_to(
            ("open", {"run_id": "run"}),
            *(("log_metrics", {"data": {"m": float(step)}, "step": step}) for step in (first, first + 1)),
            ("log_configs", {"data": {f"from/{first}": first}}),
            *CLOSE,
        )
        for first in (1, 3)
    ]
    # The client takes it for what it is.
    assert [[kind for kind, _ in outcome.reports] for outcome in outcomes] == [[], ["warning"]]
    assert "NeptuneRunDuplicate" in outcomes[1].reports[0][1]
    assert plain(lab.floats("run", "m")) == [(step, float(step)) for step in (1, 2, 3, 4)]
    assert lab.user_values("run") == {"from/1": 1, "from/3": 3}


def test_an_experiment_moves_to_its_newest_run(scale: Scale, lab: Lab) -> None:
    for run in ("first", "second"):
        scale.log(run, experiment_name="experiment", creation_time=START)
    assert lab.values("second")["sys/experiment/is_head"]
    assert not lab.values("first")["sys/experiment/is_head"]
    assert lab.values("second")["sys/name"] == "experiment"
    assert lab.values("second")["sys/creation_time"] == START_MS


def test_two_processes_on_one_run(scale: Scale, lab: Lab, tmp_path: Path) -> None:
    """Both hold the run open at the same time before either logs."""
    here, there = str(tmp_path / "one"), str(tmp_path / "other")
    processes = [
        scale.start(
            ("open", {"run_id": "run"}),
            ("meet", {"here": mine, "there": theirs}),
            *(("log_metrics", {"data": {f"rank/{rank}": float(step)}, "step": step}) for step in range(100)),
            ("add_tags", {"tags": [f"rank {rank}"]}),
            *CLOSE,
        )
        for rank, (mine, theirs) in enumerate(((here, there), (there, here)))
    ]
    for process in processes:
        assert all("NeptuneRunDuplicate" in error for _, error in process.outcome().reports)
    for rank in range(2):
        assert plain(lab.floats("run", f"rank/{rank}")) == [(step, float(step)) for step in range(100)]
    assert lab.values("run")["sys/tags"] == {"rank 0", "rank 1"}


def test_two_runs_in_one_process(scale: Scale, lab: Lab) -> None:
    scale.do(
        *(
            step
            for run in ("one", "other")
            for step in (("open", {"run_id": run}), ("log_configs", {"data": {"name": run}}), *CLOSE)
        )
    )
    assert [lab.user_values(run) for run in ("one", "other")] == [{"name": "one"}, {"name": "other"}]


# What runs log of themselves


def test_console_capture(scale: Scale, lab: Lab) -> None:
    scale.log(
        "run",
        ("write", {"stream": "stdout", "text": "first line\nsecond line\n"}),
        ("write", {"stream": "stderr", "text": "a warning\n"}),
        ("write", {"stream": "stdout", "text": "10 %\r20 %\rdone\n"}),
        enable_console_log_capture=True,
        runtime_namespace="console",
    )
    out = [text for _, text in plain(lab.points("run", "console/stdout"))]
    assert [text for text in out if text in {"first line", "second line", "done"}] == [
        "first line",
        "second line",
        "done",
    ]
    assert "a warning" in [text for _, text in plain(lab.points("run", "console/stderr"))]
    steps = [step for step, _ in plain(lab.points("run", "console/stdout"))]
    assert steps == [number / 1_000_000 for number in range(1, len(steps) + 1)]


def test_source_tracking(scale: Scale, lab: Lab, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "train.py").write_text("print(1)\n")
    for command in (
        ("init", "-q", "-b", "trunk"),
        ("add", "."),
        ("-c", "user.name=Ada", "-c", "user.email=ada@example.test", "commit", "-q", "-m", "Train the model"),
        ("remote", "add", "origin", "https://example.test/model.git"),
    ):
        subprocess.run(["git", *command], cwd=repository, check=True, capture_output=True)
    (repository / "train.py").write_text("print(2)\n")
    tracking = ("SourceTrackingConfig", {"upload_entry_point": True, "upload_diff_head": True})
    scale.do(("open", {"run_id": "run", "source_tracking_config": tracking}), *CLOSE, folder=repository)
    values = lab.user_values("run")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()
    prefix = "source_code/"
    assert values[f"{prefix}commit/commit_id"] == commit
    assert values[f"{prefix}commit/message"] == "Train the model\n"
    assert values[f"{prefix}commit/author_name"] == "Ada"
    assert values[f"{prefix}commit/author_email"] == "ada@example.test"
    assert values[f"{prefix}branch"] == "trunk"
    assert values[f"{prefix}remote/origin"] == "https://example.test/model.git"
    assert values[f"{prefix}dirty"] is True
    assert lab.types("run")[f"{prefix}commit/commit_date"] == "datetime"
    difference = contents(lab, values[f"{prefix}diff/head"].path)
    assert b"-print(1)" in difference
    assert b"+print(2)" in difference
    assert values[f"{prefix}entry_point"].mime_type == "text/x-python"
    assert b"Does with neptune-scale what it is told" in contents(lab, values[f"{prefix}entry_point"].path)


# Offline, waiting, failing


def test_offline_then_sync(scale: Scale, lab: Lab, tmp_path: Path) -> None:
    scale.do(
        ("open", {"run_id": "run", "mode": "offline", "log_directory": str(tmp_path / "log"), "experiment_name": "e"}),
        ("log_configs", {"data": {"lr": 0.1}}),
        *(("log_metrics", {"data": {"m": float(step)}, "step": step}) for step in range(20)),
        ("log_string_series", {"data": {"log": "offline"}, "step": 1}),
        ("assign_files", {"files": {"f": b"offline file"}}),
        ("add_tags", {"tags": ["t"]}),
        ("close", {}),
        NEPTUNE_API_TOKEN="",
    )
    (database,) = (tmp_path / "log").rglob("*.sqlite3")
    scale.command("sync", str(database), "--timeout", "60")
    values = lab.user_values("run")
    assert contents(lab, values.pop("f").path) == b"offline file"
    assert values == {"lr": 0.1}
    assert plain(lab.floats("run", "m")) == [(step, float(step)) for step in range(20)]
    assert plain(lab.points("run", "log")) == [(1.0, "offline")]
    assert lab.values("run")["sys/tags"] == {"t"}
    assert lab.values("run")["sys/name"] == "e"
    assert not database.exists()


def test_waiting_means_that_it_can_be_read(scale: Scale, lab: Lab, tmp_path: Path) -> None:
    """Read while the client still holds the run open: waiting for processing is enough, closing adds nothing."""
    waited, read = tmp_path / "waited", tmp_path / "read"
    process = scale.start(
        ("open", {"run_id": "run"}),
        ("log_metrics", {"data": {"m": 1.0}, "step": 1}),
        ("assign_files", {"files": {"f": b"x" * 1_000_000}}),
        ("wait_for_submission", {"timeout": 60, "verbose": False}),
        ("wait_for_processing", {"timeout": 60, "verbose": False}),
        ("meet", {"here": str(waited), "there": str(read)}),
        ("close", {}),
    )
    wait_for(waited)
    assert plain(lab.floats("run", "m")) == [(1.0, 1.0)]
    assert contents(lab, lab.user_values("run")["f"].path) == b"x" * 1_000_000
    read.touch()
    outcome = process.outcome()
    assert outcome.results[3:5] == [True, True]
    assert outcome.reports == []


def test_a_server_that_restarts_loses_nothing(tmp_path: Path) -> None:
    """The client logs on while nobody is there, and sends it when the server is back."""
    ready, stopped, logged, ended = (tmp_path / name for name in ("ready", "stopped", "logged", "ended"))
    with LocalServer(tmp_path / "data") as server:
        project = f"{server.workspace}/p"
        process = Scale(server, project, tmp_path).start(
            ("create_project", {"name": project}),
            ("open", {"run_id": "run"}),
            ("log_metrics", {"data": {"m": 1.0}, "step": 1}),
            CLOSE[0],
            ("meet", {"here": str(ready), "there": str(stopped)}),
            *(("log_metrics", {"data": {"m": float(step)}, "step": step}) for step in range(2, 50)),
            ("assign_files", {"files": {"f": b"while away"}}),
            ("meet", {"here": str(logged), "there": str(ended)}),
            *CLOSE,
        )
        wait_for(ready)
    stopped.touch()
    wait_for(logged)
    with LocalServer(tmp_path / "data") as server:
        ended.touch()
        outcome = process.outcome()
        connection = GrpcConnection(server.channel(), http=False)
        lab = Lab(connection, project)
        assert plain(lab.floats("run", "m")) == [(step, float(step)) for step in range(1, 50)]
        assert contents(lab, lab.user_values("run")["f"].path) == b"while away"
        connection.close()
    assert {kind for kind, _ in outcome.reports} <= {"network", "warning"}


def test_what_the_server_refuses_is_reported_and_the_rest_is_stored(scale: Scale, lab: Lab) -> None:
    outcome = scale.try_to(
        ("open", {"run_id": "run"}),
        ("log_configs", {"data": {"a": 1}}),
        ("log_metrics", {"data": {"a": 1.0, "b": 2.0}, "step": 1}),
        ("log_metrics", {"data": {"b": 1.0}, "step": 0.5}),
        *CLOSE,
    )
    assert len(outcome.reports) == 2
    assert {kind for kind, _ in outcome.reports} == {"error"}
    assert lab.user_values("run") == {"a": 1}
    assert plain(lab.floats("run", "b")) == [(1.0, 2.0)]


def test_a_project_that_is_not_there_stops_the_client(scale: Scale) -> None:
    outcome = scale.try_to(
        ("open", {"run_id": "run", "project": "local/nowhere"}),
        ("log_metrics", {"data": {"a": 1.0}, "step": 1}),
        ("wait_for_processing", {"timeout": 30, "verbose": False}),
        ("terminate", {}),
    )
    assert any("NeptuneProjectNotFound" in error for _, error in outcome.reports), outcome.reports


def test_a_token_of_nobody_is_refused(scale: Scale, server: Any) -> None:
    from neptune_api.credentials import ApiToken

    forged = ApiToken.mint(api_url=server.http_url, grpc_url=server.grpc_url, api_key="0" * 96).encode()
    outcome = scale.try_to(
        ("open", {"run_id": "run"}),
        ("log_metrics", {"data": {"a": 1.0}, "step": 1}),
        ("wait_for_processing", {"timeout": 10, "verbose": False}),
        ("terminate", {}),
        NEPTUNE_API_TOKEN=forged,
    )
    assert any("NeptuneInvalidCredentialsError" in error for _, error in outcome.reports), outcome.reports


# Projects


def test_projects(scale: Scale, project: str) -> None:
    name = project.replace("/p-", "/q-")
    workspace, _, short = name.partition("/")
    outcome = scale.do(
        ("create_project", {"name": name, "description": "text", "visibility": "workspace"}),
        ("create_project", {"name": short, "workspace": workspace}),
        ("fails", {"step": "create_project", "arguments": {"name": name, "fail_if_exists": True}}),
        ("fails", {"step": "create_project", "arguments": {"name": "nowhere/p"}}),
        ("fails", {"step": "create_project", "arguments": {"name": f"{name}-2", "key": "bad key"}}),
        ("list_projects", {}),
    )
    created, again, exists, nowhere, bad, listed = outcome.results
    assert (created, again) == (name, name)
    assert exists == "NeptuneProjectAlreadyExists"
    assert nowhere not in {"", "AttributeError", "KeyError"}
    assert bad == "NeptuneBadRequestError"
    assert {name, project} <= set(listed)
