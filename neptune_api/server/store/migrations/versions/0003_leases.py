"""Leases of projects, for several servers on one database.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    """Add the table of leases."""
    op.create_table(
        "leases",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.BigInteger()),
        sa.PrimaryKeyConstraint("project_id"),
    )
