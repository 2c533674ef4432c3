"""Tables of the store, written once for every database.

Times are milliseconds since the epoch, steps are millionths ("micro-steps"), identifiers that users see are UUIDs in
text; integer keys stay inside the store. NaN is stored as NULL, because SQLite has no NaN. A change here needs a
migration in `migrations/versions`.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy
from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
    event,
)
from sqlalchemy.ext.compiler import compiles

from neptune_api.server.store.texts import String, Text

VERSION: Final = "0006"
"""The revision of `migrations/versions` that makes this schema."""

SHORT_TEXT: Final = 256
"""Characters of the longest text that searches find in an index."""

metadata: Final = MetaData()

# SQLite gives a rowid alias, and with it auto-increment, to INTEGER keys only.
_Key = BigInteger().with_variant(Integer(), "sqlite")

# The revision of the tables, where Alembic keeps it.
alembic_version: Final = Table(
    "alembic_version",
    metadata,
    Column("version_num", sqlalchemy.String(32), primary_key=True),
)


class _ShortText(Computed):
    """A generated column that takes no room in the table where the database can do that and index it."""


@compiles(_ShortText, "sqlite")
def _virtual(element: _ShortText, _compiler: object, **_options: object) -> str:
    return f"GENERATED ALWAYS AS ({element.sqltext}) VIRTUAL"


meta: Final = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

workspaces: Final = Table(
    "workspaces",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_ms", BigInteger, nullable=False),
)

users: Final = Table(
    "users",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("username", String(64), nullable=False, unique=True),
    Column("email", String(254), nullable=False, default=""),
    Column("first_name", String(128), nullable=False, default=""),
    Column("last_name", String(128), nullable=False, default=""),
    Column("created_ms", BigInteger, nullable=False),
    # Which of the user's API tokens is valid: revoking adds one.
    Column("token_generation", Integer, nullable=False, default=0),
    Column("has_logged_in", Boolean, nullable=False, default=False),
)

workspace_members: Final = Table(
    "workspace_members",
    metadata,
    Column("workspace_id", ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", SmallInteger, nullable=False),  # neptune_api.v1.WorkspaceRole
)

projects: Final = Table(
    "projects",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("workspace_id", ForeignKey("workspaces.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("key", String(10), nullable=False),
    Column("description", Text),
    Column("visibility", SmallInteger, nullable=False),  # neptune_api.v1.ProjectVisibility
    Column("code_access", SmallInteger, nullable=False),  # neptune_api.v1.ProjectCodeAccess
    Column("archived", Boolean, nullable=False, default=False),
    Column("avatar_url", String(2048), nullable=False, default=""),
    Column("avatar_source", SmallInteger, nullable=False),  # neptune_api.v1.AvatarSource
    Column("display_class", String(128)),
    Column("version", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("activity_ms", BigInteger, nullable=False),
    # Number of the next run's short id.
    Column("next_run_number", BigInteger, nullable=False, default=1),
    # How often runs of the project have changed; see the module `revisions`.
    Column("revision", BigInteger, nullable=False, default=0, server_default="0"),
    UniqueConstraint("workspace_id", "name"),
    UniqueConstraint("workspace_id", "key"),
    # An operation for a deleted project must not land in a new one.
    sqlite_autoincrement=True,
)

project_members: Final = Table(
    "project_members",
    metadata,
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("role", SmallInteger, nullable=False),  # neptune_api.v1.ProjectRole
)

runs: Final = Table(
    "runs",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("run_id", Text, nullable=False),  # sys/custom_run_id
    Column("number", BigInteger, nullable=False),  # of the short id
    Column("experiment", Text),  # sys/name
    Column("family", Text, nullable=False),
    # What the creation asked for, to tell a duplicate from a conflict.
    Column("requested_parent", Text),
    Column("requested_fork_step", BigInteger),
    # What became of it: no parent when it was missing or has been deleted.
    Column("parent_id", ForeignKey("runs.id", ondelete="SET NULL"), index=True),
    Column("fork_step", BigInteger),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("trashed", Boolean, nullable=False, default=False),
    Column("archived", Boolean, nullable=False, default=False),
    UniqueConstraint("project_id", "run_id"),
    UniqueConstraint("project_id", "number"),
)

# At which revision of its project a run was changed last, or deleted.
run_revisions: Final = Table(
    "run_revisions",
    metadata,
    Column("run_id", _Key, primary_key=True, autoincrement=False),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("run_revisions_by_project", "project_id", "revision"),
)

# The run that represents each experiment now: the one created last under its name.
experiments: Final = Table(
    "experiments",
    metadata,
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("head_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
)

attributes: Final = Table(
    "attributes",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("type", SmallInteger, nullable=False),  # neptune_api.v1.AttributeType
    Column("int_value", BigInteger),  # int; bool 0/1; datetime; size of a file
    Column("float_value", Double),  # float; NULL is NaN
    Column("text_value", Text),  # string; members of a set as sorted JSON; path of a file; state
    Column("mime_type", Text),  # of a file
    Column("project_id", BigInteger, nullable=False, server_default="0"),  # of the run
    # The text where it is short: what searches read. PostgreSQL cannot index long ones.
    Column("short_text", Text, _ShortText(f"CASE WHEN length(text_value) <= {SHORT_TEXT} THEN text_value END", True)),
    UniqueConstraint("run_id", "name"),
    # An attribute of all runs side by side: searches read this alone.
    Index("attributes_by_name", "project_id", "name", "type", "run_id", "int_value", "float_value", "short_text", "id"),
)

# One row per series: the summary of the points logged to the run itself. Inherited points are added when reading.
series: Final = Table(
    "series",
    metadata,
    Column("attribute_id", ForeignKey("attributes.id", ondelete="CASCADE"), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("first_step", BigInteger),  # least committed step; NULL while there are only previews
    Column("last_step", BigInteger),  # greatest committed step
    Column("last_timestamp", BigInteger),  # of the point logged last
    Column("last_value", Double),  # float series: value at last_step; NULL is NaN
    Column("last_payload", LargeBinary),  # other series: serialized neptune_api.v1.Value at last_step
    Column("finite_count", BigInteger, nullable=False),
    Column("minimum", Double),
    Column("maximum", Double),
    Column("total", Double, nullable=False),  # sum of the finite values
    Column("deviations", Double, nullable=False),  # sum of their squared distances from their mean
    Column("has_preview", Boolean, nullable=False, default=False),
)

# Committed points in columns; chunks of one series do not overlap in float and string series.
chunks: Final = Table(
    "chunks",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("attribute_id", ForeignKey("attributes.id", ondelete="CASCADE"), nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),  # CRC-32 of the payload
    Index("chunks_by_step", "attribute_id", "first_step"),
)

# Committed float points of a run that are not in chunks yet, as they came; see `tails`.
tails: Final = Table(
    "tails",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("count", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),  # CRC-32 of the payload
)

previews: Final = Table(
    "previews",
    metadata,
    Column("attribute_id", ForeignKey("attributes.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("value", Double),  # NULL is NaN
    Column("completion_ratio", Double, nullable=False),
)

# What operations of points share; see the module `layouts`.
layouts: Final = Table(
    "layouts",
    metadata,
    Column("key", String(32), primary_key=True),  # BLAKE2b of the region
    Column("region", LargeBinary, nullable=False),  # appends of a snapshot, with zeros for values
)

# The operation log: accepted, not yet applied.
operations: Final = Table(
    "operations",
    metadata,
    Column("sequence", _Key, primary_key=True),
    Column("request_id", String(64), nullable=False),
    # NULL: the project was unknown, or not visible to the user, when the operation was accepted.
    Column("project_id", BigInteger),
    Column("user_id", BigInteger, nullable=False),
    Column("accepted_ms", BigInteger, nullable=False),
    # What the payload is: 0 a serialized neptune_api.v1.RunOperation, 1 an AppendColumnsRequest, 2 a block.
    Column("kind", SmallInteger, nullable=False, server_default="0"),
    # Of a block.
    Column("layout_key", ForeignKey("layouts.key"), index=True),
    Column("payload", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

# What became of accepted operations.
requests: Final = Table(
    "requests",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("project_id", BigInteger, index=True),
    Column("user_id", BigInteger, nullable=False),
    # `<user>:<key>`: the same key of the same user is the same request.
    Column("idempotency_key", String(200), unique=True),
    # CRC-32 of the payload where the same key with another payload is an error; NULL elsewhere.
    Column("payload_checksum", BigInteger),
    Column("accepted_ms", BigInteger, nullable=False, index=True),
    Column("status", LargeBinary),  # serialized neptune_api.v1.RequestStatus; NULL while pending
    Column("details", LargeBinary),  # serialized neptune_api.v1.BulkIngestResultDetail; NULL when nothing was refused
)

# Which server process applies the operations of a project, when several share a database; see `leases`. Project 0
# stands for operations without one.
leases: Final = Table(
    "leases",
    metadata,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", BigInteger),  # NULL: nobody
)

# Columns of points are small as they are: compressing them once more costs time and gains little.
_UNCOMPRESSED: Final = DDL(  # type: ignore[no-untyped-call]  # SQLAlchemy has no types for it
    "ALTER TABLE %(table)s ALTER COLUMN payload SET STORAGE EXTERNAL"
)
for _table in (chunks, tails, operations):
    event.listen(
        _table,
        "after_create",
        _UNCOMPRESSED.execute_if(dialect="postgresql"),
    )
# Rows come and go by the thousand, and every batch looks at all that are left: their remains must not pile up.
_SWEPT: Final = DDL(  # type: ignore[no-untyped-call]  # as above
    "ALTER TABLE operations SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, "
    "toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000)"
)
event.listen(operations, "after_create", _SWEPT.execute_if(dialect="postgresql"))
