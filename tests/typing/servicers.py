# ruff: noqa: TC002, N802 # never run, so what an import costs does not matter; methods are named after their RPCs
"""What servicers are to a type checker: methods may be plain or coroutines."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from neptune_api import models
from neptune_api.v1.config_service_pb2_grpc import ConfigServiceServicer, add_ConfigServiceServicer_to_server


class Config(ConfigServiceServicer):
    """A servicer for grpc.server()."""

    def GetClientConfig(
        self, request: models.GetClientConfigRequest, context: grpc.ServicerContext
    ) -> models.ClientConfig:
        return models.ClientConfig(api_url=request.api_token)

    def GetServerInfo(self, request: models.GetServerInfoRequest, context: grpc.ServicerContext) -> models.ServerInfo:
        return models.ServerInfo()


class AsyncConfig(ConfigServiceServicer):
    """A servicer for grpc.aio.server()."""

    async def GetClientConfig(
        self, request: models.GetClientConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> models.ClientConfig:
        return models.ClientConfig(api_url=request.api_token)

    async def GetServerInfo(
        self, request: models.GetServerInfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> models.ServerInfo:
        return models.ServerInfo()


def register(server: grpc.Server, aio_server: grpc.aio.Server) -> None:
    add_ConfigServiceServicer_to_server(Config(), server)
    add_ConfigServiceServicer_to_server(AsyncConfig(), aio_server)
