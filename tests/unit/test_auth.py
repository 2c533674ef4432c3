"""Token sources without a transport: how long tokens live, who renews them, and how often."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neptune_api.auth import (
    AccessToken,
    AioApiTokenSource,
    AioProviderTokenSource,
    AioStaticTokenSource,
    ApiTokenSource,
    Grant,
    ProviderTokenSource,
    StaticTokenSource,
    Step,
    lifetime_of,
)
from neptune_api.credentials import ApiToken
from neptune_api.exceptions import (
    CancelledException,
    DeadlineExceededException,
    InvalidArgumentException,
    InvalidTokenError,
    UnauthorizedException,
    UnavailableException,
)
from tests.unit.wire import PATIENCE, jwt

if TYPE_CHECKING:
    from collections.abc import Callable

    from neptune_api.exceptions import NeptuneApiError

API_TOKEN = ApiToken.mint(api_url="https://neptune.example")


class Issuer:
    """What stands where a transport would: it answers steps with tokens, or with the errors it is told to raise."""

    def __init__(self, *, lifetime: float = 300.0, opaque: bool = False, **claims: Any) -> None:
        self.lifetime = lifetime
        self.claims = claims
        self.opaque = opaque
        self.steps: list[Step] = []
        self.seconds: list[float] = []
        self.errors: dict[str, NeptuneApiError] = {}
        self.started = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def perform(self, step: Step, seconds: float) -> Grant:
        self.steps.append(step)
        self.seconds.append(seconds)
        self.started.set()
        if not self.go.wait(min(max(seconds, 0), PATIENCE)):
            raise DeadlineExceededException("too slow")
        if step.kind in self.errors:
            raise self.errors[step.kind]
        number = len(self.steps)
        token = f"opaque-{number}" if self.opaque else jwt(lifetime=self.lifetime, **self.claims)
        return Grant(token, f"refresh-{number}", "ada")

    async def aio_perform(self, step: Step, seconds: float) -> Grant:
        await asyncio.sleep(0)
        return self.perform(step, seconds)

    def kinds(self) -> list[str]:
        return [step.kind for step in self.steps]


class Sync:
    """A source for threads."""

    def __init__(self, issuer: Issuer, **arguments: Any) -> None:
        self.source = ApiTokenSource(API_TOKEN, issuer.perform, **arguments)

    def token(self, timeout: float | None = None) -> AccessToken:
        return self.source.token(timeout)


class Aio:
    """A source for an event loop, called from outside of it."""

    def __init__(self, issuer: Issuer, **arguments: Any) -> None:
        self.source = AioApiTokenSource(API_TOKEN, issuer.aio_perform, **arguments)

    def token(self, timeout: float | None = None) -> AccessToken:
        return asyncio.run(self.source.token(timeout))


@pytest.fixture(params=[Sync, Aio])
def make(request: pytest.FixtureRequest) -> Callable[..., Sync | Aio]:
    maker: Callable[..., Sync | Aio] = request.param
    return maker


# How long a token is good.


@pytest.mark.parametrize(
    ("made", "lifetime"),
    [
        ({"lifetime": 300}, 300),
        ({"lifetime": 300, "issued": False}, 300),
        ({"lifetime": 300, "skew": 600}, 300),  # their clock is ahead
        ({"lifetime": 300, "skew": -600}, 300),  # their clock is behind: by ours the token is spent, and it is not
        ({"lifetime": 3600, "skew": -600}, 3000),  # or they made it ten minutes ago
        ({"lifetime": 0}, 0),
    ],
)
def test_the_life_of_a_jwt_survives_clocks_that_differ(made: dict[str, Any], lifetime: float) -> None:
    assert lifetime_of(jwt(**made)) == pytest.approx(lifetime, abs=5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "opaque", "a.b", "a.b.c", "a.!.c", "a.bm90IGpzb24.c", "a.W10.c", "a.e30.c", "a.eyJleHAiOiAieCJ9.c"),
        *("a.eyJleHAiOiB0cnVlfQ.c", "a.eyJleHAiOiBOYU59.c", "a.eyJleHAiOiAxZTk5OX0.c", "a." + "W1tb" * 2000 + ".c"),
    ],
)
def test_what_is_no_jwt_with_an_expiry_has_no_known_life(text: str) -> None:
    assert lifetime_of(text) is None


@pytest.mark.parametrize(
    ("lifetime", "usable"), [(300.0, 270.0), (60.0, 30.0), (20.0, 10.0), (0.0, 0.0), (-5.0, -5.0), (math.inf, math.inf)]
)
def test_a_token_is_renewed_a_margin_before_its_end(lifetime: float, usable: float) -> None:
    token = AccessToken.make("t", lifetime)
    assert token.good_until - time.monotonic() == pytest.approx(usable, abs=5)
    assert token.fresh() == (usable > 0)


def test_a_jump_of_the_wall_clock_costs_one_renewal_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer()
    source = ApiTokenSource(API_TOKEN, issuer.perform)
    source.token()
    wall = time.time
    monkeypatch.setattr("time.time", lambda: wall() - 3600)
    source.token()
    assert issuer.kinds() == ["exchange"]
    monkeypatch.setattr("time.time", lambda: wall() + 3600)
    for _ in range(3):
        source.token()
    assert issuer.kinds() == ["exchange", "refresh"]


@pytest.mark.parametrize("value", ["", " ", "a b", "line\nbreak", "żółw", "tab\t"])
def test_a_token_that_no_header_can_hold_is_refused_unseen(value: str) -> None:
    with pytest.raises(InvalidTokenError, match="visible ASCII") as caught:
        AccessToken.make(value, 1.0)
    assert not value.strip() or value not in str(caught.value)


def test_no_form_of_a_token_shows_it() -> None:
    value = jwt()
    token = AccessToken.make(value, 300)
    assert token.headers == (("authorization", f"Bearer {value}"),)
    grant, step = Grant(value, value), Step("exchange", API_TOKEN.encode())
    for shown in (repr(token), str(token), repr(token.headers), repr([token.value]), repr(grant), repr(step)):
        assert value not in shown
        assert API_TOKEN.encode() not in shown


# Exchange, refresh, invalidate.


def test_the_api_token_is_exchanged_once_and_then_refreshed(make: Callable[..., Sync | Aio]) -> None:
    issuer = Issuer()
    client = make(issuer)
    first = client.token()
    assert client.token() is first
    assert client.source.current() is first
    assert issuer.steps == [Step("exchange", API_TOKEN.encode())]
    issuer.lifetime = 0
    client.source.invalidate(first)
    client.token()
    assert client.source.current() is None
    issuer.lifetime = 300
    client.token()
    assert issuer.kinds() == ["exchange", "exchange", "refresh"]
    assert issuer.steps[2].secret == "refresh-2"


def test_a_failed_refresh_falls_back_to_one_exchange(make: Callable[..., Sync | Aio]) -> None:
    issuer = Issuer(lifetime=0)
    client = make(issuer)
    client.token()
    issuer.errors["refresh"] = UnauthorizedException("revoked")
    client.token()
    assert issuer.kinds() == ["exchange", "refresh", "exchange"]


def test_a_refused_token_is_replaced_by_an_exchange_and_only_once(make: Callable[..., Sync | Aio]) -> None:
    issuer = Issuer()
    client = make(issuer)
    refused = client.token()
    assert client.source.invalidate(refused)
    renewed = client.token()
    assert client.source.invalidate(refused)
    assert client.token() is renewed
    assert issuer.kinds() == ["exchange", "exchange"]


@pytest.mark.parametrize("error", [UnauthorizedException("unknown key."), InvalidArgumentException("unknown key")])
def test_a_rejected_api_token_says_so(make: Callable[..., Sync | Aio], error: NeptuneApiError) -> None:
    issuer = Issuer()
    issuer.errors["exchange"] = error
    client = make(issuer)
    with pytest.raises(UnauthorizedException) as caught:
        client.token()
    assert caught.value.details() == (
        "The server refused the API token: unknown key. Check that NEPTUNE_API_TOKEN, or the api_token given, is a "
        "token of this server that has not been revoked."
    )
    assert issuer.kinds() == ["exchange"]


def test_a_server_that_is_away_stays_unavailable(make: Callable[..., Sync | Aio]) -> None:
    issuer = Issuer()
    issuer.errors["exchange"] = UnavailableException("connection refused")
    client = make(issuer)
    with pytest.raises(UnavailableException, match=r"Exchanging the API token .* failed: connection refused"):
        client.token()
    del issuer.errors["exchange"]
    assert client.token().fresh()


def test_an_opaque_access_token_is_good_until_refused(make: Callable[..., Sync | Aio]) -> None:
    issuer = Issuer(opaque=True)
    client = make(issuer)
    assert client.token() is client.token()
    assert issuer.kinds() == ["exchange"]


def test_a_token_that_seems_spent_before_it_came_is_good_until_refused(make: Callable[..., Sync | Aio]) -> None:
    issuer = Issuer(skew=-600, issued=False)  # by their clock it has five minutes, by ours it had
    client = make(issuer)
    assert client.token() is client.token()
    assert issuer.kinds() == ["exchange"]


def test_the_exchange_has_the_shorter_of_its_own_and_the_callers_time() -> None:
    issuer = Issuer(lifetime=0)
    source = ApiTokenSource(API_TOKEN, issuer.perform, timeout=10)
    source.token()
    source.token(2)
    assert issuer.seconds == pytest.approx([10, 2], abs=1)


def test_secrets_are_known_to_those_who_redact(make: Callable[..., Sync | Aio]) -> None:
    client = make(Issuer())
    token = client.token()
    assert set(client.source.secrets()) == {token.value, "refresh-1", API_TOKEN.encode()}


# One flight for many callers.


def test_many_threads_share_one_renewal() -> None:
    issuer = Issuer()
    issuer.go.clear()
    source = ApiTokenSource(API_TOKEN, issuer.perform)
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(source.token) for _ in range(50)]
        assert issuer.started.wait(PATIENCE)
        issuer.go.set()
        tokens = {id(call.result(PATIENCE)) for call in waiting}
    assert len(tokens) == 1
    assert issuer.kinds() == ["exchange"]


def test_many_threads_share_one_failure_each_with_its_own_exception() -> None:
    issuer = Issuer()
    issuer.errors["exchange"] = UnavailableException("down")
    issuer.go.clear()
    source = ApiTokenSource(API_TOKEN, issuer.perform)
    gate = threading.Barrier(10)

    def call() -> None:
        gate.wait(PATIENCE)
        source.token()

    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(call) for _ in range(10)]
        assert issuer.started.wait(PATIENCE)
        issuer.go.set()
        errors = [call.exception(PATIENCE) for call in waiting]
    assert all(isinstance(error, UnavailableException) for error in errors)
    assert len({id(error) for error in errors}) == 10


def test_a_waiter_gives_up_at_its_own_deadline() -> None:
    issuer = Issuer()
    issuer.go.clear()
    source = ApiTokenSource(API_TOKEN, issuer.perform)
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(source.token)
        assert issuer.started.wait(PATIENCE)
        with pytest.raises(DeadlineExceededException, match="while it waited for an access token"):
            source.token(0.01)
        issuer.go.set()
        assert leader.result(PATIENCE).fresh()


def test_a_leader_in_a_hurry_does_not_fail_those_with_time_left() -> None:
    issuer = Issuer()
    issuer.go.clear()
    source = ApiTokenSource(API_TOKEN, issuer.perform)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(source.token, 0.2)
        assert issuer.started.wait(PATIENCE)
        follower = pool.submit(source.token, PATIENCE)
        with pytest.raises(DeadlineExceededException):
            leader.result(PATIENCE)
        issuer.go.set()
        assert follower.result(PATIENCE).fresh()


def test_an_interrupted_leader_leaves_the_source_usable() -> None:
    calls = []

    def perform(step: Step, seconds: float) -> Grant:
        calls.append(step)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return Grant(jwt())

    source = ApiTokenSource(API_TOKEN, perform)
    with pytest.raises(KeyboardInterrupt):
        source.token()
    assert source.token().fresh()


def test_many_tasks_share_one_renewal_and_a_cancelled_one_does_not_take_it_along() -> None:
    async def main() -> None:
        started, go = asyncio.Event(), asyncio.Event()
        steps = []

        async def perform(step: Step, seconds: float) -> Grant:
            steps.append(step)
            started.set()
            await go.wait()
            return Grant(jwt())

        source = AioApiTokenSource(API_TOKEN, perform)
        tasks = [asyncio.create_task(source.token()) for _ in range(200)]
        await asyncio.wait_for(started.wait(), PATIENCE)
        tasks[0].cancel()
        with pytest.raises(DeadlineExceededException):
            await source.token(0.01)
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert len({id(result) for result in results[1:]}) == 1
        assert len(steps) == 1

    asyncio.run(main())


def test_many_tasks_share_one_failure_each_with_its_own_exception() -> None:
    issuer = Issuer()
    issuer.errors["exchange"] = UnavailableException("down")

    async def main() -> list[Any]:
        source = AioApiTokenSource(API_TOKEN, issuer.aio_perform)
        return await asyncio.gather(*(source.token() for _ in range(10)), return_exceptions=True)

    errors = asyncio.run(main())
    assert all(isinstance(error, UnavailableException) for error in errors)
    assert len({id(error) for error in errors}) == 10
    assert issuer.kinds() == ["exchange"]


def test_a_cancelled_renewal_is_not_the_callers_cancellation() -> None:
    async def main() -> None:
        async def perform(step: Step, seconds: float) -> Grant:
            raise asyncio.CancelledError

        with pytest.raises(CancelledException, match="channel was closed"):
            await AioApiTokenSource(API_TOKEN, perform).token()

    asyncio.run(main())


# Static and provided tokens.


def test_a_static_token_is_all_there_is() -> None:
    source, aio_source = StaticTokenSource(" fixed\n"), AioStaticTokenSource("fixed")
    token = source.token()
    assert token.value == "fixed"
    assert source.current() is token
    assert not source.invalidate(token)
    assert source.token() is token
    assert asyncio.run(aio_source.token()).value == "fixed"
    assert source.secrets() == ("fixed",)
    with pytest.raises(InvalidTokenError):
        StaticTokenSource("  ")


@pytest.mark.parametrize("aio", [False, True])
@pytest.mark.parametrize(("value", "calls"), [(jwt, 1), (lambda: "opaque", 3)])
def test_a_provider_is_asked_before_a_jwt_expires_and_always_for_other_tokens(
    value: Callable[[], str], calls: int, aio: bool
) -> None:
    asked = []

    def provide() -> str:
        asked.append(1)
        return value()

    async def provide_later() -> str:
        return provide()

    if aio:
        aio_source = AioProviderTokenSource(provide_later)
        for _ in range(3):
            asyncio.run(aio_source.token())
    else:
        source = ProviderTokenSource(provide)
        for _ in range(3):
            source.token()
    assert len(asked) == calls


def test_a_refused_token_of_a_provider_is_asked_for_again() -> None:
    source = ProviderTokenSource(jwt)
    token = source.token()
    assert source.invalidate(token)
    assert source.token() is not token


def test_what_a_provider_raises_reaches_the_caller() -> None:
    def provide() -> str:
        raise LookupError("vault is sealed")

    with pytest.raises(LookupError, match="vault is sealed"):
        ProviderTokenSource(provide).token()
    with pytest.raises(LookupError, match="vault is sealed"):
        asyncio.run(AioProviderTokenSource(provide).token())


def test_a_provider_must_return_text() -> None:
    provide: Any = lambda: b"bytes"  # noqa: E731 # a function is what is tested
    with pytest.raises(TypeError, match="must return a str, not bytes"):
        ProviderTokenSource(provide).token()


def test_a_provider_that_hangs_ends_at_its_deadline() -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    with pytest.raises(DeadlineExceededException, match=r"took longer than 0\.01 s"):
        asyncio.run(AioProviderTokenSource(hang, timeout=0.01).token())


# Fork.

FORK = """
import os, sys
from neptune_api.auth import ProviderTokenSource
from tests.unit.wire import jwt

source = ProviderTokenSource(jwt)
kept = source.token()
used = ProviderTokenSource(jwt)
used._lock.acquire()  # as if another thread held it while this one forks
child = os.fork()
if child == 0:
    os._exit(0 if used.token(5).fresh() and source.token() is kept else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_child_of_a_fork_can_use_its_sources() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60, cwd=Path(__file__).parents[2])
