"""The exception per gRPC status code, the one table between status codes and HTTP, and error details.

NeptuneApiError                     base; is a grpc.RpcError, a grpc.aio.AioRpcError, a grpc.Call and a grpc.Future
├── CancelledException              CANCELLED
├── UnknownException                UNKNOWN
├── InvalidArgumentException        INVALID_ARGUMENT
├── DeadlineExceededException       DEADLINE_EXCEEDED
├── NotFoundException               NOT_FOUND
├── AlreadyExistsException          ALREADY_EXISTS
├── PermissionDeniedException       PERMISSION_DENIED
├── ResourceExhaustedException      RESOURCE_EXHAUSTED
├── FailedPreconditionException     FAILED_PRECONDITION
├── AbortedException                ABORTED
├── OutOfRangeException             OUT_OF_RANGE
├── UnimplementedException          UNIMPLEMENTED
├── InternalException               INTERNAL
├── UnavailableException            UNAVAILABLE
├── DataLossException               DATA_LOSS
└── UnauthorizedException           UNAUTHENTICATED
    └── InvalidTokenError           an API token that cannot be decoded; also a ValueError
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType
    from typing import NoReturn, TypeAlias

    from google.protobuf.message import Message
    from google.rpc import status_pb2
    from typing_extensions import Self

    Metadata: TypeAlias = Collection[tuple[str, str | bytes]]
    DetailT = TypeVar("DetailT", bound=Message)

__all__ = [
    "HTTP_STATUS",
    "STATUS_DETAILS_KEY",
    "AbortedException",
    "AlreadyExistsException",
    "CancelledException",
    "DataLossException",
    "DeadlineExceededException",
    "ErrorInfo",
    "FailedPreconditionException",
    "FieldViolation",
    "InternalException",
    "InvalidArgumentException",
    "InvalidTokenError",
    "NeptuneApiError",
    "NotFoundException",
    "OutOfRangeException",
    "PermissionDeniedException",
    "ResourceExhaustedException",
    "UnauthorizedException",
    "UnavailableException",
    "UnimplementedException",
    "UnknownException",
    "code_from_http",
    "exception_class",
    "http_status",
]

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata in which a google.rpc.Status travels."""


ERROR_DOMAIN: Final = "neptune-api"
"""Who defines the reasons of our own errors (ErrorInfo.domain)."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of the request (google.rpc.BadRequest)."""

    field: str
    """Path of the field, in proto spelling."""
    description: str
    """What is wrong, the limit and what to do."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The machine-readable cause of an error (google.rpc.ErrorInfo)."""

    reason: str
    """Constant name of the cause, for example `PROJECT_NAME_COLLISION`."""
    domain: str
    """Who defines the reason."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Further facts."""


# One class for both worlds: sync callers and interceptors take a failed call for a grpc.Call and a grpc.Future, aio
# callers catch grpc.aio.AioRpcError. With twin hierarchies `except NotFoundException` would mean two things.
class FailedCall(grpc.aio.AioRpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg] # grpc.Future is not generic at run time
    """A call that has failed, as gRPC knows such calls for threads and for event loops."""

    if TYPE_CHECKING:

        def details(self) -> str:
            """Return the sentence that says what happened."""

        def initial_metadata(self) -> Metadata:  # type: ignore[override] # a tuple from sync calls, Metadata from aio calls
            """Return the metadata sent before the first message, as (key, value) pairs."""

        def trailing_metadata(self) -> Metadata:  # type: ignore[override] # a tuple from sync calls, Metadata from aio calls
            """Return the metadata sent with the status, as (key, value) pairs."""

    def cancel(self) -> bool:
        """Return False: the call has ended."""
        return False

    def cancelled(self) -> bool:
        """Return False: the call ended with an error."""
        return False

    def running(self) -> bool:
        """Return False: the call has ended."""
        return False

    def done(self) -> bool:
        """Return True: the call has ended."""
        return True

    def is_active(self) -> bool:
        """Return False: the call has ended."""
        return False

    def time_remaining(self) -> float:
        """Return 0: the call has ended."""
        return 0.0

    def result(self, timeout: float | None = None) -> NoReturn:
        """Raise this error."""
        raise self

    def exception(self, timeout: float | None = None) -> Self:
        """Return this error."""
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of this error."""
        try:
            raise self
        except FailedCall:
            return sys.exc_info()[2]

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Return False: the call has ended, the callback is not registered."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this error at once."""
        fn(self)


class NeptuneApiError(FailedCall):
    """Base of every error a call raises, on every wire; raised through the subclass of its status code.

    `str()` gives the code, the sentence of the server, the method and the field violations, on one line.
    """

    status_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    """The status code all instances of the class have."""

    def __init__(
        self,
        details: str = "",
        *,
        method: str | None = None,
        initial_metadata: Metadata | None = None,
        trailing_metadata: Metadata | None = None,
        debug_error_string: str | None = None,
    ) -> None:
        super().__init__(
            self.status_code,
            initial_metadata if initial_metadata is not None else (),  # type: ignore[arg-type] # any collection of pairs will do
            trailing_metadata if trailing_metadata is not None else (),  # type: ignore[arg-type] # any collection of pairs will do
            details,
            debug_error_string,
        )
        self.method: str | None = method
        """Full name of the method called, such as `neptune_api.v1.RunsService/GetRun`; None if no call was made."""

    @cached_property
    def _status(self) -> status_pb2.Status | None:
        from google.protobuf.message import DecodeError
        from google.rpc import status_pb2

        for key, value in self.trailing_metadata():
            if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
                try:
                    return status_pb2.Status.FromString(value)
                except DecodeError:
                    return None
        return None

    def _detail(self, detail: DetailT) -> DetailT | None:
        from google.protobuf.message import DecodeError

        for packed in self._status.details if self._status is not None else ():
            try:
                if packed.Unpack(detail):
                    return detail
            except DecodeError:
                return None
        return None

    @property
    def error_info(self) -> ErrorInfo | None:
        """The machine-readable cause; None when the server gave none."""
        from google.rpc import error_details_pb2

        info = self._detail(error_details_pb2.ErrorInfo())
        return None if info is None else ErrorInfo(info.reason, info.domain, dict(info.metadata))

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """What is wrong with which field of the request; empty when the server named none."""
        from google.rpc import error_details_pb2

        bad = self._detail(error_details_pb2.BadRequest())
        return () if bad is None else tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)

    @property
    def retry_delay(self) -> float | None:
        """Seconds after which the server asks to try again; None when it did not say."""
        from google.rpc import error_details_pb2

        info = self._detail(error_details_pb2.RetryInfo())
        if info is None or not info.HasField("retry_delay"):
            return None
        return info.retry_delay.seconds + info.retry_delay.nanos / 1e9

    def __str__(self) -> str:
        details = self.details()
        text = f"{self.status_code.name}: {details}" if details else self.status_code.name
        if self.method is not None:
            text += f" ({self.method})"
        # Servers like to repeat the violation in the sentence; say it once.
        further = [f"{v.field}: {v.description}" for v in self.violations if v.description not in details]
        return f"{text} [{'; '.join(further)}]" if further else text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __reduce__(self) -> tuple[Callable[..., NeptuneApiError], tuple[Any, ...]]:
        return _rebuild, (
            type(self),
            self.details(),
            self.method,
            _plain(self.initial_metadata()),
            _plain(self.trailing_metadata()),
            self.debug_error_string(),
        )


def _plain(metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in metadata)


def _rebuild(
    cls: type[NeptuneApiError],
    details: str,
    method: str | None,
    initial_metadata: Metadata,
    trailing_metadata: Metadata,
    debug_error_string: str | None,
) -> NeptuneApiError:
    return cls(
        details,
        method=method,
        initial_metadata=initial_metadata,
        trailing_metadata=trailing_metadata,
        debug_error_string=debug_error_string,
    )


class CancelledException(NeptuneApiError):
    """The call was cancelled, by the server or by closing the channel."""

    status_code = grpc.StatusCode.CANCELLED


class UnknownException(NeptuneApiError):
    """The other side failed without saying how."""

    status_code = grpc.StatusCode.UNKNOWN


class InvalidArgumentException(NeptuneApiError):
    """The request is wrong whatever the state of the server; `violations` says where. Mend it before calling again."""

    status_code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceededException(NeptuneApiError):
    """The deadline passed before the answer came; the server may have done the work."""

    status_code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFoundException(NeptuneApiError):
    """The workspace, project, run or user does not exist, or the caller may not know that it does."""

    status_code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsException(NeptuneApiError):
    """What was to be created exists already."""

    status_code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDeniedException(NeptuneApiError):
    """The caller is known but lacks the role that the call needs."""

    status_code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhaustedException(NeptuneApiError):
    """A message is too large, a quota is used up or calls come too fast; `retry_delay` says when to try again."""

    status_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPreconditionException(NeptuneApiError):
    """The state of the server does not allow the call; change the state first, then call again."""

    status_code = grpc.StatusCode.FAILED_PRECONDITION


class AbortedException(NeptuneApiError):
    """A concurrent change got in the way; read again, then repeat the whole operation."""

    status_code = grpc.StatusCode.ABORTED


class OutOfRangeException(NeptuneApiError):
    """An offset, a step or a page lies past the end."""

    status_code = grpc.StatusCode.OUT_OF_RANGE


class UnimplementedException(NeptuneApiError):
    """The server does not have this method, or not this part of it."""

    status_code = grpc.StatusCode.UNIMPLEMENTED


class InternalException(NeptuneApiError):
    """The server has a fault; report it with the id in the sentence."""

    status_code = grpc.StatusCode.INTERNAL


class UnavailableException(NeptuneApiError):
    """The server cannot be reached or is not ready. Idempotent calls were tried again already; try later."""

    status_code = grpc.StatusCode.UNAVAILABLE


class DataLossException(NeptuneApiError):
    """Stored data is corrupt and cannot be recovered."""

    status_code = grpc.StatusCode.DATA_LOSS


class UnauthorizedException(NeptuneApiError):
    """The API token or the access token is missing, malformed, expired, revoked or of another server."""

    status_code = grpc.StatusCode.UNAUTHENTICATED


class InvalidTokenError(UnauthorizedException, ValueError):
    """The text given as an API token cannot be decoded; no call was made."""

    def __str__(self) -> str:
        return self.details()


_BY_CODE: Final[Mapping[grpc.StatusCode, type[NeptuneApiError]]] = MappingProxyType(
    {
        cls.status_code: cls
        for cls in (
            CancelledException,
            UnknownException,
            InvalidArgumentException,
            DeadlineExceededException,
            NotFoundException,
            AlreadyExistsException,
            PermissionDeniedException,
            ResourceExhaustedException,
            FailedPreconditionException,
            AbortedException,
            OutOfRangeException,
            UnimplementedException,
            InternalException,
            UnavailableException,
            DataLossException,
            UnauthorizedException,
        )
    }
)


def exception_class(code: grpc.StatusCode) -> type[NeptuneApiError]:
    """Return the exception class of a status code; UnknownException for one that is no error."""
    return _BY_CODE.get(code, UnknownException)


HTTP_STATUS: Final[Mapping[grpc.StatusCode, int]] = MappingProxyType(
    {
        grpc.StatusCode.OK: 200,
        # google.rpc.Code says 499, which Python's http.HTTPStatus does not know: released clients die of such a status.
        grpc.StatusCode.CANCELLED: 408,
        grpc.StatusCode.UNKNOWN: 500,
        grpc.StatusCode.INVALID_ARGUMENT: 400,
        grpc.StatusCode.DEADLINE_EXCEEDED: 504,
        grpc.StatusCode.NOT_FOUND: 404,
        grpc.StatusCode.ALREADY_EXISTS: 409,
        grpc.StatusCode.PERMISSION_DENIED: 403,
        grpc.StatusCode.UNAUTHENTICATED: 401,
        grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
        grpc.StatusCode.FAILED_PRECONDITION: 400,
        grpc.StatusCode.ABORTED: 409,
        grpc.StatusCode.OUT_OF_RANGE: 400,
        # google.rpc.Code says 501, which released clients take for a moment's trouble and repeat for half an hour.
        grpc.StatusCode.UNIMPLEMENTED: 422,
        grpc.StatusCode.INTERNAL: 500,
        grpc.StatusCode.UNAVAILABLE: 503,
        grpc.StatusCode.DATA_LOSS: 500,
    }
)
"""The HTTP status of every gRPC status code, after google/rpc/code.proto. Lossy: 400, 409 and 500 stand for several
codes, so a body of ours always carries the code itself."""


def http_status(status: status_pb2.Status) -> int:
    """Return the HTTP status of a failed call: that of its code, except for what is too large.

    RESOURCE_EXHAUSTED is 429 only with a delay after which to try again; without, it is 413. What is too large now is
    too large the next time, and clients repeat a 429 for as long as they are patient.
    """
    from google.rpc import error_details_pb2

    code = next((each for each in grpc.StatusCode if each.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not any(
        packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR)  # type: ignore[arg-type] # two names of one descriptor type
        for packed in status.details
    ):
        return 413
    return HTTP_STATUS[code]


# For bodies without a code, which come from another server or a proxy. Where several codes share a status, the one that
# promises least about a retry wins: ALREADY_EXISTS over ABORTED, INTERNAL over UNKNOWN. 502 is the proxy's way to say
# that the server is away; 504 comes after a wait, and the work may have been done.
_FROM_HTTP: Final[Mapping[int, grpc.StatusCode]] = MappingProxyType(
    {
        400: grpc.StatusCode.INVALID_ARGUMENT,
        401: grpc.StatusCode.UNAUTHENTICATED,
        403: grpc.StatusCode.PERMISSION_DENIED,
        404: grpc.StatusCode.NOT_FOUND,
        405: grpc.StatusCode.UNIMPLEMENTED,
        408: grpc.StatusCode.DEADLINE_EXCEEDED,
        409: grpc.StatusCode.ALREADY_EXISTS,
        410: grpc.StatusCode.NOT_FOUND,
        412: grpc.StatusCode.FAILED_PRECONDITION,
        413: grpc.StatusCode.RESOURCE_EXHAUSTED,
        415: grpc.StatusCode.INVALID_ARGUMENT,
        416: grpc.StatusCode.OUT_OF_RANGE,
        422: grpc.StatusCode.INVALID_ARGUMENT,
        429: grpc.StatusCode.RESOURCE_EXHAUSTED,
        499: grpc.StatusCode.CANCELLED,
        500: grpc.StatusCode.INTERNAL,
        501: grpc.StatusCode.UNIMPLEMENTED,
        502: grpc.StatusCode.UNAVAILABLE,
        503: grpc.StatusCode.UNAVAILABLE,
        504: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def code_from_http(status: int) -> grpc.StatusCode:
    """Return the gRPC status code that an HTTP status most likely stands for; only for bodies that carry no code."""
    if 200 <= status < 300:
        return grpc.StatusCode.OK
    if status in _FROM_HTTP:
        return _FROM_HTTP[status]
    if 400 <= status < 500:
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.UNAVAILABLE if 500 <= status < 600 else grpc.StatusCode.UNKNOWN
