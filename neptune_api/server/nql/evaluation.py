"""What a tree means for values in memory, a column at a time."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from neptune_api.server.nql.operators import KINDS, Kind
from neptune_api.server.nql.tree import Criterion, Not, Operator, Or, postorder
from neptune_api.server.regexes import found_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy.typing as npt

    from neptune_api.server.nql.tree import And, Node

    BoolArray = npt.NDArray[np.bool_]

_COMPARISONS: Final = {
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.GREATER: operator.gt,
    Operator.AT_LEAST: operator.ge,
}


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one attribute of some runs, as far as it has one type.

    `present` tells which runs have it. Of the others, one is filled, by the kind of the type: `numbers` (NaN where the
    attribute is missing), `texts` or `sets` (None where it is missing).
    """

    present: BoolArray
    numbers: npt.NDArray[np.float64] | None = None
    texts: Sequence[str | None] = ()
    sets: Sequence[Collection[str] | None] = ()

    def take(self, places: npt.NDArray[np.intp]) -> Column:
        """Return the column of the runs at some places."""
        listed = places.tolist() if self.numbers is None else ()
        return Column(
            self.present[places],
            None if self.numbers is None else self.numbers[places],
            [self.texts[place] for place in listed] if self.texts else (),
            [self.sets[place] for place in listed] if self.sets else (),
        )


def evaluate(node: Node, size: int, verdict: Callable[[Criterion], BoolArray]) -> BoolArray:
    """Return for which of `size` runs a tree holds; `verdict` tells it of a criterion."""
    results: list[BoolArray] = []
    for item in postorder(node):
        if isinstance(item, Criterion):
            results.append(verdict(item))
        elif isinstance(item, Not):
            results.append(~results.pop())
        else:
            results.append(_joined(item, size, results))
    return results.pop()


def judge(criterion: Criterion, column: Column) -> BoolArray:
    """Return for which runs a criterion holds; false where the attribute is missing."""
    if criterion.operator is Operator.EXISTS:
        return column.present
    kind = KINDS[criterion.type]  # type: ignore[index]  # the keys are integers at run time
    if kind is Kind.NUMBER and column.numbers is not None:
        return _judge_numbers(criterion, column.numbers)
    if kind is Kind.SET:
        return _array([members is not None and criterion.value in members for members in column.sets])
    return _judge_texts(criterion, column.texts)


def _joined(node: And | Or, size: int, results: list[BoolArray]) -> BoolArray:
    """Take the results of the terms of a node off the list and return its own."""
    is_or = isinstance(node, Or)
    start = len(results) - len(node.terms)
    joined = np.full(size, not is_or)
    for result in results[start:]:
        if is_or:
            joined |= result
        else:
            joined &= result
    del results[start:]
    return joined


def _judge_numbers(criterion: Criterion, numbers: npt.NDArray[np.float64]) -> BoolArray:
    # NaN compares as false with everything.
    if criterion.operator is not Operator.EQUAL:
        return cast("BoolArray", _COMPARISONS[criterion.operator](numbers, criterion.value))
    if len(criterion.values) == 1:
        return cast("BoolArray", numbers == criterion.value)
    return np.isin(numbers, np.array(sorted(criterion.values), np.float64))


def _judge_texts(criterion: Criterion, texts: Sequence[str | None]) -> BoolArray:
    if criterion.operator is Operator.EQUAL:
        return _array([text in criterion.values for text in texts])
    value = cast("str", criterion.value)
    if criterion.operator is Operator.CONTAINS:
        return _array([text is not None and value in text for text in texts])
    if criterion.operator is Operator.MATCHES:
        if None not in texts:
            return found_in(value, cast("Sequence[str]", texts))
        known = _array([text is not None for text in texts])
        return known & found_in(value, [text or "" for text in texts])
    compare = _COMPARISONS[criterion.operator]
    return _array([text is not None and compare(text, value) for text in texts])


def _array(verdicts: list[bool]) -> BoolArray:
    return np.array(verdicts, np.bool_)
