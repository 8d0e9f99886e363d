"""Alembic's entry: runs on the connection that `sync.central.migrate` hands over."""

from __future__ import annotations

from alembic import context

from sync.central.schema import Keyed

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Keyed.metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
