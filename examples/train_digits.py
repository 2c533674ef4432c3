"""Train a neural network on handwritten digits, log it to a Neptune server, read it back and compare.

    python examples/train_digits.py [--epochs 120] [--output quickstart-output]

The server runs inside this process and keeps its data in a temporary folder. Every call goes over gRPC through the
generated stubs, as it would to a server elsewhere.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from tqdm import tqdm

import neptune_api
from neptune_api import models
from neptune_api.server import LocalServer
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub
from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import grpc
    from matplotlib.axes import Axes

    FloatArray: TypeAlias = npt.NDArray[np.float64]
    IntArray: TypeAlias = npt.NDArray[np.int64]


class Point(NamedTuple):
    """A point of a series: step, milliseconds since the epoch, value (of a histogram: edges and counts)."""

    step: float
    millis: int
    value: float | str | tuple[list[float], list[float]]


# ----- The training. It knows nothing of Neptune.

HIDDEN_UNITS = 48
LEARNING_RATE = 0.03
BATCH_SIZE = 160


@dataclass(frozen=True)
class Digits:
    """1,797 pictures of 8 x 8 pixels and the digits they show, split for training and for validation."""

    train_x: FloatArray
    validation_x: FloatArray
    train_y: IntArray
    validation_y: IntArray

    @classmethod
    def load(cls) -> Digits:
        """Load the data set that comes with scikit-learn."""
        pixels, digits = load_digits(return_X_y=True)
        return cls(*train_test_split(pixels / 16, digits, test_size=0.3, random_state=0, stratify=digits))


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave."""

    number: int  # from 1
    batches: list[tuple[int, float]]  # when each batch ended, in milliseconds since the epoch, and its loss
    metrics: dict[str, float]
    weights: FloatArray


def train(model: MLPClassifier, digits: Digits, epochs: int) -> Iterator[Epoch]:
    """Train in mini-batches; yield after each epoch."""
    random = np.random.default_rng(0)
    for number in range(1, epochs + 1):
        shuffled = random.permutation(len(digits.train_x))
        batches = []
        for batch in np.array_split(shuffled, math.ceil(len(shuffled) / BATCH_SIZE)):
            model.partial_fit(digits.train_x[batch], digits.train_y[batch], classes=range(10))
            batches.append((now(), float(model.loss_)))
        train_loss, train_accuracy = score(model, digits.train_x, digits.train_y)
        validation_loss, validation_accuracy = score(model, digits.validation_x, digits.validation_y)
        metrics = {
            "train/loss": train_loss,
            "train/accuracy": train_accuracy,
            "validation/loss": validation_loss,
            "validation/accuracy": validation_accuracy,
        }
        yield Epoch(number, batches, metrics, model.coefs_[0])


def score(model: MLPClassifier, x: FloatArray, y: IntArray) -> tuple[float, float]:
    """Return loss and accuracy."""
    probabilities = model.predict_proba(x)
    return float(log_loss(y, probabilities)), float(accuracy_score(y, probabilities.argmax(axis=1)))


def now() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


# ----- Writing: values become messages, messages go through IngestService.


class RunWriter:
    """Submits changes of one run and keeps them, to compare later with what the server returns."""

    def __init__(self, channel: grpc.Channel, project: str, run_id: str) -> None:
        self.snapshots: list[models.UpdateRunSnapshot] = []
        self.request_ids: list[models.RequestId] = []
        self._ingest = IngestServiceStub(channel)
        self._project = project
        self._run_id = run_id

    def submit(self, *snapshots: models.UpdateRunSnapshot) -> None:
        """Submit changes as one operation; it is on the server's disk when this returns."""
        response = self._ingest.Submit(
            models.RunOperation(
                project=self._project,
                run_id=self._run_id,
                update_batch=models.UpdateRunSnapshots(snapshots=snapshots),
            )
        )
        self.request_ids += [models.RequestId(value=request_id) for request_id in response.request_ids]
        self.snapshots += snapshots

    def wait(self, timeout: float = 60) -> None:
        """Wait until everything is applied, which is when readers see it; fail if a change was refused."""
        end = time.monotonic() + timeout
        request = models.BulkGetRequestStatusRequest(
            project_identifier=self._project, request_ids=models.RequestIdList(ids=self.request_ids)
        )
        while True:
            statuses = self._ingest.BulkGetRequestStatus(request).statuses
            outcomes = [outcome for status in statuses for outcome in status.code_by_count]
            if all(outcome.code != code_pb2.UNAVAILABLE for outcome in outcomes):  # UNAVAILABLE: not applied yet
                break
            if time.monotonic() > end:
                raise TimeoutError(f"the server did not apply everything within {timeout} s")
            time.sleep(0.01)
        refused = [outcome for outcome in outcomes if outcome.code != code_pb2.OK]
        if refused:
            reasons = ", ".join(f"{outcome.count} x {models.IngestCode.Name(outcome.detail)}" for outcome in refused)
            raise RuntimeError(f"the server refused changes: {reasons}")


def describe(epochs: int) -> models.UpdateRunSnapshot:
    """Return the change that sets configuration and tags."""
    tags = dict.fromkeys(("digits", "quickstart", "scikit-learn"), models.SetOperation.SET_OPERATION_ADD)
    return models.UpdateRunSnapshot(
        timestamp=timestamp(now()),
        assign={
            "config/epochs": models.Value(int64=epochs),
            "config/model/activation": models.Value(string="relu"),
            "config/model/hidden_units": models.Value(int64=HIDDEN_UNITS),
            "config/optimizer/learning_rate": models.Value(float64=LEARNING_RATE),
            "config/optimizer/nesterov": models.Value(bool=True),
            "config/started_at": models.Value(timestamp=timestamp(now())),
        },
        modify_sets={"sys/tags": models.ModifySet(string=models.ModifyStringSet(values=tags))},
    )


def batch_snapshots(epoch: Epoch) -> Iterator[models.UpdateRunSnapshot]:
    """Yield one change for each batch. Steps count epochs: the middle of the third epoch is step 2.5."""
    for number, (millis, loss) in enumerate(epoch.batches, 1):
        micros = (epoch.number - 1) * 1_000_000 + number * 1_000_000 // len(epoch.batches)
        yield models.UpdateRunSnapshot(
            step=models.Step(whole=micros // 1_000_000, micro=micros % 1_000_000),
            timestamp=timestamp(millis),
            append={"train/batch_loss": models.Value(float64=loss)},
        )


def epoch_snapshot(epoch: Epoch, best: float) -> models.UpdateRunSnapshot:
    """Return the change that appends metrics, a line of text and a histogram; `best` is the accuracy to beat."""
    accuracy = epoch.metrics["validation/accuracy"]
    line = f"epoch {epoch.number}: reads {accuracy:.2%} of the validation digits"
    if accuracy > best:
        line += ", more than ever"
    counts, edges = np.histogram(epoch.weights, bins=48, range=(-1.2, 1.2))
    histogram = models.Histogram(bin_edges=edges.tolist(), counts=models.HistogramCounts(values=counts.tolist()))
    return models.UpdateRunSnapshot(
        step=models.Step(whole=epoch.number),
        timestamp=timestamp(now()),
        append={
            **{path: models.Value(float64=value) for path, value in epoch.metrics.items()},
            "model/weights": models.Value(histogram=histogram),
            "progress": models.Value(string=line),
        },
    )


def picture(file: Path) -> models.UpdateRunSnapshot:
    """Return the change that notes a picture: key, size and type. Its bytes go by themselves, see transfer()."""
    reference = models.FileRef(path=key_of(file), size_bytes=file.stat().st_size, mime_type="image/png")
    return models.UpdateRunSnapshot(
        timestamp=timestamp(now()), assign={"validation/confusion_matrix": models.Value(file_ref=reference)}
    )


def key_of(file: Path) -> str:
    """Return under which key of the project a file is kept."""
    return f"mlp-1/{file.name}"


def transfer(channel: grpc.Channel, project: str, key: str, content: bytes | None = None) -> bytes:
    """Upload the content of a file, or without one download it, by a signed URL; return what the server sends."""
    verb, permission = ("GET", "READ") if content is None else ("PUT", "WRITE")
    file = models.FileToSign(
        path=key,
        project_identifier=project,
        permission=models.FilePermission.Value(f"FILE_PERMISSION_{permission}"),
    )
    (signed,) = StorageServiceStub(channel).CreateSignedUrls(models.CreateSignedUrlsRequest(files=[file])).files
    request = Request(signed.url, content, {"Content-Type": "image/png"}, method=verb)  # noqa: S310 # http, by our server
    # The server is on this machine, where no proxy reaches it.
    with build_opener(ProxyHandler({})).open(request, timeout=60) as response:
        received: bytes = response.read()
    return received


def timestamp(millis: int) -> Timestamp:
    """Return the protobuf form of a time."""
    message = Timestamp()
    message.FromMilliseconds(millis)
    return message


# ----- Reading: attributes through AttributesService, points through SeriesService.


class RunReader:
    """Reads one run, named `workspace/project/SHORT-ID`."""

    def __init__(self, channel: grpc.Channel, run: str) -> None:
        self._attributes = AttributesServiceStub(channel)
        self._series = SeriesServiceStub(channel)
        self._run = run

    def attributes(self) -> dict[str, models.Attribute]:
        """Return every attribute by its path: single values, and summaries of series."""
        response = self._attributes.GetAttributes(models.GetAttributesRequest(holder_identifier=self._run))
        return {attribute.name: attribute for attribute in response.attributes}

    def float_series(self, paths: Iterable[str]) -> dict[str, list[Point]]:
        """Return every point of float series."""
        query = models.FloatSeriesValuesQuery(
            per_series_points_limit=1_000_000,
            requests=[models.FloatSeriesQuery(request_id=path, series=self._named(path)) for path in paths],
        )
        response = self._series.GetFloatSeriesValues(models.GetFloatSeriesValuesRequest(request=query))
        return {
            item.request_id: [Point(point.step, point.timestamp_millis, point.value) for point in item.series.values]
            for item in response.series
        }

    def other_series(self, paths: Iterable[str]) -> dict[str, list[Point]]:
        """Return every point of string and histogram series, however many pages it takes."""
        points: dict[str, list[Point]] = {path: [] for path in paths}
        queries = {path: models.SeriesQuery(request_id=path, series=self._named(path)) for path in points}
        while queries:
            query = models.SeriesValuesQuery(requests=queries.values())
            response = self._series.GetSeriesValues(models.GetSeriesValuesRequest(request=query))
            if not response.series:
                raise RuntimeError(f"the server returned nothing for {', '.join(queries)}")
            for item in response.series:
                points[item.request_id] += map(read_point, item.series_values.values)
                if item.search_after.finished:
                    del queries[item.request_id]
                elif item.HasField("search_after"):
                    queries[item.request_id].search_after.CopyFrom(item.search_after)
        return points

    def _named(self, path: str) -> models.TimeSeries:
        holder = models.AttributesHolder(identifier=self._run, type="experiment")
        return models.TimeSeries(attribute=path, holder=holder)


def read_point(point: models.SeriesPoint) -> Point:
    """Return a point of a string or histogram series."""
    if point.object.HasField("histogram"):
        histogram = point.object.histogram
        return Point(point.step, point.timestamp_millis, (list(histogram.edges), list(histogram.values)))
    return Point(point.step, point.timestamp_millis, point.object.string_value)


def read_value(attribute: models.Attribute) -> Any:
    """Return a single value; None for a series."""
    match attribute.type:
        case "int":
            return attribute.int_properties.value
        case "float":
            return attribute.float_properties.value
        case "bool":
            return attribute.bool_properties.value
        case "string":
            return attribute.string_properties.value
        case "datetime":
            return attribute.datetime_properties.value
        case "stringSet":
            return set(attribute.string_set_properties.value)
        case "fileRef":
            file = attribute.file_ref_properties
            return file.path, file.size_bytes, file.mime_type
    return None


# ----- Comparing what was sent with what came back.


def sent_values(snapshots: Iterable[models.UpdateRunSnapshot]) -> dict[str, Any]:
    """Return the single values of submitted changes by path."""
    values: dict[str, Any] = {}
    for snapshot in snapshots:
        for path, value in snapshot.assign.items():
            if value.HasField("timestamp"):
                values[path] = value.timestamp.ToMilliseconds()
            elif value.HasField("file_ref"):
                values[path] = (value.file_ref.path, value.file_ref.size_bytes, value.file_ref.mime_type)
            else:
                values[path] = getattr(value, value.WhichOneof("value") or "")
        for path, change in snapshot.modify_sets.items():
            values[path] = set(change.string.values)
    return values


def sent_series(snapshots: Iterable[models.UpdateRunSnapshot]) -> dict[str, list[Point]]:
    """Return the points of submitted changes by path."""
    series: dict[str, list[Point]] = defaultdict(list)
    for snapshot in snapshots:
        step = snapshot.step.whole + snapshot.step.micro / 1_000_000
        for path, value in snapshot.append.items():
            if value.HasField("histogram"):
                content: Any = (list(value.histogram.bin_edges), list(value.histogram.counts.values))
            else:
                content = getattr(value, value.WhichOneof("value") or "")
            series[path].append(Point(step, snapshot.timestamp.ToMilliseconds(), content))
    return dict(series)


def compare(sent: Mapping[str, Any], returned: Mapping[str, Any]) -> None:
    """Raise AssertionError unless everything came back as it was sent, doubles bit by bit, times to the millisecond."""
    for path, expected in sent.items():
        if path not in returned:
            raise AssertionError(f"{path} was sent, but did not come back")
        if returned[path] != expected:
            raise AssertionError(f"{path} came back changed:\n{returned[path]!r:.1000}\ninstead of\n{expected!r:.1000}")


def compare_summary(points: list[Point], summary: models.FloatSeriesAttribute) -> None:
    """Raise AssertionError unless the server's summary of a float series fits its points."""
    values = np.array([point.value for point in points], dtype=np.float64)
    exact = [summary.last_step, summary.last, summary.min, summary.max]
    if exact != [points[-1].step, values[-1], values.min(), values.max()]:
        raise AssertionError(f"{summary.attribute_name} has a wrong summary: {summary}")
    # Sums depend on the order of their terms in the last bits.
    if not np.allclose([summary.average, summary.variance], [values.mean(), values.var()], rtol=1e-9, atol=0):
        raise AssertionError(f"{summary.attribute_name} has a wrong average or variance: {summary}")


# ----- Showing what came back.

BLUE, ORANGE, DARK, GREY, PALE = "#2468a8", "#dd7422", "#22303c", "#6b7783", "#f2f5f9"


def print_run(attributes: Mapping[str, models.Attribute], series: Mapping[str, list[Point]]) -> None:
    """Print the summaries of the series and the single values of a run."""
    rows = []
    for path, points in sorted(series.items()):
        summary = attributes[path].float_series_properties
        numbers = [summary.last, summary.min, summary.max, summary.average]
        is_float = attributes[path].type == "floatSeries"
        cells = [f"{number:.4f}" for number in numbers] if is_float else [""] * len(numbers)
        rows.append([path, attributes[path].type, f"{len(points):,}", *cells])
    print_table("<<>>>>>", ["series", "type", "points", "last", "min", "max", "average"], *rows)
    values = [
        [path, attribute.type, show(attribute)]
        for path, attribute in sorted(attributes.items())
        if path not in series and (path == "sys/tags" or not path.startswith("sys/"))
    ]
    print_table("<<<", ["attribute", "type", "value"], *values)


def print_table(align: str, *rows: list[str]) -> None:
    """Print rows under the first one, the header; `align` has < or > for each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map("{:{}{}}".format, row, align, widths)).rstrip() for row in rows]
    rule = "─" * min(max(map(len, lines)), columns())
    print(lines[0], rule, *lines[1:], "", sep="\n")


def columns() -> int:
    """Return how much fits on a line of the terminal."""
    return shutil.get_terminal_size().columns


def show(attribute: models.Attribute) -> str:
    """Return a single value as people read it."""
    value = read_value(attribute)
    match attribute.type:
        case "stringSet":
            return ", ".join(sorted(value))
        case "datetime":
            return datetime.fromtimestamp(value / 1000, timezone.utc).isoformat(" ", "milliseconds")
        case "fileRef":
            path, size, _ = value
            return f"{path} ({size / 1000:,.0f} kB)"
    return str(value)


def draw_curves(series: Mapping[str, list[Point]], title: str, file: Path) -> None:
    """Draw loss, accuracy and weights over the epochs, as they came back from the server."""
    figure = Figure(figsize=(15, 5), layout=ConstrainedLayoutEngine(wspace=0.05, h_pad=0.12))
    figure.suptitle(title, x=0.008, ha="left", fontsize=16, fontweight="bold", color=DARK)
    loss, accuracy, weights = figure.subplots(1, 3)
    loss.plot(*coordinates(series["train/batch_loss"]), color=BLUE, alpha=0.25, linewidth=0.8, label="one batch")
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for part, color in (("train", BLUE), ("validation", ORANGE)):
            axes.plot(*coordinates(series[f"{part}/{metric}"]), color=color, linewidth=2, label=part)
        axes.grid(axis="y", color=GREY, alpha=0.2)
        axes.legend(frameon=False, labelcolor=DARK)
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    accuracy.set_ylim(0.8 if len(series["train/accuracy"]) > 20 else 0, 1.004)
    accuracy.yaxis.set_major_locator(MaxNLocator(6))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    steps, histograms = coordinates(series["model/weights"])
    counts = np.ma.masked_equal(np.transpose([counts for _, counts in histograms]), 0)
    shades = weights.pcolormesh([0, *steps], histograms[0][0], counts, cmap="Blues", norm=LogNorm(vmin=0.3))
    bar = figure.colorbar(shades, ax=weights, pad=0.02, format="{x:g}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(which="both", length=0, colors=GREY)
    tidy(loss, "Loss", "epoch")
    tidy(accuracy, "Accuracy", "epoch")
    tidy(weights, "Weights of the hidden layer: how many in each bin", "epoch")
    figure.savefig(file, dpi=150)


def draw_confusion(model: MLPClassifier, digits: Digits, file: Path) -> None:
    """Draw which digits the network takes for which, and pictures of those it gets wrong."""
    guesses = model.predict(digits.validation_x)
    matrix = confusion_matrix(digits.validation_y, guesses)
    wrong = np.flatnonzero(guesses != digits.validation_y)
    figure = Figure(figsize=(10, 5.8), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    grid = figure.add_gridspec(4, 7)
    axes = figure.add_subplot(grid[:, :5], facecolor=PALE)
    shades = LogNorm(vmin=0.4)
    axes.pcolormesh(np.ma.masked_equal(matrix, 0), cmap="Blues", norm=shades, edgecolors="white", linewidth=2)
    for (digit, guess), count in np.ndenumerate(matrix):
        if count:
            color = "white" if count > 10 else DARK
            axes.text(guess + 0.5, digit + 0.5, str(count), ha="center", va="center", color=color)
    axes.set_xticks(np.arange(10) + 0.5, "0123456789")
    axes.set_yticks(np.arange(10) + 0.5, "0123456789")
    axes.set_ylabel("digit", color=GREY)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    tidy(axes, f"{len(wrong)} of {len(guesses)} validation digits misread", "taken for")
    for number, index in enumerate(wrong[:8]):
        cell = figure.add_subplot(grid[number // 2, 5 + number % 2])
        cell.imshow(digits.validation_x[index].reshape(8, 8), cmap="gray_r")
        cell.set_title(f"{digits.validation_y[index]} taken for {guesses[index]}", fontsize=9, color=GREY)
        cell.set_axis_off()
    figure.savefig(file, dpi=150)


def coordinates(points: list[Point]) -> tuple[list[float], list[Any]]:
    """Return the steps and the values of points."""
    return [point.step for point in points], [point.value for point in points]


def tidy(axes: Axes, title: str, label: str) -> None:
    """Give axes a title and a label, and take away what is not data."""
    axes.set_title(title, loc="left", pad=10, color=DARK)
    axes.set_xlabel(label, color=GREY)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, colors=GREY)


# ----- All of it.


def create_run(channel: grpc.Channel, workspace: str) -> models.Run:
    """Create a project and a run in it."""
    project = ProjectsServiceStub(channel).CreateProject(
        models.CreateProjectRequest(name="digits", organization_identifier=workspace)
    )
    return RunsServiceStub(channel).CreateRun(
        models.CreateRunRequest(project_identifier=project.id, run_id="mlp-1", experiment_name="mlp")
    )


def train_and_log(writer: RunWriter, epochs: int, confusion: Path) -> None:
    """Train a network and log how it goes."""
    digits = Digits.load()
    model = MLPClassifier((HIDDEN_UNITS,), solver="sgd", learning_rate_init=LEARNING_RATE, random_state=0)
    writer.submit(describe(epochs))
    best = 0.0
    bar = "training   {n}/{total} epochs  {bar}  {elapsed}{postfix}"
    width = min(columns(), 100)
    with tqdm(train(model, digits, epochs), total=epochs, bar_format=bar, ncols=width, disable=None) as progress:
        for epoch in progress:
            writer.submit(*batch_snapshots(epoch), epoch_snapshot(epoch, best))
            best = max(best, epoch.metrics["validation/accuracy"])
            progress.set_postfix_str(f"loss {epoch.metrics['train/loss']:.4f}, accuracy {best:.2%}")
    draw_confusion(model, digits, confusion)
    writer.submit(picture(confusion))


def quickstart(epochs: int, output: Path) -> None:
    """Start a server, train, log, read back, compare, show."""
    output.mkdir(parents=True, exist_ok=True)
    (output / ".gitignore").write_text("*\n")
    curves, confusion = output / "curves.png", output / "confusion_matrix.png"
    with LocalServer() as server, neptune_api.channel(api_token=server.api_token) as channel:
        run = create_run(channel, server.workspace)
        project = f"{run.organization_name}/{run.project_name}"
        name = f"{project}/{run.short_id}"
        print(f"server     {server.grpc_target}, on SQLite in a temporary folder")
        print(f"run        {name}")
        writer = RunWriter(channel, project, run.custom_id)
        train_and_log(writer, epochs, confusion)
        transfer(channel, project, key_of(confusion), confusion.read_bytes())
        writer.wait()
        reader = RunReader(channel, name)
        attributes = reader.attributes()
        paths = {path for path, attribute in attributes.items() if attribute.type.endswith("Series")}
        float_paths = {path for path in paths if attributes[path].type == "floatSeries"}
        floats = reader.float_series(float_paths)
        series = floats | reader.other_series(paths - float_paths)
        downloaded = transfer(channel, project, key_of(confusion))

    compare(sent_values(writer.snapshots), {path: read_value(found) for path, found in attributes.items()})
    compare(sent_series(writer.snapshots), series)
    for path, points in floats.items():
        compare_summary(points, attributes[path].float_series_properties)
    compare({"confusion matrix": confusion.read_bytes()}, {"confusion matrix": downloaded})
    print(f"logged     {sum(map(len, series.values())):,} points in {len(writer.request_ids)} operations")
    print("read back  every value, step, timestamp and byte is the one that was logged\n")
    print_run(attributes, series)
    draw_curves(series, name, curves)
    print(f"curves            {curves}")
    print(f"confusion matrix  {confusion}")


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Train on handwritten digits, log it, read it back and compare.")
    parser.add_argument("--epochs", type=int, default=120, help="passes over the training data (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("quickstart-output"), help="folder for the pictures (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    try:
        quickstart(options.epochs, options.output)
    except KeyboardInterrupt:
        print("\nstopped; nothing is left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
