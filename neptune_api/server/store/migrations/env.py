"""What Alembic runs to reach the database: it is handed the connection, whose transaction is the caller's."""

from alembic import context

from neptune_api.server.store import schema

context.configure(connection=context.config.attributes["connection"], target_metadata=schema.metadata)
with context.begin_transaction():
    context.run_migrations()
