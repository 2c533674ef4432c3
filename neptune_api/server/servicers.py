"""The servicers of a server: which there are, what each works with, and when it is made.

Logging in, projects and users are there from the start. What works on runs brings numpy and the rooms of the store
along, and is made when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neptune_api.server.deferral import DeferredServicer
from neptune_api.server.services.auth import AuthService
from neptune_api.server.services.config import ConfigService
from neptune_api.server.services.projects import ProjectsService
from neptune_api.server.services.storage import StorageService
from neptune_api.server.services.users import UsersService
from neptune_api.v1.attributes_service_pb2_grpc import AttributesServiceServicer
from neptune_api.v1.ingest_service_pb2_grpc import IngestServiceServicer
from neptune_api.v1.leaderboard_service_pb2_grpc import LeaderboardServiceServicer
from neptune_api.v1.runs_service_pb2_grpc import RunsServiceServicer
from neptune_api.v1.series_service_pb2_grpc import SeriesServiceServicer

if TYPE_CHECKING:
    from collections.abc import Collection

    from neptune_api.server.access import Access
    from neptune_api.server.deferral import DeferredStore
    from neptune_api.server.files.storage import FileStorage
    from neptune_api.server.identity import Identity
    from neptune_api.server.services.attributes import AttributesService
    from neptune_api.server.services.ingest import IngestService
    from neptune_api.server.services.leaderboard import LeaderboardService
    from neptune_api.server.services.runs import RunsService
    from neptune_api.server.services.series import SeriesService
    from neptune_api.server.store.directory import Directory


def servicers_of(
    directory: Directory,
    identity: Identity,
    access: Access,
    store: DeferredStore,
    files: FileStorage | None,
    services: Collection[str],
) -> list[object]:
    """Return the servicers; `services` are the full names of what is answered, which may still grow."""

    def attributes() -> AttributesService:
        from neptune_api.server.services.attributes import AttributesService

        return AttributesService(store=store.get(), access=access)

    def ingest() -> IngestService:
        from neptune_api.server.services.ingest import IngestService

        return IngestService(store=store.get(), access=access)

    def leaderboard() -> LeaderboardService:
        from neptune_api.server.services.leaderboard import LeaderboardService

        return LeaderboardService(store=store.get(), access=access)

    def runs() -> RunsService:
        from neptune_api.server.services.runs import RunsService

        return RunsService(store=store.get(), access=access)

    def series() -> SeriesService:
        from neptune_api.server.services.series import SeriesService

        return SeriesService(store=store.get(), access=access)

    return [
        AuthService(identity=identity),
        ConfigService(identity=identity, services=services),
        ProjectsService(directory=directory, access=access, exclusive=store.exclusive, storage=files),
        StorageService(storage=files, addresses=identity.addresses, access=access),
        UsersService(directory=directory, identity=identity, access=access),
        DeferredServicer(AttributesServiceServicer, attributes),
        DeferredServicer(IngestServiceServicer, ingest),
        DeferredServicer(LeaderboardServiceServicer, leaderboard),
        DeferredServicer(RunsServiceServicer, runs),
        DeferredServicer(SeriesServiceServicer, series),
    ]
