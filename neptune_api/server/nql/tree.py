"""The syntax tree: criteria about one attribute each, joined by AND, OR and NOT.

Trees are in a normal form. A criterion is always positive: `!=`, NOT MATCHES and NOT CONTAINS are a Not around one, so
one rule says what a missing attribute does: criteria are false about it. A Not stands around criteria only where the
query is flat; AND in AND and OR in OR are one node; comparisons of one attribute with many values are one criterion.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator


class Operator(enum.Enum):
    """What a criterion asks of a value."""

    EQUAL = "=="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    MATCHES = "MATCHES"
    CONTAINS = "CONTAINS"
    EXISTS = "EXISTS"


class Aggregate(enum.Enum):
    """Which number stands for a float series."""

    LAST = "last"
    MIN = "min"
    MAX = "max"
    AVERAGE = "average"
    VARIANCE = "variance"


Literal = float | int | str
"""A double (int, float and float series), 0 or 1 (bool), milliseconds (datetime), or a text."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """Ask something of one attribute.

    `type` is a neptune_api.v1.AttributeType; the criterion is false about runs whose attribute `name` has another one,
    or that have none. `values` are those that EQUAL takes any of, exactly one for other operators, none for EXISTS.
    `aggregate` belongs to float series.
    """

    name: str
    type: int
    operator: Operator
    values: frozenset[Literal] = frozenset()
    aggregate: Aggregate | None = None

    @property
    def value(self) -> Literal:
        """The value of a criterion that has one."""
        (value,) = self.values
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Not:
    """Hold where the term does not."""

    term: Node


@dataclass(frozen=True, slots=True, eq=False)
class And:
    """Hold where all terms do; without terms, everywhere."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Or:
    """Hold where any of the terms does; without terms, nowhere."""

    terms: tuple[Node, ...]


Node = Criterion | Not | And | Or

EVERYTHING: Final = And(())
"""What an empty query means."""

NUMBERS: Final = frozenset({T.ATTRIBUTE_TYPE_INT, T.ATTRIBUTE_TYPE_FLOAT, T.ATTRIBUTE_TYPE_FLOAT_SERIES})
TEXTS: Final = frozenset({T.ATTRIBUTE_TYPE_STRING, T.ATTRIBUTE_TYPE_STRING_SERIES})


def postorder(node: Node) -> Iterator[Node]:
    """Yield every node after those below it. Trees may be deeper than Python's stack."""
    waiting: list[tuple[Node, bool]] = [(node, False)]
    while waiting:
        current, is_open = waiting.pop()
        if is_open or isinstance(current, Criterion):
            yield current
        elif isinstance(current, Not):
            waiting += ((current, True), (current.term, False))
        else:
            waiting.append((current, True))
            waiting += ((term, False) for term in reversed(current.terms))


def criteria(node: Node) -> Iterator[Criterion]:
    """Yield the criteria of a tree, from left to right."""
    return (item for item in postorder(node) if isinstance(item, Criterion))


def outline(node: Node) -> Iterator[Hashable]:
    """Yield what tells a tree from others: criteria, and the kinds of other nodes with how many terms they have."""
    for item in postorder(node):
        if isinstance(item, Criterion):
            yield item
        else:
            yield type(item), 1 if isinstance(item, Not) else len(item.terms)
