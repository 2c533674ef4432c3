"""Fixtures for tests of what uses this API: a server, a project, channels. pytest finds them by itself.

Every pytest run of an environment imports this module, so it imports nothing itself that costs time; a fixture that is
asked for imports what it needs.
"""

from __future__ import annotations

import uuid

import pytest

# What type checkers take for typing.TYPE_CHECKING.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import grpc
    import grpc.aio

    from neptune_api.server.testing.outside import OutsideServer
    from neptune_api.server.testing.scripted import ScriptedServer

_SERVER: pytest.StashKey[ScriptedServer] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("neptune", "the Neptune API (neptune-api)")
    group.addoption(
        "--neptune-wire",
        choices=("grpc", "http"),
        help="what neptune_channel and the token in the environment speak (default: grpc, or what the target speaks)",
    )
    group.addoption(
        "--neptune-target",
        metavar="URL",
        help="run against this server, grpcs://host:port or https://host, instead of one that the run starts; the API "
        "token is that of NEPTUNE_API_TOKEN",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything runs."""
    target, wire = config.getoption("neptune_target"), config.getoption("neptune_wire")
    if target is None:
        return
    from neptune_api.server.testing.outside import check_target

    try:
        check_target(target)
    except ValueError as error:
        raise pytest.UsageError(f"--neptune-target={target}: {error}") from None
    if wire not in {None, "http" if target.startswith("http") else "grpc"}:
        raise pytest.UsageError(f"--neptune-wire={wire} contradicts --neptune-target={target}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that leaves canned replies over."""
    result = yield
    server = item.config.stash.get(_SERVER, None)
    if server is not None:
        server.replies.verify()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Let the next test begin with no faults, replies and calls, and with the right time."""
    try:
        return (yield)
    finally:
        server = item.config.stash.get(_SERVER, None)
        if server is not None:
            server.reset()


@pytest.fixture(scope="session")
def neptune_server(pytestconfig: pytest.Config) -> Iterator[ScriptedServer | OutsideServer]:
    """A server for the whole run, in this process, with faults, recorder, replies, clock, record() and replay().

    Each worker of pytest-xdist has one of its own. With --neptune-target it is that server, and tests that want to
    direct it are skipped.
    """
    target = pytestconfig.getoption("neptune_target")
    if target is not None:
        from neptune_api.exceptions import NeptuneApiError
        from neptune_api.server.testing.outside import OutsideServer

        try:
            outside = OutsideServer.from_environment(target)
        except (NeptuneApiError, ValueError) as error:
            pytest.fail(f"--neptune-target={target}: {error}", pytrace=False)
        yield outside
        return
    from neptune_api.server import no_garbage

    with no_garbage():
        from neptune_api.server.testing import ScriptedServer

        server = ScriptedServer().start()
    pytestconfig.stash[_SERVER] = server
    try:
        yield server
    finally:
        del pytestconfig.stash[_SERVER]
        server.stop()


@pytest.fixture
def neptune_api_token(
    neptune_server: ScriptedServer, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The API token of the server's owner, which is in NEPTUNE_API_TOKEN for the test. A secret.

    With --neptune-wire=http it names the HTTP address only, so that channels that have no other target speak HTTP.
    """
    from neptune_api.server.testing.outside import token_for

    token = neptune_server.api_token
    if pytestconfig.getoption("neptune_wire") == "http" and pytestconfig.getoption("neptune_target") is None:
        token = token_for(token, neptune_server.http_url)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token)
    return token


@pytest.fixture
def neptune_project(
    neptune_server: ScriptedServer,
    neptune_api_token: str,  # noqa: ARG001 # sets the environment
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A new project, `workspace/name`, which is in NEPTUNE_PROJECT for the test and deleted after it."""
    from neptune_api.v1.projects_service_pb2 import CreateProjectRequest, DeleteProjectRequest
    from neptune_api.v1.projects_service_pb2_grpc import ProjectsServiceStub

    request = CreateProjectRequest(name=f"test-{uuid.uuid4().hex}", organization_identifier=neptune_server.workspace)
    identifier = f"{request.organization_identifier}/{request.name}"
    with neptune_server.undirected(), neptune_server.channel() as channel:
        ProjectsServiceStub(channel).CreateProject(request)
    monkeypatch.setenv("NEPTUNE_PROJECT", identifier)
    yield identifier
    with neptune_server.undirected(), neptune_server.channel() as channel:
        ProjectsServiceStub(channel).DeleteProject(DeleteProjectRequest(project_identifier=identifier))


@pytest.fixture
def neptune_channel(neptune_api_token: str) -> Iterator[grpc.Channel]:
    """A channel to the server over the wire of --neptune-wire, for the generated stubs."""
    import neptune_api

    with neptune_api.channel(api_token=neptune_api_token) as channel:
        yield channel


@pytest.fixture
def neptune_aio_channel(neptune_api_token: str) -> Callable[[], grpc.aio.Channel]:
    """A function that opens a channel for asyncio; use what it returns in an `async with` block.

    A function, because a channel belongs to the event loop in which it is opened; so any plugin for coroutines will do,
    and asyncio.run() as well.
    """
    from functools import partial

    from neptune_api import aio

    return partial(aio.channel, api_token=neptune_api_token)
