"""The parser: by hand, with a stack of its own, so that neither depth nor length of a query is limited by Python's.

query     = [ or ]
or        = and { OR and }
and       = unary { AND unary }
unary     = NOT unary | "(" or ")" | criterion
criterion = operand [ NOT ] ( relop value | CONTAINS value | MATCHES value | EXISTS )
operand   = ref | aggregate "(" ref ")"
ref       = ( "`" name "`" | word ) [ ":" type ]
relop     = "=" | "==" | "!=" | ">" | ">=" | "<" | "<="
value     = '"' text '"' | "'" text "'" | word
"""

from __future__ import annotations

import re
from collections import deque
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from neptune_api.server import limits
from neptune_api.server.nql import literals
from neptune_api.server.nql.errors import QueryError, quoted
from neptune_api.server.nql.operators import is_asked, types_of
from neptune_api.server.nql.tree import EVERYTHING, Aggregate, And, Criterion, Node, Not, Operator, Or
from neptune_api.server.regexes import RegexError, searcher
from neptune_api.v1 import annotations_pb2
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neptune_api.server.nql.tree import Literal

_SPACE: Final = re.compile(r"\s*")
_WORD: Final = re.compile(r"[^\s()\"'`:=!<>]+")
# In values colons are allowed: times have them.
_VALUE: Final = re.compile(r"[^\s()\"'`=!<>]+")
_RELATION: Final = re.compile(r"==|!=|>=|<=|=|>|<")
_QUOTED: Final = {
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL),
}
_ESCAPE: Final = {'"': re.compile(r"\\([\\\"])"), "'": re.compile(r"\\([\\'])")}

_OPERATORS: Final = {
    "=": (Operator.EQUAL, True),
    "==": (Operator.EQUAL, True),
    "!=": (Operator.EQUAL, False),
    "<": (Operator.LESS, True),
    "<=": (Operator.AT_MOST, True),
    ">": (Operator.GREATER, True),
    ">=": (Operator.AT_LEAST, True),
    "contains": (Operator.CONTAINS, True),
    "matches": (Operator.MATCHES, True),
    "exists": (Operator.EXISTS, True),
}
TYPES: Final[dict[str, int]] = {
    **{
        value.GetOptions().Extensions[annotations_pb2.http_name]: value.number
        for value in T.DESCRIPTOR.values
        if value.number
    },
    "integer": T.ATTRIBUTE_TYPE_INT,
}
"""Attribute types by their names in queries."""
_AGGREGATES: Final = {aggregate.value: aggregate for aggregate in Aggregate}
_KEYWORDS: Final = frozenset({"and", "or", "not", "contains", "matches", "exists"})
_CRITERION: Final = 'a criterion such as `path`:type == "value", NOT or ('


class _Group:
    """AND or OR of terms under construction."""

    __slots__ = ("is_and", "is_negated", "terms")

    def __init__(self, *, is_and: bool, terms: Iterable[_Term] = ()) -> None:
        self.is_and = is_and
        self.is_negated = False
        self.terms: deque[_Term] = deque(terms)

    def add(self, term: _Term) -> _Group:
        """Return the group with one more term; the smaller of two groups of a kind goes into the larger one."""
        if not isinstance(term, _Group) or term.is_and != self.is_and or term.is_negated:
            self.terms.append(term)
            return self
        if len(term.terms) <= len(self.terms):
            self.terms.extend(term.terms)
            return self
        term.terms.extendleft(reversed(self.terms))
        return term


_Term = _Group | Criterion | Not


class _Frame:
    """What is open: the query or a parenthesis in it."""

    __slots__ = ("alternative", "alternatives", "is_negated", "position")

    def __init__(self, position: int, *, is_negated: bool) -> None:
        self.position = position
        self.is_negated = is_negated
        self.alternatives: _Group = _Group(is_and=False)
        self.alternative: _Group = _Group(is_and=True)

    def end_alternative(self) -> None:
        """Finish what stands between two ORs."""
        group = self.alternative
        self.alternatives = self.alternatives.add(group.terms[0] if len(group.terms) == 1 else group)
        self.alternative = _Group(is_and=True)

    def close(self) -> _Term:
        """Return what is in the frame."""
        self.end_alternative()
        group = self.alternatives
        return group.terms[0] if len(group.terms) == 1 else group


class _Operand(NamedTuple):
    name: str
    position: int
    type: int | None
    aggregate: Aggregate | None


def parse(text: str, now: datetime | None = None) -> Node:
    """Return the tree of a query; a blank one means everything.

    Relative datetimes count from `now`. Raises QueryError.
    """
    return _Parser(text, now or datetime.now(timezone.utc)).parse()


class _Parser:
    def __init__(self, text: str, now: datetime) -> None:
        self._text = text
        self._now = now
        self._position = 0

    def parse(self) -> Node:
        self._skip_space()
        if self._position == len(self._text):
            return EVERYTHING
        frames = [_Frame(0, is_negated=False)]
        is_negated = False
        while True:
            # Here a criterion, NOT or an opening parenthesis has to follow.
            if self._take("("):
                if len(frames) > limits.MAX_QUERY_DEPTH:
                    self._fail(f"at most {limits.MAX_QUERY_DEPTH:,} parentheses inside one another")
                frames.append(_Frame(self._position - 1, is_negated=is_negated))
                is_negated = False
                continue
            if self._keyword() == "not":
                self._take_word()
                is_negated = not is_negated
                continue
            term = self._criterion(is_negated=is_negated)
            is_negated = False
            # Here AND, OR or a closing parenthesis has to follow, or the end.
            while True:
                frame = frames[-1]
                frame.alternative = frame.alternative.add(term)
                if len(frames) > 1 and self._take(")"):
                    term = frame.close()
                    if frame.is_negated:
                        term = _negate(term)
                    frames.pop()
                    continue
                break
            keyword = self._keyword()
            if keyword == "or":
                frame.end_alternative()
            elif keyword != "and":
                if self._position == len(self._text) and len(frames) == 1:
                    return _freeze(frame.close())
                if len(frames) > 1:
                    opened = QueryError(self._text, frame.position, "", "")
                    self._fail(f"AND, OR or ) for the ( at line {opened.line}, column {opened.column}")
                self._fail("AND, OR or the end")
            self._take_word()

    def _criterion(self, *, is_negated: bool) -> _Term:
        operand = self._operand()
        if self._keyword() == "not":
            self._take_word()
            is_negated = not is_negated
        position = self._position
        word = self._operator()
        operator, is_positive = _OPERATORS[word]
        types = self._types(operand, operator, word, position)
        criteria: list[Criterion] = []
        if operator is Operator.EXISTS:
            criteria = [Criterion(operand.name, type_, operator) for type_ in types]
        else:
            position = self._position
            value = self._value()
            problem: literals.LiteralError | None = None
            for type_ in types:
                try:
                    literal: Literal = value if operator is Operator.MATCHES else literals.read(type_, value, self._now)
                except literals.LiteralError as error:
                    problem = error
                    continue
                aggregate = operand.aggregate
                if type_ == T.ATTRIBUTE_TYPE_FLOAT_SERIES:
                    aggregate = aggregate or Aggregate.LAST
                criteria.append(Criterion(operand.name, type_, operator, frozenset((literal,)), aggregate))
            if not criteria:
                raise QueryError(
                    self._text, position, f"{quoted(value)} is no value of the type", str(problem)
                ) from None
            if operator is Operator.MATCHES:
                self._check_regex(value, position)
        term: _Term = criteria[0] if len(criteria) == 1 else _Group(is_and=False, terms=criteria)
        return term if is_negated is not is_positive else _negate(term)

    def _types(self, operand: _Operand, operator: Operator, word: str, position: int) -> list[int]:
        """Return the types that a criterion is about."""
        if operand.type is None:
            if operand.aggregate is not None:
                return [T.ATTRIBUTE_TYPE_FLOAT_SERIES]
            return list(types_of(operator))
        if not is_asked(operator, operand.type):
            name = next(name for name, type_ in TYPES.items() if type_ == operand.type)
            usable = ", ".join(text.upper() for text, (item, _) in _OPERATORS.items() if is_asked(item, operand.type))
            raise QueryError(self._text, position, f"{word.upper()} cannot be asked of type {name}", f"one of {usable}")
        return [operand.type]

    def _operand(self) -> _Operand:
        position = self._position
        aggregate: Aggregate | None = None
        name = self._name()
        if name is None:
            self._fail(_CRITERION)
        if self._text[position] != "`":
            if name.lower() in _KEYWORDS:
                self._position = position
                self._fail(f"{_CRITERION}; an attribute with this name has to stand in backticks")
            if self._take("("):
                if name.lower() not in _AGGREGATES:
                    raise QueryError(
                        self._text, position, f"{quoted(name)} is no aggregate", f"one of {', '.join(_AGGREGATES)}"
                    )
                aggregate = _AGGREGATES[name.lower()]
                position = self._position
                name = self._name()
                if name is None:
                    self._fail("the name of a series")
        type_ = self._type() if self._take(":") else None
        if aggregate is not None:
            if type_ not in {None, T.ATTRIBUTE_TYPE_FLOAT_SERIES}:
                raise QueryError(self._text, position, "only float series have aggregates", "the type floatSeries")
            if not self._take(")"):
                self._fail(")")
        return _Operand(name, position, type_, aggregate)

    def _name(self) -> str | None:
        if self._text.startswith("`", self._position):
            end = self._text.find("`", self._position + 1)
            if end < 0:
                raise QueryError(self._text, self._position, "the name has no end", "another ` behind the name")
            name = self._text[self._position + 1 : end]
            if not name:
                raise QueryError(self._text, self._position, "the name is empty", "a name between the backticks")
            self._position = end + 1
            self._skip_space()
            return name
        return self._take_match(_WORD)

    def _type(self) -> int:
        position = self._position
        name = self._take_match(_WORD)
        if name is None:
            self._fail("a type")
        if name not in TYPES:
            raise QueryError(self._text, position, f"{quoted(name)} is no type", f"one of {', '.join(TYPES)}")
        return TYPES[name]

    def _operator(self) -> str:
        relation = self._take_match(_RELATION)
        if relation is not None:
            return relation
        keyword = self._keyword()
        if keyword not in _OPERATORS:
            self._fail("an operator: ==, !=, <, <=, >, >=, CONTAINS, MATCHES, EXISTS, or NOT before one of them")
        self._take_word()
        return keyword

    def _value(self) -> str:
        quote = self._text[self._position : self._position + 1]
        if quote not in _QUOTED:
            word = self._take_match(_VALUE)
            if word is None:
                self._fail('a value, best in double quotes: "value"')
            return word
        found = _QUOTED[quote].match(self._text, self._position)
        if found is None:
            raise QueryError(self._text, self._position, "the value has no end", f"another {quote} behind the value")
        self._position = found.end()
        self._skip_space()
        inner = found[1]
        return _ESCAPE[quote].sub(r"\1", inner) if "\\" in inner else inner

    def _check_regex(self, pattern: str, position: int) -> None:
        try:
            searcher(pattern)
        except RegexError as error:
            raise QueryError(
                self._text, position, f"{quoted(pattern)} {str(error).rstrip('.')}", "a regular expression of RE2"
            ) from None

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._position)
        if found is not None:
            self._position = found.end()

    def _take(self, character: str) -> bool:
        if not self._text.startswith(character, self._position):
            return False
        self._position += 1
        self._skip_space()
        return True

    def _take_match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._position)
        if found is None:
            return None
        self._position = found.end()
        self._skip_space()
        return found[0]

    def _keyword(self) -> str:
        """Return the word that comes next, in lower case, and leave it there."""
        found = _WORD.match(self._text, self._position)
        return found[0].lower() if found is not None else ""

    def _take_word(self) -> None:
        self._take_match(_WORD)

    def _fail(self, expected: str) -> NoReturn:
        found = _VALUE.match(self._text, self._position)
        if self._position == len(self._text):
            problem = "the query ends"
        elif found is not None:
            problem = f"{quoted(found[0])} comes next"
        else:
            problem = f"{quoted(self._text[self._position])} comes next"
        raise QueryError(self._text, self._position, problem, expected)


def _negate(term: _Term) -> _Term:
    if isinstance(term, _Group):
        term.is_negated = not term.is_negated
        return term
    return term.term if isinstance(term, Not) else Not(term)  # type: ignore[return-value]  # Not around criteria only


def _freeze(root: _Term) -> Node:
    """Return the finished tree of a term."""
    finished: dict[int, Node] = {}
    waiting: list[tuple[_Term, bool]] = [(root, False)]
    while waiting:
        term, is_open = waiting.pop()
        if not isinstance(term, _Group):
            continue
        if not is_open:
            waiting.append((term, True))
            waiting += ((item, False) for item in term.terms)
            continue
        terms = [finished.pop(id(item)) if isinstance(item, _Group) else item for item in term.terms]
        terms = _merged(terms, is_and=term.is_and)
        node: Node = terms[0] if len(terms) == 1 else And(tuple(terms)) if term.is_and else Or(tuple(terms))
        if term.is_negated:
            node = node.term if isinstance(node, Not) else Not(node)
        finished[id(term)] = node
    return finished[id(root)] if isinstance(root, _Group) else root


def _merged(terms: list[Node], *, is_and: bool) -> list[Node]:
    """Return the terms with comparisons of one attribute with many values made one.

    `a == 1 OR a == 2` is one criterion, and so is `a != 1 AND a != 2`.
    """
    values: dict[tuple[str, int, Aggregate | None], set[Literal]] = {}
    merged: list[Node] = []
    for term in terms:
        criterion = term.term if is_and and isinstance(term, Not) else term
        if (is_and and criterion is term) or not isinstance(criterion, Criterion):
            merged.append(term)
            continue
        if criterion.operator is not Operator.EQUAL:
            merged.append(term)
            continue
        values.setdefault((criterion.name, criterion.type, criterion.aggregate), set()).update(criterion.values)
    for (name, type_, aggregate), some in values.items():
        criterion = Criterion(name, type_, Operator.EQUAL, frozenset(some), aggregate)
        merged.append(Not(criterion) if is_and else criterion)
    return merged
