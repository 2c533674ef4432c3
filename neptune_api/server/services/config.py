"""ConfigService: addresses, security, version, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neptune_api._version import __version__
from neptune_api.server import limits
from neptune_api.server.identity import CLIENT_ID, DISCOVERY_PATH
from neptune_api.v1.config_service_pb2 import ClientConfig, ClientVersions, Security, ServerInfo
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceServicer

if TYPE_CHECKING:
    from collections.abc import Collection

    import grpc

    from neptune_api.server.identity import Identity
    from neptune_api.v1.config_service_pb2 import GetClientConfigRequest, GetServerInfoRequest


class ConfigService(ConfigServiceServicer):
    """Tells clients about the server."""

    def __init__(self, *, identity: Identity, services: Collection[str]) -> None:
        """Take the full names of the services that the server answers; the collection may still grow."""
        self._identity = identity
        self._services = services

    def GetClientConfig(self, request: GetClientConfigRequest, context: grpc.ServicerContext) -> ClientConfig:
        """Return the client configuration."""
        base_url = self._identity.addresses.base_url_for(context.invocation_metadata())
        return ClientConfig(
            api_url=base_url,
            # Without limits on versions, but there: clients demand the object.
            py_lib_versions=ClientVersions(),
            security=Security(client_id=CLIENT_ID, open_id_discovery=f"{base_url}{DISCOVERY_PATH}"),
        )

    def GetServerInfo(self, request: GetServerInfoRequest, context: grpc.ServicerContext) -> ServerInfo:
        """Return the server's version and limits."""
        return ServerInfo(version=__version__, services=sorted(self._services), limits=limits.enforced_limits())
