"""Filters of attribute names: regular expressions that have to be found, must not be, and alternatives of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neptune_api.server.regexes import found_in, searcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api.server.regexes import BoolArray


@dataclass(frozen=True, slots=True)
class NameFilter:
    """Which names: those in which all of `found` are, none of `absent` is, and that pass one of `any_of`, if given.

    The expressions are such that `regexes.searcher` takes them.
    """

    found: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    any_of: tuple[NameFilter, ...] | None = None

    def passes(self, name: str) -> bool:
        """Tell whether a name passes."""
        return (
            all(searcher(pattern)(name) for pattern in self.found)
            and not any(searcher(pattern)(name) for pattern in self.absent)
            and (self.any_of is None or any(each.passes(name) for each in self.any_of))
        )

    def among(self, names: Sequence[str]) -> BoolArray:
        """Return which ones of many names pass."""
        left = _Left(names)
        for pattern in self.found:
            left.keep(found_in(pattern, left.names))
        for pattern in self.absent:
            left.keep(~found_in(pattern, left.names))
        if self.any_of is not None:
            passing = np.zeros(len(left.names), np.bool_)
            for each in self.any_of:
                passing |= each.among(left.names)
            left.keep(passing)
        return left.holds


class _Left:
    """Those of some names that have passed so far, and where they are."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.holds = np.ones(len(names), np.bool_)

    def keep(self, passing: BoolArray) -> None:
        """Keep some of the names."""
        self.holds[self.holds] = passing
        if not passing.all():
            self.names = [self.names[place] for place in np.flatnonzero(passing).tolist()]
