"""Two projects that neptune-scale logs once for all tests of clients that read, and what was logged."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from tests.clients.conftest import CLOSE

if TYPE_CHECKING:
    from tests.clients.conftest import Step

START: Final = datetime(2024, 5, 6, 7, 8, 9, 123_000, tzinfo=timezone.utc)
START_MS: Final = int(START.timestamp() * 1000)
MIDNIGHT: Final = datetime(2023, 1, 2, tzinfo=timezone.utc)

LOSS: Final = {0: 4.0, 1: 2.5, 2.5: 1.25, 3.000001: 0.1 + 0.2, 1000: -1e300}
ODD: Final = {0: math.nan, 1: math.inf, 2: 1.0, 3: -math.inf, 4: 3.0}
SQUARES: Final = {step: float(step * step) for step in range(10)}
PREVIEWED: Final = {1: 1.0, 2: 2.0}
PREVIEWS: Final = {3: (3.0, 0.25), 4: (4.0, 0.5)}
NOTES: Final = {0: "first", 0.5: "ünïcode", 2: ""}
COUNTS: Final[dict[int, tuple[list[float], list[int]]]] = {0: ([0.0, 1.0, 2.5], [1, 2]), 1: ([0.0, 1.0, 2.5], [3, 5])}
DENSITIES: Final = ([-1.0, 0.0, 1.0], [0.25, 0.75])
FILE: Final = b"weights \x00\xff"
IMAGES: Final = {0: b"image at 0", 1.5: b"image at 1.5"}
CONFIGS: Final = {
    "cfg/int": 2**53 + 1,
    "cfg/float": 0.1,
    "cfg/inf": math.inf,
    "cfg/bool": True,
    "cfg/string": "a\n'b' \"c\" ` ünï",
    "cfg/datetime": START,
    "cfg/set": {"x", "y"},
}
CONFIGS_READ: Final = {**CONFIGS, "cfg/datetime": ("ms", START_MS)}
WIDE: Final = 3_000


def metrics(path: str, points: dict[Any, float]) -> list[Step]:
    """Return the steps that log points, the time of each a second behind the one before."""
    return [
        ("log_metrics", {"data": {path: value}, "step": step, "timestamp": at(position)})
        for position, (step, value) in enumerate(points.items())
    ]


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def run(run_id: str, *steps: Step, **opening: Any) -> list[Step]:
    return [("open", {"run_id": run_id, **opening}), *steps, *CLOSE]


def main_project() -> list[list[Step]]:
    """Return the steps that log the main project, process by process."""
    return [_train(), _line(), _wide()]


def other_project() -> list[list[Step]]:
    """Return the steps that log the other project."""
    return [run("train-1", ("log_configs", {"data": {"cfg/int": 10}}), experiment_name="train", creation_time=at(50))]


def _train() -> list[Step]:
    """An experiment of two runs, with attributes of every type in the second one; and a run of no experiment."""
    return [
        *run(
            "train-1",
            ("log_configs", {"data": {"cfg/int": 1, "cfg/mixed": 1}}),
            experiment_name="train",
            creation_time=at(0),
        ),
        *run(
            "train-2",
            ("log_configs", {"data": {**CONFIGS, "cfg/mixed": "text"}}),
            ("add_tags", {"tags": ["best", "new"]}),
            *metrics("m/loss", LOSS),
            *metrics("m/odd", ODD),
            *metrics("m/squares", SQUARES),
            *metrics("m/previewed", PREVIEWED),
            *(
                (
                    "log_metrics",
                    {
                        "data": {"m/previewed": value},
                        "step": step,
                        "timestamp": at(step),
                        "preview": True,
                        "preview_completion": ratio,
                    },
                )
                for step, (value, ratio) in PREVIEWS.items()
            ),
            *(
                ("log_string_series", {"data": {"s/notes": text}, "step": step, "timestamp": at(position)})
                for position, (step, text) in enumerate(NOTES.items())
            ),
            *(
                (
                    "log_histograms",
                    {
                        "histograms": {"h/counts": ("Histogram", {"bin_edges": edges, "counts": counts})},
                        "step": step,
                        "timestamp": at(step),
                    },
                )
                for step, (edges, counts) in COUNTS.items()
            ),
            (
                "log_histograms",
                {
                    "histograms": {
                        "h/densities": ("Histogram", {"bin_edges": DENSITIES[0], "densities": DENSITIES[1]})
                    },
                    "step": 7,
                    "timestamp": at(7),
                },
            ),
            (
                "assign_files",
                {"files": {"f/weights": ("File", {"source": FILE, "mime_type": "application/x-weights"})}},
            ),
            *(
                ("log_files", {"files": {"f/images": image}, "step": step, "timestamp": at(position)})
                for position, (step, image) in enumerate(IMAGES.items())
            ),
            experiment_name="train",
            creation_time=at(1),
        ),
        *run(
            "plain",
            ("log_configs", {"data": {"cfg/int": 3}}),
            *metrics("m/loss", {5: 5.0}),
            creation_time=at(2),
        ),
    ]


def _line() -> list[Step]:
    """An experiment forks off another, and a second fork off the first one is of the same experiment as that."""
    return [
        *run(
            "root",
            ("log_configs", {"data": {"cfg/depth": 0}}),
            *line("root", range(5)),
            *metrics("m/late", {6: 6.0}),
            experiment_name="line-a",
            creation_time=at(3),
        ),
        *run(
            "fork-1",
            *line("fork-1", range(5, 9)),
            experiment_name="line-b",
            fork_run_id="root",
            fork_step=4,
            creation_time=at(4),
        ),
        *run(
            "fork-2",
            *line("fork-2", range(9, 12)),
            experiment_name="line-b",
            fork_run_id="fork-1",
            fork_step=8,
            creation_time=at(5),
        ),
    ]


def line(run_id: str, steps: range) -> list[Step]:
    return [
        *metrics("m/line", {step: float(step) for step in steps}),
        *(("log_string_series", {"data": {"s/line": f"{run_id} {step}"}, "step": step}) for step in steps),
    ]


def _wide() -> list[Step]:
    """A run with thousands of attributes."""
    return run(
        "wide",
        ("log_configs", {"data": {f"w/config/{number:04}": number for number in range(WIDE)}}),
        ("log_metrics", {"data": {f"w/metric/{number:04}": number / 8 for number in range(WIDE)}, "step": 1}),
        experiment_name="wide",
        creation_time=at(6),
    )
