"""Client interceptors of grpc.aio over HTTP: grpc.aio runs them only on channels of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from neptune_api._grpc import aio_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Sequence
    from typing import TypeAlias

    Details: TypeAlias = grpc.aio.ClientCallDetails
    Bare: TypeAlias = Callable[[Details, Any], Any]
    """Makes a call over the wire."""


class Interceptors:
    """The interceptors of a channel, by the kind of call; the first one is the outermost.

    As on gRPC's own channels an interceptor takes part in the first kind only that it is of.
    """

    def __init__(self, given: Sequence[grpc.aio.ClientInterceptor]) -> None:
        self._unary: list[grpc.aio.UnaryUnaryClientInterceptor] = []
        self._stream: list[grpc.aio.UnaryStreamClientInterceptor] = []
        for interceptor in given:
            if isinstance(interceptor, grpc.aio.UnaryUnaryClientInterceptor):
                self._unary.append(interceptor)
            elif isinstance(interceptor, grpc.aio.UnaryStreamClientInterceptor):
                self._stream.append(interceptor)
            elif not isinstance(
                interceptor, (grpc.aio.StreamUnaryClientInterceptor, grpc.aio.StreamStreamClientInterceptor)
            ):
                raise TypeError(
                    f"interceptors must be client interceptors of grpc.aio, not {type(interceptor).__name__}"
                )

    def unary(self, details: Details, request: Any, bare: Bare) -> Any:
        """Return a call with one response."""
        if not self._unary:
            return bare(details, request)

        async def run(index: int, details: Details, request: Any) -> Any:
            if index == len(self._unary):
                return bare(details, request)

            async def go_on(details: Details, request: Any) -> Any:
                return await run(index + 1, details, request)

            answer = await self._unary[index].intercept_unary_unary(go_on, details, request)
            return answer if isinstance(answer, grpc.aio.UnaryUnaryCall) else _Answer(answer)

        return aio_calls.UnaryUnaryCall(None, None, None, lambda: run(0, _with_bytes(details), request))

    def stream(self, details: Details, request: Any, bare: Bare) -> Any:
        """Return a call with a stream of responses."""
        if not self._stream:
            return bare(details, request)

        async def run(index: int, details: Details, request: Any) -> Any:
            if index == len(self._stream):
                return bare(details, request)
            last: list[Any] = []

            async def go_on(details: Details, request: Any) -> Any:
                last[:] = [await run(index + 1, details, request)]
                return last[0]

            answer = await self._stream[index].intercept_unary_stream(go_on, details, request)
            if isinstance(answer, grpc.aio.UnaryStreamCall):
                return answer
            return _Answers(answer, last[0] if last else None)

        return aio_calls.UnaryStreamCall(None, None, None, lambda: run(0, _with_bytes(details), request))


def _with_bytes(details: Details) -> Details:
    """Return details as interceptors get them from gRPC: the method as bytes, the metadata as Metadata."""
    method, metadata = details.method, details.metadata
    return grpc.aio.ClientCallDetails(
        method.encode() if isinstance(method, str) else method,  # type: ignore[arg-type] # gRPC gives bytes, whatever it says
        details.timeout,
        metadata if isinstance(metadata, grpc.aio.Metadata) else grpc.aio.Metadata(*(metadata or ())),
        details.credentials,
        details.wait_for_ready,
    )


class _Ended:
    """What there is to tell of a call that an interceptor answered by itself."""

    def cancel(self) -> bool:
        """Return False: there is nothing to cancel."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def time_remaining(self) -> float | None:
        """Return None."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` at once."""
        callback(self)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return no metadata."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return no metadata."""
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        """Return OK."""
        return grpc.StatusCode.OK

    async def details(self) -> str:
        """Return nothing."""
        return ""

    async def debug_error_string(self) -> str:
        """Return nothing."""
        return ""

    async def wait_for_connection(self) -> None:
        """Do not wait."""


class _Answer(_Ended, aio_calls.UnaryUnaryCallBase):
    """A response that an interceptor gave instead of a call."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self._response


class _Answers(_Ended, aio_calls.UnaryStreamCallBase):
    """Responses that an interceptor gave instead of a call, and the call below, if it made one, that knows the rest."""

    def __init__(self, responses: AsyncIterator[Any], below: Any) -> None:
        self._responses = responses.__aiter__()
        self._below = below

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses

    async def read(self) -> Any:
        """Return the next response, or grpc.aio.EOF after the last one."""
        return await anext(self._responses, grpc.aio.EOF)

    def cancel(self) -> bool:
        """Cancel the call below."""
        return self._below is not None and bool(self._below.cancel())

    def cancelled(self) -> bool:
        """Tell whether the call below was cancelled."""
        return self._below is not None and bool(self._below.cancelled())

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata of the call below."""
        return grpc.aio.Metadata() if self._below is None else await self._below.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata of the call below."""
        return grpc.aio.Metadata() if self._below is None else await self._below.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """Return the status code of the call below."""
        return grpc.StatusCode.OK if self._below is None else await self._below.code()

    async def details(self) -> str:
        """Return the sentence of the call below."""
        return "" if self._below is None else await self._below.details()
