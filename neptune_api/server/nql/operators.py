"""Which operators can be asked of which types."""

from __future__ import annotations

import enum
from typing import Final

from neptune_api.server.nql.tree import Operator
from neptune_api.v1.queries_pb2 import AttributeType as T


class Kind(enum.Enum):
    """What the value of an attribute is when it is compared."""

    NUMBER = "a double"
    """Of int, float, and aggregates of float series; also bool (0 or 1) and datetime (milliseconds)."""
    TEXT = "a text"
    """Of string and experimentState; the last value of string series."""
    SET = "a set of texts"
    OPAQUE = "something that can only be there or not"


KINDS: Final = {
    T.ATTRIBUTE_TYPE_INT: Kind.NUMBER,
    T.ATTRIBUTE_TYPE_FLOAT: Kind.NUMBER,
    T.ATTRIBUTE_TYPE_BOOL: Kind.NUMBER,
    T.ATTRIBUTE_TYPE_STRING: Kind.TEXT,
    T.ATTRIBUTE_TYPE_DATETIME: Kind.NUMBER,
    T.ATTRIBUTE_TYPE_STRING_SET: Kind.SET,
    T.ATTRIBUTE_TYPE_FILE_REF: Kind.OPAQUE,
    T.ATTRIBUTE_TYPE_FLOAT_SERIES: Kind.NUMBER,
    T.ATTRIBUTE_TYPE_STRING_SERIES: Kind.TEXT,
    T.ATTRIBUTE_TYPE_HISTOGRAM_SERIES: Kind.OPAQUE,
    T.ATTRIBUTE_TYPE_FILE_REF_SERIES: Kind.OPAQUE,
    T.ATTRIBUTE_TYPE_EXPERIMENT_STATE: Kind.TEXT,
    T.ATTRIBUTE_TYPE_COMPLEX: Kind.OPAQUE,
    T.ATTRIBUTE_TYPE_GIT_REF: Kind.OPAQUE,
}
"""The kind of each attribute type."""

_EQUALITY: Final = frozenset({Operator.EQUAL, Operator.EXISTS})
_ORDER: Final = _EQUALITY | {Operator.LESS, Operator.AT_MOST, Operator.GREATER, Operator.AT_LEAST}
_SEARCH: Final = _ORDER | {Operator.MATCHES, Operator.CONTAINS}

_OPERATORS: Final = {
    T.ATTRIBUTE_TYPE_INT: _ORDER,
    T.ATTRIBUTE_TYPE_FLOAT: _ORDER,
    T.ATTRIBUTE_TYPE_BOOL: _EQUALITY,
    T.ATTRIBUTE_TYPE_STRING: _SEARCH,
    T.ATTRIBUTE_TYPE_DATETIME: _ORDER,
    T.ATTRIBUTE_TYPE_STRING_SET: frozenset({Operator.CONTAINS, Operator.EXISTS}),
    T.ATTRIBUTE_TYPE_FLOAT_SERIES: _ORDER,
    T.ATTRIBUTE_TYPE_STRING_SERIES: _SEARCH,
    T.ATTRIBUTE_TYPE_EXPERIMENT_STATE: _EQUALITY,
}


def is_asked(operator: Operator, type_: int) -> bool:
    """Tell whether an operator can be asked of a type."""
    return operator is Operator.EXISTS or operator in _OPERATORS.get(type_, ())  # type: ignore[call-overload]  # ints


def types_of(operator: Operator) -> list[int]:
    """Return the types of which an operator can be asked: those that a criterion without a type is about."""
    return [type_ for type_ in KINDS if is_asked(operator, type_)]
