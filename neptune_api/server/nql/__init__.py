"""NQL, the language in which runs are searched for: text to a typed tree, and what a tree means for values in memory.

Nothing here knows of a database. `docs/nql.md` is the reference for users.
"""

from __future__ import annotations

from neptune_api.server.nql.errors import QueryError
from neptune_api.server.nql.parser import parse
from neptune_api.server.nql.tree import EVERYTHING, Aggregate, And, Criterion, Node, Not, Operator, Or

__all__ = [
    "EVERYTHING",
    "Aggregate",
    "And",
    "Criterion",
    "Node",
    "Not",
    "Operator",
    "Or",
    "QueryError",
    "parse",
]
