"""Operations of other kinds than RunOperation; the version moves to Alembic's own table.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    """Add the columns, and make programs that know no migrations refuse."""
    op.add_column("operations", sa.Column("kind", sa.SmallInteger(), nullable=False, server_default="0"))
    op.add_column("requests", sa.Column("payload_checksum", sa.BigInteger()))
    op.execute("DELETE FROM meta WHERE key = 'schema_version'")
    op.execute("INSERT INTO meta (key, value) VALUES ('schema_version', '2')")
