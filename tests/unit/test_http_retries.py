"""Channels over HTTP: what is asked again, when, and what is not."""

from __future__ import annotations

import email.utils
import socket
import threading
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from neptune_api import models
from neptune_api.exceptions import (
    DeadlineExceededException,
    NeptuneApiError,
    UnavailableException,
)
from neptune_api.http.retries import Budget, Retries
from neptune_api.options import ChannelOptions, RetryPolicy
from tests.unit.raw_server import (
    ONCE,
    Peer,
    free_port,
    opened,
    refusing,
)
from tests.unit.wire import FAST, PATIENCE

if TYPE_CHECKING:
    from tests.unit.conftest import OpenWire, Serve


@pytest.mark.parametrize("status", ["503 Service Unavailable", "502 Bad Gateway", "429 Too Many Requests"])
def test_a_server_that_is_away_is_asked_again(serve: Serve, open_channel: OpenWire, status: str) -> None:
    assert opened(open_channel, serve(refusing(status, times=4))).info().version == "1"


def test_after_five_attempts_it_is_enough(serve: Serve, open_channel: OpenWire) -> None:
    server = serve(refusing("503 Service Unavailable", times=5))
    wire = opened(open_channel, server)
    with pytest.raises(UnavailableException, match="The server answered HTTP status 503"):
        wire.info()
    assert wire.info().version == "1"


@pytest.mark.parametrize("status", ["413 Content Too Large", "400 Bad Request", "500 Oops", "408 Request Timeout"])
def test_what_would_end_in_the_same_way_is_asked_once(serve: Serve, open_channel: OpenWire, status: str) -> None:
    wire = opened(open_channel, serve(refusing(status)))
    with pytest.raises(NeptuneApiError):
        wire.info()
    assert wire.info().version == "1"


def test_a_delay_that_the_server_asks_for_takes_the_place_of_ours(serve: Serve, open_channel: OpenWire) -> None:
    slow = ChannelOptions(retry=RetryPolicy(initial_backoff=60, max_backoff=60))
    long_ago = email.utils.formatdate(usegmt=True)
    for header in ("Retry-After: 0.02", "retry-after: 0", f"Retry-After: {long_ago}"):
        wire = opened(open_channel, serve(refusing("503 Service Unavailable", header)), slow)
        assert wire.info().version == "1"


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120.0), ("0.5", 0.5), ("soon", None), ("nan", None), ("-5", 0.0)]
)
def test_a_delay_is_told(serve: Serve, open_channel: OpenWire, header: str, seconds: float | None) -> None:
    wire = opened(open_channel, serve(refusing("503 Service Unavailable", f"Retry-After: {header}")), ONCE)
    with pytest.raises(UnavailableException) as caught:
        wire.info()
    assert caught.value.retry_delay == seconds


def test_there_is_no_waiting_past_the_deadline(serve: Serve, open_channel: OpenWire) -> None:
    wire = opened(open_channel, serve(refusing("503 Service Unavailable", "Retry-After: 3600")))
    with pytest.raises(UnavailableException):
        wire.authorize(timeout=PATIENCE)


def test_a_request_over_the_buffer_is_sent_once(serve: Serve, open_channel: OpenWire) -> None:
    options = ChannelOptions(retry=RetryPolicy(initial_backoff=0.01), retry_buffer_bytes=1000)
    for size, expected in ((500, 1), (2000, 0)):
        wire = opened(open_channel, serve(refusing("503 Service Unavailable")), options)
        if expected:
            wire.submit("x" * size)
        else:
            with pytest.raises(UnavailableException):
                wire.submit("x" * size)


def test_the_attempts_wait_ever_longer() -> None:
    policy = RetryPolicy(initial_backoff=1, max_backoff=10, multiplier=3)
    for attempt, expected in ((1, 1), (2, 3), (3, 9), (4, 10), (5000, 10)):
        waits = [policy.backoff(attempt) for _ in range(100)]
        assert 0.8 * expected <= min(waits) < max(waits) <= 1.2 * expected


def test_many_failures_use_up_the_budget_and_success_fills_it() -> None:
    from neptune_api.http.failures import CallError

    policy = RetryPolicy(budget=10, budget_refill=0.5)
    budget = Budget(policy)
    failure = CallError(grpc.StatusCode.UNAVAILABLE, "down")

    def retried() -> bool:
        return Retries(policy, budget, None, patient=False).pause(failure) is not None

    assert [retried() for _ in range(7)] == [True] * 4 + [False] * 3
    for _ in range(10):
        budget.succeeded()
    assert [retried() for _ in range(3)] == [True, True, False]
    for _ in range(1000):
        budget.succeeded()
    assert [retried() for _ in range(6)] == [True] * 4 + [False] * 2


def test_nobody_there_is_told_with_the_address(open_channel: OpenWire) -> None:
    port = free_port()
    wire = open_channel(f"http://127.0.0.1:{port}", api_token="", options=FAST)
    with pytest.raises(UnavailableException, match=rf"Cannot connect to 127\.0\.0\.1:{port}: Connection refused\."):
        wire.info()
    wire = open_channel("http://no-such-host.invalid", api_token="", options=ONCE)
    with pytest.raises(UnavailableException, match=r"Cannot connect to no-such-host\.invalid:80: "):
        wire.info()
    wire = open_channel(f"http://{'x' * 70}.example", api_token="", options=ONCE)
    with pytest.raises(UnavailableException, match="Cannot connect to x"):
        wire.info()


def test_a_call_may_wait_for_a_server_to_come(open_channel: OpenWire) -> None:
    port = free_port()
    wire = open_channel(f"http://127.0.0.1:{port}", access_token="opaque", options=ONCE)
    with pytest.raises(DeadlineExceededException, match="while it connected to"):
        wire.authorize(wait_for_ready=True, timeout=0.3)

    def come() -> None:
        with socket.create_server(("127.0.0.1", port), reuse_port=False) as listener:
            connection, _ = listener.accept()
            with connection:
                peer = Peer(connection)
                peer.request()
                peer.answer()

    server = threading.Timer(0.2, come)
    server.start()
    assert wire.authorize(wait_for_ready=True, timeout=PATIENCE) == models.AuthorizedUser()
    server.join()
