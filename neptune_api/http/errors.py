"""Failed calls as HTTP bodies, and back.

The body is the Error object of the REST API: `code` (the HTTP status), `message`, `errorType` and `type`, `title`. For
programs that know gRPC it also has `status`, the name of the status code, and `details`, those of google.rpc.Status in
the JSON form of protobuf. The table of codes is in neptune_api.exceptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import json_format
from google.rpc import (
    error_details_pb2,  # registers the types that details have
    status_pb2,
)

from neptune_api.exceptions import code_from_http, http_status
from neptune_api.http.json_codec import TranscodeError, dump, load

if TYPE_CHECKING:
    from collections.abc import Mapping

_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
_QUOTED_CHARACTERS: Final = 200


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """Return the status code of a google.rpc.Status; UNKNOWN for a number that is none."""
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN)


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Return the machine-readable cause in the details of a failed call; an empty one when there is none."""
    info = error_details_pb2.ErrorInfo()
    return info if any(packed.Unpack(info) for packed in status.details) else error_details_pb2.ErrorInfo()


def error_body(status: status_pb2.Status, *, error_type: str | None = None) -> dict[str, Any]:
    """Return the Error object of a failed call; `error_type` is the reason as the path's readers know it.

    The title is that of the code, unless the metadata of the cause have another one.
    """
    code = code_of(status)
    body: dict[str, Any] = {"code": http_status(status), "message": status.message}
    if error_type is not None:
        body["errorType"] = body["type"] = error_type
    body["title"] = info_of(status).metadata.get("title") or code.name.replace("_", " ").capitalize()
    body["status"] = code.name
    details = []
    for packed in status.details:
        try:
            details.append(json_format.MessageToDict(packed))
        except (TypeError, ValueError):  # of a type that is not known here
            continue
    if details:
        body["details"] = details
    return body


def encode_error(body: Mapping[str, Any]) -> bytes:
    """Return an Error object as bytes."""
    return dump(body)


def decode_error(http_code: int, body: bytes, content_type: str | None = None) -> status_pb2.Status:
    """Return the status of a failed call from an HTTP status and a body of any kind; never fails.

    Bodies without a status code of ours come from another server or a proxy: the HTTP status then stands for one.
    """
    try:
        value = load(body) if body else None
    except TranscodeError:
        value = None
    if isinstance(value, dict):
        return status_of(value, http_code)
    code = code_from_http(http_code)
    text = body[: 4 * _QUOTED_CHARACTERS].decode(errors="replace").strip()
    kind = (content_type or "").partition(";")[0].strip().lower()
    if not text or kind == "text/html" or text.startswith("<"):
        text = ""
    elif len(text) > _QUOTED_CHARACTERS:
        text = f"{text[:_QUOTED_CHARACTERS]}..."
    return status_pb2.Status(code=code.value[0], message=text or f"The server answered HTTP status {http_code}.")


def status_of(body: Mapping[str, Any], http_code: int) -> status_pb2.Status:
    """Return the status that an Error object speaks of; `http_code` stands in for a status code it does not name."""
    code = grpc.StatusCode.__members__.get(str(body.get("status")))
    if code is None or code is grpc.StatusCode.OK:
        code = code_from_http(http_code)
    message = body.get("message")
    status = status_pb2.Status(
        code=code.value[0],
        message=message if isinstance(message, str) else f"The server answered HTTP status {http_code}.",
    )
    details = body.get("details")
    for each in details if isinstance(details, list) else ():
        try:
            json_format.ParseDict(each, status.details.add(), ignore_unknown_fields=True)
        except (json_format.ParseError, TypeError, ValueError, AttributeError):
            del status.details[-1]
    reason = body.get("errorType")
    if not status.details and isinstance(reason, str) and reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason))
    return status
