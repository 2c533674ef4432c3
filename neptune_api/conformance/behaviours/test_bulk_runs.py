"""Many runs in one call: trashing, archiving, deleting and tagging them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from neptune_api import exceptions
from neptune_api.conformance.logging_helpers import another_project, log
from neptune_api.conformance.run_helpers import (
    NOBODY,
    create,
    float_points,
    listed,
    reasons,
    values,
)
from neptune_api.v1 import runs_service_pb2 as pb
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neptune_api.conformance.connections import Connection, Wire
    from neptune_api.v1.projects_service_pb2 import ProjectWithRole


@pytest.fixture
def connection(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def runs(connection: Connection) -> Any:
    return connection.stub(RunsServiceStub)


@pytest.fixture
def key(project: ProjectWithRole) -> str:
    return project.project_key


# The trash


def bulk(
    call: Callable[[Any], pb.BulkRunResult], request_class: Any, identifier: str, names: Sequence[str]
) -> pb.BulkRunResult:
    return call(request_class(project_identifier=identifier, experiment_identifiers=names))


def test_runs_go_into_the_trash_and_come_back(
    runs: Any, connection: Connection, project: ProjectWithRole, identifier: str, key: str
) -> None:
    a, b, _, d = create(runs, identifier, "a", "b", "c", "d")
    before = values(connection, a.id)["sys/modification_time"]
    names = [a.id, f"{identifier}/{b.short_id}", f"CUSTOM/{identifier}/c", d.short_id]
    strangers = {
        NOBODY: "REASON_NOT_EXISTS",
        f"{key}-9": "REASON_NOT_EXISTS",
        "nonsense": "REASON_NOT_EXISTS",
        "": "REASON_NOT_EXISTS",
        project.id: "REASON_IS_PROJECT",
        identifier: "REASON_IS_PROJECT",
        "no/project": "REASON_NOT_EXISTS",
    }
    result = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [*names, *strangers])
    assert list(result.updated_experiment_identifiers) == names
    assert reasons(result) == strangers
    assert runs.GetRun(pb.GetRunRequest(experiment_id=a.id)).trashed
    found = values(connection, a.id)
    assert found["sys/trashed"] is True
    assert found["sys/modification_time"] >= before
    again = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id])
    assert reasons(again) == {a.id: "REASON_ALREADY_TRASHED"}

    restored = bulk(runs.RestoreRuns, pb.RestoreRunsRequest, project.id, names)
    assert list(restored.updated_experiment_identifiers) == names
    assert reasons(bulk(runs.RestoreRuns, pb.RestoreRunsRequest, identifier, [a.id])) == {a.id: "REASON_NOT_IN_TRASH"}
    assert runs.GetRun(pb.GetRunRequest(experiment_id=a.id)) == a
    assert values(connection, a.id)["sys/trashed"] is False


def test_runs_of_another_project_are_strangers(runs: Any, connection: Connection, identifier: str) -> None:
    other = another_project(connection, identifier)
    (run,) = create(runs, other, "r")
    names = [run.id, f"{other}/{run.short_id}", f"CUSTOM/{other}/r"]
    result = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, names)
    assert reasons(result) == dict.fromkeys(names, "REASON_NOT_EXISTS")
    assert not runs.GetRun(pb.GetRunRequest(experiment_id=run.id)).trashed


def test_only_runs_in_the_trash_are_deleted(runs: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "a", configs={"x": 1}, series={"m": {1: 1.0}})
    a, b = create(runs, identifier, "a", "b")
    assert reasons(bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [a.id])) == {a.id: "REASON_NOT_IN_TRASH"}
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id])
    result = bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [a.id, b.id])
    assert list(result.updated_experiment_identifiers) == [a.id]
    assert reasons(result) == {b.id: "REASON_NOT_IN_TRASH"}
    assert listed(runs, identifier) == [["b"]]
    with pytest.raises(exceptions.NotFoundException):
        runs.GetRun(pb.GetRunRequest(experiment_id=a.id))
    log(connection, identifier, "a", series={"m": {0: 5.0}})
    (new,) = create(runs, identifier, "a")
    assert new.id != a.id
    assert new.short_id != a.short_id
    assert float_points(connection, new.id, "m") == [(0, 5)]


def test_forks_of_a_deleted_run_keep_their_own_points(runs: Any, connection: Connection, identifier: str) -> None:
    log(connection, identifier, "root", series={"m": {0: 0.0, 1: 1.0}})
    log(connection, identifier, "child", parent="root", at=1, series={"m": {2: 2.0}})
    log(connection, identifier, "grandchild", parent="child", at=2, series={"m": {3: 3.0}})
    root, child, grandchild = create_again(runs, identifier, "root", "child", "grandchild")
    assert float_points(connection, grandchild.id, "m") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [root.id])
    assert float_points(connection, grandchild.id, "m") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [root.id])
    orphan = runs.GetRun(pb.GetRunRequest(experiment_id=child.id))
    assert not orphan.HasField("parent_short_id")
    assert not orphan.HasField("fork_step")
    found = values(connection, child.id)
    assert found["sys/forking/depth"] == found["sys/relative_creation_time_ms"] == 0
    assert found["sys/forking/requested_parent"] == "root"
    assert "sys/forking/parent" not in found
    later = values(connection, grandchild.id)
    assert later["sys/forking/depth"] == 1
    between = later["sys/creation_time"] - found["sys/creation_time"]
    assert later["sys/relative_creation_time_ms"] == between
    assert float_points(connection, child.id, "m") == [(2, 2)]
    assert float_points(connection, grandchild.id, "m") == [(2, 2), (3, 3)]
    log(connection, identifier, "child", create=False, series={"m": {4: 4.0}})
    assert float_points(connection, child.id, "m") == [(2, 2), (4, 4)]


def create_again(runs: Any, identifier: str, *names: str) -> list[pb.Run]:
    return [runs.GetRun(pb.GetRunRequest(experiment_id=f"CUSTOM/{identifier}/{name}")) for name in names]


def test_when_the_head_of_an_experiment_is_deleted_the_youngest_run_left_is_head(
    runs: Any, connection: Connection, identifier: str
) -> None:
    a, b, c = create(runs, identifier, "a", "b", "c", experiment_name="e")
    heads = [values(connection, run.id)["sys/experiment/is_head"] for run in (a, b, c)]
    assert heads == [False, False, True]
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id, c.id])
    bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [c.id])
    assert values(connection, b.id)["sys/experiment/is_head"] is True
    assert values(connection, a.id)["sys/experiment/is_head"] is False
    (d,) = create(runs, identifier, "d", experiment_name="e")
    heads = [values(connection, run.id)["sys/experiment/is_head"] for run in (a, b, d)]
    assert heads == [False, False, True]


def test_an_experiment_ends_with_its_last_run(runs: Any, connection: Connection, identifier: str) -> None:
    (a,) = create(runs, identifier, "a", experiment_name="e")
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [a.id])
    bulk(runs.DeleteRuns, pb.DeleteRunsRequest, identifier, [a.id])
    (b,) = create(runs, identifier, "b", experiment_name="e")
    assert values(connection, b.id)["sys/experiment/is_head"] is True


def test_ten_thousand_runs_at_once_and_no_more(runs: Any, identifier: str, key: str) -> None:
    (run,) = create(runs, identifier, "r")
    names = [f"{key}-{number}" for number in range(1, 10_001)]
    result = bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, names)
    assert list(result.updated_experiment_identifiers) == [run.short_id]
    assert len(result.errors) == 9_999
    for call, request in (
        (runs.TrashRuns, pb.TrashRunsRequest(project_identifier=identifier, experiment_identifiers=[*names, "x"])),
        (runs.RestoreRuns, pb.RestoreRunsRequest(project_identifier=identifier, experiment_identifiers=[*names, "x"])),
        (runs.DeleteRuns, pb.DeleteRunsRequest(project_identifier=identifier, experiment_identifiers=[*names, "x"])),
        (runs.ArchiveRuns, pb.ArchiveRunsRequest(runs=[*names, "x"])),
        (runs.UnarchiveRuns, pb.UnarchiveRunsRequest(runs=[*names, "x"])),
        (
            runs.UpdateTagsBulk,
            pb.UpdateTagsBulkRequest(
                update_per_project={identifier: pb.UpdateTags(experiment_identifiers=[*names, "x"])}
            ),
        ),
    ):
        with pytest.raises(exceptions.InvalidArgumentException, match="10,000"):
            call(request)


# The archive


def test_runs_are_archived_across_projects(
    runs: Any, connection: Connection, project: ProjectWithRole, identifier: str
) -> None:
    other = another_project(connection, identifier)
    (a, trashed), (b,) = create(runs, identifier, "a", "t"), create(runs, other, "b")
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [trashed.id])
    names = [a.id, f"CUSTOM/{other}/b"]
    strangers = {
        trashed.id: "REASON_TRASHED",
        a.short_id: "REASON_NOT_EXISTS",
        identifier: "REASON_IS_PROJECT",
        project.id: "REASON_IS_PROJECT",
        f"{identifier}x/{a.short_id}": "REASON_NOT_EXISTS",
    }
    for call, request, archived in (
        (runs.ArchiveRuns, pb.ArchiveRunsRequest, True),
        (runs.ArchiveRuns, pb.ArchiveRunsRequest, True),
        (runs.UnarchiveRuns, pb.UnarchiveRunsRequest, False),
    ):
        result = call(request(runs=[*names, *strangers]))
        assert list(result.updated_experiment_identifiers) == names
        assert reasons(result) == strangers
        for run in (a, b):
            assert runs.GetRun(pb.GetRunRequest(experiment_id=run.id)).archived is archived
            assert values(connection, run.id)["sys/archived"] is archived


# Tags


def tag(runs: Any, identifier: str, names: Sequence[str], **fields: Any) -> pb.BulkRunResult:
    update = pb.UpdateTags(experiment_identifiers=names, **fields)
    answer = runs.UpdateTagsBulk(pb.UpdateTagsBulkRequest(update_per_project={identifier: update}))
    assert list(answer.results_by_project) == [identifier]
    result: pb.BulkRunResult = answer.results_by_project[identifier]
    return result


def test_tags_are_removed_and_then_added(runs: Any, connection: Connection, identifier: str) -> None:
    a, b = create(runs, identifier, "a", "b")
    result = tag(runs, identifier, [a.id, b.short_id, a.short_id], tags_to_add=["x", "y"])
    assert list(result.updated_experiment_identifiers) == [a.id, b.short_id, a.short_id]
    assert values(connection, b.id)["sys/tags"] == ["x", "y"]
    tag(runs, identifier, [a.id], tags_to_add=["y", "z"], tags_to_delete=["x", "y", "never there"])
    assert values(connection, a.id)["sys/tags"] == ["y", "z"]
    assert values(connection, b.id)["sys/tags"] == ["x", "y"]


def test_group_tags_are_other_tags(runs: Any, connection: Connection, identifier: str) -> None:
    (a,) = create(runs, identifier, "a")
    tag(runs, identifier, [a.id], tags_to_add=["g"], attribute_path_to_be_updated="sys/group_tags")
    found = values(connection, a.id)
    assert (found["sys/tags"], found["sys/group_tags"]) == ([], ["g"])


def test_tags_say_which_runs_they_missed(runs: Any, project: ProjectWithRole, identifier: str) -> None:
    a, b = create(runs, identifier, "a", "b")
    bulk(runs.TrashRuns, pb.TrashRunsRequest, identifier, [b.id])
    result = tag(runs, identifier, [a.id, b.id, "no", project.id], tags_to_add=["t"])
    assert list(result.updated_experiment_identifiers) == [a.id]
    assert reasons(result) == {b.id: "REASON_TRASHED", "no": "REASON_NOT_EXISTS", project.id: "REASON_IS_PROJECT"}


def test_too_many_tags_are_refused_for_the_run(runs: Any, connection: Connection, identifier: str) -> None:
    (a,) = create(runs, identifier, "a")
    result = tag(runs, identifier, [a.id], tags_to_add=["x" * (1 << 20), "y"])
    assert list(result.updated_experiment_identifiers) == []
    (error,) = result.errors
    assert error.experiment_identifier == a.id
    assert str(1 << 20) in error.message.replace(",", "")
    assert values(connection, a.id)["sys/tags"] == []


def test_another_path_than_those_of_tags_is_refused(runs: Any, identifier: str) -> None:
    (a,) = create(runs, identifier, "a")
    with pytest.raises(exceptions.InvalidArgumentException):
        tag(runs, identifier, [a.id], tags_to_add=["t"], attribute_path_to_be_updated="sys/description")


def test_an_unknown_project_keeps_tags_of_the_others_as_they_are(
    runs: Any, connection: Connection, identifier: str
) -> None:
    (a,) = create(runs, identifier, "a")
    update = pb.UpdateTags(experiment_identifiers=[a.id], tags_to_add=["t"])
    with pytest.raises(exceptions.NotFoundException):
        runs.UpdateTagsBulk(pb.UpdateTagsBulkRequest(update_per_project={identifier: update, "no/project": update}))
    assert values(connection, a.id)["sys/tags"] == []
