"""Alembic runs this: migrate the connection that the caller holds, in the transaction that the caller began."""

from __future__ import annotations

from alembic import context

from edgectl.fleet.store.schema import META

context.configure(connection=context.config.attributes["connection"], target_metadata=META)
context.run_migrations()
