"""Alembic's entry: the ledger hands over its connection, inside its own transaction."""

from alembic import context

from worker.ledger.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
