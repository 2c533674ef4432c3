"""The tables as they were before there were migrations.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

# Written out: a migration stays as it is, whatever becomes of the modules around it.
_KEY: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "meta",
        sa.Column("key", _string(64), nullable=False),
        sa.Column("value", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "operations",
        sa.Column("sequence", _KEY, nullable=False),
        sa.Column("request_id", _string(64), nullable=False),
        sa.Column("project_id", sa.BigInteger()),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("accepted_ms", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "requests",
        sa.Column("request_id", _string(64), nullable=False),
        sa.Column("project_id", sa.BigInteger()),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", _string(200)),
        sa.Column("accepted_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.LargeBinary()),
        sa.Column("details", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("request_id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_requests_accepted_ms", "requests", ["accepted_ms"])
    op.create_index("ix_requests_project_id", "requests", ["project_id"])
    op.create_table(
        "users",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("uuid", _string(36), nullable=False),
        sa.Column("username", _string(64), nullable=False),
        sa.Column("email", _string(254), nullable=False),
        sa.Column("first_name", _string(128), nullable=False),
        sa.Column("last_name", _string(128), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("token_generation", sa.Integer(), nullable=False),
        sa.Column("has_logged_in", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("username"),
        sa.UniqueConstraint("uuid"),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("uuid", _string(36), nullable=False),
        sa.Column("name", _string(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("uuid"),
    )
    op.create_table(
        "projects",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("uuid", _string(36), nullable=False),
        sa.Column("workspace_id", _KEY, nullable=False),
        sa.Column("name", _string(128), nullable=False),
        sa.Column("key", _string(10), nullable=False),
        sa.Column("description", _TEXT),
        sa.Column("visibility", sa.SmallInteger(), nullable=False),
        sa.Column("code_access", sa.SmallInteger(), nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.Column("avatar_url", _string(2048), nullable=False),
        sa.Column("avatar_source", sa.SmallInteger(), nullable=False),
        sa.Column("display_class", _string(128)),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("activity_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_run_number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("uuid"),
        sa.UniqueConstraint("workspace_id", "key"),
        sa.UniqueConstraint("workspace_id", "name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "workspace_members",
        sa.Column("workspace_id", _KEY, nullable=False),
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("role", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("workspace_id", "user_id"),
    )
    op.create_index("ix_workspace_members_user_id", "workspace_members", ["user_id"])
    op.create_table(
        "project_members",
        sa.Column("project_id", _KEY, nullable=False),
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("role", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "user_id"),
    )
    op.create_index("ix_project_members_user_id", "project_members", ["user_id"])
    op.create_table(
        "runs",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("uuid", _string(36), nullable=False),
        sa.Column("project_id", _KEY, nullable=False),
        sa.Column("run_id", _TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("experiment", _TEXT),
        sa.Column("family", _TEXT, nullable=False),
        sa.Column("requested_parent", _TEXT),
        sa.Column("requested_fork_step", sa.BigInteger()),
        sa.Column("parent_id", _KEY),
        sa.Column("fork_step", sa.BigInteger()),
        sa.Column("owner_id", _KEY, nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("trashed", sa.Boolean(), nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"]),
        sa.ForeignKeyConstraint(["parent_id"], ["runs.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "number"),
        sa.UniqueConstraint("project_id", "run_id"),
        sa.UniqueConstraint("uuid"),
    )
    op.create_index("ix_runs_parent_id", "runs", ["parent_id"])
    op.create_table(
        "attributes",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("run_id", _KEY, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("int_value", sa.BigInteger()),
        sa.Column("float_value", sa.Double()),
        sa.Column("text_value", _TEXT),
        sa.Column("mime_type", _TEXT),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("run_id", "name"),
    )
    op.create_table(
        "experiments",
        sa.Column("project_id", _KEY, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("head_id", _KEY, nullable=False),
        sa.ForeignKeyConstraint(["head_id"], ["runs.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "name"),
    )
    op.create_index("ix_experiments_head_id", "experiments", ["head_id"])
    op.create_table(
        "tails",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("run_id", _KEY, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_tails_run_id", "tails", ["run_id"])
    op.create_table(
        "chunks",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("attribute_id", _KEY, nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["attribute_id"], ["attributes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("chunks_by_step", "chunks", ["attribute_id", "first_step"])
    op.create_table(
        "previews",
        sa.Column("attribute_id", _KEY, nullable=False),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("completion_ratio", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["attribute_id"], ["attributes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("attribute_id", "step"),
    )
    op.create_table(
        "series",
        sa.Column("attribute_id", _KEY, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger()),
        sa.Column("last_step", sa.BigInteger()),
        sa.Column("last_timestamp", sa.BigInteger()),
        sa.Column("last_value", sa.Double()),
        sa.Column("last_payload", sa.LargeBinary()),
        sa.Column("finite_count", sa.BigInteger(), nullable=False),
        sa.Column("minimum", sa.Double()),
        sa.Column("maximum", sa.Double()),
        sa.Column("total", sa.Double(), nullable=False),
        sa.Column("deviations", sa.Double(), nullable=False),
        sa.Column("has_preview", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["attribute_id"], ["attributes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("attribute_id"),
    )
    if op.get_context().dialect.name == "postgresql":
        for table in ("chunks", "tails", "operations"):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN payload SET STORAGE EXTERNAL")
