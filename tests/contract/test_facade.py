"""The facade: `neptune_api.api.client.Client`, one method per unary RPC, over the same channel as the stubs."""

from __future__ import annotations

import importlib
import inspect
import keyword
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.api import annotations_pb2
from google.protobuf import message_factory

import neptune_api.v1
from neptune_api import ApiToken, NeptuneApiError, models
from neptune_api.api.client import Client as ApiClient
from neptune_api.exceptions import (
    DeadlineExceededException,
    InvalidArgumentException,
    InvalidTokenError,
    NotFoundException,
    UnauthorizedException,
)
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from neptune_api.server import LocalServer

    MethodDescriptor: TypeAlias = Any


@pytest.fixture
def client(server: LocalServer) -> Iterator[ApiClient]:
    with ApiClient(api_token=server.api_token) as opened:
        yield opened


def rpcs() -> list[MethodDescriptor]:
    assert neptune_api.v1.__file__ is not None
    names = sorted(path.stem for path in Path(neptune_api.v1.__file__).parent.glob("*_service_pb2.py"))
    files = [importlib.import_module(f"neptune_api.v1.{name}").DESCRIPTOR for name in names]
    return [method for file in files for service in file.services_by_name.values() for method in service.methods]


def unary_rpcs() -> list[MethodDescriptor]:
    return [rpc for rpc in rpcs() if not (rpc.client_streaming or rpc.server_streaming)]


def method_name(rpc: MethodDescriptor) -> str:
    """Return verb and RPC in snake case, a doubled verb once."""
    words = re.sub(r"(?<!^)([A-Z])", r"_\1", rpc.name).lower()
    verb = rpc.GetOptions().Extensions[annotations_pb2.http].WhichOneof("pattern")
    return words if words.split("_")[0] == verb else f"{verb}_{words}"


def full_name(rpc: MethodDescriptor) -> str:
    return f"{rpc.containing_service.full_name}/{rpc.name}"


# ---------------------------------------------------------------- surface


def test_there_is_one_method_per_unary_rpc_and_none_for_streams() -> None:
    public = {name for name, value in vars(ApiClient).items() if inspect.isfunction(value) and not name.startswith("_")}
    expected = [method_name(rpc) for rpc in unary_rpcs()]
    assert len(expected) == len(set(expected))
    assert public == set(expected)
    streams = {method_name(rpc) for rpc in rpcs() if rpc.client_streaming or rpc.server_streaming}
    assert streams
    assert not [name for name in streams if hasattr(ApiClient, name)]


def test_the_names_callers_know_are_there() -> None:
    for name in ("post_get_user_identity", "post_create_run", "get_project_details", "post_get_project_member_v2"):
        assert callable(getattr(ApiClient, name))


@pytest.mark.parametrize("rpc", [pytest.param(rpc, id=method_name(rpc)) for rpc in unary_rpcs()])
def test_a_method_takes_the_request_or_its_fields(rpc: MethodDescriptor) -> None:
    parameters = inspect.signature(getattr(ApiClient, method_name(rpc))).parameters
    taken = {"self", "request", "timeout", "metadata"}
    fields = [
        f"{field.name}_" if field.name in taken or keyword.iskeyword(field.name) else field.name
        for field in rpc.input_type.fields
    ]
    assert list(parameters) == ["self", "request", *fields, "timeout", "metadata"]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in (*fields, "timeout", "metadata"))
    assert {parameter.default for name, parameter in parameters.items() if name != "self"} == {None}


def test_every_method_calls_its_own_rpc(server: LocalServer) -> None:
    called: dict[str, str | type | None] = {}
    expected: dict[str, tuple[str, type]] = {}
    with ApiClient(api_token=server.create_user(f"u-{uuid.uuid4().hex}")) as client:
        # The last call revokes the token.
        for rpc in sorted(unary_rpcs(), key=lambda rpc: rpc.name == "RevokeApiToken"):
            name = method_name(rpc)
            expected[name] = (full_name(rpc), message_factory.GetMessageClass(rpc.output_type))
            try:
                called[name] = type(getattr(client, name)())
            except NeptuneApiError as error:
                called[name] = error.method
    assert not {name: found for name, found in called.items() if found not in expected[name]}


# ---------------------------------------------------------------- calls


def test_the_identity_is_the_callers(client: ApiClient, server: LocalServer) -> None:
    identity = client.post_get_user_identity()
    assert str(uuid.UUID(identity.id)) == identity.id
    assert identity.username == server.username
    assert [membership.organization_name for membership in identity.workspaces] == [server.workspace]


def test_a_project_and_its_members_are_found(
    client: ApiClient, server: LocalServer, project: models.ProjectWithRole, identifier: str
) -> None:
    details = client.get_project_details(project_identifier=identifier)
    assert details.id == project.id
    assert details.user_role_in_project == models.ProjectRole.PROJECT_ROLE_MANAGER
    identity = client.post_get_user_identity()
    for user in (identity.id, server.username):
        member = client.post_get_project_member_v2(project_identifier=project.id, user_id=user)
        assert member.registered_member_info.username == server.username
        assert member.role == models.ProjectRole.PROJECT_ROLE_MANAGER


def test_a_run_is_created_by_request_or_by_fields(client: ApiClient, identifier: str) -> None:
    request = models.CreateRunRequest(project_identifier=identifier, run_id="one", experiment_name="first")
    run = client.post_create_run(request)
    assert (run.custom_id, run.experiment_name) == ("one", "first")
    again = client.post_create_run(project_identifier=identifier, run_id="one", experiment_name="first")
    assert again == run
    assert client.get_run(experiment_id=run.id) == run


def test_a_submitted_operation_can_be_followed(client: ApiClient, identifier: str) -> None:
    operation = models.RunOperation(project=identifier, run_id="two", create=models.CreateRun())
    submitted = client.post_submit(operation)
    status = client.get_request_status(project_identifier=identifier, request_id=submitted.request_id)
    assert sum(outcome.count for outcome in status.code_by_count) == 1


def test_fields_that_are_none_are_absent_and_false_ones_are_not(client: ApiClient, identifier: str) -> None:
    changed = client.put_update_project(
        project_identifier=identifier, project_to_update=models.ProjectUpdate(description="text", archived=False)
    )
    assert (changed.description, changed.archived) == ("text", False)
    listed = client.get_list_projects(search_term=identifier.partition("/")[2], limit=0, user_relation=None)
    assert (len(listed.entries), listed.matching_item_count) == (0, 1)


def test_streams_go_through_the_channel_underneath(client: ApiClient, identifier: str) -> None:
    operations = [models.RunOperation(project=identifier, run_id=name, create=models.CreateRun()) for name in "ab"]
    submitted = IngestServiceStub(client.channel).SubmitStream(iter(operations))
    assert len(submitted.request_ids) == 2


def test_threads_share_a_client(client: ApiClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.post_get_user_identity().id, range(40)))
    assert len(set(found)) == 1


# ---------------------------------------------------------------- mistakes


def test_request_and_fields_together_are_refused(client: ApiClient) -> None:
    request = models.GetProjectRequest(project_identifier="w/p")
    with pytest.raises(TypeError, match=r"either a GetProjectRequest or its fields, not both.*project_identifier"):
        client.get_project(request, project_identifier="w/p")


def test_a_request_of_another_type_is_refused(client: ApiClient) -> None:
    with pytest.raises(TypeError, match=r"must be a GetProjectRequest, not a GetRunRequest"):
        client.get_project(models.GetRunRequest())  # type: ignore[arg-type] # is the mistake


def test_a_field_that_is_not_there_is_refused(client: ApiClient) -> None:
    with pytest.raises(TypeError, match="project_id"):
        client.get_project(project_id="w/p")  # type: ignore[call-arg] # is the mistake


def test_a_value_of_the_wrong_type_is_refused(client: ApiClient) -> None:
    with pytest.raises(TypeError, match="project_identifier"):
        client.get_project(project_identifier=1)  # type: ignore[arg-type] # is the mistake


def test_errors_of_the_server_are_those_of_the_channel(client: ApiClient) -> None:
    with pytest.raises(NotFoundException):
        client.get_project(project_identifier=f"local/{uuid.uuid4().hex}")
    with pytest.raises(InvalidArgumentException) as caught:
        client.get_project()
    assert [violation.field for violation in caught.value.violations] == ["project_identifier"]


def test_a_timeout_ends_a_call(client: ApiClient) -> None:
    with pytest.raises(DeadlineExceededException):
        client.post_get_user_identity(timeout=1e-6)


# ---------------------------------------------------------------- tokens and closing


def test_the_token_comes_from_the_environment(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", server.api_token)
    with ApiClient() as client:
        assert client.post_get_user_identity().username == server.username


def test_a_token_of_nobody_is_unauthorized(server: LocalServer) -> None:
    stranger = replace(ApiToken.parse(server.api_token), api_key="0" * 64, text=None)
    with ApiClient(api_token=stranger.encode()) as client:
        with pytest.raises(UnauthorizedException) as caught:
            client.post_get_user_identity()
        assert not isinstance(caught.value, InvalidTokenError)
        assert stranger.encode() not in f"{caught.value!r} {caught.value}"
        assert client.get_server_info().version, "what needs no token works all the same"


@pytest.mark.parametrize("text", ["my-api-token", "bm90IGpzb24=", "e30="], ids=["no base64", "no JSON", "no key"])
def test_an_undecodable_token_is_unauthorized_and_told_what_a_token_is(text: str) -> None:
    with pytest.raises(UnauthorizedException) as caught:
        ApiClient(api_token=text)
    assert isinstance(caught.value, InvalidTokenError)
    assert "base64 text of a JSON object with the keys api_address, api_url and api_key" in str(caught.value)
    assert text not in f"{caught.value!r} {caught.value}"


def test_a_closed_client_says_so(server: LocalServer) -> None:
    with ApiClient(api_token=server.api_token) as client:
        client.post_get_user_identity()
    with pytest.raises(ValueError, match="closed"):
        client.post_get_user_identity()
    client.close()
