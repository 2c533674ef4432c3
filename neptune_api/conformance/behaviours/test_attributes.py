"""Attributes: values and definitions, of projects and of single runs, inherited series included."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neptune_api import exceptions
from neptune_api.conformance import operations
from neptune_api.conformance.logging_helpers import log, submit
from neptune_api.conformance.reading_helpers import SERIES, by_name, definitions, of_types, run_of, user_names, values
from neptune_api.v1 import attributes_service_pb2 as pb
from neptune_api.v1.attributes_pb2 import FileRefAttribute, NextPage
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceStub
from neptune_api.v1.queries_pb2 import (
    AttributeNameFilter,
    AttributeType,
    StringList,
)
from neptune_api.v1.runs_service_pb2 import DeleteRunsRequest, TrashRunsRequest
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub
from neptune_api.v1.series_pb2 import FileRefValue, HistogramValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.conformance.people import Person
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def attributes(connection: Connection) -> Any:
    return connection.stub(AttributesServiceStub)


def summary(attributes: Any, run: str, name: str) -> tuple[float, ...]:
    """Return last step, last, min, max, average and variance, all of which are always set."""
    found = by_name(attributes, run, name)[name].float_series_properties
    fields = ("last_step", "last", "min", "max", "average", "variance")
    present = {field.name for field, _ in found.ListFields()}
    assert present >= set(fields)
    return tuple(getattr(found, field) for field in fields)


def numpy_summary(points: dict[float, float]) -> tuple[float, ...]:
    logged = np.array(list(points.values()))
    finite = logged[np.isfinite(logged)]
    last = max(points)
    if not len(finite):
        return (last, points[last], *[math.nan] * 4)
    return last, points[last], finite.min(), finite.max(), finite.mean(), finite.var()


# Values of one run


def test_every_type_comes_back(
    attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    configs = {
        "a/int": -(2**63),
        "a/zero": 0,
        "a/float": 0.1,
        "a/nan": math.nan,
        "a/inf": -math.inf,
        "a/false": False,
        "a/true": True,
        "a/string": "tëxt",
        "a/empty": "",
        "a/time": operations.timestamp(-1),
        "a/set": frozenset({"b", "a", "ü"}),
        "a/file": operations.file("x/y.png", 2**40, "image/png"),
    }
    series = {
        "s/float": {0: 1.0, 2: 3.0},
        "s/string": {0: "a", 1.5: "b"},
        "s/histogram": {1: operations.counts([0, 1, 2], [3, 4])},
        "s/density": {1: operations.densities([0, 1], [0.5])},
        "s/file": {3: operations.file("p"), 1: operations.file("q")},
    }
    log(connection, identifier, "r", configs=configs, series=series)
    run = run_of(connection, identifier, "r")
    answer = attributes.GetAttributes(pb.GetAttributesRequest(holder_identifier=run.id, holder_type="experiment"))
    assert (answer.experiment_id, answer.type, answer.project_id) == (run.id, "run", project.id)
    assert (answer.project_name, answer.organization_name) == (project.name, project.organization_name)
    assert answer.organization_id == project.organization_id
    found = {item.name: item for item in answer.attributes}
    assert list(found) == sorted(found)
    types = {name: item.type for name, item in found.items() if not name.startswith("sys/")}
    assert types == {
        "a/int": "int",
        "a/zero": "int",
        "a/float": "float",
        "a/nan": "float",
        "a/inf": "float",
        "a/false": "bool",
        "a/true": "bool",
        "a/string": "string",
        "a/empty": "string",
        "a/time": "datetime",
        "a/set": "stringSet",
        "a/file": "fileRef",
        "s/float": "floatSeries",
        "s/string": "stringSeries",
        "s/histogram": "histogramSeries",
        "s/density": "histogramSeries",
        "s/file": "fileRefSeries",
    }
    # There is no message for a state: name and type are all.
    state = found.pop("sys/state")
    assert [field.name for field, _ in state.ListFields()] == ["name", "type"]
    assert state.type == "experimentState"
    for name, item in found.items():
        (properties,) = [value for field, value in item.ListFields() if field.message_type is not None]
        assert (properties.attribute_name, properties.attribute_type) == (name, item.type)
    assert found["a/int"].int_properties.value == -(2**63)
    assert found["a/zero"].HasField("int_properties")
    assert found["a/float"].float_properties.value == 0.1
    assert math.isnan(found["a/nan"].float_properties.value)
    assert found["a/inf"].float_properties.value == -math.inf
    assert [found[name].bool_properties.value for name in ("a/false", "a/true")] == [False, True]
    assert [found[name].string_properties.value for name in ("a/string", "a/empty")] == ["tëxt", ""]
    assert found["a/time"].datetime_properties.value == -1
    assert found["a/set"].string_set_properties.value == ["a", "b", "ü"]
    assert found["a/file"].file_ref_properties == FileRefAttribute(
        attribute_name="a/file", attribute_type="fileRef", path="x/y.png", size_bytes=2**40, mime_type="image/png"
    )
    string = found["s/string"].string_series_properties
    assert (string.last_step, string.last) == (1.5, "b")
    histogram = found["s/histogram"].histogram_series_properties
    assert histogram.last == HistogramValue(type="COUNTING", edges=[0, 1, 2], values=[3, 4])
    assert found["s/density"].histogram_series_properties.last.type == "DENSITY"
    file = found["s/file"].file_ref_series_properties
    assert (file.last_step, file.last) == (3, FileRefValue(path="p", size_bytes=1, mime_type="text/plain"))
    assert not found["s/float"].float_series_properties.has_preview


def test_paths_choose_attributes(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"a": 1, "b": 2})
    run = run_of(connection, identifier, "r")
    assert list(by_name(attributes, f"{identifier}/{run.short_id}", "b", "sys/id", "none", "b")) == ["b", "sys/id"]
    nothing = pb.AttributePathsQuery(attribute_paths_filter=StringList())
    for query, some in ((nothing, False), (pb.AttributePathsQuery(), True), (None, True)):
        request = pb.GetAttributesRequest(holder_identifier=run.id, query=query)
        assert bool(attributes.GetAttributes(request).attributes) is some


@pytest.mark.parametrize(
    "logged",
    [
        [float(x * x) for x in range(10)],
        [0.0, 1.0, 4.0, 9.0],
        [5.0],
        [math.nan],
        [math.inf, -math.inf],
        [1.0, math.nan, 3.0, math.inf],
        [math.nan, 2.0],
        [1e300, -1e300],
    ],
    ids=str,
)
def test_summaries_are_those_of_numpy(
    attributes: Any, connection: Connection, identifier: str, logged: list[float]
) -> None:
    points = {float(step): value for step, value in enumerate(logged)}
    log(connection, identifier, "r", series={"m": points})
    run = run_of(connection, identifier, "r")
    with np.errstate(over="ignore"):
        expected = numpy_summary(points)
    np.testing.assert_allclose(summary(attributes, run.id, "m"), expected, rtol=1e-12)
    assert summary(attributes, run.id, "m")[4] == expected[4] or math.isnan(expected[4])


def test_summaries_span_the_whole_lineage(attributes: Any, connection: Connection, identifier: str) -> None:
    root = {float(step): float(step * step) for step in range(100)}
    child = {float(step): -float(step) for step in range(51, 80)}
    log(connection, identifier, "root", series={"m": root, "text": {step: f"{step}" for step in range(10)}})
    log(connection, identifier, "child", parent="root", at=50, series={"m": child})
    log(connection, identifier, "early", parent="child", at=20.5)
    log(connection, identifier, "late", parent="child", at=70, series={"m": {71.0: math.nan}})
    own = {step: value for step, value in root.items() if step <= 50} | child
    expected = {
        "root": root,
        "child": own,
        "early": {step: value for step, value in root.items() if step <= 20.5},
        "late": {step: value for step, value in own.items() if step <= 70} | {71.0: math.nan},
    }
    for _ in range(2):  # the second time from what was kept
        for name, points in expected.items():
            run = run_of(connection, identifier, name)
            np.testing.assert_allclose(summary(attributes, run.id, "m"), numpy_summary(points), rtol=1e-12)
    run = run_of(connection, identifier, "early")
    text = by_name(attributes, run.id, "text")["text"].string_series_properties
    assert (text.last_step, text.last) == (9, "9")


def test_the_last_values_of_other_series_are_cut_at_the_fork_too(
    attributes: Any, connection: Connection, identifier: str
) -> None:
    steps = [5, 1, 3, 2, 4, 0]
    files = {step: operations.file(f"f{step}") for step in steps}
    log(connection, identifier, "root", series={"file": files, "text": {step: f"t{step}" for step in range(200)}})
    log(connection, identifier, "child", parent="root", at=3.5)
    found = by_name(attributes, run_of(connection, identifier, "child").id, "file", "text")
    assert found["file"].file_ref_series_properties.last.path == "f3"
    assert found["file"].file_ref_series_properties.last_step == 3
    assert found["text"].string_series_properties.last == "t3"
    later = operations.START_MS + 1000
    submit(
        connection,
        operations.append({"file": operations.file("new")}, 3, later, run="root", project=identifier),
        operations.append({"file": operations.file("between")}, 3.25, later, run="root", project=identifier),
    )
    found = by_name(attributes, run_of(connection, identifier, "child").id, "file")
    assert found["file"].file_ref_series_properties.last.path == "between"


def test_previews_do_not_count(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", series={"m": {1: 1.0}})
    submit(
        connection,
        operations.append({"m": 99.0, "only": 5.0}, 2, preview=0.5, run="r", project=identifier),
    )
    run = run_of(connection, identifier, "r")
    found = by_name(attributes, run.id)
    assert found["m"].float_series_properties.has_preview
    assert summary(attributes, run.id, "m") == (1, 1, 1, 1, 1, 0)
    assert found["only"].float_series_properties.has_preview
    assert all(map(math.isnan, summary(attributes, run.id, "only")))
    log(connection, identifier, "r", create=False, series={"m": {2: 2.0}})
    assert not by_name(attributes, run.id, "m")["m"].float_series_properties.has_preview


@pytest.mark.parametrize("name", ["", "x", "KEY-1", "a/b"])
def test_malformed_holders_are_refused(attributes: Any, name: str) -> None:
    calls: list[tuple[Callable[[Any], Any], Any, str]] = [
        (attributes.GetAttributes, pb.GetAttributesRequest(holder_identifier=name), "holder_identifier"),
        (
            attributes.GetAttributeDefinitions,
            pb.GetAttributeDefinitionsRequest(experiment_identifier=name),
            "experiment_identifier",
        ),
    ]
    for call, request, field in calls:
        with pytest.raises(exceptions.InvalidArgumentException) as caught:
            call(request)
        assert [violation.field for violation in caught.value.violations] == [field]


def test_another_kind_of_holder_is_refused(attributes: Any, identifier: str) -> None:
    with pytest.raises(exceptions.InvalidArgumentException):
        attributes.GetAttributes(pb.GetAttributesRequest(holder_identifier=f"{identifier}/A-1", holder_type="project"))


def test_unknown_and_invisible_runs_are_not_found(
    wire: Wire, attributes: Any, connection: Connection, identifier: str, make_user: Callable[..., Person]
) -> None:
    log(connection, identifier, "r")
    run = run_of(connection, identifier, "r")
    theirs = wire.connect(make_user().api_token).stub(AttributesServiceStub)
    for stub, name in (
        (attributes, f"CUSTOM/{identifier}/x"),
        (theirs, run.id),
        (theirs, f"{identifier}/{run.short_id}"),
    ):
        with pytest.raises(exceptions.NotFoundException):
            stub.GetAttributes(pb.GetAttributesRequest(holder_identifier=name))
        with pytest.raises(exceptions.NotFoundException):
            stub.GetAttributeDefinitions(pb.GetAttributeDefinitionsRequest(experiment_identifier=name))
    with pytest.raises(exceptions.NotFoundException):
        values(theirs, identifier)
    with pytest.raises(exceptions.PermissionDeniedException) as caught:
        definitions(theirs, identifier, "no/project")
    assert caught.value.error_info is not None
    assert caught.value.error_info.reason == "ACCESS_DENIED"


# Values of a project


def test_values_come_by_run_and_path_in_pages_of_any_size(
    attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    key = project.project_key
    expected = []
    for number in range(1, 6):
        names = {f"p/{position:02}" for position in range(number)} | {"ä", "z"}
        log(connection, identifier, f"run {number}", configs=dict.fromkeys(names, number))
        expected += [(f"{key}-{number}", name) for name in sorted(names)]
    for limit in (None, 1, 2, 3, 7, len(expected), 10_000):
        assert values(attributes, identifier, limit=limit, attribute_name_filter=user_names()) == expected
    some = StringList(values=["z", "p/03", "missing"])
    chosen = [cell for cell in expected if cell[1] in {"z", "p/03"}]
    for limit in (None, 1, 4):
        assert values(attributes, project.id, limit=limit, attribute_names_filter=some) == chosen
    everything = values(attributes, identifier)
    for limit in (1, 50, 99):
        assert values(attributes, identifier, limit=limit) == everything
    assert set(expected) < set(everything)


def test_entries_name_their_runs(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"x": 1})
    run = run_of(connection, identifier, "r")
    query = pb.AttributeValuesQuery(attribute_names_filter=StringList(values=["x"]))
    answer = attributes.QueryAttributeValues(pb.QueryAttributeValuesRequest(project_identifier=identifier, query=query))
    (entry,) = answer.entries
    assert (entry.experiment_id, entry.experiment_short_id) == (run.id, run.short_id)
    assert entry.attributes[0] == by_name(attributes, run.id, "x")["x"]
    assert answer.next_page == NextPage(limit=10_000)


def test_runs_choose_values(attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str) -> None:
    for name in "abc":
        log(connection, identifier, name, configs={"x": 1})
    a, b, c = (run_of(connection, identifier, name) for name in "abc")
    names = StringList(values=["x"])

    def chosen(*runs: str) -> list[str]:
        found = values(
            attributes,
            identifier,
            attribute_names_filter=names,
            experiment_ids_filter=StringList(values=runs),
            limit=1,
        )
        return [cell[0] for cell in found]

    identifiers = [c.id, f"{identifier}/{a.short_id}", a.id, f"CUSTOM/{identifier}/c", "unknown", f"{identifier}/Z-1"]
    assert chosen(*identifiers) == [a.short_id, c.short_id]
    assert chosen(b.short_id) == [b.short_id]
    assert chosen() == []
    assert chosen("unknown") == []
    assert len(values(attributes, identifier, attribute_names_filter=names)) == 3


def test_filters_of_values_all_have_to_pass(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"a": 1, "b": 1, "c": "text"}, series={"m/a": {1: 1.0}})

    def found(**query: Any) -> list[str]:
        return [name for _, name in values(attributes, identifier, **query)]

    integers = of_types([AttributeType.ATTRIBUTE_TYPE_INT])
    some = StringList(values=["a", "c", "m/a"])
    assert found(attribute_names_filter=some) == ["a", "c", "m/a"]
    assert found(attribute_names_filter=some, attribute_filter=integers) == ["a"]
    assert found(attribute_name_filter=user_names(), attribute_filter=integers) == ["a", "b"]
    everything = AttributeNameFilter(must_match_regexes=["a"])
    assert found(attribute_names_filter=some, attribute_name_filter=everything) == ["a", "m/a"]
    assert found(attribute_names_filter=StringList()) == []
    assert found(attribute_filter=of_types([AttributeType.ATTRIBUTE_TYPE_GIT_REF])) == []
    assert found(attribute_name_filter=user_names(), attribute_filter=of_types(SERIES)) == ["m/a"]


def test_more_names_than_the_database_compares(attributes: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "r", configs={"n/10": 1, "m": 2})
    names = StringList(values=[f"n/{number}" for number in range(12_000)])
    assert [name for _, name in values(attributes, identifier, attribute_names_filter=names)] == ["n/10"]


def test_large_values_make_short_pages(attributes: Any, connection: Connection, identifier: str) -> None:
    text = "x" * (1 << 20)
    for run in ("a", "b"):
        for part in range(2):
            names = [f"{part}/{position}" for position in range(6)]
            log(connection, identifier, run, create=part == 0, configs=dict.fromkeys(names, text))
    query = pb.AttributeValuesQuery(attribute_name_filter=user_names())
    sizes = []
    while True:
        page = attributes.QueryAttributeValues(
            pb.QueryAttributeValuesRequest(project_identifier=identifier, query=query)
        )
        sizes.append(sum(len(entry.attributes) for entry in page.entries))
        if not page.next_page.next_page_token:
            break
        query.next_page.next_page_token = page.next_page.next_page_token
    assert sum(sizes) == 24
    assert len(sizes) == 2


def test_values_and_definitions_include_inherited_series(
    attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    """What the parent logged up to the fork belongs to the child, series of which every point lies behind it do not."""
    key = project.project_key
    log(
        connection,
        identifier,
        "root",
        configs={"config": 1},
        series={"a/early": {0: 1.0}, "m": {1: 1.0, 9: 9.0}, "text": {5: "x"}, "z/late": {5.000001: 1.0}},
    )
    log(connection, identifier, "other", configs={"b": 1})
    log(connection, identifier, "child", parent="root", at=5, series={"c": {6: 1.0}, "m": {6: 6.0}})
    log(connection, identifier, "grandchild", parent="child", at=0.5, configs={"own": 1})
    inherited = {"child": ["a/early", "c", "m", "text"], "grandchild": ["a/early", "own"]}
    numbers = {"root": 1, "other": 2, "child": 3, "grandchild": 4}
    expected = {"root": ["a/early", "config", "m", "text", "z/late"], "other": ["b"], **inherited}
    cells = [(f"{key}-{numbers[name]}", path) for name, paths in expected.items() for path in paths]
    for limit in (None, 1, 2, 3, 4, 5, 6):
        assert values(attributes, identifier, limit=limit, attribute_name_filter=user_names()) == cells
    exact = StringList(values=["a/early", "own", "m"])
    chosen = [cell for cell in cells if cell[1] in exact.values]
    for limit in (None, 1, 2):
        assert values(attributes, identifier, limit=limit, attribute_names_filter=exact) == chosen
    for name, paths in inherited.items():
        run = run_of(connection, identifier, name)
        only = StringList(values=[run.id])
        of_run = definitions(
            attributes, identifier, limit=1, experiment_ids_filter=only, attribute_name_filter=user_names()
        )
        assert [path for path, _ in of_run] == paths
        answer = attributes.GetAttributeDefinitions(pb.GetAttributeDefinitionsRequest(experiment_identifier=run.id))
        assert [entry.name for entry in answer.entries if not entry.name.startswith("sys/")] == paths
        assert [path for path in by_name(attributes, run.id) if not path.startswith("sys/")] == paths
    both = StringList(values=[run_of(connection, identifier, name).id for name in inherited])
    series = definitions(attributes, identifier, experiment_ids_filter=both, attribute_filter=of_types(SERIES))
    assert [path for path, _ in series] == ["a/early", "c", "m", "text"]


def test_many_forks_of_one_parent(
    attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    names = [f"m/{position:03}" for position in range(40)]
    log(connection, identifier, "root", series={name: {0: 0.0, 1: 1.0, 2: 2.0} for name in names})
    count = 300
    submit(
        connection,
        *[operations.create(f"f{number}", project=identifier, parent="root", at=1) for number in range(count)],
    )
    query: dict[str, Any] = {"attribute_name_filter": AttributeNameFilter(must_match_regexes=["^m/"])}
    found = values(attributes, identifier, limit=10_000, **query)
    shorts = [f"{project.project_key}-{number}" for number in range(1, count + 2)]
    assert found == [(short, name) for short in shorts for name in names]
    exact = {"attribute_names_filter": StringList(values=["m/007"])}
    assert values(attributes, identifier, limit=97, **exact) == [(short, "m/007") for short in shorts]


def test_a_page_goes_on_after_its_run_is_deleted(
    attributes: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    for name in "abc":
        log(connection, identifier, name, configs={"x": 1})
    names = StringList(values=["x"])
    query = pb.AttributeValuesQuery(attribute_names_filter=names, next_page=NextPage(limit=2))
    request = pb.QueryAttributeValuesRequest(project_identifier=identifier, query=query)
    token = attributes.QueryAttributeValues(request).next_page.next_page_token
    runs = connection.stub(RunsServiceStub)
    doomed = [run_of(connection, identifier, "b").id]
    runs.TrashRuns(TrashRunsRequest(project_identifier=identifier, experiment_identifiers=doomed))
    runs.DeleteRuns(DeleteRunsRequest(project_identifier=identifier, experiment_identifiers=doomed))
    request.query.next_page.next_page_token = token
    (entry,) = attributes.QueryAttributeValues(request).entries
    assert entry.experiment_short_id == f"{project.project_key}-3"
