"""Room for what PostgreSQL measures and SQLite does not: a rollout's name is a slot's name and a number, and a
large fleet says more than 2³¹ things.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    op.alter_column("rollouts", "id", type_=sa.String(200), existing_type=sa.String(64))
    for table in ("events", "archive"):
        op.alter_column(table, "id", type_=sa.BigInteger, existing_type=sa.Integer)
