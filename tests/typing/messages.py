# ruff: noqa: TC001 # never run, so what an import costs does not matter
"""What messages and enums are to a type checker."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from typing_extensions import assert_type

from neptune_api import models
from neptune_api.v1 import ingest_pb2


def operation() -> models.RunOperation:
    snapshot = models.UpdateRunSnapshot(
        step=models.Step(whole=1),
        timestamp=Timestamp(seconds=1),
        assign={"lr": models.Value(float64=0.1), "tags": models.Value(string_set=models.StringSet(values=["a"]))},
        append={"loss": models.Value(float64=0.5)},
    )
    snapshot.append["acc"].float64 = 0.9
    snapshot.modify_sets["sys/tags"].string.values["b"] = models.SetOperation.SET_OPERATION_ADD
    return models.RunOperation(project="workspace/project", run_id="run", update=snapshot)


def fields(message: models.RunOperation) -> None:
    assert_type(message.run_id, str)
    assert_type(message.update.step.whole, int)
    assert_type(message.update.append["loss"], models.Value)
    assert_type(message.HasField("api_key"), bool)
    which = message.WhichOneof("operation")
    if which == "create":
        assert_type(message.create.inherit_configs, bool)
    assert_type(models.RunOperation.FromString(message.SerializeToString()), models.RunOperation)
    same: ingest_pb2.RunOperation = message
    same.CopyFrom(message)


def enums(member: models.ProjectMember, status: models.RequestStatus) -> None:
    role = models.ProjectRole.PROJECT_ROLE_MEMBER
    assert_type(member.role, models.ProjectRole.ValueType)
    assert_type(member.role >= role, bool)
    assert_type(models.ProjectRole.Name(member.role), str)
    assert_type(models.ProjectRole.Value("PROJECT_ROLE_VIEWER"), models.ProjectRole.ValueType)
    for outcome in status.code_by_count:
        # google.rpc.Code: its own types reach no checker, a number does.
        assert_type(outcome.code, int)
        assert_type(outcome.detail, models.IngestCode.ValueType)


def optional_fields(project: models.ProjectUpdate) -> None:
    assert_type(project.archived, bool)
    assert_type(project.HasField("archived"), bool)
    project.archived = False
    project.ClearField("archived")
