"""What the REST API says of failures, path by path: which error types its readers know, which bodies they expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from neptune_api.http.errors import code_of, encode_error, error_body, info_of
from neptune_api.server.http.exchange import HttpError, Response, retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from google.rpc import status_pb2

    from neptune_api.server.errors import StatusError

_BACKEND: Final = "/api/backend/"
_RETRIEVAL: Final = "/api/leaderboard/"

# Released clients parse the body of a 400 below /api/backend/ and take an unknown type for a broken answer.
_BACKEND_TYPES: Final = frozenset(
    {
        "ACTIVE_PROJECTS_QUOTA_COULD_NOT_BE_CHANGED",
        "ADMIN_CANNOT_LEAVE_PROJECT",
        "CANNOT_ADD_MANAGER_TO_INDIVIDUAL_PROJECT",
        "CANNOT_ADD_MEMBERS_TO_PRIVATE_INDIVIDUAL_PROJECT",
        "CANNOT_ADD_OUTSIDERS_TO_TEAM_PROJECT",
        "CANNOT_LEAVE_TEAM_PROJECT",
        "CANNOT_MANAGE_ORGANIZATION_OWNER_IN_PROJECT",
        "INSUFFICIENT_ACTIVE_PROJECTS_QUOTA",
        "LIMIT_OF_ACTIVE_PROJECTS_QUOTA_REACHED",
        "LIMIT_OF_ACTIVE_PROJECTS_REACHED",
        "LIMIT_OF_MEMBERS_IN_ORGANIZATION_REACHED",
        "LIMIT_OF_PROJECTS_REACHED",
        "LIMIT_OF_PROJECT_MEMBERS_REACHED",
        "LIMIT_OF_SERVICE_ACCOUNTS_IN_ORGANIZATION_REACHED",
        "PAYMENTS_NOT_SUPPORTED",
        "PLAN_NOT_AVAILABLE",
        "PROJECT_KEY_COLLISION",
        "PROJECT_KEY_INVALID",
        "PROJECT_NAME_COLLISION",
        "PROJECT_NAME_INVALID",
        "PROJECT_VISIBILITY_NOT_SUPPORTED_FOR_IAAC",
        "SERVICE_ACCOUNT_ALREADY_EXISTS_IN_ORGANIZATION",
        "SERVICE_ACCOUNT_NOT_IN_PROJECT",
        "USER_NOT_IN_PROJECT",
        "USER_STILL_OWNS_SOME_ORGANIZATIONS",
        "VISIBILITY_RESTRICTED",
        "WORKSPACE_READONLY",
    }
)
_RETRIEVAL_TYPES: Final = frozenset(
    {
        "ACCESS_DENIED",
        "ATTRIBUTES_CONTAINER_NOT_FOUND",
        "ATTRIBUTES_PER_EXPERIMENT_LIMIT_EXCEEDED",
        "ATTRIBUTE_PATH_NOT_FOUND",
        "AUTHORIZATION_TOKEN_EXPIRED",
        "BAD_REQUEST",
        "CHANNEL_NOT_FOUND",
        "CLICKHOUSE_OVERLOADED",
        "CONFLICT",
        "DASHBOARD_NOT_FOUND",
        "DEPENDENCY_ON_INACCESSIBLE_PROJECTS",
        "ES_ENTITY_CONTENT_TOO_LONG",
        "EXPERIMENT_ALREADY_EXISTS",
        "EXPERIMENT_NOT_FOUND",
        "FILE_NOT_FOUND",
        "INCORRECT_IDENTIFIER",
        "INGEST_SUSPENDED",
        "INTERNAL_SERVER_ERROR",
        "INVALID_ATTRIBUTE_TYPE",
        "INVALID_GROUPING_PARAMS",
        "INVALID_OFFSET",
        "INVALID_SORT_PARAMS",
        "JWT_VALIDATION_ERROR",
        "LEADERBOARD_ENTRY_NOT_FOUND",
        "MALFORMED_JSON_REQUEST",
        "ORGANIZATION_NOT_FOUND",
        "PROJECT_LIMITS_EXCEEDED",
        "PROJECT_NOT_FOUND",
        "PROJECT_NOT_READY",
        "REQUEST_TIMEOUT",
        "SERVICE_UNAVAILABLE",
        "SESSION_NOT_FOUND",
        "TOO_MANY_OPERATIONS",
        "TOO_MANY_REQUESTS_PER_USER",
        "UNAUTHORIZED",
        "VIEW_NOT_FOUND",
        "WORKSPACE_IN_READ_ONLY_MODE",
        "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT",
    }
)
# Readers look at one type only, to tell their users that they cannot get at a project, which also may not be there.
_RETRIEVAL_NAMES: Final = {"PROJECT_NOT_FOUND": "ACCESS_DENIED"}
# For reasons that the readers of the retrieval API have no type for.
_RETRIEVAL_DEFAULTS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: "BAD_REQUEST",
    grpc.StatusCode.OUT_OF_RANGE: "BAD_REQUEST",
    grpc.StatusCode.NOT_FOUND: "BAD_REQUEST",
    grpc.StatusCode.UNIMPLEMENTED: "BAD_REQUEST",
    grpc.StatusCode.FAILED_PRECONDITION: "CONFLICT",
    grpc.StatusCode.ABORTED: "CONFLICT",
    grpc.StatusCode.ALREADY_EXISTS: "CONFLICT",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHORIZED",
    grpc.StatusCode.PERMISSION_DENIED: "ACCESS_DENIED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "TOO_MANY_REQUESTS_PER_USER",
    grpc.StatusCode.DEADLINE_EXCEEDED: "REQUEST_TIMEOUT",
    grpc.StatusCode.UNAVAILABLE: "SERVICE_UNAVAILABLE",
}
# Where clients that take anything look for the sentence itself: path and reason.
_PLAIN: Final = frozenset({("/api/backend/v1/projects", "ORGANIZATION_NOT_FOUND")})

# Where the REST API has a status that no code stands for: path and reason.
_STATUSES: Final = {("/api/storagebridge/v1/azure/signedUrl", "FILE_NOT_FOUND"): 410}


def error_type(path: str, code: grpc.StatusCode, reason: str) -> str | None:
    """Return the type of an error as the readers of a path know it; None when they know none for it."""
    if path.startswith(_BACKEND):
        return reason if reason in _BACKEND_TYPES else None
    if path.startswith(_RETRIEVAL):
        reason = _RETRIEVAL_NAMES.get(reason, reason)
        return reason if reason in _RETRIEVAL_TYPES else _RETRIEVAL_DEFAULTS.get(code, "INTERNAL_SERVER_ERROR")
    return reason or None


def error_object(path: str, status: status_pb2.Status) -> dict[str, Any]:
    """Return the Error object of a failure at a path."""
    return error_body(status, error_type=error_type(path, code_of(status), info_of(status).reason))


def error_response(path: str, error: StatusError, accept: str | None = None) -> Response:
    """Return the response to a request that failed, to a caller that sent an `Accept` header."""
    status = error.status()
    body = error_object(path, status)
    headers: dict[str, str] = {}
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    body["code"] = _STATUSES.get((path, info_of(status).reason), body["code"])
    if isinstance(error, HttpError):
        body["code"] = error.http_code
        headers.update(error.headers)
    if error.retry_seconds is not None:
        headers["retry-after"] = retry_after(error.retry_seconds)
    if (path, info_of(status).reason) in _PLAIN and accept in {None, "", "*/*"}:
        return Response(body["code"], status.message.encode(), "text/plain; charset=utf-8", headers)
    return Response(body["code"], encode_error(body), headers=headers)
