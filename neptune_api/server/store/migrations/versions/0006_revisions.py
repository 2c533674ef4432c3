"""Revisions of projects.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"


def upgrade() -> None:
    """Add the revision of projects, and the table of those at which runs were changed."""
    op.add_column("projects", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="0"))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "run_revisions",
        sa.Column("run_id", key, primary_key=True, autoincrement=False),
        sa.Column("project_id", key, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
    )
    op.create_index("run_revisions_by_project", "run_revisions", ["project_id", "revision"])
