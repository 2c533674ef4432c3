"""Every default of a channel and of the server that matches it: deadlines, sizes, keepalive, retries, TLS files."""

from __future__ import annotations

import json
import math
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import grpc

from neptune_api._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike
    from typing import TypeAlias

    ChannelArgument: TypeAlias = tuple[str, str | int]

__all__ = [
    "IDEMPOTENCY_KEY",
    "MAX_REQUEST_BYTES",
    "MAX_RESPONSE_BYTES",
    "MIN_PING_INTERVAL",
    "PUSHBACK_KEY",
    "ChannelOptions",
    "RetryPolicy",
    "server_arguments",
]

MIB: Final = 1024 * 1024

MAX_REQUEST_BYTES: Final = 64 * MIB
"""Largest request message that a channel sends and that the server's transport takes."""

MAX_RESPONSE_BYTES: Final = 256 * MIB
"""Largest response message that a channel takes."""

MAX_METADATA_BYTES: Final = 64 * 1024
"""Most metadata of one call, either way; gRPC's own 8 KiB would lose errors with many field violations."""

MIN_PING_INTERVAL: Final = 10.0
"""Seconds between two pings that the server tolerates; channels that ping more often are cut off."""

IDEMPOTENCY_KEY: Final = "x-idempotency-key"
"""Metadata by which the server knows that two calls are one. Channels send it with writes that may be retried."""

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""Metadata by which a server says when to come back, in milliseconds; -1 for never."""

_INT32_MAX: Final = 2**31 - 1
_MIN_RECONNECT_MS: Final = 100  # gRPC takes no less


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _check_seconds(name: str, value: float | None, *, optional: bool = False) -> None:
    if value is None:
        if not optional:
            raise ValueError(f"{name} must be a number of seconds, not None")
    elif not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds{' or None' * optional}, not {value!r}")


def _check_size(name: str, value: int) -> None:
    if not 1 <= value <= _INT32_MAX:
        raise ValueError(f"{name} must be between 1 and {_INT32_MAX:,} bytes, not {value!r}")


def read_pem(path: str | PathLike[str], name: str) -> bytes:
    """Return the bytes of a PEM file; `name` says in errors which. Raises OSError, ValueError for another file."""
    data = Path(path).read_bytes()
    if b"-----BEGIN " not in data:
        raise ValueError(f"{name} {os.fspath(path)!r} is not a PEM file: it has no line that starts with -----BEGIN")
    return data


def _is_argument(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str | int)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed call is made again, for RPCs whose idempotency level allows it; the same on every wire.

    The wait before attempt n + 1 is `initial_backoff * multiplier ** (n - 1)` seconds, at most `max_backoff`, varied by
    a fifth either way; a wait the server asks for takes its place.
    """

    max_attempts: int = 5
    """Attempts in all, the first included: 1 to 5, of which 1 means no retries. gRPC makes no more than 5."""
    initial_backoff: float = 0.1
    """Seconds before the second attempt; at least 0.001."""
    max_backoff: float = 5.0
    """Most seconds between two attempts."""
    multiplier: float = 2.0
    """Factor by which the wait grows; at least 1."""
    codes: frozenset[grpc.StatusCode] = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
    """Status codes that are worth another attempt. Of RESOURCE_EXHAUSTED the server says by `grpc-retry-pushback-ms`
    when to come back, or with -1 that there is no use."""
    budget: int = 1000
    """Failed attempts that a server may answer with before retries to it stop is half of this; 1 to 1,000. Keeps many
    callers from burying a server that is coming back."""
    budget_refill: float = 0.1
    """What each successful call gives back to the budget; more than 0."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ValueError(f"max_attempts must be between 1 and 5, not {self.max_attempts!r}")
        if not 0.001 <= self.initial_backoff <= self.max_backoff < math.inf:
            raise ValueError(
                "initial_backoff must be at least 0.001 s and at most max_backoff, not "
                f"{self.initial_backoff!r} with max_backoff {self.max_backoff!r}"
            )
        if not 1 <= self.multiplier < math.inf:
            raise ValueError(f"multiplier must be at least 1, not {self.multiplier!r}")
        if not self.codes or grpc.StatusCode.OK in self.codes:
            raise ValueError("codes must hold at least one status code, and not OK")
        if not 1 <= self.budget <= 1000:
            raise ValueError(f"budget must be between 1 and 1,000, not {self.budget!r}")
        if not 0.001 <= self.budget_refill < math.inf:
            raise ValueError(f"budget_refill must be at least 0.001, not {self.budget_refill!r}")

    def backoff(self, attempt: int) -> float:
        """Return the seconds between the failure of an attempt, counted from 1, and the next one."""
        try:
            wait = min(self.initial_backoff * self.multiplier ** (attempt - 1), self.max_backoff)
        except OverflowError:
            wait = self.max_backoff
        return wait * random.uniform(0.8, 1.2)  # noqa: S311 # it spreads callers, it hides nothing

    def service_config(self, methods: Iterable[str]) -> str:
        """Return the gRPC service config (JSON) that applies the policy to `methods`, such as `pkg.Service/Method`."""
        names = []
        for method in sorted(methods):
            service, _, name = method.partition("/")
            names.append({"service": service, "method": name})
        if self.max_attempts == 1 or not names:
            return "{}"
        policy = {
            "maxAttempts": self.max_attempts,
            "initialBackoff": f"{self.initial_backoff:.3f}s",
            "maxBackoff": f"{self.max_backoff:.3f}s",
            "backoffMultiplier": self.multiplier,
            "retryableStatusCodes": sorted(code.name for code in self.codes),
        }
        return json.dumps(
            {
                "methodConfig": [{"name": names, "retryPolicy": policy}],
                "retryThrottling": {"maxTokens": self.budget, "tokenRatio": round(self.budget_refill, 3)},
            },
            separators=(",", ":"),
        )


def default_user_agent() -> str:
    """Return what a channel calls itself: the version of this package, of Python and the operating system."""
    version = sys.version_info
    return f"neptune-api/{__version__} (python={version.major}.{version.minor}.{version.micro}; os={sys.platform})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """How a channel behaves; every field has a safe default. Raises ValueError for a value that makes no sense."""

    timeout: float | None = 60.0
    """Deadline in seconds of calls with one response that name none; None lets them wait for ever. A single call opts
    out with `timeout=math.inf`."""
    stream_timeout: float | None = 3600.0
    """Deadline in seconds of calls with a stream that name none; None for streams that stay open for days."""
    exchange_timeout: float = 30.0
    """Seconds that fetching an access token may take; a shorter deadline of the call that needs it comes first."""
    max_send_bytes: int = MAX_REQUEST_BYTES
    """Largest request message in bytes; a larger one raises ResourceExhaustedException and is not sent."""
    max_receive_bytes: int = MAX_RESPONSE_BYTES
    """Largest response message in bytes; a larger one ends the call with ResourceExhaustedException."""
    keepalive_time: float | None = 30.0
    """Seconds without traffic after which a connection with calls under way is pinged; None for never. At least
    MIN_PING_INTERVAL, which this package's server tolerates; other servers may want 300."""
    keepalive_timeout: float = 10.0
    """Seconds within which a ping must be answered, and on Linux what was sent acknowledged, or the connection counts
    as lost."""
    retry: RetryPolicy | None = RetryPolicy()
    """When idempotent calls are made again; None for never."""
    retry_buffer_bytes: int = MAX_REQUEST_BYTES
    """Largest request in bytes that is kept for another attempt; larger ones are sent once."""
    user_agent: str | None = None
    """What the channel calls itself, in front of gRPC's own name; None for this package's name and versions."""
    ca_file: str | PathLike[str] | None = None
    """PEM file of the certificate authorities to trust; None for those bundled with gRPC, or for the system's over
    HTTP."""
    client_cert: str | PathLike[str] | None = None
    """PEM file of the certificate (chain) by which this client proves itself; needs `client_key`."""
    client_key: str | PathLike[str] | None = None
    """PEM file of the private key of `client_cert`."""
    server_name: str | None = None
    """Host name to expect in the server's certificate, when it is not the one in the target."""
    verify: bool = True
    """Verify the server's certificate. False, over HTTP only, trusts whoever answers: everyone on the way can act as
    you."""
    http_format: Literal["protobuf", "json", "declared"] = "protobuf"
    """How messages are written over HTTP: binary protobuf, JSON in the dialect of the REST API, which costs many times
    the CPU, or as the REST API declares for each method, for servers that take nothing else."""
    allow_insecure_token: bool = False
    """Send tokens unencrypted to hosts other than this one. Whoever can listen on the way can then act as you."""
    arguments: tuple[ChannelArgument, ...] = ()
    """Further gRPC channel arguments, which win over those made from the other fields; HTTP knows none."""

    def __post_init__(self) -> None:
        for name in ("timeout", "stream_timeout", "keepalive_time"):
            _check_seconds(name, getattr(self, name), optional=True)
        for name in ("exchange_timeout", "keepalive_timeout"):
            _check_seconds(name, getattr(self, name))
        for name in ("max_send_bytes", "max_receive_bytes", "retry_buffer_bytes"):
            _check_size(name, getattr(self, name))
        if self.keepalive_time is not None and self.keepalive_time < MIN_PING_INTERVAL:
            raise ValueError(
                f"keepalive_time must be at least {MIN_PING_INTERVAL:g} s, because servers cut off channels that ping "
                f"more often, not {self.keepalive_time!r}"
            )
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client_cert and client_key belong together: give both or neither")
        if self.user_agent is not None and not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise ValueError("user_agent must be printable ASCII text")
        if self.http_format not in {"protobuf", "json", "declared"}:
            raise ValueError(f"http_format must be 'protobuf', 'json' or 'declared', not {self.http_format!r}")
        if not all(map(_is_argument, self.arguments)):
            raise ValueError("arguments must hold pairs of a name and a text or whole number, as gRPC takes them")

    @property
    def tls_fields(self) -> tuple[str, ...]:
        """Names of the given fields that mean something with TLS only."""
        names = ("ca_file", "client_cert", "client_key", "server_name")
        given = tuple(name for name in names if getattr(self, name) is not None)
        return given if self.verify else (*given, "verify")

    def channel_arguments(self, retryable: Iterable[str]) -> tuple[ChannelArgument, ...]:
        """Return the gRPC channel arguments; `retryable` are the methods, `pkg.Service/Method`, that may be retried."""
        arguments: list[ChannelArgument] = [
            ("grpc.primary_user_agent", default_user_agent() if self.user_agent is None else self.user_agent),
            ("grpc.max_send_message_length", self.max_send_bytes),
            ("grpc.max_receive_message_length", self.max_receive_bytes),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.keepalive_permit_without_calls", 0),
        ]
        if self.keepalive_time is not None:
            arguments += [
                ("grpc.keepalive_time_ms", _milliseconds(self.keepalive_time)),
                ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_timeout)),
                # Or gRPC would send two, and leave a quiet stream to whoever forgets connections on the way.
                ("grpc.http2.max_pings_without_data", 0),
                # While a ping of gRPC's own is under way it sends none for keepalive, and waits for that one for 60 s.
                ("grpc.http2.ping_timeout_ms", _milliseconds(self.keepalive_time + self.keepalive_timeout)),
            ]
        # Attempts are worth little while gRPC does not try to connect: its own waits begin at 1 s and go up to 120 s.
        waits = RetryPolicy() if self.retry is None else self.retry
        arguments += [
            ("grpc.initial_reconnect_backoff_ms", max(_MIN_RECONNECT_MS, _milliseconds(waits.initial_backoff))),
            ("grpc.max_reconnect_backoff_ms", max(_MIN_RECONNECT_MS, _milliseconds(waits.max_backoff))),
        ]
        if self.retry is None:
            arguments.append(("grpc.enable_retries", 0))
        else:
            arguments += [
                ("grpc.service_config", self.retry.service_config(retryable)),
                # Without it gRPC retries no request over 256 KiB, and does not say so.
                ("grpc.per_rpc_retry_buffer_size", self.retry_buffer_bytes),
            ]
        if self.server_name is not None:
            arguments.append(("grpc.ssl_target_name_override", self.server_name))
        overridden = {key for key, _ in self.arguments}
        return (*(pair for pair in arguments if pair[0] not in overridden), *self.arguments)


def server_arguments(
    *, max_receive_bytes: int = MAX_REQUEST_BYTES, share_port: bool = False
) -> tuple[ChannelArgument, ...]:
    """Return the channel arguments of a server that fits the channels made from ChannelOptions.

    `max_receive_bytes` bounds requests in the transport, which answers RESOURCE_EXHAUSTED; `share_port` lets several
    processes listen on one port. Responses have no bound here: the channel that asks sets its own.
    """
    _check_size("max_receive_bytes", max_receive_bytes)
    return (
        # On by default in gRPC: two servers on one port would share its calls without a word.
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # By default a server answers too_many_pings to channels that ping more often than every 300 s.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(MIN_PING_INTERVAL)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 40_000),
    )
