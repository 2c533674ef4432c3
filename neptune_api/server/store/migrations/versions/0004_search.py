"""Attributes of all runs side by side, for searches.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    """Add the project and the short text to attributes, and the index over them."""
    op.add_column("attributes", sa.Column("project_id", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE attributes SET project_id = (SELECT project_id FROM runs WHERE runs.id = attributes.run_id)")
    is_postgresql = op.get_context().dialect.name == "postgresql"
    text, kind = ('TEXT COLLATE "C"', "STORED") if is_postgresql else ("TEXT", "VIRTUAL")
    short = "CASE WHEN length(text_value) <= 256 THEN text_value END"
    op.execute(f"ALTER TABLE attributes ADD COLUMN short_text {text} GENERATED ALWAYS AS ({short}) {kind}")
    op.create_index(
        "attributes_by_name",
        "attributes",
        ["project_id", "name", "type", "run_id", "int_value", "float_value", "short_text", "id"],
    )
