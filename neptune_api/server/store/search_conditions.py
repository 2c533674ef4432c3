"""Queries as SQL: which part of a tree the database can answer, and the statement that answers it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa

from neptune_api.server.nql.operators import KINDS, Kind
from neptune_api.server.nql.tree import And, Criterion, Not, Operator, criteria
from neptune_api.server.regexes import required_text
from neptune_api.server.store.rules import encode_set
from neptune_api.server.store.run_state import SERIES_TYPES
from neptune_api.server.store.schema import attributes, experiments, runs
from neptune_api.server.store.texts import ESCAPED_ENDS, MARK, escape
from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neptune_api.server.nql.tree import Node

    Condition = sa.ColumnElement[bool]

# Databases join dozens of tables, not thousands, and nest expressions as deep: the rest is for `search_columns`.
_MAX_CRITERIA: Final = 24
# Values of one criterion that become parameters.
_MAX_VALUES: Final = 10_000

# What the table of runs knows as well, and most searches are sorted by.
_CREATION: Final = ("sys/creation_time", T.ATTRIBUTE_TYPE_DATETIME)
# Runs that tell which criterion of several leaves the fewest.
_SAMPLE: Final = 500
_MAX_SAMPLED: Final = 6


def integer_of(alias: Any) -> sa.ColumnElement[Any]:
    """Return the column of an int attribute as the double that it is compared as."""
    return sa.cast(alias.c.int_value, sa.Double)


def text_of(alias: Any) -> sa.ColumnElement[str]:
    """Return the text of an attribute: from the index when it is short."""
    whole = attributes.alias()
    rest = sa.select(whole.c.text_value).where(whole.c.id == alias.c.id)
    # Said, because inside a function in FROM it would not be found out.
    rest = rest.correlate(alias)
    return sa.case((alias.c.short_text.is_not(None), alias.c.short_text), else_=rest.scalar_subquery())


class Conditions:
    """Build the statement that finds the runs of projects for a tree, as far as the database can tell.

    `rest` are those terms of the tree that have to be judged for each run that the statement finds. Runs are idle of
    which nothing has been applied since `idle_before`, in milliseconds.
    """

    def __init__(
        self, connection: sa.Connection, project_ids: Sequence[int], node: Node, *, heads_only: bool, idle_before: int
    ) -> None:
        self._connection = connection
        self._idle_before = idle_before
        self._project_ids = project_ids
        self._dialect = connection.dialect.name
        self._heads_only = heads_only
        self._aliases: dict[tuple[str, int], Any] = {}
        self._where: list[Condition] = []
        self._joins: list[tuple[Any, Condition]] = []
        self._room = _MAX_CRITERIA
        self.rest: list[Node] = []
        terms: Sequence[Node] = node.terms if isinstance(node, And) else (node,)
        self._key, self._project = self._begin(terms)
        for term in terms:
            self._add(term)

    @property
    def key(self) -> sa.ColumnElement[int]:
        """The key of the run."""
        return self._key

    def value(self, name: str, type_: int) -> sa.ColumnElement[Any]:
        """Return the value of an attribute, which is no series: NULL where it is missing or NaN."""
        if (name, type_) == _CREATION and self._base is runs:
            return runs.c.created_ms
        alias = self._alias(name, type_)
        if KINDS[type_] is not Kind.NUMBER:  # type: ignore[index]  # the keys are integers at run time
            return self._text(alias, type_)
        return cast(
            "sa.ColumnElement[Any]", alias.c.float_value if type_ == T.ATTRIBUTE_TYPE_FLOAT else alias.c.int_value
        )

    def texts_at_hand(self) -> list[tuple[str, int]]:
        """Return names and types of texts that the rest asks about and that the statement looks at."""
        asked = {(item.name, item.type) for term in self.rest for item in criteria(term)}
        kinds = (Kind.TEXT, Kind.OPAQUE)
        return [what for what in self._aliases if what in asked and KINDS[what[1]] in kinds]  # type: ignore[index]  # ints

    def select(self, *columns: sa.ColumnElement[Any], in_order: bool) -> sa.Select[Any]:
        """Return the statement for the key of each run and more columns, `in_order` of about ascending keys."""
        source: Any = self._base
        for alias, condition in self._joins:
            source = source.outerjoin(alias, condition)
        statement = sa.select(self._key, *columns).select_from(source).where(*self._where)
        if not in_order or len(self._project_ids) > 1:
            return statement
        return statement.order_by(runs.c.number if self._base is runs else self._key)

    def _begin(self, terms: Sequence[Node]) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
        """Choose what the statement goes through: an attribute of all runs, or the runs."""
        usable = [
            term
            for term in terms
            if isinstance(term, Criterion) and term.type not in SERIES_TYPES and len(term.values) <= _MAX_VALUES
        ]
        if usable:
            first = self._narrowest(usable)
            self._base = attributes.alias()
            self._aliases[first.name, first.type] = self._base
            self._where += (self._base.c.name == first.name, self._base.c.type == first.type)
            key = self._base.c.run_id
        else:
            self._base = runs
            key = self._base.c.id
        if self._heads_only:
            self._where.append(sa.exists().where(experiments.c.head_id == key))
        self._where.append(self._is_theirs(self._base))
        return key, self._base.c.project_id

    def _narrowest(self, usable: Sequence[Criterion]) -> Criterion:
        """Return the criterion that leaves the fewest of some runs, the first ones that have its attribute."""
        if len(usable) == 1:
            return usable[0]
        counts: list[sa.ColumnElement[Any]] = []
        for criterion in usable[:_MAX_SAMPLED]:
            some = attributes.alias()
            sample = sa.select(some).where(
                self._is_theirs(some), some.c.name == criterion.name, some.c.type == criterion.type
            )
            sampled = sample.limit(_SAMPLE).subquery()
            condition, _ = self._holds(criterion, sampled)
            counts.append(sa.select(sa.func.count()).select_from(sampled).where(condition).scalar_subquery())
        left = self._connection.execute(sa.select(*counts)).one()
        return usable[min(range(len(left)), key=left.__getitem__)]

    def _is_theirs(self, table: Any) -> Condition:
        if len(self._project_ids) == 1:
            return cast("Condition", table.c.project_id == self._project_ids[0])
        return cast("Condition", table.c.project_id.in_(self._project_ids))

    def _add(self, term: Node) -> None:
        size = sum(1 for _ in islice(criteria(term), self._room + 1))
        if size > self._room:
            self.rest.append(term)
            return
        self._room -= size
        condition, is_exact = self._bound(term)
        if condition is not None:
            # SQLite, which knows little of the data, would go through the tables in another order if it saw that rows
            # without the attribute do not count. PostgreSQL knows better.
            is_plain = self._dialect == "postgresql" and isinstance(term, Criterion)
            self._where.append(condition if is_plain or self._is_base(term) else _known(condition))
        if not is_exact:
            self.rest.append(term)

    def _is_base(self, term: Node) -> bool:
        return isinstance(term, Criterion) and self._aliases.get((term.name, term.type)) is self._base

    def _bound(self, node: Node) -> tuple[Condition | None, bool]:
        """Return a condition that holds wherever a tree holds, and whether the tree holds wherever it does.

        None stands for no condition.
        """
        if isinstance(node, Criterion):
            return self._criterion(node)
        if isinstance(node, Not):
            condition, is_exact = self._bound(node.term)
            return (sa.not_(_known(condition)), True) if is_exact and condition is not None else (None, False)
        bounds = [self._bound(term) for term in node.terms]
        is_exact = all(exact for _, exact in bounds)
        conditions = [_known(condition) for condition, _ in bounds if condition is not None]
        if isinstance(node, And):
            return (sa.and_(*conditions), is_exact) if conditions else (None, is_exact)
        if len(conditions) < len(bounds):
            return None, False
        return sa.or_(*conditions), is_exact

    def _criterion(self, criterion: Criterion) -> tuple[Condition | None, bool]:
        if criterion.type in SERIES_TYPES or len(criterion.values) > _MAX_VALUES:
            # What runs inherit of a series is in other runs.
            return None, False
        return self._holds(criterion, self._alias(criterion.name, criterion.type))

    def _holds(self, criterion: Criterion, alias: Any) -> tuple[Condition, bool]:
        """Return `_bound` of a criterion for rows of its attribute."""
        if criterion.operator is Operator.EXISTS:
            return alias.c.run_id.is_not(None), True
        kind = KINDS[criterion.type]  # type: ignore[index]  # the keys are integers at run time
        if kind is Kind.NUMBER:
            column = alias.c.int_value
            if criterion.type == T.ATTRIBUTE_TYPE_FLOAT:
                column = alias.c.float_value
            elif criterion.type == T.ATTRIBUTE_TYPE_INT:
                column = integer_of(alias)
            return _compare(column, criterion), True
        if criterion.operator is Operator.MATCHES:
            required = required_text(cast("str", criterion.value))
            # Long texts are not looked at twice.
            contains = alias.c.short_text.is_(None) | self._contains(alias.c.short_text, required)
            return sa.and_(alias.c.run_id.is_not(None), contains) if required else alias.c.run_id.is_not(None), False
        text = self._text(alias, criterion.type)
        if kind is Kind.SET:
            condition, is_exact = self._has_member(text, cast("str", criterion.value))
        elif criterion.operator is Operator.CONTAINS:
            part = cast("str", criterion.value)
            # The second character of an escaped one looks like any other.
            is_exact = self._dialect != "postgresql" or not part.startswith(ESCAPED_ENDS)
            condition = self._contains(text, part)
        else:
            condition, is_exact = self._order(text, criterion)
        return sa.and_(alias.c.run_id.is_not(None), condition), is_exact

    def _alias(self, name: str, type_: int) -> Any:
        found = self._aliases.get((name, type_))
        if found is None:
            found = self._aliases[name, type_] = attributes.alias()
            condition = sa.and_(
                found.c.project_id == self._project,
                found.c.name == name,
                found.c.type == type_,
                found.c.run_id == self._key,
            )
            self._joins.append((found, condition))
        return found

    def _text(self, alias: Any, type_: int) -> sa.ColumnElement[str]:
        if type_ == T.ATTRIBUTE_TYPE_EXPERIMENT_STATE:
            return sa.case(
                (alias.c.int_value.is_(None), None), (alias.c.int_value < self._idle_before, "idle"), else_="running"
            )
        return text_of(alias)

    def _contains(self, text: sa.ColumnElement[str], part: str) -> Condition:
        return self._position(text, part) > 0

    def _position(self, text: sa.ColumnElement[str], part: str) -> sa.ColumnElement[int]:
        position = sa.func.strpos if self._dialect == "postgresql" else sa.func.instr
        return position(text, sa.literal(part, attributes.c.text_value.type))

    def _has_member(self, text: sa.ColumnElement[str], member: str) -> tuple[Condition, bool]:
        """Return `_bound` of a member of a stored set: a JSON array without spaces, where a quotation mark is escaped.

        A function for JSON would not do: PostgreSQL takes no NUL there, SQLite ends a text at it.
        """
        quoted = encode_set([member])[1:-1]
        is_first = self._position(text, f"[{quoted}") == 1
        # A quotation mark right behind a comma begins a member or ends one; behind an end comes a comma with another.
        return sa.or_(is_first, self._contains(text, f'",{quoted}')), member != ","

    def _order(self, text: sa.ColumnElement[str], criterion: Criterion) -> tuple[Condition, bool]:
        """Return `_bound` of a comparison of texts."""
        if self._dialect != "postgresql" or criterion.operator is Operator.EQUAL:
            return _compare(text, criterion), True
        # A NUL does not lie where it belongs; the mark is written here as it is stored.
        if MARK in escape(cast("str", criterion.value)):
            return sa.true(), False
        return sa.or_(_compare(text, criterion), sa.func.strpos(text, sa.literal(MARK, sa.Text)) > 0), False


def _known(condition: Condition) -> Condition:
    """Return the condition, false instead of NULL."""
    return sa.func.coalesce(condition, sa.false())


def _compare(column: sa.ColumnElement[Any], criterion: Criterion) -> Condition:
    if criterion.operator is Operator.EQUAL:
        if len(criterion.values) > 1:
            return column.in_(sorted(criterion.values))
        return column == criterion.value
    value = criterion.value
    if criterion.operator is Operator.LESS:
        return column < value
    if criterion.operator is Operator.AT_MOST:
        return column <= value
    return column > value if criterion.operator is Operator.GREATER else column >= value
