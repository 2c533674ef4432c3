from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from neptune_api import __version__
from neptune_api.server import limits
from neptune_api.v1 import config_service_pb2 as pb
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceStub

if TYPE_CHECKING:
    from neptune_api.conformance.people import Wire
    from neptune_api.server.local import LocalServer

# Every field of Limits that is not a constant of the same name.
DERIVED: Final = {
    "max_step": limits.MAX_WHOLE_STEP,
    "step_resolution": 1 / limits.MICROS_PER_STEP,
    "min_datetime_millis": limits.MIN_DATETIME_MS,
    "max_datetime_millis": limits.MAX_DATETIME_MS,
}


@pytest.fixture(params=["", None], ids=["nobody", "owner"])
def stub(request: pytest.FixtureRequest, wire: Wire) -> ConfigServiceStub:
    """The stub of a caller without and with a token."""
    return wire.connect(request.param).stub(ConfigServiceStub)


def test_client_configuration(stub: ConfigServiceStub, server: LocalServer) -> None:
    config = stub.GetClientConfig(pb.GetClientConfigRequest(api_token="ignored", alpha="ignored"))
    assert config == pb.ClientConfig(
        api_url=server.http_url,
        py_lib_versions=pb.ClientVersions(),
        security=pb.Security(
            client_id="neptune-cli",
            open_id_discovery=f"{server.http_url}/auth/realms/neptune/.well-known/openid-configuration",
        ),
    )
    assert config.HasField("py_lib_versions")
    assert not config.HasField("application_url")


def test_server_tells_version_and_services(stub: ConfigServiceStub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.version == __version__
    assert list(info.services) == sorted(set(info.services))
    assert set(info.services) >= {
        f"neptune_api.v1.{name}Service" for name in ("Auth", "Config", "Ingest", "Projects", "Users")
    }


def test_server_tells_every_limit(stub: ConfigServiceStub) -> None:
    told = stub.GetServerInfo(pb.GetServerInfoRequest()).limits
    for field in pb.Limits.DESCRIPTOR.fields:
        enforced = DERIVED[field.name] if field.name in DERIVED else getattr(limits, field.name.upper())
        assert getattr(told, field.name) == enforced
        assert enforced


def test_every_limit_is_told() -> None:
    told = {field.name.upper() for field in pb.Limits.DESCRIPTOR.fields}
    derived = {"MICROS_PER_STEP", "MAX_WHOLE_STEP", "MIN_DATETIME_MS", "MAX_DATETIME_MS"}
    constants = {name for name in vars(limits) if name.isupper()} - {"TYPE_CHECKING"}
    assert constants - derived == told - {name.upper() for name in DERIVED}
