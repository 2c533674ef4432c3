"""Which calls something is meant for: an RPC by its name, metadata by its values."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from neptune_api.server.handlers import Handler


def resolve(handlers: Mapping[str, Handler], method: str) -> Handler:
    """Return the RPC called `Service.Method`, `/package.Service/Method`, or `Method` where one service has it.

    Raises ValueError for any other name.
    """
    if method in handlers:
        return handlers[method]
    found = [handler for handler in handlers.values() if method in {handler.name, handler.method.name}]
    if len(found) == 1:
        return found[0]
    names = [handler.name for handler in handlers.values()]
    if found:
        raise ValueError(f"several services have a method {method}: write {' or '.join(each.name for each in found)}")
    close = difflib.get_close_matches(method, names, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ", such as IngestService.Submit"
    raise ValueError(f"there is no method {method!r}{hint}")


@dataclass(frozen=True, slots=True)
class Selection:
    """Calls of one RPC, or of every one, that carry some metadata."""

    path: str | None
    """`/package.Service/Method`; None for every RPC."""
    metadata: frozenset[tuple[str, str | bytes]]

    @classmethod
    def of(
        cls, handlers: Mapping[str, Handler], method: str | None, metadata: Mapping[str, str | bytes] | None
    ) -> Selection:
        """Return what names of RPCs and metadata select. Raises ValueError for an unknown RPC."""
        path = None if method is None else resolve(handlers, method).path
        return cls(path, frozenset((key.lower(), value) for key, value in (metadata or {}).items()))

    def matches(self, path: str, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Tell whether a call is selected."""
        return self.path in {None, path} and (not self.metadata or self.metadata <= set(metadata))
