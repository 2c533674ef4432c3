"""Operations of points by their layout.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"


def upgrade() -> None:
    """Add the table of layouts, and the reference to it."""
    is_postgresql = op.get_context().dialect.name == "postgresql"
    key = sa.String(32, collation="C" if is_postgresql else None)
    op.create_table(
        "layouts",
        sa.Column("key", key, primary_key=True),
        sa.Column("region", sa.LargeBinary(), nullable=False),
    )
    # Alembic would add the constraint in a statement of its own, which SQLite does not have.
    type_ = 'VARCHAR(32) COLLATE "C"' if is_postgresql else "VARCHAR(32)"
    op.execute(f"ALTER TABLE operations ADD COLUMN layout_key {type_} REFERENCES layouts (key)")
    op.create_index("ix_operations_layout_key", "operations", ["layout_key"])
