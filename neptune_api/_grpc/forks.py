"""What a fork does to channels: when a child may use gRPC, and what starts over there.

gRPC's own handlers make the child of a fork a process that can open channels, provided that no thread is inside gRPC
at the moment of the fork. If one is, they do nothing, and the child hangs or crashes once it uses gRPC. So calls are
held back while the process forks, those under way get a moment to end, and a child that was forked all the same in the
midst of gRPC is told so at its first call. The HTTP wire needs none of this: its connections are its own.

Threads of gRPC's own start again in any child, where they end what was under way. On the way they look at what threads
of the parent waited with inside gRPC. That lies on the stacks of those threads, and the C library gives them to new
threads that ask for no more: so new ones ask for more while the process forks.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import grpc

from neptune_api.exceptions import FailedPreconditionException

if TYPE_CHECKING:
    from types import FrameType

    from neptune_api.options import ChannelArgument

SUPPORT_VARIABLE: Final = "GRPC_ENABLE_FORK_SUPPORT"

PATIENCE: Final = 1.0
"""Most seconds by which a fork is put off for calls with one response."""

_STREAM_PATIENCE: Final = 0.3
"""Most seconds by which it is put off for threads of streams and futures, which may be about to end or live long."""

_INSTEAD: Final = (
    "start processes by multiprocessing's 'spawn' or 'forkserver', or use the HTTP wire (an https:// target, or "
    "transport='http'), which survives forks."
)

_DISABLED: Final = (
    f"gRPC does not work in this process: its parent had used gRPC before the fork, with {SUPPORT_VARIABLE}=0. Unset "
    f"the variable before the parent starts, {_INSTEAD}"
)

_BUSY: Final = (
    "gRPC does not work in this process: threads of its parent were inside gRPC at the fork, for a call or stream "
    f"under way, an aio channel or a server. Fork when none of them is, {_INSTEAD}"
)


@dataclass
class Process:
    """What this process knows of gRPC and forks."""

    side: int = 0
    """How many forks lie between the first process and this one; what was made at another number is a parent's."""
    started: bool = False
    """gRPC runs or ran, here or in a process that this one was forked from."""
    outlook: str | None = None
    """Why a child that is forked now cannot use gRPC."""
    refusal: str | None = None
    """Why this process cannot use gRPC."""
    collects: bool = False
    """Garbage was collected before the fork that is under way."""
    stack_size: int | None = None
    """Of new threads, before it was changed for the fork that is under way; None if it was not."""


here: Final = Process()


class Survivor(Protocol):
    """What is of use on both sides of a fork."""

    def start_over(self) -> None:
        """Let go of what belongs to the parent; called in the child, where no other thread exists."""


_SURVIVORS: Final[weakref.WeakSet[Survivor]] = weakref.WeakSet()


def survive(survivor: Survivor) -> None:
    """Have an object start over in children forked from now on, for as long as it lives."""
    _SURVIVORS.add(survivor)


_LEFT_ALONE: Final[list[object]] = []
# It holds itself, so as not to be freed when the program ends either.
_LEFT_ALONE.append(_LEFT_ALONE)


def leave_alone(inherited: object) -> None:
    """Keep what belongs to the parent: were it ended here, it would speak over the parent's connections, or hang."""
    _LEFT_ALONE.append(inherited)


def start() -> None:
    """Take note that gRPC is used in this process. Raises FailedPreconditionException where it cannot be."""
    if here.refusal is not None:
        raise FailedPreconditionException(here.refusal)
    here.started = True


def refused() -> bool:
    """Tell whether this process cannot use gRPC."""
    return here.refusal is not None


def arguments() -> tuple[ChannelArgument, ...]:
    """Return what channels of this process need: a child's connections are not those of its parent."""
    return (("grpc.use_local_subchannel_pool", 1),) if here.side else ()


class Gate:
    """What calls go through to enter gRPC. It is closed while the process forks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Open the gate, with nobody inside."""
        self._closed = False
        self._opened = threading.Event()
        self._inside: set[object] = set()

    def enter(self) -> object:
        """Go in, when the gate is open; return what to leave with."""
        ticket = object()
        inside = self._inside
        inside.add(ticket)
        if self._closed:
            inside.discard(ticket)
            # Not for ever: what another handler of forks does may be a call of the very thread that is forking.
            self._opened.wait(2 * PATIENCE)
            inside.add(ticket)
        return ticket

    def leave(self, ticket: object) -> None:
        """Go out."""
        self._inside.discard(ticket)

    def close(self) -> None:
        """Let nobody in."""
        self._opened.clear()
        self._closed = True

    def open(self) -> None:
        """Let in who waits."""
        self._closed = False
        self._opened.set()

    @property
    def empty(self) -> bool:
        """Nobody is inside."""
        return not self._inside


gate: Final = Gate()


# Finding threads inside gRPC: those of other libraries, of streams, of futures and of servers too. Only a fork asks.

_CALLS: Final = os.path.join(os.path.dirname(grpc.__file__), "_channel.py")  # noqa: PTH118, PTH120 # as in code objects
_SERVES: Final = os.path.join(os.path.dirname(grpc.__file__), "_server.py")  # noqa: PTH118, PTH120 # as above
_MANAGED: Final = frozenset({"channel_spin", "consume_request_iterator", "_poll_connectivity"})
"""Functions of threads that gRPC stops by itself before a fork if its fork support is asked for."""
_AIO_POLLER: Final = "(_poll_wrapper)"
"""End of the name of the thread that serves all aio channels; its stack shows nothing of gRPC."""


def _asked_for() -> bool:
    return os.environ.get(SUPPORT_VARIABLE, "").lower() in {"1", "t", "true", "y", "yes"}


def _switched_off() -> bool:
    return os.environ.get(SUPPORT_VARIABLE, "").lower() in {"0", "f", "false", "n", "no"}


def _has(frame: FrameType | None, file: str) -> bool:
    managed = _asked_for()
    while frame is not None:
        code = frame.f_code
        if code.co_filename == file and not (managed and code.co_name in _MANAGED):
            return True
        frame = frame.f_back
    return False


def _other_threads() -> list[FrameType]:
    here = threading.get_ident()
    return [frame for ident, frame in sys._current_frames().items() if ident != here]  # noqa: SLF001 # the one way to ask


def _calls_under_way() -> bool:
    return any(_has(frame, _CALLS) for frame in _other_threads())


def _serving() -> bool:
    return any(thread.name.endswith(_AIO_POLLER) for thread in threading.enumerate()) or any(
        _has(frame, _SERVES) for frame in _other_threads()
    )


def _before() -> None:
    if not here.started:
        return
    gate.close()
    began = time.monotonic()
    while not gate.empty and time.monotonic() < began + PATIENCE:
        time.sleep(0.002)
    while not (quiet := gate.empty and not _calls_under_way()) and time.monotonic() < began + _STREAM_PATIENCE:
        time.sleep(0.002)
    here.collects = gc.isenabled()
    gc.disable()
    if _switched_off():
        here.outlook = _DISABLED
    elif not quiet or _serving():
        here.outlook = _BUSY
        _enlarge_stacks()
    else:
        here.outlook = None


def _enlarge_stacks() -> None:
    # Few programs fork in the midst of gRPC: the others do without ctypes.
    from neptune_api._grpc import stacks

    here.stack_size = stacks.default_size()
    if here.stack_size is not None:
        stacks.set_default_size(2 * here.stack_size)


def _after() -> None:
    if here.stack_size is not None:
        from neptune_api._grpc import stacks

        stacks.set_default_size(here.stack_size)
        here.stack_size = None
    if here.collects:
        gc.enable()


def _after_in_parent() -> None:
    _after()
    gate.open()


def _after_in_child() -> None:
    here.side += 1
    here.refusal = here.refusal or here.outlook
    if here.refusal is not None:
        # Calls of the parent may be garbage, and to free them is to use gRPC.
        gc.freeze()
    _after()
    gate.reset()
    for survivor in tuple(_SURVIVORS):
        survivor.start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
