"""Steps are whole millionths ("micro-steps") in the store and doubles for readers: the rule between the two."""

from __future__ import annotations

import bisect
from fractions import Fraction
from typing import TYPE_CHECKING, Final, overload

from neptune_api.server import limits

if TYPE_CHECKING:
    from neptune_api.server.store.columns import FloatArray, Int64Array

END: Final = limits.MAX_WHOLE_STEP * limits.MICROS_PER_STEP
"""Every micro-step is less than this."""

_ALL: Final = range(END)


@overload
def to_double(micros: int) -> float: ...


@overload
def to_double(micros: Int64Array) -> FloatArray: ...


def to_double(micros: int | Int64Array) -> float | FloatArray:
    """Return the double that readers get for micro-steps."""
    return micros / 1e6


def nearest(step: float) -> int:
    """Return the micro-step nearest to a finite double."""
    # Exactly: for large steps the product of doubles is half a micro-step off.
    return round(Fraction(step) * limits.MICROS_PER_STEP)


def first_from(step: float) -> int:
    """Return the first micro-step whose double is not below `step`; END when there is none."""
    # Searching compares the very doubles that readers get, which no multiplication and rounding would.
    return bisect.bisect_left(_ALL, step, key=to_double)


def last_until(step: float) -> int:
    """Return the last micro-step whose double is not above `step`; -1 when there is none."""
    return bisect.bisect_right(_ALL, step, key=to_double) - 1
