"""Canned replies: answers by script, which have to fit the contract and to be used."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from neptune_api.server.testing.selection import Selection, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from neptune_api.server.handlers import Handler


@dataclass(slots=True, eq=False)
class Reply:
    """An answer to the next calls of an RPC."""

    method: str
    """`Service.Method`."""
    messages: tuple[Message, ...] = field(repr=False)
    selection: Selection = field(repr=False)
    when: Message | Callable[[Any], bool] | None = field(repr=False)
    left: int | None
    """How many more calls it answers; None for all of them."""
    streamed: bool = False
    """The RPC takes a stream of requests."""
    hits: int = 0
    """How many calls it has answered."""

    def fits(self, path: str, metadata: Sequence[tuple[str, str | bytes]], requests: Sequence[Message]) -> bool:
        """Tell whether it answers a call."""
        if self.left == 0 or not self.selection.matches(path, metadata):
            return False
        if self.when is None:
            return True
        if isinstance(self.when, Message):
            return len(requests) == 1 and requests[0] == self.when
        return bool(self.when(list(requests) if self.streamed else requests[0]))


class Replies:
    """Answers to come. Calls for which there is none are answered by the server as ever."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._lock = threading.Lock()
        self._replies: list[Reply] = []

    def add(
        self,
        method: str,
        reply: Message | Iterable[Message],
        *,
        when: Message | Callable[[Any], bool] | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        times: int | None = 1,
    ) -> Reply:
        """Answer the next calls of an RPC with a message, or several for one that answers with a stream.

        `when` picks among the calls: a request they have to equal, or a function that takes the request (a list of
        them for a stream) and tells; `metadata` has to be among that of the call; `times` calls are answered, None for
        any number. A reply that is never used fails the test. Raises TypeError for messages that are not of the types
        of the RPC, ValueError for an unknown RPC.
        """
        handler = resolve(self._handlers, method)
        if times is not None and times < 1:
            raise ValueError("times must be 1 or more, or None")
        streamed = handler.response_streaming
        if isinstance(reply, Message) == streamed:
            raise TypeError(f"{handler.name} answers with {'a stream: pass a list' if streamed else 'one message'}")
        messages = (reply,) if isinstance(reply, Message) else tuple(reply)
        for message in messages:
            _check(handler, "answers", message, handler.response_type)
        if isinstance(when, Message):
            _check(handler, "takes", when, handler.request_type)
        elif when is not None and not callable(when):
            raise TypeError(f"when is a {type(when).__name__}; it must be a request or a function of one")
        canned = Reply(
            handler.name,
            messages,
            Selection.of(self._handlers, method, metadata),
            when,
            times,
            handler.request_streaming,
        )
        with self._lock:
            self._replies.append(canned)
        return canned

    def take(self, path: str, metadata: Sequence[tuple[str, str | bytes]], requests: Sequence[Message]) -> Reply | None:
        """Return the first reply that fits a call and is not used up, and count it."""
        with self._lock:
            for reply in self._replies:
                if reply.fits(path, metadata, requests):
                    reply.hits += 1
                    if reply.left is not None:
                        reply.left -= 1
                    return reply
        return None

    def expects(self, path: str) -> bool:
        """Tell whether a reply may be meant for an RPC: looking costs reading all of a stream of requests."""
        return any(reply.selection.path == path for reply in self._replies)

    def verify(self) -> None:
        """Raise AssertionError for replies that were used less often than they were meant to be."""
        with self._lock:
            unused = [reply for reply in self._replies if not reply.hits or reply.left]
        if unused:
            lines = [
                f"  {reply.method}: used {reply.hits} of {reply.hits + reply.left} times"
                if reply.left is not None
                else f"  {reply.method}: never used"
                for reply in unused
            ]
            raise AssertionError("\n".join(["canned replies are left over:", *lines]))

    def clear(self) -> None:
        """Forget all replies."""
        with self._lock:
            self._replies.clear()


def _check(handler: Handler, verb: str, message: object, expected: type[Message]) -> None:
    if not isinstance(message, expected):
        name = message.DESCRIPTOR.full_name if isinstance(message, Message) else type(message).__name__
        raise TypeError(f"{handler.name} {verb} {expected.DESCRIPTOR.full_name}, not {name}")
