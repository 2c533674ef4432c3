"""A server that says nothing: every RPC ends by its deadline, whatever the silence began in."""

from __future__ import annotations

import contextlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from neptune_api.credentials import ApiToken
from neptune_api.exceptions import NeptuneApiError
from neptune_api.options import ChannelOptions
from tests.fire.holes import half_answering_server, line, silent_server, unreachable_server
from tests.fire.wires import Rpc, Wire, rpcs
from tests.unit.certificates import NAME, grpc_credentials, tls_context
from tests.unit.http_wire import FakeHttpServer
from tests.unit.raw_server import free_port
from tests.unit.wire import FakeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from neptune_api.conformance.connections import Connection

DEADLINE = 0.3
GRACE = 0.5
"""Seconds by which a call may be late, on a machine that has time for it."""
SHORT = ChannelOptions(timeout=DEADLINE, stream_timeout=DEADLINE)
"""Default deadlines: the calls themselves name none."""
ENDS = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}


@contextlib.contextmanager
def silence(wire: Wire, _: Path) -> Iterator[Connection]:
    with silent_server() as port:
        yield wire.connect(wire.url(port), access_token="opaque", options=SHORT)


@contextlib.contextmanager
def no_way_there(wire: Wire, _: Path) -> Iterator[Connection]:
    with unreachable_server() as port:
        yield wire.connect(wire.url(port), access_token="opaque", options=SHORT)


@contextlib.contextmanager
def half_an_answer(wire: Wire, _: Path) -> Iterator[Connection]:
    with half_answering_server(http=wire.http) as port:
        yield wire.connect(wire.url(port), access_token="opaque", options=SHORT)


@contextlib.contextmanager
def half_a_handshake(wire: Wire, files: Path) -> Iterator[Connection]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    server = FakeHttpServer(tls_context(files)) if wire.http else FakeServer(grpc_credentials(files))
    options = replace(SHORT, ca_file=files / "ca.pem", server_name=NAME)
    with line(int(server.target.rpartition(":")[2].partition("/")[0]), most=100) as path:
        yield wire.connect(wire.url(path.port, secure=True), access_token="opaque", options=options)
    server.stop()


@contextlib.contextmanager
def half_a_token(wire: Wire, _: Path) -> Iterator[Connection]:
    with half_answering_server(http=wire.http) as port:
        token = ApiToken.mint(api_url="https://neptune.example")
        yield wire.connect(wire.url(port), api_token=token, options=SHORT)


@contextlib.contextmanager
def silence_at_both_addresses(wire: Wire, _: Path) -> Iterator[Connection]:
    with silent_server() as first, silent_server() as second:
        token = ApiToken.mint(api_url=f"http://127.0.0.1:{second}", grpc_url=f"grpc://127.0.0.1:{first}")
        yield wire.connect(api_token=token, transport="auto", options=SHORT)


def timed(rpc: Rpc, connection: Connection, timeout: float | None = None) -> tuple[float, grpc.StatusCode]:
    """Return how long a call takes, and how it fails."""
    call = rpc.on(connection)
    begin = time.monotonic()
    with pytest.raises(NeptuneApiError) as caught:
        call(timeout)
    return time.monotonic() - begin, caught.value.code()


def ends(rpc: Rpc, connection: Connection) -> grpc.StatusCode:
    """Return how a call fails, which it does in time."""
    seconds, code = timed(rpc, connection)
    if DEADLINE + GRACE < seconds < 5:  # a machine with a thousand other things to do may be to blame for so little
        seconds, code = timed(rpc, connection)
    assert seconds <= DEADLINE + GRACE, rpc.path
    return code


@pytest.mark.parametrize(
    "hole", [silence, no_way_there, half_an_answer, half_a_handshake, half_a_token], ids=lambda hole: hole.__name__
)
def test_every_rpc_ends_by_its_deadline(
    wire: Wire, certificates: Path, hole: Callable[..., contextlib.AbstractContextManager[Connection]]
) -> None:
    with hole(wire, certificates) as connection, ThreadPoolExecutor(len(rpcs())) as pool:
        codes = dict(zip(rpcs(), pool.map(lambda rpc: ends(rpc, connection), rpcs()), strict=True))
    for rpc, code in codes.items():
        if wire.http and rpc.request_streaming:
            assert code is grpc.StatusCode.UNIMPLEMENTED
        else:
            assert code in ENDS, rpc.path
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes.values()


@pytest.mark.parametrize("wire", ["grpc", "grpc-aio"], indirect=True)
def test_every_rpc_ends_by_its_deadline_at_whichever_address_it_is(wire: Wire, certificates: Path) -> None:
    with silence_at_both_addresses(wire, certificates) as connection, ThreadPoolExecutor(len(rpcs())) as pool:
        codes = set(pool.map(lambda rpc: ends(rpc, connection), rpcs()))
    assert codes <= {*ENDS, grpc.StatusCode.UNIMPLEMENTED}


def test_a_deadline_of_the_call_is_kept_as_well(wire: Wire) -> None:
    with silent_server() as port, ThreadPoolExecutor(4) as pool:
        connection = wire.connect(wire.url(port), access_token="opaque")
        some = [rpc for rpc in rpcs() if not (wire.http and rpc.request_streaming)][::10]
        for seconds, code in pool.map(lambda rpc: timed(rpc, connection, DEADLINE), some):
            assert code in ENDS
            assert seconds < 5  # not the default


def test_nobody_waits_for_ever_by_default() -> None:
    options = ChannelOptions()
    assert options.timeout is not None
    assert options.stream_timeout is not None
    assert options.exchange_timeout <= options.timeout


def test_nobody_there_is_told_at_once(wire: Wire) -> None:
    connection = wire.connect(wire.url(free_port()), access_token="opaque", options=ChannelOptions(retry=None))
    some: Any = [rpc for rpc in rpcs() if not (wire.http and rpc.request_streaming)]
    with ThreadPoolExecutor(8) as pool:
        for seconds, code in pool.map(lambda rpc: timed(rpc, connection), some):
            assert code is grpc.StatusCode.UNAVAILABLE
            assert seconds < 10  # not the default
