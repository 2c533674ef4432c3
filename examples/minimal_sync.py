"""Five lines: a channel, a stub, a call.

    python examples/minimal_sync.py

A server inside this process takes the place of one elsewhere. With NEPTUNE_API_TOKEN set, `neptune_api.channel()` needs
no arguments.
"""

from __future__ import annotations

import neptune_api
from neptune_api.models import GetUserIdentityRequest
from neptune_api.server import LocalServer
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub

with LocalServer() as server, neptune_api.channel(api_token=server.api_token) as channel:
    users = UsersServiceStub(channel)
    me = users.GetUserIdentity(GetUserIdentityRequest())
    print(f"{me.username} of {', '.join(workspace.organization_name for workspace in me.workspaces)}")
