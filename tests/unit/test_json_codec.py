"""JSON in the dialect of the REST API, beside the JSON of protobuf where the two agree."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.http import json_codec
from neptune_api.http.json_codec import TranscodeError
from neptune_api.v1 import (
    attributes_pb2,
    attributes_service_pb2,
    ingest_pb2,
    leaderboard_service_pb2,
    queries_pb2,
    series_pb2,
)
from neptune_api.v1.projects_service_pb2 import ProjectUpdate, ProjectWithRole
from neptune_api.v1.roles_pb2 import PROJECT_VISIBILITY_PRIV
from neptune_api.v1.series_pb2 import BucketExpression, FloatPoint
from neptune_api.v1.storage_service_pb2 import FileToSign
from tests.random_messages import messages


def written(message: Any) -> Any:
    return json.loads(json_codec.write(message))


def filled(cls: Any, text: str) -> Any:
    message = cls()
    json_codec.read(text.encode(), message)
    return message


# Types without http_name and http_list, for which the dialect is a variant of protobuf's.
PLAIN: st.SearchStrategy[Any] = st.sampled_from(
    [ingest_pb2.RunOperation, ingest_pb2.BulkRequestStatus, series_pb2.SeriesValuesResponse]
)


@given(PLAIN.flatmap(lambda cls: messages(cls.DESCRIPTOR)))
def test_protobuf_reads_what_is_written(message: Any) -> None:
    arrived = json_format.Parse(json_codec.write(message).decode(), type(message)())
    assert arrived.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@given(PLAIN.flatmap(lambda cls: messages(cls.DESCRIPTOR)), st.booleans())
def test_what_protobuf_writes_is_read(message: Any, proto_names: bool) -> None:
    text = json_format.MessageToJson(message, preserving_proto_field_name=proto_names)
    arrived = filled(type(message), text)
    assert arrived.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


def test_dialect() -> None:
    project = ProjectWithRole(name="p", visibility=PROJECT_VISIBILITY_PRIV, user_count=0)
    project.time_of_creation.FromJsonString("2026-01-31T12:00:00.5Z")
    value = written(project)
    assert value["visibility"] == "priv"
    assert value["userCount"] == 0
    assert value["archived"] is False
    assert value["avatarUrl"] == ""
    assert value["timeOfCreation"] == "2026-01-31T12:00:00.500Z"
    assert "codeAccess" not in value
    assert "description" not in value
    assert written(attributes_pb2.IntAttribute(value=2**62))["value"] == 2**62
    instant = attributes_pb2.DatetimeAttribute(value=-1)
    assert written(instant)["value"] == "1969-12-31T23:59:59.999Z"
    assert filled(attributes_pb2.DatetimeAttribute, '{"value": "1969-12-31T23:59:59.999Z"}') == instant
    assert written(attributes_pb2.DatetimeAttribute())["value"] == "1970-01-01T00:00:00Z"
    assert written(FileToSign(project_identifier="a/b"))["project_identifier"] == "a/b"
    assert written(BucketExpression())["customYFormula"] == ""
    assert written(BucketExpression())["lineage"] == "FULL"
    assert written(queries_pb2.StepRange(lower=1.5)) == {"from": 1.5}
    assert written(ProjectUpdate(archived=False)) == {"archived": False}
    assert written(queries_pb2.AttributeTypeFilter(attribute_type=99)) == {"attributeType": 99}  # type: ignore[arg-type] # of a later version


def test_lists_that_may_be_absent() -> None:
    query = attributes_service_pb2.AttributeValuesQuery()
    assert written(query) == {"attributeFilter": []}
    assert json_codec.write(query, empty=False) == b"{}"
    query.experiment_ids_filter.SetInParent()
    query.attribute_name_filter.must_match_any.SetInParent()
    assert json.loads(json_codec.write(query, empty=False)) == {
        "experimentIdsFilter": [],
        "attributeNameFilter": {"mustMatchAny": []},
    }
    cls = attributes_service_pb2.AttributeValuesQuery
    assert filled(cls, '{"experimentIdsFilter": null}') == cls()
    assert filled(cls, '{"experimentIdsFilter": []}').HasField("experiment_ids_filter")
    nested = filled(cls, '{"attributeNameFilter": {"mustMatchAny": [{}, {"mustMatchRegexes": ["a"]}]}}')
    assert [list(each.must_match_regexes) for each in nested.attribute_name_filter.must_match_any.values] == [[], ["a"]]


def test_leniency() -> None:
    search = filled(
        leaderboard_service_pb2.LeaderboardSearch,
        '{"pagination": {"limit": "0", "offset": 1e3}, "query": null, "sorting": {"dir": "ascending", "sortBy": '
        '{"name": "x", "type": "floatSeries"}, "aggregationMode": "none"}, "unknown": [{}], "experiment_leader": true}',
    )
    assert (search.pagination.limit, search.pagination.offset) == (0, 1000)
    assert search.pagination.HasField("limit")
    assert search.experiment_leader
    assert not search.HasField("query")
    assert search.sorting.sort_by.type == queries_pb2.ATTRIBUTE_TYPE_FLOAT_SERIES
    assert filled(ingest_pb2.RunOperation, '\ufeff{"apiKey": "-_8"}').api_key == b"\xfb\xff"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NaN", math.nan),
        ('"NaN"', math.nan),
        ("-Infinity", -math.inf),
        ('"Infinity"', math.inf),
        ('"1e3"', 1000.0),
        ("1", 1.0),
        ("-0.0", -0.0),
        ("1e999", math.inf),
    ],
)
def test_doubles(text: str, value: float) -> None:
    read = filled(FloatPoint, f'{{"value": {text}}}').value
    assert math.copysign(1, read) == math.copysign(1, value)
    assert read == value or math.isnan(value)
    again = filled(FloatPoint, json_codec.write(FloatPoint(value=value)).decode())
    assert str(again.value) == str(float(value))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_are_as_short_as_they_can_be(value: float) -> None:
    point = FloatPoint(completion_ratio=value)
    text = written(point)["completionRatio"]
    assert FloatPoint(completion_ratio=float(text)) == point
    assert len(repr(text)) <= len(repr(value)) + 1


def test_short_floats() -> None:
    assert written(FloatPoint(completion_ratio=0.1))["completionRatio"] == 0.1


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1969-12-31T23:59:59.999999999Z", -1, 999_999_999),
        ("2026-01-31T12:00:00+02:00", 1_769_853_600, 0),
        ("2026-01-31t12:00:00.5-00:30", 1_769_862_600, 500_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
    ],
)
def test_timestamps(text: str, seconds: int, nanos: int) -> None:
    read = filled(ProjectWithRole, f'{{"lastActivity": "{text}"}}').last_activity
    assert (read.seconds, read.nanos) == (seconds, nanos)


@pytest.mark.parametrize(
    ("cls", "text", "error"),
    [
        (ProjectWithRole, '{"lastActivity": "yesterday"}', "last_activity: must be a text such as 2026"),
        (ProjectWithRole, '{"lastActivity": 5}', "last_activity: must be a text such as"),
        (ProjectWithRole, '{"lastActivity": "2026-02-30T00:00:00Z"}', "last_activity: is no instant"),
        (ProjectWithRole, '{"lastActivity": "0001-01-01T00:00:00+01:00"}', "outside of the years"),
        (ProjectWithRole, '{"userCount": 1.5}', "user_count: must be a whole number, not a number"),
        (ProjectWithRole, '{"userCount": true}', "user_count: must be a whole number, not true or false"),
        (ProjectWithRole, '{"userCount": 2147483648}', "user_count: must be a whole number from -2147483648 to"),
        (ProjectWithRole, '{"userCount": ""}', "user_count: must be a whole number"),
        (ProjectWithRole, '{"name": 1}', "name: must be a text, not a number"),
        (ProjectWithRole, '{"name": "\\ud800"}', "name: is no text: it has half of a surrogate"),
        (ProjectWithRole, '{"visibility": "secret"}', "visibility: must be one of priv, pub, workspace, not 'secret'"),
        (ProjectWithRole, "[]", "must be a JSON object, not an array"),
        (ProjectWithRole, "nul", "malformed at character 0"),
        (ProjectWithRole, '{"userCount": ' + "9" * 5000 + "}", "too many digits"),
        (ProjectWithRole, "[" * 100_000, "nested too deeply"),
        (FloatPoint, '{"value": "x"}', "value: must be a number, not a text"),
        (FloatPoint, '{"value": 1' + "0" * 400 + "}", "value: is too large"),
        (ingest_pb2.RunOperation, '{"apiKey": "?"}', "api_key: must be a text in base64"),
        (
            ingest_pb2.RunOperation,
            '{"updateBatch": {"snapshots": [{}, {"append": {"a/b": {"float64": 1, "int64": 2}}}]}}',
            r'update_batch.snapshots\[1\].append\["a/b"\].int64: excludes float64',
        ),
        (
            ingest_pb2.RunOperation,
            '{"update": {"assign": {"s": {"stringSet": {"values": ["a", null]}}}}}',
            r'update.assign\["s"\].string_set.values\[1\]: must be a text, not null',
        ),
        (ingest_pb2.RunOperation, '{"update": {"assign": []}}', "update.assign: must be a JSON object"),
        (
            attributes_service_pb2.AttributeValuesQuery,
            '{"experimentIdsFilter": ["a", 1]}',
            r"experiment_ids_filter\[1\]: must be a text",
        ),
        (
            attributes_service_pb2.AttributeValuesQuery,
            '{"experimentIdsFilter": "a"}',
            "experiment_ids_filter: must be a JSON array, not a text",
        ),
    ],
)
def test_bad_json(cls: Any, text: str, error: str) -> None:
    with pytest.raises(TranscodeError, match=f"^{error}" if error[0].islower() and ":" in error else error):
        filled(cls, text)


def test_timestamps_that_json_cannot_say() -> None:
    project = ProjectWithRole()
    project.last_activity.seconds = 10**15
    with pytest.raises(TranscodeError, match="outside of the years"):
        json_codec.write(project)


def test_text_that_is_no_utf8() -> None:
    with pytest.raises(TranscodeError, match="not in UTF-8"):
        json_codec.load("{}".encode("utf-16"))
