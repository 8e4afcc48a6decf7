"""Alembic runs this for every command. The connection, and its transaction, belong to the caller (`upgrade`)."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
