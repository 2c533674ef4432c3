"""LeaderboardService: searching runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neptune_api.server.errors import unimplemented
from neptune_api.v1 import leaderboard_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from neptune_api.v1 import attributes_pb2
    from neptune_api.v1 import leaderboard_service_pb2 as pb

_SEARCH_MISSING: Final = (
    "Searching by NQL is not served yet: list runs with RunsService.ListRuns and read their attributes with "
    "AttributesService.QueryAttributeValues."
)


class LeaderboardService(leaderboard_service_pb2_grpc.LeaderboardServiceServicer):
    """Search runs by NQL."""

    def SearchLeaderboardEntries(
        self, request: pb.SearchLeaderboardEntriesRequest, context: grpc.ServicerContext
    ) -> attributes_pb2.LeaderboardEntries:
        raise unimplemented(_SEARCH_MISSING)

    def SearchGlobalLeaderboardEntries(
        self, request: pb.SearchGlobalLeaderboardEntriesRequest, context: grpc.ServicerContext
    ) -> attributes_pb2.LeaderboardEntries:
        raise unimplemented(_SEARCH_MISSING)
