"""How a call over HTTP is made, by threads: attempt after attempt. aio_attempts.py mirrors this."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api._grpc import forks
from neptune_api._threads import DaemonPool
from neptune_api.http.failures import CallError, deadline_exceeded
from neptune_api.http.protocol import FramingError, Response, TooLargeError
from neptune_api.http.retries import Budget, Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neptune_api._grpc.policy import Pair
    from neptune_api.http.aio_attempts import Transport as AioTransport
    from neptune_api.http.aio_connections import Connection as AioConnection
    from neptune_api.http.connections import Connection, Pool
    from neptune_api.http.exchange import Encoded, Exchange, ResultStream
    from neptune_api.options import ChannelOptions

CANCELLED_HERE: Final = "Locally cancelled by application!"
CHANNEL_CLOSED: Final = "Channel closed!"


def cancelled(details: str) -> CallError:
    """Return the error of a call that was cancelled from here."""
    return CallError(grpc.StatusCode.CANCELLED, details, lasting=True)


class Ticket:
    """What another thread needs to stop a call."""

    __slots__ = ("_connection", "_lock", "_reason", "_wake")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._reason: str | None = None
        self._wake: threading.Event | None = None

    def cancel(self, reason: str = CANCELLED_HERE) -> None:
        """Stop the call; the thread that makes it raises CANCELLED."""
        with self._lock:  # a connection that was given back may be another call's by now
            self._reason = reason
            if self._connection is not None:
                self._connection.abort()
            if self._wake is not None:
                self._wake.set()

    def check(self) -> None:
        """Raise CallError if the call was cancelled."""
        if self._reason is not None:
            raise cancelled(self._reason)

    def hold(self, connection: Connection) -> None:
        """Take note of the connection in use. Raises CallError if the call was cancelled."""
        self._connection = connection
        self.check()

    def release(self) -> None:
        """Forget the connection."""
        with self._lock:
            self._connection = None

    def sleep(self, seconds: float) -> None:
        """Wait before another attempt. Raises CallError when the call is cancelled."""
        self._wake = threading.Event()
        self.check()
        self._wake.wait(seconds)
        self.check()

    def start_over(self) -> None:
        """Close the connection in the child of a fork, where it is a copy; what comes over it is for the parent."""
        self._lock = threading.Lock()
        self._reason = CANCELLED_HERE
        self.abandon()

    def abandon(self) -> None:
        """Let go of a call that nobody will ask for again."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Transport:
    """What the calls of a channel share."""

    def __init__(self, pool: Pool, options: ChannelOptions, reset: Callable[[], None]) -> None:
        self.pool = pool
        self._reset = reset
        self.retry = options.retry
        self.retry_bytes = options.retry_buffer_bytes
        self.budget = Budget(options.retry)
        self.executor = Executor()
        self.tickets: set[Ticket] = set()
        self.closed = False
        forks.survive(self)

    def enter(self, ticket: Ticket) -> None:
        """Begin a call. Raises ValueError on a closed channel."""
        self.tickets.add(ticket)
        if self.closed:
            self.tickets.discard(ticket)
            raise ValueError("Cannot invoke RPC on closed channel!")

    def close(self) -> None:
        """Cancel what is under way and end the threads."""
        self.closed = True
        self.pool.close()
        for ticket in tuple(self.tickets):
            ticket.cancel(CHANNEL_CLOSED)
        self.executor.close()

    def start_over(self) -> None:
        """Forget the connections, calls and threads of the parent; for the child of a fork."""
        self.pool.forget()
        tickets, self.tickets = self.tickets, set()
        for ticket in tickets:
            ticket.start_over()
        self.executor.start_over()
        self._reset()


class Executor:
    """Threads for calls that are waited for elsewhere, made when they are needed."""

    def __init__(self, threads: int = 64) -> None:
        self._threads = threads
        self.start_over()

    def start_over(self) -> None:
        """Begin without threads; also in the child of a fork."""
        self._lock = threading.Lock()
        self._pool: DaemonPool | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Run a function on one of the threads."""
        with self._lock:
            if self._pool is None:
                self._pool = DaemonPool(self._threads, "neptune-api-http")
            pool = self._pool
        pool.submit(work)

    def close(self) -> None:
        """End the threads once their work is done."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


class BaseAttempts:
    """What the attempts of one call have in common, whoever makes them."""

    __slots__ = ("_encoded", "_end", "_exchange", "_retries")

    def __init__(
        self,
        transport: Transport | AioTransport,
        exchange: Exchange,
        request: Any,
        timeout: float | None,
        metadata: Iterable[Pair] | None,
        *,
        wait_for_ready: bool | None,
    ) -> None:
        self._exchange = exchange
        self._end = None if timeout is None else time.monotonic() + timeout
        self._encoded: Encoded = exchange.encode(request, metadata)
        repeatable = exchange.repeatable and len(self._encoded.body) <= transport.retry_bytes
        self._retries = Retries(
            transport.retry if repeatable else None, transport.budget, self._end, patient=bool(wait_for_ready)
        )

    def time_remaining(self) -> float | None:
        """Return the seconds left until the deadline; None without one."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def _head(self) -> bytes:
        """Return the head of the request that is sent next. Raises CallError when there is no time left."""
        left = self.time_remaining()
        if left == 0.0:
            raise deadline_exceeded("waited for a connection")
        return self._encoded.head(left, self._retries.attempt)

    def _was_stale(self, connection: Connection | AioConnection, response: Response, error: CallError) -> bool:
        """Tell whether the server had closed an idle connection, so that the call may go over another one at once."""
        return (
            self._was_dead(connection, response)
            and error.code() is grpc.StatusCode.UNAVAILABLE
            and (self._exchange.repeatable or not error.sent)
        )

    def _was_dead(self, connection: Connection | AioConnection, response: Response) -> bool:
        """Tell whether nothing came over a connection that had idled: the others may have been forgotten as well."""
        return connection.idled and not response.started


class Attempts(BaseAttempts):
    """The attempts of one call, made one after the other by the thread that asks for its outcome."""

    __slots__ = ("_transport", "ticket")

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
        self.ticket = Ticket()
        transport.enter(self.ticket)

    def finish(self) -> tuple[Any, Response]:
        """Make the call; return what its answer holds, and the answer. Raises CallError."""
        transport = self._transport
        try:
            while True:
                try:
                    response = self._whole()
                    result = self._exchange.result(response)
                except CallError as error:
                    self._pause(error)
                else:
                    transport.budget.succeeded()
                    return result, response
        finally:
            transport.tickets.discard(self.ticket)

    def _pause(self, error: CallError) -> None:
        """Wait before another attempt; raise the error when there is none."""
        self.ticket.check()
        wait = self._retries.pause(error)
        if wait is None:
            raise error
        self.ticket.sleep(wait)

    def _whole(self) -> Response:
        """Return the whole answer of one attempt."""
        begun = self.begin()
        while True:
            connection, response = begun
            try:
                while not response.done:
                    self._receive(connection, response)
            except CallError as error:
                if not self._was_stale(connection, response, error):
                    raise
                begun = self.begin(fresh=True)
            else:
                self._return(connection, response)
                return response

    def begin(self, *, fresh: bool = False) -> tuple[Connection, Response]:
        """Send the request over some connection, or over a `fresh` one. Raises CallError."""
        while True:
            connection = self._transport.pool.take(self._end, self.ticket, fresh=fresh)
            response = self._exchange.response()
            try:
                self.ticket.hold(connection)
                self._send(connection, response)
            except CallError as error:
                self._drop(connection)
                if not self._was_stale(connection, response, error):
                    raise
                fresh = True
            except BaseException:
                self._drop(connection)
                raise
            else:
                return connection, response

    def _send(self, connection: Connection, response: Response) -> None:
        try:
            connection.send(self._head(), self._encoded.body, self._end)
        except CallError as error:
            if error.sent or error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            # A server that refuses a request before it has read it closes the connection behind its answer.
            try:
                while not response.done:
                    self._receive(connection, response)
            except CallError as further:
                raise (further if further.lasting else error) from None

    def _receive(self, connection: Connection, response: Response) -> None:
        """Receive a piece of the answer. Raises CallError."""
        try:
            connection.receive(response, self._end)
        except (FramingError, TooLargeError) as error:
            self._drop(connection)
            raise self._exchange.broken(error) from error
        except BaseException:
            self._drop(connection)
            if self._was_dead(connection, response):
                self._transport.pool.purge()
            raise

    def _drop(self, connection: Connection) -> None:
        self.ticket.release()
        connection.close()
        self.ticket.check()

    def _return(self, connection: Connection, response: Response) -> None:
        self.ticket.release()
        if response.reusable:
            self._transport.pool.keep(connection)
        else:
            connection.close()
        self.ticket.check()

    # Streams: the same in pieces.

    def head(self, begun: tuple[Connection, Response] | CallError | None) -> tuple[Connection, Response, ResultStream]:
        """Return the answer whose head has come, retrying until there is one that is no error. Raises CallError.

        `begun` is the outcome of a begin() before.
        """
        while True:
            try:
                if isinstance(begun, CallError):
                    raise begun
                connection, response = self.begin() if begun is None else begun
                try:
                    while not (response.done if response.status >= 300 else response.status):
                        self._receive(connection, response)
                except CallError as error:
                    if not self._was_stale(connection, response, error):
                        raise
                    begun = self.begin(fresh=True)
                    continue
                if response.status >= 300:
                    self._return(connection, response)
                    raise self._exchange.failure(response)
                results = self._exchange.stream(response)
            except CallError as error:
                begun = None
                self._pause(error)
            else:
                return connection, response, results

    def more(self, connection: Connection, response: Response) -> None:
        """Receive the next piece of the body of a stream. Raises CallError."""
        self._receive(connection, response)

    def abandon_later(self) -> Callable[[], None]:
        """Return how to end a call that was forgotten; it does not hold the call."""
        ticket, tickets = self.ticket, self._transport.tickets

        def abandon() -> None:
            tickets.discard(ticket)
            ticket.abandon()

        return abandon

    def leave(self, connection: Connection | None, response: Response | None, *, well: bool) -> None:
        """End the call; a stream that was read to its end leaves its connection to the next call."""
        self._transport.tickets.discard(self.ticket)
        self.ticket.release()
        if connection is None:
            return
        if well and response is not None and response.done and response.reusable:
            self._transport.pool.keep(connection)
        else:
            connection.close()
        if well:
            self._transport.budget.succeeded()
