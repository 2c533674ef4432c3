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
    """Add the table of leases, and keep PostgreSQL's operation log small."""
    op.create_table(
        "leases",
        sa.Column("project_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.BigInteger()),
        sa.PrimaryKeyConstraint("project_id"),
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE operations SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, "
            "toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000)"
        )
