"""Alerts that fire, and what is still to be told of them.

Revision: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("rule", sa.String(32), primary_key=True),
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("alert", sa.Text, nullable=False),
    )
    row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "alert_notices",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("wall_s", sa.Float, nullable=False),
        sa.Column("notice", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
