"""Forks in the midst of a future and of streams, and when they are over."""

from __future__ import annotations

import time
from typing import Any

import neptune_api
from neptune_api import columns
from neptune_api.models import AttributesHolder, GetUserIdentityRequest, ReadColumnsRequest, TimeSeries
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceStub
from neptune_api.v1.users_service_pb2_grpc import UsersServiceStub
from tests.processes.scripts.common import (
    PROJECT,
    ask,
    black_hole,
    create_run,
    in_child,
    open_channel,
    outcome,
    read,
    tell,
)

POINTS = 500_000


def timed(work: Any) -> Any:
    """Add the seconds that something took."""
    began = time.monotonic()
    told = outcome(work)
    return told | {"seconds": time.monotonic() - began}


def main() -> None:
    """Tell how each went."""
    hole, address = black_hole()
    with hole, open_channel() as channel, neptune_api.channel(address, access_token="x") as nowhere:
        create_run(channel, "midst")
        batch = columns.append_request(PROJECT, "midst", {"long": columns.points([0.25] * POINTS)})
        SeriesServiceStub(channel).AppendColumns(batch)
        read(channel, "midst", ["long"], POINTS)
        holder = AttributesHolder(identifier=f"CUSTOM/{PROJECT}/midst", type="experiment")
        request = ReadColumnsRequest(series=[TimeSeries(attribute="long", holder=holder)])
        stream = SeriesServiceStub(channel).ReadColumns(request)
        first = next(stream)
        future = UsersServiceStub(nowhere).GetUserIdentity.future(GetUserIdentityRequest())
        silent = SeriesServiceStub(nowhere).ReadColumns(request)

        def work() -> dict[str, Any]:
            return {
                "same": timed(lambda: ask(channel)),
                "new": timed(lambda: ask(open_channel())),
                "auto": timed(lambda: ask(neptune_api.channel(transport="auto"))),
                "stream": timed(lambda: next(stream)),
                "silent": timed(lambda: next(silent)),
                "future": timed(future.result),
                "code": timed(future.code),
            }

        child = in_child(work)
        running = [future.running(), silent.is_active()]
        rest = sum(len(columns.unpack(response.columns).values) for response in stream)
        future.cancel()
        silent.cancel()
        over = in_child(lambda: outcome(lambda: ask(channel)))
        tell(
            child=child.told,
            code=child.code,
            running=running,
            points=len(columns.unpack(first.columns).values) + rest,
            over=over.told,
            parent=ask(channel),
        )


main()
