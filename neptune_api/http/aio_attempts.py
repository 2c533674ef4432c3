"""How a call over HTTP is made, by coroutines; mirrors attempts.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from neptune_api.http.attempts import CHANNEL_CLOSED, BaseAttempts
from neptune_api.http.failures import CallError
from neptune_api.http.protocol import FramingError, Response, TooLargeError
from neptune_api.http.retries import Budget

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neptune_api._grpc.policy import Pair
    from neptune_api.http.aio_connections import Connection, Pool
    from neptune_api.http.exchange import Exchange, ResultStream
    from neptune_api.options import ChannelOptions


class Stoppable(Protocol):
    """A call under way."""

    def stop(self, reason: str) -> bool:
        """End the call with CANCELLED; return False if it has ended."""

    async def wait_for_end(self) -> object:
        """Return when the call has ended."""


class Transport:
    """What the calls of a channel share."""

    def __init__(self, pool: Pool, options: ChannelOptions) -> None:
        self.pool = pool
        self.retry = options.retry
        self.retry_bytes = options.retry_buffer_bytes
        self.budget = Budget(options.retry)
        self.calls: set[Stoppable] = set()
        self.closed = False

    async def close(self, grace: float | None) -> None:
        """Cancel what is under way, after `grace` seconds, and close the connections."""
        self.closed = True
        if grace and self.calls:
            await asyncio.wait([asyncio.ensure_future(call.wait_for_end()) for call in self.calls], timeout=grace)
        for call in tuple(self.calls):
            call.stop(CHANNEL_CLOSED)
        self.pool.close()


class Attempts(BaseAttempts):
    """The attempts of one call, made one after the other."""

    __slots__ = ("_transport",)

    def __init__(
        self,
        transport: Transport,
        exchange: Exchange,
        request: Any,
        timeout: float | None,
        metadata: Iterable[Pair] | None,
        *,
        wait_for_ready: bool | None,
    ) -> None:
        super().__init__(transport, exchange, request, timeout, metadata, wait_for_ready=wait_for_ready)
        self._transport = transport

    async def finish(self) -> tuple[Any, Response]:
        """Make the call; return what its answer holds, and the answer. Raises CallError."""
        while True:
            try:
                connection, response = await self._answered(whole=True)
                self.leave(connection)
                result = self._exchange.result(response)
            except CallError as error:
                await self._pause(error)
            else:
                self._transport.budget.succeeded()
                return result, response

    async def _pause(self, error: CallError) -> None:
        """Wait before another attempt; raise the error when there is none."""
        wait = self._retries.pause(error)
        if wait is None:
            raise error
        await asyncio.sleep(wait)

    async def _answered(self, *, whole: bool) -> tuple[Connection, Response]:
        """Send the request; return the answer, or, if not `whole`, one of which the head has come. Raises CallError."""
        fresh = False
        while True:
            connection = await self._transport.pool.take(self._end, fresh=fresh)
            response = self._exchange.response()
            try:
                connection.send(self._head(), self._encoded.body, response, self._end, "waited for the answer")
                while not (response.done if whole or response.status >= 300 else response.status):
                    await self.receive(connection, response, whole=whole)
            except CallError as error:
                connection.abort()
                if self._was_dead(connection, response):
                    self._transport.pool.purge()
                if not self._was_stale(connection, response, error):
                    raise
                fresh = True
            except BaseException:
                connection.abort()
                raise
            else:
                return connection, response

    async def head(self) -> tuple[Connection, Response, ResultStream]:
        """Return the answer whose head has come, retrying until there is one that is no error. Raises CallError."""
        while True:
            try:
                connection, response = await self._answered(whole=False)
                if response.status >= 300:
                    self.leave(connection)
                    raise self._exchange.failure(response)
                results = self._exchange.stream(response)
            except CallError as error:
                await self._pause(error)
            else:
                return connection, response, results

    async def receive(self, connection: Connection, response: Response, *, whole: bool = False) -> None:
        """Receive a piece of the answer, or all of it. Raises CallError."""
        try:
            await connection.receive(response, whole=whole)
        except (FramingError, TooLargeError) as error:
            connection.abort()
            raise self._exchange.broken(error) from error
        except BaseException:
            connection.abort()
            raise

    def leave(self, connection: Connection) -> None:
        """Give a connection back whose answer has come; any other is ended."""
        if connection.finish():
            self._transport.pool.keep(connection)
        else:
            connection.abort()

    def succeeded(self) -> None:
        """Take note that the call ended well."""
        self._transport.budget.succeeded()
