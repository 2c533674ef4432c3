"""ConfigService: addresses, security, version, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neptune_api._version import __version__
from neptune_api.server import limits
from neptune_api.server.identity import CLIENT_ID
from neptune_api.v1.config_service_pb2 import ClientConfig, ClientVersions, Limits, Security, ServerInfo
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
        return ClientConfig(
            api_url=self._identity.addresses.http_url,
            # Without limits on versions, but there: clients demand the object.
            py_lib_versions=ClientVersions(),
            security=Security(client_id=CLIENT_ID, open_id_discovery=self._identity.discovery_url),
        )

    def GetServerInfo(self, request: GetServerInfoRequest, context: grpc.ServicerContext) -> ServerInfo:
        """Return the server's version and limits."""
        return ServerInfo(version=__version__, services=sorted(self._services), limits=enforced_limits())


def enforced_limits() -> Limits:
    """Return every limit that the server enforces."""
    return Limits(
        max_request_bytes=limits.MAX_REQUEST_BYTES,
        max_run_id_bytes=limits.MAX_RUN_ID_BYTES,
        max_experiment_name_bytes=limits.MAX_EXPERIMENT_NAME_BYTES,
        max_attribute_path_bytes=limits.MAX_ATTRIBUTE_PATH_BYTES,
        max_string_bytes=limits.MAX_STRING_BYTES,
        max_string_set_bytes=limits.MAX_STRING_SET_BYTES,
        max_file_ref_bytes=limits.MAX_FILE_REF_BYTES,
        max_histogram_edges=limits.MAX_HISTOGRAM_EDGES,
        max_step=limits.MAX_WHOLE_STEP,
        step_resolution=1 / limits.MICROS_PER_STEP,
        min_datetime_millis=limits.MIN_DATETIME_MS,
        max_datetime_millis=limits.MAX_DATETIME_MS,
        max_status_ids=limits.MAX_STATUS_IDS,
        max_project_name_bytes=limits.MAX_PROJECT_NAME_BYTES,
        max_project_key_length=limits.MAX_PROJECT_KEY_LENGTH,
        max_project_description_bytes=limits.MAX_PROJECT_DESCRIPTION_BYTES,
        max_bulk_runs=limits.MAX_BULK_RUNS,
        max_page_size=limits.MAX_PAGE_SIZE,
        max_points_per_series=limits.MAX_POINTS_PER_SERIES,
        max_series_query_path_bytes=limits.MAX_SERIES_QUERY_PATH_BYTES,
        max_username_bytes=limits.MAX_USERNAME_BYTES,
        request_status_retention_seconds=limits.REQUEST_STATUS_RETENTION_SECONDS,
        max_operation_bytes=limits.MAX_OPERATION_BYTES,
    )
