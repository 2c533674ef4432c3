"""One method over HTTP: its requests as bytes, and what its answers mean. The transports share it."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import any_pb2, message_factory
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from neptune_api._grpc.methods import Method, find_method
from neptune_api.exceptions import ERROR_DOMAIN, STATUS_DETAILS_KEY
from neptune_api.http.errors import code_of, decode_error
from neptune_api.http.failures import CallError, tunnel_refused
from neptune_api.http.framing import FrameDecoder, StreamFailed
from neptune_api.http.headers import RESERVED, TIMEOUT_HEADER, decode_metadata, encode_metadata, encode_timeout
from neptune_api.http.json_codec import TranscodeError
from neptune_api.http.protocol import FramingError, IncompleteError, Response, TooLargeError
from neptune_api.http.rules import Format, Rule, find_rule
from neptune_api.http.transcode import body_format, decode_response, encode_request
from neptune_api.options import default_user_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from neptune_api._grpc.policy import Pair, Pairs
    from neptune_api.http.endpoint import Endpoint
    from neptune_api.options import ChannelOptions

_FORMATS: Final = {"protobuf": Format.PROTOBUF, "json": Format.JSON, "declared": None}

_RETRY_INFO: Final[Any] = error_details_pb2.RetryInfo.DESCRIPTOR

# Headers of answers that tell a caller nothing; the rest is metadata.
_USUAL: Final = RESERVED | {
    "age",
    "alt-svc",
    "cache-control",
    "content-language",
    "date",
    "etag",
    "expires",
    "last-modified",
    "pragma",
    "server",
    "strict-transport-security",
    "vary",
    "via",
    "x-content-type-options",
}

PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"
"""Header that tells a server how often a call was made before, as on the gRPC wire."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request, ready for all attempts of a call."""

    start: str
    """The head, but for what differs between attempts."""
    body: bytes

    def head(self, left: float | None, attempt: int) -> bytes:
        """Return the head of an attempt with so many seconds left."""
        text = self.start
        if left is not None:
            text = f"{text}{TIMEOUT_HEADER}: {encode_timeout(left)}\r\n"
        if attempt > 1:
            text = f"{text}{PREVIOUS_ATTEMPTS}: {attempt - 1}\r\n"
        return f"{text}\r\n".encode("latin-1")


class Exchange:
    """A method of one channel."""

    def __init__(
        self,
        path: str | bytes,
        endpoint: Endpoint,
        options: ChannelOptions,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self.method: Final[Method] = find_method(path)
        self._rule = find_rule(path)
        self._endpoint = endpoint
        self._options = options
        self._serialize = serialize
        self._deserialize = deserialize
        self._format = _FORMATS[options.http_format]
        fixed = [
            ("Host", endpoint.authority),
            ("User-Agent", options.user_agent or default_user_agent()),
            # Protobuf gains little, and answers that grow as they are unpacked have to be bounded.
            ("Accept-Encoding", "identity"),
        ]
        if endpoint.forwarded and endpoint.proxy is not None and endpoint.proxy.authorization is not None:
            fixed.append(("Proxy-Authorization", endpoint.proxy.authorization))
        self._fixed = _lines(fixed)
        self._whole: str | None = None
        if self._rule is not None:
            self._prepare(self._rule)

    def _prepare(self, rule: Rule) -> None:
        self._request_type = message_factory.GetMessageClass(rule.method.input_type)
        self._response_type = message_factory.GetMessageClass(rule.method.output_type)
        # Most messages are a body as they are: then neither side parses what the other has serialized.
        plain = rule.body == "*" and not rule.template.variables and not rule.headers
        if plain and (self._format or rule.request_format) is Format.PROTOBUF:
            request = encode_request(rule, self._request_type(), self._format)
            self._whole = f"{request.verb} {self._endpoint.base}{request.target} HTTP/1.1\r\n{self._fixed}" + _lines(
                request.headers
            )

    @property
    def _known(self) -> Rule:
        if self._rule is None:
            raise CallError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"/{self.method.name} has no HTTP rule, so it cannot be called over HTTP; use the gRPC wire, "
                "grpcs://host:port.",
                sent=False,
                lasting=True,
            )
        return self._rule

    @property
    def repeatable(self) -> bool:
        """A call may be made twice."""
        return self.method.retryable

    def encode(self, request: Any, metadata: Iterable[Pair] | None) -> Encoded:
        """Return a request as it goes over the wire.

        Raises CallError for what HTTP cannot carry, ValueError for metadata that is none.
        """
        rule = self._known
        data: bytes = request if self._serialize is None else self._serialize(request)
        extra = _lines(encode_metadata(metadata)) if metadata else ""
        if self._whole is not None:
            return Encoded(f"{self._whole}{extra}Content-Length: {len(data)}\r\n", data)
        try:
            made = encode_request(rule, self._request_type.FromString(data), self._format)
        except DecodeError:
            name = self._request_type.DESCRIPTOR.full_name
            problem = TranscodeError(f"the request of {len(data):,} bytes is not a {name}")
            raise _unsendable(problem, "MALFORMED_REQUEST") from None
        except TranscodeError as error:
            raise _unsendable(error) from None
        start = f"{made.verb} {self._endpoint.base}{made.target} HTTP/1.1\r\n{self._fixed}{_lines(made.headers)}{extra}"
        if made.body or made.verb not in {"GET", "HEAD", "DELETE"}:
            start = f"{start}Content-Length: {len(made.body)}\r\n"
        return Encoded(start, made.body)

    def response(self) -> Response:
        """Return what the answer of an attempt is read into."""
        return Response(max_bytes=self._options.max_receive_bytes)

    def result(self, response: Response) -> Any:
        """Return what a whole answer holds. Raises CallError."""
        if not 200 <= response.status < 300:
            raise self.failure(response)
        self._check_coding(response)
        body = response.take()
        rule = self._known
        content_type = response.headers.get("content-type")
        try:
            if not rule.response_body and body_format(content_type, rule.response_format) is Format.PROTOBUF:
                return body if self._deserialize is None else self._deserialize(body)
            return self.given(decode_response(rule, body, content_type))
        except Exception as error:
            raise self.unreadable(error, response) from error

    def _check_coding(self, response: Response) -> None:
        coding = response.headers.get("content-encoding", "identity")
        if coding.lower() not in {"", "identity"}:
            raise self.unreadable(ValueError(f"it is compressed ({coding}), which nobody asked for"), response)

    def given(self, message: Any) -> Any:
        """Return a message as the caller's deserializer would make it of its bytes."""
        if getattr(self._deserialize, "__self__", None) is self._response_type:
            return message
        data = message.SerializeToString()
        return data if self._deserialize is None else self._deserialize(data)

    def unreadable(self, error: Exception, response: Response) -> CallError:
        """Return the error for an answer that holds something else."""
        endpoint = self._endpoint
        return CallError(
            grpc.StatusCode.INTERNAL,
            f"The answer is no {self._response_type.DESCRIPTOR.full_name}: {error}. Is {endpoint.authority}"
            f"{endpoint.prefix} the base address of the API?",
            trailing_metadata=metadata_of(response),
            lasting=True,
        )

    def failure(self, response: Response) -> CallError:
        """Return the error that an answer with an HTTP status other than 2xx tells of."""
        headers = response.headers
        kind = headers.get("content-type") or ""
        # The server's own errors are JSON.
        if response.status in {403, 407} and self._endpoint.forwarded and not kind.startswith("application/json"):
            return tunnel_refused(self._endpoint, response.status)
        where = headers.get("location")
        if 300 <= response.status < 400:
            return CallError(
                grpc.StatusCode.UNKNOWN,
                f"The server answered HTTP status {response.status}, which redirects "
                f"{'elsewhere' if where is None else f'to {where}'}; redirects are not followed, because they would "
                "take the token along: use the address itself as the target.",
                trailing_metadata=metadata_of(response),
                lasting=True,
            )
        status = decode_error(response.status, response.take(), kind)
        delay = _seconds(headers.get("retry-after"))
        if delay is not None and not any(packed.Is(_RETRY_INFO) for packed in status.details):
            info = error_details_pb2.RetryInfo()
            info.retry_delay.FromMilliseconds(round(delay * 1000))
            packed = any_pb2.Any()
            packed.Pack(info)
            status.details.append(packed)
        return self.failed(status, response, lasting=response.status == 413)

    def failed(self, status: status_pb2.Status, response: Response, *, lasting: bool) -> CallError:
        """Return the error that a google.rpc.Status tells of."""
        return CallError(
            code_of(status),
            status.message,
            # As in a gRPC answer without a message: all there is of metadata came with the status.
            trailing_metadata=metadata_of(response)
            + (((STATUS_DETAILS_KEY, status.SerializeToString()),) if status.details else ()),
            debug=f"HTTP status {response.status} from {self._endpoint.authority}: {status.message}",
            lasting=lasting,
            retry_after=_retry_delay(status),
        )

    def broken(self, error: FramingError | TooLargeError) -> CallError:
        """Return the error for an answer that is not whole, not HTTP or too large."""
        if isinstance(error, TooLargeError):
            return CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_capital(error)}.", lasting=True)
        if isinstance(error, IncompleteError):
            return CallError(
                grpc.StatusCode.UNAVAILABLE,
                f"The connection was lost: {error}; the server may have done the work.",
            )
        host, port = self._endpoint.peer
        return CallError(grpc.StatusCode.UNAVAILABLE, f"{host}:{port} does not speak HTTP/1.1: {error}.", lasting=True)

    def stream(self, response: Response) -> ResultStream:
        """Return a reader of the messages of an answer whose head has come with a status of 2xx. Raises CallError."""
        rule = self._known
        self._check_coding(response)
        try:
            decoder = FrameDecoder(
                rule, response.headers.get("content-type"), max_bytes=self._options.max_receive_bytes
            )
        except TranscodeError as error:
            raise self.unreadable(error, response) from error
        return ResultStream(self, decoder, response)


class ResultStream:
    """The messages of an answer that is a stream."""

    __slots__ = ("_decoder", "_exchange", "_response")

    def __init__(self, exchange: Exchange, decoder: FrameDecoder, response: Response) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._response = response

    def messages(self) -> Iterator[Any]:
        """Yield the messages that have become whole, and at the end of the answer see that nothing is missing.

        Raises CallError when the stream failed.
        """
        exchange, response = self._exchange, self._response
        response.forget_size()
        try:
            for message in self._decoder.feed(response.take()):
                yield exchange.given(message)
            if response.done:
                self._decoder.close()
        except StreamFailed as failed:
            raise exchange.failed(failed.status, response, lasting=False) from None
        except TranscodeError as error:
            raise exchange.unreadable(error, response) from error


def metadata_of(response: Response) -> Pairs:
    """Return the headers of an answer that are not HTTP's own as metadata."""
    return tuple(decode_metadata((name, value) for name, value in response.headers.items() if name not in _USUAL))


def _lines(headers: Iterable[tuple[str, str]]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def _capital(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def _seconds(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds a number or a date."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds < 1e9 else None


def _retry_delay(status: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    for packed in status.details:
        if packed.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


def _unsendable(error: TranscodeError, reason: str = "BAD_REQUEST") -> CallError:
    """Return the error for a request that HTTP cannot carry, in the form in which the server would refuse it."""
    said = str(error).rstrip(".")
    details = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=f"{said}.")
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field=error.field, description=error.description)
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN), bad):
        packed = any_pb2.Any()
        packed.Pack(detail)
        details.details.append(packed)
    return CallError(
        grpc.StatusCode.INVALID_ARGUMENT,
        details.message,
        trailing_metadata=((STATUS_DETAILS_KEY, details.SerializeToString()),),
        sent=False,
        lasting=True,
    )
