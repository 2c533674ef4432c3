"""A door with servicers that do what a test tells them."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from neptune_api.http.rules import all_rules
from neptune_api.server import ports
from neptune_api.server.handlers import Answering, Handler
from neptune_api.server.http.gateway import Gateway
from neptune_api.server.http_door import HttpDoor
from neptune_api.server.identity import Addresses
from neptune_api.server.query_threads import QueryThreads
from tests.http.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

AUTHORIZE = "/neptune_api.v1.AuthService/Authorize"
REFRESH = "/neptune_api.v1.AuthService/RefreshToken"
READ_COLUMNS = "/neptune_api.v1.SeriesService/ReadColumns"


class LabCaller(Caller):
    """Calls a door of its own."""

    door: HttpDoor


@contextlib.contextmanager
def serving(
    behaviours: Mapping[str, Callable[[Any, Any], Any]],
    *,
    health: Callable[[], Mapping[str, bool]] = lambda: {"lab": True},
    files: Any = None,
    files_prefix: str = "",
) -> Iterator[LabCaller]:
    """Serve RPCs, by their path on the gRPC wire, to anybody."""
    handlers = {path: _handler(path, behaviour) for path, behaviour in behaviours.items()}
    bound = ports.reserve(ports.LOOPBACK, 0)
    url = f"http://127.0.0.1:{ports.port_of(bound)}"
    gateway = Gateway(
        handlers,
        Addresses(url, "127.0.0.1:1"),
        QueryThreads(lambda: False),
        clock=time.time,
        health=health,
        files=files,
        files_prefix=files_prefix,
    )
    caller = LabCaller(url)
    caller.door = HttpDoor(bound, lambda: gateway)
    caller.door.start()
    try:
        yield caller
    finally:
        caller.door.stop(0.1)


def _handler(path: str, behaviour: Callable[[Any, Any], Any]) -> Handler:
    method = all_rules()[path][0].method
    return Handler(
        method=method,
        request_type=message_factory.GetMessageClass(method.input_type),
        response_type=message_factory.GetMessageClass(method.output_type),
        request_streaming=bool(method.client_streaming),
        response_streaming=bool(method.server_streaming),
        authenticate=None,
        answering=lambda: Answering(behaviour),
    )
