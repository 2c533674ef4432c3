"""Calls under way, for event loops: wrappers that translate errors and may start over once; mirrors sync_calls.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from neptune_api._grpc.policy import is_unauthenticated
from neptune_api.credentials import redact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator

    Translate: TypeAlias = Callable[[grpc.RpcError], Exception]
    Start: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]
    UnaryUnaryCallBase: TypeAlias = grpc.aio.UnaryUnaryCall[Any, Any]
    UnaryStreamCallBase: TypeAlias = grpc.aio.UnaryStreamCall[Any, Any]
    StreamUnaryCallBase: TypeAlias = grpc.aio.StreamUnaryCall[Any, Any]
    StreamStreamCallBase: TypeAlias = grpc.aio.StreamStreamCall[Any, Any]
else:  # not generic at run time in every version
    UnaryUnaryCallBase = grpc.aio.UnaryUnaryCall
    UnaryStreamCallBase = grpc.aio.UnaryStreamCall
    StreamUnaryCallBase = grpc.aio.StreamUnaryCall
    StreamStreamCallBase = grpc.aio.StreamStreamCall

_CANCELLED_HERE = "Locally cancelled by application!"


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that has nothing to wait for; None from one that has."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    return None


class _Call(grpc.aio.Call):
    """A call of gRPC under way, or a task that is going to start one because a token has to be fetched first.

    `restart`, called once, after the call ended with UNAUTHENTICATED and before any response was seen, makes it again
    with another token; its coroutine returns None when there is none.
    """

    _channel = None  # older grpcio looks for it on every call that a task has in hand, when it closes a channel

    def __init__(
        self,
        call: Any,
        translate: Translate | None,
        restart: Start | None = None,
        start: Start | None = None,
    ) -> None:
        self._call: Any = None
        self._translate = translate
        self._restart = restart
        self._starter: asyncio.Task[Any] | None = None
        if call is not None:
            self._attach(call)
        if start is not None:
            self._begin(start)

    def _attach(self, call: Any) -> None:
        self._call = call

    def _begin(self, start: Start) -> None:
        async def begin() -> Any:
            call = await start()
            if call is not None:
                self._attach(call)
            return self._call

        self._starter = asyncio.get_running_loop().create_task(begin())
        # An exception that was read is not reported by asyncio when nobody awaits the call.
        self._starter.add_done_callback(lambda starter: starter.cancelled() or starter.exception())

    def _start_over(self, code: grpc.StatusCode | None) -> bool:
        """Make a call again that was refused for its token; tell whether that is being done."""
        restart = self._restart
        if restart is None or code is not grpc.StatusCode.UNAUTHENTICATED:
            return False
        self._restart = None
        self._begin(restart)
        return True

    async def _started(self) -> Any:
        """Return the call of gRPC. A caller that gives up waiting does not cancel the call."""
        starter = self._starter
        if starter is None:
            return self._call
        await asyncio.wait({starter})
        return starter.result()

    async def _again(self, failed: Any, error: grpc.RpcError) -> Any:
        """Return another call of gRPC in place of the one that failed; raise its error when there is none."""
        self._start_over(grpc.StatusCode.UNAUTHENTICATED if is_unauthenticated(error) else None)
        call = await self._started()
        if call is failed:
            raise self._failed(error)
        return call

    def _failed(self, error: grpc.RpcError) -> Exception:
        return error if self._translate is None else self._translate(error)

    def _decoded(self, response: Any) -> Any:
        """Return a response; raise INTERNAL for None, which is what grpc.aio makes of one that cannot be decoded."""
        if response is None:
            raise self._undecodable()
        return response

    def _undecodable(self) -> Exception:
        nothing = grpc.aio.Metadata()
        details = "The response of the server cannot be decoded: it is cut short, or of another type."
        return self._failed(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details))

    def _truth(self, error: grpc.RpcError) -> grpc.RpcError:
        """Return the error that the server sent, for the one that gRPC raised."""
        return error

    def _ended_well(self, error: grpc.RpcError) -> bool:  # noqa: ARG002 # only streams of requests doubt what is raised
        """Tell whether the server sent no error at all."""
        return False

    def cancel(self) -> bool:
        """Cancel the call; return False if it has ended."""
        self._restart = None
        if self._starter is not None and not self._starter.done():
            return self._starter.cancel()
        return self._call is not None and bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled from here."""
        if self._starter is not None and self._starter.cancelled():
            return True
        return self._call is not None and bool(self._call.cancelled())

    def done(self) -> bool:
        """Tell whether the call has ended."""
        if self._starter is not None and not self._starter.done():
            return False
        return self._call is None or bool(self._call.done())

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline; None without one, or before the call has a token."""
        left: float | None = None if self._call is None else self._call.time_remaining()
        return left

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call when it has ended."""
        if self._starter is None and self._restart is None:
            self._call.add_done_callback(lambda _: callback(self))
        else:
            task = asyncio.get_running_loop().create_task(self._ended())
            task.add_done_callback(lambda _: callback(self))

    async def _ended(self) -> None:
        """Wait until the call has ended for good: one that may be made again is made again."""
        while True:
            starter = self._starter
            if starter is not None:
                await asyncio.wait({starter})
                if starter.cancelled() or starter.exception() is not None:
                    return
            if not self._start_over(await self._call.code()):
                return

    async def _finished(self, name: str) -> Any:
        """Return what a coroutine method of the call says; of a call that never started, its error does."""
        try:
            call = await self._started()
        except grpc.RpcError as error:
            return getattr(error, name)()
        return await getattr(call, name)()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata sent before the first response; waits for it."""
        metadata: grpc.aio.Metadata = await self._finished("initial_metadata")
        return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata sent after the last response; waits until the call has ended."""
        metadata: grpc.aio.Metadata = await self._finished("trailing_metadata")
        return metadata

    async def code(self) -> grpc.StatusCode:
        """Return the status code; waits until the call has ended."""
        if self.cancelled():
            return grpc.StatusCode.CANCELLED
        code: grpc.StatusCode = await self._finished("code")
        return code

    async def details(self) -> str:
        """Return the sentence that came with the status; waits until the call has ended."""
        if self.cancelled():
            return _CANCELLED_HERE
        return redact(await self._finished("details") or "")

    async def debug_error_string(self) -> str | None:
        """Return what gRPC says about an error; waits until the call has ended."""
        return redact(await self._finished("debug_error_string") or "") or None

    async def wait_for_connection(self) -> None:
        """Wait until the server is reached; raises the call's error."""
        call = await self._started()
        try:
            await call.wait_for_connection()
        except grpc.RpcError as error:
            failure = error
        else:
            return
        raise self._failed(failure)


class _UnaryResponse(_Call):
    def __await__(self) -> Generator[Any, None, Any]:
        """Return the response; raise the call's error."""
        call = self._call
        if call is None:
            # The task itself: cancelling the caller cancels the call, as gRPC does for a call under way.
            call = yield from self._starter  # type: ignore[misc] # a call is there or about to be started
        while True:
            try:
                response = yield from call.__await__()
            except grpc.RpcError as error:
                failure = self._truth(error)
            else:
                return self._decoded(response)
            try:
                call = yield from self._again(call, failure).__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise


class _StreamResponse(_Call):
    _iterator: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the responses; raises the call's error."""
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def _responses(self) -> AsyncIterator[Any]:
        call = await self._started()
        response = None
        while True:
            try:
                async for response in call:
                    self._restart = None
                    if response is None:
                        break
                    yield response
                else:
                    return
            except grpc.RpcError as error:
                failure = self._truth(error)
            else:
                raise self._undecodable()
            if self._ended_well(failure):
                return
            call = await self._again(call, failure)

    async def read(self) -> Any:
        """Return the next response, or grpc.aio.EOF after the last one; raise the call's error."""
        call = await self._started()
        while True:
            try:
                response = await call.read()
            except grpc.RpcError as error:
                failure = self._truth(error)
            else:
                self._restart = None
                return self._decoded(response)
            if self._ended_well(failure):
                return grpc.aio.EOF
            call = await self._again(call, failure)


def _is_made_up(error: grpc.RpcError) -> bool:
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.INTERNAL
        and error.details() == "Internal error from Core"
    )


class _StreamRequest(_Call):
    _status: grpc.aio.AioRpcError | None = None
    """How the server ended the call."""
    written: Callable[[Any], None] = staticmethod(lambda _: None)
    """Is told of each request that is written one by one."""

    # When a server ends a call while a request is being written, grpc.aio puts INTERNAL, "Internal error from Core", in
    # the place of the server's status or the other way round (https://github.com/grpc/grpc/issues/36066).

    def _attach(self, call: Any) -> None:
        super()._attach(call)
        call.add_done_callback(self._note_status)

    def _note_status(self, call: Any) -> None:
        names = ("code", "initial_metadata", "trailing_metadata", "details", "debug_error_string")
        parts = [_at_once(getattr(call, name)()) for name in names]
        if parts[0] is not None:
            status = grpc.aio.AioRpcError(*parts)
            if not _is_made_up(status):
                self._status = status

    def _truth(self, error: grpc.RpcError) -> grpc.RpcError:
        if self._status is None or self._status.code() is grpc.StatusCode.OK or not _is_made_up(error):
            return error
        return self._status

    def _ended_well(self, error: grpc.RpcError) -> bool:
        return self._status is not None and self._status.code() is grpc.StatusCode.OK and _is_made_up(error)

    async def _finished(self, name: str) -> Any:
        said = await super()._finished(name)
        return said if self._status is None else getattr(self._status, name)()

    @property
    def _done_writing_flag(self) -> bool:
        # Interceptors of gRPC ask the call below them.
        return bool(getattr(self._call, "_done_writing_flag", False))

    async def write(self, request: Any) -> None:
        """Send a request; raises the call's error, or asyncio.InvalidStateError when the call has ended."""
        call = await self._started()
        self.written(request)
        try:
            await call.write(request)
        except grpc.RpcError as error:
            failure = self._truth(error)
        else:
            return
        if self._ended_well(failure):
            raise asyncio.InvalidStateError("the server has ended the call")
        raise self._failed(failure)

    async def done_writing(self) -> None:
        """Tell the server that there are no more requests."""
        call = await self._started()
        try:
            await call.done_writing()
        except grpc.RpcError as error:
            failure = self._truth(error)
        else:
            return
        if not self._ended_well(failure):
            raise self._failed(failure)


class UnaryUnaryCall(_UnaryResponse, UnaryUnaryCallBase):
    """A call with one request and one response."""


class UnaryStreamCall(_StreamResponse, UnaryStreamCallBase):
    """A call with one request and a stream of responses."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, StreamUnaryCallBase):
    """A call with a stream of requests and one response."""


class StreamStreamCall(_StreamRequest, _StreamResponse, StreamStreamCallBase):
    """A call with streams both ways."""
