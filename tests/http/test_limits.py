"""Bounds of the HTTP door, at the edge and one beyond, and whatever arrives that is no request."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neptune_api.http.rules import all_rules
from neptune_api.server import limits
from neptune_api.server.http import exchange, protocol
from neptune_api.v1.auth_service_pb2 import AuthorizedUser
from tests.http.caller import PATIENCE, Caller, drain, read
from tests.http.lab import AUTHORIZE, REFRESH, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.lab import LabCaller

INGEST = "/api/client/v1/ingest"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def status_of(reply: bytes) -> int:
    """Return the status of the first reply; 0 when the door closed without one."""
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", reply)
    return int(found[1]) if found else 0


@pytest.fixture
def quick_door(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabCaller]:
    """A door that loses its patience in half a second."""
    monkeypatch.setattr(protocol.BoundedProtocol, "head_seconds", 0.5)
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.5)
    behaviours = dict.fromkeys((AUTHORIZE, REFRESH), lambda _request, _context: AuthorizedUser())
    with serving(behaviours) as caller:
        yield caller


def test_bodies(owner: Caller) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    largest = owner.post(INGEST, bytes(limits.MAX_REQUEST_BYTES), headers=headers)
    assert (largest.status, largest.json()["status"]) == (400, "INVALID_ARGUMENT")  # zeros are no operation
    beyond = owner.post(INGEST, bytes(limits.MAX_REQUEST_BYTES + 1), headers=headers)
    assert (beyond.status, beyond.json()["errorType"]) == (413, "REQUEST_TOO_LARGE")
    assert "33,554,432" in beyond.json()["message"]


def test_bodies_without_an_end_in_sight(owner: Caller) -> None:
    """Far beyond the limit, or in chunks, nobody reads to the end; who asks before sending hears at once."""
    for header in (b"Content-Length: 99999999999\r\n", b"Content-Length: 40000000\r\nExpect: 100-continue\r\n"):
        begin = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b\r\n"
        assert owner.access_token is not None
        assert status_of(owner.send(begin % (INGEST.encode(), owner.access_token.encode(), header))) == 413

    connection = owner.connect()
    pieces = (bytes(1 << 20) for _ in range(limits.MAX_REQUEST_BYTES // (1 << 20) + 1))
    sent_all = False
    try:
        connection.request(
            "POST", INGEST, pieces, {"Authorization": f"Bearer {owner.access_token}"}, encode_chunked=True
        )
        sent_all = True
        assert read(connection).status == 413
    except OSError:
        assert not sent_all or connection.sock is None
    connection.close()


def test_strangers_send_little(stranger: Caller) -> None:
    """Nothing large is read for somebody without a token."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\nExpect: 100-continue\r\n\r\n"
    assert status_of(stranger.send(head % INGEST.encode())) == 401


def test_targets(stranger: Caller) -> None:
    fits = "/healthz?" + "x" * (limits.MAX_HTTP_TARGET_BYTES - len("/healthz?"))
    assert stranger.get(fits).status == 200
    beyond = stranger.get(fits + "x")
    assert (beyond.status, beyond.json()["code"]) == (414, 414)
    assert beyond.headers["connection"] == "close"


def test_headers(stranger: Caller) -> None:
    size = limits.MAX_HTTP_HEADERS_BYTES
    own = len(b"hostx") + 4 + len(b"a") + 4 + len(b"connectionclose") + 4
    head = HEALTH + b"Connection: close\r\nA: %b\r\n\r\n"
    assert status_of(stranger.send(head % (b"x" * (size - own)))) == 200
    beyond = stranger.send(head % (b"x" * (size - own + 1)))
    assert status_of(beyond) == 431
    assert b"65,536 bytes of headers" in beyond

    many = b"".join(b"A%d: x\r\n" % n for n in range(limits.MAX_HTTP_HEADERS - 2))
    assert status_of(stranger.send(HEALTH + b"Connection: close\r\n" + many + b"\r\n")) == 200
    assert status_of(stranger.send(HEALTH + b"Connection: close\r\nB: x\r\n" + many + b"\r\n")) == 431


def test_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.BoundedProtocol, "max_connections", 3)
    behaviours = dict.fromkeys((AUTHORIZE, REFRESH), lambda _request, _context: AuthorizedUser())
    with serving(behaviours) as caller, contextlib.ExitStack() as idle:
        for _ in range(2):
            opened = idle.enter_context(caller.raw())
            opened.sendall(HEALTH + b"\r\n")  # so that the door has taken it
            assert status_of(opened.recv(100_000)) == 200
        assert caller.get("/healthz").status == 200
        last = idle.enter_context(caller.raw())
        last.sendall(HEALTH + b"\r\n")
        assert status_of(last.recv(100_000)) == 200
        beyond = caller.get("/healthz")
        assert (beyond.status, beyond.headers["retry-after"], beyond.json()["status"]) == (503, "1", "UNAVAILABLE")
        assert beyond.json()["message"] == "The server has 3 connections, the limit: try again later."
        last.close()
        while caller.get("/healthz").status == 503:  # until the door has seen it close
            continue


def test_headers_without_an_end(stranger: Caller) -> None:
    """The memory that an unfinished header takes is bounded as well."""
    beyond = limits.MAX_HTTP_TARGET_BYTES + limits.MAX_HTTP_HEADERS_BYTES + 65_536
    assert status_of(stranger.send(HEALTH + b"A: " + b"x" * beyond)) == 431
    assert status_of(stranger.send(b"GET /" + b"x" * beyond)) in {414, 431}


@pytest.mark.parametrize(
    ("begin", "status"), [(b"", 0), (b"\r\n", 408), (b"G", 408), (HEALTH, 408), (HEALTH + b"A: x\r\n\r\n\r\n", 200)]
)
def test_slow_heads_are_cut_off(quick_door: LabCaller, begin: bytes, status: int) -> None:
    began = time.monotonic()
    with quick_door.raw() as opened:
        opened.sendall(begin)
        reply = drain(opened) if status != 200 else opened.recv(100_000)
    assert status_of(reply) == status
    assert time.monotonic() - began < PATIENCE


def test_heads_that_trickle_are_cut_off(quick_door: LabCaller) -> None:
    """A byte now and then buys no time."""
    began = time.monotonic()
    with quick_door.raw() as opened:
        opened.settimeout(0.05)
        reply = b""
        while not reply:
            assert time.monotonic() - began < PATIENCE
            opened.sendall(b"G" if time.monotonic() - began < 0.01 else b"E")
            try:
                reply = opened.recv(65_536)
            except TimeoutError:
                continue
    assert status_of(reply) in {400, 408}


def test_the_next_request_may_take_its_time(quick_door: LabCaller) -> None:
    """An idle connection is no slow request."""
    connection = quick_door.connect()
    for _ in range(2):
        connection.request("GET", "/healthz")
        assert read(connection).status == 200
        time.sleep(0.7)  # longer than a head may take
    connection.close()


def test_slow_bodies_are_cut_off(quick_door: LabCaller) -> None:
    head = b"POST /auth/realms/neptune/protocol/openid-connect/token HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    reply = quick_door.send(head + b"a")
    assert status_of(reply) == 408
    assert b"too slowly" in reply


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
    ],
)
def test_what_is_no_request(stranger: Caller, request_: bytes) -> None:
    with stranger.raw() as opened:
        opened.sendall(request_)
        reply = opened.recv(65_536)
    assert 400 <= status_of(reply) < 500, reply


@pytest.mark.parametrize(
    ("request_", "replies"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", 1),
        (b"GET http://elsewhere.example/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 1),
        (HEALTH + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", 1),
        (HEALTH + b"\r\n" + HEALTH + b"\r\n" + HEALTH + b"Connection: close\r\n\r\n", 3),
    ],
    ids=["HTTP/1.0", "to a proxy", "upgrade", "pipelined"],
)
def test_unusual_requests(stranger: Caller, caplog: pytest.LogCaptureFixture, request_: bytes, replies: int) -> None:
    reply = stranger.send(request_)
    assert reply.count(b"HTTP/1.1 200 OK") == replies, reply
    assert not caplog.records


@FEW
@given(st.binary(min_size=1, max_size=200))
@example(b"\r\n\r\n")
@example(b"GET / HTTP/1.1\r\n\r\n" * 5)
def test_random_bytes(stranger: Caller, data: bytes) -> None:
    """Random bytes get a 4xx or nothing, never a 5xx, and never hold the connection for ever."""
    reply = stranger.send(data + b"\r\n\r\n\x00\xff\r\n\r\n")
    for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", reply):
        assert 400 <= int(status) < 500, reply


RULES = [rule for rules in all_rules().values() for rule in rules if not rule.method.client_streaming]


@FEW
@given(
    rule=st.sampled_from(RULES),
    query=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40),
    body=st.binary(max_size=120) | st.text(max_size=60).map(str.encode),
    content_type=st.sampled_from(["application/json", "application/x-protobuf", "text/plain", "\x80", "a" * 300]),
)
def test_random_requests(owner: Caller, rule: object, query: str, body: bytes, content_type: str) -> None:
    """A request that nobody meant is refused, or answered, by every RPC, and never breaks one."""
    assert isinstance(rule, type(RULES[0]))
    if rule.name == "AuthService.RevokeApiToken":
        return
    reply = owner.call(
        rule.http_verb,
        f"{str(rule.template).replace('*', 'x')}?{query}",
        body,
        headers={"Content-Type": content_type, "Accept": "application/json"},
    )
    assert reply.status < 500, reply
