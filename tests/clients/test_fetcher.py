"""neptune-fetcher 0.23.0 reads what neptune-scale logged, by both of its APIs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.reading import MISSING, NAN, ClientError, ms, plain, points, uncalled
from tests.clients.written import (
    CONFIGS_READ,
    FILE,
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
    from tests.clients.conftest import Written
    from tests.clients.reading import Reader

RUNS = ["train-1", "train-2", "plain", "root", "fork-1", "fork-2", "wide"]
EXPERIMENTS = ["line-a", "line-b", "train", "wide"]


# The newer API


def test_alpha_lists(fetcher: Reader) -> None:
    assert sorted(fetcher("alpha.list_experiments()")) == EXPERIMENTS
    assert fetcher("alpha.list_experiments(experiments='^line')") == ["line-a", "line-b"]
    assert sorted(fetcher("alpha.runs.list_runs()")) == sorted(RUNS)
    assert fetcher("alpha.runs.list_runs(runs=Filter.eq('cfg/int', 3))") == ["plain"]
    assert fetcher("alpha.runs.list_runs(runs=Filter.ge(Attribute('m/loss', aggregation='max'), 5))") == ["plain"]
    variance = "Filter.eq(Attribute('m/line', type='float_series', aggregation='average'), 5.5)"
    assert fetcher(f"alpha.runs.list_runs(runs={variance})") == ["fork-2"]
    assert fetcher("alpha.list_attributes(experiments='train', attributes='^[ms]/')") == [
        "m/loss",
        "m/odd",
        "m/previewed",
        "m/squares",
        "s/notes",
    ]
    assert fetcher("alpha.runs.list_attributes(runs='fork-2', attributes='^(cfg|m|s/)')") == [
        "cfg/depth",
        "m/line",
        "s/line",
    ]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("Filter.lt('cfg/int', 3)", ["train-1"]),
        ("Filter.le('cfg/int', 3)", ["plain", "train-1"]),
        ("Filter.gt('cfg/int', 3)", ["train-2"]),
        ("Filter.ne('cfg/int', 3) & Filter.exists('cfg/int')", ["train-1", "train-2"]),
        ("Filter.exists(Attribute('f/weights', type='file'))", ["train-2"]),
        ("Filter.matches_all('cfg/string', ['ünï$', '^a'])", ["train-2"]),
        ("Filter.matches_none('sys/custom_run_id', ['^train', 'o', 'w'])", ["plain"]),
        ("Filter.contains_all('sys/tags', ['best', 'new'])", ["train-2"]),
        ("Filter.contains_none('sys/tags', 'best') & Filter.name_eq('train')", ["train-1"]),
        ("Filter.name_in('line-a', 'wide')", ["root", "wide"]),
        ("Filter.all(Filter.eq('cfg/bool', True), Filter.eq('s/notes', ''))", ["train-2"]),
        ("Filter.any(Filter.eq('cfg/int', 1), Filter.eq('cfg/int', 3))", ["plain", "train-1"]),
        ("Filter.negate(Filter.any(Filter.exists('cfg/int'), Filter.exists('m/line')))", ["wide"]),
        ("Filter.eq(Attribute('m/squares', aggregation='variance', type='float_series'), 721.05)", ["train-2"]),
    ],
)
def test_alpha_filters(fetcher: Reader, filter_: str, expected: list[str]) -> None:
    assert sorted(fetcher(f"alpha.runs.list_runs(runs={filter_})")) == expected


def test_alpha_attribute_filters(fetcher: Reader) -> None:
    either = "AttributeFilter.any(AttributeFilter(name_eq='cfg/bool'), AttributeFilter(name_matches_all=['^m', 'o$']))"
    found = fetcher(f"alpha.list_attributes(experiments='train', attributes={either})")
    assert found == ["cfg/bool"]
    rest = "AttributeFilter(name_matches_all='^m/', name_matches_none=['odd', 'es$'], type_in=['float_series'])"
    assert fetcher(f"alpha.list_attributes(experiments='train', attributes={rest})") == ["m/loss", "m/previewed"]


def test_alpha_contexts(fetcher: Reader, written: Written) -> None:
    other = f"alpha.set_project({written.other_project!r})"
    # What is set holds for all that the client does afterwards.
    found = fetcher(
        f"(before := alpha.get_context(), {other}, alpha.list_experiments(), alpha.set_context(before),"
        " alpha.list_experiments())"
    )
    assert found[2] == ["train"]
    assert sorted(found[4]) == EXPERIMENTS
    token = "__import__('os').environ['NEPTUNE_API_TOKEN']"
    found = fetcher(
        f"(before := alpha.get_context(), alpha.set_api_token({token}), alpha.list_experiments(),"
        " alpha.set_context(before), None)"
    )
    assert sorted(found[2]) == EXPERIMENTS


def test_alpha_tables(fetcher: Reader) -> None:
    table = fetcher.frame("alpha.fetch_experiments_table(experiments='train', attributes='^(cfg|m|s)/')")
    found = {label[0]: value for label, value in table.records()["train"].items()}
    expected = {**CONFIGS_READ, "cfg/mixed": "text", "m/loss": -1e300, "m/odd": 3.0, "m/previewed": 2.0}
    assert found == {**expected, "m/squares": 81.0, "s/notes": ""}
    aggregated = fetcher.frame(
        "alpha.runs.fetch_runs_table(sort_direction='asc', attributes=AttributeFilter(name_eq=['m/squares', 'm/line'],"
        " aggregations=['last', 'min', 'max', 'average', 'variance']))"
    )
    assert aggregated.index == RUNS
    assert aggregated.records()["train-2"] == {
        ("m/squares", "last"): 81.0,
        ("m/squares", "min"): 0.0,
        ("m/squares", "max"): 81.0,
        ("m/squares", "average"): 28.5,
        ("m/squares", "variance"): pytest.approx(721.05, rel=1e-6),
    }
    # Over the whole lineage of a fork.
    assert aggregated.records()["fork-2"] == {
        ("m/line", "last"): 11.0,
        ("m/line", "min"): 0.0,
        ("m/line", "max"): 11.0,
        ("m/line", "average"): 5.5,
        ("m/line", "variance"): pytest.approx(143 / 12, rel=1e-6),
    }
    wide = fetcher.frame("alpha.fetch_experiments_table(experiments='wide', attributes='^w/')")
    assert len(wide.columns) == 2 * WIDE
    assert fetcher.frame("alpha.fetch_experiments_table(experiments='nothing')").rows == []


def test_alpha_metrics(fetcher: Reader) -> None:
    frame = fetcher.frame("alpha.fetch_metrics(experiments='train', attributes='^m/')")
    assert frame.columns == ["m/loss", "m/odd", "m/previewed", "m/squares"]
    for name, logged in (("m/loss", LOSS), ("m/odd", ODD), ("m/previewed", PREVIEWED), ("m/squares", SQUARES)):
        assert frame.column(name) == {key: points("train", logged).get(key, NAN) for key in frame.index}
    assert len(frame.index) == len({float(step) for logged in (LOSS, ODD, PREVIEWED, SQUARES) for step in logged})


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ("", range(12)),
        # This client does not say whether of the experiment or of the run: of the run.
        (", lineage_to_the_root=False", range(9, 12)),
        (", tail_limit=3", range(9, 12)),
        (", step_range=(4, 9)", range(4, 10)),
    ],
)
def test_alpha_lineage(fetcher: Reader, choice: str, steps: range) -> None:
    frame = fetcher.frame(f"alpha.fetch_metrics(experiments='line-b', attributes='m/line'{choice})")
    assert frame.column("m/line") == {("line-b", float(step)): float(step) for step in steps}


def test_alpha_previews_and_times(fetcher: Reader) -> None:
    frame = fetcher.frame(
        "alpha.runs.fetch_metrics(runs='train-2', attributes='m/previewed', include_time='absolute',"
        " include_point_previews=True)"
    )
    both = {**PREVIEWED, **{step: value for step, (value, _) in PREVIEWS.items()}}
    assert frame.column(("m/previewed", "value")) == points("train-2", both)
    assert list(frame.column(("m/previewed", "is_preview")).values()) == [False, False, True, True]
    assert list(frame.column(("m/previewed", "preview_completion")).values()) == [1.0, 1.0, 0.25, 0.5]
    assert frame.column(("m/previewed", "absolute_time"))["train-2", 4.0] == ms(START_MS + 4000)


def test_alpha_series(fetcher: Reader) -> None:
    notes = fetcher.frame("alpha.fetch_series(experiments='train', attributes='^s/')")
    assert notes.column("s/notes") == {("train", float(step)): text for step, text in NOTES.items()}
    line = fetcher.frame("alpha.runs.fetch_series(runs='fork-2', attributes='s/line', tail_limit=4)")
    assert list(line.column("s/line").values()) == ["fork-1 8", "fork-2 9", "fork-2 10", "fork-2 11"]


def test_alpha_downloads(fetcher: Reader, tmp_path: Path) -> None:
    """The client downloads with the library of Azure, whatever it is told."""
    frame = fetcher.frame(f"alpha.download_files(experiments='train', attributes='^f/', destination={str(tmp_path)!r})")
    assert [label for label, value in frame.records()["train"].items() if value] == ["f/weights"]
    assert Path(frame.records()["train"]["f/weights"]).read_bytes() == FILE


def test_alpha_nothing_is_an_empty_frame(fetcher: Reader, tmp_path: Path) -> None:
    for expression in (
        "alpha.fetch_experiments_table(experiments='nothing', attributes='.*')",
        "alpha.runs.fetch_runs_table(runs='nothing', attributes='.*')",
        "alpha.fetch_metrics(experiments='nothing', attributes='.*')",
        "alpha.runs.fetch_metrics(runs='train-2', attributes='nothing')",
        "alpha.fetch_metrics(experiments='train', attributes='m/loss', step_range=(5, 6))",
        "alpha.fetch_series(experiments='train', attributes='nothing')",
        f"alpha.download_files(experiments='nothing', attributes='.*', destination={str(tmp_path)!r})",
    ):
        assert fetcher.frame(expression).rows == [], expression
    assert fetcher("alpha.runs.list_runs(runs='nothing')") == []
    assert fetcher("alpha.list_attributes(experiments='train', attributes='nothing')") == []


def test_alpha_refusals(fetcher: Reader) -> None:
    with pytest.raises(ClientError) as caught:
        fetcher("alpha.list_experiments(context=alpha.get_context().with_project('local/nowhere'))")
    assert caught.value.name == "NeptuneProjectInaccessible"
    with pytest.raises(ClientError, match="400"):
        fetcher("alpha.list_experiments(experiments=Filter.matches_all(Attribute('cfg/string', type='string'), '('))")


# The older API


def test_legacy_lists(fetcher: Reader) -> None:
    found = fetcher("list(ReadOnlyProject().list_runs())")
    assert [item["sys/id"] for item in found] == sorted((item["sys/id"] for item in found), reverse=True)
    assert {item["sys/custom_run_id"]: item["sys/name"] for item in found} == {
        "train-1": "train",
        "train-2": "train",
        "plain": MISSING,
        "root": "line-a",
        "fork-1": "line-b",
        "fork-2": "line-b",
        "wide": "wide",
    }
    heads = fetcher("list(ReadOnlyProject().list_experiments())")
    assert {item["sys/custom_run_id"] for item in heads} == {"wide", "fork-2", "root", "train-2"}
    rows = fetcher.frame("ReadOnlyProject().fetch_runs()")
    assert list(rows.column("sys/custom_run_id").values()) == RUNS[::-1]
    assert set(rows.column("sys/id").values()) == {item["sys/id"] for item in found}
    assert len(fetcher.frame("ReadOnlyProject().fetch_experiments()").rows) == 4


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("", RUNS[::-1]),
        ("ascending=True", RUNS),
        ("names_regex='^line'", ["fork-2", "fork-1", "root"]),
        ("custom_id_regex='^train'", ["train-2", "train-1"]),
        ("custom_ids=['plain', 'root', 'nobody']", ["root", "plain"]),
        ("tags=['best', 'new']", ["train-2"]),
        ("owners=['owner']", RUNS[::-1]),
        ("owners=['nobody']", []),
        ("states=['active']", RUNS[::-1]),
        ("states=['inactive']", []),
        ("trashed=True", []),
        ("trashed=None, limit=2", ["wide", "fork-2"]),
        ("query='`cfg/int`:int > 2'", ["plain", "train-2"]),
        ("query='(cfg/bool: bool = true)'", ["train-2"]),
    ],
)
def test_legacy_tables(fetcher: Reader, choice: str, expected: list[str]) -> None:
    frame = fetcher.frame(f"ReadOnlyProject().fetch_runs_df(progress_bar=False, {choice})")
    assert (list(frame.column("sys/custom_run_id").values()) if frame.rows else []) == expected


def test_legacy_columns(fetcher: Reader) -> None:
    frame = fetcher.frame(
        "ReadOnlyProject().fetch_experiments_df(columns=['cfg/int', 'm/squares', 'sys/tags', 'm/line'],"
        " columns_regex='^cfg/float', names_regex='train|line-b', sort_by='cfg/int', progress_bar=False)"
    )
    rows = {row["sys/custom_run_id"]: row for row in frame.records().values()}
    assert list(rows) == ["train-2", "fork-2"]
    assert {name: value for name, value in rows["train-2"].items() if name != "sys/tags"} == {
        "sys/custom_run_id": "train-2",
        "sys/name": "train",
        "cfg/int": float(2**53),
        "cfg/float": 0.1,
        "m/squares": 81.0,
    }
    assert set(rows["train-2"]["sys/tags"].split(",")) == {"best", "new"}
    assert rows["fork-2"]["m/line"] == 11.0
    excluded = fetcher.frame("ReadOnlyProject().fetch_experiments_df(names_exclude_regex='line', progress_bar=False)")
    assert list(excluded.column("sys/name").values()) == ["wide", "train"]


def test_legacy_fields(fetcher: Reader) -> None:
    runs = "ReadOnlyProject().fetch_read_only_runs(custom_ids=['train-2'], eager_load_fields={})"
    eager = fetcher(f"[{{n: r[n].fetch() for n in r.field_names}} for r in {runs.format(True)}]")[0]
    lazy = fetcher(f"[{{n: r[n].fetch() for n in r.field_names}} for r in {runs.format(False)}]")[0]
    assert lazy == eager
    own = {name: value for name, value in eager.items() if not name.startswith("sys/")}
    # This client has no values of files, histograms and strings in series.
    unsupported = dict.fromkeys(["f/images", "f/weights", "h/counts", "h/densities", "s/notes"], MISSING)
    lasts = {"m/loss": -1e300, "m/odd": 3.0, "m/previewed": 2.0, "m/squares": 81.0}
    assert own == {**CONFIGS_READ, "cfg/mixed": "text", **lasts, **unsupported}
    assert eager["sys/tags"] == {"best", "new"}
    assert eager["sys/creation_time"] == ms(START_MS + 1000)
    (wide,) = fetcher(
        "[(r.prefetch(names := [n for n in r.field_names if n.startswith('w/config')]),"
        " {n: r[n].fetch() for n in names}) for r in ReadOnlyProject().fetch_read_only_experiments(names=['wide'])]"
    )
    assert wide[1] == {f"w/config/{number:04}": number for number in range(WIDE)}


def test_legacy_points(fetcher: Reader) -> None:
    def rows(run: str, path: str, choice: str = "") -> list[list[Any]]:
        opened = f"ReadOnlyRun(ReadOnlyProject(), custom_id={run!r})"
        frame = fetcher.frame(f"{opened}[{path!r}].fetch_values(include_timestamp=False, {choice})")
        return frame.rows

    for last in ("fetch", "fetch_last"):
        assert fetcher(f"ReadOnlyRun(ReadOnlyProject(), custom_id='fork-2')['m/line'].{last}()") == 11.0
    assert rows("train-2", "m/loss") == [[float(step), value] for step, value in LOSS.items()]
    assert rows("train-2", "m/odd") == [[float(step), plain(value)] for step, value in ODD.items()]
    assert rows("fork-2", "m/line") == [[float(step)] * 2 for step in range(12)]
    assert rows("fork-2", "m/line", "include_inherited=False") == [[float(step)] * 2 for step in range(9, 12)]
    assert rows("fork-2", "m/line", "step_range=(4, None)") == [[float(step)] * 2 for step in range(4, 12)]
    assert [row[:2] for row in rows("train-2", "m/previewed", "include_point_previews=True")] == [
        [float(step), value] for step, value in {**PREVIEWED, 3: 3.0, 4: 4.0}.items()
    ]


@pytest.mark.parametrize("use_threads", [False, True])
def test_legacy_prefetched_points(fetcher: Reader, use_threads: bool) -> None:
    names = [f"w/metric/{number:04}" for number in range(0, WIDE, 7)]
    values = fetcher(
        f"[(r.prefetch_series_values([*{names!r}, 'nothing'], use_threads={use_threads}, progress_bar=False),"
        f" [r[n].fetch_values(include_timestamp=False) for n in {names!r}])"
        " for r in ReadOnlyProject().fetch_read_only_experiments(names=['wide'])]"
    )[0][1]
    assert [frame["rows"] for frame in values] == [[[1.0, number / 8]] for number in range(0, WIDE, 7)]


def test_legacy_refusals(fetcher: Reader, written: Written) -> None:
    with pytest.raises(ClientError):
        fetcher("ReadOnlyProject(project='local/nowhere')")
    with pytest.raises(ClientError):
        fetcher("ReadOnlyProject().fetch_runs_df(query='(((', progress_bar=False)")
    assert fetcher(f"ReadOnlyProject(project={written.other_project!r}).fetch_runs()")["rows"] != []


def test_every_public_function_is_called_here(fetcher: Reader) -> None:
    """Whatever a later version adds is missed here."""
    owners = ("alpha", "alpha.runs", "Filter", "AttributeFilter", "ReadOnlyProject", "ReadOnlyRun")
    objects = {"ReadOnlyProject": r"ReadOnlyProject\(.*?\)", "ReadOnlyRun": r"\br"}
    missing = uncalled(fetcher, Path(__file__), *owners, known=objects)
    assert missing == {"Filter.to_query"}  # what the others call
