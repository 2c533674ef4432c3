"""Options: defaults that are safe, values that are checked, and the arguments they become."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import math
import sys
from typing import Any

import grpc
import pytest

from neptune_api import options as options_module
from neptune_api._grpc.methods import all_methods, find_method, retryable_methods
from neptune_api._version import __version__
from neptune_api.options import MAX_REQUEST_BYTES, MIN_PING_INTERVAL, ChannelOptions, RetryPolicy, server_arguments

MIB = 1024 * 1024


def arguments_of(options: ChannelOptions) -> dict[str, str | int]:
    pairs = options.channel_arguments(("a.B/C",))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_nothing_hangs_and_nothing_is_too_small_by_default() -> None:
    options = ChannelOptions()
    assert options.timeout == 60
    assert options.stream_timeout is not None
    assert options.max_send_bytes >= 64 * MIB
    assert options.max_receive_bytes >= 64 * MIB
    assert not options.allow_insecure_token


@pytest.mark.parametrize("cls", [ChannelOptions, RetryPolicy])
def test_every_field_is_documented_and_keyword_only(cls: type) -> None:
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(options_module)).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    documented = {
        node.target.id
        for node, text in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    fields = dataclasses.fields(cls)
    assert documented == {field.name for field in fields}
    assert all(field.kw_only for field in fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), fields[0].name, None)


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"timeout": 0}, "timeout must be a positive number of seconds or None, not 0"),
    ({"timeout": -1.0}, "timeout must be a positive number"),
    ({"timeout": math.inf}, "timeout must be a positive number of seconds or None, not inf"),
    ({"stream_timeout": math.nan}, "stream_timeout must be a positive number"),
    ({"exchange_timeout": None}, "exchange_timeout must be a number of seconds, not None"),
    ({"max_send_bytes": 0}, "max_send_bytes must be between 1 and 2,147,483,647 bytes, not 0"),
    ({"max_receive_bytes": 2**31}, "max_receive_bytes must be between"),
    ({"retry_buffer_bytes": -1}, "retry_buffer_bytes must be between"),
    ({"keepalive_time": 5}, "keepalive_time must be at least 10 s"),
    ({"keepalive_timeout": 0}, "keepalive_timeout must be a positive number"),
    ({"client_cert": "c.pem"}, "client_cert and client_key belong together"),
    ({"client_key": "k.pem"}, "client_cert and client_key belong together"),
    ({"user_agent": "a\nb"}, "user_agent must be printable ASCII"),
    ({"arguments": ("grpc.x",)}, "arguments must hold pairs"),
    ({"arguments": (("grpc.x", 1.5),)}, "arguments must hold pairs"),
]


@pytest.mark.parametrize(("fields", "sentence"), BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ChannelOptions(**fields)


BAD_POLICIES: list[tuple[dict[str, Any], str]] = [
    ({"max_attempts": 0}, "max_attempts must be between 1 and 5"),
    ({"max_attempts": 6}, "max_attempts must be between 1 and 5"),
    ({"initial_backoff": 0}, "initial_backoff must be at least 0.001 s"),
    ({"initial_backoff": 9}, "and at most max_backoff"),
    ({"max_backoff": math.inf}, "max_backoff inf"),
    ({"multiplier": 0.5}, "multiplier must be at least 1"),
    ({"codes": frozenset()}, "at least one status code"),
    ({"codes": frozenset({grpc.StatusCode.OK})}, "not OK"),
    ({"budget": 0}, "budget must be between 1 and 1,000"),
    ({"budget_refill": 0}, "budget_refill must be at least 0.001"),
]


@pytest.mark.parametrize(("fields", "sentence"), BAD_POLICIES)
def test_policies_that_make_no_sense_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RetryPolicy(**fields)


def test_the_service_config_says_what_the_policy_says() -> None:
    config = json.loads(RetryPolicy().service_config(["a.B/D", "a.B/C"]))
    assert config == {
        "methodConfig": [
            {
                "name": [{"service": "a.B", "method": "C"}, {"service": "a.B", "method": "D"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.100s",
                    "maxBackoff": "5.000s",
                    "backoffMultiplier": 2.0,
                    "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
    }


def test_one_attempt_means_no_policy() -> None:
    assert RetryPolicy(max_attempts=1).service_config(["a.B/C"]) == "{}"
    assert RetryPolicy().service_config([]) == "{}"


def test_what_may_be_retried_is_what_the_protos_say() -> None:
    names = set(retryable_methods())
    assert "neptune_api.v1.IngestService/Submit" in names
    assert "neptune_api.v1.AuthService/ExchangeApiToken" in names
    assert "neptune_api.v1.AuthService/RevokeApiToken" not in names
    assert "neptune_api.v1.IngestService/SubmitStream" not in names
    assert len(names) < len(all_methods())


def test_methods_are_found_by_path() -> None:
    submit = find_method(b"/neptune_api.v1.IngestService/Submit")
    assert (submit.name, submit.anonymous, submit.retryable, submit.keyed) == (
        "neptune_api.v1.IngestService/Submit",
        False,
        True,
        True,
    )
    exchange = find_method("/neptune_api.v1.AuthService/ExchangeApiToken")
    assert (exchange.anonymous, exchange.retryable, exchange.keyed) == (True, True, False)
    foreign = find_method("/grpc.health.v1.Health/Check")
    assert (foreign.name, foreign.anonymous, foreign.retryable) == ("grpc.health.v1.Health/Check", False, False)


def test_options_become_channel_arguments() -> None:
    arguments = arguments_of(ChannelOptions(server_name="neptune.example"))
    assert arguments["grpc.max_send_message_length"] == 64 * MIB
    assert arguments["grpc.max_receive_message_length"] == 256 * MIB
    assert arguments["grpc.keepalive_time_ms"] == 30_000
    assert arguments["grpc.keepalive_timeout_ms"] == 10_000
    assert arguments["grpc.per_rpc_retry_buffer_size"] == 64 * MIB
    assert arguments["grpc.ssl_target_name_override"] == "neptune.example"
    assert json.loads(str(arguments["grpc.service_config"]))["methodConfig"]


def test_none_switches_off() -> None:
    arguments = arguments_of(ChannelOptions(keepalive_time=None, retry=None))
    assert "grpc.keepalive_time_ms" not in arguments
    assert "grpc.service_config" not in arguments
    assert arguments["grpc.enable_retries"] == 0


def test_further_arguments_win() -> None:
    arguments = arguments_of(ChannelOptions(arguments=(("grpc.keepalive_time_ms", 99_000), ("grpc.x", "y"))))
    assert arguments["grpc.keepalive_time_ms"] == 99_000
    assert arguments["grpc.x"] == "y"


def test_the_user_agent_names_versions_and_system() -> None:
    agent = str(arguments_of(ChannelOptions())["grpc.primary_user_agent"])
    version = ".".join(map(str, sys.version_info[:3]))
    assert agent == f"neptune-api/{__version__} (python={version}; os={sys.platform})"
    assert arguments_of(ChannelOptions(user_agent="mine/1"))["grpc.primary_user_agent"] == "mine/1"


def test_the_server_tolerates_what_channels_do() -> None:
    arguments = dict(server_arguments())
    assert arguments["grpc.http2.min_ping_interval_without_data_ms"] == MIN_PING_INTERVAL * 1000
    assert int(arguments["grpc.max_receive_message_length"]) >= ChannelOptions().max_send_bytes == MAX_REQUEST_BYTES
    assert (ChannelOptions().keepalive_time or 0) >= MIN_PING_INTERVAL
    assert arguments["grpc.so_reuseport"] == 0
    assert dict(server_arguments(share_port=True))["grpc.so_reuseport"] == 1
    with pytest.raises(ValueError, match="max_receive_bytes"):
        server_arguments(max_receive_bytes=0)
