"""Streams of batches that outlive their connection; neptune_api.columns has the two public functions.

Batches are counted from 0 over all streams that one call makes. Those under way are kept until they are acknowledged,
and a new stream begins with the oldest of them: the server knows a batch by its id, so none counts twice.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterable
from contextlib import aclosing, closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api._grpc.policy import is_unauthenticated
from neptune_api.exceptions import (
    DeadlineExceededException,
    InternalException,
    NeptuneApiError,
    UnavailableException,
)
from neptune_api.options import PUSHBACK_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator

    from neptune_api.options import RetryPolicy
    from neptune_api.v1.series_service_pb2 import AppendColumnsRequest, AppendColumnsResponse

# How often within its timeout it is looked whether a stream has come to a stop.
_LOOKS: Final = 4


class Resumption:
    """Whether and when a new stream takes the place of a broken one."""

    def __init__(self, retry: RetryPolicy, patience: float) -> None:
        self._retry = retry
        self._patience = patience
        self._failures = 0
        self._failing_since = 0.0
        self._refused = False

    def progressed(self) -> None:
        """Take note of an acknowledgement."""
        self._failures = 0
        self._refused = False

    def pause(self, error: grpc.RpcError) -> float:
        """Return the seconds to wait before the next stream. Raises the error when there is no use in one."""
        if is_unauthenticated(error) and not self._refused:
            self._refused = True  # the channel has dropped the token, and the next stream gets another
            return 0.0
        if not self._passes(error):
            raise error
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        asked = error.retry_delay if isinstance(error, NeptuneApiError) else None
        wait = self._retry.backoff(self._failures) if asked is None else asked
        if now + wait > self._failing_since + self._patience:
            raise error
        return wait

    def _passes(self, error: grpc.RpcError) -> bool:
        code = getattr(error, "code", lambda: None)()
        # A stream that has come to a stop, or that has lived for as long as one may.
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return True
        trailing = getattr(error, "trailing_metadata", lambda: None)() or ()
        return code in self._retry.codes and (PUSHBACK_KEY, "-1") not in trailing


class Outbox:
    """Batches taken from the caller and not acknowledged yet; no locks here."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._batches: deque[AppendColumnsRequest] = deque()
        self._acknowledged = 0
        self._sent = 0
        self._quiet_since = 0.0
        self._caller_at_work = False
        self._ended = False
        self.failure: BaseException | None = None
        """What the caller's iterator raised; no more batches come from it."""
        self.stream = 0
        """Number of the stream that may send."""
        self.stalled = False
        """The stream was ended because nothing was acknowledged."""

    def begin(self) -> int:
        """Begin a stream; return its number. The one before sends no more."""
        self.stream += 1
        self.stalled = False
        self._sent = self._acknowledged
        return self.stream

    def next(self) -> AppendColumnsRequest | None:
        """Return the batch that the stream sends next, if there is one already."""
        position = self._sent - self._acknowledged
        if position == len(self._batches):
            return None
        if not position:
            self._quiet_since = time.monotonic()
        self._sent += 1
        return self._batches[position]

    def has_room(self) -> bool:
        """Tell whether another batch may be taken from the caller."""
        return not self._ended and len(self._batches) < self._size

    def take(self, batch: AppendColumnsRequest) -> None:
        """Keep a batch of the caller's."""
        self._batches.append(batch)

    def end(self, failure: BaseException | None = None) -> None:
        """Take note that there are no more batches."""
        self._ended = True
        self.failure = failure

    @property
    def all_sent(self) -> bool:
        """The stream has nothing more to send, now or later."""
        return self._ended and self._sent - self._acknowledged == len(self._batches)

    def done(self) -> bool:
        """Every batch is acknowledged."""
        return self._ended and not self._batches

    def acknowledge(self, response: AppendColumnsResponse) -> None:
        """Let go of the oldest batch. Raises InternalException when the answer is that of another one."""
        expected = self._batches[0].batch_id if self._sent > self._acknowledged else None
        if response.batch_id != expected:
            raise InternalException(
                f"The server acknowledged the batch {response.batch_id!r} out of turn: {expected!r} was sent before it."
            )
        self._batches.popleft()
        self._acknowledged += 1
        self._quiet_since = time.monotonic()

    def quiet_for(self, seconds: float) -> bool:
        """Tell whether something was sent and nothing acknowledged for so long."""
        if self._caller_at_work:
            return False
        return self._sent > self._acknowledged and time.monotonic() - self._quiet_since >= seconds

    @contextmanager
    def caller_at_work(self) -> Iterator[None]:
        """Count no time as quiet: while the caller is busy with one acknowledgement, nobody takes the next."""
        self._caller_at_work = True
        try:
            yield
        finally:
            self._quiet_since = time.monotonic()
            self._caller_at_work = False


def stopped(seconds: float) -> DeadlineExceededException:
    """Return the error of a stream that has come to a stop."""
    return DeadlineExceededException(f"The server acknowledged no batch within {seconds:g} s.")


def cut_short() -> UnavailableException:
    """Return the error of a stream that a server ended without an error."""
    return UnavailableException("The server ended the stream before it had acknowledged all batches.")


def is_unimplemented(error: grpc.RpcError) -> bool:
    """Tell whether the wire or the server has no such streams."""
    return getattr(error, "code", lambda: None)() is grpc.StatusCode.UNIMPLEMENTED


class _ThreadsOutbox(Outbox):
    """For threads: gRPC takes batches on a thread of its own, the caller takes acknowledgements."""

    def __init__(self, batches: Iterable[AppendColumnsRequest], size: int) -> None:
        super().__init__(size)
        self._source = iter(batches)
        self._taking = False
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._call: Any = None
        self._watching: threading.Thread | None = None

    def requests(self) -> Iterator[AppendColumnsRequest]:
        """Begin a stream and yield its requests, until there are no more or another one begins."""
        with self._changed:
            stream = self.begin()
            self._changed.notify_all()
        return iter(lambda: self._wait(stream), None)

    def _wait(self, stream: int) -> AppendColumnsRequest | None:
        while True:
            with self._changed:
                while True:
                    if stream != self.stream:
                        return None
                    batch = self.next()
                    if batch is not None or self.all_sent:
                        return batch
                    if self.has_room() and not self._taking:
                        break
                    self._changed.wait()
                self._taking = True  # the thread of a broken stream may still be at it: what it takes is not lost
            self._take()

    def _take(self) -> None:
        batch: AppendColumnsRequest | None = None
        failure: BaseException | None = None
        try:
            batch = next(self._source, None)
        except BaseException as error:  # noqa: BLE001 # whatever it is, the caller gets it
            failure = error
        with self._changed:
            self._taking = False
            if batch is None:
                self.end(failure)
            else:
                self.take(batch)
            self._changed.notify_all()

    def confirm(self, response: AppendColumnsResponse) -> None:
        """Let go of the oldest batch; see acknowledge()."""
        with self._changed:
            self.acknowledge(response)
            self._changed.notify_all()

    def watch(self, call: Any, seconds: float) -> None:
        """End a stream when it comes to a stop."""
        self._call = call
        if self._watching is None:
            self._watching = threading.Thread(
                target=self._watch, args=(seconds,), name="neptune-api-append", daemon=True
            )
            self._watching.start()

    def _watch(self, seconds: float) -> None:
        while not self._closed.wait(seconds / _LOOKS):
            with self._changed:
                call, self.stalled = self._call, self.quiet_for(seconds)
            if self.stalled:
                call.cancel()

    def close(self) -> None:
        """Send nothing more."""
        self._closed.set()
        with self._changed:
            self.stream += 1
            self._changed.notify_all()
        if self._watching is not None:
            self._watching.join()


def append_stream(
    stub: Any,
    batches: Iterable[AppendColumnsRequest],
    window: int,
    timeout: float,
    patience: float,
    retry: RetryPolicy,
    metadata: Any,
) -> Generator[AppendColumnsResponse, None, None]:
    """See neptune_api.columns.append_stream."""
    outbox = _ThreadsOutbox(batches, window)
    resumption = Resumption(retry, patience)
    streaming = True
    try:
        while not outbox.done():
            try:
                with closing((_stream if streaming else _one_by_one)(stub, outbox, timeout, metadata)) as responses:
                    for response in responses:
                        outbox.confirm(response)
                        resumption.progressed()
                        with outbox.caller_at_work():
                            yield response
                failure: grpc.RpcError = cut_short()
            except grpc.RpcError as error:
                failure = stopped(timeout) if outbox.stalled else error
            if outbox.done():
                break
            if streaming and is_unimplemented(failure):
                streaming = False
                continue
            time.sleep(resumption.pause(failure))
    finally:
        outbox.close()
    if outbox.failure is not None:
        raise outbox.failure


def _stream(
    stub: Any, outbox: _ThreadsOutbox, timeout: float, metadata: Any
) -> Generator[AppendColumnsResponse, None, None]:
    call = stub.AppendColumnsStream(outbox.requests(), metadata=metadata)
    outbox.watch(call, timeout)
    try:
        yield from call
    finally:
        call.cancel()


def _one_by_one(
    stub: Any, outbox: _ThreadsOutbox, timeout: float, metadata: Any
) -> Generator[AppendColumnsResponse, None, None]:
    for batch in outbox.requests():
        yield stub.AppendColumns(batch, timeout=timeout, metadata=metadata)


# The same for coroutines.


class _LoopOutbox(Outbox):
    """For an event loop: a task takes batches from the caller, so that the end of a stream does not interrupt it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._changed = asyncio.Event()
        self._watching: asyncio.TimerHandle | None = None

    async def fill(self, batches: AsyncIterable[AppendColumnsRequest] | Iterable[AppendColumnsRequest]) -> None:
        """Take batches from the caller as long as there are any."""
        try:
            if isinstance(batches, AsyncIterable):
                async for batch in batches:
                    await self._keep(batch)
            else:
                for batch in batches:
                    await self._keep(batch)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 # as above
            self.end(error)
        else:
            self.end()
        self._changed.set()

    async def _keep(self, batch: AppendColumnsRequest) -> None:
        self.take(batch)
        self._changed.set()
        while not self.has_room():
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def requests(self) -> AsyncIterator[AppendColumnsRequest]:
        """Begin a stream and yield its requests, until there are no more or another one begins."""
        stream = self.begin()
        self._changed.set()
        return self._requests(stream)

    async def _requests(self, stream: int) -> AsyncIterator[AppendColumnsRequest]:
        while stream == self.stream:
            batch = self.next()
            if batch is not None:
                yield batch
            elif self.all_sent:
                return
            else:
                await self._change()

    def confirm(self, response: AppendColumnsResponse) -> None:
        """Let go of the oldest batch; see acknowledge()."""
        self.acknowledge(response)
        self._changed.set()

    def watch(self, call: Any, seconds: float) -> None:
        """End a stream when it comes to a stop."""
        if self._watching is not None:
            self._watching.cancel()
        if self.quiet_for(seconds):
            self.stalled = True
            call.cancel()
        self._watching = asyncio.get_running_loop().call_later(seconds / _LOOKS, self.watch, call, seconds)

    def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()


async def aappend_stream(
    stub: Any,
    batches: AsyncIterable[AppendColumnsRequest] | Iterable[AppendColumnsRequest],
    window: int,
    timeout: float,
    patience: float,
    retry: RetryPolicy,
    metadata: Any,
) -> AsyncGenerator[AppendColumnsResponse, None]:
    """See neptune_api.columns.aappend_stream."""
    outbox = _LoopOutbox(window)
    resumption = Resumption(retry, patience)
    streaming = True
    filling = asyncio.get_running_loop().create_task(outbox.fill(batches))
    try:
        while not outbox.done():
            try:
                async with aclosing(
                    (_astream if streaming else _aone_by_one)(stub, outbox, timeout, metadata)
                ) as responses:
                    async for response in responses:
                        outbox.confirm(response)
                        resumption.progressed()
                        with outbox.caller_at_work():
                            yield response
                failure: grpc.RpcError = cut_short()
            except grpc.RpcError as error:
                failure = stopped(timeout) if outbox.stalled else error
            except asyncio.CancelledError:  # gRPC says so of calls that are cancelled here
                if not outbox.stalled:
                    raise
                failure = stopped(timeout)
            if outbox.done():
                break
            if streaming and is_unimplemented(failure):
                streaming = False
                continue
            await asyncio.sleep(resumption.pause(failure))
    finally:
        outbox.close()
        filling.cancel()
        await asyncio.wait({filling})
    if outbox.failure is not None:
        raise outbox.failure


async def _astream(
    stub: Any, outbox: _LoopOutbox, timeout: float, metadata: Any
) -> AsyncGenerator[AppendColumnsResponse, None]:
    call = stub.AppendColumnsStream(outbox.requests(), metadata=metadata)
    outbox.watch(call, timeout)
    try:
        async for response in call:
            yield response
    finally:
        call.cancel()


async def _aone_by_one(
    stub: Any, outbox: _LoopOutbox, timeout: float, metadata: Any
) -> AsyncGenerator[AppendColumnsResponse, None]:
    async for batch in outbox.requests():
        yield await stub.AppendColumns(batch, timeout=timeout, metadata=metadata)
