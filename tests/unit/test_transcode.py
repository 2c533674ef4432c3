"""Messages as HTTP requests and responses: nothing is lost either way, and nothing gets where it should not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from google.protobuf import message_factory
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neptune_api.http import transcode
from neptune_api.http.rules import Format, Router, Rule, all_rules
from neptune_api.http.transcode import MediaTypeError, TranscodeError
from neptune_api.v1 import attributes_service_pb2, auth_service_pb2, ingest_service_pb2, projects_service_pb2
from neptune_api.v1.runs_service_pb2 import TrashRunsRequest
from neptune_api.v1.users_service_pb2 import ListUsersRequest, ListUsersResponse
from tests.random_messages import messages

if TYPE_CHECKING:
    from google.protobuf.message import Message

RULES = [rule for rules in all_rules().values() for rule in rules]
API = Router(RULES)
IDS = [f"{rule.name} {rule.http_verb} {rule.template}" for rule in RULES]
MEMBER = all_rules()["/neptune_api.v1.ProjectsService/DeleteProjectMember"][0]
EXAMPLES = settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def requests(rule: Rule) -> st.SearchStrategy[Message]:
    return messages(
        rule.method.input_type,
        headers=[field.name for field in rule.headers.values()],
        filled=[variable.field for variable in rule.template.variables],
    )


def arrive(request: transcode.HttpRequest) -> tuple[Rule, Message]:
    """Do with a request what a server does."""
    parts = urlsplit(request.target)
    match = API.match(request.verb, parts.path)
    assert match is not None, request
    headers = {name.lower(): value for name, value in request.headers}
    return match.rule, transcode.decode_request(match.rule, match.values, parts.query, headers, request.body)


@pytest.mark.parametrize("rule", RULES, ids=IDS)
@EXAMPLES
@given(data=st.data())
def test_requests_arrive_as_they_were(rule: Rule, data: st.DataObject) -> None:
    message = data.draw(requests(rule))
    written = data.draw(st.sampled_from([None, *Format]))
    request = transcode.encode_request(rule, message, written)
    assert request.target.isascii()
    assert not any(sign in request.target for sign in " \r\n\x00#")
    arrived_at, arrived = arrive(request)
    assert arrived_at is rule
    # Bytes: NaN is not equal to itself.
    assert arrived.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("rule", RULES, ids=IDS)
@EXAMPLES
@given(data=st.data())
def test_responses_arrive_as_they_were(rule: Rule, data: st.DataObject) -> None:
    message = data.draw(messages(rule.method.output_type))
    written = data.draw(st.sampled_from(Format))
    body = transcode.encode_response(rule, message, written)
    arrived = transcode.decode_response(rule, body, written.content_type)
    if rule.response_body:
        # Nothing else travels.
        for field in message.DESCRIPTOR.fields:
            if field.name != rule.response_body:
                message.ClearField(field.name)
    assert arrived.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@given(st.text(min_size=1))
@example("..")
@example(".")
@example("../../etc/passwd")
@example("a/b?c#d%2Fe;f:archive")
@example("\r\nX: y")
@example("%2e%2e")
def test_hostile_path_values_stay_one_segment(user_id: str) -> None:
    message = projects_service_pb2.DeleteProjectMemberRequest(project_identifier=user_id, user_id=user_id)
    request = transcode.encode_request(MEMBER, message)
    path = urlsplit(request.target).path
    assert path.startswith("/api/backend/v1/projects/members/")
    assert path.count("/") == str(MEMBER.template).count("/")
    assert path.rpartition("/")[2].strip("."), "a step in a file system"
    assert arrive(request) == (MEMBER, message)


def test_empty_path_values_are_refused() -> None:
    with pytest.raises(TranscodeError, match="user_id: must fill the path"):
        transcode.encode_request(MEMBER, projects_service_pb2.DeleteProjectMemberRequest(project_identifier="a/b"))


@pytest.mark.parametrize("token", ["a\r\nb: c", "é", " x", "a\x00b", "x\t"])
def test_hostile_header_values_are_refused(token: str) -> None:
    (rule,) = all_rules()["/neptune_api.v1.AuthService/ExchangeApiToken"]
    with pytest.raises(TranscodeError, match="api_token: must be printable ASCII"):
        transcode.encode_request(rule, auth_service_pb2.ExchangeApiTokenRequest(api_token=token))


def test_what_goes_over_the_wire() -> None:
    (rule,) = all_rules()["/neptune_api.v1.IngestService/BulkGetRequestStatus"]
    message = ingest_service_pb2.BulkGetRequestStatusRequest(project_identifier="ws/p r")
    message.request_ids.ids.add(value="7")
    request = transcode.encode_request(rule, message)
    assert (request.verb, request.target) == ("POST", "/api/client/v1/ingest/check?projectIdentifier=ws%2Fp+r")
    assert request.headers == [("Accept", "application/x-protobuf"), ("Content-Type", "application/x-protobuf")]
    assert request.body == message.request_ids.SerializeToString()

    (rule,) = all_rules()["/neptune_api.v1.RunsService/TrashRuns"]
    trash = TrashRunsRequest(project_identifier="p", experiment_identifiers=["a", "b"])
    assert transcode.encode_request(rule, trash).body == b'["a","b"]'
    assert transcode.encode_request(rule, TrashRunsRequest()).body == b"[]"

    (rule,) = all_rules()["/neptune_api.v1.UsersService/ListUsers"]
    assert transcode.encode_request(rule, ListUsersRequest(username=["a&b", ""])).target.endswith(
        "username=a%26b&username="
    )
    assert transcode.encode_response(rule, ListUsersResponse(), Format.JSON) == b"[]"


def test_absent_is_not_empty() -> None:
    primary = all_rules()["/neptune_api.v1.AttributesService/GetAttributes"][0]
    request_type = attributes_service_pb2.GetAttributesRequest
    for written in Format:
        absent = transcode.encode_request(primary, request_type(), written)
        assert absent.body == b""
        assert arrive(absent)[1] == request_type()
        empty = request_type()
        empty.query.SetInParent()
        assert arrive(transcode.encode_request(primary, empty, written))[1] == empty
        none_at_all = request_type()
        none_at_all.query.attribute_paths_filter.SetInParent()
        assert arrive(transcode.encode_request(primary, none_at_all, written))[1] == none_at_all


def decode(path: str, query: str = "", body: bytes = b"", **headers: str) -> Any:
    rule = all_rules()[f"/neptune_api.v1.{path}"][0]
    return transcode.decode_request(
        rule, {}, query, {key.replace("_", "-"): each for key, each in headers.items()}, body
    )


def test_query_strings() -> None:
    path = "ProjectsService/ListProjects"
    assert decode(path, "offset=0&sortBy=a&sortBy=b&unknown=1&searchTerm=") == projects_service_pb2.ListProjectsRequest(
        offset=0, sort_by=["a", "b"], search_term=""
    )
    assert decode(path, "organization_identifier=x%2By+z").organization_identifier == "x+y z"
    path = "AttributesService/GetAttributeDefinitions"
    assert decode(
        path, "attributeType=floatSeries&attributeType=ATTRIBUTE_TYPE_INT&attributeType=4"
    ).attribute_type == [
        8,
        2,
        4,
    ]
    assert decode("RunsService/ListRuns", "trashed=True&pageSize=10").trashed
    assert not decode("RunsService/ListRuns", "trashed=false").trashed


@pytest.mark.parametrize(
    ("path", "query", "error"),
    [
        ("RunsService/ListRuns", "pageSize=x", "page_size: must be a whole number"),
        ("RunsService/ListRuns", "pageSize=", "page_size: must be a whole number"),
        ("RunsService/ListRuns", "pageSize=2147483648", "page_size: must be a whole number from"),
        ("RunsService/ListRuns", "pageSize=1&page_size=2", "page_size: is given more than once"),
        ("RunsService/ListRuns", "trashed=1", "trashed: must be true or false"),
        ("RunsService/ListRuns", "pageToken=%ff", "not in UTF-8"),
        (
            "AttributesService/GetAttributeDefinitions",
            "attributeType=nope",
            "attribute_type: must be one of float, int",
        ),
    ],
)
def test_query_strings_that_cannot_be(path: str, query: str, error: str) -> None:
    with pytest.raises(TranscodeError, match=error):
        decode(path, query)


def test_bodies_that_cannot_be() -> None:
    path = "ProjectsService/UpdateProject"
    with pytest.raises(MediaTypeError, match="application/x-www-form-urlencoded"):
        decode(path, body=b"a=b", content_type="application/x-www-form-urlencoded")
    with pytest.raises(TranscodeError, match=r"project_to_update\.archived: must be true or false, not a text"):
        decode(path, body=b'{"archived":"yes"}')
    with pytest.raises(TranscodeError, match="project_to_update: must be a JSON object, not an array"):
        decode(path, body=b"[]")
    with pytest.raises(TranscodeError, match=r"is not a neptune_api\.v1\.RunOperation"):
        decode("IngestService/Submit", body=b"\xff\xff")
    with pytest.raises(TranscodeError, match="the header X-Neptune-Api-Token must be printable"):
        decode("AuthService/ExchangeApiToken", x_neptune_api_token="é")


@given(st.binary(max_size=200), st.sampled_from(RULES), st.sampled_from([None, *(each.value for each in Format)]))
def test_random_bodies(body: bytes, rule: Rule, content_type: str | None) -> None:
    """Each is a message or a TranscodeError, nothing else."""
    headers = {} if content_type is None else {"content-type": content_type}
    try:
        decoded = transcode.decode_request(rule, {}, "", headers, body)
    except TranscodeError:
        return
    assert isinstance(decoded, message_factory.GetMessageClass(rule.method.input_type))


@given(st.text(st.characters(max_codepoint=126), max_size=60), st.sampled_from(RULES))
def test_random_query_strings(query: str, rule: Rule) -> None:
    try:
        transcode.decode_request(rule, {}, query, {}, b"")
    except TranscodeError as error:
        assert error.description  # noqa: PT017 # the error is one way to go on, not what is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.PROTOBUF),
        ("*/*", Format.PROTOBUF),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format.PROTOBUF),
        ("application/json", Format.JSON),
        ("application/json;q=0.5, application/x-protobuf", Format.PROTOBUF),
        ("application/json, application/x-protobuf;q=0.9", Format.JSON),
        ("application/problem+json", Format.JSON),
        ("application/json;q=0", Format.PROTOBUF),
        ("application/json;q=x", Format.PROTOBUF),
        ("text/html", Format.PROTOBUF),
        (",;,", Format.PROTOBUF),
    ],
)
def test_accept(accept: str | None, expected: Format) -> None:
    assert transcode.accepted_format(accept, Format.PROTOBUF) is expected


def test_content_types() -> None:
    for written in Format:
        assert transcode.body_format(None, written) is written
    assert transcode.body_format("application/json; charset=utf-8", Format.PROTOBUF) is Format.JSON
    assert transcode.body_format("application/octet-stream", Format.JSON) is Format.PROTOBUF
    with pytest.raises(MediaTypeError):
        transcode.body_format("text/plain", Format.JSON)
