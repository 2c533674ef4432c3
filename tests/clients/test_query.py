"""neptune-query 1.14.1 reads what neptune-scale logged: every public function, whole data frames."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.reading import MISSING, NAN, ClientError, ms, points, uncalled
from tests.clients.written import (
    CONFIGS_READ,
    COUNTS,
    DENSITIES,
    FILE,
    IMAGES,
    LOSS,
    NOTES,
    ODD,
    PREVIEWED,
    PREVIEWS,
    SQUARES,
    START_MS,
    WIDE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.clients.conftest import Written
    from tests.clients.reading import Frame, Reader

RUNS = ["train-1", "train-2", "plain", "root", "fork-1", "fork-2", "wide"]
EXPERIMENTS = ["train", "line-a", "line-b", "wide"]
SERIES = {"m/loss", "m/odd", "m/previewed", "m/squares", "s/notes", "h/counts", "h/densities", "f/images"}


def histogram(kind: str, edges: list[float], values: Sequence[float]) -> Any:
    return ("Histogram", {"type": kind, "edges": edges, "values": values})


def frame_of(*columns: tuple[Any, Mapping[Any, Any]], missing: Any = NAN) -> Callable[[Frame], None]:
    """Return what asserts that a frame has these columns, each with values by index, and nothing else."""

    def check(frame: Frame) -> None:
        assert frame.columns == [label for label, _ in columns]
        index = sorted({key for _, values in columns for key in values})
        assert frame.index == index
        for label, values in columns:
            assert frame.column(label) == {key: values.get(key, missing) for key in index}, label

    return check


# Lists


def test_list_experiments(query: Reader) -> None:
    assert sorted(query("nq.list_experiments()")) == sorted(EXPERIMENTS)
    assert query("nq.list_experiments(experiments='^line')") == query(
        "nq.list_experiments(experiments=['line-a','line-b'])"
    )
    assert sorted(query("nq.list_experiments(experiments='line | wide')")) == ["line-a", "line-b", "wide"]
    assert query("nq.list_experiments(experiments='line & !a$')") == ["line-b"]
    assert query("nq.list_experiments(experiments='nothing')") == []
    assert query("nq.list_experiments(experiments=Filter.eq('cfg/int', 2**53 + 1))") == ["train"]
    # The head alone stands for the experiment.
    assert query("nq.list_experiments(experiments=Filter.eq('cfg/int', 1))") == []


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("Filter.eq('cfg/int', 1)", ["train-1"]),
        ("Filter.ge('cfg/int', 3)", ["plain", "train-2"]),
        ("Filter.ne('cfg/int', 1) & Filter.exists('cfg/int')", ["plain", "train-2"]),
        ("~Filter.exists('cfg/int')", ["fork-1", "fork-2", "root", "wide"]),
        ("Filter.eq(Attribute('cfg/mixed', 'string'), 'text')", ["train-2"]),
        ("Filter.eq(Attribute('cfg/mixed', 'int'), 1)", ["train-1"]),
        ("Filter.eq('cfg/bool', True)", ["train-2"]),
        ("Filter.gt('m/line', 8)", ["fork-2"]),
        ("Filter.le('cfg/float', 0.1)", ["train-2"]),
        ("Filter.name('line-b')", ["fork-1", "fork-2"]),
        ("Filter.matches('cfg/string', 'ünï$')", ["train-2"]),
        ("Filter.contains_all('sys/tags', ['best', 'new'])", ["train-2"]),
        ("Filter.contains_none('sys/tags', ['best'])", [run for run in sorted(RUNS) if run != "train-2"]),
        ("Filter.eq('s/notes', '')", ["train-2"]),
        ("Filter.eq('sys/name', 'train')", ["train-1", "train-2"]),
        ("Filter.exists(Attribute('f/weights', 'file'))", ["train-2"]),
        ("Filter.lt('sys/creation_time', __import__('datetime').datetime(2030, 1, 1))", sorted(RUNS)),
        ("Filter.eq('cfg/string', 'a\\n\\'b\\' \"c\" ` ünï')", ["train-2"]),
        ("Filter.eq('nothing', 1)", []),
        ("None", sorted(RUNS)),
        ("'train'", ["train-1", "train-2"]),
        ("['plain', 'nobody']", ["plain"]),
    ],
)
def test_list_runs(query: Reader, filter_: str, expected: list[str]) -> None:
    assert sorted(query(f"nq.runs.list_runs(runs={filter_})")) == expected


def test_list_attributes(query: Reader) -> None:
    own = {*CONFIGS_READ, "cfg/mixed", *SERIES, "f/weights"}
    assert {name for name in query("nq.list_attributes(experiments='train')") if not name.startswith("sys/")} == own
    assert set(query("nq.list_attributes(experiments='train', attributes='^[mh]/')")) == {
        name for name in own if name[0] in "mh"
    }
    assert query("nq.runs.list_attributes(runs='plain', attributes='^[^s]')") == ["cfg/int", "m/loss"]
    assert query("nq.list_attributes(experiments='train', attributes=[])") == []
    assert query("nq.list_attributes(experiments='nothing')") == []
    assert query("nq.list_attributes(attributes='m & !loss | ^f/w')") == sorted(
        {"m/odd", "m/previewed", "m/squares", "m/line", "m/late", "f/weights"}
        | {name for name in query("nq.list_attributes()") if "m" in name and "loss" not in name}
    )
    assert query("nq.list_attributes(attributes=AttributeFilter(type='file_series'))") == ["f/images"]
    assert query("nq.list_attributes(attributes=AttributeFilter('^cfg', type=['int', 'bool']))") == [
        "cfg/bool",
        "cfg/depth",
        "cfg/int",
    ]
    for either in (
        "AttributeFilter('^f/', type='file') | AttributeFilter('^s/')",
        "AttributeFilter.any(AttributeFilter('^f/', type='file'), AttributeFilter('^s/'))",
    ):
        assert set(query(f"nq.runs.list_attributes(attributes={either})")) == {"f/weights", "s/notes", "s/line"}


def test_inherited_attributes_are_listed(query: Reader) -> None:
    assert query("nq.runs.list_attributes(runs='fork-2', attributes='^(cfg|m|s/)')") == [
        "cfg/depth",
        "m/line",
        "s/line",
    ]


def test_system_attributes(query: Reader) -> None:
    assert query("nq.list_attributes(attributes='sys/.*_time$')") == [
        "sys/creation_time",
        "sys/modification_time",
        "sys/ping_time",
    ]
    assert query("nq.list_attributes(attributes='sys/.*id$')") == [
        "sys/custom_run_id",
        "sys/diagnostics/project_uuid",
        "sys/diagnostics/run_uuid",
        "sys/id",
    ]
    assert query("nq.list_attributes(attributes=r'sys/(name|id)')") == ["sys/id", "sys/name"]


def test_thousands_of_attributes(query: Reader) -> None:
    names = query("nq.list_attributes(experiments='wide', attributes='^w/')")
    assert len(names) == 2 * WIDE
    pages = query(
        "nq.list_attributes(experiments='wide', attributes='^w/')",
        NEPTUNE_QUERY_ATTRIBUTE_DEFINITIONS_BATCH_SIZE="499",
    )
    assert pages == names
    table = query.frame("nq.fetch_experiments_table(experiments='wide', attributes='^w/')")
    assert table.index == ["wide"]
    expected: dict[str, float] = {f"w/config/{number:04}": number for number in range(WIDE)}
    expected |= {f"w/metric/{number:04}": number / 8 for number in range(WIDE)}
    assert table.records() == {"wide": expected}
    listed = query.frame(f"nq.fetch_experiments_table(attributes=[f'w/config/{{n:04}}' for n in range({WIDE})])")
    assert listed.records()["wide"] == {name: value for name, value in expected.items() if "config" in name}
    metrics = query.frame("nq.fetch_metrics(experiments='wide', attributes='^w/metric')")
    assert metrics.index == [("wide", 1.0)]
    assert metrics.rows == [[number / 8 for number in range(WIDE)]]


# Tables


def test_experiments_table(query: Reader, written: Written) -> None:
    table = query.frame("nq.fetch_experiments_table(experiments=['train'], attributes='^(cfg|m|s|h|f)/')")
    assert table.index == ["train"]
    found = table.records()["train"]
    for name, value in {**CONFIGS_READ, "cfg/mixed": "text"}.items():
        assert found.pop(name) == value, name
    lasts = {"m/loss": -1e300, "m/odd": 3.0, "m/previewed": 2.0, "m/squares": 81.0, "s/notes": ""}
    assert {name: found.pop(name) for name in lasts} == lasts
    assert found.pop("h/counts") == histogram("COUNTING", *COUNTS[1])
    assert found.pop("h/densities") == histogram("DENSITY", *DENSITIES)
    kind, file = found.pop("f/weights")
    assert kind == "File"
    assert re.search("weights", file.pop("path"))
    assert file == {
        "project_identifier": written.project,
        "experiment_name": "train",
        "run_id": MISSING,
        "attribute_path": "f/weights",
        "step": MISSING,
        "size_bytes": len(FILE),
        "mime_type": "application/x-weights",
    }
    image = found.pop("f/images")[1]
    assert (image["size_bytes"], image["step"]) == (len(IMAGES[1.5]), 1.5)
    assert found == {}


def test_runs_table(query: Reader) -> None:
    table = query.frame("nq.runs.fetch_runs_table(attributes=['cfg/int', 'm/loss', 'nothing'], sort_direction='asc')")
    assert table.index == RUNS
    assert table.columns == ["cfg/int", "m/loss"]
    assert table.records() == {
        **{run: {} for run in RUNS},
        "train-1": {"cfg/int": 1},
        "train-2": {"cfg/int": float(2**53), "m/loss": -1e300},
        "plain": {"cfg/int": 3, "m/loss": 5.0},
    }
    assert query.frame("nq.runs.fetch_runs_table()").index == RUNS[::-1]


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("sort_by='cfg/int', sort_direction='asc'", ["train-1", "plain", "train-2"]),
        ("sort_by='cfg/int'", ["train-2", "plain", "train-1"]),
        ("sort_by=Attribute('m/line', 'float_series')", ["fork-2", "fork-1", "root"]),
        ("sort_by='sys/custom_run_id', sort_direction='asc'", sorted(RUNS)),
        ("sort_by=Attribute('sys/id', 'string'), sort_direction='asc', limit=2", None),
        ("limit=3", ["wide", "fork-2", "fork-1"]),
        ("sort_by='nothing'", None),
    ],
)
def test_order_and_limit(query: Reader, sort: str, first: list[str] | None) -> None:
    found = query.frame(f"nq.runs.fetch_runs_table({sort})").index
    assert len(found) == (int(sort.rpartition("limit=")[2]) if "limit" in sort else len(RUNS))
    assert len(set(found)) == len(found)
    if first is not None:
        assert found[: len(first)] == first


def test_a_name_of_two_types(query: Reader) -> None:
    with pytest.raises(ClientError, match="cfg/mixed"):
        query("nq.runs.fetch_runs_table(attributes=['cfg/mixed'])")
    table = query.frame(
        "nq.runs.fetch_runs_table(runs='train', attributes=['cfg/mixed'], type_suffix_in_column_names=True)"
    )
    assert table.records() == {"train-1": {"cfg/mixed:int": 1}, "train-2": {"cfg/mixed:string": "text"}}


def test_nothing_is_an_empty_frame(query: Reader) -> None:
    for expression in (
        "nq.fetch_experiments_table(experiments='nothing', attributes='.*')",
        "nq.runs.fetch_runs_table(runs='nothing', attributes='.*')",
        "nq.fetch_metrics(experiments='nothing', attributes='.*')",
        "nq.fetch_metrics(experiments='train', attributes='nothing')",
        "nq.runs.fetch_metrics(runs=['nobody'], attributes=['m/loss'])",
        "nq.fetch_series(experiments='train', attributes='nothing')",
        "nq.fetch_metric_buckets(experiments='train', y='nothing')",
        "nq.fetch_metrics(experiments='train', attributes='m/loss', step_range=(5, 6))",
    ):
        assert query.frame(expression).rows == [], expression
    bare = query.frame("nq.fetch_experiments_table(experiments='train')")
    assert (bare.index, bare.columns) == (["train"], [])


def test_tables_of_all_projects(query: Reader, written: Written) -> None:
    both = f"Filter.eq(Attribute('cfg/int', 'int'), 10) | Filter.eq(Attribute('cfg/int', 'int'), {2**53 + 1})"
    heads = query.frame(
        f"nq.experimental.fetch_experiments_table_global(experiments={both}, attributes=['cfg/int'],"
        " sort_by=Attribute('cfg/int', 'int'), sort_direction='asc')"
    )
    assert heads.index == [(written.other_project, "train"), (written.project, "train")]
    assert heads.rows == [[10], [2**53 + 1]]
    runs = query.frame("nq.experimental.fetch_runs_table_global(runs=['train-1'], attributes=['cfg/int'])")
    assert sorted(zip(runs.index, runs.rows, strict=True)) == sorted(
        [((written.other_project, "train-1"), [10]), ((written.project, "train-1"), [1])]
    )
    assert query.frame("nq.experimental.fetch_runs_table_global(limit=1)").columns == []
    assert query("nq.list_experiments(project=P)".replace("P", repr(written.other_project))) == ["train"]


# Points


def test_metrics(query: Reader) -> None:
    frame_of(
        ("m/loss", points("train", LOSS)),
        ("m/odd", points("train", ODD)),
        ("m/previewed", points("train", PREVIEWED)),
        ("m/squares", points("train", SQUARES)),
    )(query.frame("nq.fetch_metrics(experiments='train', attributes='^m/')"))


def test_metrics_with_times_and_previews(query: Reader) -> None:
    frame = query.frame(
        "nq.fetch_metrics(experiments='train', attributes=['m/previewed'], include_time='absolute',"
        " include_point_previews=True, type_suffix_in_column_names=True)"
    )
    assert {label[1]: frame.column(label) for label in frame.columns} == {
        "value": points("train", {**PREVIEWED, **{step: value for step, (value, _) in PREVIEWS.items()}}),
        "absolute_time": {
            ("train", 1.0): ms(START_MS),
            ("train", 2.0): ms(START_MS + 1000),
            ("train", 3.0): ms(START_MS + 3000),
            ("train", 4.0): ms(START_MS + 4000),
        },
        "is_preview": {("train", 1.0): False, ("train", 2.0): False, ("train", 3.0): True, ("train", 4.0): True},
        "preview_completion": points("train", {1: 1.0, 2: 1.0, 3: 0.25, 4: 0.5}),
    }
    assert {label[0] for label in frame.columns} == {"m/previewed:float_series"}


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ("step_range=(2, 4)", [2, 3, 4]),
        ("step_range=(2.5, None)", [3, 4, 5, 6, 7, 8, 9]),
        ("step_range=(None, 1)", [0, 1]),
        ("tail_limit=3", [7, 8, 9]),
        ("tail_limit=2, step_range=(0, 5)", [4, 5]),
        ("tail_limit=1000", list(range(10))),
    ],
)
def test_parts_of_metrics(query: Reader, choice: str, steps: list[int]) -> None:
    expected = points("train", {step: SQUARES[step] for step in steps})
    for batch in ("10000", "1"):
        frame = query.frame(
            f"nq.fetch_metrics(experiments='train', attributes=['m/squares'], {choice})",
            NEPTUNE_QUERY_SERIES_BATCH_SIZE=batch,
        )
        frame_of(("m/squares", expected))(frame)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("nq.fetch_metrics(experiments='line-b'", {"line-b": range(12)}),
        ("nq.fetch_metrics(experiments='line-b', lineage_to_the_root=False", {"line-b": range(5, 12)}),
        ("nq.runs.fetch_metrics(runs=['fork-2'], lineage_to_the_root=False", {"fork-2": range(9, 12)}),
        ("nq.runs.fetch_metrics(runs=['fork-1']", {"fork-1": range(9)}),
        ("nq.runs.fetch_metrics(runs='^fork'", {"fork-1": range(9), "fork-2": range(12)}),
        ("nq.runs.fetch_metrics(runs=['root']", {"root": range(5)}),
        ("nq.runs.fetch_metrics(runs=['fork-2'], tail_limit=5", {"fork-2": range(7, 12)}),
        ("nq.runs.fetch_metrics(runs=['fork-2'], step_range=(3, 9)", {"fork-2": range(3, 10)}),
    ],
)
def test_lineage(query: Reader, call: str, expected: dict[str, range]) -> None:
    """By name and by expression: the client asks for the runs of a list without a search before."""
    values = {(run, float(step)): float(step) for run, steps in expected.items() for step in steps}
    for attributes in ("['m/line']", "'^m/line'"):
        frame_of(("m/line", values))(query.frame(f"{call}, attributes={attributes})"))


def test_what_comes_after_the_fork_is_not_inherited(query: Reader) -> None:
    assert query.frame("nq.runs.fetch_metrics(runs=['fork-1'], attributes=['m/late'])").rows == []
    frame_of(("m/late", {("root", 6.0): 6.0}))(
        query.frame("nq.runs.fetch_metrics(runs=['root'], attributes=['m/late'])")
    )


def test_series(query: Reader) -> None:
    frame = query.frame("nq.fetch_series(experiments='train', attributes='.*', include_time='absolute')")
    found = {
        label: {key: value for key, value in frame.column(label).items() if value not in (NAN, MISSING)}
        for label in frame.columns
    }
    images = found.pop(("f/images", "value"))
    assert {key: file[1]["size_bytes"] for key, file in images.items()} == {
        ("train", float(step)): len(image) for step, image in IMAGES.items()
    }
    times = {name: found.pop((name, "absolute_time")) for name in ("f/images", "h/counts", "h/densities", "s/notes")}
    assert times["s/notes"] == {("train", float(step)): ms(START_MS + 1000 * n) for n, step in enumerate(NOTES)}
    assert times["h/densities"] == {("train", 7.0): ms(START_MS + 7000)}
    assert found == {
        ("h/counts", "value"): {
            ("train", float(step)): histogram("COUNTING", *counts) for step, counts in COUNTS.items()
        },
        ("h/densities", "value"): {("train", 7.0): histogram("DENSITY", *DENSITIES)},
        ("s/notes", "value"): {("train", float(step)): text for step, text in NOTES.items()},
    }


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ("experiments='line-b'", range(12)),
        ("experiments='line-b', lineage_to_the_root=False", range(5, 12)),
        ("experiments='line-b', tail_limit=4", range(8, 12)),
        ("experiments='line-b', step_range=(4, 5)", range(4, 6)),
        ("experiments='line-b', step_range=(4, 9), tail_limit=2", range(8, 10)),
    ],
)
def test_parts_of_series(query: Reader, choice: str, steps: range) -> None:
    def writer(step: int) -> str:
        return "root" if step < 5 else "fork-1" if step < 9 else "fork-2"

    expected = {("line-b", float(step)): f"{writer(step)} {step}" for step in steps}
    frame_of(("s/line", expected))(query.frame(f"nq.fetch_series(attributes=['s/line'], {choice})"))


def test_series_of_one_run_alone(query: Reader) -> None:
    frame = query.frame("nq.runs.fetch_series(runs=['fork-2'], attributes=['s/line'], lineage_to_the_root=False)")
    frame_of(("s/line", {("fork-2", float(step)): f"fork-2 {step}" for step in range(9, 12)}))(frame)


# Buckets


def test_buckets(query: Reader) -> None:
    frame = query.frame("nq.fetch_metric_buckets(experiments='train', y=['m/squares'], limit=3)")
    assert frame.index == [(0.0, 3.0, "both"), (3.0, 6.0, "right"), (6.0, 9.0, "right")]
    assert frame.columns == [("train", "m/squares", "x"), ("train", "m/squares", "y")]
    # The first bucket shows its first point, all others their last one.
    assert frame.rows == [[0.0, 0.0], [6.0, 36.0], [9.0, 81.0]]


@pytest.mark.parametrize(("lineage", "first"), [(True, 0.0), (False, 5.0)])
def test_buckets_of_lineages(query: Reader, lineage: bool, first: float) -> None:
    frame = query.frame(
        f"nq.fetch_metric_buckets(experiments='line-b', y='m/line', limit=2, lineage_to_the_root={lineage})"
    )
    middle = first + (11.0 - first) / 2
    assert frame.index == [(first, middle, "both"), (middle, 11.0, "right")]
    assert frame.rows == [[first, first], [11.0, 11.0]]


def test_buckets_of_what_is_not_finite(query: Reader) -> None:
    """The client takes the first bucket with a finite point for that of the first one, and puts the next one to it."""
    frame = query.frame("nq.fetch_metric_buckets(experiments='train', y=['m/odd'], limit=2)")
    assert frame.index == [(2.0, 4.0, "both")]
    assert frame.rows == [[2.0, 1.0]]


def test_buckets_of_thousands_of_series(query: Reader) -> None:
    """More than a thousand: the client asks twice, the second time for a range that it has made up itself."""
    frame = query.frame("nq.fetch_metric_buckets(experiments='wide', y='^w/metric', limit=10)")
    assert frame.index == [(1.0, 1.0, "both")]
    assert len(frame.columns) == 2 * WIDE
    values = dict(zip(frame.columns, frame.rows[0], strict=True))
    assert values["wide", "w/metric/0080", "y"] == 10.0


# Pages


SMALL_PAGES = {
    "ATTRIBUTE_DEFINITIONS_BATCH_SIZE": "3",
    "ATTRIBUTE_VALUES_BATCH_SIZE": "7",
    "ENTRIES_SEARCH_MAX_PROJECTION_ATTRIBUTES": "2",
    "EXPERIMENT_SYS_ATTRS_BATCH_SIZE": "2",
    "FILES_BATCH_SIZE": "1",
    "MAX_ATTRIBUTE_FILTER_SIZE": "40",
    "MAX_REQUEST_SIZE": "160",
    "MAX_WORKERS": "16",
    "SERIES_BATCH_SIZE": "2",
}


@pytest.mark.parametrize(
    "expression",
    [
        "sorted(nq.runs.list_runs())",
        "nq.list_attributes(experiments='train | line')",
        "nq.runs.list_attributes(attributes='^sys/')",
        "nq.runs.fetch_runs_table(attributes='^(cfg/[^m]|m/|h/)', sort_direction='asc')",
        "nq.fetch_experiments_table(attributes=['cfg/int', 'cfg/bool', 'm/line', 'm/loss', 's/notes'])",
        "nq.runs.fetch_metrics(runs='.*', attributes='^m/')",
        "nq.runs.fetch_metrics(runs=['root', 'fork-1', 'fork-2'], attributes=['m/line', 'm/late'], tail_limit=3)",
        "nq.runs.fetch_series(runs='.*', attributes='^(s|h)/')",
        "nq.fetch_metric_buckets(experiments='train | line', y='^m/', limit=4)",
        "nq.experimental.fetch_runs_table_global(runs='fork', attributes='^m/', limit=2)",
    ],
)
def test_pages_of_any_size_are_the_whole(query: Reader, expression: str) -> None:
    small = {f"NEPTUNE_QUERY_{name}": value for name, value in SMALL_PAGES.items()}
    assert query(expression, **small) == query(expression)


# As the exporter of the hosted service asks


def test_what_an_exporter_asks_for(query: Reader) -> None:
    chosen = "Filter.matches('sys/custom_run_id', '.+') & Filter.ne(Attribute('sys/archived', 'bool'), True)"
    assert sorted(query(f"nq.runs.list_runs(runs={chosen})")) == sorted(RUNS)
    types = "['float', 'int', 'string', 'bool', 'datetime', 'string_set']"
    table = query.frame(
        f"nq.runs.fetch_runs_table(runs={RUNS!r}, attributes=AttributeFilter(type={types}),"
        " sort_by=Attribute('sys/id', 'string'), sort_direction='asc', type_suffix_in_column_names=True)"
    )
    ids = table.column("sys/id:string")
    assert list(ids.values()) == sorted(ids.values())
    assert {run: ids[run] for run in RUNS}.keys() == set(table.index)
    own = {name: value for name, value in table.records()["plain"].items() if not name.startswith("sys/")}
    assert own == {"cfg/int:int": 3}
    files = query.frame(
        f"nq.runs.fetch_runs_table(runs={RUNS!r}, attributes=AttributeFilter(type=['file']),"
        " sort_by=Attribute('sys/id', 'string'), sort_direction='asc', type_suffix_in_column_names=True)"
    )
    assert files.columns == ["f/weights:file"]
    names = [f"w/metric/{number:04}" for number in range(126)]
    metrics = query.frame(
        f"nq.runs.fetch_metrics(runs={RUNS!r}, attributes={['m/line', 'm/previewed', *names]!r},"
        " include_time='absolute', lineage_to_the_root=False, include_point_previews=True,"
        " type_suffix_in_column_names=True)"
    )
    value = metrics.column(("m/line:float_series", "value"))
    assert [key for key, item in value.items() if item != NAN] == [
        *(("fork-1", float(step)) for step in range(5, 9)),
        *(("fork-2", float(step)) for step in range(9, 12)),
        *(("root", float(step)) for step in range(5)),
    ]
    assert metrics.column((f"{names[80]}:float_series", "value"))["wide", 1.0] == 10.0


def test_what_an_exporter_asks_for_of_series_and_files(query: Reader, tmp_path: Path) -> None:
    texts_and_histograms = ["h/counts", "h/densities", "s/line", "s/notes"]
    kinds = {
        "['string_series', 'histogram_series']": texts_and_histograms,
        "['file']": ["f/weights"],
        "['file_series']": ["f/images"],
    }
    for types, names in kinds.items():
        chosen = f"runs={RUNS!r}, attributes=AttributeFilter(type={types})"
        assert query(f"nq.runs.list_attributes({chosen})") == names
    series = query.frame(
        f"nq.runs.fetch_series(runs={RUNS!r}, attributes={texts_and_histograms!r}, include_time='absolute',"
        " lineage_to_the_root=False)"
    )
    lines = {key: text for key, text in series.column(("s/line", "value")).items() if text not in (NAN, MISSING)}
    assert lines == {
        **{("fork-1", float(step)): f"fork-1 {step}" for step in range(5, 9)},
        **{("fork-2", float(step)): f"fork-2 {step}" for step in range(9, 12)},
        **{("root", float(step)): f"root {step}" for step in range(5)},
    }
    assert series.column(("h/densities", "value"))["train-2", 7.0] == histogram("DENSITY", *DENSITIES)
    images = (
        f"nq.runs.fetch_series(runs={RUNS!r}, attributes=AttributeFilter(name=['f/images'], type=['file_series']),"
        " include_time='absolute', lineage_to_the_root=False)"
    )
    table = (
        f"nq.runs.fetch_runs_table(runs={RUNS!r}, attributes=AttributeFilter(name=['f/weights'], type=['file']),"
        " sort_by=Attribute('sys/id', 'string'), sort_direction='asc', type_suffix_in_column_names=True)"
    )
    for files, expected in (
        (images, {("train-2", float(step)): image for step, image in IMAGES.items()}),
        (table, {("train-2", NAN): FILE}),
    ):
        found = query.frame(f"nq.runs.download_files(files={files}, destination={str(tmp_path)!r})")
        paths = {key: row[0] for key, row in zip(found.index, found.rows, strict=True)}
        assert {key: Path(path).read_bytes() for key, path in paths.items()} == expected


# Files


def test_download_files(query: Reader, tmp_path: Path) -> None:
    for source, expected in (
        ("nq.fetch_experiments_table(experiments='train', attributes=['f/weights'])", {("train", NAN): FILE}),
        (
            "nq.fetch_series(experiments='train', attributes=['f/images'])",
            {("train", float(step)): image for step, image in IMAGES.items()},
        ),
        ("nq.runs.fetch_runs_table(runs='train-2', attributes=['f/weights'])['f/weights']", {("train-2", NAN): FILE}),
    ):
        arguments = f"files={source}, destination={str(tmp_path)!r}"
        call = f"nq.runs.download_files({arguments})" if "runs" in source else f"nq.download_files({arguments})"
        frame = query.frame(call)
        assert {key: Path(row[0]).read_bytes() for key, row in zip(frame.index, frame.rows, strict=True)} == expected


def test_a_file_that_is_not_there(query: Reader, written: Written, tmp_path: Path) -> None:
    file = (
        f"__import__('neptune_query').types.File(project_identifier={written.project!r}, experiment_name='train',"
        " run_id=None, attribute_path='a', step=None, path='nowhere', size_bytes=1, mime_type='x')"
    )
    frame = query.frame(f"nq.download_files(files={file}, destination={str(tmp_path)!r})")
    assert frame.rows == [[MISSING]]


# Refusals


@pytest.mark.parametrize("project", ["local/nowhere", "nowhere/p"])
def test_a_project_that_is_not_there(query: Reader, project: str) -> None:
    for call in (
        "nq.list_experiments({})",
        "nq.runs.list_attributes({})",
        "nq.runs.fetch_metrics({}, runs=['train-1'], attributes=['m/loss'])",  # asks for points and nothing before
    ):
        with pytest.raises(ClientError) as caught:
            query(call.format(f"project={project!r}"))
        assert caught.value.name == "NeptuneProjectInaccessible"


def test_a_filter_by_what_is_not_finite(query: Reader) -> None:
    with pytest.raises(ClientError) as caught:
        query("nq.list_experiments(experiments=Filter.eq(Attribute('cfg/inf', 'float'), float('inf')))")
    assert caught.value.name == "NeptuneUnexpectedResponseError"


def test_an_expression_that_is_none(query: Reader) -> None:
    with pytest.raises(ClientError, match="400"):
        query("nq.list_experiments(experiments=Filter.matches(Attribute('cfg/string', 'string'), '('))")


def test_every_public_function_is_called_here(query: Reader) -> None:
    """Whatever a later version adds is missed here."""
    owners = ("nq", "nq.runs", "nq.experimental", "Filter", "AttributeFilter")
    # test_retries has to do with tokens.
    assert uncalled(query, Path(__file__), *owners) == {"nq.set_api_token"}
