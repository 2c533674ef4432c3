"""Access tokens: exchange, refresh, single flight. No transport: whoever makes a source says how to ask the server.

A source hands out the current token, renews it before it expires, and does so once however many callers wait. Sources
for threads have a blocking token(); their Aio twins belong to one event loop and have a coroutine of that name.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import inspect
import json
import logging
import math
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias, TypeGuard

import grpc

from neptune_api.credentials import TOKEN_VARIABLE, ApiToken, InvalidTokenError, Secret
from neptune_api.exceptions import (
    CancelledException,
    DeadlineExceededException,
    NeptuneApiError,
    UnauthorizedException,
)

__all__ = [
    "AccessToken",
    "AioApiTokenSource",
    "AioProviderTokenSource",
    "AioStaticTokenSource",
    "AioTokenSource",
    "ApiTokenSource",
    "Grant",
    "ProviderTokenSource",
    "StaticTokenSource",
    "Step",
    "TokenSource",
]

MARGIN: Final = 30.0
"""Seconds before its expiry at which a token is renewed; half of its life for tokens that live less than a minute."""

AUTHORIZATION: Final = "authorization"

_LOGGER: Final = logging.getLogger(__name__)


class Step(NamedTuple):
    """One question to the server: exchange an API token, or refresh with a refresh token."""

    kind: Literal["exchange", "refresh"]
    secret: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What the server answers to a step."""

    access_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)
    username: str = ""


Perform: TypeAlias = Callable[[Step, float], Grant]
"""Asks the server, within so many seconds; raises NeptuneApiError."""
AioPerform: TypeAlias = Callable[[Step, float], Awaitable[Grant]]
"""The same, for coroutines."""
Provider: TypeAlias = Callable[[], str]
AioProvider: TypeAlias = Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True, eq=False)
class AccessToken:
    """An access token and how long it is good for; two are the same token only if they are one object."""

    value: str = field(repr=False)
    """What the server reads."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Metadata, or HTTP headers, of a call that carries the token."""
    good_until: float
    """Reading of time.monotonic() at which to renew."""
    good_until_wall: float
    """Reading of time.time() at which to renew: the monotonic clock may stand still while a machine sleeps."""

    def fresh(self) -> bool:
        """Tell whether the token can be used without renewing it first."""
        return time.monotonic() < self.good_until and time.time() < self.good_until_wall

    @classmethod
    def make(cls, value: str, lifetime: float) -> AccessToken:
        """Return a token that is renewed a margin before it has lived for `lifetime` seconds from now."""
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise InvalidTokenError("The access token must be one or more visible ASCII characters without spaces.")
        usable = lifetime - min(MARGIN, max(lifetime, 0.0) / 2) if math.isfinite(lifetime) else lifetime
        return cls(
            value=Secret(value),
            headers=((AUTHORIZATION, Secret(f"Bearer {value}")),),
            good_until=time.monotonic() + usable,
            good_until_wall=time.time() + usable,
        )


def lifetime_of(value: str) -> float | None:
    """Return for how many seconds a JWT is good, read from its claims unverified; None for any other text.

    The server's clock may differ from ours. With `iat` the life is known without a clock; ours then only shortens it,
    for a server that hands out a token it made earlier, and only when it does not say that the token is spent already.
    """
    parts = value.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    expires, issued = claims.get("exp"), claims.get("iat")
    if not _is_time(expires):
        return None
    left = float(expires) - time.time()
    if not _is_time(issued):
        return left
    life = float(expires) - float(issued)
    return min(left, life) if left > MARGIN else life


def _is_time(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _late() -> DeadlineExceededException:
    return DeadlineExceededException("The deadline of the call passed while it waited for an access token.")


class _State(ABC):
    """What sources for threads and for event loops share: the current token, without locks."""

    _token: AccessToken | None = None

    def current(self) -> AccessToken | None:
        """Return the token if it is fresh; None when token() has to be called."""
        token = self._token
        return token if token is not None and token.fresh() else None

    @abstractmethod
    def invalidate(self, token: AccessToken) -> bool:
        """Drop a token that the server refused, if it is still the current one; tell whether another can be had."""

    def secrets(self) -> tuple[str, ...]:
        """Return the texts that must not appear in any output."""
        return () if self._token is None else (self._token.value,)


class TokenSource(_State):
    """Hands out access tokens to threads."""

    @abstractmethod
    def token(self, timeout: float | None = None) -> AccessToken:
        """Return a token, fetching it within `timeout` seconds if need be.

        Raises UnauthorizedException when the server refuses, DeadlineExceededException when time is up, and what the
        transport or the provider raises.
        """


class AioTokenSource(_State):
    """Hands out access tokens to the coroutines of one event loop."""

    @abstractmethod
    async def token(self, timeout: float | None = None) -> AccessToken:
        """Return a token, fetching it within `timeout` seconds if need be; raises as TokenSource.token() does."""


# Static tokens.


class _StaticState(_State):
    def __init__(self, value: str) -> None:
        self._fixed = self._token = AccessToken.make(value.strip(), math.inf)

    def invalidate(self, token: AccessToken) -> bool:  # noqa: ARG002 # there is one token only
        """Return False: there is no other token."""
        return False


class StaticTokenSource(_StaticState, TokenSource):
    """Hands out one access token for ever."""

    def token(self, timeout: float | None = None) -> AccessToken:  # noqa: ARG002 # never has to wait
        """Return the token."""
        return self._fixed


class AioStaticTokenSource(_StaticState, AioTokenSource):
    """Hands out one access token for ever."""

    async def token(self, timeout: float | None = None) -> AccessToken:  # noqa: ARG002 # never has to wait
        """Return the token."""
        return self._fixed


# API tokens: what to ask, shared by threads and coroutines.


class _Plan:
    """Refreshes while the server allows it, else exchanges the API token."""

    def __init__(self, api_token: ApiToken) -> None:
        self._api_token = api_token.encode()
        self._refresh_token = ""

    def steps(self) -> Generator[Step, Grant, AccessToken]:
        """Yield questions, take their answers or errors, and return the token."""
        grant = None
        if self._refresh_token:
            try:
                grant = yield Step("refresh", self._refresh_token)
            except NeptuneApiError as error:
                _LOGGER.debug("Refreshing the access token failed with %s; exchanging the API token", error.code().name)
        if grant is None:
            grant = yield from self._exchange()
        self._refresh_token = Secret(grant.refresh_token)
        lifetime = lifetime_of(grant.access_token)
        # An access token that is no JWT is good until the server says otherwise. So is one that is spent when it comes:
        # the clocks differ, and a new one at each call would be no better.
        if lifetime is None or lifetime < 0:
            lifetime = math.inf
        return AccessToken.make(grant.access_token, lifetime)

    def _exchange(self) -> Generator[Step, Grant, Grant]:
        try:
            return (yield Step("exchange", self._api_token))
        except NeptuneApiError as error:
            failure = _exchange_error(error)
        raise failure

    def forget(self) -> None:
        """Drop the refresh token, which came with an access token that the server refuses."""
        self._refresh_token = ""

    def secrets(self) -> tuple[str, ...]:
        """Return the texts that must not appear in any output."""
        return (self._api_token, self._refresh_token)


_REFUSALS: Final = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}
)


def _exchange_error(error: NeptuneApiError) -> NeptuneApiError:
    """Say that it was the exchange that failed, not the call that waited for it."""
    said = error.details().rstrip(".")
    if error.code() in _REFUSALS:
        cls: type[NeptuneApiError] = UnauthorizedException
        text = (
            f"The server refused the API token: {said}. Check that {TOKEN_VARIABLE}, or the api_token given, is a "
            "token of this server that has not been revoked."
        )
    else:
        cls = type(error)
        text = f"Exchanging the API token for an access token failed: {said}."
    made = cls(
        text,
        method=error.method,
        initial_metadata=error.initial_metadata(),
        trailing_metadata=error.trailing_metadata(),
        debug_error_string=error.debug_error_string(),
    )
    made.__cause__ = error.__cause__
    return made


def _provided(value: object) -> AccessToken:
    """Check what the caller's own function returned; a text that is no JWT is spent at once."""
    if not isinstance(value, str):
        raise TypeError(f"the access_token function must return a str, not {type(value).__name__}")
    token = value.strip()
    return AccessToken.make(token, lifetime_of(token) or 0.0)


# Renewal: how to wait, once for threads and once for coroutines.


def _again(error: BaseException) -> BaseException:
    """Return a copy for one more waiter: raising one object in many places would mix up their tracebacks."""
    if not isinstance(error, NeptuneApiError):
        return error
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


class _Flight:
    """One renewal under way, and its outcome: a token, an error, or neither when its leader gave up."""

    __slots__ = ("done", "error", "token")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.token: AccessToken | None = None
        self.error: BaseException | None = None


_RENEWED: Final[weakref.WeakSet[_RenewedTokenSource]] = weakref.WeakSet()


class _RenewedTokenSource(TokenSource):
    """One renewal at a time: the first caller does it, the others wait for its outcome."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.reset_locks()
        _RENEWED.add(self)

    def reset_locks(self) -> None:
        """Start over with an open lock and no renewal under way; for the child of a fork."""
        self._lock = threading.Lock()
        self._flight: _Flight | None = None

    def token(self, timeout: float | None = None) -> AccessToken:
        """Return the current token, or renew it; see TokenSource."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                token = self.current()
                if token is not None:
                    return token
                flight = self._flight
                leads = flight is None
                if flight is None:
                    flight = self._flight = _Flight()
            left = deadline - time.monotonic()
            if leads:
                return self._lead(flight, left)
            if not flight.done.wait(None if left == math.inf else max(left, 0.0)):
                raise _late()
            if flight.token is not None:
                return flight.token
            if flight.error is not None:
                raise _again(flight.error)

    def _lead(self, flight: _Flight, left: float) -> AccessToken:
        try:
            token = self._renew(min(left, self._timeout))
        except Exception as error:
            # A leader in a hurry says nothing about those with time left: they start over.
            if not (isinstance(error, DeadlineExceededException) and left < self._timeout):
                flight.error = error
            raise
        else:
            flight.token = token
            return token
        finally:
            with self._lock:
                if flight.token is not None:
                    self._token = flight.token
                if self._flight is flight:
                    self._flight = None
            flight.done.set()

    @abstractmethod
    def _renew(self, seconds: float) -> AccessToken:
        """Get another token within so many seconds."""

    def _forget(self) -> None:
        """Drop what came with a token that the server refused."""

    def invalidate(self, token: AccessToken) -> bool:
        """Drop the token if it is still the current one; another can be had."""
        with self._lock:
            if self._token is token:
                self._token = None
                self._forget()
        return True


def _after_fork() -> None:
    # The thread that held a lock or led a flight does not exist in the child. The tokens are still good there.
    for source in _RENEWED:
        source.reset_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ApiTokenSource(_RenewedTokenSource):
    """Exchanges an API token for access tokens and refreshes them. Safe to use after a fork."""

    def __init__(self, api_token: ApiToken, perform: Perform, *, timeout: float = 30.0) -> None:
        super().__init__(timeout)
        self._plan = _Plan(api_token)
        self._perform = perform

    def _renew(self, seconds: float) -> AccessToken:
        deadline = time.monotonic() + seconds
        steps = self._plan.steps()
        step = next(steps)
        while True:
            try:
                grant = self._perform(step, deadline - time.monotonic())
            except NeptuneApiError as error:
                failure = error
            else:
                try:
                    step = steps.send(grant)
                except StopIteration as stop:
                    token: AccessToken = stop.value
                    return token
                continue
            step = steps.throw(failure)

    def _forget(self) -> None:
        self._plan.forget()

    def secrets(self) -> tuple[str, ...]:
        """Return the access token, the refresh token and the API token."""
        return (*super().secrets(), *self._plan.secrets())


class ProviderTokenSource(_RenewedTokenSource):
    """Asks a function for access tokens: before a JWT expires, at every call for other tokens.

    What the function raises reaches the caller unchanged.
    """

    def __init__(self, provider: Provider, *, timeout: float = 30.0) -> None:
        super().__init__(timeout)
        self._provider = provider

    def _renew(self, seconds: float) -> AccessToken:  # noqa: ARG002 # a blocking function cannot be told to hurry
        return _provided(self._provider())


class _RenewedAioTokenSource(AioTokenSource):
    """One renewal at a time, as a task of its own: a caller that is cancelled does not take it along."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._task: asyncio.Task[AccessToken] | None = None

    async def token(self, timeout: float | None = None) -> AccessToken:
        """Return the current token, or renew it; see TokenSource."""
        token = self.current()
        if token is not None:
            return token
        task = self._task
        if task is None:
            task = self._task = asyncio.get_running_loop().create_task(self._renew(self._timeout))
            task.add_done_callback(self._landed)
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            raise _late()
        if task.cancelled():
            raise CancelledException("The channel was closed while the call waited for an access token.")
        error = task.exception()
        if error is not None:
            raise _again(error)
        return task.result()

    def _landed(self, task: asyncio.Task[AccessToken]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is None:
            self._token = task.result()

    @abstractmethod
    async def _renew(self, seconds: float) -> AccessToken:
        """Get another token within so many seconds."""

    def _forget(self) -> None:
        """Drop what came with a token that the server refused."""

    def invalidate(self, token: AccessToken) -> bool:
        """Drop the token if it is still the current one; another can be had."""
        if self._token is token:
            self._token = None
            self._forget()
        return True


class AioApiTokenSource(_RenewedAioTokenSource):
    """Exchanges an API token for access tokens and refreshes them."""

    def __init__(self, api_token: ApiToken, perform: AioPerform, *, timeout: float = 30.0) -> None:
        super().__init__(timeout)
        self._plan = _Plan(api_token)
        self._perform = perform

    async def _renew(self, seconds: float) -> AccessToken:
        deadline = time.monotonic() + seconds
        steps = self._plan.steps()
        step = next(steps)
        while True:
            try:
                grant = await self._perform(step, deadline - time.monotonic())
            except NeptuneApiError as error:
                failure = error
            else:
                try:
                    step = steps.send(grant)
                except StopIteration as stop:
                    token: AccessToken = stop.value
                    return token
                continue
            step = steps.throw(failure)

    def _forget(self) -> None:
        self._plan.forget()

    def secrets(self) -> tuple[str, ...]:
        """Return the access token, the refresh token and the API token."""
        return (*super().secrets(), *self._plan.secrets())


class AioProviderTokenSource(_RenewedAioTokenSource):
    """Asks a function or coroutine function for access tokens, as ProviderTokenSource does."""

    def __init__(self, provider: AioProvider, *, timeout: float = 30.0) -> None:
        super().__init__(timeout)
        self._provider = provider

    async def _renew(self, seconds: float) -> AccessToken:
        value = self._provider()
        if inspect.isawaitable(value):
            try:
                value = await asyncio.wait_for(value, seconds)
            except asyncio.TimeoutError:
                raise DeadlineExceededException(
                    f"The access_token function took longer than {seconds:g} s (ChannelOptions.exchange_timeout)."
                ) from None
        return _provided(value)
