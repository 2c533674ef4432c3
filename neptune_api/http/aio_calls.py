"""Calls over HTTP, for event loops: the objects that stand for one; mirrors calls.py."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from neptune_api._grpc.aio_calls import UnaryStreamCallBase, UnaryUnaryCallBase
from neptune_api.http.aio_attempts import Attempts
from neptune_api.http.attempts import CANCELLED_HERE, CHANNEL_CLOSED, cancelled
from neptune_api.http.calls import EndedCall
from neptune_api.http.exchange import metadata_of
from neptune_api.http.failures import CallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from neptune_api.http.aio_attempts import Transport
    from neptune_api.http.aio_connections import Connection
    from neptune_api.http.exchange import ResultStream
    from neptune_api.http.protocol import Response


class _Call(grpc.aio.Call):
    """A call under way: a task, and how it ended."""

    _channel = None  # older grpcio looks for it on every call that a task has in hand, when it closes a channel

    def __init__(self, attempts: Attempts | CallError, transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        self._calls = transport.calls
        self._attempts = attempts if isinstance(attempts, Attempts) else None
        self._ended: asyncio.Future[EndedCall] = loop.create_future()
        if isinstance(attempts, CallError):
            self._ended.set_result(EndedCall(error=attempts))
        else:
            self._calls.add(self)

    def _settle(self, ended: EndedCall) -> bool:
        self._calls.discard(self)
        if self._ended.done():
            return False
        self._ended.set_result(ended)
        return True

    async def wait_for_end(self) -> EndedCall:
        """Return how the call ended. A caller that gives up waiting does not cancel it."""
        if not self._ended.done():
            await asyncio.wait({self._ended})
        return self._ended.result()

    def stop(self, reason: str) -> bool:
        """End the call with CANCELLED; return False if it has ended."""
        raise NotImplementedError

    def cancel(self) -> bool:
        """Cancel the call; return False if it has ended."""
        return self.stop(CANCELLED_HERE)

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled from here."""
        return self._ended.done() and self._is_cancelled(self._ended.result())

    @staticmethod
    def _is_cancelled(ended: EndedCall) -> bool:
        error = ended.error
        return (
            error is not None
            and error.code() is grpc.StatusCode.CANCELLED
            and error.details() in {CANCELLED_HERE, CHANNEL_CLOSED}
        )

    def _raise(self, ended: EndedCall) -> None:
        if self._is_cancelled(ended):
            raise asyncio.CancelledError
        if ended.error is not None:
            raise ended.error

    def done(self) -> bool:
        """Tell whether the call has ended."""
        return self._ended.done()

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline; None without one."""
        return None if self._attempts is None else self._attempts.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call when it has ended."""
        self._ended.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return the headers of the answer that are not HTTP's own; waits for its end."""
        return grpc.aio.Metadata(*(await self.wait_for_end()).initial_metadata())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return what an error brought along; waits until the call has ended."""
        return grpc.aio.Metadata(*(await self.wait_for_end()).trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        """Return the status code; waits until the call has ended."""
        return (await self.wait_for_end()).code()

    async def details(self) -> str:
        """Return the sentence that came with the status; waits until the call has ended."""
        return (await self.wait_for_end()).details()

    async def debug_error_string(self) -> str:
        """Return more about an error; waits until the call has ended."""
        return (await self.wait_for_end()).debug_error_string()


class UnaryUnaryCall(_Call, UnaryUnaryCallBase):
    """A call with one request and one response."""

    def __init__(self, attempts: Attempts | CallError, transport: Transport) -> None:
        super().__init__(attempts, transport)
        self._reason = CANCELLED_HERE
        self._result: Any = None
        self._task: asyncio.Task[None] | None = None
        if self._attempts is not None:
            self._task = asyncio.get_running_loop().create_task(self._make(self._attempts))

    async def _make(self, attempts: Attempts) -> None:
        try:
            self._result, response = await attempts.finish()
        except CallError as error:
            self._settle(EndedCall(error=error))
        except asyncio.CancelledError:
            self._settle(EndedCall(error=cancelled(self._reason)))
        except Exception as error:  # noqa: BLE001 # whoever waits must not wait for ever
            self._settle(EndedCall(error=_fault(error)))
        else:
            self._settle(EndedCall.of(response, attempts.time_remaining()))

    def stop(self, reason: str) -> bool:
        """End the call with CANCELLED; return False if it has ended."""
        if self._task is None or not self._settle(EndedCall(error=cancelled(reason))):
            return False
        self._reason = reason
        return self._task.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the response; raise the call's error. A caller that is cancelled cancels the call."""
        if self._task is not None and not self._ended.done():
            yield from self._task.__await__()
        self._raise(self._ended.result())
        return self._result

    async def wait_for_connection(self) -> None:
        """Wait until the call has ended, because that it is connected does not show before; raises its error."""
        self._raise(await self.wait_for_end())


class UnaryStreamCall(_Call, UnaryStreamCallBase):
    """A call with one request and a stream of responses."""

    def __init__(self, attempts: Attempts | CallError, transport: Transport) -> None:
        super().__init__(attempts, transport)
        self._ready: deque[Any] = deque()
        self._connection: Connection | None = None
        self._response: Response | None = None
        self._results: ResultStream | None = None
        self._iterator: AsyncIterator[Any] | None = None
        self._reading = asyncio.Lock()
        self._opening: asyncio.Task[None] | None = None
        if self._attempts is not None:
            self._opening = asyncio.get_running_loop().create_task(self._open(self._attempts))

    async def _open(self, attempts: Attempts) -> None:
        try:
            self._connection, self._response, self._results = await attempts.head()
        except CallError as error:
            self._settle(EndedCall(error=error))
        except asyncio.CancelledError:
            self._settle(EndedCall(error=cancelled(CANCELLED_HERE)))
        except Exception as error:  # noqa: BLE001 # whoever waits must not wait for ever
            self._settle(EndedCall(error=_fault(error)))

    def stop(self, reason: str) -> bool:
        """End the call with CANCELLED; return False if it has ended."""
        if not self._settle(EndedCall(error=cancelled(reason))):
            return False
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.abort()
        return True

    async def _opened(self) -> None:
        if self._opening is not None and not self._opening.done():
            either: set[asyncio.Future[Any]] = {self._opening, self._ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    async def _pull(self, attempts: Attempts) -> None:
        """Receive at least one more response, or the end."""
        connection, response, results = self._connection, self._response, self._results
        if connection is None or response is None or results is None:
            return
        try:
            while True:
                self._ready.extend(results.messages())
                if response.done:
                    break
                if self._ready:
                    return
                await attempts.receive(connection, response)
        except CallError as error:
            connection.abort()
            self._settle(EndedCall(metadata_of(response), error))
        except asyncio.CancelledError:
            self.cancel()
            raise
        except Exception as error:  # noqa: BLE001 # as above
            connection.abort()
            self._settle(EndedCall(metadata_of(response), _fault(error)))
        else:
            attempts.leave(connection)
            attempts.succeeded()
            self._settle(EndedCall.of(response, attempts.time_remaining()))

    async def _next(self) -> Any:
        """Return the next response, or EOF; raise the call's error."""
        async with self._reading:
            await self._opened()
            while not self.cancelled():
                if self._ready:
                    return self._ready.popleft()
                if self._ended.done() or self._attempts is None:
                    break
                await self._pull(self._attempts)
        self._raise(self._ended.result())
        return grpc.aio.EOF

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the responses; raises the call's error."""
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def _responses(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not grpc.aio.EOF:
            yield response

    async def read(self) -> Any:
        """Return the next response, or grpc.aio.EOF after the last one; raise the call's error."""
        try:
            return await self._next()
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return the headers of the answer that are not HTTP's own; waits for them."""
        await self._opened()
        if self._response is None:
            return await super().initial_metadata()
        return grpc.aio.Metadata(*metadata_of(self._response))

    async def wait_for_connection(self) -> None:
        """Wait until the answer has begun; raises the call's error."""
        await self._opened()
        if self._ended.done():
            self._raise(self._ended.result())


def _fault(error: Exception) -> CallError:
    failed = CallError(grpc.StatusCode.INTERNAL, f"The call failed in the client: {error!r}.", lasting=True)
    failed.__cause__ = error
    return failed
