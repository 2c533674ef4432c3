"""How servicers say no: one exception that both doors turn into a status with details."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from neptune_api.exceptions import ERROR_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class StatusError(Exception):
    """End a call with a status code, a sentence and machine-readable details.

    `reason` is one of the REST API's error types (ErrorInfo.reason), `violations` are (field, what is wrong) pairs
    (BadRequest), `retry_seconds` tells when to try again (RetryInfo).
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[tuple[str, str]] = (),
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_seconds = retry_seconds

    def at(self, position: int, what: str) -> StatusError:
        """Return the error with the position of a stream's message at which it came; `what` names the message."""
        return StatusError(
            self.code,
            f"{what}: {self.message}",
            reason=self.reason,
            metadata={**self.metadata, "position": str(position)},
            violations=self.violations,
            retry_seconds=self.retry_seconds,
        )

    def status(self) -> status_pb2.Status:
        """Return the google.rpc.Status that travels in `grpc-status-details-bin` and in HTTP bodies."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.reason is not None:
            _pack(status, error_details_pb2.ErrorInfo(reason=self.reason, domain=ERROR_DOMAIN, metadata=self.metadata))
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for field, description in self.violations:
                bad.field_violations.add(field=field, description=description)
            _pack(status, bad)
        if self.retry_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(self.retry_seconds * 1000))
            _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
        return status


def _pack(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def invalid(field: str, description: str) -> StatusError:
    """Return INVALID_ARGUMENT about one field; `description` says what is wrong, the limit and what to do."""
    return StatusError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field}: {description}",
        reason="BAD_REQUEST",
        violations=[(field, description)],
    )


def too_large(what: str, size: int, limit: int, advice: str) -> StatusError:
    """Return RESOURCE_EXHAUSTED about a request, or a part of one, of `size` bytes where `limit` are the most."""
    message = f"{what} has {size:,} bytes, the limit is {limit:,}: {advice}"
    return StatusError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        message,
        reason="REQUEST_TOO_LARGE",
        metadata={"size": str(size), "limit": str(limit)},
        violations=[("", message)],
    )


def syntax_error(field: str, description: str, *, position: int, expected: str) -> StatusError:
    """Return INVALID_ARGUMENT about a query that cannot be understood: at which character from 0, and what would be.

    The HTTP door gives it the title by which released clients know it.
    """
    return StatusError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field}: {description}.",
        reason="BAD_REQUEST",
        metadata={"title": "Syntax error", "position": str(position), "expected": expected},
        violations=[(field, description)],
    )


def not_found(message: str, reason: str) -> StatusError:
    """Return NOT_FOUND."""
    return StatusError(grpc.StatusCode.NOT_FOUND, message, reason=reason)


def denied(message: str, reason: str = "ACCESS_DENIED") -> StatusError:
    """Return PERMISSION_DENIED."""
    return StatusError(grpc.StatusCode.PERMISSION_DENIED, message, reason=reason)


def already_exists(message: str, reason: str) -> StatusError:
    """Return ALREADY_EXISTS."""
    return StatusError(grpc.StatusCode.ALREADY_EXISTS, message, reason=reason)


def failed_precondition(message: str, reason: str) -> StatusError:
    """Return FAILED_PRECONDITION."""
    return StatusError(grpc.StatusCode.FAILED_PRECONDITION, message, reason=reason)


def unauthenticated(message: str) -> StatusError:
    """Return UNAUTHENTICATED."""
    return StatusError(grpc.StatusCode.UNAUTHENTICATED, message, reason="UNAUTHORIZED")


def unimplemented(message: str, field: str | None = None) -> StatusError:
    """Return UNIMPLEMENTED; the sentence says what is not there, `field` which field of the request asked for it."""
    if field is None:
        return StatusError(grpc.StatusCode.UNIMPLEMENTED, message)
    return StatusError(grpc.StatusCode.UNIMPLEMENTED, f"{field}: {message}", violations=[(field, message)])
