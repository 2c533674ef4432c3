"""The reasons that errors give programs (ErrorInfo.reason): which there are, with which codes, and what to do.

`docs/errors.md` is made from this table; a test holds it against every reason that the code of the server gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grpc import StatusCode

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Reason:
    """What a reason says."""

    codes: tuple[StatusCode, ...]
    """The status codes it comes with; none for what only happens to files at signed URLs."""
    meaning: str
    """What happened."""
    advice: str
    """What the caller should do."""


_INVALID: Final = (StatusCode.INVALID_ARGUMENT,)
_NOT_FOUND: Final = (StatusCode.NOT_FOUND,)
_EXISTS: Final = (StatusCode.ALREADY_EXISTS,)
_PRECONDITION: Final = (StatusCode.FAILED_PRECONDITION,)
_UNAUTHENTICATED: Final = (StatusCode.UNAUTHENTICATED,)
_EXHAUSTED: Final = (StatusCode.RESOURCE_EXHAUSTED,)
_UNAVAILABLE: Final = (StatusCode.UNAVAILABLE,)

REASONS: Final[Mapping[str, Reason]] = {
    "ACCESS_DENIED": Reason(
        (StatusCode.PERMISSION_DENIED,),
        "The role of the caller does not allow it; for searches also: there is no such project to the caller.",
        "Ask a manager of the project, or an owner of the workspace, for the role that the sentence names.",
    ),
    "ATTRIBUTES_CONTAINER_NOT_FOUND": Reason(
        _NOT_FOUND, "There is no such run, or it is not the caller's to see.", "Check the identifier of the run."
    ),
    "AUTHORIZATION_TOKEN_EXPIRED": Reason(
        _UNAUTHENTICATED,
        "The access token, the refresh token or the signed URL has expired.",
        "Get another one; channels do so by themselves.",
    ),
    "BAD_REQUEST": Reason(
        _INVALID, "Fields of the request are wrong.", "Mend what `violations` names, one entry for each field."
    ),
    "BATCH_ID_TAKEN": Reason(
        _EXISTS,
        "The batch id names a batch with other content.",
        "Give each batch an id of its own, and repeat a batch unchanged.",
    ),
    "CANNOT_MANAGE_ORGANIZATION_OWNER_IN_PROJECT": Reason(
        _PRECONDITION,
        "Owners of a workspace are managers of all its projects.",
        "Change the role in the workspace instead.",
    ),
    "CONFLICT": Reason(_EXISTS, "The user, or the membership, exists already.", "Choose another name, or update it."),
    "DATABASE_UNAVAILABLE": Reason(
        _UNAVAILABLE,
        "The database of the server does not answer, or takes no writes now. Nothing was changed.",
        "Call again after `retry_delay`.",
    ),
    "DATA_DAMAGED": Reason(
        (StatusCode.DATA_LOSS,),
        "Bytes on the disk are not those that were written.",
        "Run `neptune-api doctor` over the data; restore what it names from a backup.",
    ),
    "DISK_FULL": Reason(
        _EXHAUSTED,
        "The disk of the server is full. Nothing that was acknowledged is lost.",
        "Make room on the server, then call again.",
    ),
    "EXPERIMENT_NOT_FOUND": Reason(
        _NOT_FOUND, "There is no such run, or it is not the caller's to see.", "Check the identifier of the run."
    ),
    "FILE_NOT_FOUND": Reason(
        _NOT_FOUND,
        "There is no such file or upload, or no place where it could be.",
        "Check the path; upload the file first.",
    ),
    "INCIDENT": Reason(
        (StatusCode.INTERNAL,),
        "The server has a fault.",
        "Look for the incident's id, in the sentence and in `error_info.metadata`, in the log of the server.",
    ),
    "INTERNAL_SERVER_ERROR": Reason(
        (),
        "The server failed with a file.",
        "Look for the incident's id, in the sentence, in the log of the server.",
    ),
    "INVALID_OFFSET": Reason(_INVALID, "The offset of a page is negative.", "Begin at 0."),
    "INVALID_SORT_PARAMS": Reason(
        _INVALID, "Nothing can be sorted by this field or in this direction.", "Take one that the sentence names."
    ),
    "JWT_VALIDATION_ERROR": Reason(
        _UNAUTHENTICATED,
        "The access or refresh token is damaged, forged, of another server or of another kind.",
        "Exchange the API token again; channels do so by themselves.",
    ),
    "MALFORMED_JSON_REQUEST": Reason(_INVALID, "The body is not the JSON of the request.", "Mend the body."),
    "MALFORMED_REQUEST": Reason(
        _INVALID, "The bytes are no protobuf message of the request's type.", "Send the message that the RPC takes."
    ),
    "ORGANIZATION_NOT_FOUND": Reason(
        _NOT_FOUND, "There is no such workspace, or the caller is not in it.", "Check the name of the workspace."
    ),
    "PROJECT_KEY_COLLISION": Reason(
        _EXISTS, "A project of the workspace has the key.", "Choose another key, or leave it out."
    ),
    "PROJECT_KEY_INVALID": Reason(
        _INVALID, "The text cannot be the key of a project.", "Take upper-case letters and digits, or leave it out."
    ),
    "PROJECT_NAME_COLLISION": Reason(_EXISTS, "A project of the workspace has the name.", "Choose another name."),
    "PROJECT_NAME_INVALID": Reason(
        _INVALID, "The text cannot be the name of a project.", "Take letters, digits and the characters `_ - .`"
    ),
    "PROJECT_NOT_FOUND": Reason(
        _NOT_FOUND,
        "There is no such project, or it is not the caller's to see.",
        "Name it `workspace/name` or by its UUID.",
    ),
    "REQUEST_TIMEOUT": Reason((), "The upload of a file stopped before its end.", "Send the file again."),
    "REQUEST_TOO_LARGE": Reason(
        _EXHAUSTED,
        "The request, or an operation in it, has more bytes than the limit; both are in `error_info.metadata`.",
        "Send it in parts.",
    ),
    "RUN_CONFLICTING": Reason(
        _EXISTS,
        "The run exists with another fork point or family.",
        "Take another run id, or the fork point it was created with.",
    ),
    "SERVICE_UNAVAILABLE": Reason(
        _UNAVAILABLE,
        "Files cannot be kept now, or not by this server.",
        "Start the server with a place for files (`--files`), or call again after `retry_delay`.",
    ),
    "TOO_MANY_STREAMS": Reason(
        _EXHAUSTED, "As many streams are open as there may be.", "Close some, or call again after `retry_delay`."
    ),
    "UNAUTHORIZED": Reason(
        _UNAUTHENTICATED,
        "There is no access token, or the API token is not known here, or was revoked.",
        "Take the token that the server prints when it starts, or ask for a new one.",
    ),
    "USER_NOT_FOUND": Reason(_NOT_FOUND, "There is no such user.", "Check the user name or UUID."),
    "USER_NOT_IN_PROJECT": Reason(_NOT_FOUND, "The user is no member of the project.", "Add the member first."),
    "WRITE_ACCESS_DENIED_TO_ARCHIVED_PROJECT": Reason(
        _PRECONDITION, "The project is archived and read-only.", "Let a manager take it out of the archive."
    ),
}
"""By the text of ErrorInfo.reason, which is the `errorType` of the REST API."""
